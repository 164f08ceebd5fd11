"""Writes plain data and arrays as the pickle of protocol 2 that torch.load(weights_only=True) reads."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .dtypes import BY_NUMPY, DType
from .rebuild import Array

_MAX_DEPTH = 256  # what `load` reads without being told


def array_row(array: Array, where: str) -> DType:
    """The row of the array's type.

    Raises
    ------
    ValueError
        It has none.
    """
    row = BY_NUMPY.get(array.dtype.newbyteorder("=").name)
    if row is None:
        raise ValueError(f"{where}: arrays of {array.dtype} cannot be saved")
    return row


class PickleWriter:
    """Makes the pickle of one object; `arrays` then has what belongs in the storages 0, 1, ...

    No memo is written: an object that stands in several places is written as often, only arrays over the same memory
    share a storage.
    """

    def __init__(self) -> None:
        self.arrays: list[Array] = []
        self._pieces: list[bytes] = []
        self._keys: dict[tuple[Any, ...], int] = {}
        self._open: set[int] = set()

    def pickle(self, value: Any) -> bytes:
        """The pickle.

        Raises
        ------
        TypeError
            There is something in it that is not plain data; the message says where.
        ValueError
            It contains itself, is nested too deep, or has an array or integer that torch has no type for.
        """
        self._value(value, "obj")
        return b"".join([b"\x80\x02", *self._pieces, b"."])

    def _emit(self, *pieces: bytes) -> None:
        self._pieces += pieces

    def _value(self, value: Any, where: str) -> None:
        if isinstance(value, np.generic) and not isinstance(value, str | bytes | float | complex):
            value = value.item()
        if value is None or isinstance(value, bool):
            self._emit({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._int(int(value), where)
        elif isinstance(value, float):
            self._emit(b"G", struct.pack(">d", value))
        elif isinstance(value, complex):
            self._call("builtins", "complex", value.real, value.imag)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, bytes | bytearray):
            self._call("_codecs", "encode", bytes(value).decode("latin-1"), "latin1")
        elif isinstance(value, np.ndarray):
            self._array(value, where)
        elif isinstance(value, Mapping | list | tuple):
            self._container(value, where)
        else:
            raise TypeError(f"{where}: {type(value).__name__} cannot be saved, only plain data and NumPy arrays")

    def _container(self, value: Any, where: str) -> None:
        if id(value) in self._open:
            raise ValueError(f"{where}: contains itself")
        if len(self._open) >= _MAX_DEPTH:
            raise ValueError(f"{where[:200]}...: nested deeper than {_MAX_DEPTH}")
        self._open.add(id(value))
        if isinstance(value, Mapping):
            self._emit(b"}(")
            for key, item in value.items():
                self._key(key, where)
                self._value(item, f"{where}[{key!r}]")
            self._emit(b"u")
        else:
            self._emit(b"](" if isinstance(value, list) else b"(")
            for i, item in enumerate(value):
                self._value(item, f"{where}[{i}]")
            self._emit(b"e" if isinstance(value, list) else b"t")
        self._open.discard(id(value))

    def _key(self, key: Any, where: str) -> None:
        if not isinstance(key, str | bytes | int | float | tuple | np.integer | np.floating | None):
            raise TypeError(f"{where}: {type(key).__name__} cannot be saved as a key")
        self._value(key, f"{where}: key {key!r}")

    def _int(self, value: int, where: str) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._emit(b"J", struct.pack("<i", value))
            return
        n = value.bit_length() // 8 + 1
        if n > 255:
            raise ValueError(f"{where}: an integer of {n} bytes cannot be saved")
        self._emit(b"\x8a", bytes([n]), value.to_bytes(n, "little", signed=True))

    def _text(self, value: str) -> None:
        raw = value.encode("utf-8", "surrogatepass")
        self._emit(b"X", struct.pack("<I", len(raw)), raw)

    def _name(self, module: str, name: str) -> None:
        self._emit(b"c", f"{module}\n{name}\n".encode())

    def _call(self, module: str, name: str, *args: Any) -> None:
        self._name(module, name)
        self._plain_tuple(args)
        self._emit(b"R")

    def _plain_tuple(self, items: Iterable[Any]) -> None:
        self._emit(b"(")
        for item in items:
            self._value(item, "")
        self._emit(b"t")

    def _array(self, array: Array, where: str) -> None:
        """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks), or v3 with the dtype"""
        row = array_row(array, where)
        same = (array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str, row)
        key = self._keys.setdefault(same, len(self.arrays)) if array.size else len(self.arrays)
        if key == len(self.arrays):
            self.arrays.append(array)
        self._name("torch._utils", "_rebuild_tensor_v2" if row.storage else "_rebuild_tensor_v3")
        self._emit(b"((")
        self._text("storage")
        self._name(*(("torch", row.storage) if row.storage else ("torch.storage", "UntypedStorage")))
        for part in (str(key), "cpu", array.size if row.storage else array.nbytes):
            self._value(part, "")
        self._emit(b"tQ")
        self._value(0, "")
        self._plain_tuple(array.shape)
        self._plain_tuple(math.prod(array.shape[i + 1 :]) for i in range(array.ndim))
        self._value(False, "")
        self._call("collections", "OrderedDict")
        if not row.storage:
            self._name("torch", row.torch)
        self._emit(b"tR")
