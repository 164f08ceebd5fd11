"""Backprop through time over layers, directions and ragged rows: `sequence.py` the other way round."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import sequence, threads
from .backends import Record
from .cells import Weights
from .tape import Segment, Tape, new_buffers

Array = NDArray[Any]


class Result(NamedTuple):
    dx: Array | None  # (T, N, I)
    dh_0: Array  # (L*D, N, H_out)
    dc_0: Array | None  # (L*D, N, C)
    weights: list[Weights] | None  # by layer, then direction; with per_sample each with a leading N axis


def backward(
    stack: sequence.Stack,
    tape: Tape,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    *,
    wants_x: bool = True,
    wants_weights: bool = True,
    per_sample: bool = False,
    consume: bool = False,
) -> Result:
    """The gradients of a scalar that depends on what `sequence.forward` returned.

    Parameters
    ----------
    stack : sequence.Stack
    tape : Tape
        What `sequence.forward` recorded.
    dy : (T, N, D*H_out) or None
        The scalar's gradient with respect to the output; None: zeros. Any strides, unit in the last axis.
    dh_n : (L*D, N, H_out) or None
        With respect to the final states.
    dc_n : (L*D, N, C) or None
    wants_x, wants_weights : bool
        What is not wanted is not computed.
    per_sample : bool
        Gradients of the weights for each row, not their sum.
    consume : bool
        Give up each part of the tape as soon as it has been used.
    """
    sizes, order = stack.sizes, tape.order
    N, D = tape.x[0].shape[1], sizes.directions
    if order is not None and dy is not None:
        dy = dy.take(order, axis=1)  # with a unit stride in the last axis, whatever dy has in the others
    n_stacked = sizes.num_layers * D
    dh = sequence.initial(dh_n, (n_stacked, N, sizes.out_size), stack.dtype, order)
    dc = sequence.initial(dc_n, (n_stacked, N, sizes.c_size), stack.dtype, order) if sizes.spec.has_c else None
    run = _Run(stack, tape, dh, dc, wants_weights, per_sample and wants_weights)
    weights: list[Weights] = []
    dx: Array | None = None
    for layer in range(sizes.num_layers - 1, -1, -1):
        dx, of_layer = run.layer(layer, dy, layer > 0 or wants_x)
        weights = of_layer + weights
        if dx is not None and layer - 1 in tape.kept:
            dx *= sequence.dropout_factor(tape.kept[layer - 1], tape.dropout, dx.dtype)
        dy = dx
        if consume:
            tape.segments[layer * D : (layer + 1) * D] = [[] for _ in range(D)]
            tape.x.pop()
    if order is not None:
        dx = None if dx is None else sequence.scatter(order, dx, 1)
        dh, dc = sequence.scatter(order, dh, 1), None if dc is None else sequence.scatter(order, dc, 1)
        if per_sample:
            weights = [of_one.each(lambda w: sequence.scatter(order, w, 0)) for of_one in weights]
    return Result(dx, dh, dc, weights if wants_weights else None)


class _Rows(NamedTuple):
    """One layer in one direction, and all or some rows of the batch."""

    segments: list[Segment]
    x: Array  # (T, N, I)
    dy: Array | None  # (T, N, H_out)
    dx: Array | None  # (T, N, I)
    dh: Array  # (N, H_out) INOUT
    dc: Array | None  # (N, C) INOUT
    lengths: Array | None
    reset: Array | None

    def each(self) -> list[_Rows]:
        """Row by row."""
        return [self._of(slice(n, n + 1)) for n in range(len(self.dh))]

    def _of(self, rows: slice) -> _Rows:
        x, dy, dx = (None if a is None else a[:, rows] for a in self[1:4])
        dh, dc, lengths = (None if a is None else a[rows] for a in self[4:7])
        reset = None if self.reset is None else self.reset[:, rows]
        return _Rows([s.of(rows) for s in self.segments], x, dy, dx, dh, dc, lengths, reset)  # type: ignore[arg-type]


class _Run(NamedTuple):
    """One call of `backward`."""

    stack: sequence.Stack
    tape: Tape
    dh: Array  # (L*D, N, H_out) INOUT
    dc: Array | None  # (L*D, N, C) INOUT
    wants_weights: bool
    per_sample: bool

    def layer(self, layer: int, dy: Array | None, wants_dx: bool) -> tuple[Array | None, list[Weights]]:
        """dy (T, N, D*H_out) -> dx (T, N, I) and the gradients of the weights of each direction."""
        x, D = self.tape.x[layer], self.stack.sizes.directions
        new = np.empty if self.tape.lengths is None else np.zeros  # nothing writes past a length
        if D == 1:
            dx = new(x.shape, x.dtype) if wants_dx else None
            weights: list[Weights] = []
            self._direction(layer, x, dy, dx, weights)
            return dx, weights
        # Each direction writes a dx of its own, so that the sum has one order whether or not they run side by side.
        dxs = [new(x.shape, x.dtype) if wants_dx else None for _ in range(D)]
        found: list[list[Weights]] = [[], []]
        tasks = []
        for d, part in enumerate([None, None] if dy is None else np.split(dy, 2, axis=2)):
            tasks.append(partial(self._direction, layer * D + d, x, part, dxs[d], found[d]))
        with threads.team(sequence.direction_threads(self.stack, x)) as team:
            team.run_all(tasks)
        if dxs[0] is not None:
            dxs[0] += dxs[1]
        return dxs[0], found[0] + found[1]

    def _direction(self, i: int, x: Array, dy: Array | None, dx: Array | None, found: list[Weights]) -> None:
        tape = self.tape
        dc = None if self.dc is None else self.dc[i]
        rows = _Rows(tape.segments[i], x, dy, dx, self.dh[i], dc, tape.lengths, tape.reset)
        if not self.wants_weights:
            self._through(i, rows, None)
        elif self.per_sample:
            found.append(self._row_by_row(i, rows))
        else:
            found.append(self._gradients(i, rows))

    def _row_by_row(self, i: int, rows: _Rows) -> Weights:
        """The gradients of the weights with a leading axis N."""
        backend, N = self.stack.backend, len(rows.dh)
        zeros = backend.weight_gradients(backend.new_sums(self.tape.backward_weights[i]))
        stacked = zeros.each(lambda w: np.empty((N, *w.shape), w.dtype))
        for n, row in enumerate(rows.each()):
            for to, w in zip(stacked, self._gradients(i, row), strict=True):
                if to is not None and w is not None:
                    to[n] = w
        return stacked

    def _gradients(self, i: int, rows: _Rows) -> Weights:
        backend = self.stack.backend
        sums = backend.new_sums(self.tape.backward_weights[i])
        self._through(i, rows, sums)
        return backend.weight_gradients(sums)

    def _through(self, i: int, r: _Rows, sums: Any) -> None:
        """All segments, the last one first."""
        backend, weights = self.stack.backend, self.tape.backward_weights[i]
        reverse = i % self.stack.sizes.directions == 1
        if len(r.segments) == 1 and (s := r.segments[0]).y is not None:
            record = Record(r.x, s.y, s.h, s.c, s.c_all, s.gates, r.lengths, r.reset, reverse)
            backend.backward(weights, record, r.dy, r.dh, r.dc, r.dx, sums)
            return
        for segment in reversed(r.segments):
            steps = slice(segment.start, segment.stop)
            lengths = None if r.lengths is None else np.clip(r.lengths - steps.start, 0, steps.stop - steps.start)
            reset, dy, dx = (None if a is None else a[steps] for a in (r.reset, r.dy, r.dx))
            record = self._again(i, segment, r.x[steps], lengths, reset, reverse)
            backend.backward(weights, record, dy, r.dh, r.dc, dx, sums)

    def _again(
        self, i: int, segment: Segment, x: Array, lengths: Array | None, reset: Array | None, reverse: bool
    ) -> Record:
        """Run steps again of which only the state before them was kept."""
        stack, (T, N, _) = self.stack, x.shape
        y = np.empty((T, N, stack.sizes.out_size), stack.dtype)
        c_all, gates = new_buffers(stack.backend, self.tape.backward_weights[i], y, segment.c)
        h, c = segment.h.copy(), None if segment.c is None else segment.c.copy()
        stack.backend.forward(
            stack.prepared[i], x, y, h, c, lengths=lengths, reset=reset, reverse=reverse, c_all=c_all, gates=gates
        )
        return Record(x, y, segment.h, segment.c, c_all, gates, lengths, reset, reverse)
