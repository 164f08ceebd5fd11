"""One call over a sequence."""

from __future__ import annotations

import numpy as np

from .common import BACKENDS, CELLS, layer, normal, use

T = 100


class Forward:
    """As many features as hidden units."""

    params = (BACKENDS, CELLS, [16, 64, 256, 512], [1, 32])
    param_names = ("backend", "cell", "H", "N")

    def setup(self, backend: str, cell: str, H: int, N: int) -> None:
        use(backend)
        self.layer, self.x = layer(cell, H, H), normal(T, N, H)
        self.layer(self.x)  # packs the weights

    def time_forward(self, backend: str, cell: str, H: int, N: int) -> None:
        self.layer(self.x)


class Memory:
    """A long sequence and a large batch: beside the arrays little may be needed."""

    params = (BACKENDS, CELLS, [(1000, 1), (20, 256)])
    param_names = ("backend", "cell", "T, N")

    def setup(self, backend: str, cell: str, size: tuple[int, int]) -> None:
        use(backend)
        self.layer, self.x = layer(cell, 128, 128), normal(*size, 128)

    def peakmem_forward(self, backend: str, cell: str, size: tuple[int, int]) -> None:
        self.layer(self.x)


class FewFeatures:
    """Audio, sensors: the input is narrow."""

    params = (["cython"], CELLS, [1, 4])
    param_names = ("backend", "cell", "I")

    def setup(self, backend: str, cell: str, I: int) -> None:
        use(backend)
        self.layer, self.x = layer(cell, I, 64), normal(1000, 1, I)
        self.layer(self.x)

    def time_few_features(self, backend: str, cell: str, I: int) -> None:
        self.layer(self.x)


class Ragged:
    """Rows of 0 to T steps, in no order."""

    params = (BACKENDS, CELLS)
    param_names = ("backend", "cell")

    def setup(self, backend: str, cell: str) -> None:
        use(backend)
        N = 32
        self.layer, self.x = layer(cell, 64, 64), normal(T, N, 64)
        self.lengths = np.random.default_rng(2).permutation(np.linspace(0, T, N).astype(np.intp))
        self.layer(self.x)

    def time_ragged(self, backend: str, cell: str) -> None:
        self.layer(self.x, lengths=self.lengths)


class FirstCall:
    """After the weights have changed: they are packed anew."""

    params = (["cython"], CELLS, [16, 256, 1024])
    param_names = ("backend", "cell", "H")

    def setup(self, backend: str, cell: str, H: int) -> None:
        use(backend)
        self.layer, self.x = layer(cell, H, H), normal(10, 1, H)

    def time_first_call(self, backend: str, cell: str, H: int) -> None:
        self.layer.parameters().changed()
        self.layer(self.x)
