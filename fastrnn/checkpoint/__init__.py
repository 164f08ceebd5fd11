"""Checkpoints of torch and others, read and written without torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import CheckpointError
from .archive import Archive
from .bundle import as_plain, load_bundle
from .inert import Name, Opaque
from .layer_info import LayerInfo, RecurrentInfo
from .limits import Limits
from .npz import is_npz, load_npz
from .onnx import load_onnx
from .safetensors import load_safetensors, metadata
from .save import save
from .source import Source, format_of, name_of, open_source
from .state_dict import find_layers
from .torch_legacy import load_stream
from .torch_tar import load_tar
from .torch_zip import is_torch, load_torch

__all__ = ["CheckpointError", "LayerInfo", "Name", "Opaque", "RecurrentInfo", "find_layers", "load", "save"]


def load(
    path_or_file_or_bytes: Any,
    *,
    max_bytes: int | None = None,
    max_ops: int = 1_000_000,
    max_depth: int = 256,
    check_crc: bool = True,
) -> Any:
    """Read a checkpoint of torch (of any version), safetensors, NumPy (.npz) or ONNX; the content tells which.

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
        Most operations of the pickles in a file: some 30 a tensor, twice that in torch's format from before
        1.6. It also bounds the small objects that they make, of up to a few hundred bytes each.
    max_depth : int
        How deep containers may nest.
    check_crc : bool
        Whether to compare the checksums in zip archives; without it only what is used is ever read.

    Returns
    -------
    object
        What was saved: dicts, lists, tuples, numbers, strings and arrays, nested as they were; `Opaque` records for
        objects of other classes; a `Name` for a class or function itself. For an archive of checkpoints and other
        files a dict by name; for ONNX the initializers by name.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    CheckpointError
        Anything is wrong with the content, or beyond the limits. The message has the file's name and the reason.
    TypeError, ValueError
        An argument is wrong.

    Examples
    --------
    >>> import fastrnn
    >>> from importlib.resources import files
    >>> state = fastrnn.load(files("fastrnn") / "data/demo.pt")
    >>> list(state), state["state_dict"]["head.weight"].shape
    (['alphabet', 'state_dict'], (28, 56))
    """
    return read_with(_read, path_or_file_or_bytes, Limits(max_bytes, max_ops, max_depth, check_crc))


def load_with_metadata(path_or_file_or_bytes: Any) -> tuple[Any, dict[str, str]]:
    """As `load`, with its limits; the strings that safetensors has beside the arrays come too."""

    def read(source: Source, limits: Limits) -> tuple[Any, dict[str, str]]:
        return _read(source, limits), metadata(source)

    found: tuple[Any, dict[str, str]] = read_with(read, path_or_file_or_bytes, Limits(None, 1_000_000, 256, True))
    return found


def read_with(read: Callable[[Source, Limits], Any], file: Any, limits: Limits) -> Any:
    """What `read` gives for the opened file. Its errors are CheckpointErrors with the file's name."""
    name = name_of(file)
    try:
        with open_source(file, limits.max_bytes) as source:
            limits.start(len(source.data), source.owned)
            return _guarded(read, source, limits)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from error.__cause__
    except MemoryError as error:
        raise CheckpointError(f"{name}: needs more memory than there is") from error


def _guarded(read: Callable[[Source, Limits], Any], source: Source, limits: Limits) -> Any:
    try:
        return read(source, limits)
    except (CheckpointError, OSError, MemoryError):
        raise
    except Exception as error:  # a gap in the checks: the tests, which call _read, know of none
        raise CheckpointError(f"cannot be read: {type(error).__name__}: {error}") from error


def _read(source: Source, limits: Limits, *, within: bool = False) -> Any:
    """What the source holds; `within` another file, an archive of no known kind is not looked into."""
    match format_of(source.head):
        case "safetensors":
            return load_safetensors(source, limits)
        case "stream":
            return load_stream(source, limits)
        case "tar":
            return load_tar(source, limits)
        case "onnx":
            return load_onnx(source, limits)
    archive = Archive(source, limits)
    if is_torch(archive):
        return load_torch(archive, limits)
    if is_npz(archive):
        return load_npz(archive, limits)
    return as_plain(source, limits) if within else load_bundle(archive, limits, partial(_read, within=True))
