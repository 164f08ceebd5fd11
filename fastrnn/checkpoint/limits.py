"""What a file may cost."""

from __future__ import annotations

from ..errors import CheckpointError
from ..validate import flag, size
from .source import MAP_FROM

DEFAULT_MAX_BYTES = 16 << 30
#: Without a `max_bytes` of the caller's own, no file makes `load` allocate more than this: a checkpoint is hardly ever
#: packed, so what grows further is a bomb.
FREE_BYTES, GROWTH = 32 << 20, 8
SPARE_BYTES = 1 << 16  # on top of `max_bytes`: what comes with even the smallest array


class Limits:
    """The limits of one call of `load`, and what has been used up of them.

    Attributes
    ----------
    max_bytes : int
        For the logical size of one array, and for `expanded`.
    max_allocated : int
        For `allocated`.
    max_ops, max_depth : int
        Opcodes of all pickles (also objects of each, counted as often as they are referred to); how deep containers
        nest.
    check_crc : bool
        Compare checksums.
    ops : int
        Opcodes of the pickles read so far; a file may hold many. What takes longer than most counts as several.
    allocated, expanded : int
        Bytes allocated so far: copies, unpacked data, strings; bytes by which arrays are larger than the stored data
        that they show.

    Raises
    ------
    TypeError, ValueError
        A limit is not a positive int, or `check_crc` no bool.
    """

    def __init__(self, max_bytes: int | None, max_ops: int, max_depth: int, check_crc: bool) -> None:
        self._default = max_bytes is None
        self.max_bytes = DEFAULT_MAX_BYTES if max_bytes is None else size("max_bytes", max_bytes)
        self.max_allocated = self.max_bytes + SPARE_BYTES
        self.max_ops, self.max_depth = size("max_ops", max_ops), size("max_depth", max_depth)
        self.check_crc = flag("check_crc", check_crc)
        self.ops = self.allocated = self.expanded = 0

    def start(self, file_bytes: int, owned: int) -> None:
        """Begin with a file of `file_bytes`, of which `owned` bytes were read into memory."""
        if self._default:
            self.max_allocated = min(self.max_allocated, FREE_BYTES + GROWTH * file_bytes)
        self.allocate(max(0, owned - MAP_FROM), "the file")

    def spend(self, n_ops: int) -> None:
        """Count what takes as long as `n_ops` common operations of a pickle, or refuse."""
        self.ops += n_ops
        if self.ops > self.max_ops:
            raise CheckpointError(f"the pickles have more than max_ops={self.max_ops:,} operations")

    def allocate(self, n_bytes: int, what: str) -> None:
        """Count `n_bytes` that are about to be allocated for `what`, or refuse."""
        if n_bytes > self.max_allocated - self.allocated:
            raise CheckpointError(
                f"{what} takes {n_bytes:,} more bytes of memory; max_bytes allows {self.max_allocated:,} in all"
            )
        self.allocated += n_bytes

    def show(self, n_bytes: int, stored: int, what: str) -> None:
        """Count an array of `n_bytes` that shows `stored` bytes of the file, or refuse."""
        self.expanded += max(0, n_bytes - stored)
        if max(n_bytes, self.expanded) > self.max_bytes:
            raise CheckpointError(f"{what} is {n_bytes:,} bytes large, too much for max_bytes={self.max_bytes:,}")
