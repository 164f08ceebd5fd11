"""A zip archive whose directory is believed only as far as it agrees with the data.

Python's zipfile is not used to read: it takes the last of two entries of one name where torch takes the first, passes
over whatever stands before the first entry, trusts the directory alone, and refuses torch's files without checksums.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from ..errors import CheckpointError
from .limits import Limits
from .source import Source

# Everything is little-endian; see PKWARE's APPNOTE, sections 4.3.7, 4.3.12, 4.3.14, 4.3.15 and 4.3.16.
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR64 = struct.Struct("<4sIQI")
STORED, DEFLATED = 0, 8
LATER, UTF8 = 1 << 3, 1 << 11  # flags: sizes and checksum stand behind the data; names are UTF-8
_KNOWN_FLAGS = LATER | UTF8 | 0b110  # 0b110: how hard the packer tried
FULL = 0xFFFFFFFF  # in a field of 32 bits: see the zip64 record
_FOLDER = 1 << 4  # an attribute of files, from DOS
_MAX_RATIO = 1032  # deflate cannot do more
_MAX_ENTRIES = 100_000
_CHUNK = 1 << 18


@dataclass(slots=True)
class Entry:
    """One file of the archive; its data is ``data[start : start + packed]``."""

    name: str
    header: int
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    start: int = 0


class Archive:
    """The entries of a zip archive, by name.

    Raises
    ------
    CheckpointError
        The archive is broken, ambiguous (entries that overlap, share a name, or differ between directory and header;
        anything before the first entry or after the directory), encrypted, or of several volumes.
    """

    def __init__(self, source: Source, limits: Limits) -> None:
        self._source, self._limits = source, limits
        count, start, size = self._find_directory()
        self.entries: dict[str, Entry] = {}
        position, end = start, start + size
        for _ in range(count):
            entry, position = self._read_entry(position, end)
            if entry.name in self.entries:
                raise CheckpointError(f"the zip archive holds {_quoted(entry.name)} twice")
            self.entries[entry.name] = entry
        if position != end:
            raise CheckpointError("the zip archive's directory is longer than its entries")
        position = 0
        for entry in sorted(self.entries.values(), key=lambda entry: entry.header):
            if entry.header < position or (position == 0 and entry.header):
                raise CheckpointError(f"something overlaps {_quoted(entry.name)} in the zip archive, or precedes all")
            position = self._find_data(entry, start)
        if not self.entries and start:
            raise CheckpointError("the zip archive has data but no entries")

    def _unpack(self, form: struct.Struct, position: int, end: int, magic: bytes, what: str) -> tuple[int, ...]:
        if position < 0 or position + form.size > end:
            raise CheckpointError(f"the zip archive is cut off at its {what}")
        signature, *fields = form.unpack_from(self._source.data, position)
        if signature != magic:
            raise CheckpointError(f"the zip archive has no {what} where one should be")
        return tuple(fields)

    def _find_directory(self) -> tuple[int, int, int]:
        """Number of entries, offset and size of the directory; nothing may stand behind its end record."""
        total = len(self._source.data)
        at = total - END.size
        if at >= 0 and bytes(self._source.data[at : at + 4]) != b"PK\5\6":
            raise CheckpointError("the zip archive does not end as one does: it is cut off, or something follows it")
        disk, first_disk, here, count, size, start, comment = self._unpack(END, at, total, b"PK\5\6", "end record")
        if comment or disk or first_disk or here != count:
            raise CheckpointError("the zip archive has a comment or is one of several volumes")
        end = at
        locator = at - LOCATOR64.size
        if locator >= 0 and bytes(self._source.data[locator : locator + 4]) == b"PK\6\7":
            _, end, _ = self._unpack(LOCATOR64, locator, at, b"PK\6\7", "zip64 locator")
            if end != locator - END64.size:
                raise CheckpointError("the zip archive's zip64 end record is not where it should be")
            _, _, _, disk, first_disk, here, *wide = self._unpack(END64, end, locator, b"PK\6\6", "zip64 end record")
            for narrow, value, full in zip((count, size, start), wide, (0xFFFF, FULL, FULL), strict=True):
                if narrow not in (value, full):
                    raise CheckpointError("the zip archive's two end records differ")
            if disk or first_disk or here != wide[0]:
                raise CheckpointError("the zip archive is one of several volumes")
            count, size, start = wide
        if start + size != end:
            raise CheckpointError("the zip archive's directory does not end where its end record begins")
        if count > _MAX_ENTRIES:
            raise CheckpointError(f"the zip archive has {count:,} entries; {_MAX_ENTRIES:,} are allowed")
        return count, start, size

    def _read_entry(self, position: int, end: int) -> tuple[Entry, int]:
        """The entry at `position` of the directory, and where the next one is."""
        fields = self._unpack(CENTRAL, position, end, b"PK\1\2", "directory entry")
        _, _, flags, method, _, _, crc, packed, size, n_name, n_extra, n_comment, disk, _, kind, header = fields
        at = position + CENTRAL.size
        following = at + n_name + n_extra + n_comment
        if following > end:
            raise CheckpointError("the zip archive is cut off at its directory entry")
        try:
            name = str(self._source.data[at : at + n_name], "utf-8")
        except UnicodeDecodeError:
            raise CheckpointError("the zip archive holds a name that is not UTF-8") from None
        if flags & ~_KNOWN_FLAGS:
            raise CheckpointError(f"{_quoted(name)} is encrypted or packed in an unknown way")
        if method not in (STORED, DEFLATED):
            raise CheckpointError(f"{_quoted(name)} is packed by method {method}; only stored and deflated are read")
        if disk:
            raise CheckpointError(f"{_quoted(name)} is in another volume")
        extra = bytes(self._source.data[at + n_name : at + n_name + n_extra])
        size, packed, header = _widen(extra, (size, packed, header), name)
        if method == STORED and size != packed:
            raise CheckpointError(f"{_quoted(name)} is stored, but its two sizes differ")
        if kind & _FOLDER and size:  # torch gives whatever is in memory for such an entry
            raise CheckpointError(f"{_quoted(name)} is marked as a folder, but has data")
        return Entry(name, header, flags, method, crc, packed, size), following

    def _find_data(self, entry: Entry, data_end: int) -> int:
        """Compare the header before the data with the directory's; set where the data starts, give where it ends."""
        fields = self._unpack(LOCAL, entry.header, data_end, b"PK\3\4", "entry header")
        _, flags, method, _, _, crc, packed, size, n_name, n_extra = fields
        at = entry.header + LOCAL.size
        entry.start = at + n_name + n_extra
        if entry.start + entry.packed > data_end:
            raise CheckpointError(f"{_quoted(entry.name)} reaches beyond the data")
        name = bytes(self._source.data[at : at + n_name])
        if FULL in (size, packed):
            extra = bytes(self._source.data[at + n_name : entry.start])
            size, packed, _ = _widen(extra, (size, packed, 0), entry.name)
        later = flags & LATER and (crc, packed, size) == (0, 0, 0)
        same = (name, flags, method) == (entry.name.encode(), entry.flags, entry.method)
        if not same or not (later or (crc, packed, size) == (entry.crc, entry.packed, entry.size)):
            raise CheckpointError(f"{_quoted(entry.name)}: the zip archive's directory and data differ")
        return entry.start + entry.packed

    def open(self, name: str) -> Source:
        """An entry as a file of its own; as `read` for the rest."""
        data, entry = self.read(name), self.entries[name]
        return self._source.part(entry.start, entry.size) if entry.method == STORED else Source(data)

    def read(self, name: str) -> memoryview:
        """The data of an entry: a view where it is stored, a counted copy where it is deflated.

        Raises
        ------
        CheckpointError
            There is no such entry, its checksum or size is wrong, or it is larger than the limits allow.
        """
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"{_quoted(name)} is missing from the zip archive")
        packed = self._source.data[entry.start : entry.start + entry.packed]
        if entry.method == DEFLATED:
            if entry.size > _MAX_RATIO * entry.packed:
                raise CheckpointError(f"{_quoted(name)} cannot unpack to the {entry.size:,} bytes that are declared")
            self._limits.allocate(entry.size, _quoted(name))
            data = _inflate(packed, entry)
            crc = zlib.crc32(data) if self._limits.check_crc else entry.crc
        else:
            data = packed
            checked = self._limits.check_crc and entry.crc
            crc = self._source.crc32(entry.start, entry.packed) if checked else entry.crc
        if crc != entry.crc != 0:  # torch can be told to write no checksums: then all are 0
            raise CheckpointError(f"{_quoted(name)}: its checksum is wrong, the data is damaged")
        return data


