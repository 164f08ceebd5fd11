"""Strided views of device memory, and pointers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np


def shifted(pointer: Any, elements: int, itemsize: int) -> Any:
    """The pointer so many elements further on."""
    return pointer + elements * itemsize if isinstance(pointer, int) else pointer[elements:]


class Array:
    """A strided view of device memory.

    Attributes
    ----------
    memory : object
        Keeps the memory alive.
    pointer : int, or 1-D numpy.ndarray in the simulator
        Of the first element: what a launch takes.
    shape, strides : tuple of int
        Strides count elements.
    dtype : numpy.dtype
    """

    __slots__ = ("_contiguous", "dtype", "memory", "pointer", "shape", "strides")

    def __init__(
        self, memory: Any, pointer: Any, shape: Sequence[int], dtype: Any, strides: Sequence[int] | None = None
    ) -> None:
        self.memory, self.pointer, self.dtype = memory, pointer, np.dtype(dtype)
        self.shape = tuple(shape)
        self.strides = contiguous_strides(self.shape) if strides is None else tuple(strides)
        self._contiguous = True if strides is None else None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        n: int = self.size * self.dtype.itemsize
        return n

    @property
    def contiguous(self) -> bool:
        if self._contiguous is None:
            expected = contiguous_strides(self.shape)
            same = (n == 1 or s == e for n, s, e in zip(self.shape, self.strides, expected, strict=True))
            self._contiguous = self.size == 0 or all(same)
        return self._contiguous

    @property
    def dense(self) -> bool:
        """Whether it takes up all elements of one stretch of memory, its axes in any order."""
        if self.contiguous:
            return True
        order = sorted(range(self.ndim), key=lambda i: -self.strides[i])
        return self.transpose(order).contiguous

    def __getitem__(self, key: Any) -> Array:
        """Numbers, slices without steps, None and an ellipsis."""
        keys = list(key) if isinstance(key, tuple) else [key]
        used = sum(k is not None and k is not Ellipsis for k in keys)
        if Ellipsis not in keys:
            keys.append(Ellipsis)
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (self.ndim - used)
        shape, strides, offset, axis = [], [], 0, 0
        for k in keys:
            if k is None:
                shape.append(1)
                strides.append(0)
                continue
            n, stride = self.shape[axis], self.strides[axis]
            axis += 1
            if isinstance(k, slice):
                start, stop, step = k.indices(n)
                if step != 1:
                    raise IndexError(f"slices of device arrays have no steps, got: {step}")
                shape.append(max(0, stop - start))
                strides.append(stride)
                offset += start * stride if shape[-1] else 0
            else:
                if not -n <= k < n:
                    raise IndexError(f"index {k} is out of range for an axis of {n}")
                offset += (k % n) * stride
        pointer = shifted(self.pointer, offset, self.dtype.itemsize)
        return Array(self.memory, pointer, shape, self.dtype, strides)

    def transpose(self, order: Sequence[int]) -> Array:
        shape, strides = [self.shape[i] for i in order], [self.strides[i] for i in order]
        return Array(self.memory, self.pointer, shape, self.dtype, strides)

    def swapaxes(self, i: int, j: int) -> Array:
        order = list(range(self.ndim))
        order[i], order[j] = order[j], order[i]
        return self.transpose(order)

    def reshape(self, *shape: int) -> Array:
        """Of a contiguous array; one size may be -1."""
        if not self.contiguous:
            raise ValueError(f"a device array with strides {self.strides} cannot be reshaped")
        rest = prod(n for n in shape if n != -1)
        shape = tuple(self.size // max(rest, 1) if n == -1 else n for n in shape)
        assert prod(shape) == self.size
        return Array(self.memory, self.pointer, shape, self.dtype)

    def merged(self) -> Array | None:
        """The first two axes as one, (T, N, W) as (T*N, W); None where their strides do not allow it."""
        (T, N, W), (of_t, of_n, of_w) = self.shape, self.strides
        if not (T == 1 or N == 1 or of_t == N * of_n):
            return None
        return Array(self.memory, self.pointer, (T * N, W), self.dtype, (of_n if N > 1 else of_t, of_w))

    def __repr__(self) -> str:
        return f"<{self.dtype}{list(self.shape)} on a GPU>"


def contiguous_strides(shape: Sequence[int]) -> tuple[int, ...]:
    strides, n = [], 1
    for size in reversed(shape):
        strides.append(n)
        n *= size
    return tuple(reversed(strides))
