"""LayerNorm, and what it shares with BatchNorm1d: mean 0 and variance 1, then a factor and a term of one's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from .base import Layer
from .leaf import Leaf, Traced
from .module import Module

Array = NDArray[Any]

_BLOCK = 1 << 16  # elements at a time: several passes over them are in a cache


def number(name: str, value: Any) -> float:
    return float(validate.number(name, value))


class Norm(Layer, Leaf):
    """A layer whose `weight` begins as ones and `bias` as zeros. Not constructed by users."""

    def _draw(self, generator: np.random.Generator) -> None:
        for name, array in self._params.items():
            array[...] = name == "weight"

    def _own(self, shape: tuple[int, ...], affine: bool, bias: bool) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters that there are."""
        there = {"weight": affine, "bias": affine and bias}
        for name in there:
            if not there[name]:
                setattr(self, name, None)
        return {name: shape for name in there if there[name]}


class LayerNorm(Norm):
    """Each row less its mean, over its standard deviation, times `weight` and plus `bias` [1]_.

    Parameters
    ----------
    normalized_shape : int or tuple of int
        The last axes of the input, which make a row.
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are ``weight`` and, with `bias`, ``bias``.
    bias : bool
    dtype : float32 or float64
    device : "cpu"
    rng : int, numpy.random.Generator or None
        As other layers have it; nothing is drawn.

    Attributes
    ----------
    weight, bias : ndarray of shape normalized_shape
        None where there is none.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.LayerNorm.html

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.LayerNorm(2)([[1, 3], [5, 5]]).round(3)
    array([[-1.,  1.],
           [ 0.,  0.]], dtype=float32)
    """

    _fixed = ("normalized_shape", "elementwise_affine", "weight", "bias")
    _checks: ClassVar = {**Module._checks, "eps": lambda value: number("eps", value)}

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, tuple | list) else (normalized_shape,)
        self.normalized_shape = tuple(validate.size("normalized_shape", size) for size in sizes)
        if not sizes:
            raise ValueError(
                "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least one element, "
                "but got normalized_shape = []"
            )
        self.eps, self.elementwise_affine = eps, validate.flag("elementwise_affine", elementwise_affine)
        shapes = self._own(self.normalized_shape, elementwise_affine, validate.flag("bias", bias))
        super().__init__(shapes, dtype=dtype, device=device, rng=rng)

    def forward(self, x: ArrayLike) -> Array:
        """Normalize each row.

        Parameters
        ----------
        x : (..., \\*normalized_shape)
            Any real numbers; cast to the layer's dtype.

        Returns
        -------
        array of the same shape

        Raises
        ------
        TypeError, ValueError
            `x` is not as described.
        """
        x = self._checked(x)
        y = np.empty(x.shape, self._dtype)
        rows, out = self._rows(x), self._rows(y)
        for block in _blocks(*rows.shape):
            self._normalized(rows[block], out[block])
            self._scaled(out[block], out[block])
        return y

    def _trace(self, x: ArrayLike) -> Traced:
        x = self._checked(x)
        shape, y = x.shape, np.empty(x.shape, self._dtype)
        rows, out = self._rows(x), self._rows(y)
        normal, factor = np.empty_like(out), np.empty((len(rows), 1), self._dtype)
        for block in _blocks(*rows.shape):
            factor[block] = self._normalized(rows[block], normal[block])
            self._scaled(normal[block], out[block])

        def d_x(dy: Array) -> Array:
            dx = np.empty(shape, self._dtype)
            g, d = self._rows(dy), self._rows(dx)
            for block in _blocks(*g.shape):
                self._d_rows(g[block], normal[block], factor[block], d[block])
            return dx

        return Traced(y, d_x, lambda dy: self._d_params(normal, self._rows(dy)))

    def _rows(self, x: Array) -> Array:
        """(..., *normalized_shape) -> (M, F); a view where `x` is C-contiguous."""
        size = math.prod(self.normalized_shape)
        return x.reshape(x.size // size, size)

    def _normalized(self, x: Array, out: Array) -> Array:
        """Rows (M, F) OUT with mean 0 and variance 1; (M, 1), what they were multiplied by."""
        size = x.dtype.type(x.shape[1])
        with np.errstate(all="ignore"):  # NaN and inf travel without a word
            np.subtract(x, np.add.reduce(x, 1, keepdims=True) / size, out=out)
            factor = 1 / np.sqrt(np.add.reduce(out * out, 1, keepdims=True) / size + x.dtype.type(self.eps))
            out *= factor
        return np.asarray(factor)

    def _scaled(self, normal: Array, out: Array) -> None:
        with np.errstate(all="ignore"):
            if self.weight is not None:
                np.multiply(normal, self.weight.reshape(-1), out=out)
            elif out is not normal:
                out[...] = normal
            if self.bias is not None:
                out += self.bias.reshape(-1)

    def _d_rows(self, dy: Array, normal: Array, factor: Array, out: Array) -> None:
        """The gradient of rows OUT: that of their elements, less what the mean and the variance take back."""
        size = dy.dtype.type(dy.shape[1])
        with np.errstate(all="ignore"):
            g = dy if self.weight is None else dy * self.weight.reshape(-1)
            np.multiply(normal, np.add.reduce(g * normal, 1, keepdims=True) / size, out=out)
            out += np.add.reduce(g, 1, keepdims=True) / size
            np.subtract(g, out, out=out)
            out *= factor

    def _d_params(self, normal: Array, dy: Array) -> dict[str, Array]:
        gradients = {}
        with np.errstate(all="ignore"):
            for name in self._params:
                total = np.zeros(dy.shape[1], self._dtype)
                for block in _blocks(*dy.shape):
                    total += np.add.reduce(dy[block] * normal[block] if name == "weight" else dy[block], 0)
                gradients[name] = total.reshape(self.normalized_shape)
        return gradients

    def _checked(self, x: ArrayLike) -> Array:
        x = validate.real_array("x", x, self._dtype)
        expected = self.normalized_shape
        if x.shape[-len(expected) :] != expected:
            raise ValueError(
                f"Given normalized_shape={list(expected)}, expected input with shape "
                f"[*, {', '.join(map(str, expected))}], but got input of size{list(x.shape)}"
            )
        return x

    def extra_repr(self) -> str:
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


def _blocks(rows: int, size: int) -> Iterator[slice]:
    step = max(1, _BLOCK // size)
    return (slice(i, i + step) for i in range(0, rows, step))
