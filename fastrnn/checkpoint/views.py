"""Arrays over bytes, checked by arithmetic of our own."""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from . import dtypes
from .dtypes import DType
from .limits import Limits

Array = NDArray[Any]
_ARRAY_BYTES = 128  # without shape and strides
_MAX_RANK = 64  # NumPy's
_MAX_CHARACTER = 0x10FFFF
_PIECE = 1 << 20


def ints(value: Any, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > _MAX_RANK or not all(type(n) is int and n >= 0 for n in value):
        raise CheckpointError(f"a {what} is not a tuple of up to {_MAX_RANK} numbers from 0 upwards")
    return value


def check_size(shape: tuple[int, ...], dtype: np.dtype[Any], stored: int, limits: Limits) -> None:
    """Refuse an array that NumPy cannot make or the limits forbid; `stored` bytes are there for it."""
    if len(shape) > _MAX_RANK:
        raise CheckpointError(f"an array has {len(shape)} dimensions; {_MAX_RANK} are allowed")
    limits.allocate(_ARRAY_BYTES + 16 * len(shape), "an array")
    # Zeros count as ones: NumPy refuses an empty array whose other sizes are beyond its reach.
    limits.show(math.prod(max(n, 1) for n in shape) * dtype.itemsize, stored, "an array")


def view(
    data: memoryview,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    limits: Limits,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """A read-only array over `data`; it is checked that every element lies inside.

    Parameters
    ----------
    data : memoryview
        Bytes.
    dtype : numpy.dtype
        Of the elements.
    shape, strides : tuple of int
        Not negative; strides count elements, None means C order.
    offset : int
        Of the first element, in elements.

    Raises
    ------
    CheckpointError
        The array reaches beyond the data, or is larger than the limits allow.
    """
    check_size(shape, dtype, len(data), limits)
    if strides is None:
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if 0 in shape:
        array = np.empty(shape, dtype)
    else:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (last + 1) * dtype.itemsize > len(data):
            raise CheckpointError("a tensor reaches beyond the data that is there")
        # The stride of a single element is never used, and may be beyond 64 bits.
        steps = tuple(stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
        array = np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps)
    array.flags.writeable = False
    return array


def usable(data: memoryview, row: DType, limits: Limits, *, swap: bool = False) -> memoryview:
    """`data` itself, or a counted copy where its bytes are in the other order.

    It may lie off its natural addresses, as NumPy allows: a copy would bring all of a large file into memory.

    Raises
    ------
    CheckpointError
        Bools are not 0 or 1, or a copy is larger than the limits allow.
    """
    unit = dtypes.swap_unit(row)
    data = data[: len(data) // unit * unit]
    if row.numpy == "bool":
        _check_bools(data)
    if swap and unit > 1 and data:
        limits.allocate(len(data), "data in the other byte order")
        data = np.frombuffer(data, f"u{unit}").byteswap().data.cast("B").toreadonly()
    return data


def _check_bools(data: memoryview) -> None:
    """In pieces, whose pages are given back where `data` is a map: they would count as memory in use."""
    for start in range(0, len(data), _PIECE):
        if np.frombuffer(data[start : start + _PIECE], np.uint8).max() > 1:
            raise CheckpointError("bools are stored as bytes other than 0 and 1")
        if len(data) > _PIECE and isinstance(data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            data.obj.madvise(mmap.MADV_DONTNEED)


def text_array(raw: bytes, dtype: np.dtype[Any], limits: Limits) -> Array:
    """A flat array of text or dates, in the machine's byte order: a counted copy.

    Raises
    ------
    CheckpointError
        There are characters that are none, or the copy is larger than the limits allow.
    """
    limits.allocate(2 * len(raw), "text")
    array = np.frombuffer(bytearray(raw), dtype) if raw else np.empty(0, dtype)
    if dtype.kind == "U" and raw and int(array.view(dtype.byteorder + "u4").max()) > _MAX_CHARACTER:
        raise CheckpointError("an array of text holds characters that are none")
    array = array.astype(dtype.newbyteorder("="), copy=False)
    array.flags.writeable = False
    return array
