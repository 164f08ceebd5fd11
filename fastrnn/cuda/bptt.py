"""Backprop through time of small batches in one launch, all blocks at work together.

A block owns some hidden units: the columns of w_hh that give ``dh[u] = sum over k of dgh[k] * w_hh[k, u]``. Its warps
keep a slice of the k each in registers, for all of its units, so that a block reads `dgh` of the step run after just
once. `dgh` itself is what blocks wait for: it is full of a sentinel at first, and a word that is another one has been
written. Rows of a batch have nothing to do with each other; where multiprocessors are left, they are shared out among
groups of blocks.

One more warp of each block finishes: it adds up what the warps found, one of its lanes for each unit and row, and runs
the chain rule. That is linear in the gradients of the new states, ``d = a * dh + b``, and a and b are computed while
the others wait: from the last number's arrival to the store there is one product and sum, and no exponential.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda, float32, int32, uint32

from ..cells import CellSpec
from ..derive import operations
from . import ptx
from .cell import backward_in_place, device, device_cell
from .runtime import Kernel

SENTINEL, OTHER_NAN, ALL_LANES = 0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF
PARAMETERS = "fnnffffffffnnffffffibinnn"

# A multiprocessor has four parts of 16384 registers each, among which warps are dealt out. With the warp that finishes
# there are three in each, which leaves a thread 168 registers; up to 32 of them are for other things than products.
_MOST_WARPS = 11
_REGISTERS = 168
_OTHER_REGISTERS = 32


class Plan(NamedTuple):
    """How the work is shared out.

    Attributes
    ----------
    units, rows : int
        Of each block, but for the last ones.
    blocks, groups : int
        Blocks that share out the units, and how many times so many, to share out the rows.
    chunks : int
        Of four k, of each lane.
    warps : int
        Of a block, without the one that finishes.
    at_once : int
        Rows whose gradients a lane has in registers.
    """

    units: int
    rows: int
    blocks: int
    groups: int
    chunks: int
    warps: int
    at_once: int


def plan(spec: CellSpec, H: int, N: int, D: int, multiprocessors: int) -> Plan | None:
    """The plan for a shape; None where there is none."""
    GH = spec.n_gates * H
    if not spec.recurrent or spec.unit_weights or GH % 4 or not N:
        return None
    chunks = -(-GH // (128 * _MOST_WARPS))
    warps = -(-GH // (128 * chunks))
    for units in 8, 16:
        blocks = -(-H // units)
        groups = min(N, multiprocessors // (blocks * D))
        if groups:
            rows = -(-N // groups)
            free = _REGISTERS - _OTHER_REGISTERS - units - 4 * chunks * units
            at_once = max((n for n in range(1, rows + 1) if rows % n == 0 and 4 * chunks * n <= free), default=0)
            if not at_once or units * rows > 32:
                return None
            return Plan(units, rows, blocks, -(-N // rows), chunks, warps, at_once)
    return None


def fits(spec: CellSpec, dtype: Any, H: int, N: int, D: int, device: Any, precision: str = "ieee") -> bool:
    """Whether the kernel is for that shape on a device with `device.multiprocessors`; not for projections."""
    return dtype == np.float32 and plan(spec, H, N, D, device.multiprocessors) is not None


def grid(spec: CellSpec, H: int, N: int, D: int, multiprocessors: int) -> tuple[int, int]:
    """Blocks, directions."""
    chosen = plan(spec, H, N, D, multiprocessors)
    assert chosen is not None
    return chosen.blocks * chosen.groups, D


def planned(
    spec: CellSpec, H: int, N: int, D: int, device: Any, precision: str, **options: bool
) -> tuple[Kernel, tuple[int, int]]:
    """The kernel for a layer on a device, and its blocks; `options` are those of `kernel`."""
    many = device.multiprocessors
    return kernel(spec, H, N, D, **options, multiprocessors=many), grid(spec, H, N, D, many)


@cache
def kernel(
    spec: CellSpec, H: int, N: int, D: int, *, ragged: bool, resets: bool, has_dy: bool, multiprocessors: int = 132
) -> Kernel:
    """The kernel, for `grid` of the same numbers.

    Its parameters: gx (T, N, D*G*H) with strides; gh_all (T, N, D*G*H) h @ w_hh.T without bias; biases (D*G*H);
    w_hh_t (D*H, G*H); h_prev_all (T, N, D*H) what h was before each step, 0 at a reset; c_0, dc_n, dc_0 (D, N, C);
    c_all (T, N, D*C); dy (T, N, D*H) with strides; dh_n, dh_0 (D, N, H); dgx, dgh (T, N, D*G*H), dgh full of the
    sentinel, dgx not written where only sums matter; lengths (N); reset (T, N); status (1), made 1 where a wait took
    more than `spins` tries; T; reverse; spins.
    """
    chosen = plan(spec, H, N, D, multiprocessors)
    assert chosen is not None
    U, R, BLOCKS, _, _, W, _ = chosen
    multiply = _multiply(chosen, spec.n_gates * H, H, N, D)
    finish = _finish(spec, chosen, H, N, D, ragged, resets, has_dy)
    PARTIALS = 2 * W * U * R

    def bptt(
        gx, gx_t, gx_n, gh_all, b_ih, b_hh, w_hh_t, h_prev_all, c_0, c_all, dy, dy_t, dy_n, dh_n, dc_n,
        dgx, dgh, dh_0, dc_0, lengths, reset, status, T, reverse, spins,
    ):  # fmt: skip
        partial = cuda.shared.array(PARTIALS, float32)
        lane, warp = int32(cuda.threadIdx.x & 31), int32(cuda.threadIdx.x >> 5)
        direction = cuda.blockIdx.y
        backwards = reverse ^ direction
        first_unit, first_row = cuda.blockIdx.x % BLOCKS * U, cuda.blockIdx.x // BLOCKS * R
        if warp < W:
            multiply(w_hh_t, dgh, partial, status, first_unit, first_row, direction, backwards, warp, lane, T, spins)
        else:
            finish(
                gx, gx_t, gx_n, gh_all, b_ih, b_hh, h_prev_all, c_0, c_all, dy, dy_t, dy_n, dh_n, dc_n,
                dgx, dgh, dh_0, dc_0, lengths, reset, partial, first_unit, first_row, direction, backwards, lane, T,
            )  # fmt: skip

    return Kernel(bptt, PARAMETERS, 32 * (W + 1), float32, cooperative=True)


@device
def meet():
    """The barrier of a block, in one place for warps that do different things."""
    cuda.syncthreads()


@device
def fold(sums, half, mask, lane):
    """Two halves of the lanes each give away half of their sums and add what they get to the others.

    With no halves left both add to the one.
    """
    if half == 0:
        sums[0] += cuda.shfl_xor_sync(ALL_LANES, sums[0], mask)
    upper = lane & mask != 0
    for i in range(half):
        a, b = sums[i], sums[i + half]
        sums[i] = (b if upper else a) + cuda.shfl_xor_sync(ALL_LANES, a if upper else b, mask)


@device
def is_sentinel(value):
    return ptx.bits(value) == uint32(SENTINEL)


def _multiply(chosen: Plan, GH: int, H: int, N: int, D: int) -> Any:
    """What the warps do that multiply: of each step, once it is there, their part of ``dgh @ w_hh``."""
    U, R, _, _, NC, W, B = chosen
    CHUNKS, WEIGHTS, M = NC * B, 4 * NC * U, U * R
    VALUES = 4 * CHUNKS
    WHOLE_ROWS, WHOLE_CHUNKS = N % R == 0, 128 * NC * W == GH
    OF_STEP = N * D * GH

    @device
    def load(v, i, dgh, here, first, rows):
        """Chunk i of those of the rows from `first` on, of the step at `here`; those of one row come together."""
        row = first + i // NC if WHOLE_ROWS else min(first + i // NC, rows)
        k = row * (D * GH) + i % NC * 128
        v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3] = ptx.load_relaxed4(dgh, here + k)

    @device
    def multiply(w_hh_t, dgh, partial, status, first_unit, first_row, direction, backwards, warp, lane, T, spins):
        w = cuda.local.array(WEIGHTS, float32)
        v = cuda.local.array(VALUES, float32)
        sums = cuda.local.array(U, float32)
        k = 4 * (warp * (32 * NC) + lane)
        for j in range(NC):
            inside = WHOLE_CHUNKS or k + 128 * j < GH
            for u in range(U):
                row = direction * H + min(first_unit + u, H - 1)
                w0, w1, w2, w3 = ptx.load_relaxed4(w_hh_t, row * GH + (k + 128 * j if inside else 0))
                at = 4 * j * U + u
                w[at] = w0 if inside else float32(0.0)
                w[at + U] = w1 if inside else float32(0.0)
                w[at + 2 * U] = w2 if inside else float32(0.0)
                w[at + 3 * U] = w3 if inside else float32(0.0)
        for i in range(VALUES):
            v[i] = float32(0.0)
        rows = N - 1 - first_row
        here = (((0 if backwards else T - 1) * N + first_row) * D + direction) * GH + k
        limit = int32(spins)
        if lane == 0:
            for i in range(M):
                partial[(W + warp) * M + i] = float32(0.0)  # nothing comes to the first step
        meet()
        for step in range(int32(T)):
            for first in range(0, R, B):
                for i in range(CHUNKS):
                    if WHOLE_CHUNKS or k + 128 * (i % NC) < GH:
                        load(v, i, dgh, here, first, rows)
                waits, tries = True, int32(0)
                while waits:
                    # What is there already is not read again: others wait for this memory too.
                    waits = False
                    for i in range(CHUNKS):
                        a, b, c, d = v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]
                        if is_sentinel(a) | is_sentinel(b) | is_sentinel(c) | is_sentinel(d):
                            load(v, i, dgh, here, first, rows)
                            waits = True
                    tries = int32(tries + 1)
                    if waits and (tries >= limit or (tries & 127 == 0 and ptx.load_relaxed(status, 0) != 0)):
                        # From here on nothing is waited for, so that every block comes to its end.
                        ptx.store_relaxed(status, 0, 1)
                        waits, limit = False, int32(0)
                for r in range(B):
                    for u in range(U):
                        sums[u] = float32(0.0)
                    for i in range(4 * NC):
                        for u in range(U):
                            sums[u] += w[i * U + u] * v[r * (4 * NC) + i]
                    fold(sums, U // 2, 16, lane)
                    fold(sums, U // 4, 8, lane)
                    fold(sums, U // 8, 4, lane)
                    fold(sums, U // 16, 2, lane)
                    fold(sums, U // 32, 1, lane)
                    if lane % (32 // U) == 0:
                        at = ((step & 1) * W + warp) * M + (first + r) * U
                        partial[at + lane // (32 // U)] = sums[0]
            meet()
            here += OF_STEP if backwards else -OF_STEP

    return multiply


def _finish(spec: CellSpec, chosen: Plan, H: int, N: int, D: int, ragged: bool, resets: bool, has_dy: bool) -> Any:
    """What the last warp does. What a step needs from memory is asked for two steps ahead."""
    cell = device_cell(spec, np.dtype(np.float32))
    backward = backward_in_place(cell)
    U, R, _, _, _, W, _ = chosen
    G, S, M = cell.G, cell.S, U * R
    GH, C, OF_STEP = G * H, (S - 1) * H, N * D * G * H
    SUMS_ONLY = cell.sums_only
    # Of a chain rule that selects, 0 is a way that is closed: also to infinity and NaN.
    assert spec.body is not None
    CLOSES = operations(spec.body, G, S, backward=spec.chain_rule()).backward["select"] > 0

    @device
    def times(a, d):
        if CLOSES:
            return float32(0.0) if a == float32(0.0) else a * d
        return a * d

    @device
    def added(partial, step, slot):
        """What the warps found for the step run after."""
        at = (step + 1 & 1) * (W * M) + slot
        even, odd = partial[at], float32(0.0)
        for w in range(2, W, 2):
            even += partial[at + w * M]
        for w in range(1, W, 2):
            odd += partial[at + w * M]
        return even + odd

    @device
    def finish(
        gx, gx_t, gx_n, gh_all, b_ih, b_hh, h_prev_all, c_0, c_all, dy, dy_t, dy_n, dh_n, dc_n,
        dgx, dgh, dh_0, dc_0, lengths, reset, partial, first_unit, first_row, direction, backwards, lane, T,
    ):  # fmt: skip
        zero, one = float32(0.0), float32(1.0)
        # Lanes without a unit or row of their own do what another one does: what they write to dgh is the same.
        slot = min(lane, M - 1)
        unit, row = min(first_unit + slot % U, H - 1), min(first_row + slot // U, N - 1)
        mine = lane < M and first_unit + slot % U < H and first_row + slot // U < N
        of_row = direction * N + row
        length = lengths[row] if ragged else T

        # What a step needs, as it is in memory, and made ready: d = a * dh + b.
        raw_gx, raw_gh = cuda.local.array(G, float32), cuda.local.array(G, float32)
        raw_s, raw_dy = cuda.local.array(S, float32), zero
        raw_runs, raw_ends = True, False
        a_gx, a_gh, a_s = cuda.local.array(G, float32), cuda.local.array(G, float32), cuda.local.array(S, float32)
        b_gx, b_gh, b_s = cuda.local.array(G, float32), cuda.local.array(G, float32), cuda.local.array(S, float32)
        runs, ends = True, False  # whether the row runs in this step; whether its state counts as zero before it

        bias_x, bias_h = cuda.local.array(G, float32), cuda.local.array(G, float32)
        for g in range(G):
            bias_x[g] = b_ih[direction * GH + g * H + unit]
            bias_h[g] = b_hh[direction * GH + g * H + unit]
            raw_gx[g] = raw_gh[g] = a_gx[g] = a_gh[g] = b_gx[g] = b_gh[g] = zero
        dc = cuda.local.array(S, float32)  # of the states but h, from 1 on
        dh = dh_n[of_row * H + unit]
        for k in range(1, S):
            dc[k] = dc_n[of_row * C + (k - 1) * H + unit]
        for k in range(S):
            raw_s[k] = a_s[k] = b_s[k] = zero
        passes = True  # whether what comes from the step run after counts
        if resets and backwards and length > 0 and reset[row] != 0:
            dh = zero
            for k in range(1, S):
                dc[k] = zero

        T = int32(T)
        here = (((0 if backwards else T - 1) * N + row) * D + direction) * GH + unit
        for step in range(int32(-2), T):
            if step >= 0:
                meet()
                total = added(partial, step, slot)
                dh += total if passes or not resets else zero
                for g in range(G):
                    d = times(a_gh[g], dh)
                    if S > 1:
                        d += b_gh[g]
                    if ragged:
                        d = d if runs else zero
                    if is_sentinel(d):
                        d = ptx.from_bits(uint32(OTHER_NAN))
                    ptx.store_relaxed(dgh, here + g * H, d)
                if not SUMS_ONLY:
                    for g in range(G):
                        d = times(a_gx[g], dh)
                        if S > 1:
                            d += b_gx[g]
                        if ragged:
                            d = d if runs else zero
                        if mine:
                            dgx[here + g * H] = d
                for k in range(1, S):
                    d = times(a_s[k], dh) + b_s[k]
                    dc[k] = d if runs or not ragged else dc[k]
                    if resets:
                        dc[k] = zero if ends else dc[k]
                d = zero if a_s[0] == zero else a_s[0] * dh  # mostly there is nothing that passes by gh
                if S > 1:
                    d += b_s[0]
                dh = d if runs or not ragged else dh
                if resets:
                    dh = zero if ends else dh
                    passes = not ends
                here += OF_STEP if backwards else -OF_STEP

            if -1 <= step < T - 1:
                runs, ends = raw_runs, raw_ends
                for g in range(G):
                    raw_gx[g] += bias_x[g]
                    raw_gh[g] = (zero if resets and ends else raw_gh[g]) + bias_h[g]
                for k in range(S):
                    raw_s[k] = zero if resets and ends else raw_s[k]
                    a_s[k] = one if k == 0 else zero
                backward(raw_gx, raw_gh, raw_s, a_s, a_gx, a_gh)
                if S > 1:
                    for k in range(S):
                        b_s[k] = zero if k == 0 else dc[k]
                    backward(raw_gx, raw_gh, raw_s, b_s, b_gx, b_gh)
                dh += raw_dy

            if step < T - 2:
                t = step + 2 if backwards else T - 3 - step
                at_t = (t * N + row) * D + direction
                for g in range(G):
                    raw_gx[g] = gx[t * gx_t + row * gx_n + direction * GH + g * H + unit]
                    raw_gh[g] = gh_all[at_t * GH + g * H + unit]
                raw_s[0] = h_prev_all[at_t * H + unit]
                before = t + 1 if backwards else t - 1
                for k in range(1, S):
                    at = (k - 1) * H + unit
                    if 0 <= before < length:
                        raw_s[k] = c_all[((before * N + row) * D + direction) * C + at]
                    else:
                        raw_s[k] = c_0[of_row * C + at]
                raw_runs = t < length
                if has_dy:
                    raw_dy = dy[t * dy_t + row * dy_n + direction * H + unit] if raw_runs else zero
                if resets:
                    at = t + 1 if backwards else t
                    raw_ends = at < length and reset[at * N + row] != 0

        meet()
        total = added(partial, T, slot)
        dh += total if passes or not resets else zero
        if mine:
            dh_0[of_row * H + unit] = dh
            for k in range(1, S):
                dc_0[of_row * C + (k - 1) * H + unit] = dc[k]

    return finish
