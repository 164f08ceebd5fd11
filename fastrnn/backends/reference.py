"""The recurrence and its backprop through time as NumPy, to be read beside the equations; computes in float64.

Every other backend is held to it. Equations: torch.nn.RNN, torch.nn.LSTM and torch.nn.GRU of the PyTorch documentation;
each ``*_cell_backward`` is the chain rule over the function before it. Users' cells bring their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..cells import GRU, RNN_RELU, CellSpec, Weights
from ..symbols import python_function
from . import Record

Array = NDArray[Any]
Given = list[tuple[Array, ...]]

CHUNK_STEPS = sys.maxsize  # a sequence is never cut: between its steps, float32's states are float64


class Prepared(NamedTuple):
    spec: CellSpec
    weights: Weights  # float64
    dtype: np.dtype[Any]


def sigmoid(a: Array) -> Array:
    # Half a tanh: exact at both ends, and no overflow.
    return 0.5 * np.tanh(0.5 * a) + 0.5


def rnn_cell(spec: CellSpec, gx: Array, gh: Array) -> Array:
    a = gx + gh
    return np.where(a < 0, 0.0, a) if spec == RNN_RELU else np.tanh(a)


def rnn_cell_backward(spec: CellSpec, gx: Array, gh: Array, dh: Array) -> Array:
    """dh -> dgx, which is dgh as well."""
    a = gx + gh
    if spec == RNN_RELU:
        return np.where(a <= 0, 0.0, dh)  # 0 at 0, and NaN passes: as torch
    h = np.tanh(a)
    da: Array = dh * (1 - h**2)
    return da


def lstm_cell(gx: Array, gh: Array, c_prev: Array) -> tuple[Array, Array]:
    a_i, a_f, a_g, a_o = np.split(gx + gh, 4, axis=-1)
    c = sigmoid(a_f) * c_prev + sigmoid(a_i) * np.tanh(a_g)
    return sigmoid(a_o) * np.tanh(c), c


def lstm_cell_backward(gx: Array, gh: Array, c_prev: Array, dh: Array, dc: Array) -> tuple[Array, Array]:
    """dh, dc -> dgx, which is dgh as well, and dc_prev."""
    a_i, a_f, a_g, a_o = np.split(gx + gh, 4, axis=-1)
    i, f, g, o = sigmoid(a_i), sigmoid(a_f), np.tanh(a_g), sigmoid(a_o)
    tanh_c = np.tanh(f * c_prev + i * g)
    dc = dc + dh * o * (1 - tanh_c**2)
    da_i = dc * g * i * (1 - i)
    da_f = dc * c_prev * f * (1 - f)
    da_g = dc * i * (1 - g**2)
    da_o = dh * tanh_c * o * (1 - o)
    return np.concatenate([da_i, da_f, da_g, da_o], axis=-1), dc * f


def gru_cell(gx: Array, gh: Array, h_prev: Array) -> Array:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(gx, 3, axis=-1), np.split(gh, 3, axis=-1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    h: Array = (1 - z) * n + z * h_prev
    return h


def gru_cell_backward(gx: Array, gh: Array, h_prev: Array, dh: Array) -> tuple[Array, Array, Array]:
    """dh -> dgx, dgh, and what of dh_prev does not go through gh."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(gx, 3, axis=-1), np.split(gh, 3, axis=-1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    n = np.tanh(x_n + r * h_n)
    da_n = dh * (1 - z) * (1 - n**2)
    da_z = dh * (h_prev - n) * z * (1 - z)
    da_r = da_n * h_n * r * (1 - r)
    return np.concatenate([da_r, da_z, da_n], axis=-1), np.concatenate([da_r, da_z, da_n * r], axis=-1), dh * z


def prepare(spec: CellSpec, weights: Weights) -> Prepared:
    return Prepared(spec, weights.each(lambda w: w.astype(np.float64)), weights.w_ih.dtype)


def run_body(spec: CellSpec, given: Given) -> tuple[Array, Array | None]:
    """A user's cell: its body."""
    h_prev = given[2][0]
    h, *others = _plain(spec.body)(*given)
    return _joined([h], h_prev), _joined(others, h_prev)


