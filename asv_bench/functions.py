"""How exact the kernels' sigmoid and tanh are, in the run whose times are shown."""

from __future__ import annotations

import numpy as np

from fastrnn.backends import cython

EVERY = 1021  # of all float32 patterns: some four million values


def worst_ulp() -> dict[str, float]:
    """Largest error in ULP over every so many of the float32, where the true result is a normal number."""
    x = np.arange(0, 2**32, EVERY, np.uint64).astype(np.uint32).view(np.float32)
    x = x[np.isfinite(x)]
    wide = x.astype(np.float64)
    with np.errstate(over="ignore"):
        exact = {"sigmoid": 1 / (1 + np.exp(-wide)), "tanh": np.tanh(wide)}
    worst = {}
    for name, true in exact.items():
        y = x.copy()
        cython.kernels(y.dtype).apply(name, y)
        normal = np.abs(true) >= np.finfo(np.float32).tiny
        ulp = np.spacing(np.abs(true[normal]).astype(np.float32)).astype(np.float64)
        worst[name] = float(np.max(np.abs(y[normal] - true[normal]) / ulp))
    return worst
