"""``fastrnn bench --device cuda``: times on a GPU, and with --check all that has to hold there.

In order: the GPU, its driver and packages; every path of the engine beside the float64 reference; how long a hop
between multiprocessors takes; times of every path beside torch. This process never touches the GPU (see `worker`). What
is found is printed, and written to --output, as soon as it is there.
"""

from __future__ import annotations

import os
import time
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from math import inf, isfinite

from ...errors import BackendError
from ..verify import positive

PARTS = ("parity", "hops", "times")
BUDGET = {False: 8.0, True: 0.9}  # minutes; with --quick
OPTIONS = ("check", "only", "quick", "budget", "jobs", "output")  # of GPUs alone


def add_arguments(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("on a GPU, with --device cuda")
    group.add_argument("--check", action="store_true", help="also results beside the reference, and what a hop takes")
    group.add_argument("--only", type=parts, metavar="PARTS", help=f"some of the check: {','.join(PARTS)}")
    group.add_argument("--quick", action="store_true", help="little of everything, in less than a minute")
    group.add_argument("--budget", type=minutes, metavar="MINUTES", help="what is not done by then is left out (8)")
    group.add_argument(
        "--jobs",
        type=positive,
        metavar="K",
        help="processes side by side (half the processors, at most 8)",
    )
    group.add_argument("--output", metavar="FILE.json", help="write all that is found there, as it comes")


def parts(text: str) -> list[str]:
    chosen = [part.strip() for part in text.split(",")]
    for part in chosen:
        if part not in PARTS:
            raise ArgumentTypeError(f"expected some of {','.join(PARTS)}, got: {part!r}")
    return [part for part in PARTS if part in chosen]


def minutes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = inf
    if not (isfinite(value) and value > 0):
        raise ArgumentTypeError(f"expected minutes, got: {text!r}")
    return value


def execute(args: Namespace) -> int:
    from .environment import environment
    from .items import items_of
    from .report import Report
    from .worker import Item, Pool

    began = time.monotonic()
    choose_device(args.device)
    chosen = args.only or (list(PARTS) if args.check else ["times"])
    until = began + 60 * (args.budget or BUDGET[args.quick])
    report = Report(args)
    with Pool(args.jobs or max(1, min(8, (os.cpu_count() or 1) // 2))) as pool:
        (machine,) = pool.run([Item("environment", {}, environment)], until)
        if machine.verdict != "right":
            raise BackendError(machine.why.removeprefix("BackendError: "))
        report.machine(machine.values)
        for part in chosen:
            for found in pool.run(items_of(part, args), until):
                report.add(found)
    report.end(time.monotonic() - began)
    return 0 if report.ok else 1


def choose_device(device: str) -> None:
    """Let the processes that are started from here on see only that GPU.

    Raises
    ------
    ValueError
        `device` is no name of one.
    """
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ValueError(f"--device should be cpu, cuda or cuda:N, got: {device!r}")
    if colon and int(number):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [number] * (int(number) + 1)
        if int(number) >= len(names):
            raise BackendError(f"there is no device {device!r}: CUDA_VISIBLE_DEVICES is {visible}")
        os.environ["CUDA_VISIBLE_DEVICES"] = names[int(number)]
