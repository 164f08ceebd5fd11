"""The wire format of protocol buffers, as far as ONNX uses it: fields of a message, numbers, text.

Written out here and not left to the library of that name, which builds an object for each message: some 70 times the
file's size where a file is made for that. Here a message is bytes, and only what is asked for is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .limits import Limits

Field = tuple[int, int | memoryview]  # number; an integer, or the bytes of anything else
_BLOCK = 1 << 16
VALUE_BYTES = 192  # of the object that shows a field's bytes
_CUT_OFF = "a message is cut off"
_FIXED = {1: 8, 5: 4}  # wire type -> bytes


class Wire:
    """Reads messages; counts their fields against `max_ops`."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._left = limits.max_ops

    def all_fields(self, message: memoryview) -> dict[int, list[int | memoryview]]:
        """The values of all fields by number; memory for them is counted."""
        found: dict[int, list[int | memoryview]] = {}
        for number, value in self.fields(message):
            self.limits.allocate(VALUE_BYTES, "a field")
            found.setdefault(number, []).append(value)
        return found

    def fields(self, message: memoryview) -> Iterator[Field]:
        """The fields of a message in the order of the file, unknown ones too.

        Raises
        ------
        CheckpointError
            It is no message, or there are too many fields.
        """
        position, end = 0, len(message)
        while position < end:
            self._left -= 1
            if self._left < 0:
                raise CheckpointError(f"more than the {self.limits.max_ops:,} fields that max_ops allows")
            key, position = message[position], position + 1
            if key >= 0x80:
                key, position = varint(message, position - 1)
            number, wire = key >> 3, key & 7
            if wire == 0:
                value, position = varint(message, position)
                yield number, value
                continue
            if wire == 2:
                size, position = varint(message, position)
            elif wire in _FIXED:
                size = _FIXED[wire]
            else:
                raise CheckpointError(f"a field of wire type {wire}, which protocol buffers do not have any more")
            if size > end - position:
                raise CheckpointError(_CUT_OFF)
            yield number, message[position : position + size]
            position += size


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """An unsigned integer of up to 64 bits, 7 in each byte, and where it ends."""
    value = shift = 0
    while position < len(message):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, position
        shift += 7
        if shift > 63:
            break
    else:
        raise CheckpointError(_CUT_OFF)
    raise CheckpointError("an integer has more than 64 bits")


def integer(value: int | memoryview) -> int:
    """A field of type enum, or another number that is not negative."""
    if not isinstance(value, int):
        raise CheckpointError("a field holds bytes where an integer belongs")
    return value


def content(value: int | memoryview) -> memoryview:
    """A field that is a message or bytes."""
    if isinstance(value, int):
        raise CheckpointError("a field holds an integer where bytes belong")
    return value


def text(value: int | memoryview, limits: Limits) -> str:
    """A field of type string."""
    raw = content(value)
    limits.allocate(2 * len(raw), "a name")
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        raise CheckpointError("a name is not UTF-8") from None


def packed(parts: list[int | memoryview], dtype: np.dtype[Any], limits: Limits) -> NDArray[Any]:
    """Repeated integers, each field one or many of them, as the low bits that `dtype` holds."""
    chunks = [np.frombuffer(p, np.uint8) if isinstance(p, memoryview) else p for p in parts]
    count = sum(int(np.count_nonzero(c < 0x80)) if isinstance(c, np.ndarray) else 1 for c in chunks)
    limits.allocate(count * dtype.itemsize, "integers")
    values, filled = np.empty(count, dtype), 0
    for chunk in chunks:
        for block in _blocks(chunk) if isinstance(chunk, np.ndarray) else [np.array([chunk], np.uint64)]:
            values[filled : filled + len(block)] = block.astype(dtype)
            filled += len(block)
    return values


def _blocks(data: NDArray[np.uint8]) -> Iterator[NDArray[np.uint64]]:
    """Decoded some thousand at a time, since what that takes is many times the data."""
    position = 0
    while position < len(data):
        block = data[position : position + _BLOCK]
        ends = np.flatnonzero(block < 0x80)
        if not len(ends):
            raise CheckpointError(_CUT_OFF)
        starts = np.concatenate(([0], ends[:-1] + 1))
        sizes = ends - starts + 1
        if sizes.max() > 10 or (block[ends[sizes == 10]] > 1).any():
            raise CheckpointError("an integer has more than 64 bits")
        values = np.zeros(len(ends), np.uint64)
        for i in range(int(sizes.max())):
            long = sizes > i
            values[long] |= (block[starts[long] + i] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * i)
        yield values
        position += int(ends[-1]) + 1
