"""Calls of layers on a GPU: `fastrnn.call`, `fastrnn.vjp` and cells' steps, with arrays of NumPy's or on the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from .. import sequence as host
from .. import validate
from .. import vjp as host_vjp
from ..call import Arguments, Options, arguments, check_out, returned
from ..cells import Sizes, Weights
from ..sequence import Stack
from . import elementwise, runtime, sequence
from .arrays import Port, overlap, port
from .runtime import Array, Device
from .stream import Stream as Stream
from .tape import Tape


def device_of(name: str) -> Device:
    """The GPU of a name like ``"cuda:0"``.

    Raises
    ------
    BackendError
        It cannot be used.
    """
    return runtime.device(int(name.removeprefix("cuda:")))


def stack(device: str, sizes: Sizes, dtype: np.dtype[Any], weights: Sequence[Weights]) -> Stack:
    """What the functions here take: the weights, by layer, then direction, are copied to the GPU."""
    gpu, D = device_of(device), sizes.directions
    with gpu:
        layers = [sequence.Prepared(gpu, sizes.spec, weights[i : i + D]) for i in range(0, len(weights), D)]
    return Stack(sizes, dtype, [layer for layer in layers for _ in range(D)], gpu)  # type: ignore[arg-type]


# ---- a call ---------------------------------------------------------------------------------------------------------


def call(
    stack: Stack,
    options: Options,
    x: Any,
    hx: Any,
    *,
    lengths: Any,
    reset: Any,
    return_states: bool,
    out: Any,
) -> Any:
    """See `fastrnn.call.call`."""
    device, spec = _device(stack), stack.sizes.spec
    with device:
        way = port(device, stack.dtype, x=x, hx=hx, lengths=lengths, reset=reset, out=out)
        a, given, rows = _entered(way, stack, options, x, hx, lengths, reset)
        if out is not None:
            check_out(stack, way.look("out", out), a)
        in_place = out is not None and way.library is not None
        y, to = _in_place(way, a) if in_place else (_output(way, stack, a), None)
        result = sequence.forward(
            stack,
            way.stream,
            *given,
            y,
            rows,
            way.empty,
            dropout=options.dropout,
            rng=options.rng() if options.dropout else None,
            return_states=return_states,
        )
        if to is not None:
            way.stream.copy(to, y)

        def shaped(found: host.Result) -> Any:
            output, *others = returned(found, a, spec)
            return None if in_place else output, *others

        output, final, states = way.leave(shaped, result)
    if out is not None:
        if not in_place:
            out[...] = output
        output = out
    return (output, final) if states is None else (output, final, states)


def _device(stack: Stack) -> Device:
    return stack.backend  # type: ignore[return-value]


class Given(NamedTuple):
    """Arguments on the GPU."""

    x: Array  # (T, N, I)
    h_0: Array | None  # (L*D, N, H_out)
    c_0: Array | None  # (L*D, N, C)


def _entered(
    way: Port, stack: Stack, options: Options, x: Any, hx: Any, lengths: Any, reset: Any
) -> tuple[Arguments, Given, sequence.Rows]:
    """The checked arguments, as NumPy arrays of their shapes at least, and as arrays on the GPU."""
    looks = (
        *(way.look("x", x), way.look("hx", hx)),
        *(way.look("lengths", lengths, np.int32, np.int64), way.look("reset", reset, np.bool_)),
    )
    a = arguments(stack, options, *looks)
    given = Given(way.put("x", a.x, partial(_time_major, a)), *_states(way, stack, a, "hx", a.h_0, a.c_0))
    return a, given, _rows(way, a, options.dropout > 0)


def _time_major(a: Arguments, view: Array) -> Array:
    """A caller's (T, N, ·), (N, T, ·) or (T, ·) as the first of these."""
    return view.swapaxes(0, 1) if a.swap else view if a.batched else view[:, None]


def _states(way: Port, stack: Stack, a: Arguments, name: str, h: Any, c: Any) -> tuple[Array | None, Array | None]:
    """hx or d_state on the GPU."""
    spec = stack.sizes.spec

    def put(part: str, host: Any) -> Any:
        return way.put(part, host, lambda view: view if a.batched else view[:, None])

    if h is None or c is None or way.library is None:
        return put(name, h), put(name, c)
    h, *others = (put(f"{name}[{i}]", part) for i, part in enumerate((h, *spec.split_c(c))))
    if len(others) == 1:
        return h, others[0]
    joined: Any = way.stream.empty(c.shape, c.dtype)
    for part, to in zip(others, spec.split_c(joined), strict=True):
        way.stream.copy(to, part)
    return h, joined


