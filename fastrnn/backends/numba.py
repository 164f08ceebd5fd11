"""The loops of `fastrnn.jit`, compiled by Numba: for torch's cells and for users' own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import threads
from ..cells import CellSpec, Weights
from ..jit import forward as loops
from ..jit import packing
from ..jit.cell import Compiled, Tag, compiled
from ..jit.tile import COLUMNS
from . import Record, flush_denormals

Array = NDArray[Any]

CHUNK_STEPS = 128
_CHUNK_BYTES = 256 << 10  # of gx: it stays in the second-level cache


class Prepared(NamedTuple):
    tag: Tag
    c: Compiled
    I: int
    H: int
    P: int
    w_ih: Array  # (panels, I, width, VL)
    w_hh: Array | None
    w_hr: Array | None
    b_ih: Array  # (panels, width, VL)
    b_hh: Array
    unit: Array | None  # (U, units)


def prepare(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare`."""
    dtype = weights.w_ih.dtype
    tag = Tag(spec, dtype)
    c = compiled(tag.type)
    G, VL, width = c.G, c.VL, c.width

    def gates(w: Array | None) -> Array | None:
        return None if w is None else packing.gate_weights(w, G, VL, width)

    def bias(b: Array | None) -> Array:
        zeros = np.zeros(len(weights.w_ih), dtype) if b is None else b
        return packing.line_aligned(packing.gate_vectors(zeros, G, VL, width))

    w_ih = gates(weights.w_ih)
    assert w_ih is not None
    H = len(weights.w_ih) // G
    unit = None
    if weights.unit is not None:
        unit = packing.aligned((c.U, -(-H // VL) * VL), dtype)
        unit[...] = 0
        unit[:, :H] = weights.unit
    w_hr = None if weights.w_hr is None else packing.gate_weights(weights.w_hr, 1, VL, COLUMNS)
    P = 0 if weights.w_hr is None else len(weights.w_hr)
    return Prepared(tag, c, weights.w_ih.shape[1], H, P, w_ih, gates(weights.w_hh), w_hr, bias(weights.b_ih),
                    bias(weights.b_hh), unit)


class _Scratch:
    """Lays arrays out one after the other in one block of memory, each from a line of the cache on."""

    def __init__(self) -> None:
        self.bytes = 0

    def take(self, n: int) -> int:
        at, self.bytes = self.bytes, self.bytes + (-(-n // 64) * 64)
        return at


def _address(a: Array | None) -> int:
    return 0 if a is None else a.__array_interface__["data"][0]


def forward(
    prepared: Prepared,
    x: Array,
    y: Array,
    h: Array,
    c: Array | None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    c_all: Array | None = None,
    gates: Array | None = None,
) -> None:
    """See `backends.Backend.forward`."""
    run, memory = _run(prepared, x, y, h, c, lengths, reset, reverse, c_all, gates)
    loops.forward(prepared.tag, np.array(run))


def _run(p, x, y, h, c, lengths, reset, reverse, c_all, gates):
    T, N, I = x.shape
    size, w = x.itemsize, p.c
    whole = w.width * w.VL
    ldg = len(p.b_ih) * whole
    ldu = -(-p.H // w.VL) * w.VL
    ldh = max(ldu, -(-p.P // (COLUMNS * w.VL)) * COLUMNS * w.VL)
    rows = max(min(_CHUNK_BYTES // (ldg * size), 256), 24)
    steps = max(1, min(rows // max(N, 1), T))
    s = _Scratch()
    take = s.take
    parts = [
        take(steps * N * ldg * size),
        take(N * ldg * size),
        take(2 * N * ldh * size),
        take(N * (w.S - 1) * ldu * size),
        take(N * ldu * size if p.P else 0),
        take(steps * N * 8),
        take(2 * N * 8),
        take(N * 8),
        take(ldh * size if p.P else 0),
        take((steps + 1) * 8),
    ]
    memory = packing.aligned((s.bytes,), np.dtype(np.uint8))
    at = _address(memory)
    run = loops.Run(
        T, N, I, p.H, p.P,
        _address(x), x.strides[0], x.strides[1],
        _address(y), y.strides[0], y.strides[1],
        _address(h), h.strides[0],
        _address(c), 0 if c is None else c.strides[0],
        _address(lengths),
        _address(reset), *((0, 0) if reset is None else reset.strides),
        _address(c_all), *((0, 0) if c_all is None else c_all.strides[:2]),
        _address(gates), *((0, 0) if gates is None else gates.strides[:2]),
        int(reverse), int(flush_denormals()),
        _address(p.w_ih), _address(p.w_hh), _address(p.w_hr), _address(p.b_ih), _address(p.b_hh), _address(p.unit),
        steps, ldg, ldh, ldu,
        *(at + part for part in parts),
    )  # fmt: skip
    return run, memory
