"""The time loop: one for every cell, direction and batch.

The functions are closures over what `cell.compiled` gives, made while Numba compiles; only the entries, which have a
`Tag` as their first argument, are cached on disk. As in the Cython kernels, the input part gx of a chunk of steps is
one product, and the loop forms the recurrent part gh of each step, panel by panel, and from both the new states.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import njit
from numba.extending import overload

from .cell import CellType, Compiled, compiled
from .lanes import (
    INLINE,
    STRICT,
    address,
    flags,
    flush_on,
    flush_restore,
    indices,
    load,
    loads,
    reals,
    store,
    store_some,
    stores,
)
from .tile import OUTER, lane_count, product_of


class Run(NamedTuple):
    """One layer in one direction: addresses (0 where there is nothing), strides in bytes, sizes."""

    T: int
    N: int
    I: int
    H: int
    P: int  # 0 without a projection
    x: int  # (T, N, I) IN
    x_t: int
    x_n: int
    y: int  # (T, N, H_out) OUT
    y_t: int
    y_n: int
    h: int  # (N, H_out) INOUT
    h_n: int
    c: int  # (N, (S-1)*H) INOUT
    c_n: int
    lengths: int  # (N,), decreasing
    reset: int  # (T, N)
    reset_t: int
    reset_n: int
    c_all: int  # (T, N, (S-1)*H) OUT
    c_all_t: int
    c_all_n: int
    gates: int  # (T, N, gates_width) OUT
    gates_t: int
    gates_n: int
    reverse: int
    flush: int
    w_ih: int  # (panels, I, width, VL)
    w_hh: int  # (panels, H_out, width, VL)
    w_hr: int  # (panels, H, OUTER, VL)
    b_ih: int  # (panels, width, VL)
    b_hh: int
    unit: int  # (U, units)
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


@njit(**INLINE)
def copy_row(to, source, count):
    VL = lane_count(to)
    i = 0
    while i + VL <= count:
        store(to + i, load(source + i))
        i += VL
    while i < count:
        to[i] = source[i]
        i += 1


@njit(**INLINE)
def clear_row(to, count):
    for i in range(count):
        to[i] = 0


@njit(**INLINE)
def active_rows(run, t, near):
    """How many rows have a step t; near: the number at a neighbouring step."""
    if run.lengths == 0:
        return run.N
    lengths = indices(run.lengths)
    while near > 0 and lengths[near - 1] <= t:
        near -= 1
    while near < run.N and lengths[near] > t:
        near += 1
    return near


@njit(**INLINE)
def time_of(run, i):
    """The step that is the i-th to be run."""
    return run.T - 1 - i if run.reverse else i


@cache
def body_of(c: Compiled) -> Any:
    """The body, called in one way whether or not the cell has unit weights."""
    body, U = c.body, c.U
    if U:

        def call(gx, gh, s, u, ldu):
            return body(gx, gh, s, loads(u, ldu, U))

    else:

        def call(gx, gh, s, u, ldu):
            return body(gx, gh, s)

    return njit(**INLINE)(call)


@cache
def unit_of(c: Compiled) -> Any:
    """One step of a register full of units of one row."""
    body, G, S, VL, sums_only = body_of(c), c.G, c.S, c.VL, c.sums_only
    GH = G if c.recurrent else 0

    def put_others(others, ldu, new):
        stores(others, ldu, new[1:])

    if S == 1:

        def put_others(others, ldu, new):  # noqa: F811
            pass

    put_others = njit(**INLINE)(put_others)

    @njit(**INLINE)
    def unit(gx, gh, h_prev, h, others, u, ldu):
        new = body(loads(gx, VL, G), loads(gh, VL, GH), loads_after(h_prev, others, ldu, S - 1), u, ldu)
        store(h, new[0])
        put_others(others, ldu, new)

    @njit(**INLINE)
    def keep(gx, gh, to):
        """What the way back wants to know of it."""
        for q in range(G):
            if GH == 0:
                store(to + q * VL, load(gx + q * VL))
            elif sums_only:
                store(to + q * VL, load(gx + q * VL) + load(gh + q * VL))
            else:
                store(to + q * VL, load(gx + q * VL))
                store(to + (G + q) * VL, load(gh + q * VL))

    return unit, keep


@cache
def forward_of(cell: CellType) -> Any:
    c = compiled(cell)
    G, S, VL, width = c.G, c.S, c.VL, c.width
    blocks = max(width // G, 1)  # registers of units in a panel
    kept = G * VL * (1 if c.sums_only else 2)
    recurrent = c.recurrent
    product, project = product_of(width), product_of(OUTER)
    unit, keep = unit_of(c)

    @njit(**STRICT)
    def input_part(cell, run, start, steps, N):
        """gx of a chunk of steps, the rows of each step that are still running; the last step's N."""
        rows, first = indices(run.rows), indices(run.first)
        r = 0
        for i in range(steps):
            t = time_of(run, start + i)
            N = active_rows(run, t, N)
            first[i] = r
            for n in range(N):
                rows[r] = run.x + t * run.x_t + n * run.x_n
                r += 1
        first[steps] = r
        panels = run.ldg // (width * VL)
        product(r, run.I, panels, reals(cell, run.w_ih), rows, reals(cell, run.b_ih), 0, reals(cell, run.gx), run.ldg)
        return N

    @njit(**STRICT)
    def step(cell, run, gx, now, N, t):
        """One step of N rows: h_now[now], c_now -> h_now[1 - now], c_now.

        Panels are taken upwards and downwards in turn, so that the weights that a step read last, still in a nearer
        cache, are the first that the next one reads.
        """
        VL_width = width * VL
        together = 2 if N == 1 else 1
        panels = run.ldg // VL_width
        groups = (panels + together - 1) // together
        gh, w, bias = reals(cell, run.gh), reals(cell, run.w_hh), reals(cell, run.b_hh)
        H_out = run.P if run.P else run.H
        h_prev = reals(cell, run.h_now) + now * run.N * run.ldh
        h, ldh = (reals(cell, run.u), run.ldu) if run.P else (
            reals(cell, run.h_now) + (1 - now) * run.N * run.ldh, run.ldh)
        h_rows = indices(run.h_rows) + now * run.N
        others, weights = reals(cell, run.c_now), reals(cell, run.unit)
        for i in range(groups):
            p = (groups - 1 - i if now else i) * together
            count = min(panels - p, together)
            if recurrent:
                product(N, H_out, count, w + p * H_out * VL_width, h_rows, bias + p * VL_width, 0, gh + p * VL_width,
                        run.ldg)
            for n in range(N):
                x, g = gx + n * run.ldg, gh + n * run.ldg
                for b in range(p * blocks, (p + count) * blocks):
                    at, q = b * VL, b * G * VL
                    if at >= run.H:
                        break
                    unit(x + q, g + q, h_prev + (n * run.ldh + at), h + (n * ldh + at),
                         others + (n * (S - 1) * run.ldu + at), weights + at, run.ldu)
                    if run.gates:
                        keep(x + q, g + q, reals(cell, run.gates + t * run.gates_t + n * run.gates_n) + b * kept)
        if run.P:
            h = reals(cell, run.h_now) + (1 - now) * run.N * run.ldh
            panels = (run.P + OUTER * VL - 1) // (OUTER * VL)
            zeros = reals(cell, run.zeros)
            project(N, run.H, panels, reals(cell, run.w_hr), indices(run.u_rows), zeros, 0, h, run.ldh)

    @njit(**INLINE)
    def joins(cell, run, now, n):
        H_out = run.P if run.P else run.H
        copy_row(reals(cell, run.h_now) + (now * run.N + n) * run.ldh, reals(cell, run.h + n * run.h_n), H_out)
        for j in range(S - 1):
            to = reals(cell, run.c_now) + (n * (S - 1) + j) * run.ldu
            copy_row(to, reals(cell, run.c + n * run.c_n) + j * run.H, run.H)

    @njit(**INLINE)
    def put_states(cell, run, now, n, h_to, c_to):
        H_out = run.P if run.P else run.H
        copy_row(reals(cell, h_to), reals(cell, run.h_now) + (now * run.N + n) * run.ldh, H_out)
        if c_to:
            for j in range(S - 1):
                source = reals(cell, run.c_now) + (n * (S - 1) + j) * run.ldu
                copy_row(reals(cell, c_to) + j * run.H, source, run.H)

    @njit(**STRICT)
    def reset_rows(cell, run, now, t, N):
        """Zero the state of the rows in which an episode begins."""
        reset = flags(run.reset + t * run.reset_t)
        for n in range(N):
            if reset[n * run.reset_n]:
                clear_row(reals(cell, run.h_now) + (now * run.N + n) * run.ldh, run.ldh)
                clear_row(reals(cell, run.c_now) + n * (S - 1) * run.ldu, (S - 1) * run.ldu)

    def forward(cell, run):
        mode = flush_on() if run.flush else 0
        h_rows, u_rows, first = indices(run.h_rows), indices(run.u_rows), indices(run.first)
        for n in range(2 * run.N):
            h_rows[n] = address(reals(cell, run.h_now) + n * run.ldh)
        for n in range(run.N if run.P else 0):
            u_rows[n] = address(reals(cell, run.u) + n * run.ldu)
        N, joined, now, start = run.N, 0, 0, 0
        while start < run.T and run.N > 0:
            steps = min(run.steps, run.T - start)
            N = input_part(cell, run, start, steps, active_rows(run, time_of(run, start), N))
            for i in range(steps):
                t = time_of(run, start + i)
                N = first[i + 1] - first[i]
                # A row joins with its initial state and leaves with its final one: at the start or the end, or, where
                # its sequence is shorter, in between.
                for n in range(N, joined):
                    put_states(cell, run, now, n, run.h + n * run.h_n, run.c + n * run.c_n if run.c else 0)
                for n in range(joined, N):
                    joins(cell, run, now, n)
                joined = N
                if run.reset and not run.reverse:
                    reset_rows(cell, run, now, t, N)
                step(cell, run, reals(cell, run.gx) + first[i] * run.ldg, now, N, t)
                now = 1 - now
                for n in range(N):
                    put_states(cell, run, now, n, run.y + t * run.y_t + n * run.y_n,
                               run.c_all + t * run.c_all_t + n * run.c_all_n if run.c_all else 0)
                if run.reset and run.reverse:
                    reset_rows(cell, run, now, t, N)
            start += steps
        for n in range(joined):
            put_states(cell, run, now, n, run.h + n * run.h_n, run.c + n * run.c_n if run.c else 0)
        if run.flush:
            flush_restore(mode)

    return forward


def _forward(cell, run):
    raise NotImplementedError


@overload(_forward, jit_options=STRICT)
def _(cell, run):
    return forward_of(cell)


@njit(cache=True, **STRICT)
def forward(cell, run):
    """All T steps."""
    _forward(cell, run)
