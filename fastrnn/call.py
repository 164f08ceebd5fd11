"""A call of a recurrent network: from the caller's arguments to `sequence.py`, and back to the caller's shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import sequence, validate
from .cells import CellSpec
from .sequence import Stack

if TYPE_CHECKING:  # imported when first used, so that `import fastrnn` costs little
    from .packing import PackedSequence

Array = NDArray[Any]


class Options(NamedTuple):
    """How a network is called, weights aside.

    Attributes
    ----------
    name : str
        Of the layer, for errors.
    dropout : float
        Applied in this call.
    rng : function
        Gives the generator that dropout draws from.
    """

    name: str
    batch_first: bool
    dropout: float
    rng: Callable[[], np.random.Generator]


class Arguments(NamedTuple):
    """Checked and brought into the form of `sequence.forward`, and what it takes to bring results back."""

    x: Array  # (T, N, I)
    h_0: Array | None  # (L*D, N, H_out)
    c_0: Array | None  # (L*D, N, C): all states but h, side by side
    lengths: NDArray[np.intp] | None
    reset: NDArray[np.bool_] | None
    batched: bool
    swap: bool  # the caller's axes are (N, T, ...)
    packed: PackedSequence | None = None
    running: NDArray[np.bool_] | None = None  # (T, N): elements of a padded array in the order of a pack

    def outer(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The caller's shape of what is (T, N, ·) here and not packed."""
        T, N, features = shape
        return (N, T, features) if self.swap else shape if self.batched else (T, features)


def call(
    stack: Stack,
    options: Options,
    x: ArrayLike | PackedSequence,
    hx: Any,
    *,
    lengths: ArrayLike | None,
    reset: ArrayLike | None,
    return_states: bool,
    out: Array | None,
) -> Any:
    """See `layers.recurrent_base.RecurrentBase.__call__`."""
    a = arguments(stack, options, x, hx, lengths, reset)
    y = None if out is None else _output_view(stack, out, a)
    result = sequence.forward(
        stack,
        a.x,
        a.h_0,
        a.c_0,
        lengths=a.lengths,
        reset=a.reset,
        dropout=options.dropout,
        rng=options.rng() if options.dropout else None,
        return_states=return_states,
        out=y,
    )
    output, final, states = returned(result, a, stack.sizes.spec)
    if out is not None:
        if not np.may_share_memory(output, out):
            out[...] = output
        output = out
    return (output, final) if states is None else (output, final, states)


# ---- the caller's arguments ---------------------------------------------------------------------------------------


def arguments(
    stack: Stack,
    options: Options,
    x: ArrayLike | PackedSequence,
    hx: Any,
    lengths: ArrayLike | None,
    reset: ArrayLike | None,
) -> Arguments:
    """Raises TypeError or ValueError where something is not as `RecurrentBase.__call__` describes."""
    if isinstance(x, tuple) and hasattr(x, "batch_sizes"):
        return _packed_arguments(stack, options, cast("PackedSequence", x), hx, lengths, reset)
    x = validate.real_array("x", cast(ArrayLike, x), stack.dtype)
    validate.rank(options.name, x)
    validate.features(x, stack.sizes.input_size)
    batched = x.ndim == 3
    swap = batched and options.batch_first
    if not batched:
        x = x[:, None]
    elif swap:
        x = x.swapaxes(0, 1)
    T, N, _ = x.shape
    if x.strides[2] != x.itemsize:
        x = np.ascontiguousarray(x)
    h_0, c_0 = states_of(stack, "hx", hx, N, batched)
    if lengths is not None:
        lengths = validate.lengths(lengths if batched else np.atleast_1d(lengths), T, N)
    if reset is not None:
        reset = validate.mask("reset", reset, (N, T) if swap else (T, N) if batched else (T,))
        reset = reset.T if swap else reset.reshape(T, N)
    return Arguments(x, h_0, c_0, lengths, reset, batched, swap)


def _packed_arguments(
    stack: Stack, options: Options, packed: PackedSequence, hx: Any, lengths: Any, reset: Any
) -> Arguments:
    for name, value in (("lengths", lengths), ("reset", reset)):
        if value is not None:
            raise ValueError(f"{name} should be None where x is a PackedSequence, got: {type(value).__name__}")
    data = validate.real_array("x.data", packed.data, stack.dtype)
    if data.ndim != 2:
        raise ValueError(f"{options.name}: Expected packed data to be 2D, got {data.ndim}D instead")
    validate.features(data, stack.sizes.input_size)
    N = int(packed.batch_sizes[0])
    running = np.arange(N) < np.asarray(packed.batch_sizes)[:, None]  # (T, N): packed order is this mask's order
    x = np.zeros((*running.shape, stack.sizes.input_size), stack.dtype)
    x[running] = data
    h_0, c_0 = (ordered(s, packed.sorted_indices) for s in states_of(stack, "hx", hx, N, True))
    return Arguments(x, h_0, c_0, running.sum(0).astype(np.intp), None, True, False, packed, running)


