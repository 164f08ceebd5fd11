"""The general path: a matrix product and a kernel of `general` for each step. Shapes are in `engine`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from . import general
from .gemm import gemm, product
from .runtime import Array, Stream, address, shifted, spread

if TYPE_CHECKING:
    from .engine import Kept, Prepared


Rows = tuple["Array | None", "Array | None"]  # lengths, reset


class Sums:
    """What a way back leaves for the products over all steps."""

    def __init__(self, p: Prepared, stream: Stream, T: int, N: int) -> None:
        D = p.D

        def new(there: bool, *shape: int) -> Any:
            return stream.empty(shape, p.dtype) if there else None

        self.dgx: Array = stream.empty((T, N, D * p.GH), p.dtype)
        self.dgh: Any = self.dgx if p.cell.sums_only else new(p.recurrent, T, N, D * p.GH)
        self.h_prev_all: Array = stream.empty((T, N, D * p.H_out), p.dtype)
        self.dp_all: Any = new(p.w_hr is not None, T, N, D * p.H_out)
        self.d_unit: Any = stream.zeros((D, N, p.cell.U * p.H), p.dtype) if p.cell.U else None


def input_part(p: Prepared, stream: Stream, x: Array, gx: Array, directions: slice = slice(None)) -> None:
    """``gx = x @ w_ih.T``, of all directions or some: x (T, N, I) of any strides, gx (T, N, D*G*H)."""
    T, N, I = x.shape
    w = p.w_ih.reshape(p.D, p.GH, I)[directions]
    w = w.reshape(-1, I).swapaxes(0, 1)
    rows, to = x.merged(), gx.merged()
    if rows is not None and to is not None:
        gemm(stream, rows, w, to)
    elif T >= N:  # as rows of a batch-first array lie: a product for each
        for_each = Array(w.memory, w.pointer, (N, *w.shape), w.dtype, (0, *w.strides))
        gemm(stream, x.swapaxes(0, 1), for_each, gx.swapaxes(0, 1))
    else:
        for_each = Array(w.memory, w.pointer, (T, *w.shape), w.dtype, (0, *w.strides))
        gemm(stream, x, for_each, gx)


def forward(
    p: Prepared,
    stream: Stream,
    x: Array,
    y: Array,
    h: Array,
    c: Array | None,
    lengths: Array | None,
    reset: Array | None,
    reverse: bool,
    kept: Kept | None,
    chunk_bytes: int,
) -> None:
    """Run all steps; h (D, N, H_out) and c (D, N, C) are INOUT."""
    (T, N, _), D, GH = x.shape, p.D, p.GH
    if not T * N:
        return
    at = partial(address, stream=stream)
    rows: Rows = lengths, reset
    u = None if p.w_hr is None else stream.empty((D, N, p.H), p.dtype)
    aside = kept is not None and p.recurrent and D == 2  # a product cannot write to two times at once
    threads, blocks = spread(stream.device, N * p.H)
    options = {"keep": kept is not None, "projection": u is not None, "aside": aside}
    kernel = general.forward(p.cell, threads, **_options(rows), **options)
    launch = stream.launcher(kernel, (blocks, D))
    recur = _Recurrence(p, stream, h, T, kept, aside, reverse) if p.recurrent else None
    project = None if u is None else _projection(p, stream, u, h, y, rows, T, reverse)

    steps = T if kept is not None else max(1, min(T, chunk_bytes // (N * D * GH * p.dtype.itemsize)))
    gx = kept.gx if kept is not None else stream.empty((steps, N, D * GH), p.dtype)
    outputs = (at(kept.gh), at(kept.c_all), at(kept.u_all)) if kept else (stream.nothing.pointer,) * 3
    middle = (p.b_ih.pointer, p.b_hh.pointer, at(p.unit), h.pointer, at(c), at(u), y.pointer, *y.strides[:2], *outputs)
    end = (at(lengths), at(reset), N, p.H, T, int(reverse))
    for start in range(0, T, steps):
        stop = min(start + steps, T)
        _input_parts(p, stream, x, gx, start, stop, reverse)
        fixed = (gx.pointer, *gx.strides[:2], start, T - stop, *middle, *end)
        if recur is None:
            launch(*fixed, stream.nothing.pointer, start, stop)
            continue
        for s in range(start, stop):
            launch(*fixed, recur.multiply(s), s, s + 1)
            if project is not None:
                project(s)


def _options(rows: Rows) -> dict[str, bool]:
    return {"ragged": rows[0] is not None, "resets": rows[1] is not None}


class _Recurrence:
    """``gh = h @ w_hh.T`` for each step: (D, N, G*H), or the step's place among those that are kept."""

    def __init__(
        self, p: Prepared, stream: Stream, h: Array, T: int, kept: Kept | None, aside: bool, reverse: bool
    ) -> None:
        assert p.w_hh is not None
        D, N, H_out = h.shape
        if kept is None or aside:
            self._gh, step = stream.empty((D, N, p.GH), p.dtype), 0
        else:
            assert kept.gh is not None
            self._gh, step = kept.gh[0].reshape(1, N, p.GH), N * p.GH
        weights = p.w_hh.reshape(D, p.GH, H_out).swapaxes(1, 2)
        self._product = partial(product(stream, h, weights, self._gh), h.pointer, weights.pointer)
        self._itemsize, self._step, self._last = p.dtype.itemsize, step, T - 1 if reverse else None

    def multiply(self, s: int) -> Any:
        """Of step s: where it is."""
        t = s if self._last is None else self._last - s
        to = shifted(self._gh.pointer, t * self._step, self._itemsize)
        self._product(to)
        return to


