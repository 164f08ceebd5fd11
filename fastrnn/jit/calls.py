"""Functions for users' own compiled code: steps, whole sequences, their gradients, and a linear layer.

Numba compiles the overloads for the types that it finds: they check these, and the code that they return the sizes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import overload

from . import backward_loop as _backward
from . import forward_loop as _forward
from .cell import compiled
from .lanes import address, alive, indices, reals
from .options import INNER, entry
from .packed import Gradients as Gradients
from .packed import Packed, PackedForTraining, PackedLinear
from .packed import pack as pack
from .packed import pack_linear as pack_linear
from .rows import copy_row
from .tile import COLUMNS, product

_MADE_BY = {
    Packed: "what fastrnn.jit.pack returns",
    PackedForTraining: "what fastrnn.jit.pack(layer, gradients=True) returns",
    PackedLinear: "what fastrnn.jit.pack_linear returns",
}


def _check_pack(p: Any, *kinds: type) -> None:
    if getattr(p, "instance_class", None) not in kinds:
        raise TypingError(f"p should be {_MADE_BY[kinds[0]]}, got: {p}")


def _check(p: Any, name: str, array: Any, ndim: int, written: bool = False) -> None:
    """That an array is of the dtype of p, and of that many axes; `_unit_stride` sees whether it can be used."""
    dtype = p.types[0].dtype
    if not isinstance(array, types.Array) or (array.dtype, array.ndim) != (dtype, ndim):
        raise TypingError(f"{name} should be an array of {dtype} with {ndim} axes, got: {array}")
    if written and not array.mutable:
        raise TypingError(f"{name} should not be read-only, got: {array}")


def _check_states(p: Any, what: str, states: Any, written: bool = True) -> None:
    names = p.types[0].spec.states
    if not isinstance(states, types.BaseTuple) or len(states) != len(names):
        raise TypingError(f"{what} should be a tuple of {len(names)} arrays, got: {states}")
    for name, state in zip(names, states, strict=True):
        _check(p, what.removesuffix("states").rstrip("_") + name, state, 1, written)


@njit(**INNER)
def _unit_stride(array):
    if array.size > 0 and array.shape[-1] > 1 and array.strides[-1] != array.itemsize:
        raise ValueError("arrays should be contiguous in their last axis")


def _step(p, x, states):
    """One step: see `step`."""


@overload(_step, jit_options=INNER)
def _step_of(p, x, states):
    _check_pack(p, Packed, PackedForTraining)
    _check(p, "x", x, 1)
    _check_states(p, "states", states)
    more = p.types[0].spec.n_states - 1

    def impl(p, x, states):
        cell, run = p.cell, _forward.run_at(p.run)
        if x.size != run.I:
            raise ValueError("x should have as many elements as the layer has input features")
        _unit_stride(x)
        for state in states:
            _unit_stride(state)
        h, h_now, rows = states[0], reals(cell, run.h_now), indices(run.rows)
        H_out = run.P if run.P else run.H
        if h.size != H_out:
            raise ValueError("h should have as many elements as the layer's output has features")
        rows[0] = address(x)
        gx, panels = reals(cell, run.gx), run.ldg // (cell.width * cell.VL)
        product(cell, 1, run.I, panels, reals(cell, run.w_ih), rows, reals(cell, run.b_ih), 0, gx, run.ldg)
        copy_row(h_now, reals(cell, address(h)), H_out)
        for j in range(more):
            if states[j + 1].size != run.H:
                raise ValueError("states besides h should have as many elements as the layer has hidden units")
            copy_row(reals(cell, run.c_now) + j * run.ldu, reals(cell, address(states[j + 1])), run.H)
        indices(run.h_rows)[0] = run.h_now
        indices(run.u_rows)[0] = run.u
        _forward.step(cell, run, gx, 0, 1, 0)
        copy_row(reals(cell, address(h)), h_now + run.ldh, H_out)
        for j in range(more):
            copy_row(reals(cell, address(states[j + 1])), reals(cell, run.c_now) + j * run.ldu, run.H)

    return impl


def _whole(p, x, states, y):
    """All steps: see `forward`."""


@overload(_whole, jit_options=INNER)
def _whole_of(p, x, states, y):
    _check_pack(p, Packed, PackedForTraining)
    _check(p, "x", x, 2)
    _check_states(p, "states", states)
    _check(p, "y", y, 2, written=True)
    more = p.types[0].spec.n_states - 1

    def impl(p, x, states, y):
        array = p.run.copy()
        run = _forward.run_at(array)
        _check_sizes(run, x, states[0], y)
        others = np.empty(more * run.H, x.dtype)
        _side_by_side(run.H, states, others)
        run.T = len(x)
        run.x, run.x_t = address(x), x.strides[0]
        run.y, run.y_t = address(y), y.strides[0]
        run.h, run.c = address(states[0]), address(others)
        _forward.forward(p.cell, array)
        alive(others)
        _apart(run.H, others, states)

    return impl


@njit(**INNER)
def _side_by_side(H, states, others):
    """The states besides h, copied into one array."""
    for j in range(1, len(states)):
        if states[j].size != H:
            raise ValueError("states besides h should have as many elements as the layer has hidden units")
        others[(j - 1) * H : j * H] = states[j]


@njit(**INNER)
def _apart(H, others, states):
    """And back."""
    for j in range(1, len(states)):
        states[j][:] = others[(j - 1) * H : j * H]


@njit(**INNER)
def _check_sizes(run, x, h, y):
    H_out = run.P if run.P else run.H
    _unit_stride(x)
    _unit_stride(h)
    _unit_stride(y)
    if x.shape[1] != run.I:
        raise ValueError("x should have as many columns as the layer has input features")
    if h.size != H_out:
        raise ValueError("h should have as many elements as the layer's output has features")
    if y.shape[0] != x.shape[0] or y.shape[1] != H_out:
        raise ValueError(
            "y (or dy) should have a row for each step, as many columns as the layer's output has features"
        )


def _whole_back(p, x, states, dy, d_states, dx):
    """All gradients: see `backward`."""


@overload(_whole_back, jit_options=INNER)
def _whole_back_of(p, x, states, dy, d_states, dx):
    _check_pack(p, PackedForTraining)
    _check(p, "x", x, 2)
    _check_states(p, "states", states, written=False)
    _check(p, "dy", dy, 2)
    _check_states(p, "d_states", d_states)
    _check(p, "dx", dx, 2, written=True)
    spec = p.types[0].spec
    more, same = spec.n_states - 1, bool(compiled(p.types[0]).sums_only) and p.types[3].types[3] != types.none

    def impl(p, x, states, dy, d_states, dx):
        array, back_array, T, y = p.run.copy(), p.back.copy(), len(x), np.empty(dy.shape, x.dtype)
        run, back = _forward.run_at(array), _backward.back_at(back_array)
        _check_sizes(run, x, states[0], dy)
        _unit_stride(d_states[0])
        _unit_stride(dx)
        if dx.shape != x.shape:
            raise ValueError("dx should have the shape of x")
        if d_states[0].size != states[0].size:
            raise ValueError("dh should have as many elements as h")
        h, others, d_others = states[0].copy(), np.empty(more * run.H, x.dtype), np.empty(more * run.H, x.dtype)
        _side_by_side(run.H, states, others)
        _side_by_side(run.H, d_states, d_others)
        others_0, c_all = others.copy(), np.empty((T, more * run.H), x.dtype)
        gates = np.empty((T, gates_width(p.cell, run.H)), x.dtype)
        # The sequence once more, since nothing was kept of it.
        run.T = back.T = T
        run.x = back.x = address(x)
        run.x_t = back.x_t = x.strides[0]
        run.y = back.y = address(y)
        run.y_t = back.y_t = y.strides[0]
        run.c_all = back.c_all = address(c_all)
        run.c_all_t = back.c_all_t = c_all.strides[0]
        run.gates = back.gates = address(gates)
        run.gates_t = back.gates_t = gates.strides[0]
        run.h, run.c = address(h), address(others)
        _forward.forward(p.cell, array)
        back.h, back.c = address(states[0]), address(others_0)
        back.dy, back.dy_t = address(dy), dy.strides[0]
        back.dx, back.dx_t = address(dx), dx.strides[0]
        back.dh, back.dc = address(d_states[0]), address(d_others)
        back.chunk_end = (T + back.steps - 1) // back.steps
        _backward.backward(p.cell, back_array)
        alive((y, h, others, others_0, c_all, gates))
        _apart(run.H, d_others, d_states)
        if same:
            p.gradients.bias_hh[:] = p.gradients.bias_ih

    return impl


@njit(**INNER)
def gates_width(cell, H):
    return (H + cell.VL - 1) // cell.VL * cell.VL * cell.G * (1 if cell.sums_only else 2)


def _linear(p, x, y):
    """See `linear`."""


@overload(_linear, jit_options=INNER)
def _linear_of(p, x, y):
    _check_pack(p, PackedLinear)
    _check(p, "x", x, 1)
    _check(p, "y", y, 1, written=True)

    def impl(p, x, y):
        I, O, w, b, z, row = p.run[0], p.run[1], p.run[2], p.run[3], p.run[4], p.run[5]
        if x.size != I or y.size != O:
            raise ValueError("x and y should have as many elements as the weight has columns and rows")
        _unit_stride(x)
        _unit_stride(y)
        indices(row)[0] = address(x)
        panels = (O + COLUMNS * p.tag.VL - 1) // (COLUMNS * p.tag.VL)
        out = reals(p.tag, z)
        product(COLUMNS, 1, I, panels, reals(p.tag, w), indices(row), reals(p.tag, b), 0, out, 0)
        copy_row(reals(p.tag, address(y)), out, O)

    return impl


def _only(kind: str) -> Any:
    """A function that says while compiling what p should be packed from."""

    def check(p):
        pass

    @overload(check, jit_options=INNER)
    def of(p):
        _check_pack(p, Packed, PackedForTraining)
        spec = p.types[0].spec
        if spec.custom or spec.kind != kind:
            raise TypingError(f"p should be packed from {kind}, got: {spec.name}{' of a user' * spec.custom}")
        return lambda p: None

    return check


_rnn, _lstm, _gru = _only("RNN"), _only("LSTM"), _only("GRU")


@entry
def step(p, x, states):
    """One step of any cell, a user's too: x (I,) -> the states, a tuple of arrays, h (H_out,) first, in place."""
    _step(p, x, states)


