"""Backprop through time: the time loop the other way round, for every cell, direction and batch.

For a chunk of steps, the last chunk first, the loop forms the gradients of gx and gh of every step and row: a step
turns dh into dgx and dgh, and dgh into the dh of the step before. Then products over all rows of the chunk give dx and
add to the gradients of the weights.

Chunks are counted from the first step that was run, and each sum has one order: whoever cuts a sequence at whole
chunks, or shares the work among threads, gets the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

from numba import njit
from numba.extending import overload

from .cell import compiled
from .lanes import (
    address,
    flags,
    flush_on,
    flush_restore,
    indices,
    load,
    loads,
    loads_after,
    reals,
    store,
    stores,
    stores_some,
    struct,
)
from .options import INNER, PART, entry
from .rows import add_row, clear_row, copy_row
from .tile import COLUMNS, add_outer, product


class Back(NamedTuple):
    """One layer in one direction, or a part of it: addresses (0: nothing there), two strides of each array, sizes."""

    x: int  # (T, N, I) IN
    x_t: int
    x_n: int
    y: int  # (T, N, H_out) IN
    y_t: int
    y_n: int
    h: int  # (N, H_out) IN, initial
    h_n: int
    h_1: int
    c: int  # (N, (S-1)*H) IN, initial
    c_n: int
    c_1: int
    c_all: int  # (T, N, (S-1)*H) IN
    c_all_t: int
    c_all_n: int
    gates: int  # (T, N, gates_width) IN
    gates_t: int
    gates_n: int
    lengths: int  # (N,), decreasing
    lengths_n: int
    lengths_0: int
    reset: int  # (T, N)
    reset_t: int
    reset_n: int
    dy: int  # (T, N, H_out) IN
    dy_t: int
    dy_n: int
    dh: int  # (N, H_out) INOUT: gradient of the final state, then of the initial state
    dh_n: int
    dh_1: int
    dc: int  # (N, (S-1)*H) INOUT
    dc_n: int
    dc_1: int
    dx: int  # (T, N, I) OUT
    dx_t: int
    dx_n: int
    dw_ih: int  # (G*H, ldx) INOUT; where it is 0, gradients of the weights are not wanted
    dw_ih_0: int
    dw_ih_1: int
    dw_hh: int  # (G*H, ldh) INOUT
    dw_hh_0: int
    dw_hh_1: int
    dw_hr: int  # (P, ldu) INOUT
    dw_hr_0: int
    dw_hr_1: int
    db: int  # (ldg,) INOUT: of a row of dg
    db_0: int
    db_1: int
    T: int
    N: int
    I: int
    H: int
    P: int  # 0 without a projection
    reverse: int
    flush: int
    w_ih: int  # (panels of I, G*H, COLUMNS, VL)
    w_hh: int  # (panels of H_out, G*H, COLUMNS, VL)
    w_hr: int  # (panels of H, P, COLUMNS, VL)
    unit: int  # (U, ldu)
    # scratch that the threads share; rows are whole panels
    steps: int  # per chunk
    ldg: int  # numbers from row to row of dg
    ldh: int  # of what has H_out columns
    ldu: int  # of what has H
    ldx: int  # of what has I
    dg: int  # (steps * N, ldg): dgx, then dgh unless it is the same, then the gradients of the unit weights
    h_all: int  # (steps * N, ldh): the states before the steps
    x_all: int  # (steps * N, ldx)
    dh_now: int  # (N, ldh)
    dc_now: int  # (N, S-1, ldu)
    dh_all: int  # (steps * N, ldh) with a projection: gradients of what it put out
    u_all: int  # (steps * N, ldu) with a projection: what went into it
    zeros: int  # (max(ldh, ldu),): the state before an episode's first step
    # this thread's part
    rows: int  # (steps * N): addresses
    c_rows: int  # (steps * N): where the states besides h before the steps are
    first: int  # (steps + 1): row of dg at which a step of the chunk begins
    c_prev: int  # (S-1, ldu)
    du: int  # (N, ldu) with a projection
    dx_now: int  # (steps * N, ldx)
    chunk: int  # the first chunk, and the one past the last
    chunk_end: int
    row: int
    row_end: int
    part: int
    parts: int
    does: int  # ROWS, SUMS or both


ROWS, SUMS = 1, 2
back_at = struct(Back)


def unit_back(cell, gx, gh, ld_gh, h_prev, c_prev, u, dh, dc, ldu, dgx, dgh, du, H, count):
    """The gradients of a register full of units of one row and step: dh and dc in place; the first `count` of dg."""


@overload(unit_back, jit_options=INNER)
def _unit_back(cell, gx, gh, ld_gh, h_prev, c_prev, u, dh, dc, ldu, dgx, dgh, du, H, count):
    c = compiled(cell)
    step, G, VL, U, GH, more = c.backward, c.G, c.VL, c.U, c.G * c.recurrent, c.S - 1
    apart = not c.sums_only

    # Numba drops branches on constants before it looks at types.
    def impl(cell, gx, gh, ld_gh, h_prev, c_prev, u, dh, dc, ldu, dgx, dgh, du, H, count):
        x, g = loads(gx, VL, G), loads(gh, ld_gh, GH)
        s, ds = loads_after(h_prev, c_prev, ldu, more), loads_after(dh, dc, ldu, more)
        if U > 0:
            d_x, d_g, d_s, d_u = step(x, g, s, loads(u, ldu, U), ds)
            stores_some(du, H, d_u, count)
        else:
            d_x, d_g, d_s = step(x, g, s, ds)
        stores_some(dgx, H, d_x, count)
        if apart:
            stores_some(dgh, H, d_g, count)
        store(dh, d_s[0])
        if more > 0:
            stores(dc, ldu, d_s[1:])

    return impl


def unit_again(cell, gx, gh, ld_gh, h_prev, c_prev, u, ldu, to):
    """h of such a step, which a projection then takes."""


@overload(unit_again, jit_options=INNER)
def _unit_again(cell, gx, gh, ld_gh, h_prev, c_prev, u, ldu, to):
    c = compiled(cell)
    body, G, VL, U, GH, more = c.body, c.G, c.VL, c.U, c.G * c.recurrent, c.S - 1

    def impl(cell, gx, gh, ld_gh, h_prev, c_prev, u, ldu, to):
        x, g, s = loads(gx, VL, G), loads(gh, ld_gh, GH), loads_after(h_prev, c_prev, ldu, more)
        if U > 0:  # noqa: SIM108
            new = body(x, g, s, loads(u, ldu, U))
        else:
            new = body(x, g, s)
        store(to, new[0])

    return impl


@njit(**PART)
def number_rows(cell, b, start, steps):
    """Where each step's rows begin in a chunk."""
    first, lengths = indices(b.first), indices(b.lengths)
    N = b.N
    r = 0
    for i in range(steps):
        t = b.T - 1 - start - i if b.reverse else start + i
        if b.lengths:
            while N > 0 and lengths[N - 1] <= t:
                N -= 1
            while N < b.N and lengths[N] > t:
                N += 1
        first[i] = r
        r += N
    first[steps] = r


