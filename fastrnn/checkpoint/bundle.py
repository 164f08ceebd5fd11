"""Zip archives of checkpoints and other files, as trainers write them: torch's own archives within an archive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..errors import CheckpointError
from .archive import Archive
from .inert import shorten
from .limits import Limits
from .source import Source, recognise


def load_bundle(archive: Archive, limits: Limits, read: Callable[[Source, Limits], Any]) -> dict[str, Any]:
    """What each file holds, by name: what `read` makes of a checkpoint; the text, or the bytes, of any other.

    Raises
    ------
    CheckpointError
        Anything is wrong with it, or no file is a checkpoint.
    """
    if any(name.endswith("/archive_format") for name in archive.entries):
        raise CheckpointError("not supported: an archive of torch.export (.pt2); save the module's state_dict()")
    sources = {name: archive.open(name) for name in archive.entries if not name.endswith("/")}
    if not any(recognise(source.head) for source in sources.values()):
        name = next(name for name in archive.entries if not name.endswith(".npy"))
        raise CheckpointError(f"the zip archive holds {shorten(name)}, and neither torch nor NumPy writes that")
    contents: dict[str, Any] = {}
    for name, source in sources.items():
        try:
            contents[name] = read(source, limits) if recognise(source.head) else as_plain(source, limits)
        except CheckpointError as error:
            raise CheckpointError(f"{shorten(name)}: {error}") from error.__cause__
    return contents


def as_plain(source: Source, limits: Limits) -> str | bytes:
    """The text in a file, or its bytes if it holds none."""
    limits.allocate(2 * len(source.data), "a file in the archive")
    content = bytes(source.data)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return content
