"""Dropout as a layer."""

from __future__ import annotations

from functools import partial
from numbers import Real
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate
from ..sequence import drawn, dropout_factor
from .leaf import Leaf, Traced
from .module import Module

Array = NDArray[Any]


def _probability(value: Any) -> float:
    ok = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not ok:
        raise TypeError(f"p should be a number, got: {type(value).__name__}")
    if not 0 <= float(value) <= 1:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {value}")
    return float(value)


class Dropout(Leaf):
    """In training mode, zeroes elements at random and multiplies the others by ``1 / (1 - p)`` [1]_.

    In evaluation mode, in which layers start, the result is a copy of the input.

    Parameters
    ----------
    p : float
        Probability that an element is zeroed.
    inplace : bool
        As torch's argument; changes nothing, since arguments are never written to.
    rng : int, numpy.random.Generator or None
        Draws which.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Dropout.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> dropout = fastrnn.Dropout(0.5, rng=0)
    >>> dropout(np.ones(6))                              # in eval mode, as layers start
    array([1., 1., 1., 1., 1., 1.])
    >>> y = dropout.train()(np.ones(1000))
    >>> sorted(set(y.tolist()))
    [0.0, 2.0]
    """

    _fixed = ("inplace",)
    _checks: ClassVar = {**Module._checks, "p": _probability}

    def __init__(self, p: float = 0.5, inplace: bool = False, *, rng: Any = None) -> None:
        self.p = p
        self.inplace = validate.flag("inplace", inplace)
        if rng is not None:
            self._rng = validate.generator(rng)

    def forward(self, x: ArrayLike) -> Array:
        """Drop elements, in training mode.

        Parameters
        ----------
        x : array_like of any shape

        Returns
        -------
        array of the same shape

        Raises
        ------
        TypeError, ValueError
            `x` is no array of real numbers.
        """
        return self._trace(x).y

    def _trace(self, x: ArrayLike) -> Traced:
        x = validate.floating("x", x)
        if not self.training or self.p == 0:
            return Traced(x.copy(), np.copy)
        keep = drawn(x.shape, self.p, self._rng)
        times = partial(_masked, keep=keep, p=self.p)
        return Traced(times(x), times)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


def _masked(x: Array, keep: NDArray[np.bool_], p: float) -> Array:
    return np.asarray(x * dropout_factor(keep, p, x.dtype))
