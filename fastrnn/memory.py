"""Memory for large arrays that live for one call or two: blocks that were given back are taken again.

Fresh memory comes page by page, each filled with zeros first, which takes up to a fifth of a training step.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._memory import Memory

_LARGE = 1 << 20  # bytes: blocks are of 2 MiB, and smaller arrays would fill less than half of one


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """As `np.empty`."""
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE:
        return np.empty(shape, dtype)
    return _array(Memory(size), shape, dtype)


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Likewise, beginning with a line of the cache; in huge pages where they pay."""
    return _array(Memory(max(math.prod(shape) * dtype.itemsize, 1)), shape, dtype)


def _array(memory: Memory, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    found: NDArray[Any] = np.frombuffer(memoryview(memory), dtype, math.prod(shape)).reshape(shape)
    return found
