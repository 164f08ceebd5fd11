"""ONNX files: the arrays that a graph begins with, and its nodes. Nothing beside the file is ever opened."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import CheckpointError
from .dtypes import BY_NUMPY, numpy_dtype
from .inert import shorten
from .limits import Limits
from .protobuf import VALUE_BYTES, Wire, content, integer, packed, text
from .source import Source
from .views import Array, check_size, usable, view

# Numbers of fields in onnx.proto
_MODEL_GRAPH, _MODEL_FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = 1, 5, 15
_FUNCTION_NAME, _FUNCTION_NODE = 1, 7
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 1, 2, 3, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_TYPE = 1, 20
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_SEGMENT, _TENSOR_STRINGS, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 3, 6, 8, 9
_TENSOR_EXTERNAL, _TENSOR_LOCATION = 13, 14
_FLOATS, _INT32S, _INT64S, _DOUBLES, _UINT64S = 4, 5, 7, 10, 11
_STRING = 8

#: Element type -> NumPy's name and the field that holds the numbers where they are not raw.
_TYPES = {
    1: ("float32", _FLOATS),
    2: ("uint8", _INT32S),
    3: ("int8", _INT32S),
    4: ("uint16", _INT32S),
    5: ("int16", _INT32S),
    6: ("int32", _INT32S),
    7: ("int64", _INT64S),
    9: ("bool", _INT32S),
    10: ("float16", _INT32S),
    11: ("float64", _DOUBLES),
    12: ("uint32", _UINT64S),
    13: ("uint64", _UINT64S),
    14: ("complex64", _FLOATS),
    15: ("complex128", _DOUBLES),
    16: ("bfloat16", _INT32S),
    17: ("float8_e4m3fn", _INT32S),
    18: ("float8_e4m3fnuz", _INT32S),
    19: ("float8_e5m2", _INT32S),
    20: ("float8_e5m2fnuz", _INT32S),
    21: ("uint4", _INT32S),
    22: ("int4", _INT32S),
    23: ("float4_e2m1fn", _INT32S),
    24: ("float8_e8m0fnu", _INT32S),
    25: ("uint2", _INT32S),
    26: ("int2", _INT32S),
    27: ("float6_e2m3fn", _INT32S),
    28: ("float6_e3m2fn", _INT32S),
}
_BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2, "float6_e2m3fn": 6, "float6_e3m2fn": 6}
_OBJECT_BYTES = 512  # of what comes with a tensor or a node: names, dict entries, views


class Node(NamedTuple):
    """One operation; `attributes` are read by `attributes_of`."""

    op_type: str
    name: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: list[memoryview]


def load_onnx(source: Source, limits: Limits) -> dict[str, Array]:
    """The initializers by name, in the order of the file.

    Raises
    ------
    CheckpointError
        Anything is wrong with the file; or an initializer is sparse, in another file, or of an unknown type.
    """
    wire = Wire(limits)
    arrays = {}
    for name, message in initializers(graph_of(source.data, wire), wire).items():
        arrays[name] = read_tensor(message, wire)
    return arrays


def graph_of(data: memoryview, wire: Wire) -> memoryview:
    """The main graph of a model."""
    graphs = [content(value) for number, value in wire.fields(data) if number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise CheckpointError(f"not an ONNX model, which has one graph and not {len(graphs)}")
    return graphs[0]


def functions_of(data: memoryview, wire: Wire) -> Iterator[tuple[str, list[Node]]]:
    """Names and nodes of a model's own functions."""
    for number, value in wire.fields(data):
        if number == _MODEL_FUNCTION:
            body = wire.all_fields(content(value))
            yield _name(body, _FUNCTION_NAME, wire), [_node(content(m), wire) for m in body.get(_FUNCTION_NODE, [])]


def initializers(graph: memoryview, wire: Wire) -> dict[str, memoryview]:
    """The tensors that a graph begins with by name, not read yet."""
    found: dict[str, memoryview] = {}
    for number, value in wire.fields(graph):
        if number == _GRAPH_SPARSE:
            raise CheckpointError("not supported: a sparse tensor among the initializers")
        if number == _GRAPH_INITIALIZER:
            message = content(value)
            names = [text(part, wire.limits) for n, part in wire.fields(message) if n == _TENSOR_NAME]
            name = (names or [""])[-1]
            if name in found:
                raise CheckpointError(f"two initializers have the name {shorten(name)!r}")
            wire.limits.allocate(_OBJECT_BYTES, "a tensor")
            found[name] = message
    return found


