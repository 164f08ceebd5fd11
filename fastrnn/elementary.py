"""The functions of which bodies of cells are made: `exp`, `sigmoid`, `tanh`, `select`.

On NumPy arrays and numbers they compute, on the expressions of `derive` they are written down, and under Numba others
stand in their place.
"""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["exp", "select", "sigmoid", "tanh", "zero_like"]


def exp(a: Any) -> Any:
    """The exponential function, of every element of `a`."""
    return np.exp(a) if (traced := _traced("exp", a)) is None else traced


def sigmoid(a: Any) -> Any:
    """``1 / (1 + exp(-a))``, of every element of `a`."""
    if (traced := _traced("sigmoid", a)) is not None:
        return traced
    e = np.exp(-np.abs(a))  # does not overflow, whatever a is
    return np.where(a < 0, e, 1.0) / (1.0 + e)


def tanh(a: Any) -> Any:
    """The hyperbolic tangent, of every element of `a`."""
    return np.tanh(a) if (traced := _traced("tanh", a)) is None else traced


def select(condition: Any, a: Any, b: Any) -> Any:
    """`a` where `condition` is true, `b` where it is not, element by element: what stands for ``if`` in a body.

    Both are computed everywhere. Comparisons with NaN are false, so that `b` is taken there.
    """
    return np.where(condition, a, b) if (traced := _traced("select", condition, a, b)) is None else traced


def zero_like(a: Any) -> Any:
    """Zeros of the shape and type of `a`, whatever `a` holds; gradients need them."""
    return np.zeros_like(a) if (traced := _traced("zero_like", a)) is None else traced


def _traced(name: str, *arguments: Any) -> Any:
    """The expression for this function of the arguments if one of them is an expression, else None."""
    for a in arguments:
        if (write := getattr(a, "_elementary", None)) is not None:
            return write(name, *arguments)
    return None