@entry
def rnn_step(p, x, h):
    """One step of RNN or RNNCell: x (I,) -> h (H,) in place."""
    _rnn(p)
    _step(p, x, (h,))


@entry
def lstm_step(p, x, h, c):
    """One step of LSTM or LSTMCell: x (I,) -> h (H_out,) and c (H,) in place."""
    _lstm(p)
    _step(p, x, (h, c))


@entry
def gru_step(p, x, h):
    """One step of GRU or GRUCell: x (I,) -> h (H,) in place."""
    _gru(p)
    _step(p, x, (h,))


@entry
def forward(p, x, states, y):
    """A whole sequence of any cell: x (T, I) -> y (T, H_out), and the states, as of `step`, in place."""
    _whole(p, x, states, y)


@entry
def rnn_forward(p, x, h, y):
    """A whole sequence of RNN or RNNCell: x (T, I) -> y (T, H), and h (H,) in place."""
    _rnn(p)
    _whole(p, x, (h,), y)


@entry
def lstm_forward(p, x, h, c, y):
    """A whole sequence of LSTM or LSTMCell: x (T, I) -> y (T, H_out), and h (H_out,) and c (H,) in place."""
    _lstm(p)
    _whole(p, x, (h, c), y)


@entry
def gru_forward(p, x, h, y):
    """A whole sequence of GRU or GRUCell: x (T, I) -> y (T, H), and h (H,) in place."""
    _gru(p)
    _whole(p, x, (h,), y)


