"""What a file is, beside what it holds."""

from __future__ import annotations

from typing import NamedTuple

from .archive import Archive
from .limits import Limits
from .npz import is_npz
from .safetensors import metadata
from .source import Source, format_of, open_source
from .torch_zip import is_torch

_NAMES = {
    "stream": "torch's stream format (the default before 1.6)",
    "tar": "torch's tar format (before 0.1.10)",
    "onnx": "ONNX",
    "safetensors": "safetensors",
}


class About(NamedTuple):
    """The format, in words, and what the file says about itself."""

    format: str
    metadata: dict[str, str]


def about(path: str) -> About:
    """The format of a file that `load` reads.

    Raises
    ------
    OSError, CheckpointError
        As `load` raises them; but little of the file is looked at.
    """
    limits = Limits(None, 1, 1, check_crc=False)
    with open_source(path, limits.max_bytes) as source:
        kind = format_of(source.head)
        if kind != "zip":
            return About(_NAMES.get(kind, kind), metadata(source))
        return About(_kind_of_zip(source, limits), {})


def _kind_of_zip(source: Source, limits: Limits) -> str:
    archive = Archive(source, limits)
    if is_torch(archive):
        is_script = any(name.endswith("/constants.pkl") for name in archive.entries)
        return "TorchScript archive" if is_script else "torch's zip format"
    return "npz" if is_npz(archive) else "zip archive of checkpoints"
