"""One layer in one direction on SIMD lanes: the contract of `backends.Backend`, over the loops of this folder."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..backends import Record, flush_denormals
from ..cells import CellSpec, Weights
from . import gates as _gates  # noqa: F401  tells Numba what elementary functions are
from . import packing
from .backward import ROWS, SUMS, Back
from .backward import backward as backward_loop
from .forward import Run
from .forward import forward as forward_loop
from .cell import Compiled, Tag, compiled
from .lanes import BYTES
from .tile import COLUMNS

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
    tag = Tag(spec, dtype, BYTES // dtype.itemsize)
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
    forward_loop(prepared.tag, np.array(run))


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
    memory[parts[-2] : parts[-1]] = 0
    at = _address(memory)
    run = Run(
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


class BackwardWeights(NamedTuple):
    tag: Tag
    c: Compiled
    I: int
    H: int
    P: int
    w_ih: Array  # (panels of I, G*H, COLUMNS, VL)
    w_hh: Array | None
    w_hr: Array | None
    unit: Array | None  # (U, ldu)
    fields: list[str]


def prepare_backward(spec: CellSpec, weights: Weights) -> BackwardWeights:
    """See `backends.Backend.prepare_backward`."""
    dtype = weights.w_ih.dtype
    tag = Tag(spec, dtype, BYTES // dtype.itemsize)
    c = compiled(tag.type)

    def columns(w: Array | None) -> Array | None:
        return None if w is None else packing.columns(w, c.VL, COLUMNS)

    H = len(weights.w_ih) // c.G
    w_ih = columns(weights.w_ih)
    assert w_ih is not None
    P = 0 if weights.w_hr is None else len(weights.w_hr)
    unit = None
    if weights.unit is not None:
        unit = packing.aligned((c.U, _stride(H, c.VL, dtype.itemsize)), dtype)
        unit[...] = 0
        unit[:, :H] = weights.unit
    fields = [name for name, w in weights._asdict().items() if w is not None]
    return BackwardWeights(tag, c, weights.w_ih.shape[1], H, P, w_ih, columns(weights.w_hh), columns(weights.w_hr), unit, fields)


def gates_width(prepared: BackwardWeights) -> int:
    """See `backends.Backend.gates_width`."""
    c = prepared.c
    return -(-prepared.H // c.VL) * c.VL * c.G * (1 if c.sums_only else 2)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """See `backends.Backend.empty`."""
    return np.empty(shape, dtype)


class Sums(NamedTuple):
    dw_ih: Array
    dw_hh: Array
    dw_hr: Array
    db: Array
    of: BackwardWeights


def _stride(n: int, VL: int, size: int) -> int:
    """Numbers from row to row of n of them: whole panels, and not such that rows fall on the same lines of the cache."""
    whole = -(-n // (COLUMNS * VL)) * COLUMNS * VL
    return whole + VL if whole * size % 2048 == 0 else whole


def _dg_columns(p: BackwardWeights) -> int:
    return p.H * (p.c.G * (1 if p.c.sums_only else 2) + p.c.U)


def new_sums(prepared: BackwardWeights) -> Sums:
    """See `backends.Backend.new_sums`."""
    p, dtype = prepared, prepared.tag.dtype
    VL, size = p.c.VL, dtype.itemsize
    H_out = p.P or p.H
    return Sums(
        np.zeros((p.c.G * p.H, _stride(p.I, VL, size)), dtype),
        np.zeros((p.c.G * p.H if p.c.recurrent else 0, _stride(H_out, VL, size)), dtype),
        np.zeros((p.P, _stride(p.H, VL, size)), dtype),
        np.zeros(_stride(_dg_columns(p), VL, size), dtype),
        p,
    )


def weight_gradients(sums: Sums) -> Weights:
    """See `backends.Backend.weight_gradients`."""
    p = sums.of
    GH, H_out = p.c.G * p.H, p.P or p.H
    second = 0 if p.c.sums_only else GH
    found = {
        "w_ih": sums.dw_ih[:, : p.I],
        "w_hh": sums.dw_hh[:, :H_out],
        "b_ih": sums.db[:GH],
        "b_hh": sums.db[second : second + GH],
        "w_hr": sums.dw_hr[:, : p.H],
        "unit": sums.db[second + GH :][: p.c.U * p.H].reshape(p.c.U, p.H),
    }
    return Weights(**{name: found[name].copy() for name in p.fields})


def backward(
    prepared: BackwardWeights,
    record: Record,
    dy: Array | None,
    dh: Array,
    dc: Array | None,
    dx: Array | None,
    sums: Sums | None,
) -> None:
    """See `backends.Backend.backward`."""
    p, r, c = prepared, record, prepared.c
    T, N, I = r.x.shape
    size, VL = r.x.itemsize, c.VL
    H_out = p.P or p.H
    ldg, ldh, ldu, ldx = (_stride(n, VL, size) for n in (_dg_columns(p), H_out, p.H, p.I))
    steps = 1
    while 2 * steps <= min(CHUNK_STEPS, _BACKWARD_ROWS // max(N, 1)) and steps < T:
        steps *= 2
    chunks = -(-T // steps)
    more, R = c.S - 1, steps * N
    s = _Scratch()
    shared = [s.take(n * size) for n in (
        R * ldg, R * ldh, R * ldx, N * ldh, N * more * ldu, R * ldh * (p.P > 0), R * ldu * (p.P > 0), max(ldh, ldu, ldx))]
    own = [s.take(n) for n in (R * 8, (steps + 1) * 8, more * ldu * size, N * ldu * size * (p.P > 0), R * ldx * size)]
    memory = packing.aligned((s.bytes,), np.dtype(np.uint8))
    at = _address(memory)
    memory[shared[-1] : shared[-1] + max(ldh, ldu, ldx) * size] = 0
    a = Back(
        T, N, I, p.H, p.P,
        _address(r.x), *r.x.strides[:2],
        _address(r.y), *r.y.strides[:2],
        _address(r.h_0), r.h_0.strides[0],
        _address(r.c_0), 0 if r.c_0 is None else r.c_0.strides[0],
        _address(r.lengths),
        _address(r.reset), *((0, 0) if r.reset is None else r.reset.strides),
        _address(r.c_all), *((0, 0) if r.c_all is None else r.c_all.strides[:2]),
        _address(r.gates), *((0, 0) if r.gates is None else r.gates.strides[:2]),
        _address(dy), *((0, 0) if dy is None else dy.strides[:2]),
        _address(dx), *((0, 0) if dx is None else dx.strides[:2]),
        _address(dh), dh.strides[0],
        _address(dc), 0 if dc is None else dc.strides[0],
        int(r.reverse), int(flush_denormals()),
        _address(p.w_ih), _address(p.w_hh), _address(p.w_hr), _address(p.unit),
        int(sums is not None), *((0, 0, 0, 0) if sums is None else (_address(x) for x in sums[:4])),
        steps, ldg, ldh, ldu, ldx, *(at + q for q in shared),
        0, chunks, 0, N, 0, 1, ROWS | SUMS, *(at + q for q in own),
    )  # fmt: skip
    if N:
        backward_loop(p.tag, np.array(a))


_BACKWARD_ROWS = 320
