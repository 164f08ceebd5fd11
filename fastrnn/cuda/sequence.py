"""All layers of a network on a GPU, forth and back: `fastrnn.sequence` and `fastrnn.backward` for `engine`.

Rows may come in any order and both directions of a layer run side by side: nothing is sorted, and there are no threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import backward as host_backward
from .. import sequence as host
from ..cells import CellSpec, Weights
from ..sequence import Stack
from . import elementwise, engine
from .runtime import Array, Device, Stream
from .tape import Segment, Tape


class Prepared:
    """The weights of a layer.

    Attributes
    ----------
    together : engine.Prepared
        All directions.
    """

    def __init__(self, device: Device, spec: CellSpec, weights: Sequence[Weights]) -> None:
        self._device, self._spec, self._weights = device, spec, weights
        self.together = engine.prepare(device, spec, weights)
        self._apart: list[engine.Prepared] = []

    def runs(self, apart: bool) -> list[_Run]:
        """What is to be run: one for all directions, or one for each."""
        D = len(self._weights)
        if D == 1 or not apart:
            return [_Run(self.together, 0, D, False)]
        if not self._apart:
            self._apart = [engine.prepare(self._device, self._spec, [w]) for w in self._weights]
        return [_Run(prepared, d, d + 1, d == 1) for d, prepared in enumerate(self._apart)]


class _Run(NamedTuple):
    """Directions of a layer that run side by side."""

    prepared: engine.Prepared
    first: int
    last: int
    reverse: bool

    def part(self, y: Array, D: int) -> Array:
        """Of what has directions side by side in its last axis."""
        width = y.shape[-1] // D
        return y if self.last - self.first == D else y[..., self.first * width : self.last * width]


class Rows(NamedTuple):
    """Which steps rows run, and where they begin anew."""

    lengths: Array | None  # int32 (N,)
    reset: Array | None  # uint8 (T, N)
    order: NDArray[np.intp] | None  # how the CPU would sort the rows

    def steps(self, stream: Stream, start: int, stop: int, T: int) -> tuple[Array | None, Array | None]:
        """Lengths and resets of some of the T steps."""
        if (start, stop) == (0, T):
            return self.lengths, self.reset
        lengths = None if self.lengths is None else elementwise.part_of_lengths(stream, self.lengths, start, stop)
        return lengths, None if self.reset is None else self.reset[start:stop]


def _cut(array: Array, start: int, stop: int) -> Array:
    """``array[start:stop]``, in less time where that is all of it."""
    return array if stop - start == array.shape[0] else array[start:stop]


def _joined(stream: Stream, parts: list[Any], new: Callable[[tuple[int, ...], Any], Array], n: int) -> Any:
    """Parts of the first axis, of n in all, as one array."""
    if len(parts) == 1:
        return parts[0]
    whole, at = new((n, *parts[0].shape[1:]), parts[0].dtype), 0
    for part in parts:
        stream.copy(whole[at : at + part.shape[0]], part)
        at += part.shape[0]
    return whole


def forward(
    stack: Stack,
    stream: Stream,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    y_last: Any,
    rows: Rows,
    new: Callable[[tuple[int, ...], Any], Array],
    *,
    dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    return_states: bool = False,
    tape: Tape | None = None,
) -> host.Result:
    """Run all layers in all directions over all steps.

    Parameters
    ----------
    x : (T, N, I)
    h_0 : (L*D, N, H_out) or None
    c_0 : (L*D, N, C) or None
    y_last : (T, N, D*H_out) OUT
    new : function
        ``new(shape, dtype)``: memory for the other results.
    dropout, rng, return_states
        As in `fastrnn.sequence.forward`.
    tape : Tape, optional
        Not together with `return_states`.

    Returns
    -------
    fastrnn.sequence.Result
        Of device arrays.
    """
    sizes, dtype = stack.sizes, stack.dtype
    T, N, _ = x.shape
    L, D = sizes.num_layers, sizes.directions
    h_0 = _given(stream, h_0, (L * D, N, sizes.out_size), dtype)
    c_0 = _given(stream, c_0, (L * D, N, sizes.c_size), dtype) if sizes.spec.has_c else None
    h_n: list[Array] = []
    c_n: list[Array] = []
    states = _States(stream, new, T, h_0, c_0) if return_states else None
    if tape is not None:
        tape.lengths, tape.reset = rows.lengths, rows.reset
    for layer in range(L):
        y = y_last if layer == L - 1 else stream.empty((T, N, D * sizes.out_size), dtype)
        every = None if tape is None else tape.every
        found = []
        for run in stack.prepared[layer * D].runs(every is not None):
            part = layer * D + run.first, layer * D + run.last
            state = _cut(h_0, *part), None if c_0 is None else _cut(c_0, *part)
            keep = (tape is not None and every is None) or (return_states and c_0 is not None)
            segments, h, c = _forth(stream, run, x, run.part(y, D), *state, rows, every, keep)
            h_n.append(h)
            c_n += [] if c is None else [c]
            found.append(segments)
        if states is not None:
            states.add(layer, D, y, found[0][0].kept, rows.lengths)
        if tape is not None:
            tape.x.append(x)
            tape.y.append(y if every is None else None)
            tape.segments.append(found)
        x = y
        if dropout and layer < L - 1:
            keep_mask = _drawn(y.shape, dropout, rng, rows.order)
            mask = stream.to_device(keep_mask.view(np.uint8), wait=False)
            x = stream.empty(y.shape, dtype)
            elementwise.drop(stream, x, y, mask, _factor(dropout))
            if tape is not None:
                tape.kept[layer] = mask
    return host.Result(
        y_last,
        _joined(stream, h_n, new, L * D),
        _joined(stream, c_n, new, L * D) if c_n else None,
        None if states is None else states.result,
    )


def _given(stream: Stream, state: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
    """A state, contiguous; zeros where there is none."""
    if state is None:
        return stream.zeros(shape, dtype)
    if state.contiguous:
        return state
    copy = stream.empty(shape, dtype)
    stream.copy(copy, state)
    return copy


def _forth(
    stream: Stream,
    run: _Run,
    x: Array,
    y: Array,
    h: Array,
    c: Array | None,
    rows: Rows,
    every: int | None,
    keep: bool,
) -> tuple[list[Segment], Array, Array | None]:
    """The steps of a layer, and the final states."""
    segments = []
    for start, stop in _bounds(x.shape[0], every, run.reverse):
        lengths, reset = rows.steps(stream, start, stop, x.shape[0])
        found = engine.forward(
            run.prepared,
            stream,
            _cut(x, start, stop),
            _cut(y, start, stop),
            h,
            c,
            lengths=lengths,
            reset=reset,
            reverse=run.reverse,
            keep=keep,
        )
        segments.append(Segment(start, stop, h, c, found.kept))
        h, c = found.h_n, found.c_n
    return segments, h, c


def _bounds(T: int, every: int | None, reverse: bool) -> list[tuple[int, int]]:
    """First and last steps of the segments, in the order in which they are run."""
    steps = max(T, 1) if every is None else every
    forth = [(a, min(a + steps, T)) for a in range(0, max(T, 1), steps)]
    return [(T - b, T - a) for a, b in forth] if reverse else forth


def _drawn(
    shape: tuple[int, ...], p: float, rng: np.random.Generator | None, order: NDArray[np.intp] | None
) -> NDArray[np.bool_]:
    """Which elements dropout keeps: the same as on the CPU, which draws for rows that it has sorted."""
    keep = host.drawn(shape, p, rng)
    return keep if order is None else host.scatter(order, keep, 1)


def _factor(p: float) -> float:
    """What dropout multiplies what it keeps by."""
    return 1 / (1 - p) if p < 1 else 1.0


class _States:
    """All states of all steps, as they are asked for with `return_states`."""

    def __init__(
        self, stream: Stream, new: Callable[[tuple[int, ...], Any], Array], T: int, h_0: Array, c_0: Array | None
    ) -> None:
        self._stream = stream

        def begun(initial: Array) -> Array:
            n, N, width = initial.shape
            states = new((n, T + 1, N, width), initial.dtype)
            stream.copy(states[:, 0], initial)
            return states

        self.result = host.States(begun(h_0), None if c_0 is None else begun(c_0))  # type: ignore[arg-type]

    def add(self, layer: int, D: int, y: Array, kept: engine.Kept | None, lengths: Array | None) -> None:
        """Those of a layer."""
        h, c = self.result
        parts: list[Any] = [(h, y)]
        if kept is not None and kept.c_all is not None:
            if lengths is not None:
                elementwise.clear_past(self._stream, kept.c_all, lengths)
            parts.append((c, kept.c_all))
        for states, steps in parts:
            width = steps.shape[-1] // D
            for d in range(D):
                self._stream.copy(states[layer * D + d, 1:], steps[..., d * width : (d + 1) * width])


def backward(
    stack: Stack,
    stream: Stream,
    tape: Tape,
    dy: Array | None,
    dh_n: Array | None,
    dc_n: Array | None,
    *,
    wants_x: bool,
    wants_weights: bool,
    per_sample: bool,
    consume: bool,
) -> host_backward.Result:
    """The gradients of a scalar that depends on what `forward` returned; arguments as in `fastrnn.backward.backward`.

    Returns
    -------
    fastrnn.backward.Result
        Of device arrays.
    """
    sizes, dtype = stack.sizes, stack.dtype
    N, L, D = tape.x[0].shape[1], sizes.num_layers, sizes.directions
    dh = _given(stream, dh_n, (L * D, N, sizes.out_size), dtype)
    dc = _given(stream, dc_n, (L * D, N, sizes.c_size), dtype) if sizes.spec.has_c else None
    of_all: list[engine.Backward] = []
    rows = Rows(tape.lengths, tape.reset, None)
    dx: Any = None
    for layer in range(L - 1, -1, -1):
        x, y, segments = tape.x[layer], tape.y[layer], tape.segments[layer]
        of_layer: list[engine.Backward] = []
        dx = None
        for run, steps in zip(stack.prepared[layer * D].runs(tape.every is not None), segments, strict=True):
            part = layer * D + run.first, layer * D + run.last
            found = _Back(stream, run, rows, layer > 0 or wants_x, wants_weights, per_sample).through(
                steps,
                x,
                None if y is None else run.part(y, D),
                None if dy is None else run.part(dy, D),
                _cut(dh, *part),
                None if dc is None else _cut(dc, *part),
            )
            of_layer.append(found)
            if dx is None:
                dx = found.dx
            elif found.dx is not None:
                elementwise.add(stream, dx, found.dx)
        of_all = of_layer + of_all
        if dx is not None and layer - 1 in tape.kept:
            elementwise.drop(stream, dx, dx, tape.kept[layer - 1], _factor(tape.dropout))
        dy = dx
        if consume:
            for used in (tape.x, tape.y, tape.segments):
                used.pop()
    return host_backward.Result(
        dx,
        _joined(stream, [found.dh_0 for found in of_all], stream.empty, L * D),
        _joined(stream, [found.dc_0 for found in of_all], stream.empty, L * D) if dc is not None else None,
        [w for found in of_all for w in found.weights or []] if wants_weights else None,
    )


class _Back(NamedTuple):
    """A layer's way back, for directions that run side by side."""

    stream: Stream
    run: _Run
    rows: Rows
    wants_x: bool
    wants_weights: bool
    per_sample: bool

    def through(
        self, segments: list[Segment], x: Array, y: Array | None, dy: Array | None, dh: Array, dc: Array | None
    ) -> engine.Backward:
        """All segments, the last one first."""
        if len(segments) == 1:
            return self._segment(segments[0], x, y, dy, dh, dc)
        dx = self.stream.empty(x.shape, x.dtype) if self.wants_x else None
        sums: list[Weights] | None = None
        for segment in reversed(segments):
            steps = slice(segment.start, segment.stop)
            dy_s = None if dy is None else dy[steps]
            found = self._segment(segment, x[steps], None, dy_s, dh, dc, x.shape[0])
            dh, dc = found.dh_0, found.dc_0
            if dx is not None and found.dx is not None:
                self.stream.copy(dx[steps], found.dx)
            sums = self._sum(sums, found.weights)
        return engine.Backward(dx, dh, dc, sums)

    def _segment(
        self,
        segment: Segment,
        x: Array,
        y: Array | None,
        dy: Array | None,
        dh: Array,
        dc: Array | None,
        T: int | None = None,
    ) -> engine.Backward:
        stream, prepared, kept = self.stream, self.run.prepared, segment.kept
        if kept is None or y is None:  # only the state before these steps was kept: run them again
            y = stream.empty((*x.shape[:2], prepared.D * prepared.H_out), x.dtype)
            total = x.shape[0] if T is None else T
            lengths, reset = self.rows.steps(stream, segment.start, segment.stop, total)
            kept = engine.forward(
                prepared,
                stream,
                x,
                y,
                segment.h,
                segment.c,
                lengths=lengths,
                reset=reset,
                reverse=self.run.reverse,
                keep=True,
            ).kept
        assert kept is not None
        return engine.backward(
            prepared,
            stream,
            kept,
            x,
            y,
            dy,
            dh,
            dc,
            wants_x=self.wants_x,
            wants_weights=self.wants_weights,
            per_sample=self.per_sample,
        )

    def _sum(self, sums: list[Weights] | None, found: list[Any] | None) -> list[Weights] | None:
        if sums is None or found is None:
            return found
        for to, of_segment in zip(sums, found, strict=True):
            for a, b in zip(to, of_segment, strict=True):
                if a is not None:
                    elementwise.add(self.stream, a, b)  # type: ignore[arg-type]
        return sums
