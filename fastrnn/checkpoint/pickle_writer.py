"""Writes plain data and arrays as the pickle of protocol 2 that torch.load(weights_only=True) reads."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from .dtypes import BY_NUMPY, BY_TORCH, DType
from .inert import Name, Opaque, shorten
from .rebuild import Array
from .storages import Place, lay_out

MAX_DEPTH = 256  # what `load` reads without being told
_MAX_INT_BYTES = 255
_KEYS = (str, bytes, int, float, tuple, np.generic, type(None))


def array_row(array: Array, where: str) -> DType:
    """The row of the array's type.

    Raises
    ------
    TypeError
        It is a masked array, whose mask would be lost.
    ValueError
        It has none.
    """
    if hasattr(array, "mask"):
        raise TypeError(f"{where}: a masked array cannot be saved; fill it, or save its data and mask")
    row = BY_NUMPY.get(array.dtype.newbyteorder("=").name)
    if row is None:
        raise ValueError(f"{where}: arrays of {array.dtype} cannot be saved")
    return row


def kind_of(value: Any) -> str:
    """What messages call an object that cannot be saved."""
    if isinstance(value, Opaque):
        return f"an object of the unknown class {shorten(f'{value.module}.{value.name}')}"
    return f"the name {shorten(str(value))}" if isinstance(value, Name) else type(value).__name__


class _Frame(NamedTuple):
    """A container that is being written."""

    items: Iterator[tuple[Any, Any]]
    has_keys: bool  # that are written
    end: bytes
    id: int


class PickleWriter:
    """Makes the pickle of one object; `storages` then has the contents of the storages 0, 1, ...

    No memo is written: an object that stands in several places is written as often, only arrays over the same memory
    share a storage.
    """

    def __init__(self) -> None:
        self.storages: list[Array] = []
        self._pieces: list[bytes] = []
        self._arrays: list[tuple[int, Array, DType]] = []  # the first is a place in `_pieces`
        self._open: set[int] = set()
        self._way: list[Any] = []  # the keys to what is being written

    def pickle(self, value: Any) -> bytes:
        """The pickle.

        Raises
        ------
        TypeError
            There is something in it that is not plain data; the message says where.
        ValueError
            It contains itself, is nested too deep, or has an array or integer that torch has no type for.
        """
        self._value(value)
        pieces = self._pieces
        self.storages, places = lay_out([array for _, array, _ in self._arrays])
        for (i, array, row), place in zip(self._arrays, places, strict=True):
            self._pieces = []
            self._tensor(array, row, place)
            pieces[i] = b"".join(self._pieces)
        return b"".join([b"\x80\x02", *pieces, b"."])

    def _where(self) -> str:
        return "obj" + "".join(f"[{key!r}]"[:200] for key in self._way[:8]) + "..." * (len(self._way) > 8)

    def _emit(self, *pieces: bytes) -> None:
        self._pieces += pieces

    def _value(self, root: Any) -> None:
        """Containers are held in a list, as there may be more of them in each other than Python allows calls."""
        frames: list[_Frame] = []
        if not self._is_written(root):
            frames.append(self._begin(root))
        while frames:
            frame = frames[-1]
            for key, item in frame.items:
                if frame.has_keys:
                    self._key(key)
                self._way.append(key)
                if not self._is_written(item):
                    frames.append(self._begin(item))
                    break
                self._way.pop()
            else:
                frames.pop()
                self._emit(frame.end)
                self._open.discard(frame.id)
                if frames:
                    self._way.pop()

    def _is_written(self, value: Any) -> bool:
        """Write the value, if it is no container."""
        if isinstance(value, np.generic) and not isinstance(value, str | bytes | float | complex):
            value = value.item()
        if value is None or isinstance(value, bool):
            self._emit({None: b"N", True: b"\x88", False: b"\x89"}[value])
        elif isinstance(value, int):
            self._int(int(value))
        elif isinstance(value, float):
            self._emit(b"G", struct.pack(">d", value))
        elif isinstance(value, complex):
            self._call("builtins", "complex", value.real, value.imag)
        elif isinstance(value, str):
            self._text(value)
        elif isinstance(value, bytes | bytearray):
            self._call("_codecs", "encode", bytes(value).decode("latin-1"), "latin1")
        elif isinstance(value, np.ndarray):
            self._arrays.append((len(self._pieces), value, array_row(value, self._where())))
            self._emit(b"")  # its place; `lay_out` has to know all arrays first
        elif isinstance(value, set):
            self._set(value)
        elif isinstance(value, Name) and value.module == "torch" and value.name in BY_TORCH:
            self._name(value.module, value.name)
        elif isinstance(value, Opaque) and (value.module, value.name, value.state) == ("torch", "device", None):
            self._call(value.module, value.name, *value.args)
        elif isinstance(value, Mapping | list | tuple):
            return False
        else:
            raise TypeError(f"{self._where()}: {kind_of(value)} cannot be saved, only plain data and NumPy arrays")
        return True

    def _begin(self, value: Any) -> _Frame:
        if id(value) in self._open:
            raise ValueError(f"{self._where()}: contains itself")
        if len(self._open) >= MAX_DEPTH:
            raise ValueError(f"{self._where()}: nested deeper than {MAX_DEPTH}")
        self._open.add(id(value))
        if not isinstance(value, Mapping):
            is_list = isinstance(value, list)
            self._emit(b"](" if is_list else b"(")
            return _Frame(iter(enumerate(value)), False, b"e" if is_list else b"t", id(value))
        if isinstance(value, OrderedDict):
            self._call("collections", "OrderedDict")
            self._emit(b"(")
        else:
            self._emit(b"}(")
        return _Frame(iter(value.items()), True, b"u", id(value))

    def _key(self, key: Any) -> None:
        if not isinstance(key, _KEYS):
            raise TypeError(f"{self._where()}: {type(key).__name__} cannot be saved as a key")
        self._value(key)

    def _set(self, value: set[Any]) -> None:
        """set([items]), in an order that is the same in each run."""
        before, items = self._pieces, []
        for item in value:
            self._pieces = []
            self._value(item)
            items.append(b"".join(self._pieces))
        self._pieces = before
        self._name("builtins", "set")
        self._emit(b"(](", *sorted(items), b"etR")

    def _int(self, value: int) -> None:
        if -(1 << 31) <= value < 1 << 31:
            self._emit(b"J", struct.pack("<i", value))
            return
        n = value.bit_length() // 8 + 1
        if n > _MAX_INT_BYTES:
            raise ValueError(f"{self._where()}: an integer of {n} bytes cannot be saved")
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
            self._value(item)
        self._emit(b"t")

    def _tensor(self, array: Array, row: DType, place: Place) -> None:
        """torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks), or v3 with the dtype"""
        storage = self.storages[place.storage]
        self._name("torch._utils", "_rebuild_tensor_v2" if row.storage else "_rebuild_tensor_v3")
        self._emit(b"((")
        self._text("storage")
        self._name(*(("torch", row.storage) if row.storage else ("torch.storage", "UntypedStorage")))
        for part in (str(place.storage), "cpu", storage.size if row.storage else storage.nbytes):
            self._value(part)
        self._emit(b"tQ")
        self._value(place.offset)
        self._plain_tuple(array.shape)
        self._plain_tuple(place.strides)
        self._value(False)
        self._call("collections", "OrderedDict")
        if not row.storage:
            self._name("torch", row.torch)
        self._emit(b"tR")
