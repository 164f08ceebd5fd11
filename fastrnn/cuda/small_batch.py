"""Kernel A: the recurrence of up to four rows in one launch, spread over the whole device.

A block owns some hidden units and holds their rows of w_hh in registers. h goes from block to block through y, which is
preset to the sentinel, a word that stands for "not written yet": blocks poll what the last step writes, and there is no
barrier between them. A warp polls its own slice of h (the columns are split over the warps of a block, so that a block
reads h once) and multiplies all rows of the block with it. The partial sums meet in shared memory, where one thread for
each unit and row of the batch adds them up and runs the cell.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32, int64, uint8, uint32, uint64

from ..cells import CellSpec
from . import ptx
from .cell import device, device_cell, step_in_place
from .pieces import in_pieces
from .runtime import Kernel

MAX_ROWS = 4  # of the batch
MAX_WARPS = 8
BLOCKS = 32  # as many as are best, where they hold the weights
ALL = 0xFFFFFFFF
SENTINEL = 0xFFFFFFFF
NAN = 0x7FFFFFFF  # written in place of a value that looks like the sentinel
LOOK = 1024  # a power of 2: after so many spins a polling thread looks whether another one has given up


class Tuning(NamedTuple):
    """How the work is split.

    Attributes
    ----------
    units : int
        Hidden units of a block.
    warps : int
        Warps of a block, each with a slice of the columns of w_hh.
    groups : int
        Groups of lanes in a warp (a power of 2), each with a share of the rows; its lanes share the warp's columns.
    """

    units: int
    warps: int
    groups: int = 4

    @property
    def lanes(self) -> int:
        """Of a group."""
        return 32 // self.groups

    def rows(self, G: int) -> int:
        """Rows of w_hh that a lane has."""
        return -(-self.units * G // self.groups)

    def vectors(self, H: int) -> int:
        """Four columns each, that a lane has of these rows."""
        return -(-H // (4 * self.lanes * self.warps))

    def registers(self, G: int, H: int, N: int) -> int:
        """About how many a thread needs."""
        return 4 * self.vectors(H) * (self.rows(G) + N) + self.rows(G) + 44


def tuning(spec: CellSpec, H: int, N: int, D: int, multiprocessors: int) -> Tuning | None:
    """The split for a device; None if its registers are too few.

    Few units in a block are quick to compute, and few blocks are quick to read h, as all of them poll the same lines:
    on an H100 32 blocks are ahead of 64 by 5 to 10 %, and of 128 by 20 %.
    """
    G, per_direction = spec.n_gates, multiprocessors // D
    if not per_direction:
        return None
    chunks = -(-H // 32)  # columns that a warp multiplies at once
    warps = min(range(1, min(chunks, MAX_WARPS) + 1), key=lambda w: (-(-chunks // w) * max(w, 4), -w))
    wanted = 1 << (-(-H // BLOCKS) - 1).bit_length()
    for units in (*(wanted >> i for i in range(wanted.bit_length())), -(-H // per_direction)):
        found = Tuning(min(units, 32 * warps // N), warps)
        if grid(H, D, found)[0] <= per_direction and found.registers(G, H, N) <= 244:
            return found
    return None


def fits(spec: CellSpec, dtype: Any, H: int, N: int, D: int, device: Any, precision: str = "ieee") -> bool:
    """Whether the kernel can be had: float32, no unit weights, H a multiple of 4, and registers enough for w_hh."""
    return (
        np.dtype(dtype) == np.float32
        and spec.recurrent
        and not spec.unit_weights
        and H % 4 == 0
        and 0 < N <= MAX_ROWS
        and tuning(spec, H, N, D, device.multiprocessors) is not None
    )


def grid(H: int, D: int, tuning: Tuning) -> tuple[int, int]:
    return -(-H // tuning.units), D


def planned(
    spec: CellSpec, H: int, N: int, D: int, device: Any, precision: str, **options: bool
) -> tuple[Kernel, tuple[int, int]]:
    """The kernel for a layer on a device, and its blocks; `options` are those of `kernel`."""
    how = tuning(spec, H, N, D, device.multiprocessors)
    assert how is not None
    return kernel(spec, H, N, D, **options, tuning=how), grid(H, D, how)


@cache
def _fold(count: int, distance: int) -> Any:
    """Add `count` values of each lane up over lanes, and leave each lane with an equal share of the sums.

    With a lane `distance` away, a lane exchanges half of its values for the other half of that lane's, and adds them to
    its own; then at half the distance, down to 1. Once it has a single value, both have the sum.
    """
    half = count // 2

    @device
    def fold(values, lane):
        if half:
            upper = lane & distance != 0
            for i in range(half):
                low, high = values[i], values[half + i]  # read before the choice, lest it is one between addresses
                kept, given = (high, low) if upper else (low, high)
                values[i] = kept + cuda.shfl_xor_sync(ALL, given, distance)
        else:
            values[0] += cuda.shfl_xor_sync(ALL, values[0], distance)

    if distance == 1:
        return fold
    rest = _fold(max(half, 1), distance // 2)

    @device
    def fold_all(values, lane):
        fold(values, lane)
        rest(values, lane)

    return fold_all


@cache
def kernel(spec: CellSpec, H: int, N: int, D: int, *, ragged: bool, resets: bool, keep: bool, tuning: Tuning) -> Kernel:
    """The kernel, for blocks as `grid` says and y preset to the sentinel."""
    cell = device_cell(spec, np.dtype(np.float32))
    step = step_in_place(cell)
    G, S, C, sums_only = cell.G, cell.S, (cell.S - 1) * H, cell.sums_only
    assert tuning.units * N <= 32 * tuning.warps, "a thread for each unit and row of the batch"
    units, warps, lanes, rows, vectors = tuning.units, tuning.warps, tuning.lanes, tuning.rows(G), tuning.vectors(H)
    stride = 4 * lanes  # between a lane's vectors
    full = vectors * warps * stride == H
    n_weights, n_h = 4 * vectors * rows, 4 * vectors * N
    padded = 1 << (rows - 1).bit_length()
    sums = max(1, padded // lanes)  # of a lane, when its rows are added up over its group
    alike = max(1, lanes // padded)  # lanes that have the same sum then
    fold: Any = _fold(padded, lanes // 2) if lanes > 1 else None
    width = 1 << (G - 1).bit_length()  # of a unit in shared memory: its gates are read at once
    nowhere = warps * units * width  # after the sums of a row of the batch, where threads put what nobody reads
    of_row = nowhere + 32 * warps
    of_step, both_steps = N * of_row, 2 * N * of_row

    def read_some(first, end):
        @device
        def read_weights(w_hh, weights, d, first_unit, first_row, column):
            for r in range(first, end):
                row = first_row + r
                unit = first_unit + row // G
                real = row < units * G and unit < H
                for v in range(vectors):
                    a = 4 * (r * vectors + v)
                    k = column + v * stride
                    if real and (full or k < H):
                        at = ((d * G + row % G) * H + unit) * H + k
                        weights[a], weights[a + 1], weights[a + 2], weights[a + 3] = ptx.load_relaxed4(w_hh, at)
                    else:
                        weights[a] = weights[a + 1] = weights[a + 2] = weights[a + 3] = float32(0.0)

        return read_weights

    def multiply_some(first, end):
        @device
        def multiply(weights, h, n, sum_of):
            for k in range(first, end):
                for r in range(rows):
                    sum_of[r] = ptx.fma(weights[4 * vectors * r + k], h[4 * vectors * n + k], sum_of[r])

        return multiply

    read_weights = in_pieces(read_some, rows, 8 // vectors)
    multiply = in_pieces(multiply_some, 4 * vectors, 64 // rows)

    @device
    def read_h(source, at, h, n, column):
        """A lane's part of h of row n of the batch; the sentinel if it is in there, else something less."""
        newest = uint32(0)
        for v in range(vectors):
            if full or column + v * stride < H:
                a = 4 * (n * vectors + v)
                h[a], h[a + 1], h[a + 2], h[a + 3] = ptx.load_relaxed4(source, at + v * stride)
                pair = max(ptx.bits(h[a]), ptx.bits(h[a + 1]))
                newest = max(newest, max(pair, max(ptx.bits(h[a + 2]), ptx.bits(h[a + 3]))))
        return newest

    @device
    def add_up(weights, h, n, sum_of, part):
        for r in range(padded):
            sum_of[r] = float32(0.0)
        multiply(weights, h, n, sum_of)
        if lanes > 1:
            fold(sum_of, part)

    def small_batch(
        gx, gx_t, gx_n, w_hh, b_ih, b_hh, h_0, c_0, h_n, c_n, y, y_t, y_n,
        lengths, reset, gh_all, c_all, status, T, reverse, spins,
    ):  # fmt: skip
        thread = cuda.threadIdx.x
        warp, lane = thread // 32, thread % 32
        group, part = lane // lanes, lane % lanes
        first_unit = cuda.blockIdx.x * units
        d = cuda.blockIdx.y
        backwards = reverse ^ d != 0
        way = -1 if backwards else 1
        steps = int32(T)

        # ---- of every thread: its rows, and where its sums go
        weights = cuda.local.array(n_weights, float32)
        h = cuda.local.array(n_h, float32)
        sum_of = cuda.local.array(padded, float32)
        length = cuda.local.array(N, int32)
        partial = cuda.shared.array(both_steps, float32, alignment=16)
        to = cuda.local.array(sums, uint64)
        column = 4 * (warp * vectors * lanes + part)
        read_weights(w_hh, weights, d, first_unit, group * rows, column)
        for i in range(n_h):
            h[i] = float32(0.0)
        for n in range(N):
            length[n] = lengths[n] if ragged else steps
        for j in range(sums):
            r = part // alike * sums + j
            row = group * rows + r
            if part % alike == 0 and r < rows and row < units * G:
                to[j] = uint64((warp * units + row // G) * width + row % G)
            else:
                to[j] = uint64(nowhere + thread)  # quicker than to branch

        # ---- of threads that run the cell: their unit and row of the batch
        s = cuda.local.array(S, float32)
        b_x = cuda.local.array(G, float32)
        b_h = cuda.local.array(G, float32)
        gx_next = cuda.local.array(G, float32)
        a_x = cuda.local.array(G, float32)
        a_h = cuda.local.array(G, float32)
        runs_cell = thread < units * N and first_unit + thread % units < H
        m = thread // units if runs_cell else 0
        unit = first_unit + thread % units if runs_cell else 0
        own = uint64(m * (of_row // width) + unit - first_unit)  # where their sums are, counted in units
        length_m = lengths[m] if ragged else steps
        t = steps - 1 if backwards else 0
        gx_at = int64(t) * gx_t + m * gx_n + d * G * H + unit
        y_at = int64(t) * y_t + m * y_n + d * H + unit
        gh_at = (int64(t * N + m) * D + d) * G * H + unit
        c_at = (int64(t * N + m) * D + d) * C + unit
        cut = uint8(0)  # whether the state is reset before the step
        if runs_cell:
            s[0] = h_0[(d * N + m) * H + unit]
            for j in range(1, S):
                s[j] = c_0[(d * N + m) * C + (j - 1) * H + unit]
            for g in range(G):
                b_x[g] = b_ih[(d * G + g) * H + unit]
                b_h[g] = b_hh[(d * G + g) * H + unit]
                gx_next[g] = gx[gx_at + g * H]
            if resets and not backwards:
                cut = reset[m]

        before = int64(t - way) * y_t + d * H + column  # where h of the last step is
        buffer, own_now, own_twice = uint64(0), own, own + own + uint64(of_step // width)
        limit = int32(spins)
        for i in range(steps):
            # ---- wait for h. The whole warp turns, so that the compiler knows that its lanes stay together.
            left = limit
            while True:
                late = False
                for n in range(N):
                    polls = i > 0
                    if ragged:
                        polls = t < length[n] - 1 if backwards else polls and t < length[n]
                    source = y if polls else h_0
                    at = before + n * y_n if polls else int64((d * N + n) * H + column)
                    newest = read_h(source, at, h, n, column)
                    late = late or (polls and newest == uint32(SENTINEL))
                if not cuda.any_sync(ALL, late):
                    break
                left -= 1
                if left <= 0 or (left & (LOOK - 1) == 0 and ptx.load_relaxed(status, 0) != 0):
                    # Give up: wait for nothing from here on, so that all threads come to their end.
                    ptx.store_relaxed(status, 0, 1)
                    limit = int32(0)
                    break

            # ---- partial sums
            for n in range(N):
                add_up(weights, h, n, sum_of, part)
                for j in range(sums):
                    partial[buffer + to[j] + uint64(n * of_row)] = sum_of[j]
            cuda.syncthreads()

            # ---- the cell. Others wait for h: it is written before anything else is done.
            if runs_cell:
                for g in range(G):
                    a_x[g] = gx_next[g] + (b_x[g] + b_h[g] if sums_only else b_x[g])
                    a_h[g] = partial[own_now * uint64(width) + uint64(g)]
                for w in range(1, warps):
                    for g in range(G):
                        a_h[g] += partial[own_now * uint64(width) + uint64(w * units * width + g)]
                if not ragged or t < length_m:
                    if resets:
                        for g in range(G):
                            a_h[g] = float32(0.0) if cut else a_h[g]
                        for j in range(S):
                            s[j] = float32(0.0) if cut else s[j]
                    if keep:
                        for g in range(G):
                            gx_next[g] = a_h[g]
                    if not sums_only:
                        for g in range(G):
                            a_h[g] += b_h[g]
                    step(a_x, a_h, s)
                    new = s[0]
                    if ptx.bits(new) == uint32(SENTINEL):
                        new = ptx.from_bits(NAN)
                    ptx.store_relaxed(y, y_at, new)
                    if keep:
                        for g in range(G):
                            gh_all[gh_at + g * H] = gx_next[g]
                        for j in range(1, S):
                            c_all[c_at + (j - 1) * H] = s[j]
                else:
                    ptx.store_relaxed(y, y_at, float32(0.0))
                if i + 1 < steps:
                    gx_at += way * gx_t
                    for g in range(G):
                        gx_next[g] = gx[gx_at + g * H]
                    if resets:
                        # Backwards the flag of the step just run; a row that did not run yet has none.
                        cut = reset[t * N + m if backwards else (t + 1) * N + m]
                        if ragged and backwards and t >= length_m:
                            cut = uint8(0)
                y_at += way * y_t
                gh_at += way * (N * D * G * H)
                c_at += way * (N * D * C)
            buffer, own_now = uint64(of_step) - buffer, own_twice - own_now
            before += way * y_t
            t += way

        if runs_cell:
            if resets and backwards:
                for j in range(S):
                    s[j] = float32(0.0) if length_m > 0 and reset[m] else s[j]
            h_n[(d * N + m) * H + unit] = s[0]
            for j in range(1, S):
                c_n[(d * N + m) * C + (j - 1) * H + unit] = s[j]

    return Kernel(small_batch, "fnnffffffffnnibffinnn", 32 * warps, float32, cooperative=True)
