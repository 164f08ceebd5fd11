"""The least time that a layer can take on this machine: its bytes at the speed of the caches, its sums at the peak.

The bytes and operations are those that nobody can do without: in each step the recurrent weights are read once for all
rows, x is read and y written; the weights of the input are read once in a call; all products are multiplied and added.
What sigmoid and tanh cost and the wait for one step's end before the next can begin are not counted, so no layer
reaches its bound, and a small one stays far from it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrnn.cli.engines import SPECS, Problem

SOURCE = Path(__file__).with_name("roofline.c")
# How much of a level is read to measure it: the rest is left to others, who share the last one.
PARTS = {"L1": 0.75, "L2": 0.5, "L3": 0.25}
MEMORY = 4  # times the largest cache: nothing of it stays there


class Level(NamedTuple):
    name: str
    size: int  # bytes, of all threads; 0 for memory
    speed: float  # bytes per second, of all threads


class Roof(NamedTuple):
    """What the machine can do with so many threads."""

    levels: list[Level]  # the nearest first; memory is the last
    peak: float  # operations per second, a multiplication and an addition being two
    how: str


class Bound(NamedTuple):
    """Of one step."""

    megabytes: float
    megaflops: float
    us: float
    by: str  # what takes longest


def from_dict(figures: dict[str, Any]) -> Roof:
    return Roof([Level(*level) for level in figures["levels"]], figures["peak"], figures["how"])


def measure(caches: dict[str, int], threads: int) -> Roof:
    """Read the caches and multiply at full speed, on `threads` cores at once."""
    sizes = {name: int(caches[name] * part) for name, part in PARTS.items() if name in caches}
    if sizes:
        sizes["memory"] = MEMORY * max(caches.values())
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "roofline"
        try:
            # The one place where "native" is right: it is this machine's peak that is asked for.
            subprocess.run(["cc", "-O3", "-march=native", "-o", program, SOURCE], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            speeds, peak = [_numpy_read(size) for size in sizes.values()], _numpy_peak()
            how = "NumPy on one thread, there being no C compiler: too low, for L1 above all"
        else:
            speeds, peak = [_run(program, size, threads) for size in sizes.values()], _run(program, 0, threads)
            how = f"roofline.c on {threads} core" + "s at once" * (threads > 1)
    levels = []
    for name, speed in zip(sizes, speeds, strict=True):
        own = threads if name in ("L1", "L2") else 1  # each core has its own
        levels.append(Level(name, own * caches.get(name, 0), speed))
    return Roof(levels, peak, how)


def _run(program: Path, size: int, threads: int) -> float:
    """Copies that run at the same time, each on a core of its own."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(threads))
    commands = [[str(program), str(size), str(core)] for core in cores[-threads:]]
    copies = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    return sum(float(copy.communicate()[0]) for copy in copies)


def _numpy_read(size: int) -> float:
    a = np.ones(size // 4, np.float32)
    return 4 * len(a) / _best(lambda: a @ a)


def _numpy_peak() -> float:
    n = 512
    a = np.ones((n, n), np.float32)
    return 2 * n**3 / _best(lambda: a @ a)


def _best(function: Callable[[], object], repeat: int = 200) -> float:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def operations(problem: Problem) -> int:
    """Of the products in one step."""
    return 2 * problem.N * SPECS[problem.cell].n_gates * problem.H * (problem.I + problem.H)


def bound(problem: Problem, roof: Roof) -> Bound:
    """The least time for one step."""
    T, N, I, H = problem.T, problem.N, problem.I, problem.H
    G = SPECS[problem.cell].n_gates
    moved = 4 * (G * H * H + G * H * I / T + N * (I + H))
    times = {"FMA": operations(problem) / roof.peak}
    nearer = 0
    for level in roof.levels:
        # At best the nearer levels keep as much as they hold from step to step, and the rest passes from this one.
        times[level.name] = max(0.0, moved - nearer) / level.speed
        nearer = level.size
    by = max(times, key=times.__getitem__)
    return Bound(moved / 1e6, operations(problem) / 1e6, times[by] * 1e6, by)
