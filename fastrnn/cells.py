"""What a cell is: its gates in torch's order, its states. The single source for every other file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class CellSpec(NamedTuple):
    """One kind of recurrent cell.

    Attributes
    ----------
    name : str
        The name that kernels and backends know it by.
    gates : str
        One letter a gate, in the order in which torch stacks their rows in ``weight_ih`` and ``weight_hh``.
    states : tuple of str
        ``("h",)`` or ``("h", "c")``.
    """

    name: str
    gates: str
    states: tuple[str, ...] = ("h",)

    @property
    def n_gates(self) -> int:
        return len(self.gates)

    @property
    def has_c(self) -> bool:
        return "c" in self.states


RNN_TANH = CellSpec("rnn_tanh", "h")
RNN_RELU = CellSpec("rnn_relu", "h")
LSTM = CellSpec("lstm", "ifgo", ("h", "c"))
GRU = CellSpec("gru", "rzn")

CELLS = {spec.name: spec for spec in (RNN_TANH, RNN_RELU, LSTM, GRU)}
NONLINEARITIES = {"tanh": RNN_TANH, "relu": RNN_RELU}


class Weights(NamedTuple):
    """The parameters of one layer in one direction, in torch's layout; None where there is none."""

    w_ih: np.ndarray  # (G*H, I)
    w_hh: np.ndarray  # (G*H, H_out)
    b_ih: np.ndarray | None = None  # (G*H,)
    b_hh: np.ndarray | None = None  # (G*H,)
    w_hr: np.ndarray | None = None  # (P, H), LSTM with a projection only


def parameter_names(layer: int, reverse: bool, *, bias: bool, projected: bool) -> list[str]:
    """torch's names of one layer and direction, in torch's order: ``weight_ih_l0_reverse`` and so on."""
    suffix = f"_l{layer}{'_reverse' if reverse else ''}"
    names = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * bias + ["weight_hr"] * projected
    return [name + suffix for name in names]
