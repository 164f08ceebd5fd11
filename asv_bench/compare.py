"""Time fastrnn beside torch, onnxruntime, OpenVINO and JAX: in one process, in turn, on the same input and threads.

Engines that are not installed are left out. Each result is first held to the float64 reference. One thread runs on one
core; the time of a step is the median over rounds, in each of which every engine is given time to settle (see
fastrnn/cli/timing.py). The default takes under 20 minutes, --quick about two.

  python asv_bench/compare.py --json results.json --roofline --plot docs/img
  python asv_bench/compare.py --only cell=LSTM B=1 H=64,256
  python asv_bench/compare.py --parts training --json training.json --plot docs/img
  python asv_bench/compare.py --read results.json --plot docs/img
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

ENGINES = ("fastrnn", "torch", "onnxruntime", "openvino", "jax")
PARTS = ("imports", "sequences", "streams", "training", "starts")


def main() -> int:
    args = parsed()
    if not args.read:
        prepare_process(args.threads)
    # Only now: engines look at the environment and at their processors when they are imported.
    import grid
    import measure
    import tables

    results: dict[str, Any] = {}  # filled part by part: an interrupted run leaves what it has
    if args.read:
        results = read(args)
        tables.print_settings(results)
        for part in PARTS:
            tables.print_rows(part, results[part])
    else:
        chosen = grid.quick() if args.quick else grid.full() if args.full else grid.default()
        chosen = grid.filtered(chosen, dict(args.only))
        effort = measure.QUICK if args.quick else measure.THOROUGH
        try:
            measure.run(chosen, args.parts, args.threads, args.engines, effort, results)
        finally:
            write(results, args.json)
    tables.print_summary(results)
    show(args, results)
    return 0


def show(args: argparse.Namespace, results: dict[str, Any]) -> None:
    """What follows from the figures: the roofline and the plots."""
    if args.roofline:
        import roofline
        import tables

        if "roof" not in results:
            results["roof"] = roofline.measure(results["machine"]["caches"], results["threads"])._asdict()
            write(results, args.json)
        tables.print_roofline(results.get("sequences", []), roofline.from_dict(results["roof"]))
    if args.plot:
        import plots

        for path in plots.draw(results, args.plot):
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a few sizes, few rounds")
    size.add_argument("--full", action="store_true", help="every size")
    size.add_argument("--read", type=Path, metavar="FILE", help="take the figures from a file that --json wrote")
    only = parser.add_argument("--only", nargs="+", type=name_and_values, default=[], metavar="X=...")
    only.help = "cell=LSTM,GRU B=1 H=16,64 T=100 I=1"
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="(default: all)")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES, help="(default: all)")
    parser.add_argument("--threads", type=int, default=1, metavar="K", help="of each engine (default: 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures")
    parser.add_argument("--roofline", action="store_true", help="how far fastrnn is from what this machine can do")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the figures (needs matplotlib)")
    return parser.parse_args()


def name_and_values(text: str) -> tuple[str, list[str]]:
    """``B=1,32``"""
    name, _, values = text.partition("=")
    if name not in ("cell", "B", "T", "I", "H") or not values:
        raise argparse.ArgumentTypeError(f"expected cell=, B=, T=, I= or H= and values, got: {text!r}")
    return name, values.split(",")


def read(args: argparse.Namespace) -> dict[str, Any]:
    """The figures in a file, those that --parts and --only ask for."""
    results: dict[str, Any] = json.loads(args.read.read_text())
    for part in PARTS:
        rows = results.pop(part, []) if part in args.parts else []
        results[part] = [r for r in rows if all(str(r[name]) in values for name, values in args.only if name in r)]
    return results


def prepare_process(threads: int) -> None:
    """So many threads for everyone, on so many cores: not every engine can be told, but all see the affinity."""
    for name in ("OMP", "MKL", "OPENBLAS", "FASTRNN"):
        os.environ[f"{name}_NUM_THREADS"] = str(threads)
    os.environ |= {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) < threads:
            sys.exit(f"--threads {threads}: this process may use {len(cores)} cores")
        os.sched_setaffinity(0, cores[-threads:])  # the first core has most of the system's own work


def write(results: dict[str, Any], path: Path | None) -> None:
    if path is not None and results:
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
