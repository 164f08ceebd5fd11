"""Layers x directions x ragged rows, with dropout between layers: written once for all cells and backends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import threads
from .backends import Backend
from .cells import CellSpec

Array = NDArray[Any]

_PAYS = 1_000_000  # multiply-adds per gate: starting a second thread costs some 20 us


class States(NamedTuple):
    """Every state of every layer and direction.

    Attributes
    ----------
    h : (L*D, T+1, N, H_out)
        Index 0 is the initial state, index t+1 the state after processing time t (in either direction), 0 past a
        row's length. (L*D, T+1, H_out) for unbatched input.
    c : (L*D, T+1, N, H) or None
        The same for LSTM's cell state.
    """

    h: Array
    c: Array | None


class Stack(NamedTuple):
    """What `forward` needs to know of a recurrent network."""

    spec: CellSpec
    dtype: np.dtype[Any]
    hidden_size: int
    out_size: int  # of one direction: proj_size or hidden_size
    directions: int
    prepared: Sequence[Any]  # by layer, then direction: made by `backend.prepare`
    backend: Backend


class Result(NamedTuple):
    y: Array  # (T, N, D*H_out)
    h_n: Array  # (L*D, N, H_out)
    c_n: Array | None  # (L*D, N, H)
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
) -> Result:
    """Run all layers in all directions over all steps.

    Parameters
    ----------
    stack : Stack
    x : (T, N, I)
        In the layers' dtype.
    h_0 : (L*D, N, H_out), optional
    c_0 : (L*D, N, H), optional
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
    """
    T, N, _ = x.shape
    D, n_stacked = stack.directions, len(stack.prepared)
    order = None
    if lengths is not None and np.any(lengths[1:] > lengths[:-1]):
        # Longest first, so that the rows still running are always the first ones and finished rows cost nothing.
        order = np.argsort(-lengths, kind="stable")
        x, lengths = x[:, order], lengths[order]
        reset = None if reset is None else reset[:, order]
    if reset is not None:
        reset = np.ascontiguousarray(reset)
    h_n = _initial(h_0, (n_stacked, N, stack.out_size), x.dtype, order)
    c_n = _initial(c_0, (n_stacked, N, stack.hidden_size), x.dtype, order) if stack.spec.has_c else None
    states = _allocate_states(h_n, c_n, T) if return_states else None

    new = np.empty if lengths is None else np.zeros  # nothing writes past a length
    for first in range(0, n_stacked, D):
        last = first + D == n_stacked
        y = new((T, N, D * stack.out_size), x.dtype) if out is None or not last or order is not None else out
        if y is out and lengths is not None:
            y[:] = 0

        def run_direction(d: int, x: Array = x, y: Array = y, first: int = first) -> None:
            i = first + d
            y_d = y[:, :, d * stack.out_size : (d + 1) * stack.out_size] if D == 2 else y
            c_i = None if c_n is None else c_n[i]
            c_all = None if states is None or states.c is None else states.c[i, 1:]
            stack.backend.forward(
                stack.prepared[i], x, y_d, h_n[i], c_i, lengths=lengths, reset=reset, reverse=d == 1, c_all=c_all
            )
            if states is not None:
                states.h[i, 1:] = y_d

        _each_direction(run_direction, D, T * N * stack.hidden_size * (x.shape[2] + stack.out_size))
        x = _dropped(y, dropout, rng) if dropout and not last else y

    if order is not None:
        y, h_n, c_n, states = _unsorted(order, y, h_n, c_n, states, out)
    return Result(y, h_n, c_n, states)


def _each_direction(run: Callable[[int], None], D: int, work: int) -> None:
    """Two directions side by side where two or three threads may be used; more share one direction after the other."""
    if D == 2 and work >= _PAYS and 2 <= threads.get_num_threads() <= 3:
        with threads.team(2) as team:
            if team.size == 2:
                team.run([partial(run, 0), partial(run, 1)])
                return
    for d in range(D):
        run(d)


def _initial(state: Array | None, shape: tuple[int, ...], dtype: Any, order: Array | None) -> Array:
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


def _dropped(y: Array, p: float, rng: np.random.Generator | None) -> Array:
    assert rng is not None
    if p == 1:
        return np.zeros_like(y)
    keep = rng.random(y.shape, dtype=np.float32) >= p
    scaled: Array = y * (keep / (1 - p)).astype(y.dtype)
    return scaled


def _unsorted(
    order: Array, y: Array, h_n: Array, c_n: Array | None, states: States | None, out: Array | None
) -> tuple[Array, Array, Array | None, States | None]:
    def scatter(a: Array, axis: int, to: Array | None = None) -> Array:
        to = np.empty_like(a) if to is None else to
        to[(slice(None),) * axis + (order,)] = a
        return to

    if states is not None:
        states = States(scatter(states.h, 2), None if states.c is None else scatter(states.c, 2))
    return scatter(y, 1, out), scatter(h_n, 1), None if c_n is None else scatter(c_n, 1), states
