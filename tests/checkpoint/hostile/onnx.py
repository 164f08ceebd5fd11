"""ONNX files, in the groups of the attack list."""

from __future__ import annotations

import numpy as np
from onnx_tools import field, graph, model, node, tensor, varint

FLOATS, INT32S, INT64S = 4, 5, 7  # where a tensor has its numbers


#: A whole model, in order.
SMALL = model(
    [node("Relu", ["a"], ["b"], "r", axis=1, scale=2.5, mode="x", sizes=[1, 2])],
    [
        tensor("a", np.arange(6, dtype=np.float32).reshape(2, 3)),
        tensor("i", dims=(2,), code=7, data=field(INT64S, varint(-1) + varint(300))),
        tensor("b", np.array([True, False])),
        tensor("h", dims=(3,), code=22, data=field(9, b"\x21\x03")),
        tensor("s", dims=(1,), code=8, data=field(6, "ü")),
    ],
)


def _nested(depth):
    """A node whose body has a node with a body, and so on."""
    inner = node("Relu", ["a"], ["b"])
    for _ in range(depth):
        inner = node("If", ["a"], ["b"], then=("g", graph([inner])))
    return inner


def one(**options):
    return model(tensors=[tensor("a", **({"dims": (1,), "code": 1, "data": field(9, bytes(4))} | options))])


EXTERNAL = field(13, field(1, "location") + field(2, "../../weights.bin")) + field(14, 1)
SPARSE = field(1, 8) + field(2, "x") + field(7, graph() + field(15, field(3, 2)))
_REFUSED = {
    "no graph": (field(1, 8) + field(2, "x"), "one graph"),
    "two graphs": (model() + field(7, graph()), "one graph"),
    "graph that is a number": (field(1, 8) + field(7, 3), "not a checkpoint"),
    "external": (one(data=EXTERNAL), "in another file.*onnx.save"),
    "external said only": (one(data=field(9, bytes(4)) + field(14, 1)), "in another file"),
    "external, not said": (one(data=field(9, bytes(4)) + field(13, b"")), "in another file"),
    "segment": (one(data=field(3, b"")), "segments"),
    "sparse": (SPARSE, "sparse"),
    "same name": (model(tensors=[tensor("a", np.ones(1)), tensor("a", np.ones(1))]), "two initializers"),
    "no type": (one(code=0), "elements of type 0"),
    "new type": (one(code=99), "elements of type 99"),
    "too little": (one(dims=(2,)), "4 bytes of data"),
    "too much": (one(data=field(9, bytes(8))), "8 bytes of data"),
    "no data": (one(data=b""), "0 bytes of data"),
    "twice": (one(data=field(9, bytes(4)) + field(FLOATS, 1.0)), "twice"),
    "other field": (one(data=field(INT32S, 1)), "another type"),
    "negative": (one(dims=(-1,)), "shape"),
    "overflow": (one(dims=(1 << 62, 8)), "4 bytes of data"),
    "empty with a huge side": (one(dims=(0, 1 << 62), data=b""), "too much"),
    "65 dimensions": (one(dims=(1,) * 65), "65 dimensions"),
    "many dimensions": (one(dims=(), data=field(1, b"\1" * 1000) + field(9, bytes(4))), "dimensions"),
    "bool": (one(code=9, data=field(9, b"\2")), "bool"),
    "words": (one(code=8, data=field(6, "a") + field(6, "b")), "2 strings"),
    "not UTF-8": (one(code=8, data=field(6, b"\xff")), "UTF-8"),
    "ends in zero": (one(code=8, data=field(6, b"a\0")), "zero"),
    "name": (model(tensors=[field(8, b"\xff")]), "UTF-8"),
    "long integer": (one(code=7, data=field(INT64S, b"\xff" * 10 + b"\1")), "64 bits"),
    "cut-off integer": (one(code=7, data=field(INT64S, b"\xff")), "bytes of data|cut off"),
    "group": (model(more=varint(9 << 3 | 3)), "wire type 3"),
    "tag of 70 bits": (model(more=b"\xff" * 10 + b"\1"), "64 bits"),
    "integer of 65 bits": (model(more=varint(15 << 3) + b"\xff" * 9 + b"\2"), "64 bits"),
    "cut off in a field": (model()[:-1], "cut off"),
    "field longer than its message": (model(tensors=[varint(8 << 3 | 2) + varint(5) + b"abc"]), "cut off"),
    "bytes for a number": (model(tensors=[field(2, b"abc")]), "integer belongs"),
    "a number for bytes": (model(tensors=[field(8, 3)]), "bytes belong"),
}

_OUTSIDE = ("external", "external said only", "external, not said", "segment")
_BROKEN = (
    *("no graph", "two graphs", "graph that is a number", "cut-off integer", "group", "tag of 70 bits"),
    *("integer of 65 bits", "cut off in a field", "field longer than its message", "bytes for a number"),
    *("a number for bytes", "not UTF-8", "name", "words", "ends in zero"),
)


def _chosen(names):
    return {f"onnx: {name}": _REFUSED[name] for name in names}


ARCHIVES, BROKEN, ODD = _chosen(_OUTSIDE), _chosen(_BROKEN), _chosen(("bool",))
LAYOUTS = _chosen(name for name in _REFUSED if f"onnx: {name}" not in ARCHIVES | BROKEN | ODD)
RESOURCES = {
    "onnx: fields": (model(more=field(15, 0) * 2_000_000), "max_ops"),
    "onnx: graphs in graphs": (model(nodes=[_nested(2000)]), None),
    "onnx: strings that have room for the longest": (
        one(dims=(600_001,), code=8, data=field(6, "x" * 10_000) + field(6, "") * 600_000),
        "max_bytes",
    ),
}
