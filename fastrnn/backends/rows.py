"""How rows of a batch are shared out among threads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def deal(n: int, arrays: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """The arrays of `Backend.forward`, from x to gates, in n shares of the rows, or as many as there are rows.

    Ragged rows are sorted by length: they are dealt out in turn, so that all shares have long and short ones.
    """
    x, y, h, c, lengths, reset, c_all, gates = arrays
    N = x.shape[1]
    n = min(n, N)
    shares = []
    for i in range(n):
        rows = slice(N * i // n, N * (i + 1) // n) if lengths is None else slice(i, None, n)
        of_rows = (None if a is None else a[rows] for a in (h, c))
        of_lengths = None if lengths is None else np.ascontiguousarray(lengths[rows])
        of_steps = (None if a is None else a[:, rows] for a in (reset, c_all, gates))
        shares.append((x[:, rows], y[:, rows], *of_rows, of_lengths, *of_steps))
    return shares


def cut(N: int, n: int, lengths: Array | None) -> list[tuple[int, int]]:
    """The first row of each share of neighbours, and the one past its last; with as many steps in each."""
    if lengths is None:
        return [(N * i // n, N * (i + 1) // n) for i in range(n)]
    steps = np.cumsum(lengths)
    ends = np.searchsorted(steps, steps[-1] * np.arange(1, n) / n)
    bounds = [0, *(int(end) for end in ends), N]
    return list(pairwise(bounds))
