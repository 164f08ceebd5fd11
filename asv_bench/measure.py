"""Take the figures: layer by layer, every engine in turn; what is found is printed at once and returned for JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import tables
import training
from grid import Grid
from machine import load, machine
from peers import OPENERS
from starts import first_calls, imports
from streams import all_steps, steps

from fastrnn.cli.engines import AGREE, Engine, Problem, opened
from fastrnn.cli.timing import Timing, settled

Results = dict[str, Any]


class Effort(NamedTuple):
    rounds: int
    seconds: float  # for one layer, where three rounds take no longer
    repeat: int  # of starts


QUICK, THOROUGH = Effort(3, 3.0, 3), Effort(5, 12.0, 5)


def run(grid: Grid, parts: Sequence[str], threads: int, names: Sequence[str], effort: Effort, results: Results) -> None:
    """Fill `results` part by part, so that an interrupted run leaves what it has."""
    with opened(OPENERS, threads, names) as (engines, left_out):
        found = [engine.name for engine in engines]
        results |= {"threads": threads, "machine": machine(), "left_out": left_out}
        results["engines"] = {engine.name: engine.version for engine in engines}
        tables.print_settings(results)
        rows = {
            "imports": imported(found, effort),
            "sequences": sequences(grid.sequences, engines, effort),
            "streams": streams(grid.streams, found, threads, effort),
            "training": trained(grid.training, found, effort),
            "starts": starts(grid.starts, engines, effort),
        }
        for part in parts:
            results[part] = []
            tables.print_rows(part, keep(rows[part], results[part]))
        results["machine"]["load_after"] = load()


def keep(rows: Iterable[Results], kept: list[Results]) -> Iterator[Results]:
    for row in rows:
        kept.append(row)
        yield row


def sequences(problems: Sequence[Problem], engines: Sequence[Engine], effort: Effort) -> Iterator[Results]:
    for problem in problems:
        runs = {engine.name: engine.sequence(problem) for engine in engines}
        errors = checked(problem, {name: problem.error(run()) for name, run in runs.items()})
        yield row_of(problem, settled(runs, rounds=effort.rounds, budget=effort.seconds), errors, problem.T)


def streams(problems: Sequence[Problem], engines: Sequence[str], threads: int, effort: Effort) -> Iterator[Results]:
    for problem in problems:
        of_each = steps(problem, engines, threads)
        errors = checked(problem, {name: problem.error(all_steps(step, problem)) for name, step in of_each.items()})
        calls = {name: partial(step, problem.x[0]) for name, step in of_each.items()}
        yield row_of(problem, settled(calls, rounds=effort.rounds, budget=effort.seconds), errors, 1)


def trained(problems: Sequence[Problem], engines: Sequence[str], effort: Effort) -> Iterator[Results]:
    with training.recording(engines):
        for problem in problems:
            runs, true = training.trainings(problem, engines), training.truth(problem)
            of_each = {name: training.errors(run(), true) for name, run in runs.items()}
            errors = checked(problem, {name: max(found.values()) for name, found in of_each.items()})
            row = row_of(problem, settled(runs, rounds=effort.rounds, budget=effort.seconds), errors, problem.T)
            us = row["us_per_step"]
            over = {name: us["torch"] / us[name] for name in training.OURS if {name, "torch"} <= us.keys()}
            yield row | {"torch_ratio": over, "error_of_each": of_each}


def starts(problems: Sequence[Problem], engines: Sequence[Engine], effort: Effort) -> Iterator[Results]:
    for problem in problems:
        found = first_calls(problem, engines, effort.repeat)
        yield size_of(problem) | {"seconds": {name: start._asdict() for name, start in found.items()}}


def imported(engines: Sequence[str], effort: Effort) -> Iterator[Results]:
    for name, figures in imports(engines, effort.repeat).items():
        yield {"name": name} | figures._asdict()


def checked(problem: Problem, errors: dict[str, float]) -> dict[str, float]:
    for name, error in errors.items():
        if not error <= AGREE:
            raise RuntimeError(f"{name} is off by {error:.1e} from the float64 reference on {problem}")
    return errors


def size_of(problem: Problem) -> Results:
    return {"cell": problem.cell, "B": problem.N, "T": problem.T, "I": problem.I, "H": problem.H}


def row_of(problem: Problem, timings: Mapping[str, Timing], errors: Mapping[str, float], steps: int) -> Results:
    us = {name: timing.seconds / steps * 1e6 for name, timing in timings.items()}
    peers = [name for name in us if not name.startswith("fastrnn")]
    best = min(peers, key=us.__getitem__, default=None)
    return size_of(problem) | {
        "us_per_step": us,
        "error": dict(errors),
        "processors": {name: timing.cpu for name, timing in timings.items()},
        "best_peer": best,
        "ratio": us[best] / us["fastrnn"] if best and "fastrnn" in us else None,
    }