def _rows(way: Port, a: Arguments, needs_order: bool) -> sequence.Rows:
    """Lengths and resets on the GPU."""
    reset = None
    if a.reset is not None:
        host_reset = np.array(a.reset, order="C").view(np.uint8)  # a copy, since nobody waits until it has been read
        reset = way.put("reset", host_reset, partial(_time_major, a))
        reset = reset if reset.contiguous else way.copied(reset)
    if a.lengths is None:
        return sequence.Rows(None, reset, None)
    if (view := way.views.get("lengths")) is None:
        known: Any = a.lengths
        lengths = way.stream.to_device(a.lengths.astype(np.int32), wait=False)
    else:
        view = view if view.ndim else view[None]
        lengths = elementwise.part_of_lengths(way.stream, view, 0, len(a.x))
        known = way.stream.to_host(lengths) if needs_order else None
    return sequence.Rows(lengths, reset, None if known is None else host.sorted_order(known))


def _output(way: Port, stack: Stack, a: Arguments) -> Array:
    """Where the output goes, (T, N, D*H_out)."""
    shape = (*a.x.shape[:2], stack.sizes.directions * stack.sizes.out_size)
    if way.library is None:
        return way.empty(shape, stack.dtype)
    return _time_major(a, way.empty(a.outer(shape), stack.dtype))


def _in_place(way: Port, a: Arguments) -> tuple[Array, Array | None]:
    """The same for the caller's own `out`, or another array, where that one is to be copied to in the end."""
    view = _time_major(a, way.views.pop("out"))
    free = not any(overlap(view, other) for other in way.views.values())
    if free and view.strides[2] == 1 and min(view.strides) >= 0:
        return view, None
    return way.stream.empty(view.shape, view.dtype), view


# ---- gradients ------------------------------------------------------------------------------------------------------


class Backward(host_vjp.Backward):
    """See `fastrnn.vjp.Backward`."""

    def __init__(self, way: Port, stack: Stack, *arguments: Any) -> None:
        super().__init__(stack, *arguments)
        self._kind = way.kind

    def __call__(self, d_output: Any, d_state: Any = None, *, per_sample: bool = False) -> host_vjp.Gradients:
        self._check()
        per_sample = validate.flag("per_sample", per_sample)
        a, stack = self._args, self._stack
        with _device(stack):
            way = port(_device(stack), stack.dtype, self._kind, d_output=d_output, d_state=d_state)
            dy, dh_n, dc_n = self._seeds(way.look("d_output", d_output), way.look("d_state", d_state))
            seeds = (
                None if dy is None else way.put("d_output", dy, partial(_time_major, a)),
                *_states(way, stack, a, "d_state", dh_n, dc_n),
            )
            return self._through(way, seeds, per_sample, partial(self._gradients, per_sample=per_sample))

    __call__.__doc__ = host_vjp.Backward.__call__.__doc__

    def through_cell(self, checked: Callable[[Any], list[Any]], d_h: Any, *, per_sample: bool) -> host_vjp.Gradients:
        stack = self._stack
        with _device(stack):
            way = port(_device(stack), stack.dtype, self._kind, d_h=d_h)
            states = checked(way.look("d_h", d_h))
            self._check()
            per_sample = validate.flag("per_sample", per_sample)
            batched = states[0].ndim == 2
            seeds = (None, *_cell_states(way, "d_h", states, batched))

            def shaped(result: Any) -> host_vjp.Gradients:
                return self._gradients(result, per_sample).lowered(batched)

            return self._through(way, seeds, per_sample, shaped)

    def _through(self, way: Port, seeds: Any, per_sample: bool, shaped: Callable[[Any], Any]) -> host_vjp.Gradients:
        tape = self._tape()
        elsewhere = way.stream is not self._kind.stream
        if elsewhere:  # what was kept must be there by now, and its memory goes back in the order of its own stream
            self._kind.stream.synchronize()
        held = (*tape.x, *tape.y, *tape.segments) if elsewhere else ()  # what `consume` gives up is still read
        result = sequence.backward(
            self._stack,
            way.stream,
            tape,
            *seeds,
            wants_x="x" in self._wrt,
            wants_weights="params" in self._wrt,
            per_sample=per_sample,
            consume=self._consume,
        )
        found: host_vjp.Gradients = way.leave(shaped, result)
        if elsewhere:
            way.stream.synchronize()
        del held
        return found