def nodes(graph: memoryview, wire: Wire) -> list[Node]:
    """The nodes of a graph, not of graphs inside them."""
    return [_node(content(value), wire) for number, value in wire.fields(graph) if number == _GRAPH_NODE]


def _node(message: memoryview, wire: Wire) -> Node:
    wire.limits.allocate(_OBJECT_BYTES, "a node")
    words: dict[int, list[str]] = {_NODE_INPUT: [], _NODE_OUTPUT: [], _NODE_NAME: [], _NODE_TYPE: [], _NODE_DOMAIN: []}
    attributes = []
    for number, value in wire.fields(message):
        if number in words:
            words[number].append(text(value, wire.limits))
        elif number == _NODE_ATTRIBUTE:
            wire.limits.allocate(VALUE_BYTES, "an attribute")
            attributes.append(content(value))
    op_type, name, domain = ((words[n] or [""])[-1] for n in (_NODE_TYPE, _NODE_NAME, _NODE_DOMAIN))
    return Node(op_type, name, domain, words[_NODE_INPUT], words[_NODE_OUTPUT], attributes)


# ---- attributes -----------------------------------------------------------------------------------------------------

#: Type of an attribute -> the field that holds it, and whether it is a list.
_KINDS = {
    1: (2, False),  # float
    2: (3, False),  # int
    3: (4, False),  # string
    4: (5, False),  # tensor
    5: (6, False),  # graph
    6: (7, True),
    7: (8, True),
    8: (9, True),
    9: (10, True),
    10: (11, True),
}
_OMITTED: dict[int, Any] = {1: 0.0, 2: 0, 3: ""}  # some writers leave out what is zero


def attributes_of(node: Node, wire: Wire) -> dict[str, Any]:
    """Attributes by name: numbers, strings, lists of them; tensors and graphs as bytes, not read yet."""
    found: dict[str, Any] = {}
    for message in node.attributes:
        parts = wire.all_fields(message)
        name = _name(parts, _ATTRIBUTE_NAME, wire)
        kinds = [integer(value) for value in parts.get(_ATTRIBUTE_TYPE, [])]
        kinds = kinds or [kind for kind, (field, _) in _KINDS.items() if field in parts]
        if name in found or not kinds or kinds[-1] not in _KINDS:
            raise CheckpointError(f"attribute {shorten(name)!r} is there twice or of no known type")
        field, repeated = _KINDS[kinds[-1]]
        kind = kinds[-1] - 5 if repeated else kinds[-1]
        values = [item for value in parts.get(field, []) for item in _items(kind, value, wire)]
        if not repeated and not values and kind not in _OMITTED:
            raise CheckpointError(f"attribute {shorten(name)!r} has no value")
        found[name] = values if repeated else values[-1] if values else _OMITTED[kind]
    return found


def graphs_in(node: Node, wire: Wire) -> Iterator[memoryview]:
    """The graphs among a node's attributes: bodies of loops and branches."""
    for message in node.attributes:
        for number, value in wire.fields(message):
            if number in (_KINDS[5][0], _KINDS[10][0]):
                yield content(value)


