"""One step of each optimizer beside torch's default, on this machine: a table in Markdown.

    python asv_bench/optimizers.py --threads 2
    python asv_bench/optimizers.py --dtype float64

In one process, in turn, medians; how: `fastrnn/cli/timing.py`. torch's own default on a CPU is its loop over
parameters. Without torch there are fastrnn's times alone.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from typing import Any

from benchmarks.optim import OPTIMIZERS, SHAPES, arrays

import fastrnn
from fastrnn.cli.timing import settled


def of_torch(name: str, options: dict[str, Any], shapes: str, dtype: str, threads: int) -> Callable[[], object]:
    import torch

    torch.set_num_threads(threads)
    params = [torch.nn.Parameter(torch.tensor(array)) for array in arrays(shapes, dtype, 0).values()]
    for p, gradient in zip(params, arrays(shapes, dtype, 1).values(), strict=True):
        p.grad = torch.tensor(gradient)
    step: Callable[[], object] = getattr(torch.optim, name)(params, **options).step
    return step


def of_fastrnn(name: str, options: dict[str, Any], shapes: str, dtype: str, threads: int) -> Callable[[], object]:
    fastrnn.set_num_threads(threads)
    optimizer, grads = getattr(fastrnn.optim, name)(arrays(shapes, dtype, 0), **options), arrays(shapes, dtype, 1)
    return lambda: optimizer.step(grads)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--quick", action="store_true", help="figures that only show that it works")
    args = parser.parse_args()
    engines = {"fastrnn": of_fastrnn}
    if importlib.util.find_spec("torch"):
        engines["torch"] = of_torch
    print(f"{args.threads} threads, {args.dtype}; ms for one step\n")
    print(f"| parameters | optimizer | {' | '.join(engines)} | torch / fastrnn |")
    print("|---" * (3 + len(engines)) + "|")
    for shapes in list(SHAPES)[1:2] if args.quick else SHAPES:
        for label, (name, options) in OPTIMIZERS.items():
            runs = {e: make(name, options, shapes, args.dtype, args.threads) for e, make in engines.items()}
            times = settled(runs, rounds=1 if args.quick else 7, budget=6.0)
            ms = " | ".join(f"{time.seconds * 1e3:.3g}" for time in times.values())
            ratio = f"{times['torch'].seconds / times['fastrnn'].seconds:.1f}" if "torch" in times else ""
            print(f"| {shapes} | {label} | {ms} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
