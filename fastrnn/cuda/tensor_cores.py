"""Kernel B: a layer's forward pass in one launch for batches of some rows, its products on the tensor cores.

The rows of the batch are shared out over groups of blocks, and the units of a group over its blocks. A block has its
rows of w_hh in registers all the time, each warp those of its share of the columns. At each step its warps poll their
columns of the group's h from `y` itself, where blocks put it (a word that was not written yet has the bits
`SENTINEL`); multiply; put their partial sums into shared memory; and after the step's only barrier a thread for each
unit and row adds them up, runs the cell and writes h. Partial sums have two places, used in turns, so that one barrier
is enough. A row of y that will not be written, or of which the step takes nothing, is not polled.

How fast: a step waits for h to go from one multiprocessor to others, then for the products. Then comes what goes
through the L2 cache, ``blocks of a group * N * H`` numbers a step: hence groups.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint32, uint64

from ..cells import CellSpec
from . import ptx
from .cell import device_cell, step_in_place
from .fragments import CHUNK, TILE, inlined, loader, multiplier, totaler
from .runtime import Kernel
from .tiling import Tuning, tuning

__all__ = ["Tuning", "fits", "grid", "kernel", "tuning"]

SENTINEL = 0xFFFFFFFF
NAN = 0x7FFFFFFF  # what stands for a value with the sentinel's bits
LANES = 0xFFFFFFFF
LOOK = 64  # tries between looks at whether others gave up


def fits(spec: CellSpec, dtype: Any, H: int, N: int, D: int, device: Any, precision: str = "ieee") -> bool:
    """Whether the kernel can be had: float32, no unit weights, H a multiple of 16, and room for w_hh."""
    return (
        np.dtype(dtype) == np.float32
        and spec.recurrent
        and not spec.unit_weights
        and device.capability >= (8, 0)
        and tuning(spec, H, N, D, device.multiprocessors, device.shared_per_block, precision) is not None
    )


def grid(H: int, N: int, D: int, tuning: Tuning) -> tuple[int, int]:
    """Blocks of a launch."""
    return tuning.groups(N) * tuning.blocks(H), D


def planned(
    spec: CellSpec, H: int, N: int, D: int, device: Any, precision: str, **options: bool
) -> tuple[Kernel, tuple[int, int]]:
    """The kernel for a layer on a device, and its blocks; `options` are those of `kernel`."""
    how = tuning(spec, H, N, D, device.multiprocessors, device.shared_per_block, precision)
    assert how is not None
    return kernel(spec, H, N, D, **options, precision=precision, tuning=how), grid(H, N, D, how)


# gx, gx_t, gx_n, w_hh, b_ih, b_hh, h_0, c_0, h_n, c_n, y, y_t, y_n, lengths, reset, gh_all, c_all, status, T, reverse,
# spins
PARAMETERS = "fnnffffffffnnibffinnn"


@cache
def kernel(
    spec: CellSpec, H: int, N: int, D: int, *, ragged: bool, resets: bool, keep: bool, precision: str, tuning: Tuning
) -> Kernel:
    """The kernel for a layer of that size, T >= 1 steps; launched on `grid`. See the module."""
    cell = device_cell(spec, np.dtype(np.float32))
    f = tuning.fragments(cell.G, H, precision)
    load_weights, multiply, total = loader(f), multiplier(f), totaler(f)
    step_cell = step_in_place(cell)
    G, S, SUMS_ONLY = cell.G, cell.S, cell.sums_only
    GH, C = G * H, (S - 1) * H
    WARPS, ROW_TILES, UNIT_TILES = tuning.warps, tuning.row_tiles, tuning.unit_tiles
    BLOCKS, ROWS, UNITS = tuning.blocks(H), TILE * ROW_TILES, TILE * UNIT_TILES
    GATE_TILES, K, EXACT, APART = f.gate_tiles, f.chunks, f.exact, CHUNK * WARPS
    WHOLE = f.in_registers if f.ieee and not f.stored else 1
    LARGE = f.in_registers if f.stored or not f.ieee else 1
    SMALL = f.in_registers if f.stored and f.ieee else 1
    SUMS, SLOTS, ITEMS = f.sums, tuning.slots, tuning.items
    OWN_STATES, OWN_GATES, LANE = ITEMS * S, ITEMS * G, 4 * K
    PARTIALS, PARTIAL = tuning.partials(G), SLOTS * G * 32
    WEIGHTS = 2 * PARTIALS

    @inlined
    def late(values, at):
        """Whether one of four values has not come yet."""
        return (
            (ptx.bits(values[at]) == SENTINEL)
            | (ptx.bits(values[at + 1]) == SENTINEL)
            | (ptx.bits(values[at + 2]) == SENTINEL)
            | (ptx.bits(values[at + 3]) == SENTINEL)
        )

    @inlined
    def readable(value):
        return ptx.from_bits(uint32(NAN)) if ptx.bits(value) == SENTINEL else value

    @inlined
    def read_late(values, y, at):
        for k in range(K):
            if late(values, 4 * k):
                h0, h1, h2, h3 = ptx.load_relaxed4(y, at + k * APART)
                values[4 * k], values[4 * k + 1], values[4 * k + 2], values[4 * k + 3] = h0, h1, h2, h3

    @inlined
    def read_first(values, h_0, at, column):
        for k in range(K):
            if EXACT or column + k * APART < H:
                h0, h1, h2, h3 = ptx.load_relaxed4(h_0, at + k * APART)
                values[4 * k], values[4 * k + 1] = readable(h0), readable(h1)
                values[4 * k + 2], values[4 * k + 3] = readable(h2), readable(h3)

    @inlined
    def begins(reset, backwards, time, before, row):
        """Whether the state counts as zero: an episode begins with the step, or ended with the one run before."""
        return reset[(before if backwards else time) * N + row] != 0

    @inlined
    def ask(values, n, first_row, line, column, d, time, before, backwards, T, y, y_t, y_n, h_0, lengths, reset):
        """Begin to read a tile of rows of h as it is before the step. Where in `y` it is."""
        row = first_row + n * TILE + line
        end = int64(0)
        if row < N:
            end = lengths[row] if ragged else T
        starts = before >= end or before < 0
        takes = time < end
        if resets and takes and not (backwards and starts):
            takes = not begins(reset, backwards, time, before, row)
        for k in range(K):
            polled = takes and not starts and (EXACT or column + k * APART < H)
            value = ptx.from_bits(uint32(SENTINEL)) if polled else float32(0.0)
            for e in range(4):
                values[4 * k + e] = value
        if takes and starts:
            read_first(values, h_0, (d * N + row) * H + column, column)
        at = row * y_n + before * y_t + d * H + column
        read_late(values, y, at)
        return at

    @inlined
    def wait(values, y, at, status, spins, gave_up):
        """Until all values have come. True if they never did: then nothing is waited for any more."""
        tries = 0
        while True:
            ready = True
            for k in range(K):
                ready &= not late(values, 4 * k)
            if cuda.all_sync(LANES, ready | gave_up):
                return gave_up
            tries += 1
            if tries >= spins:
                gave_up = True
                ptx.store_relaxed(status, 0, 1)
            elif tries % LOOK == 0:
                gave_up = cuda.any_sync(LANES, ptx.load_relaxed(status, 0) != 0)
            read_late(values, y, at)

    def tensor_cores(
        gx, gx_t, gx_n, w_hh, b_ih, b_hh, h_0, c_0, h_n, c_n, y, y_t, y_n, lengths, reset, gh_all, c_all, status, T,
        reverse, spins,
    ):  # fmt: skip
        thread = int32(cuda.threadIdx.x)
        lane, warp = thread & 31, thread >> 5
        d, block = int32(cuda.blockIdx.y), int32(cuda.blockIdx.x)
        first_row, first_unit = block // BLOCKS * ROWS, block % BLOCKS * UNITS
        line, quarter = lane >> 2, lane & 3
        column = warp * CHUNK + 4 * quarter
        backwards = (reverse ^ d) != 0
        shared = cuda.shared.array(0, float32)  # partial sums (2, WARPS, SLOTS, G, 32), then weights

        whole = cuda.local.array(WHOLE, float32)
        large = cuda.local.array(LARGE, uint32)
        small = cuda.local.array(SMALL, uint32)
        load_weights(whole, large, small, shared, WEIGHTS, w_hh, d * GH, first_unit, thread)

        # The pairs of a unit and a row that this thread runs the cell for. The input part is read a step ahead.
        states = cuda.local.array(OWN_STATES, float32)
        x = cuda.local.array(OWN_GATES, float32)
        x_bias = cuda.local.array(OWN_GATES, float32)
        h_bias = cuda.local.array(OWN_GATES, float32)
        ends = cuda.local.array(ITEMS, int32)
        in_y = cuda.local.array(ITEMS, int64)
        in_x = cuda.local.array(ITEMS, int64)
        time = T - 1 if backwards else int64(0)
        for i in range(ITEMS):
            slot = i * WARPS + warp
            row = first_row + slot // (2 * UNIT_TILES) * TILE + 2 * quarter + slot % 2
            unit = first_unit + slot // 2 % UNIT_TILES * TILE + line
            ends[i] = 0
            in_y[i] = row * y_n + d * H + unit
            in_x[i] = row * gx_n + d * GH + unit
            if slot < SLOTS and row < N and unit < H:
                ends[i] = lengths[row] if ragged else T
                states[i * S] = h_0[(d * N + row) * H + unit]
                for s in range(1, S):
                    states[i * S + s] = c_0[(d * N + row) * C + (s - 1) * H + unit]
                for g in range(G):
                    at = d * GH + g * H + unit
                    x[i * G + g] = gx[in_x[i] + time * gx_t + g * H]
                    x_bias[i * G + g] = b_ih[at] + b_hh[at] if SUMS_ONLY else b_ih[at]
                    h_bias[i * G + g] = float32(0.0) if SUMS_ONLY else b_hh[at]

        coming = cuda.local.array(LANE, float32)
        h = cuda.local.array(LANE, float32)
        sums = cuda.local.array(SUMS, float32)
        state = cuda.local.array(S, float32)
        gx_now = cuda.local.array(G, float32)
        gh = cuda.local.array(G, float32)
        place = 0  # of the partial sums
        gave_up = False
        for step in range(T):
            time = T - 1 - step if backwards else step
            before = time + 1 if backwards else time - 1

            at = ask(h, 0, first_row, line, column, d, time, before, backwards, T, y, y_t, y_n, h_0, lengths, reset)
            gave_up = wait(h, y, at, status, spins, gave_up)
            for n in range(ROW_TILES):
                if n + 1 < ROW_TILES:  # the next tile is on its way while this one is multiplied
                    at = ask(
                        coming, n + 1, first_row, line, column, d, time, before, backwards, T, y, y_t, y_n, h_0,
                        lengths, reset,
                    )  # fmt: skip
                multiply(whole, large, small, shared, WEIGHTS, h, sums, thread)
                for tile in range(GATE_TILES):
                    for parity in range(2):
                        slot = (n * UNIT_TILES + tile // G) * 2 + parity
                        to = place + warp * PARTIAL + (slot * G + tile % G) * 32 + lane
                        shared[uint64(to)] = total(sums, 2 * tile + parity)
                if n + 1 < ROW_TILES:
                    gave_up = wait(coming, y, at, status, spins, gave_up)
                    for i in range(LANE):
                        h[i] = coming[i]

            y_now = time * y_t
            x_next = (time - 1 if backwards else time + 1) * gx_t
            cuda.syncthreads()
            for i in range(ITEMS):
                slot = i * WARPS + warp
                row = first_row + slot // (2 * UNIT_TILES) * TILE + 2 * quarter + slot % 2
                unit = first_unit + slot // 2 % UNIT_TILES * TILE + line
                if slot < SLOTS and row < N and unit < H:
                    for g in range(G):
                        gh[g] = float32(0.0)
                        for w in range(WARPS):
                            gh[g] += shared[uint64(place + w * PARTIAL + (slot * G + g) * 32 + lane)]
                        if keep:
                            gh_all[(time * N + row) * (D * GH) + d * GH + g * H + unit] = gh[g]
                    value = float32(0.0)
                    if time < ends[i]:
                        if resets and not (backwards and before >= ends[i]):  # noqa: SIM102
                            if begins(reset, backwards, time, before, row):
                                for s in range(S):
                                    states[i * S + s] = float32(0.0)
                        for g in range(G):
                            gx_now[g] = x[i * G + g] + x_bias[i * G + g]
                            gh[g] += h_bias[i * G + g]
                        for s in range(S):
                            state[s] = states[i * S + s]
                        step_cell(gx_now, gh, state)
                        for s in range(S):
                            states[i * S + s] = state[s]
                        value = readable(state[0])
                    ptx.store_relaxed(y, in_y[i] + y_now, value)
                    if keep:
                        for s in range(1, S):
                            at = (time * N + row) * (D * C) + d * C + (s - 1) * H + unit
                            c_all[at] = states[i * S + s]
                    if step + 1 < T:
                        for g in range(G):
                            x[i * G + g] = gx[in_x[i] + x_next + g * H]
            place = PARTIALS - place

        for i in range(ITEMS):
            slot = i * WARPS + warp
            row = first_row + slot // (2 * UNIT_TILES) * TILE + 2 * quarter + slot % 2
            unit = first_unit + slot // 2 % UNIT_TILES * TILE + line
            if slot < SLOTS and row < N and unit < H:
                if resets and backwards and ends[i] > 0 and reset[row] != 0:
                    for s in range(S):
                        states[i * S + s] = float32(0.0)
                h_n[(d * N + row) * H + unit] = states[i * S]
                for s in range(1, S):
                    c_n[(d * N + row) * C + (s - 1) * H + unit] = states[i * S + s]

    shared_bytes = tuning.shared(G, H, precision)
    return Kernel(tensor_cores, PARAMETERS, 32 * WARPS, float32, cooperative=True, shared=shared_bytes)
