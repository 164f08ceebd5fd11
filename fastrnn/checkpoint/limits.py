"""What a file may cost."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import CheckpointError

DEFAULT_MAX_BYTES = 16 << 30
#: Without a `max_bytes` of the caller's own, no file makes `load` allocate more than this: a checkpoint is hardly ever
#: packed, so what grows further is a bomb.
FREE_BYTES, GROWTH = 64 << 20, 16


@dataclass(slots=True)
class Limits:
    """The limits of one call of `load`, and what has been used up of them.

    Attributes
    ----------
    max_bytes : int
        For the logical size of one array, and for `expanded`.
    max_allocated : int
        For the sum of all that is allocated: copies, unpacked data, strings.
    max_ops, max_depth : int
        Opcodes of one pickle (also objects, each counted as often as it is referred to); how deep containers nest.
    check_crc : bool
        Compare checksums.
    allocated, expanded : int
        Bytes allocated so far; bytes by which arrays are larger than the stored data that they show.
    """

    max_bytes: int
    max_allocated: int
    max_ops: int
    max_depth: int
    check_crc: bool
    allocated: int = 0
    expanded: int = 0

    def allocate(self, n_bytes: int, what: str) -> None:
        """Count `n_bytes` that are about to be allocated for `what`, or refuse."""
        if n_bytes > self.max_allocated - self.allocated:
            raise CheckpointError(
                f"{what}: takes {n_bytes:,} more bytes of memory, and max_bytes allows {self.max_allocated:,} in all"
            )
        self.allocated += n_bytes

    def show(self, n_bytes: int, stored: int, what: str) -> None:
        """Count an array of `n_bytes` that shows `stored` bytes of the file, or refuse."""
        self.expanded += max(0, n_bytes - stored)
        if max(n_bytes, self.expanded) > self.max_bytes:
            raise CheckpointError(f"{what}: arrays of {n_bytes:,} bytes exceed max_bytes={self.max_bytes:,}")


def make_limits(max_bytes: int | None, max_ops: int, max_depth: int, check_crc: bool, file_bytes: int) -> Limits:
    """Limits for a file of `file_bytes`.

    Raises
    ------
    TypeError, ValueError
        A limit is not a positive int.
    """
    for name, value in (("max_bytes", max_bytes), ("max_ops", max_ops), ("max_depth", max_depth)):
        if name == "max_bytes" and value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} should be an int, got {type(value).__name__}")
        if value <= 0:
            raise ValueError(f"{name} should be positive, got {value}")
    allowed = FREE_BYTES + GROWTH * file_bytes
    allocated = min(DEFAULT_MAX_BYTES, allowed) if max_bytes is None else max_bytes
    return Limits(DEFAULT_MAX_BYTES if max_bytes is None else max_bytes, allocated, max_ops, max_depth, check_crc)
