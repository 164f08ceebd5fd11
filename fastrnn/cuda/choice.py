"""Which kernels run which layer.

FASTRNN_CUDA_PATH in the environment overrides the choice, for tests and comparisons: "general" for the general path
both ways; "a0" (`one_block`), "a" (`small_batch`) or "b" (`tensor_cores`) for the way forth, "c" (`bptt`) for the way
back, and two of them as in "a,c". What cannot run a layer is then a BackendError.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from ..backends import cuda_precision
from ..cells import CellSpec
from ..errors import BackendError
from .runtime import Device

#: Short names and modules, the first one that fits is taken. A module has
#: ``fits(spec, dtype, H, N, D, device, precision)``, and ``planned(spec, H, N, D, device, precision, **options)``: the
#: kernel and its blocks.
FORWARD = {"a0": "one_block", "a": "small_batch", "b": "tensor_cores"}
BACKWARD = {"c": "bptt"}


def forward(spec: CellSpec, dtype: np.dtype[Any], H: int, N: int, D: int, device: Device, plain: bool) -> Any:
    """The module whose kernel runs all steps in one launch, None for the general path.

    plain : bool
        Whether there is neither a projection nor anything else that only the general path knows.
    """
    return _first(FORWARD, spec, dtype, H, N, D, device, plain)


def backward(spec: CellSpec, dtype: np.dtype[Any], H: int, N: int, D: int, device: Device, plain: bool) -> Any:
    """The same for the way back."""
    return _first(BACKWARD, spec, dtype, H, N, D, device, plain)


def _first(
    modules: dict[str, str],
    spec: CellSpec,
    dtype: np.dtype[Any],
    H: int,
    N: int,
    D: int,
    device: Device,
    plain: bool,
) -> ModuleType | None:
    asked = _asked(os.environ.get("FASTRNN_CUDA_PATH", ""))
    if "general" in asked or device.simulated:  # blocks that wait for each other hang in the simulator
        return None
    forced = [name for name in asked if name in modules]
    for name in forced or modules:
        kind = modules[name]
        if plain and kind not in device.gave_up and (kind, spec, H, N, D) not in device.gave_up:
            module = _fitting(kind, spec, dtype, H, N, D, device, cuda_precision())
            if module is not None:
                return module
    if forced:
        raise BackendError(
            f"FASTRNN_CUDA_PATH is {','.join(asked)}, which cannot run {spec.name}, H={H}, N={N}, D={D} on {device}"
        )
    return None


def forced(kind: str) -> bool:
    """Whether FASTRNN_CUDA_PATH names the module."""
    return kind in [{**FORWARD, **BACKWARD}.get(name) for name in _asked(os.environ.get("FASTRNN_CUDA_PATH", ""))]


@lru_cache(1000)
def _fitting(
    kind: str, spec: CellSpec, dtype: np.dtype[Any], H: int, N: int, D: int, device: Device, precision: str
) -> ModuleType | None:
    """The module, where it has a kernel for the layer."""
    module = import_module(f"{__package__}.{kind}")
    return module if module.fits(spec, dtype, H, N, D, device, precision) else None


@lru_cache
def _asked(path: str) -> tuple[str, ...]:
    asked = tuple(name for name in path.replace(" ", "").split(",") if name)
    known = ("general", *FORWARD, *BACKWARD)
    for name in asked:
        if name not in known:
            raise ValueError(f"FASTRNN_CUDA_PATH should name {', '.join(known)}, got: {name!r}")
    return asked