def _projection(
    p: Prepared, stream: Stream, u: Array, h: Array, y: Array, rows: Rows, T: int, reverse: bool
) -> Callable[[int], None]:
    """What makes h and y of u (D, N, H) in a step."""
    assert p.w_hr is not None
    D, N, P = h.shape
    projected = stream.empty((D, N, P), p.dtype)
    weights = p.w_hr.reshape(D, P, p.H).swapaxes(1, 2)
    multiply = partial(product(stream, u, weights, projected), u.pointer, weights.pointer, projected.pointer)
    threads, blocks = spread(stream.device, N * P)
    launch = stream.launcher(general.project(p.cell.number, threads, **_options(rows)), (blocks, D))
    of_rows = [address(a, stream) for a in rows]
    fixed = (projected.pointer, h.pointer, y.pointer, *y.strides[:2], *of_rows, N, P, T, int(reverse))

    def run(s: int) -> None:
        multiply()
        launch(*fixed, s)

    return run


def _input_parts(p: Prepared, stream: Stream, x: Array, gx: Array, start: int, stop: int, reverse: bool) -> None:
    """Fill `gx` for the steps from `start` to `stop` in the order of each direction."""
    T, n = x.shape[0], stop - start
    if n == T:
        input_part(p, stream, x, gx)
        return
    for d in range(p.D):
        first = T - stop if bool(d) != reverse else start
        of_direction = gx[:n, :, d * p.GH : (d + 1) * p.GH]
        input_part(p, stream, x[first : first + n], of_direction, slice(d, d + 1))


