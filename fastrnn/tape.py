"""What a forward pass keeps for `backward.py`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .backends import Backend

Array = NDArray[Any]


class Segment(NamedTuple):
    """Consecutive steps of one layer in one direction.

    Attributes
    ----------
    start, stop : int
        The steps.
    h : (N, H_out)
        The state that they begin with: in the reverse direction the one after step `stop`.
    c : (N, C) or None
    y : (stop - start, N, H_out) or None
        None: not kept, `backward.py` runs these steps again.
    c_all, gates : arrays or None
        As in `backends.Backend.forward`.
    """

    start: int
    stop: int
    h: Array
    c: Array | None
    y: Array | None = None
    c_all: Array | None = None
    gates: Array | None = None

    def of(self, rows: slice) -> Segment:
        """The same for some of the rows."""
        h, c, y, c_all, gates = (None if a is None else a[..., rows, :] for a in self[2:])
        assert h is not None
        return Segment(self.start, self.stop, h, c, y, c_all, gates)


class Tape:
    """One forward pass of all layers and directions.

    Parameters
    ----------
    backward_weights : list
        By layer, then direction: made by `backend.prepare_backward`.
    every : int or None
        Keep only the state before every so many steps, in whole chunks of the backend.
    dropout : float

    Attributes
    ----------
    order : (N,) or None
        How the rows were sorted.
    lengths, reset : arrays or None
        Of the sorted rows.
    x : list of (T, N, I)
        Each layer's input.
    segments : list of list of Segment
        By layer, then direction, in the order in which they were run.
    kept : dict of int to bool (T, N, D*H_out)
        What dropout kept of a layer's output.
    """

    order: Array | None
    lengths: Array | None
    reset: Array | None

    def __init__(self, backward_weights: list[Any], every: int | None = None, dropout: float = 0.0) -> None:
        self.backward_weights = backward_weights
        self.every = every
        self.dropout = dropout
        self.x: list[Array] = []
        self.segments: list[list[Segment]] = [[] for _ in backward_weights]
        self.kept: dict[int, NDArray[np.bool_]] = {}

    def holds(self, y: Array) -> bool:
        """Whether a later change of `y` would change the tape."""
        last = self.segments[-1]
        return self.every is None and last[0].y is not None and np.may_share_memory(last[0].y, y)

    def bounds(self, backend: Backend, T: int, reverse: bool) -> list[tuple[int, int]]:
        """First and last steps of the segments, in the order in which they are run."""
        steps = max(T, 1)
        if self.every is not None:
            chunks = -(-self.every // backend.CHUNK_STEPS)
            steps = chunks * backend.CHUNK_STEPS
        forward = [(a, min(a + steps, T)) for a in range(0, max(T, 1), steps)]
        return [(T - b, T - a) for a, b in forward] if reverse else forward


def new_buffers(backend: Backend, weights: Any, y: Array, c: Array | None) -> tuple[Array | None, Array | None]:
    """Empty `c_all` and `gates` for the steps of `y` (T, N, H_out)."""
    T, N, _ = y.shape
    width = backend.gates_width(weights)
    c_all = None if c is None else backend.empty((T, *c.shape), y.dtype)
    return c_all, backend.empty((T, N, width), y.dtype) if width else None
