"""One layer in one direction in plain loops over NumPy's arrays: what stands in for `engine` where that cannot be had.

The contract of `backends.Backend` with nothing of Numba but ``@njit`` and ``overload``, and LLVM to make vectors of the
inner loops. They also run as Python, under ``NUMBA_DISABLE_JIT=1``. One thread does all, and denormal numbers stay.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numba.extending import overload
from numpy.typing import NDArray

from ..backends import Record
from ..cells import CellSpec, Weights
from ..memory import empty as empty
from . import plain_gates as _gates  # noqa: F401  tells Numba what elementary functions are
from .cell import CellType, Compiled, Tag, cell_tag, compiled
from .options import INNER, STRICT, entry

Array = NDArray[Any]

#: Of functions that are called and not made part of their callers.
CALLED: Any = {**STRICT, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

CHUNK_STEPS = 128
_CHUNK_BYTES = 256 << 10  # of the input part: it stays in the second-level cache
_BACKWARD_ROWS = 320


# --- one step of all units --------------------------------------------------------------------------------------------

# Bodies take tuples, and compiled code has to know how long they are: so these loops are written for each cell.


def units(cell, rows, gx, gh, h, c, unit):
    """A step of rows 0, 1 ...: gx and gh (N, G, H), h (N, H) and c (N, S-1, H), which are altered, unit (U, H)."""
    _units(cell.type)(rows, gx, gh, h, c, unit)


def units_back(cell, rows, gates, h, c, unit, dh, dc, dgx, dgh, dunit):
    """The gradients of such a step: gates (N, G or 2*G, H) as of `keep`; dh and dc are altered."""
    _units_back(cell.type)(rows, gates, h, c, unit, dh, dc, dgx, dgh, dunit)


@overload(units, jit_options=INNER)
def _of_units(cell, rows, gx, gh, h, c, unit):
    loop = _units(cell)
    return lambda cell, rows, gx, gh, h, c, unit: loop(rows, gx, gh, h, c, unit)


@overload(units_back, jit_options=INNER)
def _of_units_back(cell, rows, gates, h, c, unit, dh, dc, dgx, dgh, dunit):
    loop = _units_back(cell)
    return lambda cell, rows, gates, h, c, unit, dh, dc, dgx, dgh, dunit: loop(
        rows, gates, h, c, unit, dh, dc, dgx, dgh, dunit
    )


@cache
def _units(cell: CellType) -> Any:
    c = compiled(cell)
    gx, gh, s, u = (_each(c.G, "gx"), _each(c.G * c.recurrent, "gh"), ["h[n, j]", *_each(c.S - 1, "c")], _unit(c.U))
    given = [gx, gh, s, *([u] if u else [])]
    return _loop("rows, gx, gh, h, c, unit", f"{_tuple(s)} = step({', '.join(map(_tuple, given))})", step=c.body)


@cache
def _units_back(cell: CellType) -> Any:
    c = compiled(cell)
    gx, gh, s, u = _each(c.G, "gates"), _each(c.G, "gates", c.G), ["h[n, j]", *_each(c.S - 1, "c")], _unit(c.U)
    dgx, dgh, ds, du = _each(c.G, "dgx"), _each(c.G, "dgh"), ["dh[n, j]", *_each(c.S - 1, "dc")], _each(c.U, "dunit")
    if c.sums_only:
        gh, dgh = ["zero"] * (c.G * c.recurrent), []
    given, to = [gx, gh, s, *([u] if u else []), ds], [dgx, dgh, ds, *([du] if u else [])]
    return _loop(
        "rows, gates, h, c, unit, dh, dc, dgx, dgh, dunit",
        f"{', '.join(_tuple(a) if a else '_' for a in to)} = step({', '.join(map(_tuple, given))})",
        step=c.backward,
        zero=np.dtype(cell.dtype.name).type(0),
    )


def _each(count: int, array: str, first: int = 0) -> list[str]:
    return [f"{array}[n, {i}, j]" for i in range(first, first + count)]


def _unit(count: int) -> list[str]:
    return [f"unit[{i}, j]" for i in range(count)]


def _tuple(items: Iterable[str]) -> str:
    return f"({''.join(f'{item}, ' for item in items)})"


def _loop(parameters: str, line: str, **names: Any) -> Any:
    """A compiled function that does `line` for each unit j of rows n.

    Rows are counted by numbers in an array. Of rows counted by range LLVM would take all together for its check, before
    it runs a loop of vectors, that nothing written overlaps; and in an array (N, G, H) those of two gates do.
    """
    exec(f"def loop({parameters}):\n for n in rows:\n  for j in range(c.shape[2]):\n   {line}", names)
    return njit(**INNER)(names["loop"])


# --- rows -------------------------------------------------------------------------------------------------------------

# The inner loops go along rows, of what is added to in products, which take four terms at a time. All get slices and no
# numbers: of a literal number Numba would make another type.


@njit(**CALLED)
def copy(a, to):
    for r in range(len(a)):
        for j in range(a.shape[1]):
            to[r, j] = a[r, j]


@njit(**CALLED)
def fill(a, row):
    for r in range(len(a)):
        for j in range(a.shape[1]):
            a[r, j] = row[j]


@njit(**CALLED)
def clear(a, chosen):
    """Zero some rows."""
    for r in range(len(a)):
        if chosen[r]:
            for j in range(a.shape[1]):
                a[r, j] = 0


@njit(**CALLED)
def add(a, to):
    for r in range(len(to)):
        for j in range(to.shape[1]):
            to[r, j] += a[r, j]


@njit(**CALLED)
def add_product(a, w, out):
    """out += a @ w; each number in one order, whatever the number of rows."""
    K, n = w.shape
    for r in range(len(a)):
        for k in range(0, K - 3, 4):
            a0, a1, a2, a3 = a[r, k], a[r, k + 1], a[r, k + 2], a[r, k + 3]
            for j in range(n):
                out[r, j] += a0 * w[k, j] + a1 * w[k + 1, j] + a2 * w[k + 2, j] + a3 * w[k + 3, j]
        for k in range(K - K % 4, K):
            for j in range(n):
                out[r, j] += a[r, k] * w[k, j]


@njit(**CALLED)
def add_outer(a, b, out):
    """out += a.T @ b, which is formed apart; 16 columns of `a` at a time, as they lie on a line of the cache."""
    rows, n = len(a), out.shape[1]
    total = np.empty((16, n), out.dtype)
    for start in range(0, len(out), 16):
        count = min(16, len(out) - start)
        for i in range(count):
            for j in range(n):
                total[i, j] = 0
        for r in range(0, rows - 3, 4):
            for i in range(count):
                m = start + i
                a0, a1, a2, a3 = a[r, m], a[r + 1, m], a[r + 2, m], a[r + 3, m]
                for j in range(n):
                    total[i, j] += a0 * b[r, j] + a1 * b[r + 1, j] + a2 * b[r + 2, j] + a3 * b[r + 3, j]
        for r in range(rows - rows % 4, rows):
            for i in range(count):
                for j in range(n):
                    total[i, j] += a[r, start + i] * b[r, j]
        for i in range(count):
            for j in range(n):
                out[start + i, j] += total[i, j]


@njit(**CALLED)
def add_rows(a, out):
    """out += the sum of the rows, which is formed apart."""
    total = np.zeros(len(out), out.dtype)
    for r in range(len(a)):
        for j in range(len(out)):
            total[j] += a[r, j]
    for j in range(len(out)):
        out[j] += total[j]


@njit(**CALLED)
def running(lengths, t):
    """How many rows are running at step t: the first ones."""
    n = len(lengths)
    while n > 0 and lengths[n - 1] <= t:
        n -= 1
    return n


# --- forward ----------------------------------------------------------------------------------------------------------


@njit(**CALLED)
def keep(gx, gh, gates):
    """What the way back wants to know of a step: gates (N, G or 2*G, H)."""
    N, G, H = gx.shape
    apart = gates.shape[1] > G
    for n in range(N):
        for g in range(G):
            for j in range(H):
                if apart:
                    gates[n, g, j] = gx[n, g, j]
                    gates[n, G + g, j] = gh[n, g, j]
                else:
                    gates[n, g, j] = gx[n, g, j] + gh[n, g, j]


@entry
def forward_loop(cell, x, y, h, c, lengths, reset, reverse, c_all, gates, weights, steps):
    """All T steps; the input part of so many at a time. c_all and gates are of length 0 where they are not wanted."""
    w_ih, w_hh, w_hr, b_ih, b_hh, unit = weights
    T, N, I = x.shape
    H, P, GH = unit.shape[1], w_hr.shape[1], len(b_ih)
    x_rows, gx, gh = np.empty((steps * N, I), x.dtype), np.empty((steps * N, GH), x.dtype), np.zeros((N, GH), x.dtype)
    gx_units, gh_units = gx.reshape(steps * N, GH // H, H), gh.reshape(N, GH // H, H)
    c_units = c.reshape(N, c.shape[1] // H, H)
    numbers, zeros = np.arange(N), np.zeros(P, x.dtype)
    wide = np.zeros((N, H), x.dtype)  # h before its projection
    for start in range(0, T, steps):
        stop, end = min(start + steps, T), 0
        for i in range(start, stop):
            t = T - 1 - i if reverse else i
            first, now = end, running(lengths, t)
            end = first + now
            copy(x[t][:now], x_rows[first:end])
        fill(gx[:end], b_ih)
        add_product(x_rows[:end], w_ih, gx[:end])
        end = 0
        for i in range(start, stop):
            t = T - 1 - i if reverse else i
            first, now = end, running(lengths, t)
            end = first + now
            h_now, c_now = h[:now], c[:now]
            if not reverse:
                clear(h_now, reset[t])
                clear(c_now, reset[t])
            if len(w_hh):
                fill(gh[:now], b_hh)
                add_product(h_now, w_hh, gh[:now])
            units(cell, numbers[:now], gx_units[first:end], gh_units, wide[:now] if P else h_now, c_units, unit)
            if P:
                fill(h_now, zeros)
                add_product(wide[:now], w_hr, h_now)
            if len(gates):
                keep(gx_units[first:end], gh_units, gates[t])
            if len(c_all):
                copy(c_now, c_all[t])
            copy(h_now, y[t])
            if reverse:
                clear(h_now, reset[t])
                clear(c_now, reset[t])


class Prepared(NamedTuple):
    tag: Tag
    c: Compiled
    H: int
    weights: tuple[Array, ...]  # w_ih, w_hh and w_hr as they are multiplied with, b_ih, b_hh, unit
    fields: list[str]  # those that there are


def _prepare(spec: CellSpec, weights: Weights, transposed: bool) -> Prepared:
    w, tag = weights, cell_tag(spec, weights.w_ih.dtype, 1)
    rows, H = len(w.w_ih), len(w.w_ih) // spec.n_gates

    def product(a: Array | None) -> Array:
        a = np.empty((0, 0), tag.dtype) if a is None else a
        return np.array(a.T if transposed else a, order="C")

    def other(a: Array | None, *shape: int) -> Array:
        return np.zeros(shape, tag.dtype) if a is None else np.array(a, order="C")

    made = *map(product, (w.w_ih, w.w_hh, w.w_hr)), other(w.b_ih, rows), other(w.b_hh, rows), other(w.unit, 0, H)
    return Prepared(tag, compiled(tag.type), H, made, [name for name, a in w._asdict().items() if a is not None])


def prepare(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare`."""
    return _prepare(spec, weights, transposed=True)


