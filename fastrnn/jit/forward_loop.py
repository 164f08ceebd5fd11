"""The time loop: one for every cell, direction and batch.

As in the Cython kernels, the input part gx of a chunk of steps is one product, and the loop forms the recurrent part
gh of each step, panel by panel, and from both the new states.
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
    struct,
)
from .options import INNER, PART, entry
from .rows import clear_row, copy_row
from .tile import COLUMNS, product


class Run(NamedTuple):
    """One layer in one direction: addresses (0 where there is nothing), two strides in bytes of each array, sizes."""

    x: int  # (T, N, I) IN
    x_t: int
    x_n: int
    y: int  # (T, N, H_out) OUT
    y_t: int
    y_n: int
    h: int  # (N, H_out) INOUT
    h_n: int
    h_1: int
    c: int  # (N, (S-1)*H) INOUT
    c_n: int
    c_1: int
    lengths: int  # (N,), decreasing
    lengths_n: int
    lengths_0: int
    reset: int  # (T, N)
    reset_t: int
    reset_n: int
    c_all: int  # (T, N, (S-1)*H) OUT
    c_all_t: int
    c_all_n: int
    gates: int  # (T, N, gates_width) OUT
    gates_t: int
    gates_n: int
    T: int
    N: int
    I: int
    H: int
    P: int  # 0 without a projection
    reverse: int
    flush: int
    w_ih: int  # (panels, I, width, VL)
    w_hh: int  # (panels, H_out, width, VL)
    w_hr: int  # (panels, H, COLUMNS, VL)
    b_ih: int  # (panels, width, VL)
    b_hh: int
    unit: int  # (U, ldu)
    # scratch, whose rows are whole panels
    steps: int  # per chunk
    ldg: int  # numbers from row to row of gx and gh
    ldh: int  # of h
    ldu: int  # of what has a number a unit
    gx: int  # (steps * N, ldg)
    gh: int  # (N, ldg)
    h_now: int  # (2, N, ldh): before and after a step, in turn
    c_now: int  # (N, S-1, ldu)
    u: int  # (N, ldu): h before its projection
    rows: int  # (steps * N): addresses of the rows of x in a chunk
    h_rows: int  # (2, N): of h_now
    u_rows: int  # (N,): of u
    zeros: int  # (ldh,)
    first: int  # (steps + 1): row of gx at which a step of the chunk begins


run_at = struct(Run)


def unit(cell, gx, gh, h_prev, h, others, u, ldu):
    """One step of a register full of units of one row: the states other than h in place."""


@overload(unit, jit_options=INNER)
def _unit(cell, gx, gh, h_prev, h, others, u, ldu):
    c = compiled(cell)
    body, G, VL, U, GH, more = c.body, c.G, c.VL, c.U, c.G * c.recurrent, c.S - 1

    # Numba drops branches on constants before it looks at types.
    def impl(cell, gx, gh, h_prev, h, others, u, ldu):
        x, g, s = loads(gx, VL, G), loads(gh, VL, GH), loads_after(h_prev, others, ldu, more)
        if U > 0:  # noqa: SIM108
            new = body(x, g, s, loads(u, ldu, U))
        else:
            new = body(x, g, s)
        store(h, new[0])
        if more > 0:
            stores(others, ldu, new[1:])

    return impl


@njit(**PART)
def keep(cell, gx, gh, to):
    """What the way back wants to know of such a step."""
    VL = cell.VL
    for q in range(cell.G):
        if not cell.recurrent:
            store(to + q * VL, load(gx + q * VL))
        elif cell.sums_only:
            store(to + q * VL, load(gx + q * VL) + load(gh + q * VL))
        else:
            store(to + q * VL, load(gx + q * VL))
            store(to + (cell.G + q) * VL, load(gh + q * VL))


@njit(**PART)
def input_part(cell, run, start, steps, N):
    """gx of a chunk of steps, for the rows of each step that are still running."""
    rows, first, lengths = indices(run.rows), indices(run.first), indices(run.lengths)
    r = 0
    for i in range(steps):
        t = run.T - 1 - start - i if run.reverse else start + i
        if run.lengths:
            while N > 0 and lengths[N - 1] <= t:
                N -= 1
            while N < run.N and lengths[N] > t:
                N += 1
        first[i] = r
        for n in range(N):
            rows[r] = run.x + t * run.x_t + n * run.x_n
            r += 1
    first[steps] = r
    panels = run.ldg // (cell.width * cell.VL)
    product(cell, r, run.I, panels, reals(cell, run.w_ih), rows, reals(cell, run.b_ih), 0, reals(cell, run.gx), run.ldg)


@njit(**PART)
def step(cell, run, gx, now, N, t):
    """One step of N rows: h_now[now], c_now -> h_now[1 - now], c_now.

    Panels are taken upwards and downwards in turn, so that the weights that a step read last, still in a nearer cache,
    are the first that the next one reads. One row takes two at a time, for the product's sake.
    """
    H_out, VL, wide = run.P if run.P else run.H, cell.VL, cell.width * cell.VL
    kept, more = cell.G * VL * (1 if cell.sums_only else 2), cell.S - 1
    blocks = max(cell.width // cell.G, 1)  # of VL units in a panel
    panels, together = run.ldg // wide, 2 if N == 1 else 1
    groups = (panels + together - 1) // together
    gh, h_prev = reals(cell, run.gh), reals(cell, run.h_now) + now * run.N * run.ldh
    h, ldh = reals(cell, run.h_now) + (1 - now) * run.N * run.ldh, run.ldh
    if run.P:
        h, ldh = reals(cell, run.u), run.ldu
    for i in range(groups):
        p = (groups - 1 - i if now else i) * together
        count = min(panels - p, together)
        if cell.recurrent:
            w, bias = reals(cell, run.w_hh) + p * H_out * wide, reals(cell, run.b_hh) + p * wide
            product(cell, N, H_out, count, w, indices(run.h_rows) + now * run.N, bias, 0, gh + p * wide, run.ldg)
        for n in range(N):
            for b in range(p * blocks, min((p + count) * blocks, (run.H + VL - 1) // VL)):
                at, part = b * VL, n * run.ldg + b * cell.G * VL
                before, others = h_prev + (n * run.ldh + at), reals(cell, run.c_now) + (n * more * run.ldu + at)
                x, g, u = gx + part, gh + part, reals(cell, run.unit) + at
                unit(cell, x, g, before, h + (n * ldh + at), others, u, run.ldu)
                if run.gates:
                    keep(cell, x, g, reals(cell, run.gates + t * run.gates_t + n * run.gates_n) + b * kept)
    if run.P:
        w, u_rows, zeros = reals(cell, run.w_hr), indices(run.u_rows), reals(cell, run.zeros)
        h_new = reals(cell, run.h_now) + (1 - now) * run.N * run.ldh
        panels = (run.P + COLUMNS * VL - 1) // (COLUMNS * VL)
        product(COLUMNS, N, run.H, panels, w, u_rows, zeros, 0, h_new, run.ldh)


@njit(**PART)
def reset_rows(cell, run, now, t, N):
    """Zero the state of the rows in which an episode begins."""
    reset = flags(run.reset + t * run.reset_t)
    for n in range(N):
        if reset[n * run.reset_n]:
            clear_row(reals(cell, run.h_now) + (now * run.N + n) * run.ldh, run.ldh)
            clear_row(reals(cell, run.c_now) + n * (cell.S - 1) * run.ldu, (cell.S - 1) * run.ldu)


@njit(**PART)
def put_states(cell, run, now, n, h, c):
    """The states of row n, to the addresses h and c."""
    copy_row(reals(cell, h), reals(cell, run.h_now) + (now * run.N + n) * run.ldh, run.P if run.P else run.H)
    for j in range(cell.S - 1 if c else 0):
        copy_row(reals(cell, c) + j * run.H, reals(cell, run.c_now) + (n * (cell.S - 1) + j) * run.ldu, run.H)


@entry
def forward(cell, array):
    """All T steps of one layer in one direction; `array` holds a `Run`."""
    run = run_at(array)
    H_out = run.P if run.P else run.H
    first, h_now, c_now, more = indices(run.first), reals(cell, run.h_now), reals(cell, run.c_now), cell.S - 1
    for n in range(2 * run.N):
        indices(run.h_rows)[n] = address(h_now + n * run.ldh)
    for n in range(run.N if run.P else 0):
        indices(run.u_rows)[n] = address(reals(cell, run.u) + n * run.ldu)
    mode = flush_on() if run.flush else 0
    start = joined = now = 0
    while start < run.T and run.N > 0:
        steps = min(run.steps, run.T - start)
        input_part(cell, run, start, steps, joined if start else run.N)
        # One more step, past the last: there every row leaves.
        for i in range(steps + (1 if start + steps == run.T else 0)):
            t = run.T - 1 - start - i if run.reverse else start + i
            N = first[i + 1] - first[i] if i < steps else 0
            # A row joins with its initial state and leaves with its final one: at the start or the end, or, where its
            # sequence is shorter, in between.
            for n in range(N, joined):
                put_states(cell, run, now, n, run.h + n * run.h_n, run.c + n * run.c_n)
            for n in range(joined, N):
                copy_row(h_now + (now * run.N + n) * run.ldh, reals(cell, run.h + n * run.h_n), H_out)
                for j in range(more):
                    copy_row(c_now + (n * more + j) * run.ldu, reals(cell, run.c + n * run.c_n) + j * run.H, run.H)
            joined = N
            if run.reset and not run.reverse:
                reset_rows(cell, run, now, t, N)
            if N:
                step(cell, run, reals(cell, run.gx) + first[i] * run.ldg, now, N, t)
            now = 1 - now
            for n in range(N):
                c = run.c_all + t * run.c_all_t + n * run.c_all_n if run.c_all else 0
                put_states(cell, run, now, n, run.y + t * run.y_t + n * run.y_n, c)
            if run.reset and run.reverse:
                reset_rows(cell, run, now, t, N)
        start += steps
    if run.flush:
        flush_restore(mode)
