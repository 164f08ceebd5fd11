"""Layers packed for users' compiled code: named tuples that Numba takes as arguments."""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn, SupportsIndex

import numba
import numpy as np
from numba import types
from numba.extending import typeof_impl
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .._memory import Memory
from ..backends import flush_denormals
from ..layers.engine_layer import EngineLayer
from . import engine, packing
from .cell import Tag, linear_tag
from .forward_loop import Run
from .lanes import BYTES
from .tile import COLUMNS

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


def _typed(pack: Any) -> Any:
    """Note the pack's Numba type on its tag: to find out anew takes 13 us, in every call from Python."""
    pack[0].of_pack = types.NamedTuple(tuple(numba.typeof(field) for field in pack), type(pack))
    return pack


@typeof_impl.register(Packed)
@typeof_impl.register(PackedForTraining)
@typeof_impl.register(PackedLinear)
def _typeof(pack: Any, c: Any) -> Any:
    return pack[0].of_pack


def pack(layer: EngineLayer, index: int | None = None, *, gradients: bool = False) -> Any:
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

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> from fastrnn import jit
    >>> p, h = jit.pack(fastrnn.GRU(3, 4, rng=0)), np.zeros(4, np.float32)
    >>> jit.gru_step(p, np.ones(3, np.float32), h)       # from an @njit function too
    >>> bool(h.any())
    True
    """
    if not isinstance(layer, EngineLayer):
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
    run[Run._fields.index("flush")] = flush_denormals()  # of sequences; steps do not look at it
    held = _holding(run, forward, memory)
    if not validate.flag("gradients", gradients):
        return _typed(Packed(Tag(forward.tag.type), held))
    backward = engine.prepare_backward(layer._spec, weights)
    sums = engine.new_sums(backward)
    back, scratch = engine._back(backward, engine.CHUNK_STEPS, 1, 1)
    engine._fill(back, 0, False, (*(None,) * 12, *sums.arrays))
    found = engine.views(sums)
    apart = found.b_hh.copy() if found.b_hh is not None and backward.c.sums_only else found.b_hh
    of_weights = Gradients(found.w_ih, found.w_hh, found.b_ih, apart, found.w_hr, found.unit)
    held_back = _holding(back[0], backward, scratch, sums)
    return _typed(PackedForTraining(Tag(forward.tag.type), held, held_back, of_weights))


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

    Examples
    --------
    >>> import numpy as np
    >>> from fastrnn import jit
    >>> p, y = jit.pack_linear(np.array([[1.0, 2.0]], np.float32)), np.empty(1, np.float32)
    >>> jit.linear(p, np.ones(2, np.float32), y)
    >>> y
    array([3.], dtype=float32)
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
    held = _holding(np.array(sizes, np.intp), arrays, memory)
    linear: PackedLinear = _typed(PackedLinear(linear_tag(dtype, VL), held))
    return linear
