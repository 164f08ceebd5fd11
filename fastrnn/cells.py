"""What a cell is: its gates in torch's order, its states. The single source for every other file."""

from __future__ import annotations

from collections.abc import Callable
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

    @property
    def kind(self) -> str:
        """``"RNN"``, ``"LSTM"`` or ``"GRU"``: the name of the layer."""
        return self.name.partition("_")[0].upper()


RNN_TANH = CellSpec("rnn_tanh", "h")
RNN_RELU = CellSpec("rnn_relu", "h")
LSTM = CellSpec("lstm", "ifgo", ("h", "c"))
GRU = CellSpec("gru", "rzn")

CELLS = {spec.name: spec for spec in (RNN_TANH, RNN_RELU, LSTM, GRU)}
NONLINEARITIES = {"tanh": RNN_TANH, "relu": RNN_RELU}


class Weights(NamedTuple):
    """The parameters of one layer in one direction, in torch's layout; None where there is none. Or their gradients."""

    w_ih: np.ndarray  # (G*H, I)
    w_hh: np.ndarray  # (G*H, H_out)
    b_ih: np.ndarray | None = None  # (G*H,)
    b_hh: np.ndarray | None = None  # (G*H,)
    w_hr: np.ndarray | None = None  # (P, H), LSTM with a projection only

    def each(self, function: Callable[[np.ndarray], np.ndarray]) -> Weights:
        """`function` of all that are there."""
        return Weights(**{name: function(w) for name, w in self._asdict().items() if w is not None})


class Sizes(NamedTuple):
    """What parameters a recurrent network has."""

    spec: CellSpec
    input_size: int
    hidden_size: int
    num_layers: int = 1
    directions: int = 1
    bias: bool = True
    proj_size: int = 0

    @property
    def out_size(self) -> int:
        """Features of one direction's output (H_out)."""
        return self.proj_size or self.hidden_size

    @property
    def fields(self) -> list[str]:
        """The fields of `Weights` that there are, in torch's order of the parameters."""
        return ["w_ih", "w_hh"] + ["b_ih", "b_hh"] * self.bias + ["w_hr"] * (self.proj_size > 0)

    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        """torch's names (``weight_ih_l0_reverse`` and so on) and shapes, by layer, then direction; in torch's order."""
        rows = self.spec.n_gates * self.hidden_size
        of_each = []
        for layer in range(self.num_layers):
            columns = self.directions * self.out_size if layer else self.input_size
            shapes = {
                "w_ih": (rows, columns),
                "w_hh": (rows, self.out_size),
                "b_ih": (rows,),
                "b_hh": (rows,),
                "w_hr": (self.proj_size, self.hidden_size),
            }
            for suffix in ("", "_reverse")[: self.directions]:
                of_each.append({f"{_NAMES[field]}_l{layer}{suffix}": shapes[field] for field in self.fields})
        return of_each


_NAMES = {"w_ih": "weight_ih", "w_hh": "weight_hh", "b_ih": "bias_ih", "b_hh": "bias_hh", "w_hr": "weight_hr"}
