"""exp, sigmoid, tanh, select and zero_like of numbers in compiled code, with nothing of Numba but its public functions.

For `plain`; for lanes it is `gates`. The arithmetic is that of `_simd.h` without fused multiply-adds: no branch and no
call, so that LLVM makes vectors of it, and NaN stays NaN.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload

from .. import elementary
from .options import INNER

# Of `_simd.h`: ln 2 in two parts, of which multiples of the first are exact, and e^r - 1 = r + r^2 q(r).
_LN2_32 = "0x1.63p-1", "-0x1.bd0106p-13"
_LN2_64 = "0x1.62e42fep-1", "0x1.f473de6af278fp-30"
_Q_32 = "0x1.000002p-1", "0x1.55548ep-3", "0x1.55534cp-5", "0x1.123cf2p-7", "0x1.6dd99ap-10"
_Q_64 = (
    *("0x1.0000000000004p-1", "0x1.5555555555597p-3", "0x1.5555555552170p-5", "0x1.11111111075e0p-7"),
    *("0x1.6c16c17fbb206p-10", "0x1.a01a01bdedb94p-13", "0x1.a019a458171b8p-16", "0x1.71de0aedb681dp-19"),
    *("0x1.28a50a115d4a7p-22", "0x1.af038b3cdbd41p-26"),
)


def _numbers(real: Any, *numbers: float | str) -> tuple[Any, ...]:
    """Constants of one type, lest others be widened by them."""
    return tuple(real(float.fromhex(x) if isinstance(x, str) else x) for x in numbers)


def _expm1_32():
    q = _numbers(np.float32, *_Q_32)

    @njit(**INNER)
    def expm1(r):
        """e^r - 1 for |r| <= ln(2)/2, by Estrin's scheme."""
        r2 = r * r
        return r2 * (r2 * (r2 * q[4] + (r * q[3] + q[2])) + (r * q[1] + q[0])) + r

    return expm1


def _expm1_64():
    q = _numbers(np.float64, *_Q_64)

    @njit(**INNER)
    def expm1(r):
        r2 = r * r
        r4 = r2 * r2
        low = r2 * (r * q[3] + q[2]) + (r * q[1] + q[0])
        middle = r2 * (r * q[7] + q[6]) + (r * q[5] + q[4])
        return r2 * (r4 * (r4 * (r * q[9] + q[8]) + middle) + low) + r

    return expm1


def _functions(real: Any, integer: Any, ln2: tuple[str, str], expm1: Any, ends: tuple[float, ...]) -> tuple[Any, ...]:
    """exp, sigmoid and tanh of one type of numbers."""
    info = np.finfo(real)
    bias = info.maxexp - 1
    mantissa, sign_bit = integer(info.nmant), np.iinfo(integer).min
    one, half, log2_e, ln2, ln2_rest = _numbers(real, 1, 0.5, math.log2(math.e), *ln2)
    exp_min, exp_max, sigmoid_max, tanh_max, sigmoid_min = _numbers(real, *ends, -bias * math.log(2))
    # Adding it rounds to an integer, and leaves that plus the exponent's bias in the low bits.
    magic = real(1.5 * 2.0**info.nmant + bias)

    @njit(**INNER)
    def reduced(x):
        """n + magic and r of x = n ln 2 + r, where |r| <= ln(2)/2."""
        t = x * log2_e + magic
        n = t - magic
        return t, x - n * ln2 - n * ln2_rest

    @njit(**INNER)
    def pow2(t):
        """2^n of n + magic, 0 for n = -bias."""
        number = real(t)
        power = integer(number.view(integer) << mantissa)
        return power.view(real)

    @njit(**INNER)
    def exp(x):
        x = exp_max if x > exp_max else x
        x = exp_min if x < exp_min else x
        t, r = reduced(x)
        # 2^n in two factors, since it alone may overflow or be denormal.
        n = t - magic
        part = n * half + magic
        return (expm1(r) + one) * pow2(part) * pow2(n - (part - magic) + magic)

    @njit(**INNER)
    def sigmoid(x):
        """e^x / (e^x + 1)"""
        x = sigmoid_max if x > sigmoid_max else x
        x = sigmoid_min if x < sigmoid_min else x
        t, r = reduced(x)
        s, p = pow2(t), expm1(r)
        return s * (p + one) / (s * p + (s + one))

    @njit(**INNER)
    def tanh(x):
        """(e^2x - 1) / (e^2x + 1) for |x|, and the sign of x."""
        number = real(x)
        bits = integer(number.view(integer))
        sign = integer(bits & sign_bit)
        positive = integer(bits ^ sign)
        size = positive.view(real)
        size = tanh_max if size > tanh_max else size
        t, r = reduced(size + size)
        s, p = pow2(t), expm1(r)
        result = real((s * p + (s - one)) / (s * p + (s + one)))
        signed = integer(result.view(integer) | sign)
        return signed.view(real)

    return exp, sigmoid, tanh


# The ends: below and above them exp is 0 and inf, sigmoid and tanh are 1.
_OF_32 = _functions(np.float32, np.int32, _LN2_32, _expm1_32(), (-105, 89, 20, 10))
_OF_64 = _functions(np.float64, np.int64, _LN2_64, _expm1_64(), (-746, 710, 40, 20))


def _register(function: Any, of_32: Any, of_64: Any) -> None:
    @overload(function, jit_options=INNER)
    def of_number(a):
        if a == types.float32:
            return lambda a: of_32(a)
        if isinstance(a, types.Float | types.Integer):
            return lambda a: of_64(types.float64(a))
        return None


for _i, _function in enumerate((elementary.exp, elementary.sigmoid, elementary.tanh)):
    _register(_function, _OF_32[_i], _OF_64[_i])


@overload(elementary.select, jit_options=INNER)
def _select(condition, a, b):
    # A literal is float64, and should not make float64 of float32; as in NumPy.
    single = types.float32 in (a, b)
    number: Any = types.float32 if single else types.float64
    if not isinstance(a, types.Float) and not isinstance(b, types.Float):
        return lambda condition, a, b: a if condition else b

    def impl(condition, a, b):
        x, y = number(a), number(b)
        return x if condition else y

    return impl


@overload(elementary.zero_like, jit_options=INNER)
def _zero_like(a):
    zero = np.float32(0) if a == types.float32 else 0.0 if isinstance(a, types.Float) else 0
    return lambda a: zero
