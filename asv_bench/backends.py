"""Time the backends cython and numba beside each other: one process, in turn, one thread, the same layers.

  python asv_bench/backends.py                     # forward, N = 1, float32 and float64
  python asv_bench/backends.py --train --rows 32
  python asv_bench/backends.py --step              # a step inside a user's compiled loop

Each result is held to the float64 reference first.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["FASTRNN_NUM_THREADS"] = "1"

import numpy as np

import fastrnn
from fastrnn.cli.timing import settled

CELLS = ("LSTM", "GRU", "RNN")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1, metavar="N", help="of the batch (default: 1)")
    parser.add_argument("--steps", type=int, default=100, metavar="T", help="of a sequence (default: 100)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128, 256], metavar="H", help="I = H")
    parser.add_argument("--train", action="store_true", help="forward and backward")
    parser.add_argument("--step", action="store_true", help="a step inside a user's compiled loop")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows = [row for dtype in ("float32", "float64") for cell in CELLS for row in timed(cell, dtype, args)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def timed(cell: str, dtype: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for H in args.sizes:
        layer = getattr(fastrnn, cell)(H, H, dtype=dtype, rng=0)
        x = np.random.default_rng(1).standard_normal((args.steps, args.rows, H)).astype(dtype)
        runs: dict[str, Callable[[], Any]]
        if args.step:
            runs = {"numba": compiled_loop(cell, layer, x[:, 0])}
        else:
            runs = {name: backend_run(name, layer, x, args.train) for name in ("cython", "numba")}
        us = {name: t.seconds / args.steps * 1e6 for name, t in settled(runs, rounds=args.rounds).items()}
        rows.append({"cell": cell, "dtype": dtype, "H": H, "N": args.rows, "T": args.steps, "us_per_step": us})
        ratio = f"{us['numba'] / us['cython']:6.2f}" if "cython" in us else ""
        print(f"{cell:4} {dtype} H={H:<4}", *(f"{name} {t:8.3f}" for name, t in us.items()), ratio, flush=True)
    return rows


def backend_run(name: str, layer: Any, x: Any, train: bool) -> Callable[[], Any]:
    with fastrnn.use_backend("reference"):
        true = layer(x)[0]

    def run() -> Any:
        with fastrnn.use_backend(name):
            if not train:
                return layer(x)[0]
            (y, _), backward = layer.vjp(x)
            backward(x)
            return y

    assert np.abs(run() - true).max() < 1e-4, name
    return run


def compiled_loop(cell: str, layer: Any, x: Any) -> Callable[[], Any]:
    from numba import njit

    step, packed = fastrnn.jit.step, fastrnn.jit.pack(layer)
    states = tuple(np.zeros(layer.hidden_size, x.dtype) for _ in range(2 if cell == "LSTM" else 1))

    @njit
    def loop(packed, x, states):  # type: ignore[no-untyped-def]
        for t in range(len(x)):
            step(packed, x[t], states)

    loop(packed, x, states)
    assert np.abs(states[0] - layer(x)[0][-1]).max() < 1e-4
    return lambda: loop(packed, x, states)


if __name__ == "__main__":
    main()
