"""The memory that forward + backward need beyond inputs and outputs: the highest that a fresh process had (Linux).

Inputs are x, dy and the weights; outputs are y, the final state and all gradients. One long sequence with
``checkpoint_every`` is to need less than 300 MB; of a batch without it, what is kept of each step and row is most.

  python asv_bench/memory.py --json memory.json
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

from compare import prepare_process
from tables import print_table
from training import MODULES, d_output

import fastrnn
from fastrnn.cli.engines import SPECS, Problem, imported

ENGINES = ("fastrnn", MODULES, "torch") if find_spec("torch") else ("fastrnn",)
WARM_UP = 16  # steps, that load and pack what is loaded and packed once


class Case(NamedTuple):
    engine: str
    cell: str
    T: int
    N: int
    H: int
    every: int | None = None  # checkpoint_every
    limit: float | None = None  # MB


def cases(engines: Sequence[str], quick: bool) -> list[Case]:
    long, T, N, H = (20_000, 200, 4, 64) if quick else (100_000, 2000, 32, 256)
    checkpointed = Case("fastrnn", "LSTM", long, 1, H, long // 100, 300.0)
    return [
        checkpointed,
        *(Case(engine, "LSTM", long, 1, H) for engine in engines),
        *(Case(engine, cell, T, N, H) for cell in SPECS for engine in engines),
    ]


def measured(case: Case) -> int:
    """Bytes, in a process that has done nothing else."""
    problem = Problem(case.cell, case.T, case.N, case.H, case.H)
    x, dy = problem.x, d_output(problem)
    run = (
        partial(fastrnn_vjp, problem, case.every) if case.engine == "fastrnn" else torch_autograd(problem, case.engine)
    )
    run(x[:WARM_UP], dy[:WARM_UP])
    Path("/proc/self/clear_refs").write_text("5")  # the highest is the highest from here on
    before = _status("VmRSS")
    outputs = run(x, dy)
    return _status("VmHWM") - before - sum(array.nbytes for array in outputs)


def _status(name: str) -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(f"{name}:") + 1]) << 10


def fastrnn_vjp(problem: Problem, every: int | None, x: Any, dy: Any) -> list[Any]:
    (y, state), backward = problem.layer.vjp(x, wrt=("x", "params"), checkpoint_every=every)
    grads = backward(dy)
    return [y, *(state if isinstance(state, tuple) else [state]), grads.x, *grads.params.values()]


def torch_autograd(problem: Problem, engine: str) -> Callable[[Any, Any], list[Any]]:
    torch, package = imported("torch"), imported("fastrnn.interop.torch" if engine == MODULES else "torch.nn")
    module = getattr(package, problem.cell)(problem.I, problem.H)

    def run(x: Any, dy: Any) -> list[Any]:
        leaves = (torch.from_numpy(x).requires_grad_(), *module.parameters())
        for leaf in leaves:
            leaf.grad = None
        y, state = module(leaves[0])
        y.backward(torch.from_numpy(dy))
        states = state if isinstance(state, tuple) else [state]
        return [y.detach(), *(s.detach() for s in states), *(leaf.grad for leaf in leaves)]

    return run


def rows(found: list[Case]) -> Iterator[dict[str, Any]]:
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for case, number in zip(found, pool.map(measured, found), strict=True):
            elements = number / (4 * case.T * case.N * case.H)
            yield case._asdict() | {"megabytes": number / 1e6, "per_step_and_row": elements}


def shown(row: dict[str, Any]) -> dict[str, str]:
    limit = row["limit"]
    verdict = "" if limit is None else f" (asked: < {limit:g})" if row["megabytes"] < limit else f" (MISSED {limit:g})"
    return {
        "": row["engine"],
        **{
            name: f"{row[key]:,}" if key == "T" else str(row[key])
            for name, key in (("cell", "cell"), ("T", "T"), ("B", "N"), ("I = H", "H"))
        },
        "checkpoint_every": str(row["every"] or ""),
        "MB": f"{row['megabytes']:,.0f}{verdict}",
        "elements per step and row": f"{row['per_step_and_row']:.2f} H",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, that show no more than that it works")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="(default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("memory.py needs Linux: it reads /proc/self/status")
    prepare_process(1)
    found = list(rows(cases(args.engines, args.quick)))
    print(f"fastrnn {fastrnn.__version__}: MB beyond inputs and outputs\n")
    print_table([shown(row) for row in found])
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
