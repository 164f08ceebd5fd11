"""Writes a zip archive of stored entries on aligned addresses: the same bytes for the same content."""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

from .archive import CENTRAL, END, END64, FULL, LOCAL, LOCATOR64, UTF8

_ALIGNMENT = 64  # torch's
_DATE = 1 << 5 | 1  # 1 January 1980, the first that the format knows
_VERSION, _VERSION64 = 20, 45


class ZipWriter:
    """Appends entries to `file`, an empty binary file; `close` writes the directory."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._position = self._n_entries = 0
        self._directory: list[bytes] = []

    def add(self, name: str, *pieces: bytes | memoryview) -> None:
        """One entry of these pieces.

        Raises
        ------
        ValueError
            The name is longer than 65,535 bytes.
        """
        raw_name = name.encode()
        if len(raw_name) > 0xFFFF:
            raise ValueError(f"name {name[:60]!r}... of {len(raw_name):,} bytes is too long for a zip archive")
        start, size, crc = self._position, sum(map(len, pieces)), 0
        for piece in pieces:
            crc = zlib.crc32(piece, crc)
        wide_size, wide_start = size >= FULL, start >= FULL
        version = _VERSION64 if wide_size or wide_start else _VERSION
        narrow_size = FULL if wide_size else size
        common = (UTF8, 0, 0, _DATE, crc, narrow_size, narrow_size, len(raw_name))

        extra = struct.pack("<2H2Q", 1, 16, size, size) if wide_size else b""
        padding = -(start + LOCAL.size + len(raw_name) + len(extra) + 4) % _ALIGNMENT
        extra += struct.pack("<2s1H", b"FB", padding) + bytes(padding)  # torch's own name for this record
        self._write(LOCAL.pack(b"PK\3\4", version, *common, len(extra)), raw_name, extra, *pieces)

        wide = [size, size] * wide_size + [start] * wide_start
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        where = (len(extra), 0, 0, 0, 0, FULL if wide_start else start)
        self._directory += [CENTRAL.pack(b"PK\1\2", version, version, *common, *where), raw_name, extra]
        self._n_entries += 1

    def close(self) -> None:
        """Write the directory; the file stays open."""
        start, size, n = self._position, sum(map(len, self._directory)), self._n_entries
        self._write(*self._directory)
        if start + size >= FULL or n >= 0xFFFF:
            end = END64.pack(b"PK\6\6", END64.size - 12, _VERSION64, _VERSION64, 0, 0, n, n, size, start)
            self._write(end, LOCATOR64.pack(b"PK\6\7", 0, start + size, 1))
        n, size, start = min(n, 0xFFFF), min(size, FULL), min(start, FULL)
        self._write(END.pack(b"PK\5\6", 0, 0, n, n, size, start, 0))

    def _write(self, *pieces: bytes | memoryview) -> None:
        for piece in pieces:
            self._file.write(piece)
            self._position += len(piece)
