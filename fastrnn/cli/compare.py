"""How far results are from what they should be."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Largest error allowed, in machine epsilons times max(1, largest value). Rounding alone gives 1 to 4 in float32 over
# some hundred steps, torch's own included, so that two correct results are less than 8 apart; a wrong gate, bias or
# order of rows gives thousands.
TOLERANCE = 16.0


class Difference(NamedTuple):
    """The largest difference of any element, measured in three ways.

    Attributes
    ----------
    absolute : float
    relative : float
        To the expected element; of an expected 0 it is infinite.
    ulp : float
        In units in the last place of the expected element, of the dtype that was computed in.
    allowed : float
        What `absolute` may be.
    """

    absolute: float
    relative: float
    ulp: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.absolute <= self.allowed


def difference(actual: Array, expected: Array, tolerance: float = TOLERANCE) -> Difference:
    """Compare `actual`, float32 or float64, with `expected`, which may be more precise; two NaNs are equal.

    Parameters
    ----------
    actual, expected : array (...)
    tolerance : float
        In epsilons of `actual`'s dtype times max(1, largest finite value expected).

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"expected shape {expected.shape}, got: {actual.shape}")
    dtype = actual.dtype
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(all="ignore"):
        absolute = np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
        size = np.abs(b)
        relative = np.where(same, 0.0, np.nan_to_num(absolute / size, nan=np.inf))
        ulp = np.where(same, 0.0, np.nan_to_num(absolute / np.spacing(size.astype(dtype)), nan=np.inf))
    largest = size.max(initial=1.0, where=np.isfinite(size))
    allowed = tolerance * np.finfo(dtype).eps * largest
    return Difference(*(float(np.max(value, initial=0.0)) for value in (absolute, relative, ulp, allowed)))


def worst(differences: list[Difference]) -> Difference:
    """The largest of each; allowed is what the one furthest past its own limit may have."""
    furthest = max(differences, key=lambda d: d.absolute / d.allowed)
    return Difference(
        furthest.absolute, max(d.relative for d in differences), max(d.ulp for d in differences), furthest.allowed
    )
