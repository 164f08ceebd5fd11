"""One layer at work in many places: in forked processes, which inherit it, and in the threads of a pool.

python examples/workers.py
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np

import fastrnn

layer = fastrnn.LSTM(4, 32, num_layers=2, batch_first=True, rng=0)


def last_output(batch: np.ndarray) -> np.ndarray:
    """(N, T, 4) -> (N, 32)"""
    y, _ = layer(batch)
    return y[:, -1]


def main() -> None:
    batches = list(np.random.default_rng(0).normal(size=(8, 16, 50, 4)))
    here = [last_output(batch) for batch in batches]  # the parent has used the layer before it forks

    # Threads run the kernels side by side: they do not hold the GIL.
    with ThreadPoolExecutor(2) as pool:
        threads = list(pool.map(last_output, batches))

    # Where there is no fork, workers import this file and so make a layer of the same seed themselves.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as processes:
        forked = list(processes.map(last_output, batches))

    print(f"threads agree: {np.allclose(threads, here)}, processes ({method}) agree: {np.allclose(forked, here)}")


if __name__ == "__main__":
    main()
