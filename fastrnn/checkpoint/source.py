"""Where a checkpoint's bytes are: a mapped file, or memory."""

from __future__ import annotations

import mmap
import os
import re
import stat
import zlib
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, Self

from ..errors import CheckpointError

#: Smaller files are read: a map costs a file descriptor for as long as one of its arrays lives.
MAP_FROM = 1 << 20
_CHUNK = 1 << 18
_HEAD = 512

#: First bytes of what is recognised but not read.
_OTHERS = (
    (b"\x80", "a bare pickle, not one of torch.save"),
    (b"\x93NUMPY", "a single array (.npy); numpy.load reads it"),
    (b"\x89HDF\r\n", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file; unpack it first"),
    (b"BZh", "a bzip2 file; unpack it first"),
    (b"\xfd7zXZ", "an xz file; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file; unpack it first"),
    (b"PYTORCH1", "TorchScript of torch 1.0; load it with torch.jit and save it anew"),
    (b"GGUF", "a GGUF file"),
    (b"version https://git-lfs", "a pointer of Git LFS; `git lfs pull` brings the file itself"),
    (b"<!DOCTYPE", "a web page in place of the file"),
    (b"<!doctype", "a web page in place of the file"),
    (b"<html", "a web page in place of the file"),
)

#: The number that the first pickle of torch's legacy stream holds, as pickles of protocols 2 to 5 spell it.
_STREAM = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

#: ONNX has no magic bytes. Field 1, a small version number, comes first, and then another field of ModelProto, 2 to 8.
_ONNX = re.compile(rb"\x08[\x01-\x3f][\x12\x1a\x22\x28\x32\x3a\x42]")


def recognise(head: bytes) -> str | None:
    """``"zip"`` (torch or npz), ``"safetensors"``, ``"stream"`` or ``"tar"`` (old torch), told by the first bytes."""
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 100_000_000:  # the format's own bound
        return "safetensors"
    if head[:1] == b"\x80" and _STREAM in head[:32]:
        return "stream"
    if head[257:262] == b"ustar":
        return "tar"
    return None


def format_of(head: bytes) -> str:
    """As `recognise` gives it, or ``"onnx"``, which is too little of a sign within archives of other files.

    Raises
    ------
    CheckpointError
        They are those of nothing that can be read.
    """
    if known := recognise(head):
        return known
    if not head:
        raise CheckpointError("the file is empty")
    for magic, what in _OTHERS:
        if head.startswith(magic):
            raise CheckpointError(f"not supported: {what}")
    if _ONNX.match(head):
        return "onnx"
    raise CheckpointError("not a checkpoint: neither torch's formats, safetensors, npz nor ONNX")


class Source:
    """The bytes of a checkpoint, read-only.

    Attributes
    ----------
    path : str or None
        The regular file that holds these bytes and nothing else.
    data : memoryview
        All bytes.
    owned : int
        How many of them had to be brought into memory for this.
    """

    def __init__(self, data: memoryview, path: str | None = None, file: BinaryIO | None = None, start: int = 0) -> None:
        self.data, self.path, self._file, self._start = data, path, file, start
        self.owned = 0

    @property
    def head(self) -> bytes:
        """As much as tells the format."""
        return bytes(self.data[:_HEAD])

    def part(self, start: int, size: int) -> Source:
        """The source of a file within this one."""
        return Source(self.data[start : start + size], None, self._file, self._start + start)

    def crc32(self, start: int, size: int) -> int:
        """The checksum of a part.

        A mapped file is read through a small buffer instead: pages that only a checksum has touched would count as
        this process's memory.
        """
        if self._file is None:
            return zlib.crc32(self.data[start : start + size])
        self._file.seek(self._start + start)
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
        """Close the file; what has been mapped stays, but not in this process's memory until it is used."""
        if self._file is not None:
            if isinstance(self.data.obj, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
                self.data.obj.madvise(mmap.MADV_DONTNEED)
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
        There are more than `max_bytes`, or a stream of them is in no format that can be read.
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
        if not known and len(content) >= _HEAD:  # a stream of something else may have no end
            known = bool(format_of(bytes(content[:_HEAD])))
    source = Source(memoryview(content).toreadonly())
    source.owned = len(content)
    return source
