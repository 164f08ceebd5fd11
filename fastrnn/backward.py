"""Backprop through time over layers, directions and ragged rows: `sequence.py` the other way round."""

from __future__ import annotations

from collections.abc import Iterator
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
    dc_0: Array | None  # (L*D, N, H)
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
    dc_n : (L*D, N, H) or None
    wants_x, wants_weights : bool
        What is not wanted is not computed.
    per_sample : bool
        Gradients of the weights for each row, not their sum.
    consume : bool
        Give up each part of the tape as soon as it has been used.
    """
    sizes, order = stack.sizes, tape.order
    N = tape.x[0].shape[1]
    D, L = sizes.directions, sizes.num_layers
    if order is not None and dy is not None:
        dy = dy.take(order, axis=1)  # with a unit stride in the last axis, whatever dy has in the others
    dh = sequence.initial(dh_n, (L * D, N, sizes.out_size), stack.dtype, order)
    dc = sequence.initial(dc_n, (L * D, N, sizes.hidden_size), stack.dtype, order) if sizes.spec.has_c else None
    run = _Run(stack, tape, dh, dc, wants_weights, per_sample)
    weights: list[Weights] = []
    dx: Array | None = None
    for layer in reversed(range(L)):
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


class _Run(NamedTuple):
    """One call of `backward`."""

    stack: sequence.Stack
    tape: Tape
    dh: Array  # (L*D, N, H_out) INOUT
    dc: Array | None  # (L*D, N, H) INOUT
    wants_weights: bool
    per_sample: bool

    def layer(self, layer: int, dy: Array | None, wants_dx: bool) -> tuple[Array | None, list[Weights]]:
        """dy (T, N, D*H_out) -> dx (T, N, I) and the gradients of the weights of each direction."""
        x, sizes = self.tape.x[layer], self.stack.sizes
        D, H_out = sizes.directions, sizes.out_size
        # Each direction writes a dx of its own, so that the sum has one order whether or not they run side by side.
        new = np.empty if self.tape.lengths is None else np.zeros  # nothing writes past a length
        dxs = [new(x.shape, x.dtype) if wants_dx else None for _ in range(D)]
        found: list[list[Weights]] = [[] for _ in range(D)]
        tasks = []
        for d in range(D):
            part = None if dy is None else dy[:, :, d * H_out : (d + 1) * H_out]
            tasks.append(partial(self._direction, layer * D + d, x, part, dxs[d], found[d]))
        with threads.team(sequence.direction_threads(self.stack, x)) as team:
            team.run_all(tasks)
        dx = dxs[0]
        if D == 2 and dx is not None:
            dx += dxs[1]
        if not self.wants_weights:
            return dx, []
        return dx, [_stacked(of_rows, x.shape[1]) if self.per_sample else of_rows[0] for of_rows in found]

    def _direction(self, i: int, x: Array, dy: Array | None, dx: Array | None, found: list[Weights]) -> None:
        backend, weights = self.stack.backend, self.tape.backward_weights[i]
        for rows in self._row_groups(x.shape[1]):
            sums = backend.new_sums(weights) if self.wants_weights else None
            dh, dc = self.dh[i, rows], None if self.dc is None else self.dc[i, rows]
            for steps, record in self._records(i, x[:, rows], rows):
                backend.backward(
                    weights,
                    record,
                    None if dy is None else dy[steps, rows],
                    dh,
                    dc,
                    None if dx is None else dx[steps, rows],
                    sums,
                )
            if sums is not None:
                found.append(backend.weight_gradients(sums))

    def _row_groups(self, N: int) -> list[slice]:
        """The rows whose weights' gradients are added up."""
        if not (self.per_sample and self.wants_weights):
            return [slice(None)]
        return [slice(n, n + 1) for n in range(N)] or [slice(None)]

    def _records(self, i: int, x: Array, rows: slice) -> Iterator[tuple[slice, Record]]:
        """What backends want to know of each segment, the last one first; steps that were not kept are run again."""
        tape = self.tape
        lengths = None if tape.lengths is None else tape.lengths[rows]
        reset = None if tape.reset is None else tape.reset[:, rows]
        reverse = i % self.stack.sizes.directions == 1
        for whole in reversed(tape.segments[i]):
            steps = slice(whole.start, whole.stop)
            inside = None if lengths is None else np.clip(lengths - whole.start, 0, whole.stop - whole.start)
            options: dict[str, Any] = {
                "lengths": inside,
                "reset": None if reset is None else reset[steps],
                "reverse": reverse,
            }
            segment = self._complete(i, whole.of(rows), x[steps], options)
            assert segment.y is not None
            yield steps, Record(x[steps], segment.y, segment.h, segment.c, segment.c_all, segment.gates, **options)

    def _complete(self, i: int, segment: Segment, x: Array, options: dict[str, Any]) -> Segment:
        """The segment with everything in it: run again where it was not kept."""
        if segment.y is not None:
            return segment
        stack, (T, N, _) = self.stack, x.shape
        y = np.empty((T, N, stack.sizes.out_size), stack.dtype)
        c_all, gates = new_buffers(stack.backend, self.tape.backward_weights[i], y, segment.c)
        h, c = segment.h.copy(), None if segment.c is None else segment.c.copy()
        stack.backend.forward(stack.prepared[i], x, y, h, c, **options, c_all=c_all, gates=gates)
        return segment._replace(y=y, c_all=c_all, gates=gates)


def _stacked(of_rows: list[Weights], N: int) -> Weights:
    """With a leading axis N."""
    names = [name for name, w in of_rows[0]._asdict().items() if w is not None]
    return Weights(**{name: np.stack([getattr(w, name) for w in of_rows])[:N] for name in names})
