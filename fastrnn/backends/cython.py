"""The compiled kernels: loads the best build that the processor runs, or the one that FASTRNN_ISA names."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import _cpu
from ..cells import CellSpec, Weights

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
        raise ImportError(f"FASTRNN_ISA should be one of {', '.join(instruction_sets())} here, got: {forced!r}")
    return forced


ISA = _choose()


@cache
def kernels(dtype: np.dtype[Any]) -> Any:
    """The compiled module for float32 or float64."""
    return import_module(f"fastrnn._kernels_f{8 * dtype.itemsize}_{ISA}")



def prepare(spec: CellSpec, weights: Weights) -> Any:
    """See `backends.Backend.prepare`."""
    arrays = [None if w is None else np.ascontiguousarray(w) for w in weights]
    return kernels(weights.w_ih.dtype).PackedWeights(spec.name, *arrays)


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
) -> None:
    """See `backends.Backend.forward`."""
    prepared.forward(x, y, h, c, lengths, reset, reverse, c_all)
