"""One layer on one input, run by fastrnn and by the engines it is compared with, in the fastest way each offers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastrnn

from ..cells import CELLS

Array = NDArray[Any]

SPECS = {"RNN": CELLS["rnn_tanh"], "LSTM": CELLS["lstm"], "GRU": CELLS["gru"]}
ONNX_GATES = {"RNN": "h", "LSTM": "iofg", "GRU": "zrn"}
AGREE = 1e-4  # times max(1, largest value): further off is another layer, not rounding


@dataclass(frozen=True)
class Problem:
    """One layer in one direction, float32, and its input."""

    cell: str  # RNN, LSTM or GRU
    T: int
    N: int
    I: int  # noqa: E741
    H: int

    @cached_property
    def layer(self) -> Any:
        return getattr(fastrnn, self.cell)(self.I, self.H, rng=0)

    @cached_property
    def weights(self) -> dict[str, Array]:
        weights: dict[str, Array] = self.layer.state_dict()
        return weights

    @cached_property
    def x(self) -> Array:
        """(T, N, I)"""
        return np.random.default_rng(1).standard_normal((self.T, self.N, self.I), np.float32)

    def error(self, y: Array, steps: int | None = None) -> float:
        """How far `y` (T, N, H) is from the float64 reference, in its first `steps`; inf if it is something else.

        Raises
        ------
        ValueError
            `y` has another shape.
        """
        if y.shape != (self.T, self.N, self.H):
            raise ValueError(f"{self}: y should have shape {(self.T, self.N, self.H)}, got: {y.shape}")
        return float(np.abs(y[:steps] - self._truth(steps)).max())

    def agrees(self, error: float) -> bool:
        return error <= AGREE * max(1.0, float(np.abs(self._truth(None)).max()))

    def _truth(self, steps: int | None) -> Array:
        if "truth" not in self.__dict__:
            with fastrnn.use_backend("reference"):
                self.__dict__["truth"] = self.layer.astype("float64")(self.x[:steps])[0]
        return self.__dict__["truth"]
