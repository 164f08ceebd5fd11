"""How far results are from the float64 reference."""

from __future__ import annotations

import numpy as np

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
