"""Products with the matrix of a layer, on the kernels and threads of the recurrent ones.

An element is added up in one order, whatever other rows there are and however many threads: results have the same bits
in any batch. NumPy's own product is taken where no kernels fit the processor, and then they do so within rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import threads
from .backends import flush_denormals

Array = NDArray[Any]

_PAYS = 2_000_000  # multiply-adds that each thread must have to do, as in `backends.cython`
_ROWS = 24  # and rows: fewer do not use a weight often enough


def _kernels(dtype: np.dtype[Any]) -> Any:
    """The compiled module, or None."""
    try:
        from .backends.cython import kernels
    except ImportError:
        return None
    return kernels(dtype)


class Matrix:
    """A matrix that rows are multiplied by: ``x @ w.T + b``, or ``x @ w`` where `transposed`.

    Parameters
    ----------
    w : (O, K), float32 or float64
        Copied.
    b : (O,), optional
    transposed : bool
        Multiply by `w` and not by its transpose; without `b`.
    """

    def __init__(self, w: Array, b: Array | None = None, *, transposed: bool = False) -> None:
        self.columns, self.dtype = w.shape[1 if transposed else 0], w.dtype
        self._multiply: Callable[[Array, Array, bool], None]
        module = _kernels(w.dtype)
        if module is not None:
            bias = None if b is None else np.ascontiguousarray(b)
            self._multiply = module.PackedMatrix(np.ascontiguousarray(w), bias, transposed).multiply
        else:
            self._multiply = partial(_plain, (w if transposed else w.T).copy(), 0 if b is None else b.copy())

    def __call__(self, x: Array, out: Array | None = None) -> Array:
        """(..., K) -> (..., O), of the matrix's dtype; in `out`, whose leading axes can be taken for one."""
        y = np.empty((*x.shape[:-1], self.columns), self.dtype) if out is None else out
        rows, out = _rows(x), y.reshape(-1, self.columns)
        flush, n = flush_denormals(), _n_threads(rows.size * self.columns, len(rows) // _ROWS)
        if n == 1:
            if len(rows):
                self._multiply(rows, out, flush)
            return y
        with threads.team(n) as team:
            cuts = [len(rows) * i // team.size for i in range(team.size + 1)]
            shares = [slice(*cuts[i : i + 2]) for i in range(team.size)]
            team.run([partial(self._multiply, rows[share], out[share], flush) for share in shares])
        return y


def sum_outer(g: Array, a: Array) -> Array:
    """``g.T @ a`` over all rows: g (..., O), a (..., K) -> (O, K), as the gradient of a matrix is."""
    g, a = _rows(g), _rows(a)
    out = np.empty((g.shape[1], a.shape[1]), g.dtype)
    module = _kernels(g.dtype)
    if module is None:
        _plain(a, 0, g.T, out, False)
        return out
    flush, n = flush_denormals(), _n_threads(g.size * a.shape[1], len(out))
    if n == 1:
        module.sum_outer(g, a, out, 0, 1, flush)
        return out
    with threads.team(n) as team:
        team.run([partial(module.sum_outer, g, a, out, i, team.size, flush) for i in range(team.size)])
    return out


def column_sums(g: Array) -> Array:
    """The sum over all rows: g (..., O) -> (O,), as the gradient of a bias is."""
    rows = g.reshape(-1, g.shape[-1])
    return sum_outer(rows, np.ones((len(rows), 1), g.dtype))[:, 0]


def _plain(w: Array, b: Any, x: Array, y: Array, flush: bool) -> None:
    with np.errstate(invalid="ignore", over="ignore"):  # as the kernels: NaN and infinity are no reason to warn
        np.matmul(x, w, out=y)
        y += b


def _n_threads(work: int, most: int) -> int:
    return max(1, min(threads.get_num_threads(), work // _PAYS, most))


def _rows(a: Array) -> Array:
    """(..., K) as (M, K), the elements of a row side by side."""
    rows = a.reshape(-1, a.shape[-1])
    return rows if rows.strides[1] == rows.itemsize or rows.shape[1] == 1 else np.ascontiguousarray(rows)
