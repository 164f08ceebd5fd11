"""Tar archives, as far as torch used them: plain files."""

from __future__ import annotations

from ..errors import CheckpointError
from .inert import shorten

_BLOCK = 512
_PADDING = 10_240  # tar programs fill an archive with zeros up to a multiple of this
_MAX_ENTRIES = 100


def read_tar(data: memoryview) -> dict[str, memoryview]:
    """The content of each file, by name.

    Raises
    ------
    CheckpointError
        The archive is broken, or holds two files of one name or something that is no file.
    """
    files: dict[str, memoryview] = {}
    position = 0
    for _ in range(_MAX_ENTRIES):
        header = bytes(data[position : position + _BLOCK])
        if not header.strip(b"\0"):
            rest = data[position:]
            if len(header) < _BLOCK or len(rest) > 2 * _PADDING or bytes(rest).strip(b"\0"):
                raise CheckpointError("the tar archive is cut off, or something follows its end")
            return files
        start, end, kind = position + _BLOCK, position + _BLOCK + _number(header, 124, 12), header[156:157]
        # A header's checksum takes its own 8 bytes for spaces.
        if _number(header, 148, 8) != sum(header[:148]) + 8 * ord(" ") + sum(header[156:]):
            raise CheckpointError("the tar archive has no header where one should be, or a damaged one")
        position = end + -end % _BLOCK
        if position > len(data):
            raise CheckpointError("the tar archive is cut off")
        if kind == b"x":  # more about the next file: dates, its owner
            _check_attributes(bytes(data[start:end][:_PADDING]), end - start)
            continue
        name = header[:100].partition(b"\0")[0].decode("latin-1")
        if kind not in (b"0", b"\0") or header[345:346] != b"\0":
            raise CheckpointError(f"the tar archive holds {shorten(name)}, which is no plain file")
        if name in files:
            raise CheckpointError(f"the tar archive holds {shorten(name)} twice")
        files[name] = data[start:end]
    raise CheckpointError(f"the tar archive has more than {_MAX_ENTRIES} entries")


def _number(header: bytes, start: int, size: int) -> int:
    """A number in octal digits."""
    digits = header[start : start + size].strip(b" \0")
    if not digits or digits.strip(b"01234567"):
        raise CheckpointError("the tar archive has no header where one should be, or a damaged one")
    return int(digits, 8)


def _check_attributes(records: bytes, size: int) -> None:
    """Refuse what would change the next file's name or size."""
    if size > _PADDING or b" path=" in records or b" size=" in records:
        raise CheckpointError("the tar archive has attributes of a file that torch does not write")
