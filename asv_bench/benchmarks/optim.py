"""One step of each optimizer. `optimizers.py` beside this folder times them beside torch's."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn

#: Parameters of an LSTM of two layers, many small ones, a single large one.
SHAPES = {
    "LSTM(256, 512, 2)": [*[(2048, 256), (2048, 512), (2048,), (2048,)], *[(2048, 512), (2048, 512), (2048,), (2048,)]],
    "50 arrays, 16 or 16x16": [(16, 16) if i % 2 else (16,) for i in range(50)],
    "1 array, 10 million": [(10_000_000,)],
}

OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}),
    "SGD momentum": ("SGD", {"momentum": 0.9}),
    "SGD nesterov, decay": ("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "Adam": ("Adam", {}),
    "Adam amsgrad, decay": ("Adam", {"amsgrad": True, "weight_decay": 0.01}),
    "AdamW": ("AdamW", {}),
    "RMSprop": ("RMSprop", {}),
    "RMSprop centered, momentum": ("RMSprop", {"centered": True, "momentum": 0.9}),
}


def arrays(shapes: str, dtype: str, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"p{i}": rng.standard_normal(shape).astype(dtype) for i, shape in enumerate(SHAPES[shapes])}


class Step:
    params = (list(OPTIMIZERS), list(SHAPES), [1, 2])
    param_names = ("optimizer", "parameters", "threads")

    def setup(self, optimizer: str, parameters: str, threads: int) -> None:
        fastrnn.set_num_threads(threads)
        name, options = OPTIMIZERS[optimizer]
        self.grads = arrays(parameters, "float32", 1)
        self.optimizer = getattr(fastrnn.optim, name)(arrays(parameters, "float32", 0), **options)
        self.optimizer.step(self.grads)

    def time_step(self, optimizer: str, parameters: str, threads: int) -> None:
        self.optimizer.step(self.grads)
