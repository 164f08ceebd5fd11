"""Files that others read: torch's zip format, safetensors, npz."""

from __future__ import annotations

import io
import json
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..atomic import atomic_path
from .pickle_writer import MAX_DEPTH, PickleWriter, array_row, kind_of
from .rebuild import Array
from .torch_zip import PICKLE
from .zip_writer import ZipWriter

#: What can be written.
SUFFIXES = (".pt", ".pth", ".safetensors", ".npz")
MODEL = "fastrnn_model"  # under this name files say what a model is made of

_LONGEST_NAME = 4096  # a file can have a giant name above thousands of arrays


def save(obj: Any, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a checkpoint, whole or not at all; the same object gives the same bytes.

    Parameters
    ----------
    obj : object
        For ``.pt`` and ``.pth`` dicts, lists, tuples, sets, numbers, strings, bytes, None, torch's dtypes as `load`
        gives them, and NumPy arrays, nested at will (arrays over the same memory share a storage). For
        ``.safetensors`` and ``.npz`` a dict of arrays and numbers, which become arrays; the keys of dicts in it are
        joined with ".". Or a layer or `Sequential`, which `load_model` makes again, for ``.pt``, ``.pth`` and
        ``.safetensors``; in a ``.pt`` its state dict is then under the key "state_dict".
    path : path-like
        The suffix says the format: ``.pt`` or ``.pth``, which ``torch.load(path, weights_only=True)`` reads;
        ``.safetensors``; ``.npz``. It may be the file that arrays of `obj` are mapped from.
    metadata : dict of str to str, optional
        For ``.safetensors`` only: what its header shall say beside the arrays. Without it ``{"format": "pt"}``, which
        some readers ask for.

    Raises
    ------
    TypeError
        There is something in `obj` that the format does not hold; the message says where. Or `obj` is a model of a
        class of one's own, or has parts that are: its state dict can be saved.
    ValueError
        Another suffix; two keys that become one; an array of a type that the format lacks, as bfloat16 in npz.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import fastrnn
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "gru.pt")
    ...     fastrnn.save({"epoch": 3, "model": fastrnn.GRU(3, 4).state_dict()}, path)
    ...     fastrnn.load(path)["epoch"]
    3
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"path: expected one of the suffixes {', '.join(SUFFIXES)}, got {os.fspath(path)!r}")
    if metadata is not None and suffix != ".safetensors":
        raise ValueError(f"metadata: only a .safetensors file has a place for it, got {os.fspath(path)!r}")
    if not isinstance(metadata, Mapping | None):
        raise TypeError(f"metadata should be a dict of strings, got {type(metadata).__name__}")
    notes = {"format": "pt"} if metadata is None else metadata
    if hasattr(obj, "_described"):  # a model: its state dict, and what it is made of in plain values
        model, obj = obj._described()
        if suffix == ".npz":
            raise ValueError(
                "npz does not say what a model is made of; .pt and .safetensors do, or save its state_dict()"
            )
        if suffix == ".safetensors":
            notes = {**notes, MODEL: json.dumps(model)}
        else:
            obj = {MODEL: model, "state_dict": obj}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        if suffix == ".safetensors":
            _write_safetensors(obj, file, notes)
        elif suffix == ".npz":
            _write_npz(obj, file)
        else:
            _write_torch(obj, file)


def _write_torch(obj: Any, file: BinaryIO) -> None:
    pickler = PickleWriter()
    archive = ZipWriter(file)
    archive.add(f"archive/{PICKLE}", pickler.pickle(obj))
    # No .format_version: with it torch may compute where data is, from the exact sizes of what its own writer writes.
    archive.add("archive/byteorder", b"little")
    for key, array in enumerate(pickler.storages):
        archive.add(f"archive/data/{key}", _little_endian(array))
    archive.add("archive/version", b"3\n")
    archive.close()


def _write_safetensors(obj: Any, file: BinaryIO, metadata: Mapping[str, str]) -> None:
    for key, note in metadata.items():
        if not isinstance(key, str) or not isinstance(note, str):
            raise TypeError(f"metadata: expected strings, got {key!r}: {type(note).__name__}")
        if _has_surrogates(key + note):
            raise ValueError(f"metadata: characters that UTF-8 lacks, in {key!r}")
    arrays = _flatten(obj)
    rows = {name: array_row(array, name) for name, array in arrays.items()}
    for name, row in rows.items():
        if not row.safetensors or name == "__metadata__":
            raise ValueError(f"{name}: safetensors has no place for this name or for {row.numpy}")
    # The largest elements first, as the library does it: then all lie on their natural addresses.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + arrays[name].nbytes
        shape = list(arrays[name].shape)
        header[name] = {"dtype": rows[name].safetensors, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in names:
        file.write(_little_endian(arrays[name]))


def _write_npz(obj: Any, file: BinaryIO) -> None:
    archive = ZipWriter(file)
    for name, array in _flatten(obj).items():
        if array.dtype.kind not in "SU" and np.dtype(array_row(array, name).numpy).kind not in "biufc":
            raise ValueError(f"{name}: npz does not hold {array.dtype.name}; .pt and .safetensors do")
        if "\0" in name:
            raise ValueError(f"{name!r}: a name in npz ends at a zero byte")
        header = io.BytesIO()
        descr = array.dtype.newbyteorder("<").str
        entries = {"descr": descr, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(header, entries)
        archive.add(f"{name}.npy", header.getvalue(), _little_endian(array))
    archive.close()


def _flatten(obj: Any) -> dict[str, Array]:
    """The arrays in nested dicts, by keys joined with "."."""
    if not isinstance(obj, Mapping):
        raise TypeError(f"obj: expected a dict of arrays for this format, got {kind_of(obj)}")
    arrays: dict[str, Array] = {}
    _flatten_into(arrays, obj, "", set())
    return arrays


def _flatten_into(arrays: dict[str, Array], mapping: Mapping[Any, Any], prefix: str, is_open: set[int]) -> None:
    if id(mapping) in is_open:
        raise ValueError(f"{prefix}: contains itself")
    if len(is_open) >= MAX_DEPTH:
        raise ValueError(f"{prefix[:200]}...: nested deeper than {MAX_DEPTH}")
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise TypeError(f"{prefix}{key!r}: this format's keys are strings, got {type(key).__name__}")
        if len(prefix) + len(key) > _LONGEST_NAME:
            raise ValueError(
                f"{(prefix + key[:200])[:200]}...: a name of more than {_LONGEST_NAME} characters is too long"
            )
        name = prefix + key
        if isinstance(value, Mapping):
            _flatten_into(arrays, value, name + ".", is_open | {id(mapping)})
            continue
        if name in arrays:
            raise ValueError(f"{name}: two values would have this name")
        if _has_surrogates(name):
            raise ValueError(f"{name!r}: a name of characters that UTF-8 lacks")
        arrays[name] = _array(value, name)


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text)


def _array(value: Any, name: str) -> Array:
    if not isinstance(value, np.ndarray | np.generic | bool | int | float | complex):
        raise TypeError(f"{name}: {kind_of(value)} cannot be saved in this format, only arrays and numbers")
    array = np.asarray(value)
    if isinstance(value, int) and array.dtype == object:
        raise ValueError(f"{name}: an integer of more than 64 bits cannot be saved in this format")
    return array if not isinstance(value, np.ndarray) else value


def _little_endian(array: Array) -> memoryview:
    """The elements in C order, as bytes; a view of the array's own memory where they lie so already."""
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(-1)
    if sys.byteorder == "big":
        native = native.byteswap()
    return native.view(np.uint8).data