def _items(kind: int, value: int | memoryview, wire: Wire) -> list[Any]:
    """What one field holds: one value, or many numbers."""
    if kind > 2:
        return [text(value, wire.limits) if kind == 3 else content(value)]
    if kind == 2:
        many = packed([value], np.dtype(np.int64), wire.limits)
    else:
        raw = content(value)
        many = np.frombuffer(raw[: len(raw) // 4 * 4], "<f4")
    wire.limits.allocate(32 * len(many), "an attribute")
    return list(many.tolist())


def _name(parts: dict[int, list[int | memoryview]], field: int, wire: Wire) -> str:
    return text(parts[field][-1], wire.limits) if field in parts else ""


# ---- tensors --------------------------------------------------------------------------------------------------------


def read_tensor(message: memoryview, wire: Wire) -> Array:
    """A TensorProto as a read-only array, a view of the file where its bytes are there as they are.

    Raises
    ------
    CheckpointError
        The message names the tensor.
    """
    parts = wire.all_fields(message)
    name = _name(parts, _TENSOR_NAME, wire)
    try:
        return _array(parts, wire.limits)
    except CheckpointError as error:
        raise CheckpointError(f"tensor {shorten(name)!r}: {error}") from None


def _array(parts: dict[int, list[int | memoryview]], limits: Limits) -> Array:
    if _TENSOR_EXTERNAL in parts or integer(parts.get(_TENSOR_LOCATION, [0])[-1]) != 0:
        raise CheckpointError(
            "its data is in another file, which is never opened; onnx.save(onnx.load(path), new_path) puts all data "
            "into one file"
        )
    if _TENSOR_SEGMENT in parts:
        raise CheckpointError("not supported: a tensor in segments")
    dims = packed(parts.get(_TENSOR_DIMS, []), np.dtype(np.int64), limits)
    shape = tuple(dims[:100].tolist())  # `check_size` refuses so many
    if any(n < 0 for n in shape):
        raise CheckpointError(f"its shape is {shape}")
    code = integer(parts.get(_TENSOR_TYPE, [0])[-1])
    if code == _STRING:
        return _strings(parts, shape, limits)
    numpy_name, typed = _TYPES.get(code, ("", 0))
    dtype = _dtype(numpy_name)
    if dtype is None:
        raise CheckpointError(f"not supported: elements of type {code}")
    _only(parts, {_TENSOR_RAW, typed})
    if _TENSOR_RAW in parts and typed in parts and any(not isinstance(p, memoryview) or len(p) for p in parts[typed]):
        raise CheckpointError("its data is there twice")
    bits = _BITS.get(numpy_name, 8 * dtype.itemsize)
    if _TENSOR_RAW in parts or typed in (_FLOATS, _DOUBLES):
        chunks = [content(part) for part in parts.get(_TENSOR_RAW, parts.get(typed, []))]
        if len(chunks) > 1:
            limits.allocate(sum(map(len, chunks)), "data in several pieces")
        data = chunks[0] if len(chunks) == 1 else memoryview(b"".join(chunks))
    else:
        numbers = packed(parts.get(typed, []), np.dtype(f"u{max(8, bits) // 8}"), limits)
        if bits == 6:  # here they have a byte each
            numbers, bits = numbers & 63, 8
        data = numbers.view(np.uint8).data
    if len(data) != -(-math.prod(shape) * bits // 8):
        raise CheckpointError(f"it has {len(data):,} bytes of data, which is not what shape {shape} needs")
    if bits < 8:
        data = _unpacked(data, math.prod(shape), bits, limits)
    elif numpy_name in BY_NUMPY:
        swap = sys.byteorder == "big" and (_TENSOR_RAW in parts or typed in (_FLOATS, _DOUBLES))
        data = usable(data, BY_NUMPY[numpy_name], limits, swap=swap)
    return view(data, dtype, shape, limits)


def _only(parts: dict[int, list[int | memoryview]], allowed: set[int]) -> None:
    if {_FLOATS, _INT32S, _TENSOR_STRINGS, _INT64S, _TENSOR_RAW, _DOUBLES, _UINT64S} & parts.keys() - allowed:
        raise CheckpointError("its data is in the field of another type")


def _dtype(name: str) -> np.dtype[Any] | None:
    if name in BY_NUMPY:
        return numpy_dtype(BY_NUMPY[name])
    import ml_dtypes  # noqa: F401 (gives NumPy the names of small types)

    try:
        return np.dtype(name) if name else None
    except TypeError:  # an older version knows fewer
        return None


def _unpacked(data: memoryview, count: int, bits: int, limits: Limits) -> memoryview:
    """A byte for each number of `bits` bits; the first ones are the lowest bits of the first byte."""
    limits.allocate(count * (bits + 1), "unpacked numbers")
    each = np.unpackbits(np.frombuffer(data, np.uint8), count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(each, axis=1, bitorder="little").ravel().data.toreadonly()


def _strings(parts: dict[int, list[int | memoryview]], shape: tuple[int, ...], limits: Limits) -> Array:
    _only(parts, {_TENSOR_STRINGS})
    raw = [content(part) for part in parts.get(_TENSOR_STRINGS, [])]
    longest = max(map(len, raw), default=0)
    if len(raw) != math.prod(shape):
        raise CheckpointError(f"it has {len(raw):,} strings, which is not what shape {shape} needs")
    dtype = np.dtype(f"U{max(1, longest)}")  # with room for the longest in each place
    check_size(shape, dtype, 0, limits)
    limits.allocate(len(raw) * (dtype.itemsize + 64), "text")
    words = [text(part, limits) for part in raw]
    if any(word.endswith("\0") for word in words):
        raise CheckpointError("a string ends in a zero, which NumPy would drop")
    array = np.array(words, dtype).reshape(shape)
    array.flags.writeable = False
    return array
