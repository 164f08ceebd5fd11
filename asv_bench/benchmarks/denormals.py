"""States that have decayed below 1.2e-38: with flushing, a step on them should take no longer than on any other."""

from __future__ import annotations

import numpy as np

import fastrnn

from .common import use


class Decayed:
    """A state that stays as it begins: as large as others, or denormal in every one of its steps."""

    params = (["cython"], ["normal", "denormal"], [True, False])
    param_names = ("backend", "state", "flush")

    def setup(self, backend: str, state: str, flush: bool) -> None:
        use(backend)
        fastrnn.set_flush_denormals(flush)
        self.layer = fastrnn.RNN(16, 64, nonlinearity="relu", bias=False, rng=0)
        self.layer.weight_hh_l0 = np.eye(64)
        self.x = np.zeros((2000, 1, 16), np.float32)
        self.h_0 = np.full((1, 1, 64), 1.0 if state == "normal" else 1e-39, np.float32)

    def teardown(self, backend: str, state: str, flush: bool) -> None:
        fastrnn.set_flush_denormals(True)

    def time_sequence(self, backend: str, state: str, flush: bool) -> None:
        self.layer(self.x, self.h_0)
