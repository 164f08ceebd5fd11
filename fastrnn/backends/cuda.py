"""The GPU engine on NumPy arrays: every call copies its arguments to the device and its results back.

Slow, since the way over is: ``layer.to("cuda")`` keeps arrays on the device from one layer to the next. The device is
FASTRNN_CUDA_DEVICE in the environment, a number, else the first.
"""

from __future__ import annotations

import os
import sys
from typing import Any, NamedTuple

import numpy as np

from ..cells import CellSpec, Weights
from ..cuda import runtime
from ..cuda.runtime import Device
from ..errors import BackendError
from . import Array, Record

CHUNK_STEPS = sys.maxsize  # a sequence is never cut: products over all steps add in an order of their own


def _index() -> int:
    given = os.environ.get("FASTRNN_CUDA_DEVICE") or "0"
    if not given.isdecimal():
        raise ValueError(f"FASTRNN_CUDA_DEVICE should be the number of a GPU, got: {given!r}")
    return int(given)


def _check() -> None:
    """Raises BackendError where there is no GPU. No context is made."""
    if not _index() < (found := runtime.device_count()):
        which = "no GPU" if not found else f"{found} GPUs, numbered from 0, but FASTRNN_CUDA_DEVICE is {_index()}"
        raise BackendError(f"backend 'cuda' cannot run here: there is {which}")


_check()

from ..cuda import engine  # noqa: E402  it takes a second to import


class Prepared(NamedTuple):
    device: Device
    of_engine: Any
    weights: Weights  # for their shapes


def prepare(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare`."""
    device = runtime.device(_index())
    return Prepared(device, engine.prepare(device, spec, [weights]), weights.each(np.empty_like))


def prepare_backward(spec: CellSpec, weights: Weights) -> Prepared:
    """See `backends.Backend.prepare_backward`."""
    return prepare(spec, weights)


def gates_width(prepared: Prepared) -> int:
    """Nothing is kept: to run the way forth again takes less time than to copy what it found."""
    return 0


def empty(shape: tuple[int, ...], dtype: Any) -> Array:
    """See `backends.Backend.empty`."""
    return np.empty(shape, dtype)


class _Call:
    """The arguments of a call on the device."""

    def __init__(
        self, prepared: Prepared, x: Array, h: Array, c: Array | None, lengths: Array | None, reset: Array | None
    ) -> None:
        T, N, _ = x.shape
        self.prepared, self.stream = prepared, prepared.device.stream()
        self.since = self.stream.check()
        self.lengths = lengths
        self.x, self.h, self.c = self.put(x), self.put(h), self.put(c)
        self.y = self.stream.empty((T, N, h.shape[1]), x.dtype)
        self.options: dict[str, Any] = {
            "lengths": None if lengths is None else self.put(lengths.astype(np.int32)),
            "reset": None if reset is None else self.put(reset.astype(np.uint8)),
        }

    def put(self, array: Array | None) -> Any:
        return None if array is None else self.stream.to_device(array, wait=False)

    def forward(self, reverse: bool, keep: bool) -> Any:
        c = None if self.c is None else self.c[None]
        return engine.forward(
            *(self.prepared.of_engine, self.stream, self.x, self.y, self.h[None], c),
            **self.options,
            reverse=reverse,
            keep=keep,
        )

    def give(self, *to: tuple[Array, Any]) -> None:
        """Copy results to arrays: of (T, N, ...) only the steps that were run."""
        found = self.stream.to_hosts([array for _, array in to], self.since)
        for (target, _), values in zip(to, found, strict=True):
            if target.ndim == 3 and self.lengths is not None:
                running = self.lengths > np.arange(len(target))[:, None]
                np.copyto(target, values, where=running[..., None])
            else:
                target[...] = values


def forward(
    prepared: Prepared,
    x: Array,
    y: Array,
    h: Array,
    c: Array | None,
    *,
    lengths: Array | None = None,
    reset: Array | None = None,
    reverse: bool = False,
    c_all: Array | None = None,
    gates: Array | None = None,
) -> None:
    """See `backends.Backend.forward`."""
    with prepared.device:
        call = _Call(prepared, x, h, c, lengths, reset)
        found = call.forward(reverse, keep=c_all is not None)
        results = [(y, call.y), (h, found.h_n[0])]
        if c is not None:
            results.append((c, found.c_n[0]))
        if c_all is not None:
            results.append((c_all, found.kept.c_all))
        call.give(*results)


class Sums(NamedTuple):
    weights: Weights


def new_sums(prepared: Prepared) -> Sums:
    """See `backends.Backend.new_sums`."""
    return Sums(prepared.weights.each(np.zeros_like))


def weight_gradients(sums: Sums) -> Weights:
    """See `backends.Backend.weight_gradients`."""
    return sums.weights.each(np.copy)


def backward(
    prepared: Prepared, record: Record, dy: Array | None, dh: Array, dc: Array | None, dx: Array | None, sums: Any
) -> None:
    """See `backends.Backend.backward`."""
    r = record
    with prepared.device:
        call = _Call(prepared, r.x, r.h_0, r.c_0, r.lengths, r.reset)
        kept = call.forward(r.reverse, keep=True).kept
        found: Any = engine.backward(
            *(prepared.of_engine, call.stream, kept, call.x, call.y, call.put(dy)),
            *(call.put(dh)[None], None if dc is None else call.put(dc)[None]),
            wants_x=dx is not None,
            wants_weights=sums is not None,
        )
        results = [(dh, found.dh_0[0])]
        if dc is not None:
            results.append((dc, found.dc_0[0]))
        if dx is not None:
            results.append((dx, found.dx))
        gradients = prepared.weights.each(np.empty_like)
        if sums is not None:
            pairs = zip(gradients, found.weights[0], strict=True)
            results += [(to, of.reshape(*to.shape)) for to, of in pairs if to is not None]
        call.give(*results)
    if sums is not None:
        for total, part in zip(sums.weights, gradients, strict=True):
            if total is not None:
                total += part
