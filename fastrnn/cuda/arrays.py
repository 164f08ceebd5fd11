"""Callers' arrays: NumPy's, which are copied in and out, and those that lie on the GPU, which are taken as they are.

Results are arrays of the library that the caller's are of, in memory of that library's: it knows when that may be used
again. Where the library is not known here they are `DeviceArray`s.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from math import prod
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .runtime import Array, Device, Stream, contiguous_strides

_CUDA = (2, 13)  # DLPack's kinds of memory that are on a GPU: CUDA's, and what CUDA moves there by itself
_LEGACY = 1  # the default stream's handle where 0 would mean that there is none


class DeviceArray:
    """A contiguous array on a GPU.

    It has ``__cuda_array_interface__`` and DLPack, by which other libraries take it without a copy;
    ``copy_to_host()``, like `numpy.asarray`, gives a NumPy array.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    device : str
        ``"cuda:0"`` and so on.
    """

    __slots__ = ("_array", "_shared", "_stream")

    def __init__(self, array: Array, stream: Stream) -> None:
        self._array, self._stream = array, stream
        self._shared = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self._array.dtype
        return dtype

    @property
    def device(self) -> str:
        return f"cuda:{self._stream.device.index}"

    def __len__(self) -> int:
        return self._array.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device={self.device!r})"

    def reshape(self, shape: Sequence[int]) -> DeviceArray:
        """The same memory in another shape."""
        found = DeviceArray(self._array.reshape(*shape), self._stream)
        found._shared = self._shared
        return found

    def copy_to_host(self) -> NDArray[Any]:
        """The numbers, once they are there."""
        return self._stream.to_host(self._array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise ValueError("an array on a GPU cannot become a NumPy array without a copy")
        return self.copy_to_host().astype(self.dtype if dtype is None else dtype, copy=False)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        self._shared = True
        return self.interface()

    def interface(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (base_address(self._array), False),
            "strides": None,
            "stream": self._stream.handle or _LEGACY,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA[0], self._stream.device.index

    def __dlpack__(
        self, *, stream: int | None = None, max_version: Any = None, dl_device: Any = None, copy: bool | None = None
    ) -> Any:
        from cuda.core import Buffer
        from cuda.core.utils import StridedMemoryView

        if copy:
            raise BufferError("DLPack with copy=True is not supported")
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError(f"DLPack to a device other than {self.device} is not supported")
        self._shared = True
        with self._stream.device:
            if stream != -1:  # -1: whoever takes it sees to that
                self._stream.synchronize()
            memory = Buffer.from_handle(base_address(self._array), self._array.nbytes, owner=self)
            return StridedMemoryView.from_buffer(memory, self.shape, dtype=self.dtype).__dlpack__(
                max_version=max_version
            )

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("an array on a GPU cannot be copied or pickled; copy_to_host() gives a NumPy array")

    def __del__(self) -> None:
        # Others may still use it on streams that are not known here, and its memory is about to be used again.
        if self._shared and not self._stream.device.simulated:
            with suppress(Exception), self._stream.device:
                from cuda.bindings import driver

                driver.cuCtxSynchronize()


def base_address(array: Array) -> int:
    """Of the first element."""
    return array.pointer if isinstance(array.pointer, int) else int(array.pointer.ctypes.data)


# ---- libraries ------------------------------------------------------------------------------------------------------


class Described(NamedTuple):
    """An array on a GPU, whatever its library calls these things."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # bytes
    dtype: np.dtype[Any]
    gpu: int  # its index
    writable: bool
    memory: Any  # keeps it alive


