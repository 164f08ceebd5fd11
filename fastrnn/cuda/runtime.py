"""The GPU as the engine sees it: devices, memory, streams, launches. NUMBA_ENABLE_CUDASIM=1 makes it Numba's simulator.

What differs between the two is in `gpu` and `simulator`, a `Driver` each. A pointer is an address on the GPU, and a
NumPy array from that place on in the simulator.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from importlib import import_module
from math import prod
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .views import Array as Array
from .views import contiguous_strides as contiguous_strides
from .views import shifted as shifted

INSTALL = 'pip install "fastrnn[cuda]"'


class Kernel(NamedTuple):
    """A function that runs on the device, compiled when it is first launched.

    Attributes
    ----------
    function : function
        Of pointers and int64 numbers only; what it finds in its closure is constant.
    parameters : str
        A letter each: "f" pointer to elements, "b" to uint8, "i" to int32, "n" an int64 number.
    threads : int
        Of a block.
    number : type
        The elements' type: `numba.float32` or `numba.float64`.
    fastmath : bool
    cooperative : bool
        All blocks must be on the device together.
    shared : int
        Bytes of shared memory that the launch gives each block: the kernel's ``cuda.shared.array(0, ...)``.
    """

    function: Callable[..., None]
    parameters: str
    threads: int
    number: Any
    fastmath: bool = False
    cooperative: bool = False
    shared: int = 0


class Driver(Protocol):
    """What a device can do. A stream is what `stream` returns; a pointer what `allocate` returns beside its owner."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_per_block: int
    simulated: bool

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def stream(self, handle: int) -> Any: ...
    def allocate(self, stream: Any, size: int, dtype: np.dtype[Any]) -> tuple[Any, Any]: ...
    def pinned(self, size: int, dtype: np.dtype[Any]) -> NDArray[Any]: ...
    def put(self, stream: Any, to: Any, array: NDArray[Any]) -> None: ...
    def get(self, stream: Any, array: NDArray[Any], pointer: Any) -> None: ...
    def move(self, stream: Any, to: Any, pointer: Any, nbytes: int) -> None: ...
    def fill(self, stream: Any, to: Any, byte: int, nbytes: int) -> None: ...
    def wait(self, stream: Any) -> None: ...
    def launcher(self, stream: Any, kernel: Kernel, grid: tuple[int, ...]) -> Callable[..., None]: ...


# ---- devices --------------------------------------------------------------------------------------------------------

_PER_THREAD = 2  # CU_STREAM_PER_THREAD

#: What this thread has entered: the engine's code runs within ``with device:``.
_entered = threading.local()


Method = TypeVar("Method", bound=Callable[..., Any])


def on_device(method: Method) -> Method:
    """A method of something that has a device, run with that device current for the thread."""

    @wraps(method)
    def run(self: Any, *arguments: Any, **options: Any) -> Any:
        if getattr(_entered, "device", None) is self.device:
            return method(self, *arguments, **options)
        with self.device:
            return method(self, *arguments, **options)

    return cast(Method, run)


class Device:
    """A GPU; `device` gives the one of an index.

    It is a context manager, which makes the GPU current for the thread and puts back what was current. Whatever uses it
    does that itself, but a call that does many things is faster where it is done once around them all.

    Attributes
    ----------
    index : int
    name : str
    capability : (int, int)
    multiprocessors : int
    shared_per_block : int
        Bytes of shared memory that a block may have.
    simulated : bool
    gave_up : set of str and of tuples
        Kinds of persistent kernels that gave up here, and (kind, cell, H, N, D) of those that could not be launched:
        they are not used again.
    """

    def __init__(self, index: int, driver: Driver) -> None:
        self.index, self.driver, self.device = index, driver, self
        self.name, self.capability = driver.name, driver.capability
        self.multiprocessors, self.shared_per_block = driver.multiprocessors, driver.shared_per_block
        self.simulated = driver.simulated
        self.gave_up: set[Any] = set()
        self._streams: dict[tuple[int, int], Stream] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Device:
        self.driver.enter()
        before = getattr(_entered, "device", None)
        _entered.before = [*getattr(_entered, "before", ()), before]
        _entered.device = self
        return self

    def __exit__(self, *error: object) -> None:
        _entered.device = _entered.before.pop()
        self.driver.leave()

    def stream(self, handle: int = 0) -> Stream:
        """The caller's stream; 0 is the default one."""
        # The default stream of a thread is another one in each.
        key = (handle, threading.get_ident() if handle == _PER_THREAD else 0)
        with self._lock:
            if key not in self._streams:
                with self:
                    self._streams[key] = Stream(self, handle)
            return self._streams[key]

    def __repr__(self) -> str:
        return f"<{self.name}, cuda:{self.index}>"


