"""One layer, in all its directions, on a GPU: prepare, forward, backward.

The directions lie side by side; direction 0 runs from the first step to the last, direction 1 the other way, and
`reverse` flips that. Strides count elements, what is not said to be strided is contiguous, and rows are in any order:

=================  =======================  ===============================================================
``x``              (T, N, I)                unit stride in the last axis
``w_ih``           (D*G*H, I)               ``w_hh`` (D*G*H, H_out), ``w_hr`` (D*P, H), ``unit`` (D*U*H)
``b_ih``, ``b_hh`` (D*G*H)                  zeros where there is no bias
``gx``             (T, N, D*G*H)            ``x @ w_ih.T``, without a bias
``gh``             (T, N, D*G*H)            ``h_prev @ w_hh.T``, without a bias, for the way back
``y``              (T, N, D*H_out)          unit stride in the last axis
``h``, ``c``       (D, N, H_out), (D, N, C) C = (S-1)*H: all states but h, side by side
``c_all``          (T, N, D*C)              ``u_all`` (T, N, D*H): h before a projection
``dgx``, ``dgh``   (T, N, D*G*H)            one and the same array where only their sum matters
``h_prev_all``     (T, N, D*H_out)          h before each step
``lengths``        int32 (N)                ``reset`` uint8 (T, N)
=================  =======================  ===============================================================

A row runs at t iff ``t < lengths[n]``; where it does not, y and the gradients are 0 and its state stays. Before the
step at t the state counts as zero where ``reset[t]``, backwards where ``reset[t+1]`` and the row ran at t+1: what `gh`
and the state buffers hold is then not looked at. After the last step backwards the state is zero where ``reset[0]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from ..cells import CellSpec, Weights
from ..errors import BackendError
from . import choice, persistent, steps
from .cell import DeviceCell, device_cell
from .elementwise import part_of_lengths
from .gemm import column_sums, gemm
from .runtime import Array, Device, Stream

#: Bytes of gx, where nothing is kept, on the general path and for kernels that run all steps, whose start takes longer.
_CHUNK_BYTES = 256 << 20
_LONG_CHUNK_BYTES = 1 << 30


class Prepared:
    """A layer's weights on the device."""

    _part = False  # of another one, which keeps the memory

    def __init__(self, stream: Stream, spec: CellSpec, weights: Sequence[Weights]) -> None:
        self._stream = stream
        self._streams: set[Stream] = set()
        first = weights[0]
        dtype = first.w_ih.dtype
        self.device, self.spec, self.dtype, self.D = stream.device, spec, dtype, len(weights)
        self.cell: DeviceCell = device_cell(spec, dtype)
        self.I, self.H = first.w_ih.shape[1], len(first.w_ih) // spec.n_gates
        self.H_out = self.H if first.w_hr is None else len(first.w_hr)
        self.C = (spec.n_states - 1) * self.H
        self.GH = spec.n_gates * self.H
        self.has_bias = first.b_ih is not None

        def side_by_side(field: str) -> Array | None:
            parts = [getattr(w, field) for w in weights]
            return None if parts[0] is None else stream.to_device(np.concatenate(parts), wait=False)

        def bias(field: str) -> Array:
            found = side_by_side(field)
            return stream.zeros((self.D * self.GH,), dtype) if found is None else found

        w_ih = side_by_side("w_ih")
        assert w_ih is not None
        self.w_ih = w_ih
        self.w_hh, self.w_hr, self.unit = (side_by_side(field) for field in ("w_hh", "w_hr", "unit"))
        self.b_ih, self.b_hh = bias("b_ih"), bias("b_hh")
        self._w_hh_t: Array | None = None
        stream.synchronize()

    @property
    def recurrent(self) -> bool:
        return self.w_hh is not None

    @property
    def plain(self) -> bool:
        """Whether persistent kernels may be there for the layer."""
        return self.w_hr is None and self.recurrent

    def used_on(self, stream: Stream) -> None:
        self._streams.add(stream)

    def direction(self, d: int) -> Prepared:
        """The weights of one direction."""
        one = copy(self)
        one.D, one._w_hh_t, one._part = 1, None, True
        for name in ("w_ih", "w_hh", "w_hr", "unit", "b_ih", "b_hh"):
            whole: Array | None = getattr(self, name)
            if whole is not None:
                n = whole.shape[0] // self.D
                setattr(one, name, whole[d * n : (d + 1) * n])
        return one

    def w_hh_t(self, stream: Stream) -> Array:
        """(D*H_out, G*H): each direction's weights transposed."""
        if self._w_hh_t is None:
            assert self.w_hh is not None
            turned = stream.empty((self.D, self.H_out, self.GH), self.dtype)
            stream.copy(turned, self.w_hh.reshape(self.D, self.GH, self.H_out).swapaxes(1, 2))
            stream.synchronize()  # others may use it on their streams
            self._w_hh_t = turned.reshape(self.D * self.H_out, self.GH)
        return self._w_hh_t

    def __del__(self) -> None:
        # The memory goes back in the order of the stream it was made on: others may still read it.
        if not self._part and self._streams - {self._stream}:
            for stream in self._streams:
                with suppress(Exception):
                    stream.wait()


