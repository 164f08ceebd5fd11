"""Layers x directions x ragged rows, with dropout between layers: written once for all cells and backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import threads
from .backends import Backend
from .cells import Sizes
from .tape import Segment, Tape, new_buffers

Array = NDArray[Any]

# Multiply-adds that are worth a second thread (some 100 us; starting one costs some 20 us).
_PAYS = 4_000_000  # in a layer
_PAYS_WAVE = 2_000_000  # in a layer's chunk of steps


class States(NamedTuple):
    """Every state of every layer and direction.

    Attributes
    ----------
    h : (L*D, T+1, N, H_out)
        Index 0 is the initial state, index t+1 the state after processing time t (in either direction), 0 past a
        row's length. (L*D, T+1, H_out) for unbatched input.
    c : (L*D, T+1, N, (S-1)*H) or None
        The same for LSTM's cell state; for all states but h, side by side, where a cell has S of them.
    """

    h: Array
    c: Array | None


class Stack(NamedTuple):
    """What `forward` needs to know of a recurrent network."""

    sizes: Sizes
    dtype: np.dtype[Any]
    prepared: Sequence[Any]  # by layer, then direction: made by `backend.prepare`
    backend: Backend


class Result(NamedTuple):
    y: Array  # (T, N, D*H_out)
    h_n: Array  # (L*D, N, H_out)
    c_n: Array | None  # (L*D, N, C): all states but h, side by side
    states: States | None


def forward(
    stack: Stack,
    x: Array,
    h_0: Array | None = None,
    c_0: Array | None = None,
    *,
    lengths: NDArray[np.intp] | None = None,
    reset: NDArray[np.bool_] | None = None,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    return_states: bool = False,
    out: Array | None = None,
    tape: Tape | None = None,
) -> Result:
    """Run all layers in all directions over all steps.

    Parameters
    ----------
    stack : Stack
    x : (T, N, I)
        In the layers' dtype.
    h_0 : (L*D, N, H_out), optional
    c_0 : (L*D, N, C), optional
        Zeros where not given.
    lengths : (N,), optional
        In 0..T and any order.
    reset : (T, N), optional
    dropout : float
        Probability with which an element of the output of every layer but the last is zeroed.
    rng : numpy.random.Generator
        Draws the dropout.
    return_states : bool
        Keep the states of every step.
    out : (T, N, D*H_out), optional
        Where the output goes; unlike `x`, it must not overlap other arguments.
    tape : Tape, optional
        Keeps what `backward.backward` needs; not together with `return_states`. It holds `x` and the output
        themselves, no copies, unless rows had to be sorted.
    """
    T, N, _ = x.shape
    sizes, n_stacked = stack.sizes, len(stack.prepared)
    D = sizes.directions
    order = None if lengths is None else sorted_order(lengths)
    if lengths is not None and order is not None:
        # take and not x[:, order], whose last axis has no unit stride where x has zero strides.
        x, lengths = x.take(order, axis=1), lengths[order]
        reset = None if reset is None else reset[:, order]
    if reset is not None:
        reset = np.ascontiguousarray(reset)
    h_n = initial(h_0, (n_stacked, N, sizes.out_size), x.dtype, order)
    c_n = initial(c_0, (n_stacked, N, sizes.c_size), x.dtype, order) if sizes.spec.has_c else None
    states = _allocate_states(h_n, c_n, T) if return_states else None
    if tape is not None:
        tape.order, tape.lengths, tape.reset = order, lengths, reset
    run = _Run(stack, h_n, c_n, states, lengths, reset, tape)

    def new(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        y = np.empty(shape, dtype) if tape is None else stack.backend.empty(shape, dtype)
        if lengths is not None:  # nothing writes past a length
            y[...] = 0
        return y

    y_last = new((T, N, D * sizes.out_size), x.dtype) if out is None or order is not None else out
    if y_last is out and lengths is not None:
        y_last[:] = 0
    last = n_stacked // D - 1
    steps = 0 if dropout or (tape and tape.every) else _wavefront_steps(stack, T, N)
    if steps:
        outputs = [x, *(new(y_last.shape, x.dtype) for _ in range(last)), y_last]
        if tape is not None:
            for layer in range(last + 1):
                run.begin(tape, layer, outputs[layer], outputs[layer + 1])
        _wavefront(run, outputs, steps)
    else:
        for layer in range(last + 1):
            y = y_last if layer == last else new(y_last.shape, x.dtype)
            if tape is not None:
                run.begin(tape, layer, x, y)
            if D == 1:
                run.layer(layer, x, y)
            else:
                _directions(run, layer, x, y)
            x = y
            if dropout and layer < last:
                keep = drawn(y.shape, dropout, rng)
                x = y * dropout_factor(keep, dropout, y.dtype)
                if tape is not None:
                    tape.kept[layer] = keep

    if order is not None:
        y_last, h_n, c_n, states = _unsorted(order, y_last, h_n, c_n, states, out)
    return Result(y_last, h_n, c_n, states)


class _Run(NamedTuple):
    """The buffers of one call."""

    stack: Stack
    h_n: Array
    c_n: Array | None
    states: States | None
    lengths: Array | None
    reset: Array | None
    tape: Tape | None

    def begin(self, tape: Tape, layer: int, x: Array, y: Array) -> None:
        """Note what the tape keeps of a layer; with `tape.every` the rest follows as it is run."""
        D = self.stack.sizes.directions
        tape.x.append(x)
        if tape.every is None:
            for i in range(layer * D, (layer + 1) * D):
                h, c = self._state(i)
                y_i = self._output(i, y)
                buffers = new_buffers(self.stack.backend, tape.backward_weights[i], y_i, c)
                tape.segments[i].append(Segment(0, len(x), h, c, y_i, *buffers))

    def layer(self, i: int, x: Array, y: Array) -> None:
        """Run layer and direction `i` over all steps, x (T, N, I) -> y (T, N, D*H_out)."""
        tape = self.tape
        if tape is None or tape.every is None:
            self.steps(i, x, y)
            return
        for a, b in tape.bounds(self.stack.backend, len(x), i % self.stack.sizes.directions == 1):
            tape.segments[i].append(Segment(a, b, *self._state(i)))
            self.steps(i, x, y, a, b)

    def steps(self, i: int, x: Array, y: Array, start: int = 0, stop: int | None = None) -> None:
        """Run some of the steps."""
        stack, h_n, c_n, states, lengths, reset, tape = self
        D = stack.sizes.directions
        if D == 2:
            y = self._output(i, y)
        c_all = gates = None
        if states is not None and states.c is not None:
            c_all = states.c[i, 1:]
        if tape is not None and tape.every is None:
            c_all, gates = tape.segments[i][0][-2:]
        if stop is not None:
            x, y = x[start:stop], y[start:stop]
            lengths = None if lengths is None else np.clip(lengths - start, 0, stop - start)
            reset = None if reset is None else reset[start:stop]
            c_all = None if c_all is None else c_all[start:stop]
            gates = None if gates is None else gates[start:stop]
        stack.backend.forward(
            stack.prepared[i],
            x,
            y,
            h_n[i],
            None if c_n is None else c_n[i],
            lengths=lengths,
            reset=reset,
            reverse=i % D == 1,
            c_all=c_all,
            gates=gates,
        )
        if states is not None:
            states.h[i, 1:][start:stop] = y

    def _output(self, i: int, y: Array) -> Array:
        """Direction i's part of y."""
        D, H_out = self.stack.sizes.directions, self.stack.sizes.out_size
        return y if D == 1 else y[:, :, i % D * H_out : (i % D + 1) * H_out]

    def _state(self, i: int) -> tuple[Array, Array | None]:
        return self.h_n[i].copy(), None if self.c_n is None else self.c_n[i].copy()


