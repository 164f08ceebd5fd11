"""The least time that a layer can take on this machine: its bytes at the speed of the caches, its sums at the peak.

The bytes and operations are those that nobody can do without: in each step the recurrent weights are read once for all
rows, x is read and y written; the weights of the input are read once in a call; all products are multiplied and added.
What sigmoid and tanh cost and the wait for one step's end before the next can begin are not counted, so no layer reaches
its bound, and a small one stays far from it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
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
    size: float  # bytes, of all threads
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
            speeds = {name: _numpy_read(size) for name, size in sizes.items()}
            return _roof(caches, threads, speeds, _numpy_peak(), "NumPy, for lack of a C compiler: too low for L1")
        speeds = {name: _run(program, size, threads) for name, size in sizes.items()}
        return _roof(caches, threads, speeds, _run(program, 0, threads), f"roofline.c on {threads} core(s) at once")


def _roof(caches: dict[str, int], threads: int, speeds: dict[str, float], peak: float, how: str) -> Roof:
    shared = {"L3": 1}  # of the other levels each core has its own
    levels = [
        Level(name, caches.get(name, np.inf) * shared.get(name, threads), speed) for name, speed in speeds.items()
    ]
    return Roof(levels, peak, how)


def _run(program: Path, size: int, threads: int) -> float:
    cores: list[int | None] = [None]
    if hasattr(os, "sched_getaffinity"):
        cores = sorted(os.sched_getaffinity(0))[:threads]  # type: ignore[assignment]
    pin = ["taskset", "-c"] if threads > 1 else []
    commands = [[*pin, *([str(core)] if pin else []), str(program), str(size)] for core in cores]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    return sum(float(process.communicate()[0]) for process in processes)


def _numpy_read(size: int) -> float:
    a = np.ones(size // 4, np.float32)
    return 4 * len(a) / _best(lambda: a @ a)


def _numpy_peak() -> float:
    n = 512
    a = np.ones((n, n), np.float32)
    return 2 * n**3 / _best(lambda: a @ a)


def _best(function: Any, repeat: int = 200) -> float:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def bound(problem: Problem, roof: Roof) -> Bound:
    """The least time for one step."""
    T, N, I, H = problem.T, problem.N, problem.I, problem.H  # noqa: E741
    G = SPECS[problem.cell].n_gates
    moved = 4 * (G * H * H + G * H * I / T + N * (I + H))
    operations = 2 * N * G * H * (I + H)
    times = {"FMA": operations / roof.peak}
    nearer = 0.0
    for level in roof.levels:
        # At best the nearer levels keep as much as they hold from step to step, and the rest passes from this one.
        times[level.name] = max(0.0, moved - nearer) / level.speed
        nearer = level.size
    by = max(times, key=times.__getitem__)
    return Bound(moved / 1e6, operations / 1e6, times[by] * 1e6, by)


def as_dict(roof: Roof) -> dict[str, Any]:
    levels: Sequence[Level] = roof.levels
    return {
        "how": roof.how,
        "gflops": roof.peak / 1e9,
        "levels": {level.name: {"bytes": _finite(level.size), "gb_per_s": level.speed / 1e9} for level in levels},
    }


def from_dict(figures: dict[str, Any]) -> Roof:
    levels = [
        Level(name, np.inf if level["bytes"] is None else level["bytes"], level["gb_per_s"] * 1e9)
        for name, level in figures["levels"].items()
    ]
    return Roof(levels, figures["gflops"] * 1e9, figures["how"])


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
