"""Kernels of the general path: every shape, type and cell. A step is a matrix product and one of these.

Names, shapes and what a reset means are in `engine`. A thread does one unit of one row in one direction, which is
``blockIdx.y``, and goes on to the next where there are more of them than threads.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from numba import cuda, int64, uint32

from .cell import DeviceCell, device
from .runtime import Kernel


class _Parts(NamedTuple):
    """Device functions that need one line for each gate, state and unit weight; `by` is the distance of two such."""

    sums: Any  # (a, i, b, j, by): a + b, for each gate
    sums_if: Any  # (live, a, i, b, j, by): b alone where not live
    states: Any  # (live, h, i, c, j, by): zeros where not live
    gradients: Any  # (live, dh, dc, j, by): of the states, dh a number
    put_gates: Any  # (a, i, by, values)
    put_zeros: Any  # (a, i, by)
    copy_gates: Any  # (to, i, a, j, by)
    put_others: Any  # (c, i, by, states, zero): all states but h
    forth: Any  # (gx, gh, s, unit, j, by)
    back: Any  # (gx, gh, s, unit, j, by, ds)
    add_unit: Any  # (a, i, by, gradients)


@cache
def _parts(cell: DeviceCell, projection: bool) -> _Parts:
    G, S, U = cell.G, cell.S, cell.U

    def each(text, n, first=0):
        return "".join(text.replace("@", str(k)) + ", " for k in range(first, n))

    def lines(text, n, first=0):
        return "; ".join(text.replace("@", str(k)) for k in range(first, n)) or "pass"

    h = "number(0.0)" if projection else "(h[i] if live else number(0.0))"
    unit = f", ({each('unit[j + @ * by]', U)})" if U else ""
    source = f"""
def sums(a, i, b, j, by): return ({each("a[i + @ * by] + b[j + @ * by]", G)})
def sums_if(live, a, i, b, j, by):
    return ({each("(a[i + @ * by] if live else number(0.0)) + b[j + @ * by]", G * cell.recurrent)})
def states(live, h, i, c, j, by): return ({h}, {each("(c[j + (@ - 1) * by] if live else number(0.0))", S, 1)})
def gradients(live, dh, dc, j, by): return (dh, {each("(dc[j + (@ - 1) * by] if live else number(0.0))", S, 1)})
def put_gates(a, i, by, values): {lines("a[i + @ * by] = values[@]", G)}
def put_zeros(a, i, by): {lines("a[i + @ * by] = number(0.0)", G)}
def copy_gates(to, i, a, j, by): {lines("to[i + @ * by] = a[j + @ * by]", G)}
def put_others(c, i, by, states, zero):
    {lines("c[i + (@ - 1) * by] = number(0.0) if zero else states[@]", S, 1)}