def vjp(
    stack: Stack,
    backward_weights: list[Any],
    names: Sequence[Sequence[str]],
    options: Options,
    x: Any,
    hx: Any,
    *,
    lengths: Any,
    reset: Any,
    wrt: str | Iterable[str],
    consume: bool,
    checkpoint_every: int | None,
    check: Callable[[], None],
) -> tuple[Any, Backward]:
    """See `fastrnn.vjp.vjp`."""
    wanted, consume, every = host_vjp.checked_options(wrt, consume, checkpoint_every)
    with _device(stack):
        way = port(_device(stack), stack.dtype, x=x, hx=hx, lengths=lengths, reset=reset)
        way.keeps = True
        a, given, rows = _entered(way, stack, options, x, hx, lengths, reset)
        tape = Tape(every, options.dropout)
        result = _recorded(way, stack, options, a, given, rows, tape)
        output, final, _ = way.leave(lambda found: returned(found, a, stack.sizes.spec), result)
    return (output, final), Backward(way, stack, tape, a, names, wanted, consume, check)


def _recorded(
    way: Port, stack: Stack, options: Options, a: Arguments, given: Given, rows: sequence.Rows, tape: Tape
) -> host.Result:
    """A forward pass; the caller gets a copy of the output that the tape keeps, where he could write to it."""
    copies = tape.every is None and way.library is not None and not way.library.immutable
    shape = (*a.x.shape[:2], stack.sizes.directions * stack.sizes.out_size)
    y = way.stream.empty(shape, stack.dtype) if copies else _output(way, stack, a)
    rng = options.rng() if options.dropout else None
    return sequence.forward(stack, way.stream, *given, y, rows, way.empty, dropout=options.dropout, rng=rng, tape=tape)


# ---- cells ----------------------------------------------------------------------------------------------------------

Checked = Callable[[Any, Any], tuple[Any, list[Any], bool]]


def _cell_entered(way: Port, checked: Checked, x: Any, hx: Any) -> tuple[Arguments, Given, bool]:
    rows, state, batched = checked(way.look("x", x), way.look("hx", hx))
    x_1 = way.put("x", rows[None], partial(host_vjp.lift, batched=batched))
    h_0, c_0 = (None, None) if hx is None else _cell_states(way, "hx", state, batched)
    return Arguments(rows[None], None, None, None, None, True, False), Given(x_1, h_0, c_0), batched


def _cell_states(way: Port, name: str, states: list[Any], batched: bool) -> tuple[Array | None, Array | None]:
    """One or two states of the caller's as (1, N, H)."""
    names = [name] if len(states) == 1 else [f"{name}[{i}]" for i in range(len(states))]
    lift = partial(host_vjp.lift, batched=batched)
    h, *others = (
        way.put(n, state.reshape(1, -1, state.shape[-1]), lift) for n, state in zip(names, states, strict=True)
    )
    return h, others[0] if others else None


def _cell_state(result: host.Result, batched: bool) -> Any:
    states = result.h_n if result.c_n is None else (result.h_n, result.c_n)
    return host_vjp.lower(states, batched)


def cell(stack: Stack, checked: Checked, x: Any, hx: Any) -> Any:
    """See `fastrnn.layers.cell.Cell.__call__`; `checked` as in `fastrnn.vjp.cell_vjp`."""
    with _device(stack):
        way = port(_device(stack), stack.dtype, x=x, hx=hx)
        a, given, batched = _cell_entered(way, checked, x, hx)
        y = way.stream.empty((*a.x.shape[:2], stack.sizes.out_size), stack.dtype)
        rows = sequence.Rows(None, None, None)
        result = sequence.forward(stack, way.stream, *given, y, rows, way.empty)
        return way.leave(partial(_cell_state, batched=batched), result)


def cell_vjp(
    stack: Stack,
    backward_weights: list[Any],
    names: Sequence[str],
    checked: Checked,
    x: Any,
    hx: Any,
    wrt: str | Iterable[str],
    check: Callable[[], None],
) -> tuple[Any, tuple[int, ...], Backward]:
    """See `fastrnn.vjp.cell_vjp`."""
    with _device(stack):
        way = port(_device(stack), stack.dtype, x=x, hx=hx)
        way.keeps = True
        a, given, batched = _cell_entered(way, checked, x, hx)
        wanted, consume, _ = host_vjp.checked_options(wrt, False, None)
        tape = Tape(None, 0.0)
        options = Options(stack.sizes.spec.kind, False, 0.0, np.random.default_rng)
        result = _recorded(way, stack, options, a, given, sequence.Rows(None, None, None), tape)
        state = way.leave(partial(_cell_state, batched=batched), result)
    shape = (a.x.shape[1], stack.sizes.out_size)
    return state, shape if batched else shape[1:], Backward(way, stack, tape, a, [names], wanted, consume, check)
