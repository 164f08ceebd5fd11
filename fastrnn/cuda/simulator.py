"""Numba's CUDA simulator as a device: kernels run as Python, one block after another, on NumPy arrays."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda.np.numpy_support import as_dtype
from numba.cuda.simulator import kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray
from numpy.typing import NDArray

from .runtime import Kernel

_one_at_a_time = threading.Lock()  # the simulator cannot run two kernels at once

# It waits for the threads of a block by asking them again and again, and would keep them from running meanwhile.
sys.setswitchinterval(1e-5)


class _Shared(kernelapi.FakeCUDAShared):
    """Numba's, which gives threads that ask for an array at the same moment an array each."""

    _lock = threading.Lock()

    def array(self, shape: int, dtype: Any, alignment: Any = None) -> Any:
        if shape == 0:
            return super().array(shape, dtype)
        frame = sys._getframe(1)
        place = frame.f_code, frame.f_lineno
        with self._lock:
            if place not in self._allocations:
                self._allocations[place] = np.empty(shape, as_dtype(dtype))
            return self._allocations[place]


kernelapi.FakeCUDAShared = _Shared


def count() -> int:
    return 1


class Driver:
    """See `runtime.Driver`."""

    name = "CUDA simulator"
    capability = (9, 0)
    multiprocessors = 1
    shared_per_block = 48 * 1024
    simulated = True

    def __init__(self, index: int) -> None:
        pass

    def enter(self) -> None:
        pass

    def leave(self) -> None:
        pass

    def stream(self, handle: int) -> None:
        return None

    def allocate(self, stream: Any, size: int, dtype: np.dtype[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        # Not zeros, so that what is read before it is written shows.
        memory = np.full(size * dtype.itemsize, 0xA5, np.uint8).view(dtype)
        return memory, memory

    def pinned(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        return np.zeros(size, dtype)

    def put(self, stream: Any, to: NDArray[Any], array: NDArray[Any]) -> None:
        to[: array.size] = array.ravel()

    def get(self, stream: Any, array: NDArray[Any], pointer: NDArray[Any]) -> None:
        array[...] = pointer[: array.size].reshape(array.shape)

    def move(self, stream: Any, to: NDArray[Any], pointer: NDArray[Any], nbytes: int) -> None:
        to.view(np.uint8)[:nbytes] = pointer.view(np.uint8)[:nbytes].copy()

    def fill(self, stream: Any, to: NDArray[Any], byte: int, nbytes: int) -> None:
        to.view(np.uint8)[:nbytes] = byte

    def wait(self, stream: Any) -> None:
        pass

    def launcher(self, stream: Any, kernel: Kernel, grid: tuple[int, ...]) -> Callable[..., None]:
        simulated = cuda.jit(_quiet(kernel.function))

        def launch(*arguments: Any) -> None:
            assert len(arguments) == len(kernel.parameters)
            # Wrapped, or the simulator would run on copies and lose what overlaps.
            given = [FakeCUDAArray(a) if isinstance(a, np.ndarray) else int(a) for a in arguments]
            with _one_at_a_time:
                simulated[grid, kernel.threads, 0, kernel.shared](*given)

        return launch


def _quiet(function: Callable[..., None]) -> Callable[..., None]:
    """The function without NumPy's warnings: a GPU has inf and NaN without a word."""
    errstate = np.errstate

    def run(*arguments: Any) -> None:
        with errstate(all="ignore"):
            function(*arguments)

    # With the kernel's own globals, in which the simulator finds `cuda` and puts itself there.
    assert isinstance(function, FunctionType)
    return FunctionType(run.__code__, function.__globals__, function.__name__, None, run.__closure__)
