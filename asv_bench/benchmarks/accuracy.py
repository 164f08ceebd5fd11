"""How far results are from the float64 reference."""

from __future__ import annotations

import numpy as np

import fastrnn

from .common import CELLS, layer, normal, use


class Accuracy:
    """The largest error, in float32 epsilons; outputs lie between -1 and 1."""

    params = (["cython"], CELLS, [16, 64, 256], [1, 8])
    param_names = ("backend", "cell", "H", "N")
    unit = "epsilons"

    def setup(self, backend: str, cell: str, H: int, N: int) -> None:
        use("reference")
        self.layer, self.x = layer(cell, H, H), normal(100, N, H)
        self.truth, _ = self.layer.astype("float64")(self.x)
        use(backend)

    def track_largest_error(self, backend: str, cell: str, H: int, N: int) -> float:
        y, _ = self.layer(self.x)
        return float(np.abs(y - self.truth).max() / np.finfo(np.float32).eps)


class Denormals:
    """A state that decays to nothing: a step should take no longer then."""

    params = (["cython"], [True, False])
    param_names = ("backend", "decaying")

    def setup(self, backend: str, decaying: bool) -> None:
        use(backend)
        self.layer = fastrnn.RNN(16, 64, nonlinearity="relu", bias=False, rng=0)
        for array in self.layer.parameters().values():
            array *= 0.5
        self.layer.parameters().changed()
        self.x = np.zeros((2000, 1, 16), np.float32)
        self.h_0 = np.full((1, 1, 64), 1.0 if decaying else 0.0, np.float32)

    def time_decay(self, backend: str, decaying: bool) -> None:
        self.layer(self.x, self.h_0)
