"""Functions for users' own compiled code: steps, whole sequences, their gradients, and a linear layer."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, SupportsIndex

import numpy as np
from numba import njit, types
from numba.core.errors import TypingError
from numba.extending import overload
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .._memory import Memory
from ..backends import Record, flush_denormals
from ..layers.base import Layer
from . import backward_loop as _backward
from . import engine, packing
from . import forward_loop as _forward
from .cell import Tag, compiled, linear_tag
from .lanes import BYTES, address, alive, copy_row, indices, reals
from .options import INNER, entry
from .tile import COLUMNS, product

Array = NDArray[Any]


class _Held:
    """What arrays of addresses point to, kept alive by them: the base of such an array."""

    def __init__(self, numbers: NDArray[np.intp], *kept: Any) -> None:
        self.__array_interface__ = numbers.__array_interface__
        self.kept = numbers, *kept


def _holding(numbers: NDArray[np.intp], *kept: Any) -> NDArray[np.intp]:
    return np.asarray(_Held(numbers, *kept))


def _refuse() -> NoReturn:
    raise TypeError("packed weights cannot be copied or pickled; call fastrnn.jit.pack again")


class Packed(NamedTuple):
    """One layer in one direction, packed, and scratch memory; made by `pack`. It belongs to one thread."""

    cell: Tag
    run: NDArray[np.intp]  # forward_loop.Run

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        _refuse()


class Gradients(NamedTuple):
    """To what `backward` functions add: arrays in torch's layout, None where the layer has no such parameter."""

    weight_ih: Array  # (G*H, I)
    weight_hh: Array | None  # (G*H, H_out)
    bias_ih: Array | None  # (G*H,)
    bias_hh: Array | None  # (G*H,)
    weight_hr: Array | None  # (P, H)
    weight_unit: Array | None  # (U, H)


class PackedForTraining(NamedTuple):
    """The same with gradients; made by ``pack(layer, gradients=True)``."""

    cell: Tag
    run: NDArray[np.intp]
    back: NDArray[np.intp]  # backward_loop.Back
    gradients: Gradients

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        _refuse()


class PackedLinear(NamedTuple):
    """A weight and a bias, packed, and scratch memory; made by `pack_linear`. It belongs to one thread."""

    tag: Tag
    run: NDArray[np.intp]  # I, O, and addresses of w, b, z, a row

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        _refuse()


_AT = {name: i for i, name in enumerate(_forward.Run._fields)}
_X, _Y, _H, _C, _C_ALL, _GATES, _T, _I_SIZE, _H_SIZE, _P_SIZE, _FLUSH = (
    _AT[name] for name in ("x", "y", "h", "c", "c_all", "gates", "T", "I", "H", "P", "flush")
)
_BACK = {name: i for i, name in enumerate(_backward.Back._fields)}
_B_X, _B_Y, _B_H, _B_C, _B_C_ALL, _B_GATES, _B_DY, _B_DX, _B_DH, _B_DC, _B_T, _B_STEPS, _B_CHUNK_END = (
    _BACK[name] for name in ("x", "y", "h", "c", "c_all", "gates", "dy", "dx", "dh", "dc", "T", "steps", "chunk_end")
)


# ---- packing ------------------------------------------------------------------------------------------------------


