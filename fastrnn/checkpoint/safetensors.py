"""safetensors: the library checks the file, the arrays are views of our own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from ..errors import CheckpointError
from .dtypes import BY_SAFETENSORS, numpy_dtype
from .inert import shorten
from .limits import Limits
from .source import Source, format_of
from .views import Array, usable, view

Tensor = tuple[str, str, list[int], memoryview]  # name, type, shape, data
# The format allows a header of 100 MB, whose parsing would take gigabytes; 4 MB are some 40,000 tensors.
_HEADER_BYTES = 4  # for each operation that a pickle may have


def load_safetensors(source: Source, limits: Limits) -> dict[str, Array]:
    """The arrays by name, in alphabetical order; what `__metadata__` says is for `metadata`.

    Raises
    ------
    CheckpointError
        Anything is wrong with it.
    """
    header = int.from_bytes(source.data[:8], "little")
    if header > len(source.data) - 8:
        raise CheckpointError("the safetensors header is cut off")
    if header > _HEADER_BYTES * limits.max_ops:
        raise CheckpointError(f"the safetensors header of {header:,} bytes is too long for max_ops={limits.max_ops:,}")
    arrays = {}
    tensors = _mapped(source.path, source.data[8 + header :]) if source.path else _copied(source.data, limits)
    for name, code, shape, data in tensors:
        row = BY_SAFETENSORS.get(code)
        if row is None:
            raise CheckpointError(f"not supported: tensor {shorten(name)} of type {shorten(code)}")
        arrays[name] = view(usable(data, row, limits), numpy_dtype(row), tuple(shape), limits)
    _check_header(bytes(source.data[8 : 8 + header]))
    return dict(sorted(arrays.items()))


def _check_header(header: bytes) -> None:
    """Of two tensors of one name, readers differ in which they take; the library takes the last without a word."""

    def check_names(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) != len(pairs):
            raise CheckpointError("the safetensors header has one name twice")

    try:
        json.loads(header, object_pairs_hook=check_names, parse_int=float)  # float has no limit of digits
    except (RecursionError, ValueError) as error:  # the library does not look at fields that it does not know
        raise CheckpointError(f"the safetensors header cannot be read: {type(error).__name__}") from None


def metadata(source: Source) -> dict[str, str]:
    """What `__metadata__` says, in alphabetical order; nothing in a file of another format.

    Raises
    ------
    CheckpointError
        The header cannot be read.
    """
    if format_of(source.head) != "safetensors":
        return {}
    try:
        header = json.loads(bytes(source.data[8 : 8 + int.from_bytes(source.data[:8], "little")]))
        return {key: value for key, value in sorted(header.get("__metadata__", {}).items()) if type(value) is str}
    except (AttributeError, RecursionError, ValueError) as error:
        raise CheckpointError(f"the safetensors header cannot be read: {type(error).__name__}") from None


def _mapped(path: str, data: memoryview) -> Iterator[Tensor]:
    """The library gives names, types and shapes in the order of the data, in which it allows no gaps."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            heads = [(name, part.get_dtype(), part.get_shape()) for name, part in slices]
    except SafetensorError as error:
        raise CheckpointError(str(error)) from None
    start = 0
    for name, code, shape in heads:
        size = math.prod(shape) * numpy_dtype(BY_SAFETENSORS[code]).itemsize if code in BY_SAFETENSORS else 0
        yield name, code, shape, data[start : start + size]
        start += size
    if start != len(data):
        raise CheckpointError("the file changed while it was read")


def _copied(content: memoryview, limits: Limits) -> Iterator[Tensor]:
    """The library gives copies of what is in memory."""
    from safetensors import SafetensorError, deserialize

    limits.allocate(2 * len(content), "safetensors data")
    try:
        tensors = deserialize(bytes(content))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CheckpointError(str(error)) from None
    for name, tensor in tensors:
        yield name, tensor["dtype"], tensor["shape"], memoryview(tensor["data"]).toreadonly()