def _plain(a: Array | None, missing: Array) -> Array:
    """`a` in memory of one kind, so that there is one Numba type: contiguous, aligned and writable."""
    return missing if a is None else np.require(np.asarray(a), requirements=["C", "A", "W"])


def _put_back(arrays: Iterable[Array | None], plain: Iterable[Array]) -> None:
    """What was written to copies."""
    for a, of_a in zip(arrays, plain, strict=True):
        if a is not None and a is not of_a:
            a[...] = of_a


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
    p, (T, N, _), none = prepared, x.shape, np.empty((0, 0, 0), x.dtype)
    written = y, h, c, c_all, gates
    plain = [_plain(a, none) for a in written]
    if c is None:
        plain[2] = np.empty((N, 0), x.dtype)
    rows = max(24, min(_CHUNK_BYTES // (len(p.weights[3]) * x.itemsize), 256))
    forward_loop(
        p.tag,
        _plain(x, none),
        *plain[:3],
        _plain(lengths, np.full(N, T)),
        _plain(reset, np.zeros((T, N), bool)),
        reverse,
        plain[3],
        plain[4].reshape(len(plain[4]), N, plain[4].shape[2] // p.H, p.H),
        p.weights,
        max(1, min(rows // max(N, 1), T)),
    )
    _put_back(written, plain)


# --- backward ---------------------------------------------------------------------------------------------------------


@njit(**CALLED)
def states_before(states, initial, lengths, reset, reverse, t, to):
    """The states of the first rows before step t, in the order in which steps were run."""
    for n in range(len(to)):
        before = t + 1 if reverse else t - 1
        begins = before == (lengths[n] if reverse else -1)
        # Forward, a reset comes before its step, be it the first one. In reverse it comes after its step.
        cleared = (not begins and reset[before, n]) if reverse else reset[t, n]
        for j in range(to.shape[1]):
            if cleared:
                to[n, j] = 0
            elif begins:
                to[n, j] = initial[n, j]
            else:
                to[n, j] = states[before, n, j]


@entry
def backward_loop(
    cell, x, y, h_0, c_0, c_all, gates, lengths, reset, reverse, dy, dh, dc, dx, weights, sums, steps
):  # fmt: skip
    """All T steps, the last chunk of so many first. dy, dx and sums are of length 0 where there is no such thing."""
    w_ih, w_hh, w_hr, _, _, unit = weights
    dw_ih, dw_hh, dw_hr, db_ih, db_hh, dw_unit = sums
    T, N, I = x.shape
    H, P, GH, H_out, C, R = unit.shape[1], len(w_hr), len(w_ih), y.shape[2], c_0.shape[1], steps * N
    G, more, U = GH // H, C // H, len(unit)
    x_rows, h_rows, dx_rows = np.empty((R, I), x.dtype), np.empty((R, H_out), x.dtype), np.empty((R, I), x.dtype)
    dgx, dunit = np.empty((R, GH), x.dtype), np.empty((R, U * H), x.dtype)
    dgh = np.empty((R, GH), x.dtype) if gates.shape[2] > G else dgx
    dgx_units, dgh_units, dunit_units = dgx.reshape(R, G, H), dgh.reshape(R, G, H), dunit.reshape(R, U, H)
    c_prev, dc_units = np.empty((N, C), x.dtype), dc.reshape(N, more, H)
    c_units = c_prev.reshape(N, more, H)
    zeros, numbers = np.zeros(max(I, H), x.dtype), np.arange(N)
    # With a projection: h and its gradient before it, and the gradient after it. Its cell is one of sums only.
    wide, dwide, dh_rows = np.zeros((R * (P > 0), H), x.dtype), np.empty((N, H), x.dtype), np.empty((R, P), x.dtype)
    c_new, no_gh = np.empty((N, C), x.dtype), np.zeros((N, G, H), x.dtype)
    for start in range((T - 1) // steps * steps, -1, -steps):
        stop, rows = min(start + steps, T), 0
        for i in range(start, stop):
            t = T - 1 - i if reverse else i
            first, now = rows, running(lengths, t)
            rows = first + now
            copy(x[t][:now], x_rows[first:rows])
            states_before(y, h_0, lengths, reset, reverse, t, h_rows[first:rows])
        first = rows
        for i in range(stop - 1, start - 1, -1):
            t = T - 1 - i if reverse else i
            now = running(lengths, t)
            end, first = first, first - now
            dh_now, dc_now, h = dh[:now], dc[:now], h_rows[first:end]
            if reverse:
                clear(dh_now, reset[t])
                clear(dc_now, reset[t])
            if len(dy):
                add(dy[t], dh_now)
            states_before(c_all, c_0, lengths, reset, reverse, t, c_prev[:now])
            dh_units = dh_now
            if P:
                copy(dh_now, dh_rows[first:end])
                dh_units, h = dwide[:now], wide[first:end]
                fill(dh_units, zeros)
                add_product(dh_now, w_hr, dh_units)
                fill(dh_now, zeros)
                copy(c_prev[:now], c_new)
                units(cell, numbers[:now], gates[t], no_gh, h, c_new.reshape(N, more, H), unit)
            dgx_now, dgh_now, dunit_now = dgx_units[first:end], dgh_units[first:end], dunit_units[first:end]
            units_back(cell, numbers[:now], gates[t], h, c_units, unit, dh_units, dc_units, dgx_now, dgh_now, dunit_now)
            if len(w_hh):
                add_product(dgh[first:end], w_hh, dh_now)
            if not reverse:
                clear(dh_now, reset[t])
                clear(dc_now, reset[t])
        if len(dx):
            fill(dx_rows[:rows], zeros)
            add_product(dgx[:rows], w_ih, dx_rows[:rows])
            end = 0
            for i in range(start, stop):
                t = T - 1 - i if reverse else i
                first, now = end, running(lengths, t)
                end = first + now
                copy(dx_rows[first:end], dx[t])
        if len(dw_ih):
            add_outer(dgx[:rows], x_rows, dw_ih)
            add_outer(dgh[:rows], h_rows, dw_hh)
            add_outer(dh_rows[:rows], wide, dw_hr)
            add_rows(dgx[:rows], db_ih)
            add_rows(dgh[:rows], db_hh)
            add_rows(dunit[:rows], dw_unit)


def prepare_backward(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare_backward`."""
    return _prepare(spec, weights, transposed=False)


def gates_width(prepared: Prepared) -> int:
    """See `backends.Backend.gates_width`."""
    return prepared.c.G * prepared.H * (1 if prepared.c.sums_only else 2)


class Sums(NamedTuple):
    arrays: tuple[Array, ...]  # as `Prepared.weights`; of unit weights in one row
    of: Prepared


def new_sums(prepared: Prepared) -> Sums:
    """See `backends.Backend.new_sums`."""
    *zeros, unit = (np.zeros_like(w) for w in prepared.weights)
    return Sums((*zeros, unit.ravel()), prepared)


def weight_gradients(sums: Sums) -> Weights:
    """See `backends.Backend.weight_gradients`."""
    names = "w_ih", "w_hh", "w_hr", "b_ih", "b_hh", "unit"
    arrays = dict(zip(names, sums.arrays, strict=True))
    arrays["unit"] = arrays["unit"].reshape(-1, sums.of.H)
    return Weights(**{name: arrays[name].copy() for name in sums.of.fields})


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
    p, r, dtype = prepared, record, record.x.dtype
    (T, N, _), none = r.x.shape, np.empty((0, 0, 0), dtype)
    no_c, no_sums = np.empty((N, 0), dtype), tuple(np.empty((0,) * w.ndim, dtype) for w in new_sums(p).arrays)
    written = dh, dc, dx
    plain = _plain(dh, none), _plain(dc, no_c), _plain(dx, none)
    gates = _plain(r.gates, none)
    steps = 1
    while 2 * steps <= min(CHUNK_STEPS, _BACKWARD_ROWS // max(N, 1)) and steps < T:
        steps *= 2
    backward_loop(
        p.tag,
        _plain(r.x, none),
        _plain(r.y, none),
        _plain(r.h_0, none),
        _plain(r.c_0, no_c),
        _plain(r.c_all, np.empty((T, N, 0), dtype)),
        gates.reshape(T, N, gates.shape[2] // p.H, p.H),
        _plain(r.lengths, np.full(N, T)),
        _plain(r.reset, np.zeros((T, N), bool)),
        r.reverse,
        _plain(dy, none),
        *plain,
        p.weights,
        no_sums if sums is None else sums.arrays,
        steps,
    )
    _put_back(written, plain)
