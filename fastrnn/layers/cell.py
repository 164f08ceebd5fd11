"""RNNCell, LSTMCell and GRUCell: one step, with torch's arguments, shapes and parameter names."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..cells import GRU as GRU_SPEC
from ..cells import LSTM as LSTM_SPEC
from ..cells import CellSpec, Weights
from .base import Layer
from .recurrent import nonlinearity_spec

Array = NDArray[Any]


class Cell(Layer):
    """What the three cells share. Not constructed by users."""

    _fixed = ("input_size", "hidden_size", "nonlinearity", "bias")

    def __init__(
        self, spec: CellSpec, input_size: int, hidden_size: int, bias: bool, *, dtype: DTypeLike, device: str, rng: Any
    ) -> None:
        self._spec = spec
        self.input_size = validate.size("input_size", input_size)
        self.hidden_size = validate.size("hidden_size", hidden_size)
        self.bias = validate.flag("bias", bias)
        rows = spec.n_gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.input_size),
            "weight_hh": (rows, self.hidden_size),
        }
        if self.bias:
            shapes.update(bias_ih=(rows,), bias_hh=(rows,))
        super().__init__(shapes, dtype=dtype, device=device, rng=rng)

    def _init_bound(self) -> float:
        return float(1 / np.sqrt(self.hidden_size))

    def __call__(self, x: ArrayLike, hx: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x : (N, I) or (I,)
            Any real numbers; cast to the layer's dtype.
        hx : (N, H) or (H,), for LSTMCell a pair of these, optional
            The state before the step, zeros where not given.

        Returns
        -------
        h : (N, H) or (H,)
            LSTMCell: the pair (h, c).

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.
        """
        name = type(self).__name__
        x = validate.real_array("x", x, self._dtype)
        if x.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.ndim}D instead")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}")
        batched = x.ndim == 2
        rows = np.ascontiguousarray(x if batched else x[None])
        state = [np.zeros((len(rows), self.hidden_size), self._dtype) for _ in self._spec.states]
        for i, given in enumerate(self._given(hx)):
            state[i][...] = self._checked_state(i, given, batched, len(rows))
        backend, prepared = self._prepare("cell", lambda b: (b, b.prepare(self._spec, self._weights())))
        y = np.empty_like(state[0])
        backend.forward(prepared, rows[None], y[None], state[0], state[1] if self._spec.has_c else None)
        new = [s if batched else s[0] for s in state]
        return tuple(new) if self._spec.has_c else new[0]

    def _weights(self) -> Weights:
        return Weights(*self._params.values())

    def _given(self, hx: Any) -> tuple[Any, ...]:
        if hx is None:
            return ()
        if not self._spec.has_c:
            if isinstance(hx, tuple):
                raise TypeError(f"hx should be one array (N, {self.hidden_size}), got: a tuple of {len(hx)}")
            return (hx,)
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            got = f"{type(hx).__name__} of {len(hx)}" if isinstance(hx, tuple | list) else type(hx).__name__
            raise TypeError(f"hx should be a pair (h, c), got: {got}")
        return tuple(hx)

    def _checked_state(self, i: int, value: Any, batched: bool, N: int) -> Array:
        # torch calls the states hidden0 and hidden1, and hx[0] and hx[1] where the rank is wrong.
        a = validate.real_array(f"hx[{i}]" if self._spec.has_c else "hx", value, self._dtype)
        if a.ndim not in (1, 2):
            label = f"hx[{i}]" if self._spec.has_c else "hidden"
            raise ValueError(f"{type(self).__name__}: Expected {label} to be 1D or 2D, got {a.ndim}D instead")
        if a.ndim != 1 + batched:
            raise ValueError(f"hidden{i} should be {1 + batched}D like the input, got {a.ndim}D")
        if batched and len(a) != N:
            raise ValueError(f"Input batch size {N} doesn't match hidden{i} batch size {len(a)}")
        if a.shape[-1] != self.hidden_size:
            raise ValueError(f"hidden{i} has inconsistent hidden_size: got {a.shape[-1]}, expected {self.hidden_size}")
        return a

    def __repr__(self) -> str:
        text = f"{type(self).__name__}({self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += f", bias={self.bias}"
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            text += f", nonlinearity={self.nonlinearity}"
        return text + ")"


class RNNCell(Cell):
    """One step of an Elman network: ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : "tanh" or "relu"
    dtype, device, rng
        As in `RNN`.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.RNNCell.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        spec = nonlinearity_spec(nonlinearity)
        super().__init__(spec, input_size, hidden_size, bias, dtype=dtype, device=device, rng=rng)


class LSTMCell(Cell):
    """One step of long short-term memory; equations as in `LSTM` [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    dtype, device, rng
        As in `LSTM`.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.LSTMCell.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        super().__init__(LSTM_SPEC, input_size, hidden_size, bias, dtype=dtype, device=device, rng=rng)


class GRUCell(Cell):
    """One step of a gated recurrent unit; equations as in `GRU` [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    dtype, device, rng
        As in `GRU`.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.GRUCell.html
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        super().__init__(GRU_SPEC, input_size, hidden_size, bias, dtype=dtype, device=device, rng=rng)
