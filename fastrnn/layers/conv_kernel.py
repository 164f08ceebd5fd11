"""The kernel of a convolution: results, and the gradients of what is under it and of its own weights.

P are the axes that it moves along, with padding, O the same axes of the result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..product import Matrix, column_sums, sum_outer
from .windows import Windows

Array = NDArray[Any]

_BLOCK = 1 << 18  # elements at a time: they stay in a cache, and memory is bounded


class Kernel:
    """That of one group of channels: a matrix that the windows are multiplied by.

    Parameters
    ----------
    windows : Windows
    w : (columns, C, *K)
        Copied.
    b : (columns,), optional
    """

    def __init__(self, windows: Windows, w: Array, b: Array | None) -> None:
        self.windows, self.columns = windows, len(w)
        self._w = np.moveaxis(w, 1, -1).reshape(len(w), -1).copy()
        self._matrix = Matrix(self._w, b)
        self._transposed: Matrix | None = None

    def apply(self, padded: Array, out: Array) -> None:
        """(N, *P, C) -> (N, *O, columns) OUT."""
        for block in self._blocks(out):
            self._matrix(self.windows.rows(padded[block]), out[block])

    def d_padded(self, dy: Array, out: Array) -> None:
        """(N, *O, columns) -> (N, *P, C) INOUT, which is added to."""
        self._transposed = matrix = self._transposed or Matrix(self._w, transposed=True)
        for block in self._blocks(dy):
            self.windows.fold(matrix(dy[block]), out[block])

    def d_weight(self, padded: Array, dy: Array) -> Array:
        """(N, *P, C), (N, *O, columns) -> (columns, C, *K)."""
        total = np.zeros_like(self._w)
        for block in self._blocks(dy):
            total += sum_outer(dy[block], self.windows.rows(padded[block]))
        return np.moveaxis(total.reshape(self.columns, *self.windows.kernel, -1), -1, 1)

    def _blocks(self, y: Array) -> Iterator[slice]:
        """Some samples at a time."""
        return _blocks(len(y), math.prod(y.shape[1:-1]) * self._w.shape[1])


class Depthwise:
    """That of groups of one channel each, all of them at once: a product for each place under the kernel.

    A matrix of one column would be a waste: of 128 channels this takes a thirtieth of the time.

    Parameters
    ----------
    windows : Windows
    w : (columns, 1, *K)
        Copied.
    b : (columns,), optional
    groups : int
        How many channels there are (C).
    """

    def __init__(self, windows: Windows, w: Array, b: Array | None, groups: int) -> None:
        self.windows, self.columns = windows, len(w)
        self._w = np.moveaxis(w.reshape(groups, -1, *windows.kernel), (0, 1), (-2, -1)).copy()  # (*K, C, columns / C)
        self._b = np.zeros(len(w), w.dtype) if b is None else b.copy()

    def apply(self, padded: Array, out: Array) -> None:
        """(N, *P, C) -> (N, *O, columns) OUT."""
        with np.errstate(all="ignore"):  # as the kernels of matrices: NaN and infinity are no reason to warn
            for block in self._blocks(out):
                y = out[block]
                y[...] = self._b
                y = y.reshape(*y.shape[:-1], *self._w.shape[-2:])
                for offset, at in self.windows.under(y.shape[1:-2]):
                    y += padded[block][at][..., None] * self._w[offset]

    def d_padded(self, dy: Array, out: Array) -> None:
        """(N, *O, columns) -> (N, *P, C) INOUT, which is added to."""
        dy = dy.reshape(*dy.shape[:-1], *self._w.shape[-2:])
        with np.errstate(all="ignore"):
            for block in self._blocks(dy):
                for offset, at in self.windows.under(dy.shape[1:-2]):
                    d = dy[block] * self._w[offset]
                    out[block][at] += d[..., 0] if d.shape[-1] == 1 else d.sum(-1)

    def d_weight(self, padded: Array, dy: Array) -> Array:
        """(N, *P, C), (N, *O, columns) -> (columns, 1, *K)."""
        dy = dy.reshape(*dy.shape[:-1], *self._w.shape[-2:])
        total = np.zeros_like(self._w)
        with np.errstate(all="ignore"):
            for block in self._blocks(dy):
                for offset, at in self.windows.under(dy.shape[1:-2]):
                    products = padded[block][at][..., None] * dy[block]
                    total[offset] += column_sums(products.reshape(-1, self.columns)).reshape(total.shape[-2:])
        return np.moveaxis(total, (-2, -1), (0, 1)).reshape(self.columns, 1, *self.windows.kernel)

    def _blocks(self, y: Array) -> Iterator[slice]:
        return _blocks(len(y), math.prod(y.shape[1:]))


def _blocks(n: int, size: int) -> Iterator[slice]:
    step = max(1, _BLOCK // max(1, size))
    return (slice(i, i + step) for i in range(0, n, step))
