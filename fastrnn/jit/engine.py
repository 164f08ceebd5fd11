"""One layer in one direction on SIMD lanes: the contract of `backends.Backend`, over the loops of this folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import threads
from .._memory import Memory, locate
from ..backends import Record, flush_denormals
from ..backends.rows import cut, deal
from ..cells import CellSpec, Weights
from ..memory import aligned
from ..memory import empty as empty
from . import backward_loop as _backward
from . import forward_loop as _forward
from . import gates as _gates  # noqa: F401  tells Numba what the functions in bodies are
from . import packing
from .cell import Compiled, Tag, cell_tag, compiled
from .lanes import BYTES
from .tile import COLUMNS

Array = NDArray[Any]

#: Chunks of `backward` begin at multiples of this, or at multiples of a power of two below it.
CHUNK_STEPS = 128
_BACKWARD_ROWS = 320  # of a chunk there, where that is so many steps
_FORWARD_ROWS = 192  # of a chunk of gx
_FORWARD_BYTES = 256 << 10  # it stays in the second-level cache
LONG = max(CHUNK_STEPS, _FORWARD_ROWS)  # steps: with more, chunks stay the same
_PAYS = 2_000_000  # multiply-adds that are worth a thread


class Prepared(NamedTuple):
    """The weights of one layer in one direction, as the loops want them."""

    tag: Tag
    c: Compiled
    I: int
    H: int
    P: int
    arrays: tuple[Array | None, ...]  # what the addresses are of
    addresses: tuple[int, ...]
    fields: list[str]  # of Weights that there are
    ready: dict[tuple[int, int], list[tuple[NDArray[np.intp], Memory]]]  # what `forward` made for T and N, to use again

    @property
    def work(self) -> int:
        """Multiply-adds of a step and row."""
        H_out = self.P or self.H
        return self.c.G * self.H * (self.I + H_out * self.c.recurrent) + self.P * self.H


def _packed(spec: CellSpec, weights: Weights, pack: Any) -> Prepared:
    dtype = weights.w_ih.dtype
    tag = cell_tag(spec, dtype, BYTES // dtype.itemsize)
    c = compiled(tag.type)
    H, P = len(weights.w_ih) // c.G, 0 if weights.w_hr is None else len(weights.w_hr)
    unit = None
    if weights.unit is not None:
        unit = aligned((c.U, _stride(H, c.VL, dtype.itemsize)), dtype)
        unit[...] = 0
        unit[:, :H] = weights.unit
    arrays = (*pack(c, weights), unit)
    fields = [name for name, w in weights._asdict().items() if w is not None]
    return Prepared(tag, c, weights.w_ih.shape[1], H, P, arrays, _addresses(arrays), fields, {})


def _addresses(arrays: tuple[Array | None, ...]) -> tuple[int, ...]:
    places = np.empty(3 * len(arrays), np.intp)
    locate(places, arrays)
    return tuple(int(at) for at in places[::3])


@cache
def _stride(n: int, VL: int, size: int) -> int:
    """Numbers from row to row of n of them: whole panels, and not such that rows share lines of the cache."""
    whole = -(-n // (COLUMNS * VL)) * COLUMNS * VL
    return whole + VL if whole * size % 2048 == 0 else whole


def _places(sizes: Sequence[int]) -> tuple[tuple[int, ...], int]:
    """Where parts of so many bytes begin in one block of memory, each with a line of the cache; its size."""
    places, at = [], 0
    for size in sizes:
        places.append(at)
        at += -(-size // 64) * 64
    return tuple(places), at


# ---- forward ------------------------------------------------------------------------------------------------------


def prepare(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare`."""

    def pack(c: Compiled, w: Weights) -> tuple[Array | None, ...]:
        def gates(a: Array | None) -> Array | None:
            return None if a is None else packing.gate_weights(a, c.G, c.VL, c.width)

        def bias(b: Array | None) -> Array:
            return packing.gate_bias(np.zeros(len(w.w_ih), w.w_ih.dtype) if b is None else b, c.G, c.VL, c.width)

        w_hr = None if w.w_hr is None else packing.gate_weights(w.w_hr, 1, c.VL, COLUMNS)
        return gates(w.w_ih), gates(w.w_hh), w_hr, bias(w.b_ih), bias(w.b_hh)

    return _packed(spec, weights, pack)