def ordered(state: Array | None, order: Any) -> Array | None:
    return state if state is None or order is None else state[:, order]


def states_of(stack: Stack, name: str, value: Any, N: int, batched: bool) -> tuple[Array | None, Array | None]:
    """hx, or d_state, as (L*D, N, H_out) and (L*D, N, C); in the tuple of a d_state None stands for zeros."""
    if value is None:
        return None, None
    sizes, states = stack.sizes, stack.sizes.spec.states
    n_stacked = len(stack.prepared)
    shape = (n_stacked, N, sizes.out_size) if batched else (n_stacked, sizes.out_size)
    if len(states) == 1:
        if isinstance(value, tuple):
            raise TypeError(f"{name} should be one array of shape {shape}, got: a tuple of {len(value)}")
        h = validate.real_array(name, value, stack.dtype)
        ranks = f"{name} should also be {len(shape)}-D but got {h.ndim}-D tensor"
        h = validate.hidden(name, h, shape, stack.dtype, batched=batched, ranks=ranks)
        return (h if batched else h[:, None]), None
    is_hx = name == "hx"
    if not isinstance(value, tuple | list) or len(value) != len(states):
        expected = ", ".join(f"{s}_0" if is_hx else f"d_{s}_n" for s in states)
        got = f"{type(value).__name__} of {len(value)}" if isinstance(value, tuple | list) else type(value).__name__
        raise TypeError(f"{name} should be a {'pair' if len(states) == 2 else 'tuple'} ({expected}), got: {got}")
    shapes = [shape] + [(*shape[:-1], sizes.hidden_size)] * (len(states) - 1)
    if not is_hx:
        value = [np.zeros(s, stack.dtype) if v is None else v for v, s in zip(value, shapes, strict=True)]
    names = [f"{name}[{i}]" for i in range(len(states))]
    parts = [validate.real_array(n, v, stack.dtype) for n, v in zip(names, value, strict=True)]
    if [part.shape for part in parts] != shapes:
        together = "hx and cx" if is_hx and len(states) == 2 else " and ".join(names)
        found = ", ".join(f"{part.ndim}-D" for part in parts)
        ranks = f"{together} should also be {len(shape)}-D but got ({found}) tensors"
        for n, part, s in zip(names, parts, shapes, strict=True):
            validate.hidden(n, part, s, stack.dtype, batched=batched, ranks=ranks)
    h, *others = parts
    c = others[0] if len(others) == 1 else np.concatenate(others, axis=-1)
    return (h, c) if batched else (h[:, None], c[:, None])


def check_out(stack: Stack, out: Any, a: Arguments) -> Array:
    """`out`, where it is as `RecurrentBase.__call__` describes it."""
    if a.packed is not None:
        raise ValueError(f"out should be None where x is a PackedSequence, got: {type(out).__name__}")
    shape = (*a.x.shape[:2], stack.sizes.directions * stack.sizes.out_size)
    return validate.out(out, a.outer(shape), stack.dtype)


def _output_view(stack: Stack, out: Any, a: Arguments) -> Array:
    """`out` as (T, N, D*H_out), or an array in its place where the kernels cannot write to it directly."""
    y = check_out(stack, out, a)
    y = y.swapaxes(0, 1) if a.swap else y[:, None] if not a.batched else y
    direct = y.strides[2] == y.itemsize and y.flags.aligned and not np.may_share_memory(y, a.x)
    return y if direct else np.empty(y.shape, stack.dtype)


# ---- and back -----------------------------------------------------------------------------------------------------


def returned(result: sequence.Result, a: Arguments, spec: CellSpec) -> tuple[Any, Any, sequence.States | None]:
    """Output, final state and all states in the caller's shapes."""
    y, h_n, c_n, states = result
    if a.packed is None and a.batched:
        return y.swapaxes(0, 1) if a.swap else y, h_n if c_n is None else (h_n, *spec.split_c(c_n)), states
    if states is not None:
        back = None if a.packed is None else a.packed.unsorted_indices
        rows: Any = 0 if not a.batched else slice(None) if back is None else back
        states = sequence.States(states.h[:, :, rows], None if states.c is None else states.c[:, :, rows])
    return sequence_back(y, a), state_back(h_n, c_n, a, spec), states


def sequence_back(y: Array, a: Arguments) -> Any:
    """(T, N, ·) as the caller has it: (N, T, ·), (T, ·) or packed."""
    if a.packed is not None:
        return type(a.packed)(y[a.running], *a.packed[1:])
    return y.swapaxes(0, 1) if a.swap else y if a.batched else y[:, 0]


def state_back(h: Array, c: Array | None, a: Arguments, spec: CellSpec) -> Any:
    """(L*D, N, ·) in the caller's order of rows, or (L*D, ·)."""
    if a.packed is not None and a.packed.unsorted_indices is not None:
        h, c = h[:, a.packed.unsorted_indices], None if c is None else c[:, a.packed.unsorted_indices]
    if not a.batched:
        h, c = h[:, 0], None if c is None else c[:, 0]
    return h if c is None else (h, *spec.split_c(c))
