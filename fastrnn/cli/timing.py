"""Times that can be compared: several functions in one process, in turn, each settled before it is timed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import NamedTuple

NAP = 0.03  # seconds: by then the worker threads of whoever ran before have stopped spinning
SHORT = 100e-6  # a call that takes less is timed in a loop ...
LOOP = 1e-3  # ... that takes about this long
LONG = 0.25  # a call that takes more is timed once in a round


class Timing(NamedTuple):
    """How long one call of a function takes.

    Attributes
    ----------
    seconds : float
        The median.
    cpu : float
        Processor time over wall time, of all threads of the process: how many processors were really used.
    samples : int
        How many times it was timed.
    """

    seconds: float
    cpu: float
    samples: int


class _Samples:
    """One function, its loop and the times taken so far."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function
        self._loop = 1
        self._calls(1)  # compiles, packs, allocates
        estimate, _ = self._calls(1)
        if estimate < SHORT:
            self._loop = math.ceil(LOOP / max(estimate, 1e-7))
        self._repeats = 1 if estimate > LONG else 3
        self.round_seconds = NAP + (1 + self._repeats) * self._loop * estimate
        self._wall: list[float] = []
        self._cpu: list[float] = []

    def _calls(self, n: int) -> tuple[float, float]:
        function, numbers = self._function, range(n)
        cpu, wall = time.process_time(), time.perf_counter()
        for _ in numbers:
            function()
        return (time.perf_counter() - wall) / n, (time.process_time() - cpu) / n

    def take(self) -> None:
        time.sleep(NAP)
        self._calls(self._loop)
        for _ in range(self._repeats):
            wall, cpu = self._calls(self._loop)
            self._wall.append(wall)
            self._cpu.append(cpu)

    def timing(self) -> Timing:
        return Timing(median(self._wall), sum(self._cpu) / sum(self._wall), len(self._wall))


def settled(
    functions: Mapping[str, Callable[[], object]], *, rounds: int = 7, budget: float = math.inf
) -> dict[str, Timing]:
    """Time `functions` side by side.

    In each round every function in turn gets a nap, one call that is not counted and three that are; of calls longer
    than 0.25 s one, and calls shorter than 100 us are loops of many. Bare alternation would be biased: what runs after
    an engine with threads pays for those threads' spinning and for cold caches.

    Parameters
    ----------
    functions : mapping of name to function without arguments
    rounds : int
    budget : float
        Seconds for all: there are fewer rounds, though at least three (or `rounds`), where they would take longer.

    Returns
    -------
    dict of name to Timing
    """
    samples = {name: _Samples(function) for name, function in functions.items()}
    one_round = sum(s.round_seconds for s in samples.values())
    for _ in range(rounds if rounds * one_round <= budget else min(rounds, max(3, int(budget / one_round)))):
        for s in samples.values():
            s.take()
    return {name: s.timing() for name, s in samples.items()}
