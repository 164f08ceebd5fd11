"""Checkpoints of torch and others, read and written without torch."""

from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .archive import Archive
from .limits import Limits
from .npz import load_npz
from .pickle_reader import Name, Opaque
from .safetensors import load_safetensors
from .save import save
from .source import Source, name_of, open_source
from .state_dict import LayerInfo, find_layers
from .torch_zip import is_torch, load_torch

__all__ = ["CheckpointError", "LayerInfo", "Name", "Opaque", "find_layers", "load", "save"]


def load(
    path_or_file_or_bytes: Any,
    *,
    max_bytes: int | None = None,
    max_ops: int = 1_000_000,
    max_depth: int = 256,
    check_crc: bool = True,
) -> Any:
    """Read a checkpoint of torch (1.6 and later), safetensors or NumPy (.npz); the content tells which.

    Nothing in the file is ever imported, called or run. Tensors become read-only NumPy arrays: views of the mapped
    file, which must not be overwritten in place while they are in use. Tensors that shared memory still do. bfloat16
    and float8 are ml_dtypes' types.

    Parameters
    ----------
    path_or_file_or_bytes : path-like, bytes-like or binary file object
        A file of 1 MiB or more is mapped, not read; a file object is read to its end.
    max_bytes : int, optional
        Most bytes of one array (an expanded tensor counts in full), of all that expanded tensors add to the data
        stored for them, and of all memory that is allocated: what is copied, unpacked, swapped or read from a file
        object beyond 1 MiB, and strings; not maps. Without it 16 GiB, and for what is allocated 32 MiB and 8 times
        the file's size, if that is less: a packed file that grows further is taken for a bomb.
    max_ops : int
        Most operations of a pickle: some 30 a tensor. It also bounds the small objects that a pickle makes, of up to
        a few hundred bytes each.
    max_depth : int
        How deep containers may nest.
    check_crc : bool
        Whether to compare the checksums in zip archives; without it only what is used is ever read.

    Returns
    -------
    object
        What was saved: dicts, lists, tuples, numbers, strings and arrays, nested as they were; `Opaque` records for
        objects of other classes; a `Name` for a class or function itself.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    CheckpointError
        Anything is wrong with the content, or beyond the limits. The message has the file's name and the reason.
    TypeError, ValueError
        An argument is wrong.
    """
    limits = Limits(max_bytes, max_ops, max_depth, check_crc)
    name = name_of(path_or_file_or_bytes)
    try:
        with open_source(path_or_file_or_bytes, limits.max_bytes) as source:
            limits.start(len(source.data), source.owned)
            return _read_guarded(source, limits)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error.__cause__
    except MemoryError as error:
        raise CheckpointError(f"{name}: needs more memory than there is") from error


def _read_guarded(source: Source, limits: Limits) -> Any:
    try:
        return _read(source, limits)
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:  # a gap in the checks: the tests, which call _read, know of none
        raise CheckpointError(f"cannot be read: {type(error).__name__}: {error}") from error


def _read(source: Source, limits: Limits) -> Any:
    if source.format == "safetensors":
        return load_safetensors(source, limits)
    archive = Archive(source, limits)
    return load_torch(archive, limits) if is_torch(archive) else load_npz(archive, limits)
