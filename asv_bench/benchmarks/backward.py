"""Forward and backward: `vjp` and all gradients."""

from __future__ import annotations

import numpy as np

import fastrnn

from .common import BACKENDS, CELLS, layer, normal, use

T = 100


class Backward:
    """As many features as hidden units; the weights are packed, as where several batches go before a step."""

    params = (BACKENDS, CELLS, [16, 64, 256], [1, 32])
    param_names = ("backend", "cell", "H", "N")

    def setup(self, backend: str, cell: str, H: int, N: int) -> None:
        use(backend)
        self.layer, self.x = layer(cell, H, H), normal(T, N, H)
        self.layer.vjp(self.x)  # packs the weights

    def time_vjp_and_backward(self, backend: str, cell: str, H: int, N: int) -> None:
        _, backward = self.layer.vjp(self.x)
        backward(self.x)


class Options:
    """What the options cost: steps computed once more, and gradients kept apart."""

    params = (["cython"], CELLS, ["plain", "checkpoint_every", "per_sample"])
    param_names = ("backend", "cell", "option")

    def setup(self, backend: str, cell: str, option: str) -> None:
        use(backend)
        self.layer, self.x = layer(cell, 64, 64), normal(1024, 8, 64)
        self.every = 128 if option == "checkpoint_every" else None
        self.per_sample = option == "per_sample"
        self.layer.vjp(self.x)

    def time_options(self, backend: str, cell: str, option: str) -> None:
        _, backward = self.layer.vjp(self.x, checkpoint_every=self.every)
        backward(self.x, per_sample=self.per_sample)


class Vanishing:
    """A gradient that halves with every step back: as large as others, since each step adds to it; denormal in every
    step; or one that comes from the last step only and is denormal, then zero, after some 130 of them."""

    params = (["cython"], ["normal", "denormal", "vanishing"], [True, False])
    param_names = ("backend", "gradient", "flush")

    def setup(self, backend: str, gradient: str, flush: bool) -> None:
        use(backend)
        fastrnn.set_flush_denormals(flush)
        self.layer = fastrnn.RNN(64, 64, nonlinearity="relu", rng=0)
        self.layer.weight_hh_l0 = 0.5 * np.eye(64)
        self.layer.bias_ih_l0 = np.ones(64)  # states are positive: relu lets everything pass
        self.layer.bias_hh_l0 = np.zeros(64)
        self.x = np.zeros((1000, 1, 64), np.float32)
        self.d_output = np.full((1000, 1, 64), 1e-39 if gradient == "denormal" else 1.0, np.float32)
        if gradient == "vanishing":
            self.d_output[:-1] = 0.0
        self.layer.vjp(self.x)

    def teardown(self, backend: str, gradient: str, flush: bool) -> None:
        fastrnn.set_flush_denormals(True)

    def time_vjp_and_backward(self, backend: str, gradient: str, flush: bool) -> None:
        _, backward = self.layer.vjp(self.x)
        backward(self.d_output)


class Memory:
    """So many steps and rows that what is kept of each of them is most of what is needed."""

    params = (["cython"], CELLS, ["plain", "consume", "checkpoint_every"])
    param_names = ("backend", "cell", "option")

    def setup(self, backend: str, cell: str, option: str) -> None:
        use(backend)
        self.layer = getattr(fastrnn, cell)(128, 128, num_layers=2, rng=0)
        self.x = normal(1024, 32, 128)
        self.consume = option == "consume"
        self.every = 128 if option == "checkpoint_every" else None

    def peakmem_vjp_and_backward(self, backend: str, cell: str, option: str) -> None:
        _, backward = self.layer.vjp(self.x, consume=self.consume, checkpoint_every=self.every)
        backward(self.x)


class Kept:
    """What is kept between forward and backward for each step and row: x and y among it, of H elements each here."""

    params = (["cython"], CELLS)
    param_names = ("backend", "cell")
    unit = "times H elements"

    def setup(self, backend: str, cell: str) -> None:
        use(backend)
        self.layer, self.x = layer(cell, 256, 256), normal(T, 8, 256)

    def track_kept(self, backend: str, cell: str) -> float:
        _, backward = self.layer.vjp(self.x)
        (tape,) = backward._tapes
        arrays = [*tape.x]
        for segments in tape.segments:
            for segment in segments:
                arrays += [array for array in (segment.y, segment.c_all, segment.gates) if array is not None]
        return sum(array.nbytes for array in arrays) / self.x.nbytes
