"""torch.save's format since torch 1.6: a zip archive of one pickle and one file for each storage."""

from __future__ import annotations

import re
from typing import Any

from ..errors import CheckpointError
from .archive import Archive
from .inert import shorten
from .limits import Limits
from .pickle_reader import PickleReader
from .rebuild import TorchMeanings

PICKLE = "data.pkl"
_OLD_SCRIPT = re.compile(r"[^/]*/model\.json")
_KEY = re.compile(r"[0-9]{1,20}")


def is_torch(archive: Archive) -> bool:
    return any(name.endswith("/" + PICKLE) or _OLD_SCRIPT.fullmatch(name) for name in archive.entries)


def load_torch(archive: Archive, limits: Limits) -> Any:
    """What torch.save was given, arrays in place of tensors.

    Arrays are read-only views of the file's bytes; those of one storage share them. TorchScript archives are read as
    `Opaque` modules.

    Raises
    ------
    CheckpointError
        Anything is wrong with it.
    """
    pickles = [name for name in archive.entries if name.count("/") == 1 and name.endswith("/" + PICKLE)]
    if not pickles and any(map(_OLD_SCRIPT.fullmatch, archive.entries)):
        raise CheckpointError(
            "not supported: TorchScript from before torch 1.4; load it with torch.jit and save it anew"
        )
    if not pickles:
        raise CheckpointError(f"the zip archive holds {PICKLE}, but not where torch writes it: in a folder at the top")
    if len(pickles) != 1:
        raise CheckpointError(f"the zip archive holds {len(pickles)} pickles where torch writes one")
    prefix = pickles[0].removesuffix(PICKLE)
    for name in archive.entries:
        if not name.startswith(prefix):
            raise CheckpointError(f"the zip archive holds {shorten(prefix)} and, beside it, {shorten(name)}")
    byteorder = "little"
    if prefix + "byteorder" in archive.entries:
        byteorder = _read_byteorder(archive, prefix)

    def read_storage(key: str) -> memoryview:
        if not _KEY.fullmatch(key):
            raise CheckpointError(f"a storage's key is {shorten(key)}; torch writes numbers")
        return archive.read(f"{prefix}data/{key}")

    packed = archive.read(pickles[0])
    limits.allocate(len(packed), "the pickle")
    reader = PickleReader(bytes(packed), TorchMeanings(read_storage, byteorder, limits), limits)
    value = reader.read()
    if reader.position != len(reader.data):
        raise CheckpointError("something follows the end of the pickle")
    return value


def _read_byteorder(archive: Archive, prefix: str) -> str:
    text = bytes(archive.read(prefix + "byteorder")[:20])
    if text not in (b"little", b"big"):
        raise CheckpointError(f"the byte order is {shorten(text.decode('latin-1'))!r}; torch writes little or big")
    return text.decode("ascii")