def run_chain_rule(
    spec: CellSpec, given: Given, dh: Array, dc: Array | None
) -> tuple[Array, Array | None, Array, Array | None, Array | None]:
    """dh, dc -> dgx, dgh, what of dh_prev does not go through gh, dc_prev, and of unit weights each row's part."""
    ds = (dh,) if dc is None else (dh, *spec.split_c(dc))
    dgx, dgh, ds_prev, *du = _plain(spec.chain_rule())(*given, ds)
    return tuple(_joined(parts, dh) for parts in (dgx, dgh, ds_prev[:1], ds_prev[1:], du[0] if du else ()))


_plain = lru_cache(python_function)


def _given(
    spec: CellSpec, unit: Array | None, gx: Array, gh: Array | None, h_prev: Array, c_prev: Array | None
) -> Given:
    """The arguments of a body: tuples of arrays (n, H), of unit weights (H,)."""
    x_parts = tuple(np.split(gx, spec.n_gates, axis=-1))
    h_parts = () if gh is None else tuple(np.split(gh, spec.n_gates, axis=-1))
    states = (h_prev,) if c_prev is None else (h_prev, *spec.split_c(c_prev))
    return [x_parts, h_parts, states, *([] if unit is None else [tuple(unit)])]


def _joined(parts: Sequence[Any], like: Array) -> Any:
    """Side by side, None where there are none; a part may be one number for all rows and units."""
    return np.concatenate([np.broadcast_to(part, like.shape) for part in parts], axis=-1) if parts else None


class Step(NamedTuple):
    """One step of the rows that are running."""

    t: int
    running: Array  # bool (N,)
    h_prev: Array  # (n, H_out)
    c_prev: Array | None  # (n, C)
    gx: Array  # (n, G*H)
    gh: Array | None  # (n, G*H)
    u: Array | None  # (n, H): h before the projection, where there is one
    h: Array  # (n, H_out)
    c: Array | None


def _steps(
    prepared: Prepared,
    x: Array,
    h: Array,
    c: Array | None,
    lengths: Array | None,
    reset: Array | None,
    reverse: bool,
) -> Iterator[Step]:
    """All steps in the order in which they are run; h (N, H_out) and c (N, C), float64, are INOUT."""
    spec, w, _ = prepared
    T, N, _ = x.shape
    b_ih = 0.0 if w.b_ih is None else w.b_ih
    b_hh = 0.0 if w.b_hh is None else w.b_hh
    for t in reversed(range(T)) if reverse else range(T):
        running, first = _rows(t, N, lengths, reset)
        if not reverse:
            _zero(first, h, c)
        h_prev, c_prev = h[running], None if c is None else c[running]
        gx = x[t, running].astype(np.float64) @ w.w_ih.T + b_ih
        gh = None if w.w_hh is None else h_prev @ w.w_hh.T + b_hh
        u, c_new = None, None
        if spec.custom or gh is None:
            h_new, c_new = run_body(spec, _given(spec, w.unit, gx, gh, h_prev, c_prev))
        elif c_prev is not None:
            h_new, c_new = lstm_cell(gx, gh, c_prev)
            if w.w_hr is not None:
                u, h_new = h_new, h_new @ w.w_hr.T
        elif spec == GRU:
            h_new = gru_cell(gx, gh, h_prev)
        else:
            h_new = rnn_cell(spec, gx, gh)
        h[running] = h_new
        if c is not None:
            c[running] = c_new
        yield Step(t, running, h_prev, c_prev, gx, gh, u, h_new, c_new)
        if reverse:
            _zero(first, h, c)


def _rows(t: int, N: int, lengths: Array | None, reset: Array | None) -> tuple[Array, Array]:
    """Which rows are running at step t, and which of them begin an episode there."""
    running = np.ones(N, bool) if lengths is None else lengths > t
    return running, np.zeros(N, bool) if reset is None else reset[t] & running


def _zero(rows: Array, *states: Array | None) -> None:
    for state in states:
        if state is not None:
            state[rows] = 0


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
    gates: Array | None = None,
) -> None:
    """See `backends.Backend.forward`. `gates` has no width: `backward` computes everything again, in float64."""
    h_now, c_now = h.astype(np.float64), None if c is None else c.astype(np.float64)
    for step in _steps(prepared, x, h_now, c_now, lengths, reset, reverse):
        y[step.t, step.running] = step.h
        if c_all is not None:
            c_all[step.t, step.running] = step.c
    h[:] = h_now
    if c is not None:
        c[:] = c_now


