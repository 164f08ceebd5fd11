"""The whole GPU engine on the executor: every kernel of a layer's call, launched by the engine as on a GPU.

`install` has to come before `fastrnn.cuda` is imported, in a process of its own: it puts what stands for Numba in
Numba's place. `executor.run` then runs launches, and knows blocks that wait for each other; products are NumPy's.
Pointers are addresses, as on a GPU, and have to lie in memory that has not been given back.
"""

from __future__ import annotations

import bisect
import sys
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from weakref import finalize

import executor
import numpy as np
import stand_ins

SHARED = 227 * 1024

#: How often kernels of each module ran.
launched: Counter[str] = Counter()


def install(multiprocessors: int = 4, seed: int = 0) -> None:
    sys.modules |= {"numba": stand_ins.NUMBA, "numba.cuda": stand_ins.CUDA, "fastrnn.cuda.ptx": stand_ins.PTX}
    from fastrnn.cuda import gemm, runtime

    driver = SimpleNamespace(count=lambda: 1, Driver=lambda index: Driver(multiprocessors, seed))
    runtime._module = lambda: driver
    gemm.product = product


class Memory:
    """What was allocated: its bytes, at a multiple of 256 as on a GPU."""

    def __init__(self, nbytes: int) -> None:
        memory = np.full(nbytes + 256, 0xA5, np.uint8)  # not zeros, so that what is read too early shows
        self.bytes = memory[-memory.ctypes.data % 256 :][:nbytes]
        self.address = self.bytes.ctypes.data


_there: dict[int, Any] = {}  # the bytes by their address
_addresses: list[int] = []


def _gone(address: int) -> None:
    _addresses.remove(address)
    _there.pop(address).fill(0xA5)


def at(pointer: int, dtype: Any, nbytes: int | None = None) -> Any:
    """The array from an address on, to its memory's end or of so many bytes."""
    i = bisect.bisect_right(_addresses, pointer) - 1
    base = _addresses[i] if i >= 0 else 0
    found = _there[base][pointer - base :] if i >= 0 else np.empty(0, np.uint8)
    if not len(found) or (nbytes is not None and nbytes > len(found)):
        raise executor.Fault(f"{pointer:#x}: no such memory, or {nbytes} bytes are more than it has")
    itemsize = np.dtype(dtype).itemsize
    if pointer % itemsize:
        raise executor.Fault(f"{pointer:#x} is not aligned to {dtype}")
    end = len(found) // itemsize * itemsize if nbytes is None else nbytes
    return found[:end].view(dtype)


class Driver:
    """See `fastrnn.cuda.runtime.Driver`."""

    name, capability, shared_per_block, simulated = "executor", (9, 0), SHARED, False

    def __init__(self, multiprocessors: int, seed: int) -> None:
        self.multiprocessors, self.seed = multiprocessors, seed

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def wait(self, stream: Any) -> None: ...
    def stream(self, handle: int) -> None: ...

    def allocate(self, stream: Any, size: int, dtype: Any) -> tuple[Any, int]:
        memory = Memory(size * dtype.itemsize)
        _there[memory.address] = memory.bytes
        bisect.insort(_addresses, memory.address)
        finalize(memory, _gone, memory.address)
        return memory, memory.address

    def pinned(self, size: int, dtype: Any) -> Any:
        return np.zeros(size, dtype)

    def put(self, stream: Any, to: int, array: Any) -> None:
        at(to, array.dtype, array.nbytes)[...] = array.ravel()

    def get(self, stream: Any, array: Any, pointer: int) -> None:
        array[...] = at(pointer, array.dtype, array.nbytes).reshape(array.shape)

    def move(self, stream: Any, to: int, pointer: int, nbytes: int) -> None:
        at(to, np.uint8, nbytes)[...] = at(pointer, np.uint8, nbytes).copy()

    def fill(self, stream: Any, to: int, byte: int, nbytes: int) -> None:
        at(to, np.uint8, nbytes)[...] = byte

    def launcher(self, stream: Any, kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        number = np.dtype(kernel.number.__name__)
        types = {"f": number, "b": np.dtype(np.uint8), "i": np.dtype(np.int32)}

        def launch(*arguments: Any) -> None:
            launched[kernel.function.__module__.rpartition(".")[2]] += 1
            known: dict[tuple[int, str], Any] = {}  # the executor takes each array for memory of its own
            given: list[Any] = []
            for letter, a in zip(kernel.parameters, arguments, strict=True):
                if letter == "n":
                    given.append(a)
                else:
                    given.append(known.setdefault((a, letter), at(a, types[letter])))
            executor.run(kernel, grid, given, seed=self.seed)

        return launch


def product(stream: Any, a: Any, b: Any, c: Any, *, accumulate: bool = False) -> Callable[..., None]:
    """Of `fastrnn.cuda.gemm`."""

    def run(*pointers: int) -> None:
        left, right, to = (view(pointer, of) for pointer, of in zip(pointers, (a, b, c), strict=True))
        to[...] = left @ right + (to if accumulate else 0)

    return run


def view(pointer: int, of: Any) -> Any:
    if not of.size:
        return np.empty(of.shape, of.dtype)
    size = of.dtype.itemsize
    last = sum((n - 1) * s for n, s in zip(of.shape, of.strides, strict=True))
    flat = at(pointer, of.dtype, (last + 1) * size)
    return np.lib.stride_tricks.as_strided(flat, of.shape, [s * size for s in of.strides])
