"""Copies between arrays of any strides."""

from __future__ import annotations

from functools import cache

from numba import cuda, uint8, uint32, uint64

from .runtime import Array, Kernel, Stream, spread

_NUMBERS = {1: uint8, 4: uint32, 8: uint64}
_AXES = 4


@cache
def _kernel(itemsize, threads):
    def copy(to, source, n1, n2, n3, t0, t1, t2, t3, s0, s1, s2, s3, size):
        i = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
        while i < size:
            rest, i3 = i // n3, i % n3
            rest, i2 = rest // n2, rest % n2
            i0, i1 = rest // n1, rest % n1
            to[i0 * t0 + i1 * t1 + i2 * t2 + i3 * t3] = source[i0 * s0 + i1 * s1 + i2 * s2 + i3 * s3]
            i += cuda.gridDim.x * cuda.blockDim.x

    return Kernel(copy, "ff" + 12 * "n", threads, _NUMBERS[itemsize])


def copy(stream: Stream, to: Array, source: Array) -> None:
    """Elements of an array to another of the same shape."""
    missing = _AXES - to.ndim
    assert missing >= 0
    shape = (1,) * missing + to.shape
    strides = [(0,) * missing + a.strides for a in (to, source)]
    threads, blocks = spread(stream.device, to.size)
    kernel = _kernel(to.dtype.itemsize, threads)
    stream.launch(kernel, (blocks,), [to, source, *shape[1:], *strides[0], *strides[1], to.size])