def previous(p: Prepared, stream: Stream, kept: Kept, y: Array, sums: Sums) -> None:
    """Fill ``sums.h_prev_all``."""
    T, N, _ = y.shape
    if not T * N:
        return
    lengths, reset = kept.lengths, kept.reset
    threads, blocks = spread(stream.device, N * p.H_out)
    kernel = general.previous(p.cell.number, threads, ragged=lengths is not None, resets=reset is not None)
    many = 2 if stream.device.simulated else max(1, min(T, 16 * stream.device.multiprocessors // blocks))
    stream.launch(
        kernel,
        (blocks, p.D, many),
        [
            *(sums.h_prev_all, y, *y.strides[:2], kept.h_0, address(lengths, stream), address(reset, stream)),
            *(N, p.H_out, T, int(kept.reverse)),
        ],
    )


def backward(
    p: Prepared, stream: Stream, kept: Kept, dy: Array | None, dh: Array, dc: Array | None, sums: Sums
) -> None:
    """Backprop through all steps; dh (D, N, H_out) and dc (D, N, C) are INOUT."""
    (T, N, _), D = kept.gx.shape, p.D
    if not T * N:
        return
    at = partial(address, stream=stream)
    rows: Rows = kept.lengths, kept.reset
    aside = p.recurrent and D == 2  # a product cannot read from two times at once
    du = None if p.w_hr is None else stream.empty((D, N, p.H), p.dtype)
    threads, blocks = spread(stream.device, N * p.H)
    options = {"has_dy": dy is not None and du is None, "projection": du is not None, "aside": aside}
    kernel = general.backward(p.cell, threads, **_options(rows), **options)
    launch = stream.launcher(kernel, (blocks, D))
    dgh = stream.empty((D, N, p.GH), p.dtype) if aside else None
    of_dy = _strided(dy, stream)
    fixed = (
        *(kept.gx.pointer, *kept.gx.strides[:2], at(kept.gh), p.b_ih.pointer, p.b_hh.pointer, at(p.unit)),
        *(sums.h_prev_all.pointer, at(kept.c_0), at(kept.c_all), *of_dy, at(dh if du is None else du), at(dc)),
        *(sums.dgx.pointer, at(sums.dgh), at(dgh), at(sums.d_unit)),
        *(at(kept.lengths), at(kept.reset), N, p.H, T, int(kept.reverse)),
    )
    if not p.recurrent:
        launch(*fixed, 0, T)
    else:
        recur = _recurrence_back(p, stream, sums.dgh if dgh is None else dgh, dh, T, kept.reverse)
        project = None if du is None else _projection_back(p, stream, kept, dy, dh, du, sums)
        for s in range(T):
            if project is not None:
                project(s)
            launch(*fixed, s, s + 1)
            recur(s)
    if kept.reset is not None:
        _cut_initial(p, stream, kept, dh, dc)


def _strided(dy: Array | None, stream: Stream) -> tuple[Any, int, int]:
    """As kernels take it."""
    return (stream.nothing.pointer, 0, 0) if dy is None else (dy.pointer, dy.strides[0], dy.strides[1])


def _recurrence_back(
    p: Prepared, stream: Stream, dgh: Array, dh: Array, T: int, reverse: bool
) -> Callable[[int], None]:
    """``dh += dgh @ w_hh`` for each step, counted from the one that was run last; dgh (D, N, G*H), or of all steps."""
    assert p.w_hh is not None
    D, N, H_out = dh.shape
    weights, itemsize, first, step = p.w_hh.reshape(D, p.GH, H_out), p.dtype.itemsize, dgh.pointer, 0
    if D == 1:
        dgh, step = dgh[0].reshape(1, N, p.GH), N * p.GH
    multiply = product(stream, dgh, weights, dh, accumulate=True)

    def run(s: int) -> None:
        t = s if reverse else T - 1 - s
        multiply(shifted(first, t * step, itemsize), weights.pointer, dh.pointer)

    return run


def _projection_back(
    p: Prepared, stream: Stream, kept: Kept, dy: Array | None, dh: Array, du: Array, sums: Sums
) -> Callable[[int], None]:
    """What makes the gradient of u (D, N, H) of `dh` and dy in a step, and of `dh` what is left of it."""
    assert p.w_hr is not None
    (D, N, P), T, rows = dh.shape, kept.gx.shape[0], (kept.lengths, kept.reset)
    dp, weights = stream.empty((D, N, P), p.dtype), p.w_hr.reshape(D, P, p.H)
    multiply = partial(product(stream, dp, weights, du), dp.pointer, weights.pointer, du.pointer)
    threads, blocks = spread(stream.device, N * P)
    kernel = general.before_projection(p.cell.number, threads, **_options(rows), has_dy=dy is not None)
    launch = stream.launcher(kernel, (blocks, D))
    of_rows = [address(a, stream) for a in rows]
    fixed = (dh.pointer, *_strided(dy, stream), dp.pointer, sums.dp_all.pointer, *of_rows, N, P, T, int(kept.reverse))

    def run(s: int) -> None:
        launch(*fixed, s)
        multiply()

    return run


def _cut_initial(p: Prepared, stream: Stream, kept: Kept, *gradients: Array | None) -> None:
    """No gradient reaches an initial state that was reset before the first step."""
    lengths, reset = kept.lengths, kept.reset
    for gradient in gradients:
        if gradient is not None and gradient.size:
            D, N, width = gradient.shape
            threads, blocks = spread(stream.device, N * width)
            kernel = general.cut_initial(p.cell.number, threads, ragged=lengths is not None)
            stream.launch(
                kernel,
                (blocks, D),
                [gradient, address(lengths, stream), reset, N, width, int(kept.reverse)],
            )
