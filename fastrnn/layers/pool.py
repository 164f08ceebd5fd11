"""MaxPool1d: the largest of some steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .leaf import Leaf, Traced

Array = NDArray[Any]
Size = int | tuple[int, ...]


class MaxPool1d(Leaf):
    """The largest of the steps under a window that moves along the last axis [1]_.

    NaN is larger than all numbers. The gradient goes to the first of the largest, and to the last NaN.

    Parameters
    ----------
    kernel_size : int
        Steps under the window.
    stride : int, optional
        Steps from one place of the window to the next; `kernel_size` where not given.
    padding : int
        Steps of -inf added at either end, no more than half the window.
    dilation : int
        Steps between neighbours under the window.
    return_indices : bool
        torch's argument; not supported, so that only False is taken.
    ceil_mode : bool
        Whether the window may reach past the end.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    Notes
    -----
    Of `kernel_size`, `stride`, `padding` and `dilation` a tuple of one integer is taken too.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.MaxPool1d.html

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.MaxPool1d(2)([[1, 3, 2, 0, 7]])
    array([[3., 2.]], dtype=float32)
    """

    _fixed = ("kernel_size", "stride", "padding", "dilation", "return_indices", "ceil_mode")

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding, self.dilation = padding, dilation
        if return_indices is not False:
            raise ValueError(f"return_indices is not supported by MaxPool1d, got: {return_indices!r}")
        self.return_indices, self.ceil_mode = False, validate.flag("ceil_mode", ceil_mode)
        self._kernel, self._stride, self._padding, self._dilation = (
            _single(name, getattr(self, name)) for name in ("kernel_size", "stride", "padding", "dilation")
        )
        for name, value in (("kernel_size", self._kernel), ("stride", self._stride), ("dilation", self._dilation)):
            if value <= 0:
                raise ValueError(f"max_pool1d() {name} must be greater than zero, but got {value}")
        if self._padding < 0:
            raise ValueError(f"max_pool1d() padding must be non-negative, but got {self._padding}")
        if self._padding > self._kernel // 2:
            raise ValueError(
                "max_pool1d() padding should be at most half of kernel size, "
                f"but got padding={self._padding} and kernel_size={self._kernel}"
            )

    def forward(self, x: ArrayLike) -> Array:
        """Pool.

        Parameters
        ----------
        x : (N, C, L) or (C, L)

        Returns
        -------
        (N, C, P) or (C, P)

        Raises
        ------
        TypeError, ValueError
            `x` is not as described, or too short.
        """
        x, places = self._checked(x)
        y = np.full((*x.shape[:-1], places), -np.inf, x.dtype)
        for _, at, steps in self._steps(x.shape[-1], places):
            np.maximum(y[..., at], x[..., steps], out=y[..., at])
        return y

    def _trace(self, x: ArrayLike) -> Traced:
        x, places = self._checked(x)
        length = x.shape[-1]
        y = np.full((*x.shape[:-1], places), -np.inf, x.dtype)
        chosen = np.full(y.shape, -1, np.int32)  # the place under the window that a value comes from
        for k, at, steps in self._steps(length, places):
            value, best, from_ = x[..., steps], y[..., at], chosen[..., at]
            better = (value > best) | np.isnan(value) | (from_ < 0)
            np.copyto(best, value, where=better)
            np.copyto(from_, k, where=better)

        def d_x(dy: Array) -> Array:
            dx = np.zeros((*dy.shape[:-1], length), dy.dtype)
            for k, at, steps in self._steps(length, places):
                dx[..., steps] += np.where(chosen[..., at] == k, dy[..., at], 0)
            return dx

        return Traced(y, d_x)

    def _steps(self, length: int, places: int) -> Iterator[tuple[int, slice, slice]]:
        """For each place under the window, the windows in which the input is there, and the steps that it has there."""
        for k in range(self._kernel):
            offset = k * self._dilation - self._padding  # of the step under the first window
            first = max(0, -(offset // self._stride))
            last = min(places, (length - 1 - offset) // self._stride + 1)
            if first < last:
                start = offset + first * self._stride
                yield k, slice(first, last), slice(start, offset + (last - 1) * self._stride + 1, self._stride)

    def _checked(self, x: ArrayLike) -> tuple[Array, int]:
        """The input, and how many windows it has."""
        x = validate.floating("x", x)
        if x.ndim not in (2, 3) or 0 in x.shape[-2:]:
            raise ValueError(
                "max_pool1d: Expected 2D or 3D (batch mode) tensor with optional 0 dim batch size for input, "
                f"but got:{list(x.shape)}"
            )
        length = x.shape[-1]
        room = length + 2 * self._padding - (self._kernel - 1) * self._dilation - 1
        places = (room + (self._stride - 1) * self.ceil_mode) // self._stride + 1
        if self.ceil_mode and (places - 1) * self._stride >= length + self._padding:
            places -= 1  # the last window would begin in the padding at the end
        if places < 1:
            raise ValueError(f"max_pool1d() Invalid computed output size: {places} (x has shape {x.shape})")
        return x, places

    def extra_repr(self) -> str:
        names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
        return ", ".join(f"{name}={getattr(self, name)}" for name in names)


def _single(name: str, value: Any) -> int:
    if isinstance(value, tuple | list):
        if len(value) != 1:
            raise ValueError(
                f"max_pool1d() {name} must be an int, list of ints or tuple of ints of size 1 but got size {len(value)}"
            )
        value = value[0]
    return validate.integer(name, value)
