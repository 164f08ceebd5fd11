"""Softmax and its logarithm, along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .leaf import Leaf, Traced

Array = NDArray[Any]


class AlongAxis(Leaf):
    """A function along one axis. Not constructed by users; a subclass has `_value` and `_gradient` of the last axis."""

    _fixed = ("dim",)

    def __init__(self, dim: int | None = None) -> None:
        if dim is None:
            raise TypeError(f"dim should say the axis along which {type(self).__name__} runs, got: None")
        self.dim = validate.integer("dim", dim)

    def forward(self, x: ArrayLike) -> Array:
        """Apply the function along the axis.

        Parameters
        ----------
        x : array_like that has such an axis

        Returns
        -------
        array of the same shape

        Raises
        ------
        IndexError
            There is no such axis.
        TypeError, ValueError
            `x` is no array of real numbers.
        """
        return self._along(self._value, validate.floating("x", x))

    def _trace(self, x: ArrayLike) -> Traced:
        y = self._along(self._value, validate.floating("x", x))
        own = y.copy()
        return Traced(y, lambda dy: self._along(self._gradient, own, dy))

    def _along(self, function: Any, *arrays: Array) -> Array:
        """`function` with that axis the last, and contiguous, so that sums have one order, whatever the shape."""
        axis = validate.axis(self.dim, arrays[0].ndim)
        rows = [np.ascontiguousarray(np.moveaxis(np.atleast_1d(a), axis, -1)) for a in arrays]
        with np.errstate(all="ignore"):
            result = np.ascontiguousarray(np.moveaxis(function(*rows), -1, axis))
        return result.reshape(arrays[0].shape)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


class Softmax(AlongAxis):
    """``exp(x) / exp(x).sum()`` along an axis [1]_.

    Parameters
    ----------
    dim : int
        The axis. It has to be given, though torch gives it a default.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Softmax.html

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.Softmax(-1)([[1, 1], [0, 2]]).round(2)
    array([[0.5 , 0.5 ],
           [0.12, 0.88]], dtype=float32)
    """

    @staticmethod
    def _value(x: Array) -> Array:
        e = np.exp(x - x.max(-1, keepdims=True, initial=-np.inf))
        return np.asarray(e / e.sum(-1, keepdims=True))

    @staticmethod
    def _gradient(y: Array, dy: Array) -> Array:
        return np.asarray(y * (dy - (y * dy).sum(-1, keepdims=True)))


class LogSoftmax(AlongAxis):
    """``x - log(exp(x).sum())`` along an axis [1]_.

    Parameters
    ----------
    dim : int
        The axis. It has to be given, though torch gives it a default.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.LogSoftmax.html

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.LogSoftmax(-1)([[1, 1], [0, 2]]).round(2)
    array([[-0.69, -0.69],
           [-2.13, -0.13]], dtype=float32)
    """

    @staticmethod
    def _value(x: Array) -> Array:
        shifted = x - x.max(-1, keepdims=True, initial=-np.inf)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))

    @staticmethod
    def _gradient(y: Array, dy: Array) -> Array:
        return np.asarray(dy - np.exp(y) * dy.sum(-1, keepdims=True))
