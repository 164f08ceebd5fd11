"""Libraries with arrays on a GPU: what an array of theirs is, which stream is theirs, and where results are to go.

Results are in memory of the library's own: it knows when that may be used again.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import numpy as np

from .device_array import CUDA, LEGACY, DeviceArray
from .runtime import Device, Stream
from .views import contiguous_strides

_ON_GPU = (CUDA, 13)  # DLPack's kinds of memory: of a GPU, and what CUDA moves there by itself


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
            return JAX if value.__dlpack_device__()[0] in _ON_GPU else None
        if not _interface(value) and value.__dlpack_device__()[0] not in _ON_GPU:
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
    if producer is not None and plain_handle(producer) != stream.handle:
        stream.device.stream(plain_handle(producer)).wait()
    dtype, shape = np.dtype(found["typestr"]), tuple(found["shape"])
    strides = found.get("strides") or [s * dtype.itemsize for s in contiguous_strides(shape)]
    at, read_only = found["data"]
    return Described(at or 0, shape, tuple(strides), dtype, _index(stream.device, at), not read_only, array)


def _by_dlpack(stream: Stream, array: Any) -> Described:
    from cuda.core.utils import StridedMemoryView

    view = StridedMemoryView.from_dlpack(array, stream_ptr=stream.handle or LEGACY)
    shape, dtype = tuple(view.shape), np.dtype(view.dtype)
    strides = view.strides or contiguous_strides(shape)
    return Described(
        view.ptr, shape, tuple(s * dtype.itemsize for s in strides), dtype, view.device_id, not view.readonly, view
    )


def plain_handle(handle: int) -> int:
    return 0 if handle == LEGACY else handle


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
