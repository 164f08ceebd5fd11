"""What NumPy's names in a pickle mean: arrays and scalars of numbers, text and dates."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import CheckpointError
from . import dtypes
from .inert import Name, Opaque, Unfinished
from .limits import Limits
from .views import Array, check_size, ints, text_array, usable, view

_ARRAY_OPS = 15  # what one takes, in common operations of a pickle
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
_TEXT = re.compile(r"[SU][1-9][0-9]{0,7}", re.ASCII)
_DATE_UNITS = {b"Y", b"M", b"W", b"D", b"h", b"m", b"s", b"ms", b"us", b"ns", b"ps", b"fs", b"as", b"generic"}


class NumpyValues:
    """Makes what NumPy pickles. An array of other things (objects, records) becomes an `Opaque` with what NumPy wrote.

    Attributes
    ----------
    functions : dict
        By name; each gives NotImplemented for what it does not make.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.functions: dict[str, Callable[[tuple[Any, ...]], Any]] = {}
        for core in ("numpy.core", "numpy._core"):
            self.functions |= {
                f"{core}.multiarray._reconstruct": self._empty,
                f"{core}.multiarray.scalar": self._scalar,
                f"{core}.numeric._frombuffer": self._from_buffer,
            }

    def _empty(self, args: tuple[Any, ...]) -> Any:
        """An array that NumPy makes empty and then gives its state."""
        is_array = args and isinstance(args[0], Name) and str(args[0]) == "numpy.ndarray"
        return Unfinished(self._from_state, "NumPy array") if is_array else NotImplemented

    def _from_state(self, state: Any) -> Any:
        """(version, shape, dtype, is in Fortran order, bytes or list of objects)"""
        if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
            raise CheckpointError("a NumPy array's description is not what NumPy writes")
        _, size, record, fortran, raw = state
        dtype = _dtype_of(record)
        if dtype is None:
            return Opaque("numpy", "ndarray", state=state)
        return self._array(raw, dtype, size, fortran=fortran)

    def _from_buffer(self, args: tuple[Any, ...]) -> Any:
        """(bytes, dtype, shape, order)"""
        dtype = _dtype_of(args[1]) if len(args) == 4 else None
        if dtype is None or type(args[3]) is not str or args[3] not in ("C", "F"):
            return NotImplemented
        return self._array(args[0], dtype, args[2], fortran=args[3] == "F")

    def _scalar(self, args: tuple[Any, ...]) -> Any:
        """(dtype, bytes)"""
        dtype = _dtype_of(args[0]) if len(args) == 2 else None
        return NotImplemented if dtype is None else self._array(args[1], dtype, (), fortran=False)[()]

    def _array(self, raw: Any, dtype: np.dtype[Any], size: Any, *, fortran: bool) -> Array:
        """In the machine's byte order."""
        self._limits.spend(_ARRAY_OPS)
        shape = ints(size, "NumPy array's shape")
        if type(raw) is not bytes or len(raw) != math.prod(shape) * dtype.itemsize:
            raise CheckpointError("a NumPy array has not the size that its shape says")
        check_size(shape, dtype, len(raw), self._limits)
        self._limits.allocate(len(raw), "a NumPy array")  # so that no bytes are looked through too often
        native = dtype.newbyteorder("=")
        if dtype.kind in "SUMm":
            flat = text_array(raw, dtype, self._limits)
        else:
            data = usable(memoryview(raw), dtypes.BY_NUMPY[native.name], self._limits, swap=not dtype.isnative)
            flat = view(data, native, (math.prod(shape),), self._limits)
        return flat.reshape(shape, order="F" if fortran else "C")


def _dtype_of(record: Any) -> np.dtype[Any] | None:
    """The dtype that a pickle describes by NumPy's code and its state; None for other than numbers, text and dates."""
    if not isinstance(record, Opaque) or (record.module, record.name) != ("numpy", "dtype"):
        return None
    code = record.args[0] if record.args else None
    state = record.state if type(record.state) is tuple else ()
    order = state[1] if len(state) > 1 else "="
    if type(order) is not str or order not in ("<", ">", "|", "="):
        return None
    if isinstance(code, Name):
        row = dtypes.BY_NUMPY.get(code.name) if code.module == "ml_dtypes" and order != ">" else None
        return None if row is None else dtypes.numpy_dtype(row)
    if type(code) is not str:
        return None
    if code in ("M8", "m8"):
        return _date_type(order + code, state[8] if len(state) == 9 else None)
    return np.dtype(order + code) if code in _NUMBERS or _TEXT.fullmatch(code) else None


def _date_type(code: str, metadata: Any) -> np.dtype[Any] | None:
    """Of ``(anything, (unit, number of units, ...))``: ``M8[25us]``"""
    unit = metadata[1] if type(metadata) is tuple and len(metadata) == 2 else None
    if type(unit) is not tuple or len(unit) < 2 or type(unit[0]) is not bytes or unit[0] not in _DATE_UNITS:
        return None
    if type(unit[1]) is not int or not 1 <= unit[1] < 1 << 31:
        return None
    return np.dtype(code if unit[0] == b"generic" else f"{code}[{unit[1]}{unit[0].decode('ascii')}]")
