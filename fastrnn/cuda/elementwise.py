"""Small kernels over whole arrays: what goes on between layers and around them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numba import cuda, float32, float64, int32

from .runtime import Array, Kernel, Stream, spread

_NUMBERS = {"f": float32, "d": float64}


def _launch(stream: Stream, make: Any, dtype: np.dtype[Any], size: int, *arguments: Any) -> None:
    """Run the kernel that `make` gives for `size` elements."""
    if size:
        threads, blocks = spread(stream.device, size)
        stream.launch(make(_NUMBERS[dtype.char], threads), (blocks,), [*arguments, size])


def add(stream: Stream, a: Array, b: Array) -> None:
    """``a += b``, contiguous."""
    _launch(stream, _add, a.dtype, a.size, a, b)


@cache
def _add(number, threads):
    def run(a, b, size):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < size:
            a[i] += b[i]
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "ffn", threads, number)


def drop(stream: Stream, to: Array, a: Array, keep: Array, factor: float) -> None:
    """``to = a * factor`` where `keep`, bytes, is not 0, else ``a * 0``; contiguous, `to` may be `a`."""

    def make(number, threads):
        return _drop(number, threads, factor)

    _launch(stream, make, a.dtype, a.size, to, a, keep)


@cache
def _drop(number, threads, factor):
    by = number(factor)

    def run(to, a, keep, size):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < size:
            to[i] = a[i] * (by if keep[i] != 0 else number(0.0))
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "ffbn", threads, number)


def clear_rows(stream: Stream, a: Array, rows: Array) -> None:
    """Zeros in the rows of `a` (N, ·), contiguous, where `rows` (N,), bytes, is not 0."""
    _launch(stream, _clear_rows, a.dtype, a.size, a, rows, max(a.shape[1], 1))


@cache
def _clear_rows(number, threads):
    def run(a, rows, width, size):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < size:
            if rows[i // width] != 0:
                a[i] = number(0.0)
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "fbnn", threads, number)


def clear_past(stream: Stream, a: Array, lengths: Array) -> None:
    """Zeros in `a` (T, N, ·), contiguous, past the lengths of rows."""
    _, N, width = a.shape
    _launch(stream, _clear_past, a.dtype, a.size, a, lengths, max(N, 1), max(width, 1))


@cache
def _clear_past(number, threads):
    def run(a, lengths, N, width, size):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < size:
            row = i // width
            if row // N >= lengths[row % N]:
                a[i] = number(0.0)
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "finnn", threads, number)


def part_of_lengths(stream: Stream, lengths: Array, start: int, stop: int) -> Array:
    """What lengths (N,), any strides, are of the steps from `start` to `stop` alone; in 0..stop - start."""
    (N,) = lengths.shape
    part = stream.empty((N,), np.int32)
    if N:
        threads, blocks = spread(stream.device, N)
        stream.launch(_part_of_lengths(threads), (blocks,), [part, lengths, lengths.strides[0], start, stop, N])
    return part


@cache
def _part_of_lengths(threads):
    def run(part, lengths, stride, start, stop, N):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < N:
            part[i] = int32(max(0, min(lengths[i * stride], stop) - start))
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(run, "iinnnn", threads, float32)