def direction_threads(stack: Stack, x: Array) -> int:
    """Two directions side by side where two or three threads may be used; more share one direction after the other."""
    sizes, (T, N, I) = stack.sizes, x.shape
    work = T * N * sizes.spec.n_gates * sizes.hidden_size * (I + sizes.out_size)
    return 2 if sizes.directions == 2 and work >= _PAYS and threads.get_num_threads() <= 3 else 1


def _directions(run: _Run, layer: int, x: Array, y: Array) -> None:
    with threads.team(direction_threads(run.stack, x)) as team:
        team.run_all([partial(run.layer, 2 * layer + d, x, y) for d in (0, 1)])


def _wavefront_steps(stack: Stack, T: int, N: int) -> int:
    """Steps per chunk of a wavefront through the layers; 0 where it would not pay.

    It needs few rows (many are split over threads as they are) and enough steps that its start and end, when not all
    threads have a layer to do, hardly count.
    """
    sizes, n = stack.sizes, threads.get_num_threads()
    L = sizes.num_layers
    if sizes.directions == 2 or L < 2 or n < 2 or N == 0 or 2 * n <= N:
        return 0
    steps = max(16, _PAYS_WAVE // (N * sizes.spec.n_gates * sizes.hidden_size * 2 * sizes.out_size))
    return steps if 2 * L * steps <= T else 0


def _wavefront(run: _Run, outputs: Sequence[Array], steps: int) -> None:
    """Layer l does chunk j of the steps while layer l+1 does chunk j-1."""
    L, T = len(outputs) - 1, len(outputs[0])
    starts = range(0, T, steps)

    def task(layer: int, start: int) -> Callable[[], None]:
        return partial(run.steps, layer, outputs[layer], outputs[layer + 1], start, min(start + steps, T))

    waves = [
        [task(layer, starts[wave - layer]) for layer in range(L) if 0 <= wave - layer < len(starts)]
        for wave in range(len(starts) + L - 1)
    ]
    with threads.team(L) as team:
        team.run_waves(waves)


def sorted_order(lengths: NDArray[np.intp]) -> NDArray[np.intp] | None:
    """Longest first, so that the rows still running are always the first ones and finished rows cost nothing.

    None where they are in that order.
    """
    return np.argsort(-lengths, kind="stable") if np.any(lengths[1:] > lengths[:-1]) else None


def initial(state: Array | None, shape: tuple[int, ...], dtype: Any, order: Array | None) -> Array:
    """A copy, since backends turn initial states into final ones in place."""
    if state is None:
        return np.zeros(shape, dtype)
    return np.array(state if order is None else state[:, order], dtype, order="C")


def _allocate_states(h_0: Array, c_0: Array | None, T: int) -> States:
    def allocate(initial: Array) -> Array:
        all_steps = np.zeros((len(initial), T + 1, *initial.shape[1:]), initial.dtype)
        all_steps[:, 0] = initial
        return all_steps

    return States(allocate(h_0), None if c_0 is None else allocate(c_0))


def drawn(shape: tuple[int, ...], p: float, rng: np.random.Generator | None) -> NDArray[np.bool_]:
    """Which elements dropout keeps."""
    assert rng is not None
    keep: NDArray[np.bool_] = rng.random(shape, dtype=np.float32) >= p if p < 1 else np.zeros(shape, bool)
    return keep


def dropout_factor(keep: NDArray[np.bool_], p: float, dtype: np.dtype[Any]) -> Array:
    """What dropout multiplies with: 0 or 1 / (1 - p)."""
    factor: Array = (keep / (1 - p if p < 1 else 1.0)).astype(dtype)
    return factor


def scatter(order: Array, a: Array, axis: int, to: Array | None = None) -> Array:
    """Rows back where they were before they were sorted."""
    to = np.empty_like(a) if to is None else to
    to[(slice(None),) * axis + (order,)] = a
    return to


def _unsorted(
    order: Array, y: Array, h_n: Array, c_n: Array | None, states: States | None, out: Array | None
) -> tuple[Array, Array, Array | None, States | None]:
    if states is not None:
        states = States(scatter(order, states.h, 2), None if states.c is None else scatter(order, states.c, 2))
    return scatter(order, y, 1, out), scatter(order, h_n, 1), None if c_n is None else scatter(order, c_n, 1), states