class Library:
    """Where arrays on a GPU come from. This one stands for all that are not known.

    Attributes
    ----------
    what : str
        For errors.
    immutable : bool
        Whether its arrays never change.
    """

    what = "an array on the GPU"
    immutable = False

    def stream(self, gpu: int, array: Any) -> tuple[int | None, Any]:
        """The handle of the caller's stream at present, and what keeps it.

        None: it is not known, and a call returns when its work is done.
        """
        return _interface(array).get("stream"), None

    def empty(self, stream: Stream, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return DeviceArray(stream.empty(shape, dtype), stream)

    def described(self, stream: Stream, array: Any) -> Described:
        """The array, to be used on `stream`."""
        return _by_interface(stream, array) if _interface(array) else _by_dlpack(stream, array)

    def refuse(self, name: str, array: Any) -> None:
        """Raises TypeError for what cannot be taken."""

    def finished(self, array: Any) -> Any:
        """What `empty` gave, as the caller gets it."""
        return array


class _Torch(Library):
    what = "a torch tensor on the GPU"

    def stream(self, gpu: int, array: Any) -> tuple[int | None, Any]:
        found = sys.modules["torch"].cuda.current_stream(gpu)
        return found.cuda_stream, found

    def empty(self, stream: Stream, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=getattr(torch, dtype.name), device=f"cuda:{stream.device.index}")

    def refuse(self, name: str, array: Any) -> None:
        if array.requires_grad:
            raise TypeError(
                f"{name} should be a tensor that requires no grad, got one that does: torch's autograd cannot see what "
                f"is done here. Give {name}.detach(), and call vjp where gradients are wanted"
            )


class _CuPy(Library):
    what = "a CuPy array"

    def stream(self, gpu: int, array: Any) -> tuple[int | None, Any]:
        found = sys.modules["cupy"].cuda.get_current_stream(gpu)
        return found.ptr, found

    def empty(self, stream: Stream, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(stream.device.index):
            return cupy.empty(shape, dtype)


class _Numba(Library):
    what = "a Numba device array"

    def stream(self, gpu: int, array: Any) -> tuple[int | None, Any]:
        return super().stream(gpu, array)[0], getattr(array, "stream", None)

    def empty(self, stream: Stream, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        cuda = sys.modules["numba.cuda"]
        with cuda.gpus[stream.device.index]:
            return cuda.device_array(shape, dtype)


class _JAX(Library):
    what = "a JAX array on the GPU"
    immutable = True

    def stream(self, gpu: int, array: Any) -> tuple[int | None, Any]:
        return None, None  # JAX has streams of its own

    def described(self, stream: Stream, array: Any) -> Described:
        array.block_until_ready()
        return _by_dlpack(stream, array)

    def finished(self, array: Any) -> Any:
        return sys.modules["jax"].dlpack.from_dlpack(array)


UNKNOWN, TORCH, CUPY, NUMBA, JAX = Library(), _Torch(), _CuPy(), _Numba(), _JAX()


def library_of(value: Any) -> Library | None:
    """None where it is not on a GPU, so that NumPy may have it."""
    if value is None or isinstance(value, np.ndarray | np.generic | list | tuple | int | float | str):
        return None
    try:
        if _is_a(value, "torch", "Tensor"):
            return TORCH if value.is_cuda else None
        if _is_a(value, "cupy", "ndarray"):
            return CUPY
        if _is_a(value, "jax", "Array"):
            return JAX if value.__dlpack_device__()[0] in _CUDA else None
        if not _interface(value) and value.__dlpack_device__()[0] not in _CUDA:
            return None
    except Exception:  # whatever other libraries raise: NumPy's own error will say what is wrong
        return None
    return NUMBA if getattr(value, "__cuda_ndarray__", False) else UNKNOWN


def _is_a(value: Any, module: str, name: str) -> bool:
    """Whether it is an instance of a class of a library, which is then imported already."""
    found = getattr(sys.modules.get(module), name, None)
    return isinstance(found, type) and isinstance(value, found)


def _interface(array: Any) -> dict[str, Any]:
    return array.interface() if isinstance(array, DeviceArray) else getattr(array, "__cuda_array_interface__", {})


def _by_interface(stream: Stream, array: Any) -> Described:
    found = _interface(array)
    if found.get("mask") is not None:
        raise TypeError("it has a mask")
    producer = found.get("stream")
    if producer is not None and _plain_handle(producer) != stream.handle:
        stream.device.stream(_plain_handle(producer)).wait()
    dtype, shape = np.dtype(found["typestr"]), tuple(found["shape"])
    strides = found.get("strides") or [s * dtype.itemsize for s in contiguous_strides(shape)]
    at, read_only = found["data"]
    return Described(at or 0, shape, tuple(strides), dtype, _index(stream.device, at), not read_only, array)


def _by_dlpack(stream: Stream, array: Any) -> Described:
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_dlpack(array, stream_ptr=stream.handle or _LEGACY)
    shape, dtype = tuple(view.shape), np.dtype(view.dtype)
    strides = view.strides or contiguous_strides(shape)
    return Described(
        view.ptr, shape, tuple(s * dtype.itemsize for s in strides), dtype, view.device_id, not view.readonly, view
    )


def _plain_handle(handle: int) -> int:
    return 0 if handle == _LEGACY else handle


def _index(device: Device, at: int) -> int:
    """The GPU that an address is on."""
    if device.simulated or not at:
        return device.index
    from cuda.bindings import driver

    attribute = driver.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    error, index = driver.cuPointerGetAttribute(attribute, at)
    if error != driver.CUresult.CUDA_SUCCESS:
        raise TypeError(f"{at:#x} is no address on a GPU")
    return int(index)


# ---- in and out -----------------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """What arrays a call has, and the stream that it is done on."""

    library: Library | None
    stream: Stream


class Port:
    """The way in and out for the arrays of one call; `port` makes it.

    Attributes
    ----------
    library : Library or None
        None: NumPy.
    stream : Stream
        On which all of the call is done.
    keeps : bool
        What comes in is copied, where others might change it later.
    views : dict of str to Array
        The caller's arrays on the GPU, by their names.
    """

    def __init__(self, device: Device, dtype: np.dtype[Any], library: Library | None, like: Any) -> None:
        self.library, self.device, self._dtype = library, device, dtype
        handle, owner = library.stream(device.index, like) if library else (0, None)
        self._wait = handle is None
        self.stream = device.stream(_plain_handle(handle or 0))
        # Memory that was used on a stream goes back in its order, however late: it must be there for good.
        if self.stream.extras.get("owner") is None:
            self.stream.extras["owner"] = owner
        self._since = self.stream.check()
        self.keeps = False
        self.views: dict[str, Array] = {}
        self._results: dict[int, Any] = {}

    @property
    def kind(self) -> Kind:
        return Kind(self.library, self.stream)

    def look(self, name: str, value: Any, *dtypes: Any) -> Any:
        """What the checks of arguments are to look at in place of the caller's `value`: NumPy arrays of its shape.

        Raises
        ------
        TypeError, ValueError
            An array on the GPU has another dtype than one of `dtypes`, by default the layer's, or is on another GPU.
        """
        if self.library is None or value is None:
            return value
        if _several(name, value):
            parts = [self.look(part_name, part, *dtypes) for part_name, part in _parts(name, value)]
            return tuple(parts) if isinstance(value, tuple) else parts
        if library_of(value) is None:
            return value
        self.library.refuse(name, value)
        found = self._described(name, value)
        if found.dtype not in (dtypes or (self._dtype,)):
            wanted = " or ".join(str(np.dtype(dtype)) for dtype in dtypes or (self._dtype,))
            raise TypeError(f"{name} should have dtype {wanted}, got: {found.dtype} (arrays on a GPU are not cast)")
        self.views[name] = _view(self.device, name, found)
        stand_in = np.zeros(found.shape, found.dtype)  # memory that nobody touches costs nothing
        stand_in.flags.writeable = found.writable and not self.library.immutable
        return stand_in

    def _described(self, name: str, value: Any) -> Described:
        assert self.library is not None
        try:
            found = self.library.described(self.stream, value)
        except BackendError:
            raise
        except Exception as error:  # whatever other libraries raise
            raise TypeError(f"{name} cannot be taken from {type(value).__name__}: {error}") from error
        if found.address and found.gpu != self.device.index:
            raise ValueError(f"{name} should be on cuda:{self.device.index}, as the layer is, got: cuda:{found.gpu}")
        return found

    def put(self, name: str, host: NDArray[Any] | None, arranged: Callable[[Array], Array]) -> Any:
        """An argument on the GPU: `arranged` of the caller's array where that is there, else a copy of `host`."""
        if host is None:
            return None
        if (view := self.views.get(name)) is None:
            return self.stream.to_device(host, wait=False)
        return self.plain(arranged(view))

    def plain(self, array: Array) -> Array:
        """The same numbers with a unit stride in the last axis; a copy where `keeps` asks for one."""
        if self.keeps and not (self.library is None or self.library.immutable):
            return self.copied(array)
        if array.size == 0 or array.shape[-1] == 1:
            return Array(array.memory, array.pointer, array.shape, array.dtype, (*array.strides[:-1], 1))
        return array if array.strides[-1] == 1 and min(array.strides) >= 0 else self.copied(array)

    def copied(self, array: Array) -> Array:
        """A contiguous copy."""
        copy = self.stream.empty(array.shape, array.dtype)
        self.stream.copy(copy, array)
        return copy

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Where a result goes."""
        if self.library is None:
            return self.stream.empty(shape, dtype)
        result = self.library.empty(self.stream, tuple(shape), dtype)
        own = isinstance(result, DeviceArray)
        view = result._array if own else _view(self.device, "out", self._described("out", result))
        self._results[base_address(view)] = result
        return view

    def leave(self, shaped: Callable[[Any], Any], results: Any) -> Any:
        """`shaped(results)` as the caller gets it.

        Parameters
        ----------
        shaped : function
            Puts arrays, NumPy's or `runtime.Array`s, into the caller's shapes.
        results : nested tuples, lists and dicts of Array
        """
        if self.library is None:
            found: list[Array] = []
            each(found.append, results)
            arrays = iter(self.stream.to_hosts(found, self._since))
            return shaped(each(lambda _: next(arrays), results))
        given = each(self._given, shaped(results))
        if self._wait:
            self.stream.synchronize(self._since)
        return each(self.library.finished, given)

    def _given(self, array: Array) -> Any:
        """An array of the caller's library with the numbers of `array`."""
        if array.contiguous and array.size and (mine := self._results.get(base_address(array))) is not None:
            if tuple(mine.shape) == array.shape:
                return mine
            if prod(mine.shape) == array.size:
                return mine.reshape(array.shape)
        view = self.empty(array.shape, array.dtype)
        self.stream.copy(view, array)
        return self._results[base_address(view)]


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays may share memory."""

    def bounds(array: Array) -> tuple[int, int]:
        steps = [(n - 1) * s * array.dtype.itemsize for n, s in zip(array.shape, array.strides, strict=True)]
        begin = base_address(array)
        return begin + sum(s for s in steps if s < 0), begin + sum(s for s in steps if s > 0) + array.dtype.itemsize

    (a_begin, a_end), (b_begin, b_end) = bounds(a), bounds(b)
    return bool(a.size and b.size) and a_begin < b_end and b_begin < a_end


def port(device: Device, dtype: np.dtype[Any], like: Kind | None = None, **given: Any) -> Port:
    """The way in and out for a call's arrays.

    Parameters
    ----------
    like : Kind, optional
        Of an earlier call to whose arrays those of this one belong; else the first array decides.
    **given : object
        Arguments by name; those that are None do not count.

    Raises
    ------
    TypeError
        Arrays are of more than one kind.
    """
    named = [pair for name, value in given.items() for pair in _parts(name, value)]
    kinds = [(name, value, library_of(value)) for name, value in named if value is not None]
    first, array, library = kinds[0] if kinds else ("x", None, None)
    if like is not None:
        first, library = "x", like.library
    for name, value, found in kinds:
        if found is not None and name.endswith(".data"):
            raise TypeError(f"{name} should be a NumPy array: on the GPU, give a padded array and lengths in its place")
        if found is not library and not (found is None and name in _OF_EITHER_KIND):
            expected = "a NumPy array" if library is None else library.what
            raise TypeError(f"{name} should be {expected}, as {first} is, got: {type(value).__name__}")
    return Port(device, dtype, library, array)


_OF_EITHER_KIND = ("lengths", "reset", "mask")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays in a tuple or list of states, or the one array."""
    if hasattr(value, "batch_sizes"):
        yield f"{name}.data", value.data
    elif _several(name, value):
        yield from ((f"{name}[{i}]", part) for i, part in enumerate(value))
    else:
        yield name, value


def _several(name: str, value: Any) -> bool:
    """Whether it is a tuple or list of states, and no array written as a list."""
    return isinstance(value, tuple | list) and name not in ("x", "x_t", "chunk", *_OF_EITHER_KIND)


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of every array in nested tuples, lists and dicts; None stays None."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {key: each(function, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [each(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return function(value)


def _view(device: Device, name: str, found: Described) -> Array:
    """As the engine has it: bool as bytes, and of int64 the lower halves."""
    element = np.dtype({"b": np.uint8, "i": np.int32}.get(found.dtype.kind, found.dtype))
    if found.address % element.itemsize or any(s % element.itemsize for s in found.strides):
        raise TypeError(f"{name} should be aligned to its elements, got: address {found.address:#x}")
    strides = [s // element.itemsize for s in found.strides]
    if not device.simulated:
        return Array(found.memory, found.address, found.shape, element, strides)
    if 0 in found.shape or min(strides, default=0) < 0:
        described = {
            "data": (found.address, False), "shape": found.shape, "strides": found.strides,
            "typestr": found.dtype.str, "version": 3,
        }  # fmt: skip
        copy = np.array(SimpleNamespace(__array_interface__=described), order="C")
        wide = found.dtype.itemsize // element.itemsize
        strides = [s * wide for s in contiguous_strides(found.shape)]
        return Array(copy, np.append(copy.ravel(), copy.dtype.type(0)).view(element), found.shape, element, strides)
    last = sum((n - 1) * s for n, s in zip(found.shape, strides, strict=True))
    span = {"data": (found.address, False), "shape": (last + 1,), "typestr": element.str, "version": 3}
    return Array(found.memory, np.asarray(SimpleNamespace(__array_interface__=span)), found.shape, element, strides)
