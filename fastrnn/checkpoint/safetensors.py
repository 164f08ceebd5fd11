"""safetensors: the library checks the file, the arrays are views of our own."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..errors import CheckpointError
from .dtypes import BY_SAFETENSORS, numpy_dtype
from .limits import Limits
from .pickle_reader import shorten
from .rebuild import Array, usable, view
from .source import Source

Tensor = tuple[str, str, list[int], memoryview]  # name, type, shape, data
_MAX_HEADER = 16 << 20  # about 150,000 tensors; the format allows 100 MB, whose parsing would take gigabytes


def load_safetensors(source: Source, limits: Limits) -> dict[str, Array]:
    """The arrays by name, in alphabetical order; what `__metadata__` says is passed over.

    Raises
    ------
    CheckpointError
        Anything is wrong with it.
    """
    header = int.from_bytes(source.data[:8], "little")
    if header > min(_MAX_HEADER, len(source.data) - 8):
        raise CheckpointError(f"the safetensors header of {header:,} bytes is cut off or too long")
    arrays = {}
    tensors = _mapped(source.path, source.data[8 + header :]) if source.path else _copied(source.data, limits)
    for name, code, shape, data in tensors:
        row = BY_SAFETENSORS.get(code)
        if row is None:
            raise CheckpointError(f"not supported: tensor {shorten(name)} of type {shorten(code)}")
        arrays[name] = view(usable(data, row, limits), numpy_dtype(row), tuple(shape), limits)
    return dict(sorted(arrays.items()))


def _mapped(path: str, data: memoryview) -> Iterator[Tensor]:
    """The library gives names, types and shapes in the order of the data, in which it allows no gaps."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as file:
            slices = [(name, file.get_slice(name)) for name in file.offset_keys()]
            heads = [(name, part.get_dtype(), part.get_shape()) for name, part in slices]
    except SafetensorError as error:
        raise CheckpointError(str(error)) from None
    start = 0
    for name, code, shape in heads:
        size = math.prod(shape) * numpy_dtype(BY_SAFETENSORS[code]).itemsize if code in BY_SAFETENSORS else 0
        yield name, code, shape, data[start : start + size]
        start += size
    if start != len(data):
        raise CheckpointError("the file changed while it was read")


def _copied(content: memoryview, limits: Limits) -> Iterator[Tensor]:
    """The library gives copies of what is in memory."""
    from safetensors import SafetensorError, deserialize

    limits.allocate(2 * len(content), "safetensors data")
    try:
        tensors = deserialize(bytes(content))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise CheckpointError(str(error)) from None
    for name, tensor in tensors:
        yield name, tensor["dtype"], tensor["shape"], memoryview(tensor["data"]).toreadonly()
