"""How rows of a batch are shared out among threads."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def deal(N: int, n: int, lengths: Array | None) -> list[slice]:
    """n shares of N rows. Ragged rows are sorted by length: dealt out in turn, so that all have long and short ones."""
    if lengths is None:
        return [slice(N * i // n, N * (i + 1) // n) for i in range(n)]
    return [slice(i, None, n) for i in range(n)]


def cut(N: int, n: int, lengths: Array | None) -> list[tuple[int, int]]:
    """The first row of each share of neighbours, and the one past its last; with as many steps in each."""
    if lengths is None:
        return [(N * i // n, N * (i + 1) // n) for i in range(n)]
    steps = np.cumsum(lengths)
    ends = np.searchsorted(steps, steps[-1] * np.arange(1, n) / n)
    bounds = [0, *(int(end) for end in ends), N]
    return list(pairwise(bounds))