def pack(layer: Layer, index: int | None = None, *, gradients: bool = False) -> Any:
    """The weights of a layer for the functions of this module.

    Parameters
    ----------
    layer : RNN, LSTM, GRU, Recurrent, RNNCell, LSTMCell or GRUCell
    index : int, optional
        Which of its layers and directions, counted as the first axis of ``h_0`` counts them; needed where there are
        several.
    gradients : bool
        Make arrays of zeros too, to which `rnn_backward` and the like add: the result's ``gradients``.

    Returns
    -------
    Packed or PackedForTraining
        A named tuple that compiled functions take as an argument. It is a copy: later changes of the layer do not reach
        it. It holds scratch memory, so each thread needs its own.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.
    """
    if not isinstance(layer, Layer) or not hasattr(layer, "hidden_size"):
        raise TypeError(f"layer should be a recurrent layer or cell of fastrnn, got: {type(layer).__name__}")
    of_all = layer._weights()
    if index is None and len(of_all) > 1:
        raise ValueError(f"index should say which of {len(of_all)} layers and directions of {layer!r}, got: None")
    i = 0 if index is None else validate.integer("index", index)
    if not 0 <= i < len(of_all):
        raise ValueError(f"index should be in 0..{len(of_all) - 1}, got: {i}")
    weights = of_all[i]
    forward = engine.prepare(layer._spec, weights)
    run, memory = engine._run(forward, engine.LONG, 1)
    run[_FLUSH] = flush_denormals()  # of sequences; steps do not look at it
    held = _holding(run, forward, memory)
    if not validate.flag("gradients", gradients):
        return Packed(forward.tag, held)
    backward = engine.prepare_backward(layer._spec, weights)
    sums = engine.new_sums(backward)
    any_array = np.empty((engine.LONG, 1, forward.I), layer.dtype)  # addresses are written down with each call
    record = Record(any_array, any_array, any_array, *(None,) * 5, False)
    back, scratch = engine._back(backward, record, None, any_array, None, any_array, sums, 1)
    found = engine.views(sums)
    apart = found.b_hh.copy() if found.b_hh is not None and backward.c.sums_only else found.b_hh
    return PackedForTraining(
        forward.tag,
        held,
        _holding(back[0], backward, scratch, sums),
        Gradients(found.w_ih, found.w_hh, found.b_ih, apart, found.w_hr, found.unit),
    )


def pack_linear(weight: ArrayLike, bias: ArrayLike | None = None) -> PackedLinear:
    """A weight and a bias, as those of torch.nn.Linear, for `linear`.

    Parameters
    ----------
    weight : (O, I)
        float32 or float64; anything else is taken as float32.
    bias : (O,), optional

    Returns
    -------
    PackedLinear
        As `pack` returns: a copy, for one thread.
    """
    dtype = np.dtype(np.float64 if getattr(weight, "dtype", None) == np.float64 else np.float32)
    w = validate.real_array("weight", weight, dtype)
    if w.ndim != 2:
        raise ValueError(f"weight should have shape (O, I), got: {w.shape}")
    b = np.zeros(len(w), dtype) if bias is None else validate.real_array("bias", bias, dtype)
    if b.shape != (len(w),):
        raise ValueError(f"bias should have shape ({len(w)},), got: {b.shape}")
    VL = BYTES // dtype.itemsize
    arrays = packing.gate_weights(w, 1, VL, COLUMNS), packing.gate_bias(b, 1, VL, COLUMNS)
    (z, row), total = engine._places([arrays[1].nbytes, 8])
    memory = Memory(total)
    sizes = *w.shape[::-1], *engine._addresses(arrays), memory.address + z, memory.address + row
    return PackedLinear(linear_tag(dtype, VL), _holding(np.array(sizes, np.intp), arrays, memory))


# ---- what users' compiled functions call --------------------------------------------------------------------------
# Numba compiles the overloads for the types that it finds: they check these, and the code that they return the sizes.


_MADE_BY = {
    Packed: "what fastrnn.jit.pack returns",
    PackedForTraining: "what fastrnn.jit.pack(layer, gradients=True) returns",
    PackedLinear: "what fastrnn.jit.pack_linear returns",
}


def _check_pack(p: Any, *kinds: type) -> None:
    if getattr(p, "instance_class", None) not in kinds:
        raise TypingError(f"p should be {_MADE_BY[kinds[0]]}, got: {p}")


def _check(p: Any, name: str, array: Any, ndim: int, written: bool = False) -> None:
    """That an array is contiguous, of the dtype of p, and of that many axes."""
    wanted = types.Array(p.types[0].dtype, ndim, "C")
    if not isinstance(array, types.Array) or array.copy(readonly=False) != wanted:
        raise TypingError(f"{name} should be {wanted}, got: {array}")
    if written and not array.mutable:
        raise TypingError(f"{name} should not be read-only, got: {array}")