@entry
def backward(p, x, states, dy, d_states, dx):
    """The gradients of a whole sequence of any cell.

    The sequence is run again from its initial states. From the gradients dy (T, H_out) of its output and d_states of
    its final states come dx (T, I), the gradients of the initial states in d_states, and those of the weights, which
    are added to ``p.gradients``. p: packed with ``gradients=True``.
    """
    _whole_back(p, x, states, dy, d_states, dx)


@entry
def rnn_backward(p, x, h_0, dy, dh, dx):
    """The gradients of `rnn_forward`, as of `backward`: dh (H,) is of the final state, then of the initial one."""
    _rnn(p)
    _whole_back(p, x, (h_0,), dy, (dh,), dx)


@entry
def lstm_backward(p, x, h_0, c_0, dy, dh, dc, dx):
    """The gradients of `lstm_forward`, as of `backward`: dh (H_out,), dc (H,) likewise."""
    _lstm(p)
    _whole_back(p, x, (h_0, c_0), dy, (dh, dc), dx)


@entry
def gru_backward(p, x, h_0, dy, dh, dx):
    """The gradients of `gru_forward`, as of `backward`: dh (H,) is of the final state, then of the initial one."""
    _gru(p)
    _whole_back(p, x, (h_0,), dy, (dh,), dx)


@entry
def linear(p, x, y):
    """``y = weight @ x + bias``: x (I,) -> y (O,), with p of `pack_linear`."""
    _linear(p, x, y)
