"""What a cell is: its gates in torch's order, its states, its body. The single source for every other file."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import bodies


class CellSpec(NamedTuple):
    """One kind of recurrent cell.

    Attributes
    ----------
    name : str
        The name that kernels and backends know it by.
    gates : str
        One letter a gate, in the order in which torch stacks their rows in ``weight_ih`` and ``weight_hh``.
    states : tuple of str
        ``("h",)``, ``("h", "c")`` or more names.
    body : function
        ``body(gx, gh, s)``, or ``body(gx, gh, s, u)`` with unit weights: one step, elementwise, on tuples of arrays.
    backward : function or None
        Its gradients; None: derived from the body.
    unit_weights : int
        Weights that a hidden unit has for itself (U).
    recurrent : bool
        Whether there are ``weight_hh`` and ``bias_hh``; without them `gh` is empty.
    """

    name: str
    gates: str
    states: tuple[str, ...] = ("h",)
    body: Callable[..., Any] | None = None
    backward: Callable[..., Any] | None = None
    unit_weights: int = 0
    recurrent: bool = True

    @property
    def n_gates(self) -> int:
        return len(self.gates)

    @property
    def n_states(self) -> int:
        return len(self.states)

    @property
    def has_c(self) -> bool:
        """Whether there are states besides h."""
        return self.n_states > 1

    def split_c(self, c: Any) -> tuple[Any, ...]:
        """The states besides h, which lie side by side in c (..., (S-1)*H)."""
        if self.n_states == 2:
            return (c,)
        H = c.shape[-1] // (self.n_states - 1)
        return tuple(c[..., i * H : (i + 1) * H] for i in range(self.n_states - 1))

    def chain_rule(self) -> Callable[..., Any]:
        """`backward`, or what is derived in its place."""
        return self.backward or _derived(self)

    @property
    def custom(self) -> bool:
        """Whether it is a user's and not one of torch's."""
        return CELLS.get(self.name) != self

    @property
    def kind(self) -> str:
        """``"RNN"``, ``"LSTM"`` or ``"GRU"``: the name of the layer. Or that of the user's cell."""
        return self.name if self.custom else self.name.partition("_")[0].upper()


@lru_cache
def _derived(spec: CellSpec) -> Callable[..., Any]:
    from .derive import backward_of  # here, since hardly anyone needs it

    assert spec.body is not None
    return backward_of(spec.body, spec.n_gates, spec.n_states, spec.unit_weights, spec.recurrent)


RNN_TANH = CellSpec("rnn_tanh", "h", ("h",), bodies.rnn_tanh, bodies.rnn_tanh_backward)
RNN_RELU = CellSpec("rnn_relu", "h", ("h",), bodies.rnn_relu, bodies.rnn_relu_backward)
LSTM = CellSpec("lstm", "ifgo", ("h", "c"), bodies.lstm, bodies.lstm_backward)
GRU = CellSpec("gru", "rzn", ("h",), bodies.gru, bodies.gru_backward)

CELLS = {spec.name: spec for spec in (RNN_TANH, RNN_RELU, LSTM, GRU)}
NONLINEARITIES = {"tanh": RNN_TANH, "relu": RNN_RELU}


class Weights(NamedTuple):
    """The parameters of one layer in one direction, in torch's layout; None where there is none. Or their gradients."""

    w_ih: np.ndarray  # (G*H, I)
    w_hh: np.ndarray | None = None  # (G*H, H_out)
    b_ih: np.ndarray | None = None  # (G*H,)
    b_hh: np.ndarray | None = None  # (G*H,)
    w_hr: np.ndarray | None = None  # (P, H), LSTM with a projection only
    unit: np.ndarray | None = None  # (U, H)

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
    def c_size(self) -> int:
        """Features of all states but h, side by side."""
        return (self.spec.n_states - 1) * self.hidden_size

    @property
    def fields(self) -> list[str]:
        """The fields of `Weights` that there are, in torch's order of the parameters."""
        there = {
            "w_ih": True,
            "w_hh": self.spec.recurrent,
            "b_ih": self.bias,
            "b_hh": self.bias and self.spec.recurrent,
            "w_hr": self.proj_size > 0,
            "unit": self.spec.unit_weights > 0,
        }
        return [field for field in Weights._fields if there[field]]

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
                "unit": (self.spec.unit_weights, self.hidden_size),
            }
            for suffix in ("", "_reverse")[: self.directions]:
                of_each.append({f"{_NAMES[field]}_l{layer}{suffix}": shapes[field] for field in self.fields})
        return of_each


_NAMES = {
    "w_ih": "weight_ih",
    "w_hh": "weight_hh",
    "b_ih": "bias_ih",
    "b_hh": "bias_hh",
    "w_hr": "weight_hr",
    "unit": "weight_unit",
}
