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
from .pickle_writer import PickleWriter, array_row
from .rebuild import Array
from .torch_zip import PICKLE
from .zip_writer import ZipWriter


def save(obj: Any, path: str | os.PathLike[str]) -> None:
    """Write a checkpoint, whole or not at all; the same object gives the same bytes.

    Parameters
    ----------
    obj : object
        For ``.pt`` and ``.pth`` dicts, lists, tuples, numbers, strings, bytes, None and NumPy arrays, nested at will
        (arrays over the same memory are stored once; other views are stored as arrays of their own). For
        ``.safetensors`` and ``.npz`` a dict of arrays and numbers; the keys of dicts in it are joined with ".".
    path : path-like
        The suffix says the format: ``.pt`` or ``.pth``, which ``torch.load(path, weights_only=True)`` reads;
        ``.safetensors``; ``.npz``.

    Raises
    ------
    TypeError
        There is something in `obj` that the format does not hold; the message says where.
    ValueError
        Another suffix; two keys that become one; an array of a type that the format lacks, as bfloat16 in npz.
    OSError
        The file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    write = _WRITERS.get(suffix)
    if write is None:
        raise ValueError(f"path: expected one of the suffixes {', '.join(_WRITERS)}, got {os.fspath(path)!r}")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        write(obj, file)


def _write_torch(obj: Any, file: BinaryIO) -> None:
    pickler = PickleWriter()
    archive = ZipWriter(file)
    archive.add(f"archive/{PICKLE}", pickler.pickle(obj))
    archive.add("archive/byteorder", b"little")
    for key, array in enumerate(pickler.arrays):
        archive.add(f"archive/data/{key}", _little_endian(array))
    archive.add("archive/version", b"3\n")
    archive.close()


def _write_safetensors(obj: Any, file: BinaryIO) -> None:
    arrays = _flatten(obj)
    rows = {name: array_row(array, name) for name, array in arrays.items()}
    for name, row in rows.items():
        if not row.safetensors or name == "__metadata__":
            raise ValueError(f"{name}: safetensors has no place for this name or for {row.numpy}")
    # The largest elements first, as the library does it: then all lie on their natural addresses.
    names = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
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
        row = array_row(array, name)
        if np.dtype(row.numpy).kind not in "biufc":
            raise ValueError(f"{name}: npz does not hold {row.numpy}; .pt and .safetensors do")
        header = io.BytesIO()
        descr = array.dtype.newbyteorder("<").str
        entries = {"descr": descr, "fortran_order": False, "shape": array.shape}
        np.lib.format.write_array_header_1_0(header, entries)
        archive.add(f"{name}.npy", header.getvalue(), _little_endian(array))
    archive.close()


_WRITERS = {".pt": _write_torch, ".pth": _write_torch, ".safetensors": _write_safetensors, ".npz": _write_npz}


def _flatten(obj: Any) -> dict[str, Array]:
    """The arrays in nested dicts, by keys joined with "."."""
    if not isinstance(obj, Mapping):
        raise TypeError(f"obj: expected a dict of arrays for this format, got {type(obj).__name__}")
    arrays: dict[str, Array] = {}
    _flatten_into(arrays, obj, "", set())
    return arrays


def _flatten_into(arrays: dict[str, Array], mapping: Mapping[Any, Any], prefix: str, is_open: set[int]) -> None:
    if id(mapping) in is_open:
        raise ValueError(f"{prefix}: contains itself")
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise TypeError(f"{prefix}{key!r}: this format's keys are strings, got {type(key).__name__}")
        name = prefix + key
        if isinstance(value, Mapping):
            _flatten_into(arrays, value, name + ".", is_open | {id(mapping)})
        elif name in arrays:
            raise ValueError(f"{name}: two values would have this name")
        elif isinstance(value, np.ndarray | np.generic | bool | int | float | complex):
            arrays[name] = np.asarray(value)
        else:
            raise TypeError(f"{name}: {type(value).__name__} cannot be saved in this format, only arrays and numbers")


def _little_endian(array: Array) -> memoryview:
    """The elements in C order, as bytes; a view of the array's own memory where they lie so already."""
    native = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(-1)
    if sys.byteorder == "big":
        native = native.byteswap()
    return native.view(np.uint8).data