def forth(gx, gh, s, unit, j, by): return body(gx, gh, s{unit})
def back(gx, gh, s, unit, j, by, ds): return backward(gx, gh, s{unit}, ds)
def add_unit(a, i, by, gradients): {lines("a[i + @ * by] += gradients[3][@]", U)}
"""
    scope: dict[str, Any] = {"number": cell.number, "body": cell.body, "backward": cell.backward}
    exec(source, scope)
    return _Parts(*(device(scope[name]) for name in _Parts._fields))


@device
def _zeroed(t, n, N, length, backwards, reset):
    """Whether the state counts as zero before the step at t."""
    at = t + 1 if backwards else t
    return at < length and reset[at * N + n] != 0


@device
def _cut(t, n, N, length, backwards, reset):
    """Whether the gradient that comes to step t from the step run after it counts as zero."""
    at = t if backwards else t + 1
    return at < length and reset[at * N + n] != 0


@device
def _row(i, width):
    return int64(uint32(i) // uint32(width))  # a quarter of the instructions of int64


@cache
def forward(
    cell: DeviceCell, threads: int, *, ragged: bool, resets: bool, keep: bool, projection: bool, aside: bool
) -> Kernel:
    """The steps from `first` to `last` in the order in which they are run: one where there are recurrent parts.

    Without a projection it writes y and h, else u. `gx` begins at the time `t_forth`, and at `t_back` for the direction
    that runs backwards.

    keep : write `c_all`, and `u_all` where there is a projection.
    aside : write `gh_all` too, as the next step overwrites `gh`.
    """
    G, S, U, number, recurrent = cell.G, cell.S, cell.U, cell.number, cell.recurrent
    p = _parts(cell, projection)
    sums, sums_if, states_of, copy_gates, put_others, forth = (
        *(p.sums, p.sums_if, p.states, p.copy_gates, p.put_others, p.forth),
    )

    def run(
        gx, gx_t, gx_n, t_forth, t_back, b_ih, b_hh, unit, h, c, u, y, y_t, y_n, gh_all, c_all, u_all, lengths, reset,
        N, H, T, reverse, gh, first, last,
    ):  # fmt: skip
        d, D = cuda.blockIdx.y, cuda.gridDim.y
        backwards = (reverse ^ d) != 0
        t_0 = t_back if backwards else t_forth
        GH, C = G * H, (S - 1) * H
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N * H:
            n = _row(i, H)
            j = i - n * H
            length = lengths[n] if ragged else T
            row = d * N + n
            s = first
            while s < last:
                t = T - 1 - s if backwards else s
                row_t = (t * N + n) * D + d
                new_h = number(0.0)
                if t < length:
                    live = True
                    if resets:
                        live = not _zeroed(t, n, N, length, backwards, reset)
                    x_parts = sums(gx, (t - t_0) * gx_t + n * gx_n + d * GH + j, b_ih, d * GH + j, H)
                    h_parts = sums_if(live, gh, row * GH + j, b_hh, d * GH + j, H)
                    states = states_of(live, h, row * H + j, c, row * C + j, H)
                    new = forth(x_parts, h_parts, states, unit, d * U * H + j, H)
                    new_h = new[0]
                    over = False  # after the last step backwards the state is reset too
                    if resets:
                        over = backwards and t == 0 and reset[n] != 0
                    if aside:
                        copy_gates(gh_all, row_t * GH + j, gh, row * GH + j, H)
                    if keep:
                        put_others(c_all, row_t * C + j, H, new, False)
                    if not projection:
                        h[row * H + j] = number(0.0) if over else new_h
                    put_others(c, row * C + j, H, new, over)
                if projection:
                    u[row * H + j] = new_h
                    if keep:
                        u_all[row_t * H + j] = new_h
                else:
                    y[t * y_t + n * y_n + d * H + j] = new_h
                s = last if recurrent else s + 1
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "fnnnnfffffffnnfffibnnnnfnn", threads, number)


@cache
def project(number, threads: int, *, ragged: bool, resets: bool) -> Kernel:
    """h and y from the projected state, which is `p` (D, N, P)."""

    def run(p, h, y, y_t, y_n, lengths, reset, N, P, T, reverse, s):
        d = cuda.blockIdx.y
        backwards = (reverse ^ d) != 0
        t = T - 1 - s if backwards else s
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N * P:
            n = _row(i, P)
            j = i - n * P
            length = lengths[n] if ragged else T
            new = number(0.0)
            if t < length:
                new = p[(d * N + n) * P + j]
                over = False
                if resets:
                    over = backwards and t == 0 and reset[n] != 0
                h[(d * N + n) * P + j] = number(0.0) if over else new
            y[t * y_t + n * y_n + d * P + j] = new
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "fffnnibnnnnn", threads, number)


@cache
def backward(
    cell: DeviceCell, threads: int, *, ragged: bool, resets: bool, has_dy: bool, projection: bool, aside: bool
) -> Kernel:
    """The chain rule of the steps from `first` to `last`, counted from the one that was run last.

    It leaves in `dh` what reaches the state before the step past the recurrent parts: the product of `dgh` with the
    weights is still to be added. With a projection `dh` is that of u, complete, and is only read.

    aside : write `dgh` (D, N, G*H) too, where `dgh_all` has the two directions at different times.
    """
    G, S, U, number = cell.G, cell.S, cell.U, cell.number
    recurrent, sums_only = cell.recurrent, cell.sums_only
    p = _parts(cell, projection)
    sums, sums_if, states_of, gradients_of, put_gates, put_zeros, put_others, back, add_unit = (
        *(p.sums, p.sums_if, p.states, p.gradients, p.put_gates, p.put_zeros, p.put_others, p.back, p.add_unit),
    )

    def run(
        gx, gx_t, gx_n, gh_all, b_ih, b_hh, unit, h_prev_all, c_0, c_all, dy, dy_t, dy_n, dh, dc, dgx, dgh_all, dgh,
        d_unit, lengths, reset, N, H, T, reverse, first, last,
    ):  # fmt: skip
        d, D = cuda.blockIdx.y, cuda.gridDim.y
        backwards = (reverse ^ d) != 0
        GH, C = G * H, (S - 1) * H
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N * H:
            n = _row(i, H)
            j = i - n * H
            length = lengths[n] if ragged else T
            row = d * N + n
            s = first
            while s < last:
                t = s if backwards else T - 1 - s
                row_t = (t * N + n) * D + d
                if t < length:
                    live, comes = True, True
                    if resets:
                        live = not _zeroed(t, n, N, length, backwards, reset)
                        comes = not _cut(t, n, N, length, backwards, reset)
                    x_parts = sums(gx, t * gx_t + n * gx_n + d * GH + j, b_ih, d * GH + j, H)
                    h_parts = sums_if(live, gh_all, row_t * GH + j, b_hh, d * GH + j, H)
                    t_prev = t + 1 if backwards else t - 1
                    if t_prev < 0 or t_prev >= length:
                        states = states_of(live, h_prev_all, row_t * H + j, c_0, row * C + j, H)
                    else:
                        of_prev = (t_prev * N + n) * D + d
                        states = states_of(live, h_prev_all, row_t * H + j, c_all, of_prev * C + j, H)
                    d_h = number(0.0)
                    if projection or comes:
                        d_h = dh[row * H + j]
                    if has_dy:
                        d_h += dy[t * dy_t + n * dy_n + d * H + j]
                    ds = gradients_of(comes, d_h, dc, row * C + j, H)
                    found = back(x_parts, h_parts, states, unit, d * U * H + j, H, ds)
                    put_gates(dgx, row_t * GH + j, H, found[0])
                    if recurrent:
                        if not sums_only:
                            put_gates(dgh_all, row_t * GH + j, H, found[1])
                        if aside:
                            put_gates(dgh, row * GH + j, H, found[1])
                    if not projection:
                        dh[row * H + j] = found[2][0]
                    put_others(dc, row * C + j, H, found[2], False)
                    add_unit(d_unit, row * U * H + j, H, found)
                else:
                    put_zeros(dgx, row_t * GH + j, H)
                    if recurrent:
                        if not sums_only:
                            put_zeros(dgh_all, row_t * GH + j, H)
                        if aside:
                            put_zeros(dgh, row * GH + j, H)
                s = last if recurrent else s + 1
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "fnnffffffffnnffffffibnnnnnn", threads, number)


@cache
def before_projection(number, threads: int, *, ragged: bool, resets: bool, has_dy: bool) -> Kernel:
    """The gradient of the projected state, from `dh` (D, N, P) and dy, to `dp` (D, N, P) and `dp_all` (T, N, D*P).

    Of rows that run it is taken out of `dh`, to which a product is added next.
    """

    def run(dh, dy, dy_t, dy_n, dp, dp_all, lengths, reset, N, P, T, reverse, s):
        d, D = cuda.blockIdx.y, cuda.gridDim.y
        backwards = (reverse ^ d) != 0
        t = s if backwards else T - 1 - s
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N * P:
            n = _row(i, P)
            j = i - n * P
            length = lengths[n] if ragged else T
            at = (d * N + n) * P + j
            found = number(0.0)
            if t < length:
                comes = True
                if resets:
                    comes = not _cut(t, n, N, length, backwards, reset)
                if comes:
                    found = dh[at]
                if has_dy:
                    found += dy[t * dy_t + n * dy_n + d * P + j]
                dh[at] = number(0.0)
            dp[at] = found
            dp_all[((t * N + n) * D + d) * P + j] = found
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "ffnnffibnnnnn", threads, number)


@cache
def cut_initial(number, threads: int, *, ragged: bool) -> Kernel:
    """Zeros in a gradient (D, N, width) of the initial state, of rows that were reset before their first step."""

    def run(gradient, lengths, reset, N, width, reverse):
        d = cuda.blockIdx.y
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N * width and (reverse ^ d) == 0:
            n = _row(i, width)
            runs = lengths[n] > 0 if ragged else True
            if runs and reset[n] != 0:
                gradient[d * N * width + i] = number(0.0)
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "fibnnn", threads, number)


@cache
def previous(number, threads: int, *, ragged: bool, resets: bool) -> Kernel:
    """h before each step, (T, N, D*P); zeros where it was reset and where a row does not run."""

    def run(h_prev_all, y, y_t, y_n, h_0, lengths, reset, N, P, T, reverse):
        d, D = cuda.blockIdx.y, cuda.gridDim.y
        backwards = (reverse ^ d) != 0
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N * P:
            n = _row(i, P)
            j = i - n * P
            length = lengths[n] if ragged else T
            t = cuda.blockIdx.z
            while t < T:
                found = number(0.0)
                if t < length:
                    live = True
                    if resets:
                        live = not _zeroed(t, n, N, length, backwards, reset)
                    t_prev = t + 1 if backwards else t - 1
                    if t_prev < 0 or t_prev >= length:
                        found = h_0[(d * N + n) * P + j] if live else number(0.0)
                    elif live:
                        found = y[t_prev * y_t + n * y_n + d * P + j]
                h_prev_all[((t * N + n) * D + d) * P + j] = found
                t += cuda.gridDim.z
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "ffnnfibnnnn", threads, number)
