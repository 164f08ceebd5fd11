"""What several benchmarks share. Parameters never depend on what is installed: `use` skips what is not."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn

BACKENDS = ["cython", "reference"]
CELLS = ["LSTM", "GRU", "RNN"]


def use(backend: str) -> None:
    """Run on this backend with one thread.

    Raises
    ------
    NotImplementedError
        It cannot run here; asv skips the benchmark then.
    """
    try:
        fastrnn.set_backend(backend)
    except (ValueError, fastrnn.BackendError) as error:
        raise NotImplementedError(str(error)) from error
    fastrnn.set_num_threads(1)


def layer(cell: str, I: int, H: int) -> Any:
    return getattr(fastrnn, cell)(I, H, rng=0)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)
