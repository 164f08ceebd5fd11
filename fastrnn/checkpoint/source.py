"""Where a checkpoint's bytes are: a mapped file, or memory."""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, Self

from ..errors import CheckpointError

#: Smaller files are read: a map costs a file descriptor for as long as one of its arrays lives.
MAP_FROM = 1 << 20
_CHUNK = 1 << 18

#: First bytes of what is recognised but not read.
_OTHERS = (
    (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", "torch's format from before 1.6; torch.save it anew"),
    (b"\x80", "a bare pickle, not one of torch.save"),
    (b"\x93NUMPY", "a single array (.npy); numpy.load reads it"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
)


def format_of(head: bytes) -> str:
    """``"zip"`` (torch or npz) or ``"safetensors"``, told by the first bytes.

    Raises
    ------
    CheckpointError
        They are those of nothing that can be read.
    """
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:  # the format's own bound
        return "safetensors"
    if not head:
        raise CheckpointError("the file is empty")
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise CheckpointError(f"not supported: {what}")
    if head[257:262] == b"ustar":
        raise CheckpointError("not supported: a tar archive, torch's format from before 0.1.10")
    raise CheckpointError("not a checkpoint: neither torch's zip, safetensors nor npz")


class Source:
    """The bytes of a checkpoint, read-only.

    Raises
    ------
    CheckpointError
        They are in no format that can be read.

    Attributes
    ----------
    path : str or None
        The regular file that the bytes are in.
    data : memoryview
        All bytes.
    format : str
        As `format_of` gives it.
    owned : int
        How many of them had to be brought into memory for this.
    """

    def __init__(self, data: memoryview, path: str | None = None, file: BinaryIO | None = None) -> None:
        self.data, self.path, self._file = data, path, file
        self.owned = 0
        self.format = format_of(bytes(data[:512]))

    def crc32(self, start: int, size: int) -> int:
        """The checksum of a part.

        A mapped file is read through a small buffer instead: pages that only a checksum has touched would count as
        this process's memory.
        """
        if self._file is None:
            return zlib.crc32(self.data[start : start + size])
        self._file.seek(start)
        buffer, crc = memoryview(bytearray(_CHUNK)), 0
        while size > 0:
            n = self._file.readinto(buffer[: min(size, _CHUNK)])  # type: ignore[attr-defined]
            if not n:
                raise CheckpointError("the file became shorter while it was read")
            crc = zlib.crc32(buffer[:n], crc)
            size -= n
        return crc

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; what has been mapped stays."""
        if self._file is not None:
            self._file.close()


def name_of(file: Any) -> str:
    """What messages call it.

    Raises
    ------
    TypeError
        `file` is no path, bytes or binary file object.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        return "<bytes>"
    if isinstance(file, str | os.PathLike):
        return os.fsdecode(file)
    if hasattr(file, "read"):
        return str(getattr(file, "name", "<file>"))
    raise TypeError(f"expected a path, bytes or a binary file object, got {type(file).__name__}")


def open_source(file: Any, max_bytes: int) -> Source:
    """The source for what `name_of` accepts; at most `max_bytes` (and a little) are brought into memory.

    Raises
    ------
    OSError
        As Python raises it.
    CheckpointError
        There are more than `max_bytes`, or they are in no format that can be read.
    """
    if isinstance(file, bytes | bytearray | memoryview):
        return Source(memoryview(file).cast("B").toreadonly())
    if not isinstance(file, str | os.PathLike):
        return _read_all(file, max_bytes)
    path = os.fsdecode(file)
    with ExitStack() as cleanup:
        stream = cleanup.enter_context(open(path, "rb", buffering=0))
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            return _read_all(stream, max_bytes)
        if status.st_size >= MAP_FROM:
            with suppress(OSError, ValueError):  # some file systems have no maps
                mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                source = Source(memoryview(mapped), path, stream)
                cleanup.pop_all()  # the source does it
                return source
        source = _read_all(stream, max_bytes)
        source.path = path
        return source


def _read_all(stream: Any, max_bytes: int) -> Source:
    content, known = bytearray(), False
    while chunk := stream.read(MAP_FROM):
        if not isinstance(chunk, bytes | bytearray):
            raise TypeError(f"expected a file opened in binary mode, got {type(chunk).__name__} from it")
        if len(content) + len(chunk) > max_bytes + MAP_FROM:
            raise CheckpointError(f"has more than the {max_bytes:,} bytes that max_bytes allows in memory")
        content += chunk
        if not known and len(content) >= 512:  # a stream of something else may have no end
            known = bool(format_of(bytes(content[:512])))
    source = Source(memoryview(content).toreadonly())
    source.owned = len(content)
    return source
