"""Time a few layers on this machine, beside torch and onnxruntime where they are installed.

All run in this process, in turn, on the same input and with the same number of threads; a figure is the median of the
time of a call divided by its steps. Before that each result is held to the float64 reference: where one is something
else altogether, the exit status is 1. The repository's asv_bench/compare.py does the same at length, with more engines.

With --device cuda: every way through the GPU engine, on arrays that are on the GPU, beside torch where it is installed.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

from ..config import processor
from . import gpu, show
from .engines import AGREE, OPENERS, SPECS, Engine, Problem, opened
from .timing import Timing, settled
from .verify import positive

SIZES = ((1, 16), (1, 64), (1, 256), (32, 256))  # N, H; the input has H features
STEPS = 100
ROUNDS = 7
SECONDS = 3.0  # for one layer, where that is enough for three rounds


class Measured(NamedTuple):
    """One layer; figures by the name of the engine."""

    problem: Problem
    errors: dict[str, float]
    timings: dict[str, Timing]

    @property
    def us_per_step(self) -> dict[str, float]:
        return {name: timing.seconds / self.problem.T * 1e6 for name, timing in self.timings.items()}

    @property
    def ratio(self) -> float | None:
        """The time of the fastest of the others over ours."""
        others = [timing.seconds for name, timing in self.timings.items() if name != "fastrnn"]
        return min(others) / self.timings["fastrnn"].seconds if others else None

    @property
    def wrong(self) -> list[str]:
        return [name for name, error in self.errors.items() if not error <= AGREE]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--cell", choices=SPECS, help="only this one")
    parser.add_argument("--hidden", type=positive, metavar="H", help="only this hidden size")
    parser.add_argument("--batch", type=positive, metavar="N", help="only this many rows")
    parser.add_argument("--steps", type=positive, metavar="T", help=f"of a call (default: {STEPS}; on a GPU 512)")
    parser.add_argument("--threads", type=positive, metavar="K", help="of each engine (default: 1)")
    parser.add_argument("--rounds", type=positive, metavar="R", help=f"(default: {ROUNDS})")
    parser.add_argument("--alone", action="store_true", help="leave the other engines out")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--device", default="cpu", help="where: cpu (default), cuda or cuda:N")
    gpu.add_arguments(parser)


def execute(args: Namespace) -> int:
    if args.device != "cpu":
        refuse(args, ("threads", "rounds"), "of the CPU")
        return gpu.execute(args)
    refuse(args, gpu.OPTIONS, "for --device cuda")
    args.steps, args.threads, args.rounds = args.steps or STEPS, args.threads or 1, args.rounds or ROUNDS
    problems = chosen(args)
    measured = []
    with (
        opened(OPENERS, args.threads, ["fastrnn"] if args.alone else None) as (engines, left_out),
        show.progress("timing", len(problems), quiet=args.json) as advance,
    ):
        for problem in problems:
            measured.append(measure(problem, engines, args.rounds, SECONDS))
            advance(1)
    if args.json:
        print_json(args, engines, left_out, measured)
    else:
        print_rows(args, engines, left_out, measured)
    return 1 if any(m.wrong for m in measured) else 0


def refuse(args: Namespace, options: Sequence[str], what: str) -> None:
    for option in options:
        if getattr(args, option):
            raise ValueError(f"--{option} is {what} (see fastrnn bench --help)")


def chosen(args: Namespace) -> list[Problem]:
    sizes: Sequence[tuple[int, int]] = SIZES
    if args.batch or args.hidden:
        sizes = list(product([args.batch] if args.batch else [1, 32], [args.hidden] if args.hidden else [16, 64, 256]))
    return [Problem(cell, args.steps, N, H, H) for cell in ([args.cell] if args.cell else SPECS) for N, H in sizes]


def measure(problem: Problem, engines: Sequence[Engine], rounds: int, seconds: float) -> Measured:
    runs = {engine.name: engine.sequence(problem) for engine in engines}
    errors = {name: problem.error(run()) for name, run in runs.items()}
    return Measured(problem, errors, settled(runs, rounds=rounds, budget=seconds))


def print_rows(
    args: Namespace, engines: Sequence[Engine], left_out: dict[str, str], measured: Sequence[Measured]
) -> None:
    print(f"{processor()}, {show.plural(args.threads, 'thread')}, us per step of {args.steps}\n")
    names = [engine.name for engine in engines]
    columns = ["layer", ">batch", *(f">{name}" for name in names), ">fastrnn is", *(f">error: {n}" for n in names)]
    rows = []
    for m in measured:
        times = [f"{us:,.2f}" for us in m.us_per_step.values()]
        ahead = "" if m.ratio is None else f"{m.ratio:.2f}x"
        errors = [f"{error:.0e}" for error in m.errors.values()]
        rows.append([repr(m.problem.layer), m.problem.N, *times, ahead, *errors])
    show.print_table(columns, rows)
    print("\nfastrnn is: the time of the fastest of the others over ours. error: the largest, to the float64 reference")
    print("engines:    " + ", ".join(f"{engine.name} {engine.version}" for engine in engines))
    for name, why in left_out.items():
        print(f"left out:   {name}: {why}")
    for m in measured:
        if m.wrong:
            print(f"WRONG:      {m.problem.layer!r}, batch {m.problem.N}: {', '.join(m.wrong)}")


def print_json(
    args: Namespace, engines: Sequence[Engine], left_out: dict[str, str], measured: Sequence[Measured]
) -> None:
    show.print_json(
        {
            "processor": processor(),
            "threads": args.threads,
            "engines": {engine.name: engine.version for engine in engines},
            "left_out": left_out,
            "ok": not any(m.wrong for m in measured),
            "layers": [
                {
                    "layer": repr(m.problem.layer),
                    "cell": m.problem.cell,
                    "steps": m.problem.T,
                    "batch": m.problem.N,
                    "input_size": m.problem.I,
                    "hidden_size": m.problem.H,
                    "us_per_step": m.us_per_step,
                    "error": m.errors,
                    "processors": {name: timing.cpu for name, timing in m.timings.items()},
                    "ratio": m.ratio,
                }
                for m in measured
            ],
        }
    )
