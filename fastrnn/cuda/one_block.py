"""Kernel A0: the recurrence of one row of the batch in one block, for as long as the block's registers hold w_hh.

Threads that lie side by side share a hidden unit: each has a slice of the columns of its rows of w_hh in registers. h
is in shared memory, in two buffers that take turns, so that a step has one barrier. All threads of a unit come to its
sums and run the cell; the first of them writes what there is to write.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint8, uint64

from ..cells import CellSpec
from . import ptx
from .cell import device, device_cell, step_in_place
from .pieces import in_pieces
from .runtime import Kernel

ALL = 0xFFFFFFFF


def slices(spec: CellSpec, H: int) -> int | None:
    """How many threads share a unit; None if there are not registers enough.

    Two: sums meet in one exchange, and little is computed twice.
    """
    count = 2
    needed = 4 * -(-H // (4 * count)) * spec.n_gates + 7 * spec.n_gates + 32  # about so many in a thread
    warps_each = -(-_threads(H, count) // 128)  # a multiprocessor has four parts, with 512 registers a lane each
    return count if needed <= min(255, 512 // warps_each // 8 * 8) else None


def _threads(H: int, slices: int) -> int:
    return -(-H * slices // 32) * 32


def fits(spec: CellSpec, dtype: Any, H: int, N: int, D: int, device: Any, precision: str = "ieee") -> bool:
    """Whether the kernel can be had: float32, no unit weights, and registers enough for w_hh."""
    return np.dtype(dtype) == np.float32 and spec.recurrent and not spec.unit_weights and slices(spec, H) is not None


def grid(N: int, D: int) -> tuple[int, int]:
    return N, D


def planned(
    spec: CellSpec, H: int, N: int, D: int, device: Any, precision: str, **options: bool
) -> tuple[Kernel, tuple[int, int]]:
    """The kernel for a layer on a device, and its blocks; `options` are those of `kernel`."""
    return kernel(spec, H, N, D, **options, slices=slices(spec, H)), grid(N, D)


@cache
def _sum(distance: int) -> Any:
    """Add a number up over lanes side by side, twice `distance` of them; all of these get the sum."""
    rest: Any = _sum(distance // 2) if distance > 1 else None

    @device
    def add(value):
        return value + cuda.shfl_xor_sync(ALL, value, distance)

    @device
    def add_all(value):
        return rest(add(value))

    return add if rest is None else add_all


@cache
def kernel(spec: CellSpec, H: int, N: int, D: int, *, ragged: bool, resets: bool, keep: bool, slices: int) -> Kernel:
    """The kernel, for blocks as `grid` says."""
    cell = device_cell(spec, np.dtype(np.float32))
    step = step_in_place(cell)
    G, S, C, sums_only = cell.G, cell.S, (cell.S - 1) * H, cell.sums_only
    threads = _threads(H, slices)
    vectors = -(-H // (4 * slices))  # four columns each, of a thread
    n_weights, width = 4 * vectors * G, 4 * vectors * slices
    fours, full = H % 4 == 0, width == H
    size = 2 * width + threads  # two buffers, and a place where other threads' h goes: quicker than to branch
    chains = -(-4 // G)  # sums of a gate that are worked on in turn, since each waits for its last addition
    n_sums, two_biases = chains * G, 2 * G
    total: Any = _sum(slices // 2) if slices > 1 else None
    X, Y, GH, C_ALL = 0, 1, 2, 3  # in `at` and `stride`
    READ, WRITE = 0, 1  # in `place`

    def read_some(first, end):
        @device
        def read_weights(w_hh, weights, d, unit, part):
            for v in range(first, end):
                k = 4 * (v * slices + part)
                for g in range(G):
                    a = 4 * (v * G + g)
                    row = ((d * G + g) * H + unit) * H
                    if fours and (full or k < H):
                        weights[a], weights[a + 1], weights[a + 2], weights[a + 3] = ptx.load_relaxed4(w_hh, row + k)
                    elif fours:
                        weights[a] = weights[a + 1] = weights[a + 2] = weights[a + 3] = float32(0.0)
                    else:
                        for i in range(4):
                            weights[a + i] = w_hh[row + k + i] if k + i < H else float32(0.0)

        return read_weights

    def multiply_some(first, end):
        @device
        def multiply(weights, h, at, sum_of):
            for v in range(first, end):
                for k in range(4):
                    h_k = h[at * uint64(4) + uint64(4 * slices * v + k)]
                    for g in range(G):
                        j = k % chains * G + g
                        sum_of[j] = ptx.fma(weights[4 * (v * G + g) + k], h_k, sum_of[j])

        return multiply

    read_weights = in_pieces(read_some, vectors, 8 // G)
    multiply = in_pieces(multiply_some, vectors, 16 // G)

    @device
    def read_ahead(gx, at, stride, gx_next, reset, flag):
        """A step's part of gx, and whether the state is reset before it."""
        for g in range(G):
            gx_next[g] = gx[at[X] + g * H]
        at[X] += stride[X]
        return reset[flag] if resets else uint8(0)

    @device
    def write(done, at, stride, s, gh, y, gh_all, c_all):
        """What the last step came to, if there was one and this thread writes."""
        if done:
            y[at[Y]] = s[0]
            if keep:
                for g in range(G):
                    gh_all[at[GH] + g * H] = gh[g]
                for j in range(1, S):
                    c_all[at[C_ALL] + (j - 1) * H] = s[j]
        for j in (Y, GH, C_ALL):
            at[j] += stride[j]

    @device
    def advance(weights, h, place, gx_now, first, bias, gh, s):
        """A step; h in shared memory is read, written to the other buffer, and complete when this returns."""
        sum_of = cuda.local.array(n_sums, float32)
        a_x = cuda.local.array(G, float32)
        a_h = cuda.local.array(G, float32)
        for j in range(n_sums):
            sum_of[j] = float32(0.0)
        multiply(weights, h, place[READ], sum_of)
        for g in range(G):
            gh[g] = sum_of[g]
            for j in range(1, chains):
                gh[g] += sum_of[j * G + g]
        if slices > 1:
            for g in range(G):
                gh[g] = total(gh[g])
        if resets:
            for g in range(G):
                gh[g] = float32(0.0) if first else gh[g]
            for j in range(S):
                s[j] = float32(0.0) if first else s[j]
        for g in range(G):
            a_x[g] = gx_now[g] + bias[g]
            a_h[g] = gh[g] if sums_only else gh[g] + bias[G + g]
        step(a_x, a_h, s)
        h[place[WRITE]] = s[0]
        for j in (READ, WRITE):
            place[j] = place[2 + j] - place[j]
        cuda.syncthreads()

    def one_block(
        gx, gx_t, gx_n, w_hh, b_ih, b_hh, h_0, c_0, h_n, c_n, y, y_t, y_n,
        lengths, reset, gh_all, c_all, status, T, reverse, spins,
    ):  # fmt: skip
        thread = cuda.threadIdx.x
        n, d = cuda.blockIdx.x, cuda.blockIdx.y
        part = thread % slices
        writes = part == 0 and thread // slices < H
        unit = min(thread // slices, H - 1)
        backwards = reverse ^ d != 0
        steps = int32(T)
        length = lengths[n] if ragged else steps

        weights = cuda.local.array(n_weights, float32)
        h = cuda.shared.array(size, float32, alignment=16)
        read_weights(w_hh, weights, d, unit, part)
        for k in range(thread, 2 * width, threads):
            h[uint64(k)] = h_0[(d * N + n) * H + k] if k < H else float32(0.0)

        s = cuda.local.array(S, float32)
        gh = cuda.local.array(G, float32)
        bias = cuda.local.array(two_biases, float32)
        gx_even = cuda.local.array(G, float32)
        gx_odd = cuda.local.array(G, float32)
        s[0] = h_0[(d * N + n) * H + unit]
        for j in range(1, S):
            s[j] = c_0[(d * N + n) * C + (j - 1) * H + unit]
        for g in range(G):
            b_x, b_h = b_ih[(d * G + g) * H + unit], b_hh[(d * G + g) * H + unit]
            bias[g], bias[G + g] = b_x + b_h if sums_only else b_x, b_h
            gh[g] = float32(0.0)
        if ragged and writes:
            for t in range(length, steps):
                y[int64(t) * y_t + n * y_n + d * H + unit] = float32(0.0)

        at = cuda.local.array(4, int64)
        stride = cuda.local.array(4, int64)
        place = cuda.local.array(4, uint64)  # in h: from where a thread reads, in fours; where it writes; their turns
        t = length - 1 if backwards else 0
        at[X] = int64(t) * gx_t + n * gx_n + d * G * H + unit
        at[Y] = int64(t) * y_t + n * y_n + d * H + unit
        at[GH] = (int64(t * N + n) * D + d) * G * H + unit
        at[C_ALL] = (int64(t * N + n) * D + d) * C + unit
        stride[X], stride[Y], stride[GH], stride[C_ALL] = gx_t, y_t, N * D * G * H, N * D * C
        for j in range(4):
            stride[j] = -stride[j] if backwards else stride[j]
        for j in (Y, GH, C_ALL):
            at[j] -= stride[j]  # of the step before
        flag = (t + 1 if backwards else t) * N + n  # backwards a state is reset after its step
        turn = -N if backwards else N
        place[READ], place[2 + READ] = uint64(part), uint64(vectors * slices + 2 * part)
        place[WRITE], place[2 + WRITE] = uint64(width + unit), uint64(width + 2 * unit)
        if not writes:
            place[WRITE], place[2 + WRITE] = uint64(2 * width + thread), uint64(4 * width + 2 * thread)
        first_even = first_odd = uint8(0)  # whether the state is reset before the step
        if length > 0:
            first_even = read_ahead(gx, at, stride, gx_even, reset, n)
            if backwards:
                first_even = uint8(0)
        cuda.syncthreads()

        # gx is read a step ahead, in place of that of the step before: were it read beside the one in use and then
        # copied, the copying would wait for it. Hence two steps in a turn.
        done = False
        for i in range(0, length, 2):
            write(done, at, stride, s, gh, y, gh_all, c_all)
            done = writes
            flag += turn
            if i + 1 < length:
                first_odd = read_ahead(gx, at, stride, gx_odd, reset, flag)
            advance(weights, h, place, gx_even, first_even, bias, gh, s)
            if i + 1 < length:
                write(done, at, stride, s, gh, y, gh_all, c_all)
                flag += turn
                if i + 2 < length:
                    first_even = read_ahead(gx, at, stride, gx_even, reset, flag)
                advance(weights, h, place, gx_odd, first_odd, bias, gh, s)
        write(done, at, stride, s, gh, y, gh_all, c_all)

        if writes:
            if resets and backwards and length > 0:
                for j in range(S):
                    s[j] = float32(0.0) if reset[n] else s[j]
            h_n[(d * N + n) * H + unit] = s[0]
            for j in range(1, S):
                c_n[(d * N + n) * C + (j - 1) * H + unit] = s[j]

    return Kernel(one_block, "fnnffffffffnnibffinnn", threads, float32)
