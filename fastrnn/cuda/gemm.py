"""Matrix products on the device, by cuBLAS where it is found, else by a kernel of our own; and sums of columns."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

from numba import cuda, float32, float64

from ..backends import cuda_precision
from .runtime import Array, Kernel, Stream

_NUMBERS = {"f": float32, "d": float64}


class Matrices(NamedTuple):
    """B matrices, as an array has them."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]


Product = Callable[[Any, Any, Any], None]


def gemm(stream: Stream, a: Array, b: Array, c: Array, *, accumulate: bool = False) -> None:
    """``c = a @ b``, or ``c += a @ b``.

    Parameters
    ----------
    a : (M, K) or (B, M, K)
        A transposed array is one whose axes were swapped.
    b : (K, N) or (B, K, N)
    c : (M, N) or (B, M, N)
        With unit stride in the last axis.
    """
    product(stream, a, b, c, accumulate=accumulate)(a.pointer, b.pointer, c.pointer)


def product(stream: Stream, a: Array, b: Array, c: Array, *, accumulate: bool = False) -> Product:
    """The same as a function of three pointers, for products that are many; of the given shapes and strides."""
    if a.ndim == 2:
        given = [Matrices((1, *array.shape), (0, *array.strides)) for array in (a, b, c)]
    else:
        given = [Matrices(array.shape, array.strides) for array in (a, b, c)]
    return _product(stream, *given, c.dtype.char, accumulate, cuda_precision())


@lru_cache(1000)
def _product(
    stream: Stream, a: Matrices, b: Matrices, c: Matrices, char: str, accumulate: bool, precision: str
) -> Product:
    (B, M, K), N = a.shape, b.shape[2]
    assert b.shape == (B, K, N)
    assert c.shape == (B, M, N)
    assert c.strides[2] == 1 or N == 1
    if not B * M * N:
        return lambda a, b, c: None
    if not K:
        return _nothing_to_add(stream, c, char, accumulate)
    found: Product | None = None
    if not stream.device.simulated:
        found = import_module(f"{__package__}.cublas").product(stream, a, b, c, char, accumulate, precision)
    return found or _own(stream, a, b, c, char, accumulate)


def _nothing_to_add(stream: Stream, c: Matrices, char: str, accumulate: bool) -> Product:
    def run(a: Any, b: Any, pointer: Any) -> None:
        if not accumulate:
            zeros = Array(None, stream.nothing.pointer, c.shape, char, (0, 0, 0))
            stream.copy(Array(None, pointer, c.shape, char, c.strides), zeros)

    return run


# ---- a kernel of our own --------------------------------------------------------------------------------------------


@cache
def _tiled(number, tile, depth, each):
    """A block makes a tile of c, a thread `each` x `each` of it; a and b pass through shared memory, `depth` deep."""
    across = tile // each
    threads = across * across
    loads = tile * depth // threads
    slab, own = tile * depth, each * each

    def tiled(a, a_b, a_m, a_k, b, b_b, b_k, b_n, c, c_b, c_m, M, N, K, batches, accumulate):
        of_a = cuda.shared.array(slab, number)  # [k][m]
        of_b = cuda.shared.array(slab, number)  # [k][n]
        sums = cuda.local.array(own, number)
        thread = cuda.threadIdx.x
        row, column = thread // across, thread % across
        m_0, n_0 = cuda.blockIdx.x * tile, cuda.blockIdx.y * tile
        batch = cuda.blockIdx.z
        while batch < batches:
            for i in range(own):
                sums[i] = number(0.0)
            k_0 = 0
            while k_0 < K:
                for i in range(loads):
                    e = thread + i * threads
                    # Neighbouring threads take neighbours in memory.
                    k, m = (e % depth, e // depth) if a_k == 1 else (e // tile, e % tile)
                    value = number(0.0)
                    if m_0 + m < M and k_0 + k < K:
                        value = a[batch * a_b + (m_0 + m) * a_m + (k_0 + k) * a_k]
                    of_a[k * tile + m] = value
                    k, n = (e // tile, e % tile) if b_n == 1 else (e % depth, e // depth)
                    value = number(0.0)
                    if n_0 + n < N and k_0 + k < K:
                        value = b[batch * b_b + (k_0 + k) * b_k + (n_0 + n) * b_n]
                    of_b[k * tile + n] = value
                cuda.syncthreads()
                for k in range(depth):
                    for i in range(each):
                        left = of_a[k * tile + row + i * across]
                        for j in range(each):
                            sums[i * each + j] += left * of_b[k * tile + column + j * across]
                cuda.syncthreads()
                k_0 += depth
            for i in range(each):
                for j in range(each):
                    m, n = m_0 + row + i * across, n_0 + column + j * across
                    if m < M and n < N:
                        at = batch * c_b + m * c_m + n
                        c[at] = c[at] + sums[i * each + j] if accumulate != 0 else sums[i * each + j]
            batch += cuda.gridDim.z

    return Kernel(tiled, "fnnnfnnnfnnnnnnn", threads, number)


def _own(stream: Stream, a: Matrices, b: Matrices, c: Matrices, char: str, accumulate: bool) -> Product:
    tile, depth, each = (12, 4, 6) if stream.device.simulated else (64, 16, 4)
    (B, M, K), N = a.shape, b.shape[2]
    kernel = _tiled(_NUMBERS[char], tile, depth, each)
    launch = stream.launcher(kernel, (-(-M // tile), -(-N // tile), min(B, 65535)))
    rest = (*c.strides[:2], M, N, K, B, int(accumulate))

    def run(a_pointer: Any, b_pointer: Any, c_pointer: Any) -> None:
        launch(a_pointer, *a.strides, b_pointer, *b.strides, c_pointer, *rest)

    return run


# ---- sums of columns ------------------------------------------------------------------------------------------------


@cache
def _sums(number, columns, lanes):
    threads = columns * lanes

    def sums(a, a_r, out, R, C, rows):
        of_lanes = cuda.shared.array(threads, number)
        lane, column = cuda.threadIdx.x // columns, cuda.blockIdx.x * columns + cuda.threadIdx.x % columns
        part = cuda.blockIdx.y
        total = number(0.0)
        if column < C:
            r = part * rows + lane
            end = min(R, (part + 1) * rows)
            while r < end:
                total += a[r * a_r + column]
                r += lanes
        of_lanes[cuda.threadIdx.x] = total
        cuda.syncthreads()
        if lane == 0 and column < C:
            for i in range(1, lanes):
                total += of_lanes[i * columns + cuda.threadIdx.x]
            out[part * C + column] = total

    return Kernel(sums, "fnfnnn", threads, number)


def column_sums(stream: Stream, a: Array) -> Array:
    """The sum of the rows of `a` (R, C): (C,). Always added in the same order."""
    R, C = a.shape
    columns, lanes, rows = (8, 2, 8) if stream.device.simulated else (32, 8, 256)
    number = _NUMBERS[a.dtype.char]
    if R == 0 or C == 0:
        return stream.zeros((C,), a.dtype)
    while True:
        parts = min(-(-R // rows), 65535)
        of_part = -(-R // parts)
        out = stream.empty((parts, C), a.dtype)
        kernel = _sums(number, columns, lanes)
        stream.launch(kernel, (-(-C // columns), parts), [a, a.strides[0], out, R, C, of_part])
        a, R = out, parts
        if parts == 1:
            return out[0]
