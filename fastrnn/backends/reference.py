"""The recurrence as NumPy, to be read beside the equations; computes in float64. Every other backend is held to it.

Equations: torch.nn.RNN, torch.nn.LSTM and torch.nn.GRU of the PyTorch documentation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cells import GRU, RNN_RELU, CellSpec, Weights

Array = NDArray[Any]


class Prepared(NamedTuple):
    spec: CellSpec
    weights: Weights  # float64


def sigmoid(a: Array) -> Array:
    # Half a tanh: exact at both ends, and no overflow.
    return 0.5 * np.tanh(0.5 * a) + 0.5


def rnn_cell(spec: CellSpec, gx: Array, gh: Array) -> Array:
    a = gx + gh
    return np.where(a < 0, 0.0, a) if spec == RNN_RELU else np.tanh(a)


def lstm_cell(gx: Array, gh: Array, c_prev: Array) -> tuple[Array, Array]:
    a_i, a_f, a_g, a_o = np.split(gx + gh, 4, axis=-1)
    c = sigmoid(a_f) * c_prev + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(c), c


def gru_cell(gx: Array, gh: Array, h_prev: Array) -> Array:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(gx, 3, axis=-1), np.split(gh, 3, axis=-1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    h: Array = (1 - z) * n + z * h_prev
    return h


def prepare(spec: CellSpec, weights: Weights) -> Prepared:
    given = {name: w.astype(np.float64) for name, w in weights._asdict().items() if w is not None}
    return Prepared(spec, Weights(**given))


def forward(
    prepared: Prepared,
    x: Array,
    y: Array,
    h: Array,
    c: Array | None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    c_all: Array | None = None,
) -> None:
    """See `backends.Backend.forward`."""
    spec, w = prepared
    T, N, _ = x.shape
    lengths = np.full(N, T) if lengths is None else lengths
    reset = np.zeros((T, N), bool) if reset is None else reset
    b_ih = 0.0 if w.b_ih is None else w.b_ih
    b_hh = 0.0 if w.b_hh is None else w.b_hh
    h_now = h.astype(np.float64)  # (N, H_out)
    c_now = None if c is None else c.astype(np.float64)  # (N, H)

    for t in reversed(range(T)) if reverse else range(T):
        running = lengths > t
        if not reverse:
            _zero(reset[t] & running, h_now, c_now)
        h_prev = h_now[running]
        gx = x[t, running].astype(np.float64) @ w.w_ih.T + b_ih
        gh = h_prev @ w.w_hh.T + b_hh
        if c_now is not None:
            h_new, c_now[running] = lstm_cell(gx, gh, c_now[running])
            h_new = h_new if w.w_hr is None else h_new @ w.w_hr.T
        elif spec == GRU:
            h_new = gru_cell(gx, gh, h_prev)
        else:
            h_new = rnn_cell(spec, gx, gh)
        h_now[running] = h_new
        y[t, running] = h_new
        if c_all is not None and c_now is not None:
            c_all[t, running] = c_now[running]
        if reverse:
            _zero(reset[t] & running, h_now, c_now)

    h[:] = h_now
    if c is not None:
        c[:] = c_now


def _zero(rows: Array, *states: Array | None) -> None:
    for state in states:
        if state is not None:
            state[rows] = 0
