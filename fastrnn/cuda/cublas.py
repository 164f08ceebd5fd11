"""cuBLAS by ctypes, from wherever its library is: a wheel, a toolkit, or another library that has loaded it."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from ctypes import byref, c_double, c_float, c_int, c_int64, c_size_t, c_void_p
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import BackendError
from .runtime import Stream

# Of library_types.h and cublas_api.h.
_TYPES = {"f": 0, "d": 1}  # CUDA_R_32F, CUDA_R_64F
_SCALARS = {"f": c_float, "d": c_double}
_COMPUTE = {("f", "ieee"): 68, ("f", "tf32"): 77, ("d", "ieee"): 70, ("d", "tf32"): 70}
_DEFAULT_ALGORITHM = -1


@lru_cache
def _library() -> Any:
    """The library, or None."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib

        path = load_nvidia_dynamic_lib("cublas").abs_path
        library = ctypes.CDLL(path)
        _declare(library)
    except Exception:  # whatever stands in the way: there is another kernel
        return None
    return library


def available() -> bool:
    return _library() is not None


def _declare(library: Any) -> None:
    size, pointer = c_int64, c_void_p
    matrix = [pointer, c_int, size]
    library.cublasCreate_v2.argtypes = [pointer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, c_size_t]
    head = [pointer, c_int, c_int, size, size, size, pointer]
    library.cublasGemmEx_64.argtypes = [*head, *matrix, *matrix, pointer, *matrix, c_int, c_int]
    strided = [*matrix, ctypes.c_longlong]
    library.cublasGemmStridedBatchedEx_64.argtypes = [
        *(*head, *strided, *strided, pointer, *strided),
        *(size, c_int, c_int),
    ]


def _check(status: int, what: str) -> None:
    if status:
        raise BackendError(f"cuBLAS failed: {what} returned status {status}")


_lock = threading.Lock()


def _handle(stream: Stream) -> c_void_p | None:
    """Of this stream, with a workspace of its own: then the same product has the same bits every time."""
    with _lock:
        if "cublas" not in stream.extras:
            library = _library()
            if library is None:
                stream.extras["cublas"] = None
                return None
            handle = c_void_p()
            _check(library.cublasCreate_v2(byref(handle)), "cublasCreate")
            _check(library.cublasSetStream_v2(handle, stream.handle), "cublasSetStream")
            size = (32 if stream.device.capability >= (9, 0) else 4) << 20  # as cuBLAS advises
            workspace = stream.extras["cublas workspace"] = stream.empty((size,), np.uint8)
            _check(library.cublasSetWorkspace_v2(handle, workspace.pointer, size), "cublasSetWorkspace")
            stream.extras["cublas"] = handle
        found: c_void_p | None = stream.extras["cublas"]
        return found


def product(
    stream: Stream, a: Any, b: Any, c: Any, char: str, accumulate: bool, precision: str
) -> Callable[[int, int, int], None] | None:
    """See `gemm.product`; None where cuBLAS is not there or cannot take these strides."""
    of_a, of_b, of_c = _layout(a), _layout(b), _layout(c)
    if of_a is None or of_b is None or of_c is None or of_c[0]:
        return None
    handle = _handle(stream)
    if handle is None:
        return None
    (B, M, K), N = a.shape, b.shape[2]
    kind, compute = _TYPES[char], _COMPUTE[char, precision]
    one, beta = byref(_SCALARS[char](1)), byref(_SCALARS[char](accumulate))
    # cuBLAS counts columns first: it is given c' = b' a'.
    head = handle, int(of_b[0]), int(of_a[0]), N, M, K, one
    between, last = (kind, of_b[1]), (kind, of_a[1])
    end: tuple[int, ...] = (kind, of_c[1], compute, _DEFAULT_ALGORITHM)
    function = _library().cublasGemmEx_64
    if B > 1:
        function = _library().cublasGemmStridedBatchedEx_64
        between, last = (*between, b.strides[0]), (*last, a.strides[0])  # type: ignore[assignment]
        end = (kind, of_c[1], c.strides[0], B, compute, _DEFAULT_ALGORITHM)

    def run(a_pointer: int, b_pointer: int, c_pointer: int) -> None:
        status = function(*head, b_pointer, *between, a_pointer, *last, beta, c_pointer, *end)
        if status:
            raise BackendError(f"cuBLAS failed with status {status}: a product of {M} x {K} and {K} x {N}, {B} times")

    return run


def _layout(a: Any) -> tuple[bool, int] | None:
    """Whether matrices are given transposed, and their leading dimension; None where neither fits."""
    _, rows, columns = a.shape
    _, of_row, of_column = a.strides
    if columns == 1 or of_column == 1:
        leading = of_row if rows > 1 else max(columns, 1)
        if leading >= max(columns, 1):
            return False, leading
    if rows == 1 or of_row == 1:
        leading = of_column if columns > 1 else max(rows, 1)
        if leading >= max(rows, 1):
            return True, leading
    return None