def _check_states(p: Any, what: str, states: Any, written: bool = True) -> None:
    names = p.types[0].spec.states
    if not isinstance(states, types.BaseTuple) or len(states) != len(names):
        raise TypingError(f"{what} should be a tuple of {len(names)} arrays, got: {states}")
    for name, state in zip(names, states, strict=True):
        _check(p, what.removesuffix("states").rstrip("_") + name, state, 1, written)


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
        run, H = p.run.copy(), p.run[_H_SIZE]
        _check_sizes(p.run, x, states[0], y)
        others = np.empty(more * H, x.dtype)
        for j in range(more):
            if states[j + 1].size != H:
                raise ValueError("states besides h should have as many elements as the layer has hidden units")
            others[j * H : (j + 1) * H] = states[j + 1]
        run[_T] = len(x)
        run[_X], run[_X + 1] = address(x), x.strides[0]
        run[_Y], run[_Y + 1] = address(y), y.strides[0]
        run[_H], run[_C] = address(states[0]), address(others)
        _forward.forward(p.cell, run)
        alive(others)
        for j in range(more):
            states[j + 1][:] = others[j * H : (j + 1) * H]

    return impl


@njit(**INNER)
def _check_sizes(run, x, h, y):
    H_out = run[_P_SIZE] if run[_P_SIZE] else run[_H_SIZE]
    if x.shape[1] != run[_I_SIZE]:
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
        run, back, T, H = p.run.copy(), p.back.copy(), len(x), p.run[_H_SIZE]
        y = np.empty(dy.shape, x.dtype)
        _check_sizes(p.run, x, states[0], y)
        if dx.shape != x.shape:
            raise ValueError("dx should have the shape of x")
        if d_states[0].size != states[0].size:
            raise ValueError("dh should have as many elements as h")
        h, others = states[0].copy(), np.empty(2 * more * H, x.dtype)
        d_others, c_all = np.empty(more * H, x.dtype), np.empty((T, more * H), x.dtype)
        gates = np.empty((T, gates_width(p.cell, H)), x.dtype)
        for j in range(more):
            if states[j + 1].size != H or d_states[j + 1].size != H:
                raise ValueError("states besides h should have as many elements as the layer has hidden units")
            for i in range(H):
                others[j * H + i] = others[(more + j) * H + i] = states[j + 1][i]
                d_others[j * H + i] = d_states[j + 1][i]
        # The sequence once more, since nothing was kept of it.
        run[_T] = back[_B_T] = T
        run[_X] = back[_B_X] = address(x)
        run[_X + 1] = back[_B_X + 1] = x.strides[0]
        run[_Y] = back[_B_Y] = address(y)
        run[_Y + 1] = back[_B_Y + 1] = y.strides[0]
        run[_H], run[_C] = address(h), address(others)
        run[_C_ALL] = back[_B_C_ALL] = address(c_all)
        run[_C_ALL + 1] = back[_B_C_ALL + 1] = c_all.strides[0]
        run[_GATES] = back[_B_GATES] = address(gates)
        run[_GATES + 1] = back[_B_GATES + 1] = gates.strides[0]
        _forward.forward(p.cell, run)
        back[_B_H], back[_B_C] = address(states[0]), address(others) + more * H * x.itemsize
        back[_B_DY], back[_B_DY + 1] = address(dy), dy.strides[0]
        back[_B_DX], back[_B_DX + 1] = address(dx), dx.strides[0]
        back[_B_DH], back[_B_DC] = address(d_states[0]), address(d_others)
        back[_B_CHUNK_END] = (T + back[_B_STEPS] - 1) // back[_B_STEPS]
        _backward.backward(p.cell, back)
        alive(y), alive(h), alive(c_all), alive(gates)
        for j in range(more):
            d_states[j + 1][:] = d_others[j * H : (j + 1) * H]
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
