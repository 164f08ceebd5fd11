"""exp, sigmoid and tanh without branches, as LLVM values: the same source for Lanes and for numbers.

sigmoid and tanh are those of `_simd.h`, operation by operation. Nothing here has fast-math flags: they would delete the
rounding to an integer in `_reduce`, and let NaN and inf get lost.
"""

from __future__ import annotations

import math
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, overload, type_callable

from .. import elementary
from .lanes import BYTES, FUSED, Lanes, as_lanes, lanes
from .options import INNER


class Value:
    """An LLVM value, vector or number, with operators."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value
        self.count = value.type.count if isinstance(value.type, ir.VectorType) else 0
        self.single = (value.type.element if self.count else value.type) == ir.FloatType()
        self.mantissa, self.bias = (23, 127) if self.single else (52, 1023)

    def constant(self, x: Any) -> Value:
        if isinstance(x, Value):
            return x
        return Value(self.builder, ir.Constant(self.value.type, [x] * self.count if self.count else x))

    def _new(self, value: Any) -> Value:
        return Value(self.builder, value)

    def __add__(self, x: Any) -> Value:
        return self._new(self.builder.fadd(self.value, self.constant(x).value))

    def __sub__(self, x: Any) -> Value:
        return self._new(self.builder.fsub(self.value, self.constant(x).value))

    def __mul__(self, x: Any) -> Value:
        return self._new(self.builder.fmul(self.value, self.constant(x).value))

    def __truediv__(self, x: Value) -> Value:
        return self._new(self.builder.fdiv(self.value, x.value))

    def fma(self, a: Any, b: Any) -> Value:
        """self * a + b: rounded once where FUSED, else twice."""
        return self._call("fmuladd", self, self.constant(a), self.constant(b))

    def at_most(self, limit: float) -> Value:
        """NaN passes."""
        return self._choose(">", limit)

    def at_least(self, limit: float) -> Value:
        return self._choose("<", limit)

    def _choose(self, sign: str, limit: float) -> Value:
        end = self.constant(limit)
        return self._new(
            self.builder.select(self.builder.fcmp_ordered(sign, self.value, end.value), end.value, self.value)
        )

    def __abs__(self) -> Value:
        return self._call("fabs", self)

    def copysign(self, x: Value) -> Value:
        return self._call("copysign", self, x)

    def _call(self, name: str, *args: Value) -> Value:
        suffix = f"v{self.count}" * (self.count > 0) + ("f32" if self.single else "f64")
        function = ir.FunctionType(self.value.type, [self.value.type] * len(args))
        call = cgutils.get_or_insert_function(self.builder.module, function, f"llvm.{name}.{suffix}")
        return self._new(self.builder.call(call, [a.value for a in args]))

    @property
    def magic(self) -> float:
        """Adding it rounds to an integer n and leaves n plus the exponent's bias in the low bits."""
        return 1.5 * 2.0**self.mantissa + self.bias

    def pow2(self) -> Value:
        """2^n of n + magic, 0 for n = -bias and inf for n = bias + 1."""
        integer: Any = ir.IntType(32 if self.single else 64)
        shift: Any = self.mantissa
        if self.count:
            integer, shift = ir.VectorType(integer, self.count), [shift] * self.count
        bits = self.builder.bitcast(self.value, integer)
        return self._new(self.builder.bitcast(self.builder.shl(bits, ir.Constant(integer, shift)), self.value.type))


def _hex(*numbers: str) -> list[float]:
    return [float.fromhex(x) for x in numbers]


# As in `_simd.h`, by whether a number is single: ln 2 in two parts, and the polynomial of `_expm1`.
if FUSED:
    _LN2 = {
        True: _hex("0x1.62e430p-1", "-0x1.05c610p-29"),
        False: _hex("0x1.62e42fefa39efp-1", "0x1.abc9e3b39803fp-56"),
    }
else:  # n * _LN2[0] must be exact
    _LN2 = {True: _hex("0x1.63p-1", "-0x1.bd0106p-13"), False: _hex("0x1.62e42fep-1", "0x1.f473de6af278fp-30")}
_Q = {
    True: _hex("0x1.000002p-1", "0x1.55548ep-3", "0x1.55534cp-5", "0x1.123cf2p-7", "0x1.6dd99ap-10"),
    False: _hex(
        *("0x1.0000000000004p-1", "0x1.5555555555597p-3", "0x1.5555555552170p-5", "0x1.11111111075e0p-7"),
        *("0x1.6c16c17fbb206p-10", "0x1.a01a01bdedb94p-13", "0x1.a019a458171b8p-16", "0x1.71de0aedb681dp-19"),
        *("0x1.28a50a115d4a7p-22", "0x1.af038b3cdbd41p-26"),
    ),
}