class Kept(NamedTuple):
    """What `backward` needs of `forward`, beside x and y."""

    gx: Array
    gh: Array | None  # None without recurrent parts
    c_all: Array | None
    u_all: Array | None
    h_0: Array
    c_0: Array | None
    lengths: Array | None
    reset: Array | None
    reverse: bool


class Forward(NamedTuple):
    h_n: Array  # (D, N, H_out)
    c_n: Array | None  # (D, N, C)
    kept: Kept | None


class Backward(NamedTuple):
    dx: Array | None  # (T, N, I)
    dh_0: Array  # (D, N, H_out)
    dc_0: Array | None
    weights: list[Any] | None  # `Weights` of device arrays, for each direction


def prepare(device: Device, spec: CellSpec, weights: Sequence[Weights]) -> Prepared:
    """Copy the weights of a layer, for each direction, to the device.

    Raises
    ------
    BackendError
        There is not enough memory, or Numba does not understand the cell.
    """
    with device:
        return Prepared(device.stream(), spec, weights)


def forward(
    prepared: Prepared,
    stream: Stream,
    x: Array,
    y: Array,
    h_0: Array,
    c_0: Array | None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    keep: bool = False,
) -> Forward:
    """Run a layer over all steps.

    Parameters
    ----------
    x : (T, N, I) IN
        Any strides, unit in the last axis.
    y : (T, N, D*H_out) OUT
        Likewise.
    h_0 : (D, N, H_out) IN
    c_0 : (D, N, C) IN or None
    lengths : int32 (N,) or None
    reset : uint8 (T, N), contiguous, or None
    keep : bool
        Whether `backward` will be called.

    Raises
    ------
    BackendError
        There is not enough memory, or a kernel of an earlier call on this stream gave up.
    """
    p, (T, N, _), D = prepared, x.shape, prepared.D
    _check_sizes(p, N)
    with stream.device:
        stream.check()
        p.used_on(stream)
        h_n = stream.empty(h_0.shape, p.dtype)
        c_n = None if c_0 is None else stream.empty(c_0.shape, p.dtype)
        kept = _new_kept(p, stream, T, N, h_0, c_0, lengths, reset, reverse) if keep else None
        module = choice.forward(p.spec, p.dtype, p.H, N, D, stream.device, p.plain) if T and N else None
        of_step = N * D * p.GH * p.dtype.itemsize
        if module is not None and kept is None and T > 1 and T * of_step > _LONG_CHUNK_BYTES:
            count = max(1, _LONG_CHUNK_BYTES // of_step)
            return _in_parts(p, stream, x, y, h_0, c_0, lengths, reset, reverse, count)
        if module is None or not persistent.forward(
            module, p, stream, x, y, h_0, c_0, h_n, c_n, lengths, reset, reverse, kept
        ):
            stream.copy(h_n, h_0)
            if c_0 is not None and c_n is not None:
                stream.copy(c_n, c_0)
            steps.forward(p, stream, x, y, h_n, c_n, lengths, reset, reverse, kept, _CHUNK_BYTES)
    return Forward(h_n, c_n, kept)


def _in_parts(
    p: Prepared,
    stream: Stream,
    x: Array,
    y: Array,
    h_0: Array,
    c_0: Array | None,
    lengths: Array | None,
    reset: Array | None,
    reverse: bool,
    count: int,
) -> Forward:
    """`forward`, one direction after the other and `count` steps at a time."""
    T, (D, _, P) = x.shape[0], h_0.shape
    h_n = stream.empty(h_0.shape, p.dtype)
    c_n = None if c_0 is None else stream.empty(c_0.shape, p.dtype)
    for d in range(D):
        one, backwards = p if D == 1 else p.direction(d), bool(d) != reverse
        h, c = h_0[d : d + 1], None if c_0 is None else c_0[d : d + 1]
        for start in range(0, T, count):
            steps_of = slice(start, min(start + count, T))
            if backwards:
                steps_of = slice(T - steps_of.stop, T - steps_of.start)
            of_rows = None if lengths is None else part_of_lengths(stream, lengths, steps_of.start, steps_of.stop)
            found = forward(
                *(one, stream, x[steps_of], y[steps_of, :, d * P : (d + 1) * P], h, c),
                lengths=of_rows,
                reset=None if reset is None else reset[steps_of],
                reverse=backwards,
            )
            h, c = found.h_n, found.c_n
        stream.copy(h_n[d : d + 1], h)
        if c_n is not None and c is not None:
            stream.copy(c_n[d : d + 1], c)
    return Forward(h_n, c_n, None)


def _check_sizes(p: Prepared, N: int) -> None:
    if N * max(p.GH, p.I, p.H_out) >= 1 << 31:
        raise BackendError(f"a batch of {N} rows with {max(p.GH, p.I)} numbers each is too large for the GPU engine")


def _copied(stream: Stream, array: Array) -> Array:
    copy = stream.empty(array.shape, array.dtype)
    stream.copy(copy, array)
    return copy


def _new_kept(
    p: Prepared,
    stream: Stream,
    T: int,
    N: int,
    h_0: Array,
    c_0: Array | None,
    lengths: Array | None,
    reset: Array | None,
    reverse: bool,
) -> Kept:
    def new(there: bool, width: int) -> Array | None:
        return stream.empty((T, N, p.D * width), p.dtype) if there else None

    gx = new(True, p.GH)
    assert gx is not None
    gh, c_all, u_all = new(p.recurrent, p.GH), new(c_0 is not None, p.C), new(p.w_hr is not None, p.H)
    h_0, c_0 = _copied(stream, h_0), None if c_0 is None else _copied(stream, c_0)
    return Kept(gx, gh, c_all, u_all, h_0, c_0, lengths, reset, reverse)


def backward(
    prepared: Prepared,
    stream: Stream,
    kept: Kept,
    x: Array,
    y: Array,
    dy: Array | None,
    dh_n: Array,
    dc_n: Array | None,
    *,
    wants_x: bool,
    wants_weights: bool,
    per_sample: bool = False,
) -> Backward:
    """Backprop through time.

    Parameters
    ----------
    kept, x, y
        Of `forward`.
    dy : (T, N, D*H_out) IN or None
        None: zeros. Any strides, unit in the last axis; not read past a row's length.
    dh_n : (D, N, H_out) IN
    dc_n : (D, N, C) IN or None
    per_sample : bool
        Gradients of the weights with a leading axis N.

    Raises
    ------
    BackendError
        As `forward`.
    """
    p, (T, N, I), D = prepared, x.shape, prepared.D
    with stream.device:
        stream.check()
        p.used_on(stream)
        dh, dc = stream.empty(dh_n.shape, p.dtype), None if dc_n is None else stream.empty(dc_n.shape, p.dtype)
        sums = steps.Sums(p, stream, T, N)
        steps.previous(p, stream, kept, y, sums)
        module = choice.backward(p.spec, p.dtype, p.H, N, D, stream.device, p.plain) if T and N else None
        if module is None or not persistent.backward(module, p, stream, kept, dy, dh_n, dc_n, dh, dc, sums):
            stream.copy(dh, dh_n)
            if dc is not None and dc_n is not None:
                stream.copy(dc, dc_n)
            steps.backward(p, stream, kept, dy, dh, dc, sums)
        dx = None
        if wants_x:
            dx = stream.empty((T, N, I), p.dtype)
            gemm(stream, sums.dgx.reshape(T * N, D * p.GH), p.w_ih, dx.reshape(T * N, I))
        weights = _weight_gradients(p, stream, kept, x, sums, per_sample) if wants_weights else None
    return Backward(dx, dh, dc, weights)


def _weight_gradients(p: Prepared, stream: Stream, kept: Kept, x: Array, sums: Any, per_sample: bool) -> list[Weights]:
    """Products over all steps and rows, or over all steps for each row."""
    (T, N, I), D = x.shape, p.D
    if not x.contiguous:
        x = _copied(stream, x)
    # Rows of a product: (1, T*N, ...), or (N, T, ...).
    B = N if per_sample else 1

    def rows(a: Array) -> Array:
        return a.swapaxes(0, 1) if per_sample else a.reshape(1, T * N, a.shape[2])

    def product(a: Array, b: Array) -> Array:
        """``a.T @ b`` for each direction: (B, D, columns of a, columns of b)."""
        a, b = rows(a), rows(b)
        m, n = a.shape[2] // D, b.shape[2] // D
        out = stream.empty((B, D, m, n), p.dtype)
        for d in range(D):
            gemm(stream, a[..., d * m : (d + 1) * m].swapaxes(1, 2), b[..., d * n : (d + 1) * n], out[:, d])
        return out

    def total(a: Array) -> Array:
        """Sums of columns, (B, D, columns)."""
        width = a.shape[2]
        flat = a.reshape(T, N * width) if per_sample else a.reshape(T * N, width)
        return column_sums(stream, flat).reshape(B, D, width // D)

    found: dict[str, Array] = {}
    w_ih = stream.empty((B, D * p.GH, I), p.dtype)
    gemm(stream, rows(sums.dgx).swapaxes(1, 2), rows(x), w_ih)
    found["w_ih"] = w_ih.reshape(B, D, p.GH, I)
    if p.has_bias:
        found["b_ih"] = total(sums.dgx)
    if p.recurrent:
        found["w_hh"] = product(sums.dgh, sums.h_prev_all)
        if p.has_bias:
            found["b_hh"] = _copied(stream, found["b_ih"]) if sums.dgh is sums.dgx else total(sums.dgh)
    if p.w_hr is not None:
        assert kept.u_all is not None
        found["w_hr"] = product(sums.dp_all, kept.u_all)
    if p.unit is not None:
        of_rows = sums.d_unit  # (D, N, U*H)
        U = p.spec.unit_weights
        unit = stream.empty((B, D, U, p.H), p.dtype)
        for d in range(D):
            to = Array(unit.memory, unit[:, d].pointer, (B, U * p.H), p.dtype, (D * U * p.H, 1))
            stream.copy(to, of_rows[d] if per_sample else column_sums(stream, of_rows[d])[None])
        found["unit"] = unit

    def of_direction(d: int) -> Weights:
        if per_sample:
            return Weights(**{field: a[:, d] for field, a in found.items()})  # type: ignore[arg-type]
        return Weights(**{field: a[0, d] for field, a in found.items()})  # type: ignore[arg-type]

    return [of_direction(d) for d in range(D)]