def _widen(extra: bytes, fields: tuple[int, int, int], name: str) -> tuple[int, int, int]:
    """Replace the fields that do not fit in 32 bits by those of the zip64 extra record (section 4.5.3)."""
    if FULL not in fields:
        return fields
    at = 0
    while at + 4 <= len(extra):
        tag, size = struct.unpack_from("<2H", extra, at)
        at += 4
        if tag == 1 and min(size, len(extra) - at) >= 8 * fields.count(FULL):
            wide = iter(struct.unpack_from(f"<{fields.count(FULL)}Q", extra, at))
            first, second, third = (next(wide) if value == FULL else value for value in fields)
            return first, second, third
        at += size
    raise CheckpointError(f"{_quoted(name)}: its zip64 sizes are missing")


def _inflate(packed: memoryview, entry: Entry) -> memoryview:
    """Unpack exactly as many bytes as are declared, into one buffer of that size."""
    data = memoryview(bytearray(entry.size))
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    done, tail, position = 0, b"", 0
    try:
        while not engine.eof:
            if not tail:
                tail = bytes(packed[position : position + _CHUNK])
                position += len(tail)
            piece = engine.decompress(tail, _CHUNK)
            if done + len(piece) > entry.size or not (piece or tail or engine.eof):
                break
            data[done : done + len(piece)] = piece
            done += len(piece)
            tail = engine.unconsumed_tail
    except zlib.error as error:
        raise CheckpointError(f"{_quoted(entry.name)}: {error}") from None
    if not engine.eof or done != entry.size or engine.unused_data or position != entry.packed:
        raise CheckpointError(f"{_quoted(entry.name)} does not unpack to the {entry.size:,} bytes that are declared")
    return data.toreadonly()


def _quoted(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:60] + "...")
