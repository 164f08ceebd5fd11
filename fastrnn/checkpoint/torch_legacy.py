"""What torch.save wrote before torch 1.6, and writes with ``_use_new_zipfile_serialization=False``: a stream.

It is five pickles (a number that tells the format, its version, the machine, what was saved, the storages' keys) and
then the storages: of each the number of elements, in 8 bytes, and the elements. So where they are is known only when
what was saved has been read; it is read twice, first for the storages that it names alone. Both count for the limits.
"""

from __future__ import annotations

from typing import Any, Literal

from ..errors import CheckpointError
from .inert import Name, Opaque, shorten
from .limits import Limits
from .pickle_reader import PickleReader
from .rebuild import Storage, TorchMeanings, storage
from .source import Source

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
ByteOrder = Literal["little", "big"]


def load_stream(source: Source, limits: Limits) -> Any:
    """What torch.save was given, arrays in place of tensors: views of the file's bytes, which lie on their natural
    addresses by chance only.

    Raises
    ------
    CheckpointError
        Anything is wrong with it.
    """
    outline, data = Outline(), source.data

    def next_pickle(position: int) -> tuple[Any, int]:
        reader = PickleReader(data, outline, limits, position)
        return reader.run(), reader.position

    magic, position = next_pickle(0)
    version, position = next_pickle(position)
    if magic != _MAGIC or version != _VERSION:
        raise CheckpointError("the file starts as torch's old format does, but its version is none")
    machine, start = next_pickle(position)
    _, position = next_pickle(start)
    keys, position = next_pickle(position)
    storages, byteorder = _find_storages(data, position, outline.named(keys), machine)
    return PickleReader(data, _StreamMeanings(storages.__getitem__, byteorder, limits), limits, start).read()


def _storage_of(key: Any) -> tuple[Storage, int, Any]:
    """The storage that a persistent id names, its number of elements, and which part of it is meant."""
    if type(key) is not tuple or [*map(type, key[:3]), len(key)] != [str, Name, str, 6] or key[0] != "storage":
        raise CheckpointError("the pickle refers to something outside that is not a storage")
    if type(key[4]) is not int or key[4] < 0:
        raise CheckpointError("a storage has a size that is none")
    return storage(key[1], key[2]), key[4], key[5]


def _class_of(key: Any) -> Name | None:
    """The class in ``("module", class, file, source)``, as which torch writes the class of a module."""
    is_class = type(key) is tuple and len(key) == 4 and key[0] == "module" and isinstance(key[1], Name)
    return key[1] if is_class else None


class Outline:
    """Meanings of a pickle of which only the storages that it names matter; everything else stays inert."""

    def __init__(self) -> None:
        self._storages: dict[str, tuple[int, int]] = {}  # number of elements, bytes of each

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        return Opaque(name.module, name.name)

    def persistent(self, key: Any) -> Any:
        if name := _class_of(key):
            return name
        part, numel, _ = _storage_of(key)
        # The file counts in elements of the type under which a storage was met first.
        self._storages.setdefault(part.key, (numel, part.unit))
        return None

    def build(self, value: Any, state: Any) -> bool:
        return False

    def named(self, keys: Any) -> dict[str, tuple[int, int]]:
        """The storages in the order of `keys`."""
        if type(keys) is not list or not all(type(key) is str for key in keys):
            raise CheckpointError("the list of storages is none")
        if len(keys) != len(self._storages) or self._storages.keys() != set(keys):
            raise CheckpointError("the list of storages is not of those that the pickle refers to")
        return {key: self._storages[key] for key in keys}


def _find_storages(
    data: memoryview, position: int, named: dict[str, tuple[int, int]], machine: Any
) -> tuple[dict[str, memoryview], ByteOrder]:
    own = byteorder_of(machine)
    try:
        # Torch writes numbers in this order on any machine; where one has used its own, the counts tell.
        return _slices(data, position, named, "little"), "little"
    except CheckpointError:
        if own == "little":
            raise
        return _slices(data, position, named, own), own


def byteorder_of(machine: Any) -> ByteOrder:
    """The order of bytes of the machine that wrote the file, which it describes in a dict."""
    little = machine.get("little_endian") if type(machine) is dict else None
    if type(little) is not bool:
        raise CheckpointError("the file does not say on what machine it was written")
    return "little" if little else "big"


def _slices(
    data: memoryview, position: int, named: dict[str, tuple[int, int]], byteorder: ByteOrder
) -> dict[str, memoryview]:
    storages = {}
    for key, (numel, unit) in named.items():
        if int.from_bytes(data[position : position + 8], byteorder) != numel:
            raise CheckpointError(f"storage {shorten(key)} has not the size that the pickle says")
        start, position = position + 8, position + 8 + numel * unit
        if position > len(data):
            raise CheckpointError("the file is cut off")
        storages[key] = data[start:position]
    if position != len(data):
        raise CheckpointError("something follows the end of the data")
    return storages


class _StreamMeanings(TorchMeanings):
    def persistent(self, key: Any) -> Any:
        """``("storage", class, key, device, size, None or (key, offset, size) of a part)``, or a module's class."""
        if name := _class_of(key):
            return name
        whole, numel, part = _storage_of(key)
        self.storage(whole, numel)
        if part is None:
            return whole
        if type(part) is not tuple or [*map(type, part)] != [str, int, int]:
            raise CheckpointError("a part of a storage is none")
        return part_of(whole, part[1], part[2], numel)


def part_of(whole: Storage, offset: Any, numel: Any, available: int) -> Storage:
    """A storage that is `numel` elements of another one, which has `available`."""
    if type(offset) is not int or type(numel) is not int or not 0 <= offset <= offset + numel <= available:
        raise CheckpointError("a part of a storage reaches beyond it")
    return Storage(whole.key, whole.dtype, offset * whole.unit, (offset + numel) * whole.unit)