@njit(**PART)
def rows_of(cell, b, start, steps):
    """Copy x and the states before the steps of some rows; those besides h stay, and their addresses are noted."""
    H_out, first, lengths = b.P if b.P else b.H, indices(b.first), indices(b.lengths)
    x_all, h_all, c_rows, reset = reals(cell, b.x_all), reals(cell, b.h_all), indices(b.c_rows), flags(b.reset)
    for i in range(steps):
        t = b.T - 1 - start - i if b.reverse else start + i
        for n in range(b.row, min(b.row_end, first[i + 1] - first[i])):
            r = first[i] + n
            # The step that was run before, and the one of the two at which an episode may begin.
            at, begins = (t + 1, t + 1) if b.reverse else (t - 1, t)
            h, c = b.y + at * b.y_t + n * b.y_n, b.c_all + at * b.c_all_t + n * b.c_all_n
            if at < 0 or at == (lengths[n] if b.lengths else b.T):
                h, c = b.h + n * b.h_n, b.c + n * b.c_n
                begins = 0
            if b.reset and not (b.reverse and begins == 0) and reset[begins * b.reset_t + n * b.reset_n]:
                h = c = b.zeros
            copy_row(h_all + r * b.ldh, reals(cell, h), H_out)
            c_rows[r - b.row] = c
            if b.dw_ih:
                copy_row(x_all + r * b.ldx, reals(cell, b.x + t * b.x_t + n * b.x_n), b.I)


