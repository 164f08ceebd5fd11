"""What the check runs on, and how long a hop takes there."""

from __future__ import annotations

import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ...errors import BackendError
from ..engines import imported
from .worker import NotHere

HOPS = ("relaxed", "release", "barrier", "exchange")  # as in `cuda.hops`, which needs Numba
PACKAGES = (
    "numpy",
    "numba",
    "numba-cuda",
    "cuda-core",
    "cuda-bindings",
    "cuda-toolkit",
    "torch",
    "cupy-cuda13x",
    "jax",
)


def environment(alone: Callable[[], None]) -> dict[str, Any]:
    """The GPU, its driver, packages.

    Raises
    ------
    BackendError
        There is none that can be used.
    """
    device = _device()
    from ...cuda import cublas

    found: dict[str, Any] = {
        "device": device.name,
        "capability": ".".join(map(str, device.capability)),
        "multiprocessors": device.multiprocessors,
        "shared_memory": device.shared_per_block,
        "driver": _driver(),
        "cuda": _cuda(device),
        "cublas": not device.simulated and cublas.available(),
        "python": platform.python_version(),
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _device() -> Any:
    try:
        from ...cuda import runtime
    except ImportError as error:
        raise BackendError(
            f'the GPU engine cannot run here: {error}. To have it, pip install "fastrnn[cuda]"'
        ) from error
    return runtime.device(0)


def _driver() -> str:
    """Its version, as nvidia-smi says it."""
    try:
        with open("/proc/driver/nvidia/version") as file:
            words = file.readline().split()
        return next(word for word in words if word[0].isdigit() and "." in word)
    except (OSError, StopIteration):
        return "unknown"


def _cuda(device: Any) -> str:
    """The latest CUDA that the driver knows."""
    if device.simulated:
        return "none"
    _, number = imported("cuda.bindings.driver").cuDriverGetVersion()
    return f"{number // 1000}.{number % 1000 // 10}"


def hop(kind: str, alone: Callable[[], None]) -> dict[str, Any]:
    """Nanoseconds of a hop."""
    device = _device()
    if device.simulated:
        raise NotHere("blocks that wait for each other hang in the simulator")
    from ...cuda import hops

    alone()
    return {"ns": hops.nanoseconds(device, kind)}
