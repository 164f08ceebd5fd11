"""Operands of the tensor cores in the registers of a warp: rows of w_hh, columns of h, and their products.

The tensor cores multiply 16 x 8 by 8 x 8. Which column of w_hh a column of such a tile stands for is free, as long as
rows of h stand for the same: here a lane has four columns side by side for two products, a `CHUNK`, so that it reads h
and weights four at a time. Of the 16 rows the upper and the lower ones are a gate each, of the same or of other units.

Fragments of weights lie in order of (m, k, pair, 4): m counts tiles of 16 rows, k chunks, pair the products of a chunk.

Precision. "tf32" rounds both operands to 10 bits after the point. "ieee" takes each number as a sum of two such numbers
and leaves out the products of two small ones (3xTF32): as exact as sums in float32, though an infinite h makes NaN.
Tensor cores cut off what they add to; so large and small products have sums of their own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import cuda, float32, uint64

from . import ptx

TILE = 8  # rows of the batch, or units
CHUNK = 16  # columns of w_hh
WORDS = 8  # of a lane's fragments of 16 rows and a chunk

inlined = cuda.jit(device=True, forceinline=True)


class Fragments(NamedTuple):
    """Sizes of a block's part of w_hh.

    Attributes
    ----------
    gates, gate_tiles : int
        Gates of the cell; eights of units times gates.
    columns : int
        Of w_hh (H).
    warps : int
        Warp w has the chunks w, w + warps, ...
    ieee : bool
    stored : bool
        Of "ieee": whether registers have both parts of a weight, or the parts are made of it at each step.
    kept : int
        How many of its chunks a warp keeps in registers. The others are in shared memory.
    """

    gates: int
    gate_tiles: int
    columns: int
    warps: int
    ieee: bool
    stored: bool
    kept: int

    @property
    def tiles(self) -> int:
        """Of 16 rows."""
        return -(-self.gate_tiles // 2)

    @property
    def chunks(self) -> int:
        """Of a warp."""
        return -(-self.columns // (CHUNK * self.warps))

    @property
    def exact(self) -> bool:
        """Whether all warps have as many."""
        return self.columns % (CHUNK * self.warps) == 0

    @property
    def in_registers(self) -> int:
        """Numbers of a thread."""
        return self.tiles * self.kept * WORDS

    @property
    def in_shared(self) -> int:
        """Numbers of a block."""
        return self.tiles * (self.chunks - self.kept) * WORDS * 32 * self.warps

    @property
    def large_sums(self) -> int:
        """Sums that do not wait for each other."""
        return 2 if self.tiles == 1 else 1

    @property
    def small_sums(self) -> int:
        return 0 if not self.ieee else 2 if self.tiles <= 2 else 1

    @property
    def sums(self) -> int:
        """Numbers of a lane."""
        return 4 * self.tiles * (self.large_sums + self.small_sums)


def loader(f: Fragments) -> Any:
    """``load(whole, large, small, shared, at, w_hh, first_row, first_unit, thread)``: fragments of the weights.

    `whole`, or `large` and `small`, are registers; `at` is where the weights in `shared` begin; `first_row` of w_hh is
    that of the direction, `first_unit` that of the block.
    """
    G, H, WARPS, KEPT = f.gates, f.columns, f.warps, f.kept
    GATE_TILES, M, K = f.gate_tiles, f.tiles, f.chunks
    IEEE, WHOLE = f.ieee, f.ieee and not f.stored
    THREADS = 32 * WARPS

    @inlined
    def four(w_hh, first_row, first_unit, thread, m, half, k):
        """Four columns side by side of a row of a fragment."""
        tile = 2 * m + half
        unit = first_unit + tile // G * TILE + (thread >> 2 & 7)
        row = first_row + tile % G * H + unit
        column = (k * WARPS + (thread >> 5)) * CHUNK + 4 * (thread & 3)
        if tile < GATE_TILES and unit < H and column < H:
            return ptx.load_relaxed4(w_hh, row * H + column)
        return float32(0.0), float32(0.0), float32(0.0), float32(0.0)

    @inlined
    def keep(whole, large, small, o, w):
        if WHOLE:
            whole[o] = w
        else:
            large[o] = ptx.to_tf32(w)
            if IEEE:
                small[o] = ptx.to_tf32(w - ptx.from_bits(large[o]))

    @inlined
    def load(whole, large, small, shared, at, w_hh, first_row, first_unit, thread):
        for m in range(M):
            for half in range(2):
                for k in range(KEPT):
                    o = (m * KEPT + k) * WORDS + half
                    w0, w1, w2, w3 = four(w_hh, first_row, first_unit, thread, m, half, k)
                    keep(whole, large, small, o, w0)
                    keep(whole, large, small, o + 2, w1)
                    keep(whole, large, small, o + 4, w2)
                    keep(whole, large, small, o + 6, w3)
                for k in range(KEPT, K):
                    p = at + (((k - KEPT) * M + m) * WORDS + half) * THREADS + thread
                    w0, w1, w2, w3 = four(w_hh, first_row, first_unit, thread, m, half, k)
                    shared[uint64(p)] = w0 if IEEE else ptx.from_bits(ptx.to_tf32(w0))
                    shared[uint64(p + 2 * THREADS)] = w1 if IEEE else ptx.from_bits(ptx.to_tf32(w1))
                    shared[uint64(p + 4 * THREADS)] = w2 if IEEE else ptx.from_bits(ptx.to_tf32(w2))
                    shared[uint64(p + 6 * THREADS)] = w3 if IEEE else ptx.from_bits(ptx.to_tf32(w3))

    return load


def multiplier(f: Fragments) -> Any:
    """``multiply(whole, large, small, shared, at, h, sums, thread)``: all weights of a warp times a tile of h.

    `h` has four numbers of each chunk. `sums` (OUT) are several for each of the 16 x 8 results of a tile of weights:
    `total` adds them up.
    """
    WARPS, KEPT, M, K = f.warps, f.kept, f.tiles, f.chunks
    IEEE, WHOLE = f.ieee, f.ieee and not f.stored
    SUMS, SUM, LARGE_SUMS, SMALL_SUMS = f.sums, 4 * f.tiles, f.large_sums, max(f.small_sums, 1)
    THREADS = 32 * WARPS

    @inlined
    def add(sums, c, a0, a1, a2, a3, b0, b1):
        sums[c], sums[c + 1], sums[c + 2], sums[c + 3] = ptx.mma_tf32(
            a0, a1, a2, a3, b0, b1, sums[c], sums[c + 1], sums[c + 2], sums[c + 3]
        )

    @inlined
    def chunk(k, whole, large, small, shared, at, h, sums, thread):
        for pair in range(2):
            turn = 2 * k + pair
            h0, h1 = h[4 * k + 2 * pair], h[4 * k + 2 * pair + 1]
            if IEEE:
                r0, r1 = ptx.round_tf32(h0), ptx.round_tf32(h1)
                b0, b1 = ptx.as_tf32(r0), ptx.as_tf32(r1)
                e0, e1 = ptx.as_tf32(h0 - r0), ptx.as_tf32(h1 - r1)
            else:
                b0, b1 = ptx.to_tf32(h0), ptx.to_tf32(h1)
            for m in range(M):
                o = (m * KEPT + k) * WORDS + 4 * pair
                if k < KEPT and not WHOLE:
                    a0, a1, a2, a3 = large[o], large[o + 1], large[o + 2], large[o + 3]
                    if IEEE:
                        s0, s1, s2, s3 = small[o], small[o + 1], small[o + 2], small[o + 3]
                else:
                    if k < KEPT:
                        # Else the parts would be made once, ahead of the loop over time, and take up registers.
                        v0, v1, v2, v3 = (
                            ptx.anew(whole[o]),
                            ptx.anew(whole[o + 1]),
                            ptx.anew(whole[o + 2]),
                            ptx.anew(whole[o + 3]),
                        )
                    else:
                        p = at + (((k - KEPT) * M + m) * WORDS + 4 * pair) * THREADS + thread
                        v0, v1 = shared[uint64(p)], shared[uint64(p + THREADS)]
                        v2, v3 = shared[uint64(p + 2 * THREADS)], shared[uint64(p + 3 * THREADS)]
                    a0, a1, a2, a3 = ptx.as_tf32(v0), ptx.as_tf32(v1), ptx.as_tf32(v2), ptx.as_tf32(v3)
                    if IEEE:
                        s0, s1 = ptx.as_tf32(v0 - ptx.cut_tf32(v0)), ptx.as_tf32(v1 - ptx.cut_tf32(v1))
                        s2, s3 = ptx.as_tf32(v2 - ptx.cut_tf32(v2)), ptx.as_tf32(v3 - ptx.cut_tf32(v3))
                add(sums, turn % LARGE_SUMS * SUM + 4 * m, a0, a1, a2, a3, b0, b1)
                if IEEE:
                    c = (LARGE_SUMS + 2 * turn % SMALL_SUMS) * SUM + 4 * m
                    add(sums, c, s0, s1, s2, s3, b0, b1)
                    c = (LARGE_SUMS + (2 * turn + 1) % SMALL_SUMS) * SUM + 4 * m
                    add(sums, c, a0, a1, a2, a3, e0, e1)

    @inlined
    def multiply(whole, large, small, shared, at, h, sums, thread):
        for i in range(SUMS):
            sums[i] = float32(0.0)
        # A loop over chunks is too large for a compiler to unroll, and arrays would be no registers.
        chunk(0, whole, large, small, shared, at, h, sums, thread)
        if K > 1:
            chunk(1, whole, large, small, shared, at, h, sums, thread)
        if K > 2:
            chunk(2, whole, large, small, shared, at, h, sums, thread)
        if K > 3:
            chunk(3, whole, large, small, shared, at, h, sums, thread)
        if K > 4:
            chunk(4, whole, large, small, shared, at, h, sums, thread)
        if K > 5:
            chunk(5, whole, large, small, shared, at, h, sums, thread)
        if K > 6:
            chunk(6, whole, large, small, shared, at, h, sums, thread)
        if K > 7:
            chunk(7, whole, large, small, shared, at, h, sums, thread)
        if K > 8:
            chunk(8, whole, large, small, shared, at, h, sums, thread)
        if K > 9:
            chunk(9, whole, large, small, shared, at, h, sums, thread)
        if K > 10:
            chunk(10, whole, large, small, shared, at, h, sums, thread)
        if K > 11:
            chunk(11, whole, large, small, shared, at, h, sums, thread)
        if K > 12:
            chunk(12, whole, large, small, shared, at, h, sums, thread)
        if K > 13:
            chunk(13, whole, large, small, shared, at, h, sums, thread)
        if K > 14:
            chunk(14, whole, large, small, shared, at, h, sums, thread)
        if K > 15:
            chunk(15, whole, large, small, shared, at, h, sums, thread)

    return multiply


def totaler(f: Fragments) -> Any:
    """``total(sums, i)``: result i of a lane: its four of the first 16 x 8, of the second and so on."""
    SUM, LARGE_SUMS, SMALL_SUMS = 4 * f.tiles, f.large_sums, f.small_sums

    @inlined
    def total(sums, i):
        value = float32(0.0)
        for s in range(LARGE_SUMS, LARGE_SUMS + SMALL_SUMS):
            value += sums[s * SUM + i]
        for s in range(LARGE_SUMS):
            value += sums[s * SUM + i]
        return value

    return total
