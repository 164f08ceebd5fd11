"""What a forward pass on a GPU keeps for the way back."""

from __future__ import annotations

from typing import NamedTuple

from . import engine
from .runtime import Array


class Segment(NamedTuple):
    """Consecutive steps of a layer, in directions that run side by side.

    Attributes
    ----------
    start, stop : int
    h, c : Array, Array or None
        The states that they begin with.
    kept : engine.Kept or None
        None: `backward` runs these steps again.
    """

    start: int
    stop: int
    h: Array
    c: Array | None
    kept: engine.Kept | None


class Tape:
    """What a forward pass keeps for `backward`.

    Parameters
    ----------
    every : int or None
        Keep only the states before every so many steps.
    dropout : float

    Attributes
    ----------
    x, y : list of Array
        Each layer's input and output; no y where `every` is given.
    segments : list of list of list of Segment
        By layer and run, in the order in which they were run.
    kept : dict of int to Array
        Bytes: what dropout kept of a layer's output.
    """

    def __init__(self, every: int | None, dropout: float) -> None:
        self.every, self.dropout = every, dropout
        self.x: list[Array] = []
        self.y: list[Array | None] = []
        self.segments: list[list[list[Segment]]] = []
        self.kept: dict[int, Array] = {}
        self.lengths: Array | None = None
        self.reset: Array | None = None
