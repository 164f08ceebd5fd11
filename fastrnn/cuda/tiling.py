"""How `tensor_cores` spreads a layer over multiprocessors: what is possible, and which of it is quickest.

The figures are those of an H100 in published measurements, and the latencies estimates from them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ..cells import CellSpec
from ..derive import sums_only
from .fragments import TILE, WORDS, Fragments

MAX_ROWS = 256  # of a batch
MAX_WARPS = 16
REGISTERS = 65536  # of a multiprocessor
OTHERS = 48  # registers of a thread that are none of those counted here
OF_SHARED = 20  # more of them where weights come from shared memory

# Clock cycles, at 1.7 GHz.
HOP = 900  # from the store of h to the last poll that sees it
L2_BYTES = 2900  # that all multiprocessors together get from the L2 cache in one cycle
PRODUCT = 6  # 16 x 8 by 8 x 8, on one of the four tensor cores of a multiprocessor
PRODUCT_LATENCY = 33
SHARED_BYTES = 128  # that a multiprocessor gets from shared memory in one cycle
CELL = 350  # a cell, all latencies one after another
NEXT_CELL = 120  # further ones of the same thread


class Tuning(NamedTuple):
    """How a layer is spread over multiprocessors.

    Attributes
    ----------
    row_tiles, unit_tiles : int
        Eights of rows and of units that a block has.
    warps : int
        Of a block: each has a share of the columns of w_hh.
    stored : bool
        Of "ieee": whether registers have both parts of a weight, or the parts are made of it at each step.
    kept : int or None
        How many chunks of columns a warp has in registers, the others being in shared memory. None: all.
    """

    row_tiles: int
    unit_tiles: int
    warps: int
    stored: bool = True
    kept: int | None = None

    def fragments(self, gates: int, H: int, precision: str) -> Fragments:
        f = Fragments(gates, self.unit_tiles * gates, H, self.warps, precision == "ieee", self.stored, 0)
        return f._replace(kept=f.chunks if self.kept is None else self.kept)

    @property
    def slots(self) -> int:
        """Of a block: 32 pairs of a unit and a row, one for each lane; the units of a tile and its even or odd rows."""
        return 2 * self.row_tiles * self.unit_tiles

    @property
    def items(self) -> int:
        """Slots of a warp."""
        return -(-self.slots // self.warps)

    def partials(self, gates: int) -> int:
        """Partial sums of a block."""
        return self.warps * self.slots * gates * 32

    def blocks(self, H: int) -> int:
        """Of a group."""
        return -(-H // (TILE * self.unit_tiles))

    def groups(self, N: int) -> int:
        return -(-N // (TILE * self.row_tiles))

    def shared(self, gates: int, H: int, precision: str) -> int:
        """Bytes of shared memory: partial sums twice, and weights."""
        return 4 * (2 * self.partials(gates) + self.fragments(gates, H, precision).in_shared)

    def registers(self, spec: CellSpec, H: int, precision: str) -> int:
        """About how many a thread needs."""
        G, f = spec.n_gates, self.fragments(spec.n_gates, H, precision)
        weights = f.in_registers * (2 if f.ieee and f.stored else 1)
        h = 4 * f.chunks * (2 if self.row_tiles > 1 else 1)
        of_item = spec.n_states + (2 if _sums_only(spec) else 3) * G + 5
        others = OTHERS + (OF_SHARED if f.kept < f.chunks else 0)
        return weights + h + f.sums + self.items * of_item + others

    def cycles(self, spec: CellSpec, H: int, N: int, D: int, precision: str) -> float:
        """About how long a step takes."""
        G, f = spec.n_gates, self.fragments(spec.n_gates, H, precision)
        warps = -(-self.warps // 4)  # that share a tensor core
        products = 2 * f.chunks * (3 if f.ieee else 1)  # of a warp, for a tile of weights and one of rows
        made = f.chunks - f.kept if f.stored else f.chunks  # chunks whose parts are made at each step
        splits = 4 * f.chunks * 4 + (2 * f.tiles * made * WORDS if f.ieee else 0)  # instructions
        chain = max(2 * f.chunks / f.large_sums, 4 * f.chunks / f.small_sums if f.ieee else 0) * PRODUCT_LATENCY
        multiply = max(chain, warps * (f.tiles * products * PRODUCT + splits / 2)) + 4 * f.in_shared / SHARED_BYTES
        read = 4 * TILE * H * self.blocks(H) * self.groups(N) * D / L2_BYTES
        tiles = read + multiply + (self.row_tiles - 1) * max(read, multiply)
        sums = 2 * 4 * self.partials(G) / SHARED_BYTES
        return HOP + tiles + sums + CELL + NEXT_CELL * (self.items - 1)


@lru_cache
def _sums_only(spec: CellSpec) -> bool:
    assert spec.body is not None
    return sums_only(spec.body, spec.n_gates, spec.n_states)


@lru_cache
def tuning(
    spec: CellSpec, H: int, N: int, D: int, multiprocessors: int, shared: int, precision: str = "ieee"
) -> Tuning | None:
    """The quickest way that fits on a device, None if there is none.

    shared : int
        Bytes of shared memory that a block may have.
    """
    if H % 16 or not 1 <= N <= MAX_ROWS:
        return None
    tiles = -(-N // TILE)
    # The least rows for each number of groups.
    row_tiles = sorted({-(-tiles // groups) for groups in range(1, tiles + 1)})
    found: list[tuple[float, Tuning]] = []
    for rows in row_tiles:
        for units in range(1, H // TILE + 1):
            least = Tuning(rows, units, 1)
            if D * least.groups(N) * least.blocks(H) > multiprocessors:
                continue
            for warps in range(1, min(MAX_WARPS, H // 16) + 1):
                for stored in (True, False) if precision == "ieee" else (True,):
                    fitting = _fitting(Tuning(rows, units, warps, stored), spec, H, shared, precision)
                    if fitting is not None:
                        found.append((fitting.cycles(spec, H, N, D, precision), fitting))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _fitting(wanted: Tuning, spec: CellSpec, H: int, shared: int, precision: str) -> Tuning | None:
    """With as many weights in registers as there is room for."""
    limit = min(255, REGISTERS // (32 * wanted.warps) // 8 * 8)
    chunks = wanted.fragments(spec.n_gates, H, precision).chunks
    if chunks > 16:
        return None
    for kept in range(chunks, -1, -1):
        fitting = wanted._replace(kept=kept)
        if fitting.shared(spec.n_gates, H, precision) > shared:
            return None
        if fitting.registers(spec, H, precision) <= limit:
            return fitting
    return None