def device(index: int = 0) -> Device:
    """The GPU of that number.

    Raises
    ------
    BackendError
        A package or the driver is missing, or there is no such GPU.
    """
    with _making:
        return _device(index)


_making = threading.Lock()


@lru_cache
def _device(index: int) -> Device:
    return Device(index, _module().Driver(index))


def device_count() -> int:
    """How many GPUs there are; no context is made on any.

    Raises
    ------
    BackendError
        A package or the driver is missing.
    """
    count: int = _module().count()
    return count


def _module() -> Any:
    try:
        from numba import config

        return import_module(f"{__package__}.{'simulator' if config.ENABLE_CUDASIM else 'gpu'}")
    except ImportError as error:
        raise BackendError(f"backend 'cuda' cannot run here: {error}. To have it, {INSTALL}") from error


def spread(device: Device, n: int) -> tuple[int, int]:
    """Threads of a block, and blocks, for kernels that do `n` elements in turns."""
    if device.simulated:
        return 3, min(2, -(-n // 3))
    return 256, max(1, min(-(-n // 256), 32 * device.multiprocessors))


def address(array: Array | None, stream: Stream) -> Any:
    """The pointer of an array, or some pointer where there is none."""
    return (stream.nothing if array is None else array).pointer


# ---- streams --------------------------------------------------------------------------------------------------------

KINDS = ("one_block", "small_batch", "tensor_cores", "bptt")
_STAGED, _STAGED_ARRAYS = 64 << 20, 256  # bytes and arrays that wait at most for a copy of them to be done


class Stream:
    """A stream of a device: what is called here is done in that order, and later than the call unless it says "waits".

    Attributes
    ----------
    device : Device
    handle : int
        The caller's.
    nothing : Array
        A few bytes for arrays that are not there.
    """

    def __init__(self, device: Device, handle: int) -> None:
        self.device, self.handle, self._driver = device, handle, device.driver
        self._stream = self._driver.stream(handle)
        self._launchers: dict[Any, Callable[..., None]] = {}
        self.nothing = self.zeros((16,), np.float64)
        self._status = self.zeros((len(KINDS),), np.int32)
        self._seen = self._driver.pinned(len(KINDS), np.dtype(np.int32))
        self.extras: dict[Any, Any] = {}  # what other modules keep for each stream
        self._staged: list[NDArray[Any]] = []  # host memory that copies may still read
        self._faults = 0  # how often kernels gave up
        self._lock = threading.Lock()

    # -- memory

    @on_device
    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        """Memory, which goes back when nothing refers to it any more.

        Raises
        ------
        BackendError
            There is not enough.
        """
        dtype = np.dtype(dtype)
        try:
            memory, pointer = self._driver.allocate(self._stream, max(prod(shape), 1), dtype)
        except MemoryError as error:
            asked = f"{prod(shape) * dtype.itemsize / 1e6:,.1f} MB were asked for, {dtype} of shape {tuple(shape)}"
            raise BackendError(f"out of memory on {self.device}: {asked}; {error}") from error
        return Array(memory, pointer, shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        array = self.empty(shape, dtype)
        self.fill(array, 0)
        return array

    @on_device
    def fill(self, array: Array, byte: int) -> None:
        """Every byte of a dense array."""
        assert array.dense
        if array.size:
            self._driver.fill(self._stream, array.pointer, byte, array.nbytes)

    @on_device
    def to_device(self, array: NDArray[Any], *, wait: bool = True) -> Array:
        """A copy of a NumPy array; contiguous.

        Parameters
        ----------
        wait : bool
            Until `array` may be written to again. What ends in `to_host` or `synchronize` before that need not.
        """
        array = np.ascontiguousarray(array)
        copy = self.empty(array.shape, array.dtype)
        if array.size:
            self._driver.put(self._stream, copy.pointer, array)
            if wait:
                self._driver.wait(self._stream)
            else:
                self._staged.append(array)
                if sum(a.nbytes for a in self._staged) > _STAGED or len(self._staged) > _STAGED_ARRAYS:
                    self.wait()
        return copy

    def to_host(self, array: Array) -> NDArray[Any]:
        """A NumPy array; waits.

        Raises
        ------
        BackendError
            A kernel gave up: the numbers are wrong.
        """
        (found,) = self.to_hosts([array])
        return found

    @on_device
    def to_hosts(self, arrays: Sequence[Array], since: int | None = None) -> list[NDArray[Any]]:
        """NumPy arrays; waits once. `since` as of `synchronize`."""
        found = []
        for array in arrays:
            if not array.contiguous:
                copy = self.empty(array.shape, array.dtype)
                self.copy(copy, array)
                array = copy
            to = np.empty(array.shape, array.dtype)
            if to.size:
                self._driver.get(self._stream, to, array.pointer)
            found.append(to)
        self.synchronize(since)
        return found

    @on_device
    def copy(self, to: Array, array: Array) -> None:
        """Elements, of any strides, between arrays of one shape."""
        assert to.shape == array.shape
        assert to.dtype == array.dtype
        if to.size == 0:
            return
        if to.contiguous and array.contiguous:
            self._driver.move(self._stream, to.pointer, array.pointer, to.nbytes)
        else:
            import_module(f"{__package__}.copies").copy(self, to, array)

    @on_device
    def wait(self) -> None:
        """Wait, whatever came out."""
        staged, self._staged = self._staged, []
        self._driver.wait(self._stream)
        del staged

    @on_device
    def synchronize(self, since: int | None = None) -> None:
        """Wait.

        Parameters
        ----------
        since : int, optional
            What `check` returned when the work began.

        Raises
        ------
        BackendError
            A kernel gave up.
        """
        self.wait()
        self.check(since)

    # -- kernels

    @on_device
    def launch(self, kernel: Kernel, grid: tuple[int, ...], arguments: Sequence[Any]) -> None:
        """Run a kernel on `grid` blocks.

        Parameters
        ----------
        arguments : sequence
            Arrays, pointers and numbers.
        """
        pointers = [a.pointer if isinstance(a, Array) else a for a in arguments]
        self.launcher(kernel, grid)(*pointers)

    def launcher(self, kernel: Kernel, grid: tuple[int, ...]) -> Callable[..., None]:
        """What launches a kernel, given pointers and numbers: for many launches. Within ``with device:`` only."""
        key = kernel, grid
        if key not in self._launchers:
            self._launchers[key] = self._driver.launcher(self._stream, kernel, grid)
        return self._launchers[key]

    # -- kernels that may give up

    def status(self, kind: str) -> Any:
        """A pointer to the int32 of which kernels of that kind make 1 when they give up."""
        return shifted(self._status.pointer, KINDS.index(kind), 4)

    @on_device
    def watch(self) -> None:
        """After a kernel that may give up: have its status here once it has run, whoever waits for that."""
        self._driver.get(self._stream, self._seen, self._status.pointer)

    def check(self, since: int | None = None) -> int:
        """Look, without waiting, whether a kernel has given up.

        A call that waits for its results learns of it by `synchronize`. One that does not is told by the next call.

        Parameters
        ----------
        since : int, optional
            What an earlier `check` returned: what another thread's check found meanwhile counts too.

        Returns
        -------
        int
            For a later check.

        Raises
        ------
        BackendError
            Once for each kind of kernel on each device; `Device.gave_up` names it from then on.
        """
        kinds: list[str] = []
        if self._seen.any():
            with self._lock, self.device:
                self._driver.wait(self._stream)
                kinds = [kind for kind, seen in zip(KINDS, self._seen, strict=True) if seen]
                if kinds:
                    self.device.gave_up.update(kinds)
                    self.fill(self._status, 0)
                    self._driver.wait(self._stream)
                    self._seen[:] = 0
                    self._faults += 1
        if kinds or (since is not None and since != self._faults):
            raise BackendError(
                f"a kernel ({', '.join(kinds or sorted(map(str, self.device.gave_up)))}) on {self.device} waited too "
                "long for other multiprocessors and gave up. What was computed on this stream since its last call that "
                "succeeded is wrong; from now on slower kernels are used"
            )
        return self._faults


def launch(stream: Stream, kernel: Kernel, grid: tuple[int, ...], arguments: Sequence[Any]) -> None:
    stream.launch(kernel, grid, arguments)
