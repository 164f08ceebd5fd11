"""Arrays on a GPU that belong to no other library."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .runtime import Array, Stream

CUDA = 2  # DLPack's name for memory of a GPU
LEGACY = 1  # the default stream's handle where 0 would mean that there is none


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
        found: np.dtype[Any] = self._array.dtype
        return found

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
            "stream": self._stream.handle or LEGACY,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self._stream.device.index

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
