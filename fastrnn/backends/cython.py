"""The compiled kernels: loads the best build that the processor runs, or the one that FASTRNN_ISA names."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import _cpu, threads
from .._team import Team
from ..cells import CellSpec, Weights
from ..errors import BackendError
from ..memory import empty as empty
from . import Record, flush_denormals
from .rows import deal

Array = NDArray[Any]

_LEVELS = {"x86_64_v4": 4, "x86_64_v3": 3, "x86_64_v2": 2, "generic": 0}  # the best first


def _runs(isa: str) -> bool:
    return _cpu.x86_64_level() >= _LEVELS[isa] and find_spec(f"fastrnn._kernels_f32_{isa}") is not None


def instruction_sets() -> list[str]:
    """The builds that are installed and that this processor runs, the best first."""
    return [isa for isa in _LEVELS if _runs(isa)]


def _choose() -> str:
    forced = os.environ.get("FASTRNN_ISA")
    if not forced:
        for isa in _LEVELS:
            if _runs(isa):
                return isa
        raise ImportError("no build of the kernels fits this processor")
    if forced not in _LEVELS or not _runs(forced):
        raise BackendError(f"FASTRNN_ISA should be one of {', '.join(instruction_sets())} here, got: {forced!r}")
    return forced


ISA = _choose()


#: Chunks of `_kernels/backward_loop.pxi` begin at multiples of this, or at multiples of a power of two below it.
CHUNK_STEPS = 128


@cache
def kernels(dtype: np.dtype[Any]) -> Any:
    """The compiled module for float32 or float64."""
    return import_module(f"fastrnn._kernels_f{8 * dtype.itemsize}_{ISA}")


def prepare(spec: CellSpec, weights: Weights) -> Any:
    """See `backends.Backend.prepare`."""
    return kernels(weights.w_ih.dtype).PackedWeights(spec.name, **_given(weights))


def _given(weights: Weights) -> dict[str, Array]:
    """Those that there are, by name."""
    return {name: np.ascontiguousarray(w) for name, w in weights._asdict().items() if w is not None}


def forward(
    prepared: Any,
    x: Array,
    y: Array,
    h: Array,
    c: Array | None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    c_all: Array | None = None,
    gates: Array | None = None,
) -> None:
    """See `backends.Backend.forward`."""
    arrays = (x, y, h, c, lengths, reset, c_all, gates)
    flush = flush_denormals()
    n, split = _split(prepared, len(x), x.shape[1], threads.get_num_threads())
    if n == 1:
        prepared.forward(*arrays, reverse, flush)
        return
    with threads.team(n) as team:
        # On the way forth rows have nothing in common: each thread has a call of its own. On the way back they add to
        # the same sums, so it is one call of which each thread does a part (`make_back_part` in backward_loop.pxi).
        if split == "rows":
            team.run([partial(prepared.forward, *share, reverse, flush) for share in deal(team.size, arrays)])
        else:
            _run(team, prepared.run(*arrays, reverse, flush, team.size))


class BackwardWeights(NamedTuple):
    packed: Any
    shapes: dict[str, tuple[int, ...]]  # of the weights that there are
    dtype: np.dtype[Any]


def prepare_backward(spec: CellSpec, weights: Weights) -> BackwardWeights:
    """See `backends.Backend.prepare_backward`."""
    given = _given(weights)
    dtype = weights.w_ih.dtype
    packed = kernels(dtype).BackwardWeights(spec.name, **given)
    return BackwardWeights(packed, {name: w.shape for name, w in given.items()}, dtype)


def gates_width(prepared: BackwardWeights) -> int:
    """See `backends.Backend.gates_width`."""
    width: int = prepared.packed.gates_width
    return width


class Sums(NamedTuple):
    packed: Any
    of: BackwardWeights


def new_sums(prepared: BackwardWeights) -> Sums:
    """See `backends.Backend.new_sums`."""
    return Sums(kernels(prepared.dtype).WeightSums(prepared.packed), prepared)


def weight_gradients(sums: Sums) -> Weights:
    """See `backends.Backend.weight_gradients`."""
    weights = Weights(**{name: np.empty(shape, sums.of.dtype) for name, shape in sums.of.shapes.items()})
    sums.packed.unpack(**_given(weights))
    return weights


def backward(
    prepared: BackwardWeights,
    record: Record,
    dy: Array | None,
    dh: Array,
    dc: Array | None,
    dx: Array | None,
    sums: Sums | None,
) -> None:
    """See `backends.Backend.backward`."""
    packed, (T, N, _) = prepared.packed, record.x.shape
    arrays = (*record[:8], dy, dx, dh, dc)
    options = (None if sums is None else sums.packed, record.reverse, flush_denormals())
    n, split = _split(packed, T, N, threads.get_num_threads())
    if n == 1:
        packed.backward(arrays, *options, 1, False)(0)
        return
    by_rows = split == "rows"
    with threads.team(n) as team:
        _run(team, packed.backward(arrays, *options, min(team.size, N) if by_rows else team.size, by_rows))


def stepper(prepared: Sequence[Any], h: Array, c: Array | None) -> Any:
    """An object whose ``step(x, y)`` runs one step of stacked layers; it keeps the states in h (L, N, ·) and c."""
    return kernels(h.dtype).Stepper(prepared, h, c, flush_denormals())


# ---- several threads ----------------------------------------------------------------------------------------------

# What each thread must have to do, in multiply-adds, of which it does about 40 in a nanosecond: starting a thread costs
# some 20 us, a meeting of two some 0.3 us.
_PAYS_PER_CALL = 2_000_000
_PAYS_PER_STEP = 50_000
_CACHED_WEIGHTS = 2 << 20  # bytes: from here on the weights do not stay in one core's second-level cache


def _split(prepared: Any, T: int, N: int, wanted: int) -> tuple[int, str]:
    """How many threads pay, at most `wanted`, and whether they share the work by "rows" or by hidden "units"."""
    if wanted == 1:
        return 1, "units"
    step = N * prepared.recurrent_weights
    n = min(wanted, T * (step + N * prepared.input_weights) // _PAYS_PER_CALL)
    if n < 2:
        return 1, "units"
    rows = min(n, N // 2)
    if rows >= 2 and (prepared.recurrent_weights * prepared.itemsize <= _CACHED_WEIGHTS or 16 * rows <= N):
        return rows, "rows"
    # With few rows, or weights that one core cannot keep, each thread takes some of the units: it reads less of them.
    parts = min(n, prepared.panels, step // _PAYS_PER_STEP)
    if parts >= 2 and time.monotonic() >= _crowded_until:
        return parts, "units"
    return max(1, min(n, N)), "rows"


_crowded_until = 0.0  # in time.monotonic()


def _run(team: Team, run: Any) -> None:
    """All parts of a call at the same time."""
    global _crowded_until
    team.run([partial(run, i) for i in range(run.parts)])
    if run.dropped:
        # The other threads were not given a processor in time. Others want it: leave it to them for a while.
        _crowded_until = time.monotonic() + 0.25
