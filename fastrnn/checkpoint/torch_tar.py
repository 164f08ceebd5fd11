"""The first format of torch.save (torch 0.1.1 to 0.1.9): a tar archive of storages, tensors and a pickle."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .inert import Name
from .limits import Limits
from .pickle_reader import PickleReader
from .rebuild import Array, Storage, TorchMeanings, storage
from .source import Source
from .tar import read_tar
from .torch_legacy import ByteOrder, Outline, byteorder_of, part_of

_MAX_RANK = 64


def load_tar(source: Source, limits: Limits) -> Any:
    """What torch.save was given, arrays in place of tensors.

    Raises
    ------
    CheckpointError
        Anything is wrong with it.
    """
    files = read_tar(source.data)
    for name in ("sys_info", "pickle", "storages", "tensors"):
        if name not in files:
            raise CheckpointError(f"the tar archive holds no file {name!r}: not one of torch's")
    machine = _last_pickle(files["sys_info"], 0, Outline(), limits)
    meanings = _TarMeanings(byteorder_of(machine), limits)
    meanings.read_storages(files["storages"])
    meanings.read_tensors(files["tensors"])
    return _last_pickle(files["pickle"], 0, meanings, limits)


def _read_pickle(data: memoryview, position: int, meanings: Any, limits: Limits) -> tuple[Any, int]:
    """The object of the pickle at `position`, and where it ends."""
    reader = PickleReader(data, meanings, limits, position)
    return reader.read(), reader.position


def _last_pickle(data: memoryview, position: int, meanings: Any, limits: Limits) -> Any:
    value, end = _read_pickle(data, position, meanings, limits)
    if end != len(data):
        raise CheckpointError("something follows the end of the pickle")
    return value


def _fields(record: Any, n: int) -> tuple[Any, ...]:
    if type(record) is not tuple or len(record) != n:
        raise CheckpointError("a storage's or tensor's description is not what torch writes")
    return record


class _TarMeanings(TorchMeanings):
    """Storages and tensors stand in files of their own; the pickle refers to them by number."""

    def __init__(self, byteorder: ByteOrder, limits: Limits) -> None:
        self._content: dict[str, memoryview] = {}
        super().__init__(self._content.__getitem__, byteorder, limits)
        self._byteorder: ByteOrder = byteorder
        self._objects: dict[int, Storage | Array] = {}
        self._roots: dict[int, tuple[Storage, int]] = {}  # storages that are no parts of others, and their sizes

    def persistent(self, key: Any) -> Any:
        """A storage's or tensor's number in digits, or ``(class, file, source)`` for the class of a module."""
        if type(key) is tuple and len(key) == 3 and isinstance(key[0], Name):
            return key[0]
        number = int(key) if type(key) is str and key.isascii() and key.isdigit() and len(key) <= 20 else -1
        return self._find(number)

    def _find(self, number: Any) -> Storage | Array:
        if type(number) is not int or number not in self._objects:
            raise CheckpointError("the file refers to a storage or tensor that is not there")
        return self._objects[number]

    def _add(self, number: Any, value: Storage | Array) -> None:
        if type(number) is not int or number in self._objects:
            raise CheckpointError("a storage or tensor has a number that is none, or another one's")
        self._objects[number] = value

    def _numbers(self, data: memoryview, position: int, n: int, size: int = 8) -> tuple[tuple[int, ...], int]:
        """`n` integers of `size` bytes, and where the last one ends."""
        end = position + n * size
        if end > len(data):
            raise CheckpointError("the file of storages or tensors is cut off")
        parts = (data[at : at + size] for at in range(position, end, size))
        return tuple(int.from_bytes(part, self._byteorder, signed=True) for part in parts), end

    def read_storages(self, data: memoryview) -> None:
        """Their number; of each ``(number, device, class)``, its size and its elements; then a list of those that are
        parts of others: ``(number, number of the other, offset, size)``.
        """
        count, position = _read_pickle(data, 0, self, self._limits)
        for _ in range(_count(count)):
            record, position = _read_pickle(data, position, self, self._limits)
            number, _, kind = _fields(record, 3)
            if not isinstance(kind, Name):
                raise CheckpointError("a storage has a type that is none")
            whole = storage(kind, str(number) if type(number) is int else "")
            (numel,), start = self._numbers(data, position, 1)
            position = start + numel * whole.unit
            if numel < 0 or position > len(data):
                raise CheckpointError("the file of storages is cut off")
            self._add(number, whole)
            self._content[whole.key], self._roots[number] = data[start:position], (whole, numel)
            self.storage(whole, numel)
        parts = _last_pickle(data, position, self, self._limits)
        if type(parts) is not list:
            raise CheckpointError("the list of storages that are parts of others is none")
        for part in parts:
            number, root, offset, numel = _fields(part, 4)
            if type(root) is not int or root not in self._roots:
                raise CheckpointError("a storage is part of one that is not there")
            whole, available = self._roots[root]
            self._add(number, part_of(whole, offset, numel, available))

    def read_tensors(self, data: memoryview) -> None:
        """Their number; of each ``(number, number of its storage, class)``, its rank, sizes, strides and offset."""
        count, position = _read_pickle(data, 0, self, self._limits)
        for _ in range(_count(count)):
            record, position = _read_pickle(data, position, self, self._limits)
            number, root, _ = _fields(record, 3)
            (rank,), position = self._numbers(data, position, 1, size=4)
            if not 0 <= rank <= _MAX_RANK:
                raise CheckpointError(f"a tensor has {rank} dimensions; up to {_MAX_RANK} are allowed")
            position += 4  # the rank was once written as 8 bytes
            size, position = self._numbers(data, position, rank)
            stride, position = self._numbers(data, position, rank)
            (offset,), position = self._numbers(data, position, 1)
            self._add(number, self.tensor((self._find(root), offset, size, stride)))
        if position != len(data):
            raise CheckpointError("something follows the tensors")


def _count(value: Any) -> int:
    if type(value) is not int:
        raise CheckpointError("the number of storages or tensors is none")
    return value