@lru_cache(256)
def _forward_layout(p: tuple[int, ...], T: int, N: int) -> tuple[tuple[int, ...], tuple[int, ...], int, slice]:
    """Sizes and places of the scratch memory, its bytes, and the part of it that has to be zeros."""
    G, S, width, VL, size, H, P = p
    blocks = -(-H // VL)
    ldg = -(-blocks * G // width) * width * VL
    ldu = _stride(H, VL, size)
    ldh = max(ldu, _stride(P, VL, size))
    rows = max(min(_FORWARD_BYTES // (ldg * size), _FORWARD_ROWS), 24)
    steps = max(1, min(rows // N, T))
    numbers = (steps * N * ldg, N * ldg, 2 * N * ldh, N * (S - 1) * ldu, N * ldu * (P > 0))
    others = (8 * steps * N, 8 * 2 * N, 8 * N, ldh * size, 8 * (steps + 1))
    places, total = _places([*(n * size for n in numbers), *others])
    return (steps, ldg, ldh, ldu), places, total, slice(places[8], places[9])


_T, _REVERSE, _FLUSH = (_forward.Run._fields.index(name) for name in ("T", "reverse", "flush"))
_MOST_READY = 8  # kinds of calls ...
_SMALL = 512 << 10  # ... of at most so many bytes; larger blocks are kept by `Memory`


def _run(p: Prepared, T: int, N: int) -> tuple[NDArray[np.intp], Memory]:
    """A `forward_loop.Run` of no arrays, and its scratch memory; it does for any T from LONG on."""
    c, size = p.c, p.tag.dtype.itemsize
    sizes, places, total, zeros = _forward_layout((c.G, c.S, c.width, c.VL, size, p.H, p.P), min(T, LONG), N)
    memory = Memory(total)
    if p.P:
        np.frombuffer(memoryview(memory), np.uint8)[zeros] = 0
    run = np.zeros(len(_forward.Run._fields), np.intp)
    at = memory.address
    run[_T:] = (T, N, p.I, p.H, p.P, False, False, *p.addresses, *sizes, *[at + place for place in places])
    return run, memory


def _forward_rows(p: Prepared, reverse: bool, flush: bool, *arrays: Array | None) -> None:
    """`forward` on one thread; arrays in the order of `forward_loop.Run`."""
    x = arrays[0]
    assert x is not None
    T, N = x.shape[:2]
    key = min(T, LONG), N
    run, memory = _taken(p, key) or _run(p, T, N)
    run[_T], run[_REVERSE], run[_FLUSH] = T, reverse, flush
    locate(run, arrays)
    _forward.forward(p.tag, run)
    _give(p, key, run, memory)


Ready = tuple[NDArray[np.intp], Memory]


def _taken(p: Prepared, key: tuple[int, int]) -> Ready | None:
    """What was made for an earlier call like this one, if no other call has it."""
    try:
        return p.ready[key].pop()  # at once, so that of two threads one gets it
    except (KeyError, IndexError):
        return None


def _give(p: Prepared, key: tuple[int, int], run: NDArray[np.intp], memory: Memory) -> None:
    """Keep it for the next one."""
    if memory.bytes <= _SMALL:
        if key not in p.ready and len(p.ready) >= _MOST_READY:
            p.ready.clear()
        p.ready.setdefault(key, []).append((run, memory))


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
    T, N = x.shape[:2]
    if N == 0:
        return
    flush, wanted = flush_denormals(), threads.get_num_threads()
    n = 1 if wanted == 1 else min(wanted, N // 2, T * N * prepared.work // _PAYS)

    arrays = (x, y, h, c, lengths, reset, c_all, gates)
    if n < 2:
        _forward_rows(prepared, reverse, flush, *arrays)
        return
    with threads.team(n) as team:
        team.run([partial(_forward_rows, prepared, reverse, flush, *share) for share in deal(team.size, arrays)])


class Stepper:
    """Stacked layers of one direction, one step at a time, without allocation."""

    def __init__(self, prepared: Sequence[Prepared], h: Array, c: Array | None) -> None:
        self._kept: list[Any] = []
        self._calls: list[tuple[Tag, NDArray[np.intp]]] = []
        N = h.shape[1]
        x: Array | None = None
        for i, p in enumerate(prepared):
            y = np.empty((1, N, p.P or p.H), h.dtype)
            arrays = (x, y, h[i], None if c is None else c[i], None, None, None, None)
            run, memory = _run(p, 1, N)
            run[_FLUSH] = flush_denormals()
            locate(run, arrays)
            self._kept.append((p, arrays, memory))
            self._calls.append((p.tag, run))
            x = y
        self._x, self._y = self._calls[0][1][:3], self._calls[-1][1][3:6]
        self._N = N

    def step(self, x: Array, y: Array) -> None:
        """x (N, I) or (I,), contiguous, -> y (N, H_out) or (H_out,), contiguous; the states move on."""
        locate(self._x, (x.reshape(1, self._N, -1),))
        locate(self._y, (y.reshape(1, self._N, -1),))
        for tag, run in self._calls:
            _forward.forward(tag, run)


stepper = Stepper


# ---- backward -----------------------------------------------------------------------------------------------------


def prepare_backward(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare_backward`."""

    def pack(c: Compiled, w: Weights) -> tuple[Array | None, ...]:
        return tuple(None if a is None else packing.columns(a, c.VL, COLUMNS) for a in (w.w_ih, w.w_hh, w.w_hr))

    return _packed(spec, weights, pack)


def gates_width(prepared: Prepared) -> int:
    """See `backends.Backend.gates_width`."""
    c = prepared.c
    return -(-prepared.H // c.VL) * c.VL * c.G * (1 if c.sums_only else 2)


def _dg_columns(p: Prepared) -> int:
    """Numbers in a row of gate gradients."""
    return p.H * (p.c.G * (1 if p.c.sums_only else 2) + p.c.U)


def _strides(p: Prepared) -> tuple[int, ...]:
    """ldg, ldh, ldu, ldx of `backward_loop.Back`."""
    size = p.tag.dtype.itemsize
    return tuple(_stride(n, p.c.VL, size) for n in (_dg_columns(p), p.P or p.H, p.H, p.I))


class Sums(NamedTuple):
    arrays: tuple[Array, ...]  # dw_ih, dw_hh, dw_hr, db of `backward_loop.Back`
    of: Prepared


def new_sums(prepared: Prepared) -> Sums:
    """See `backends.Backend.new_sums`."""
    p, (ldg, ldh, ldu, ldx) = prepared, _strides(prepared)
    shapes = (p.c.G * p.H, ldx), (p.c.G * p.H * p.c.recurrent, ldh), (p.P, ldu), (ldg,)
    arrays = tuple(empty(shape, p.tag.dtype) for shape in shapes)
    for a in arrays:
        a[...] = 0
    return Sums(arrays, p)


def weight_gradients(sums: Sums) -> Weights:
    """See `backends.Backend.weight_gradients`."""
    return views(sums).each(np.copy)


def views(sums: Sums) -> Weights:
    """The gradients where they are, in torch's layout; the two of the biases are one where they are the same."""
    (dw_ih, dw_hh, dw_hr, db), p = sums
    GH = p.c.G * p.H
    second = 0 if p.c.sums_only else GH
    found = {
        "w_ih": dw_ih[:, : p.I],
        "w_hh": dw_hh[:, : p.P or p.H],
        "b_ih": db[:GH],
        "b_hh": db[second : second + GH],
        "w_hr": dw_hr[:, : p.H],
        "unit": db[second + GH : second + GH + p.c.U * p.H].reshape(p.c.U, p.H),
    }
    return Weights(**{name: found[name] for name in p.fields})


def _chunk(T: int, N: int) -> int:
    """Steps of a chunk: a power of two, so that whoever cuts a sequence at CHUNK_STEPS gets the same chunks."""
    steps = 1
    while 2 * steps <= min(CHUNK_STEPS, _BACKWARD_ROWS // max(N, 1)) and steps < T:
        steps *= 2
    return steps


def backward(
    prepared: Prepared,
    record: Record,
    dy: Array | None,
    dh: Array,
    dc: Array | None,
    dx: Array | None,
    sums: Sums | None,
) -> None:
    """See `backends.Backend.backward`."""
    T, N = record.x.shape[:2]
    if N == 0:
        return
    p, r, wanted = prepared, record, threads.get_num_threads()
    steps = _chunk(T, N)
    n = 1 if wanted == 1 else min(wanted, N // 2, 2 * T * N * p.work // _PAYS)
    of_weights = (None, None, None, None) if sums is None else sums.arrays
    arrays = (r.x, r.y, r.h_0, r.c_0, r.c_all, r.gates, r.lengths, r.reset, dy, dh, dc, dx, *of_weights)
    if n < 2:
        back, memory = _taken(p, (steps, N)) or _back(p, steps, N, 1)
        _fill(back, T, r.reverse, arrays)
        _backward.backward(p.tag, back[0])
        _give(p, (steps, N), back, memory)
        return
    with threads.team(n) as team:
        back, _memory = _back(p, steps, N, team.size)
        _fill(back, T, r.reverse, arrays)
        back[:, _ROW : _ROW_END + 1] = cut(N, team.size, r.lengths)
        tasks = [partial(_backward.backward, p.tag, part) for part in back]
        for chunk in range(-(-T // steps) - 1, -1, -1):
            # Rows have nothing in common until their gate gradients are summed up: by each thread some of the sums.
            for does in (_backward.ROWS, _backward.SUMS) if sums else (_backward.ROWS,):
                back[:, _CHUNK : _CHUNK + 2] = chunk, chunk + 1
                back[:, _DOES] = does
                team.run(tasks)


_B_T, _B_REVERSE, _B_FLUSH, _CHUNK, _ROW, _ROW_END, _DOES = (
    _backward.Back._fields.index(name) for name in ("T", "reverse", "flush", "chunk", "row", "row_end", "does")
)
_STEPS = _backward.Back._fields.index("steps")


def _back(p: Prepared, steps: int, N: int, parts: int) -> tuple[NDArray[np.intp], Memory]:
    """A `backward_loop.Back` of no arrays for each thread, and their scratch memory."""
    size, more, ld = p.tag.dtype.itemsize, p.c.S - 1, _strides(p)
    ldg, ldh, ldu, ldx = ld
    R, P, widest = steps * N, p.P > 0, max(ldh, ldu, ldx)
    numbers = R * ldg, R * ldh, R * ldx, N * ldh, N * more * ldu, R * ldh * P, R * ldu * P, widest
    shared, shared_bytes = _places([n * size for n in numbers])
    own, own_bytes = _places([8 * R, 8 * R, 8 * (steps + 1), *(n * size for n in (more * ldu, N * ldu * P, R * ldx))])
    memory = Memory(shared_bytes + parts * own_bytes)
    np.frombuffer(memoryview(memory), np.uint8)[shared[-1] : shared_bytes] = 0
    at, back = memory.address, np.zeros((parts, len(_backward.Back._fields)), np.intp)
    for i in range(parts):
        mine, does = at + shared_bytes + i * own_bytes, _backward.ROWS | _backward.SUMS
        back[i, _B_T:] = (
            *(0, N, p.I, p.H, p.P, False, False, *p.addresses, steps, *ld, *[at + place for place in shared]),
            *([mine + place for place in own]),
            *(0, 0, 0, N, i, parts, does),
        )
    return back, memory


def _fill(back: NDArray[np.intp], T: int, reverse: bool, arrays: tuple[Array | None, ...]) -> None:
    """The rest of it, for T steps: arrays in the order of `backward_loop.Back`."""
    locate(back[0], arrays)
    back[1:, :_B_T] = back[0, :_B_T]
    back[:, _B_T], back[:, _B_REVERSE], back[:, _B_FLUSH] = T, reverse, flush_denormals()
    back[:, _CHUNK + 1] = -(-T // back[0, _STEPS])
