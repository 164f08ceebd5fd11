"""A convolution run step by step: what the kernel still reaches of the past is kept between calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .conv_kernel import Depthwise, Kernel
from .windows import Windows

Array = NDArray[Any]


class ConvStream:
    """The state of a `Conv1d` that is fed step by step; made by ``layer.stream(batch_size)``.

    It keeps the weights that the layer had when it was made. One stream belongs to one thread; any number of streams
    may share a layer.

    With a stride, the kernel stands at steps 0, stride, 2 * stride and so on, and each chunk has a multiple of so many
    steps: each result is there with the chunk that holds its last step, and rows can be reset between chunks.

    Parameters
    ----------
    windows : Windows
    kernels : list of Kernel or of Depthwise
    in_channels : int
    dtype : float32 or float64
    batch_size : int
        Rows that run side by side (N).
    """

    def __init__(
        self,
        windows: Windows,
        kernels: Sequence[Kernel | Depthwise],
        in_channels: int,
        dtype: np.dtype[Any],
        batch_size: int,
    ) -> None:
        self._windows, self._kernels = windows, kernels
        self._in_channels, self._out_channels = in_channels, sum(kernel.columns for kernel in kernels)
        self._dtype, self._stride = dtype, windows.stride[0]
        self._batch_size = validate.size("batch_size", batch_size)
        # Channels last, and apart for each kernel, as it reads them.
        G, past = len(kernels), windows.spans[0] - 1
        self._past = np.zeros((G, batch_size, past, in_channels // G), dtype)

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def step(self, x_t: ArrayLike, out: Array | None = None) -> Array:
        """Feed one step.

        Parameters
        ----------
        x_t : (N, C), or (C,) where N = 1
        out : array of the result's shape and dtype, optional
            Where the result is written.

        Returns
        -------
        (N, out_channels), or (out_channels,) for `x_t` of shape (C,)
            `out`, else a fresh array.

        Raises
        ------
        TypeError, ValueError
            An argument is not as described, or the layer has a stride: not every step has a result then, and `process`
            takes as many as have one.
        """
        if self._stride > 1:
            raise ValueError(f"step is not supported with stride={self._stride}; give process {self._stride} steps")
        x = validate.real_array("x_t", x_t, self._dtype)
        N, C = self._batch_size, self._in_channels
        if x.shape != (N, C) and (N != 1 or x.shape != (C,)):
            raise ValueError(f"x_t should have shape {(N, C)}{f' or {(C,)}' * (N == 1)}, got: {x.shape}")
        shape = (*x.shape[:-1], self._out_channels)
        if out is not None:
            validate.out(out, shape, self._dtype)
        y = self._run(x.reshape(N, C, 1)).reshape(shape)
        if out is None:
            return y
        out[...] = y
        return out

    def process(self, chunk: ArrayLike) -> Array:
        """Feed any number of steps at once.

        Parameters
        ----------
        chunk : (N, C, T), or (C, T) where N = 1
            T is a multiple of the layer's stride.

        Returns
        -------
        (N, out_channels, T / stride), or (out_channels, T / stride)

        Raises
        ------
        TypeError, ValueError
            `chunk` is not as described.
        """
        x = validate.real_array("chunk", chunk, self._dtype)
        N, C = self._batch_size, self._in_channels
        unbatched = x.ndim == 2 and N == 1
        if x.ndim != 3 and not unbatched:
            raise ValueError(f"chunk should be 3D{' or 2D' if N == 1 else ''}, got {x.ndim}D")
        if x.shape[-2] != C or (not unbatched and len(x) != N):
            raise ValueError(f"chunk should have a batch of {N} and {C} channels, got: shape {x.shape}")
        if x.shape[-1] % self._stride:
            raise ValueError(
                f"chunk should have a multiple of stride={self._stride} steps, got: {x.shape[-1]} (shape {x.shape})"
            )
        y = self._run(x.reshape(N, C, x.shape[-1])).swapaxes(1, 2)
        return y[0] if unbatched else y

    def _run(self, x: Array) -> Array:
        """(N, C, T) -> (N, T / stride, out_channels)."""
        N, T, G = self._batch_size, x.shape[-1], len(self._kernels)
        y = np.empty((N, T // self._stride, self._out_channels), self._dtype)
        if T:
            past = self._past.shape[2]
            seen = np.empty((G, N, past + T, self._in_channels // G), self._dtype)
            seen[:, :, :past], seen[:, :, past:] = self._past, x.reshape(N, G, -1, T).transpose(1, 0, 3, 2)
            for kernel, part, out in zip(self._kernels, seen, np.split(y, G, axis=-1), strict=True):
                kernel.apply(part, out)
            self._past[...] = seen[:, :, T:]
        return y

    def reset(self, mask: ArrayLike | None = None) -> None:
        """Set the past to zero.

        Parameters
        ----------
        mask : bool (N,), optional
            The rows to reset; all of them where not given.
        """
        rows = np.ones(self._batch_size, bool) if mask is None else validate.mask("mask", mask, (self._batch_size,))
        self._past[:, rows] = 0

    @property
    def state(self) -> Array:
        """The last dilation * (kernel_size - 1) steps (N, C, ...), the latest last.

        A copy when read; assign to set it.
        """
        G, N, past, C = self._past.shape
        return np.moveaxis(self._past, (0, 2), (1, 3)).reshape(N, G * C, past).copy()

    @state.setter
    def state(self, value: ArrayLike) -> None:
        G, N, past, C = self._past.shape
        array = validate.real_array("state", value, self._dtype)
        if array.shape != (N, G * C, past):
            raise ValueError(f"state should have shape {(N, G * C, past)}, got: {array.shape}")
        self._past[...] = np.moveaxis(array.reshape(N, G, C, past), (1, 3), (0, 2))

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # Packed weights lie as this machine's kernels want them.
        raise TypeError("a stream cannot be copied or pickled; make another with layer.stream() and set its state")
