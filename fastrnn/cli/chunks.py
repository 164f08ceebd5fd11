"""A layer over arrays larger than memory: in chunks of rows, and of time where the state can be carried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn

from .files import Array

# A call of the layer cannot be interrupted: this many weights times steps keep it near a second.
WORK_PER_CALL = 2e10
# Rows that run together where there is the choice: wide enough for the kernels' tiles.
GOOD_BATCH = 64


def directions(layer: Any) -> int:
    return 2 if layer.bidirectional else 1


def state_widths(layer: Any) -> list[int]:
    """Width of h, and of c for an LSTM."""
    h_out = layer.proj_size or layer.hidden_size
    return [h_out, layer.hidden_size] if isinstance(layer, fastrnn.LSTM) else [h_out]


def output_width(layer: Any) -> int:
    return directions(layer) * state_widths(layer)[0]


def chunk_size(layer: Any, T: int, N: int, max_memory: int) -> tuple[int, int]:
    """Steps and rows of one call."""
    per_step = layer.dtype.itemsize * 2 * (layer.input_size + 2 * output_width(layer))
    weights = sum(array.size for array in layer.parameters().values())
    budget = max(1, int(min(max_memory // per_step, WORK_PER_CALL // weights)))  # steps times rows
    rows_at_once = budget // max(T, 1)
    if layer.bidirectional:  # the reverse direction starts at the end: rows cannot be cut
        return max(T, 1), min(max(rows_at_once, 1), max(N, 1))
    rows = max(1, min(N, max(rows_at_once, GOOD_BATCH), budget))
    return min(budget // rows, max(T, 1)), rows


def run_in_chunks(
    layer: Any,
    x: Array,
    y: Array,
    states: list[Array],
    *,
    lengths: Array | None,
    max_memory: int,
    advance: Callable[[int], None],
) -> int:
    """Run `layer` over all of `x`.

    Parameters
    ----------
    layer : RNN, LSTM or GRU, not batch_first
    x : (T, N, I)
    y : (T, N, D*H_out) OUT
    states : h (L*D, N, H_out), and c (L*D, N, H) for an LSTM; INOUT
    lengths : (N,) or None
    max_memory : int
        Bytes that one chunk may take. Whole rows of a bidirectional layer are run even where they take more.
    advance : callable
        Told the number of steps done after each chunk.

    Returns
    -------
    int
        How many values of `y` are NaN.
    """
    T, N, _ = x.shape
    steps, rows = chunk_size(layer, T, N, max_memory)
    nans = 0
    for n in range(0, N, rows):
        batch = slice(n, n + rows)
        for t in range(0, T, steps):
            span = slice(t, t + steps)
            part = x[span, batch]
            hx = tuple(state[:, batch] for state in states)
            left = None if lengths is None else np.clip(lengths[batch] - t, 0, len(part))
            _, ends = layer(part, hx if len(hx) > 1 else hx[0], lengths=left, out=y[span, batch])
            for state, end in zip(hx, ends if len(hx) > 1 else (ends,), strict=True):
                state[...] = end
            nans += int(np.count_nonzero(np.isnan(y[span, batch])))
            advance(part.shape[0] * part.shape[1])
    return nans
