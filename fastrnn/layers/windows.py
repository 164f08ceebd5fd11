"""Where the kernel of a convolution stands: padding, the windows under it, and the way back of both.

Arrays have their channels last, so that a window of one axis is a piece of memory, and no copy is needed for one
sequence.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: How numpy.pad calls the ways to pad that copy elements.
MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


class Windows(NamedTuple):
    """Sizes along each of the axes S that the kernel moves along; P are these axes with padding.

    Attributes
    ----------
    kernel, stride, dilation, before, after : tuple of int
        The last two are the padding at either end.
    mode : str
        "zeros" or one of `MODES`.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str

    @property
    def spans(self) -> tuple[int, ...]:
        """From the first to the last element under the kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation, strict=True))

    def padded_sizes(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(b + n + a for b, n, a in zip(self.before, sizes, self.after, strict=True))

    def pad(self, x: Array) -> Array:
        """(..., *S, C) -> (..., *P, C), a copy."""
        n = len(self.kernel)
        lead, sizes = x.shape[: -n - 1], x.shape[-n - 1 : -1]
        padded = np.zeros((*lead, *self.padded_sizes(sizes), x.shape[-1]), x.dtype)
        padded[self._inside(sizes)] = x
        for axis, size in enumerate(sizes):
            along = np.moveaxis(padded, axis - n - 1, 0)
            for border, source in self._copied(axis, size):
                along[border] = along[source]
        return padded

    def unpad(self, d_padded: Array, sizes: tuple[int, ...]) -> Array:
        """The way back of `pad`: (..., *P, C), which is written to, -> (..., *S, C)."""
        n = len(self.kernel)
        for axis in reversed(range(n)):
            along = np.moveaxis(d_padded, axis - n - 1, 0)
            for border, source in self._copied(axis, sizes[axis]):
                along[source] += along[border]
        return np.asarray(d_padded[self._inside(sizes)])

    def _inside(self, sizes: tuple[int, ...]) -> tuple[Any, ...]:
        """Where the input is in (..., *P, C)."""
        return (..., *(slice(b, b + n) for b, n in zip(self.before, sizes, strict=True)), slice(None))

    def _copied(self, axis: int, size: int) -> Iterator[tuple[int, int]]:
        """Places in the padding of an axis, each with the place whose element it has."""
        before, after = self.before[axis], self.after[axis]
        if self.mode == "zeros" or not before + after:
            return
        sources = np.pad(np.arange(before, before + size), (before, after), mode=MODES[self.mode])  # type: ignore[call-overload]
        for border in (*range(before), *range(before + size, before + size + after)):
            yield border, int(sources[border])

    def rows(self, padded: Array) -> Array:
        """(N, *P, C), C-contiguous -> (N, *O, prod(kernel) * C): what is under the kernel at each of its places."""
        places, steps = self.places(padded.shape[1:-1]), padded.strides[1:-1]
        strides = [s * step for s, step in zip((*self.stride, *self.dilation), steps * 2, strict=True)]
        # numpy's sliding_window_view takes 15 us longer; this one too refuses to look past the end of the memory.
        windows = np.ndarray(
            (len(padded), *places, *self.kernel, padded.shape[-1]),
            padded.dtype,
            buffer=padded,
            strides=(padded.strides[0], *strides, padded.strides[-1]),
        )
        return windows.reshape(len(padded), *places, math.prod(self.kernel) * padded.shape[-1])

    def fold(self, d_rows: Array, d_padded: Array) -> None:
        """The way back of `rows`: (N, *O, prod(kernel) * C) -> (N, *P, C) INOUT, which is added to."""
        N, *places, _ = d_rows.shape
        d_windows = d_rows.reshape(N, *places, *self.kernel, d_padded.shape[-1])
        for offset, at in self.under(tuple(places)):
            d_padded[at] += d_windows[(slice(None),) * (len(places) + 1) + offset]

    def under(self, places: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
        """For each place under the kernel, where (N, *P, C) the elements are that come to lie there."""
        for offset in np.ndindex(*self.kernel):
            along = zip(offset, self.dilation, self.stride, places, strict=True)
            yield offset, (slice(None), *(slice(i * d, i * d + (o - 1) * s + 1, s) for i, d, s, o in along))

    def places(self, padded_sizes: tuple[int, ...]) -> tuple[int, ...]:
        """How many places the kernel has along each axis."""
        along = zip(padded_sizes, self.spans, self.stride, strict=True)
        return tuple((p - span) // s + 1 for p, span, s in along)