@njit(**INNER)
def gates_back(cell, b, t, r, n):
    """The gate gradients of one row, the r-th of the chunk."""
    H, VL, more, G = b.H, cell.VL, cell.S - 1, cell.G
    kept = G * VL * (1 if cell.sums_only else 2)
    c_prev = reals(cell, b.c_prev)
    for j in range(more):
        source = indices(b.c_rows)[r - b.row]
        # Of an episode's first step it is zeros, which are one state's.
        copy_row(c_prev + j * b.ldu, reals(cell, source) + (0 if source == b.zeros else j * H), H)
    gates = reals(cell, b.gates + t * b.gates_t + n * b.gates_n)
    dg = reals(cell, b.dg) + r * b.ldg
    h_prev, dh = reals(cell, b.h_all) + r * b.ldh, reals(cell, b.dh_now) + n * b.ldh
    if b.P:
        dh = reals(cell, b.du) + (n - b.row) * b.ldu
    dgh, du = dg + G * H, dg + (G * H if cell.sums_only else 2 * G * H)
    dc = reals(cell, b.dc_now) + n * more * b.ldu
    gh, ld_gh = reals(cell, b.zeros), 0
    for i in range((H + VL - 1) // VL):
        at = i * VL
        if not cell.sums_only:
            gh, ld_gh = gates + (i * kept + G * VL), VL
        unit, count = reals(cell, b.unit) + at, min(H - at, VL)
        if b.P:
            to = reals(cell, b.u_all) + (r * b.ldu + at)
            unit_again(cell, gates + i * kept, gh, ld_gh, h_prev + at, c_prev + at, unit, b.ldu, to)
        unit_back(
            cell, gates + i * kept, gh, ld_gh, h_prev + at, c_prev + at, unit, dh + at, dc + at, b.ldu, dg + at,
            dgh + at, du + at, H, count,
        )  # fmt: skip


@njit(**PART)
def step_back(cell, b, t, r, N):
    """One step of rows row..N, the first of all rows numbered r: dh of the state after it -> dh of the one before."""
    H_out, panel = b.P if b.P else b.H, COLUMNS * cell.VL
    rows, dh_now = indices(b.rows), reals(cell, b.dh_now)
    for n in range(b.row, N):
        dh = dh_now + n * b.ldh
        if b.dy:
            add_row(dh, reals(cell, b.dy + t * b.dy_t + n * b.dy_n), H_out)
        if b.P:
            kept = reals(cell, b.dh_all) + (r + n) * b.ldh
            copy_row(kept, dh, b.ldh)
            clear_row(dh, b.ldh)
            rows[n - b.row] = address(kept)
    if b.P:
        product(
            COLUMNS, N - b.row, b.P, b.ldu // panel, reals(cell, b.w_hr), rows, reals(cell, b.zeros), 0,
            reals(cell, b.du), b.ldu,
        )  # fmt: skip
    for n in range(b.row, N):
        gates_back(cell, b, t, r + n, n)
        dg = reals(cell, b.dg) + (r + n) * b.ldg
        rows[n - b.row] = address(dg + (0 if cell.sums_only else cell.G * b.H))
    if cell.recurrent:
        dh = dh_now + b.row * b.ldh
        product(
            COLUMNS, N - b.row, cell.G * b.H, b.ldh // panel, reals(cell, b.w_hh), rows, dh, b.ldh, dh, b.ldh
        )  # fmt: skip


@njit(**PART)
def stop_at_resets(cell, b, t, N):
    """No gradient crosses from an episode into the one before."""
    reset, more = flags(b.reset + t * b.reset_t), cell.S - 1
    for n in range(b.row, N):
        if reset[n * b.reset_n]:
            clear_row(reals(cell, b.dh_now) + n * b.ldh, b.ldh)
            clear_row(reals(cell, b.dc_now) + n * more * b.ldu, more * b.ldu)


@njit(**PART)
def rows_back(cell, b, start, steps):
    """The gate gradients and dx of some rows of a chunk."""
    H_out, more, first, rows = b.P if b.P else b.H, cell.S - 1, indices(b.first), indices(b.rows)
    dh_now, dc_now = reals(cell, b.dh_now), reals(cell, b.dc_now)
    # A row's last step is its first here: then it joins. What is past the last step has no rows, and before the first
    # step all leave.
    joined = 0
    if start + steps < b.T:
        t = b.T - 1 - start - steps if b.reverse else start + steps
        lengths = indices(b.lengths)
        for n in range(b.row, b.row_end):
            if not b.lengths or lengths[n] > t:
                joined = n + 1
    for i in range(steps - 1, -2 if start == 0 else -1, -1):
        N = max(b.row, min(b.row_end, first[i + 1] - first[i])) if i >= 0 else b.row
        for n in range(N, joined):
            copy_row(reals(cell, b.dh + n * b.dh_n), dh_now + n * b.ldh, H_out)
            for j in range(more):
                copy_row(reals(cell, b.dc + n * b.dc_n) + j * b.H, dc_now + (n * more + j) * b.ldu, b.H)
        for n in range(max(b.row, joined), N):
            clear_row(dh_now + n * b.ldh, b.ldh)
            copy_row(dh_now + n * b.ldh, reals(cell, b.dh + n * b.dh_n), H_out)
            for j in range(more):
                copy_row(dc_now + (n * more + j) * b.ldu, reals(cell, b.dc + n * b.dc_n) + j * b.H, b.H)
        joined = N
        if i < 0 or b.row == N:
            continue
        t = b.T - 1 - start - i if b.reverse else start + i
        if b.reset and b.reverse:
            stop_at_resets(cell, b, t, N)
        step_back(cell, b, t, first[i], N)
        if b.reset and not b.reverse:
            stop_at_resets(cell, b, t, N)
    if b.dx:
        count = 0
        for i in range(steps):
            for n in range(b.row, min(b.row_end, first[i + 1] - first[i])):
                rows[count] = address(reals(cell, b.dg) + (first[i] + n) * b.ldg)
                count += 1
        dx, panels = reals(cell, b.dx_now), b.ldx // (COLUMNS * cell.VL)
        product(
            COLUMNS, count, cell.G * b.H, panels, reals(cell, b.w_ih), rows, reals(cell, b.zeros), 0, dx, b.ldx
        )  # fmt: skip
        count = 0
        for i in range(steps):
            t = b.T - 1 - start - i if b.reverse else start + i
            for n in range(b.row, min(b.row_end, first[i + 1] - first[i])):
                copy_row(reals(cell, b.dx + t * b.dx_t + n * b.dx_n), dx + count * b.ldx, b.I)
                count += 1


@njit(**PART)
def sums_back(cell, b, R):
    """This thread's part of what the R rows of a chunk add to the gradients of the weights."""
    GH, dg, H_out = cell.G * b.H, reals(cell, b.dg), b.P if b.P else b.H
    first, last = GH * b.part // b.parts, GH * (b.part + 1) // b.parts
    add_outer(R, dg, b.ldg, first, last, reals(cell, b.x_all), b.ldx, b.I, reals(cell, b.dw_ih), b.ldx)
    if cell.recurrent:
        dgh = dg + (0 if cell.sums_only else GH)
        add_outer(R, dgh, b.ldg, first, last, reals(cell, b.h_all), b.ldh, H_out, reals(cell, b.dw_hh), b.ldh)
    if b.P:
        first, last = b.P * b.part // b.parts, b.P * (b.part + 1) // b.parts
        dh, u = reals(cell, b.dh_all), reals(cell, b.u_all)
        add_outer(R, dh, b.ldh, first, last, u, b.ldu, b.H, reals(cell, b.dw_hr), b.ldu)
    registers = b.ldg // cell.VL  # the last ones may have no columns in them, only what was in memory
    db, ones = reals(cell, b.db), registers * b.part // b.parts
    for i in range(ones, registers * (b.part + 1) // b.parts):
        at = i * cell.VL
        total = load(reals(cell, b.zeros))
        for r in range(R):
            total = total + load(dg + (r * b.ldg + at))
        store(db + at, load(db + at) + total)


@entry
def backward(cell, array):
    """Some chunks of steps, some rows or some of the sums; `array` holds a `Back`."""
    b = back_at(array)
    mode = flush_on() if b.flush else 0
    for chunk in range(b.chunk_end - 1, b.chunk - 1, -1):
        start = chunk * b.steps
        steps = min(b.steps, b.T - start)
        number_rows(cell, b, start, steps)
        if b.does & ROWS:
            rows_of(cell, b, start, steps)
            rows_back(cell, b, start, steps)
        if b.does & SUMS and b.dw_ih:
            sums_back(cell, b, indices(b.first)[steps])
    if b.flush:
        flush_restore(mode)