def _reduce(x: Value, k: int) -> tuple[Value, Value]:
    """k x = n ln 2 + r with |r| <= ln(2)/2: n + magic, and r."""
    high, low = _LN2[x.single]
    t = x.fma(k * math.log2(math.e), x.magic)
    n = t - x.magic
    r = n.fma(-high, x * k if k > 1 else x)
    return t, r if FUSED and k == 2 else n.fma(-low, r)


def _expm1(r: Value) -> Value:
    """e^r - 1 for |r| <= ln(2)/2."""
    q, r2 = [r.constant(c) for c in _Q[r.single]], r * r
    pairs = [r.fma(q[i + 1], q[i]) for i in range(0, len(q) - 1, 2)]
    if r.single:
        return r2.fma(r2.fma(r2.fma(q[4], pairs[1]), pairs[0]), r)
    r4 = r2 * r2
    a, b, c, d, e = pairs
    return r2.fma(r4.fma(r4.fma(e, r2.fma(d, c)), r2.fma(b, a)), r)


def _sigmoid(x: Value) -> Value:
    """e^x / (e^x + 1)"""
    t, r = _reduce(x.at_most(20.0 if x.single else 40.0).at_least(-x.bias * math.log(2)), 1)
    s, p = t.pow2(), _expm1(r)
    e = s.fma(p, s) if FUSED else s * (p + 1.0)
    return e / s.fma(p, s + 1.0)


def _tanh(x: Value) -> Value:
    """(e^2x - 1) / (e^2x + 1) for |x|, and the sign of x."""
    t, r = _reduce(abs(x).at_most(10.0 if x.single else 20.0), 2)
    s, p = t.pow2(), _expm1(r)
    return (s.fma(p, s - 1.0) / s.fma(p, s + 1.0)).copysign(x)


def _exp(x: Value) -> Value:
    """e^x for every x: 2^n is multiplied in as two factors, since it alone may overflow or be denormal."""
    x = x.at_most(89.0 if x.single else 710.0).at_least(-105.0 if x.single else -746.0)
    t, r = _reduce(x, 1)
    n = t - x.magic
    half = n.fma(0.5, x.magic)
    rest = n - (half - x.magic) + x.magic
    return (_expm1(r) + 1.0) * half.pow2() * rest.pow2()


def _register(function: Any, emit: Any) -> None:
    @type_callable(function)
    def typing(context: Any) -> Any:
        return lambda a: a if isinstance(a, Lanes) else None

    @lower_builtin(function, Lanes)
    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return emit(Value(builder, args[0])).value

    # Numbers are for users' own functions: compiled apart, so that a caller's fastmath does not get in.
    @intrinsic
    def number(tyctx: Any, a: Any) -> Any:
        return a(a), lambda context, builder, sig, args: emit(Value(builder, args[0])).value

    @overload(function, jit_options=INNER)
    def of_number(a):
        if a in (types.float32, types.float64):
            return lambda a: number(a)
        if isinstance(a, types.Integer):
            return lambda a: number(types.float64(a))
        return None


_register(elementary.exp, _exp)
_register(elementary.sigmoid, _sigmoid)
_register(elementary.tanh, _tanh)


def _select_type(condition: Any, a: Any, b: Any) -> Any:
    """Of what `select` gives: Lanes where there are any, else float numbers or truth values that agree."""
    for t in (a, b):
        if isinstance(t, Lanes):
            return t
    if isinstance(condition, Lanes):  # of numbers, as many as there are truth values
        return lanes(types.float32 if BYTES // condition.count == 4 else types.float64)
    if a == b or not isinstance(a, types.Float):
        return b
    return a if not isinstance(b, types.Float) or a.bitwidth > b.bitwidth else b


@type_callable(elementary.select)
def _select_typing(context: Any) -> Any:
    return _select_type


@lower_builtin(elementary.select, types.Any, types.Any, types.Any)
def _select(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    of, values = sig.return_type, zip(args[1:], sig.args[1:], strict=True)
    if isinstance(of, Lanes):
        a, b = (as_lanes(context, builder, x, t, of) for x, t in values)
    else:
        a, b = (context.cast(builder, x, t, of) for x, t in values)
    return builder.select(args[0], a, b)


@type_callable(elementary.zero_like)
def _zero_typing(context: Any) -> Any:
    return lambda a: a


@lower_builtin(elementary.zero_like, types.Any)
def _zero(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return (
        context.get_constant_null(sig.return_type)
        if not isinstance(sig.return_type, Lanes)
        else ir.Constant(args[0].type, None)
    )
