"""NumPy's .npz: a zip archive of .npy files. Pickled arrays are refused."""

from __future__ import annotations

import re

import numpy as np

from ..errors import CheckpointError
from .archive import Archive
from .dtypes import BY_NUMPY
from .inert import shorten
from .limits import Limits
from .views import Array, check_size, text_array, usable, view

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000  # NumPy's own bound
# NumPy evaluates the header as Python text; here it has to be a dict of these three, in any order.
_HEADER = re.compile(
    r"\{(?:\s*(?:'descr'\s*:\s*'(?P<descr>[^']*)'|'fortran_order'\s*:\s*(?P<fortran>True|False)"
    r"|'shape'\s*:\s*\((?P<shape>[0-9,\s]*)\))\s*(?:,|(?=\}))){3}\s*\}\s*",
    re.ASCII,
)
_NUMBER = re.compile(r"([<>|=])([biufc])([0-9]{1,2})", re.ASCII)
_TEXT = re.compile(r"([<>|=])([SU])([1-9][0-9]{0,5})", re.ASCII)


def is_npz(archive: Archive) -> bool:
    return all(name.endswith(".npy") for name in archive.entries)


def load_npz(archive: Archive, limits: Limits) -> dict[str, Array]:
    """The arrays by name; views of the file's bytes where they are stored and in this machine's byte order.

    Raises
    ------
    CheckpointError
        Anything is wrong with it.
    """
    arrays = {}
    for name in archive.entries:
        try:
            arrays[name.removesuffix(".npy")] = _read_npy(archive.read(name), limits)
        except CheckpointError as error:
            raise CheckpointError(f"{shorten(name)}: {error}") from None
    return arrays


def _read_npy(data: memoryview, limits: Limits) -> Array:
    dtype, fortran, shape, start = _read_header(data)
    order = dtype.byteorder
    check_size(shape, dtype, len(data), limits)
    n_items = int(np.prod(shape, dtype=object))
    if n_items * dtype.itemsize != len(data) - start:
        raise CheckpointError("its header and its length differ")
    native = dtype.newbyteorder("=")
    body = data[start:]
    if dtype.kind in "SU":
        flat = text_array(bytes(body), dtype, limits)
    else:
        body = usable(body, BY_NUMPY[native.name], limits, swap=order == ">" and dtype.itemsize > 1)
        flat = view(body, native, (n_items,), limits)
    return flat.reshape(shape, order="F" if fortran else "C")


def _read_header(data: memoryview) -> tuple[np.dtype[np.generic], bool, tuple[int, ...], int]:
    """dtype, whether in Fortran order, shape, and where the elements start."""
    head = bytes(data[:12])
    if head[:6] != _MAGIC or len(head) < 12 or head[6] not in (1, 2, 3):
        raise CheckpointError("not in the .npy format")
    wide = head[6] > 1  # versions 2 and 3 have a longer field
    start = 12 if wide else 10
    length = int.from_bytes(head[8:start], "little")
    if length > _MAX_HEADER or start + length > len(data):
        raise CheckpointError("its header is cut off or too long")
    match = _HEADER.fullmatch(bytes(data[start : start + length]).decode("latin-1"))
    if match is None or None in (match["descr"], match["fortran"], match["shape"]):
        raise CheckpointError("its header is not that of an array of plain numbers")
    sizes = [size for size in re.split(r"[,\s]+", match["shape"]) if size]
    if len(sizes) > 64 or any(len(size) > 20 for size in sizes):
        raise CheckpointError("its shape is none")
    return _dtype(match["descr"]), match["fortran"] == "True", tuple(map(int, sizes)), start + length


def _dtype(descr: str) -> np.dtype[np.generic]:
    parts = _NUMBER.fullmatch(descr) or _TEXT.fullmatch(descr)
    if parts is not None:
        try:
            dtype: np.dtype[np.generic] = np.dtype(descr)
        except TypeError:
            dtype = np.dtype(object)
        if dtype.kind in "SU" or dtype.newbyteorder("=").name in BY_NUMPY:
            return dtype
    raise CheckpointError(f"not supported: elements of type {shorten(descr)!r}")
