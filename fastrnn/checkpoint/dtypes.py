"""Element types: what torch, NumPy and safetensors call them."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np


class DType(NamedTuple):
    """One row of the table; an empty string where there is no such name."""

    torch: str
    storage: str  # the class that torch's files name; without one, UntypedStorage and the dtype
    numpy: str
    safetensors: str


COMPLEX32 = "complex32"  # NumPy has none: widened to complex64
TABLE = (
    DType("float32", "FloatStorage", "float32", "F32"),
    DType("float64", "DoubleStorage", "float64", "F64"),
    DType("float16", "HalfStorage", "float16", "F16"),
    DType("bfloat16", "BFloat16Storage", "bfloat16", "BF16"),
    DType("int64", "LongStorage", "int64", "I64"),
    DType("int32", "IntStorage", "int32", "I32"),
    DType("int16", "ShortStorage", "int16", "I16"),
    DType("int8", "CharStorage", "int8", "I8"),
    DType("uint8", "ByteStorage", "uint8", "U8"),
    DType("bool", "BoolStorage", "bool", "BOOL"),
    DType("complex64", "ComplexFloatStorage", "complex64", "C64"),
    DType("complex128", "ComplexDoubleStorage", "complex128", ""),
    DType("uint16", "", "uint16", "U16"),
    DType("uint32", "", "uint32", "U32"),
    DType("uint64", "", "uint64", "U64"),
    DType("float8_e4m3fn", "", "float8_e4m3fn", "F8_E4M3"),
    DType("float8_e5m2", "", "float8_e5m2", "F8_E5M2"),
    DType("float8_e4m3fnuz", "", "float8_e4m3fnuz", "F8_E4M3FNUZ"),
    DType("float8_e5m2fnuz", "", "float8_e5m2fnuz", "F8_E5M2FNUZ"),
    DType("float8_e8m0fnu", "", "float8_e8m0fnu", "F8_E8M0"),
    DType(COMPLEX32, "", "", ""),
)
BY_TORCH = {row.torch: row for row in TABLE}
BY_STORAGE = {row.storage: row for row in TABLE if row.storage}
BY_NUMPY = {row.numpy: row for row in TABLE if row.numpy}
BY_SAFETENSORS = {row.safetensors: row for row in TABLE if row.safetensors}


@cache
def numpy_dtype(row: DType) -> np.dtype[Any]:
    """NumPy's dtype in the machine's byte order; ml_dtypes, which adds the small floats to NumPy, is imported here."""
    if row.numpy.startswith(("bfloat", "float8")):
        import ml_dtypes  # noqa: F401
    return np.dtype(row.numpy)


def swap_unit(row: DType) -> int:
    """Bytes that are reversed together in a file of the other byte order: a complex number is two numbers."""
    if row.torch == COMPLEX32:
        return 2
    size = numpy_dtype(row).itemsize
    return size // 2 if row.torch.startswith("complex") else size
