"""A GPU through `cuda.core` and the driver's own calls: what `runtime` asks of a device."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import cuda.core as core
import numpy as np
from cuda.bindings import driver
from numpy.typing import NDArray

from ..errors import BackendError
from . import compiler
from .runtime import Kernel

_SUCCESS = driver.CUresult.CUDA_SUCCESS


def _call(function: Callable[..., tuple[Any, ...]], *arguments: Any) -> Any:
    """What a call of the driver returns beside its error code."""
    error, *found = function(*arguments)
    if error != _SUCCESS:
        if error == driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            raise MemoryError(function.__name__)
        raise BackendError(f"the CUDA driver failed: {function.__name__}: {_text(error)}")
    return found[0] if found else None


def _text(error: Any) -> str:
    known, text = driver.cuGetErrorString(error)
    return f"{error.name}, {text.decode() if known == _SUCCESS and text else 'unknown'}"


def count() -> int:
    """How many GPUs there are."""
    try:
        _call(driver.cuInit, 0)
        found: int = _call(driver.cuDeviceGetCount)
    except Exception as error:  # the driver's library is missing, too old, or has no GPU
        raise BackendError(f"backend 'cuda' cannot run here: {str(error).splitlines()[0]}") from error
    return found


class Driver:
    """See `runtime.Driver`."""

    simulated = False

    def __init__(self, index: int) -> None:
        if not 0 <= index < (found := count()):
            raise BackendError(f"device cuda:{index} is not there: this machine has {found}, numbered from 0")
        self._index = index
        self._device = _call(driver.cuDeviceGet, index)
        self._context = _call(driver.cuDevicePrimaryCtxRetain, self._device)
        self._known = threading.local()
        self._lock = threading.Lock()
        self._kernels: dict[Kernel, Any] = {}
        self.name = _call(driver.cuDeviceGetName, 256, self._device).split(b"\0")[0].decode()
        self.enter()
        try:
            self._memory = core.DeviceMemoryResource(index)  # keeps what was freed
        finally:
            self.leave()
        value = driver.CUdevice_attribute
        self.capability = (
            self._attribute(value.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
            self._attribute(value.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
        )
        self.multiprocessors = self._attribute(value.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
        self.shared_per_block = self._attribute(value.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)

    def _attribute(self, attribute: Any) -> int:
        found: int = _call(driver.cuDeviceGetAttribute, attribute, self._device)
        return found

    # -- contexts

    def enter(self) -> None:
        """Make the GPU current for the thread, until `leave` puts back what was."""
        _call(driver.cuCtxPushCurrent, self._context)
        if not getattr(self._known, "yes", False):
            core.Device(self._index).set_current()  # cuda.core wants that once in each thread
            self._known.yes = True

    def leave(self) -> None:
        _call(driver.cuCtxPopCurrent)

    # -- streams and memory

    def stream(self, handle: int) -> Any:
        if handle in (0, 1):
            return core.LEGACY_DEFAULT_STREAM
        return core.PER_THREAD_DEFAULT_STREAM if handle == 2 else core.Stream.from_handle(handle)

    def allocate(self, stream: Any, size: int, dtype: np.dtype[Any]) -> tuple[Any, int]:
        try:
            buffer = self._memory.allocate(size * dtype.itemsize, stream=stream)
        except Exception as error:
            if "OUT_OF_MEMORY" not in str(error):
                raise
            _, free, total = driver.cuMemGetInfo()
            raise MemoryError(f"{free / 1e6:,.0f} MB of {total / 1e6:,.0f} MB are free") from error
        return buffer, int(buffer.handle)

    def pinned(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Host memory that the GPU writes to while the host goes on; for good."""
        nbytes = size * dtype.itemsize
        address = _call(driver.cuMemHostAlloc, nbytes, driver.CU_MEMHOSTALLOC_PORTABLE)
        array: NDArray[Any] = np.ctypeslib.as_array((ctypes.c_byte * nbytes).from_address(int(address)))
        array[...] = 0
        return array.view(dtype)

    def put(self, stream: Any, to: int, array: NDArray[Any]) -> None:
        _call(driver.cuMemcpyHtoDAsync, to, array.ctypes.data, array.nbytes, stream.handle)

    def get(self, stream: Any, array: NDArray[Any], pointer: int) -> None:
        _call(driver.cuMemcpyDtoHAsync, array.ctypes.data, pointer, array.nbytes, stream.handle)

    def move(self, stream: Any, to: int, pointer: int, nbytes: int) -> None:
        _call(driver.cuMemcpyDtoDAsync, to, pointer, nbytes, stream.handle)

    def fill(self, stream: Any, to: int, byte: int, nbytes: int) -> None:
        _call(driver.cuMemsetD8Async, to, byte, nbytes, stream.handle)

    def wait(self, stream: Any) -> None:
        _call(driver.cuStreamSynchronize, stream.handle)

    # -- kernels

    def launcher(self, stream: Any, kernel: Kernel, grid: tuple[int, ...]) -> Callable[..., None]:
        config = core.LaunchConfig(
            grid=grid, block=kernel.threads, shmem_size=kernel.shared, is_cooperative=kernel.cooperative
        )
        return partial(core.launch, stream, config, self.compiled(kernel))

    def compiled(self, kernel: Kernel) -> Any:
        """The kernel on this GPU."""
        with self._lock:
            if kernel not in self._kernels:
                self._kernels[kernel] = self._load(kernel)
            return self._kernels[kernel]

    def _load(self, kernel: Kernel) -> Any:
        name, ptx = compiler.ptx(kernel, self.capability)
        try:
            loaded = core.ObjectCode.from_ptx(ptx).get_kernel(name)
        except Exception as error:
            if "PTX" not in str(error):
                raise BackendError(f"the CUDA driver cannot load {name}: {error}") from error
            # Numba's compiler is newer than the driver: the linker that comes with it makes machine code of that.
            options = core.LinkerOptions(arch="sm_{}{}".format(*self.capability))
            loaded = core.Linker(core.ObjectCode.from_ptx(ptx), options=options).link("cubin").get_kernel(name)
        if kernel.shared > 48 * 1024:
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _call(driver.cuKernelSetAttribute, attribute, kernel.shared, loaded.handle, self._device)
        return loaded