def prepare_backward(spec: CellSpec, weights: Weights) -> Prepared:
    return prepare(spec, weights)


def gates_width(prepared: Prepared) -> int:
    return 0


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.empty(shape, dtype)


class Sums(NamedTuple):
    weights: Weights  # float64
    dtype: np.dtype[Any]


def new_sums(prepared: Prepared) -> Sums:
    return Sums(prepared.weights.each(np.zeros_like), prepared.dtype)


def weight_gradients(sums: Sums) -> Weights:
    return sums.weights.each(lambda w: w.astype(sums.dtype))


def backward(
    prepared: Prepared, record: Record, dy: Array | None, dh: Array, dc: Array | None, dx: Array | None, sums: Any
) -> None:
    """See `backends.Backend.backward`."""
    spec, w, _ = prepared
    x, N, reverse = record.x, len(record.h_0), record.reverse
    h, c = record.h_0.astype(np.float64), None if record.c_0 is None else record.c_0.astype(np.float64)
    steps = list(_steps(prepared, x, h, c, record.lengths, record.reset, reverse))
    dh_now, dc_now = dh.astype(np.float64), None if dc is None else dc.astype(np.float64)

    for step in reversed(steps):
        t, running = step.t, step.running
        _, first = _rows(t, N, record.lengths, record.reset)
        if reverse:
            _zero(first, dh_now, dc_now)
        dh_t = dh_now[running]
        if dy is not None:
            dh_t = dh_t + dy[t, running]
        dc_t = None if dc_now is None else dc_now[running]
        dgh: Array | None
        dh_prev: Array | float = 0.0
        dc_prev = dunit = None
        du = dh_t if w.w_hr is None else dh_t @ w.w_hr
        if spec.custom or step.gh is None:
            given = _given(spec, w.unit, step.gx, step.gh, step.h_prev, step.c_prev)
            dgx, dgh, dh_prev, dc_prev, dunit = run_chain_rule(spec, given, dh_t, dc_t)
        elif step.c_prev is not None and dc_t is not None:
            dgx, dc_prev = lstm_cell_backward(step.gx, step.gh, step.c_prev, du, dc_t)
            dgh = dgx
        elif spec == GRU:
            dgx, dgh, dh_prev = gru_cell_backward(step.gx, step.gh, step.h_prev, dh_t)
        else:
            dgx = dgh = rnn_cell_backward(spec, step.gx, step.gh, dh_t)
        dh_now[running] = dh_prev if w.w_hh is None else dh_prev + dgh @ w.w_hh
        if dc_now is not None:
            dc_now[running] = dc_prev
        if dx is not None:
            dx[t, running] = dgx @ w.w_ih
        if sums is not None:
            _add(sums.weights, step, x[t, running].astype(np.float64), dgx, dgh, dh_t, dunit)
        if not reverse:
            _zero(first, dh_now, dc_now)

    dh[:] = dh_now
    if dc is not None:
        dc[:] = dc_now


def _add(sums: Weights, step: Step, x: Array, dgx: Array, dgh: Array | None, dh: Array, dunit: Array | None) -> None:
    """One step's part of the gradients of the weights."""
    np.add(sums.w_ih, dgx.T @ x, out=sums.w_ih)
    if sums.b_ih is not None:
        np.add(sums.b_ih, dgx.sum(0), out=sums.b_ih)
    if sums.w_hh is not None and dgh is not None:
        np.add(sums.w_hh, dgh.T @ step.h_prev, out=sums.w_hh)
        if sums.b_hh is not None:
            np.add(sums.b_hh, dgh.sum(0), out=sums.b_hh)
    if sums.w_hr is not None:
        np.add(sums.w_hr, dh.T @ step.u, out=sums.w_hr)
    if sums.unit is not None and dunit is not None:
        np.add(sums.unit, dunit.sum(0).reshape(sums.unit.shape), out=sums.unit)
