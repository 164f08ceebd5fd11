"""A SIMD vector as a Numba type, and pointers: what the loops of this folder are written in.

A value of type ``Lanes(float32, 16)`` is one LLVM vector. Numba keeps it in a register, as it keeps a number, and on a
smaller processor LLVM splits it. Arithmetic on it has no fast-math flags: NaN and inf travel, and every result is
rounded as NumPy rounds it, so that one element's bits do not depend on what else the compiler sees.

This file, `gates.py` and `tile.py` are the only ones that know LLVM.
"""

from __future__ import annotations

import operator
import os
import platform
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_getattr_generic, lower_setattr_generic
from numba.core.registry import cpu_target
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import (
    intrinsic,
    lower_builtin,
    models,
    register_model,
    type_callable,
)


def _lane_bytes() -> int:
    forced = os.environ.get("FASTRNN_LANE_BYTES")
    if forced:
        if forced not in ("16", "32", "64"):
            raise ValueError(f"FASTRNN_LANE_BYTES should be 16, 32 or 64, got: {forced!r}")
        return int(forced)
    _, name, features = cpu_target.target_context.codegen().magic_tuple()
    known = set(features.split(","))
    return 64 if "+avx512f" in known or name == "x86-64-v4" else 32 if "+avx2" in known or name == "x86-64-v3" else 16


BYTES = _lane_bytes()  # of one register
X86 = platform.machine().lower() in ("x86_64", "amd64", "i386", "i686")
FUSED = BYTES > 16 or not X86  # whether fmuladd is one instruction with one rounding
REGISTERS = 32 if BYTES == 64 or not X86 else 16

I32, I64, BYTE = ir.IntType(32), ir.IntType(64), ir.IntType(8)


class Lanes(types.Type):
    """`count` numbers of one dtype, or truth values."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(name=f"Lanes({dtype}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Lanes) -> None:
        of = ir.IntType(1) if fe_type.dtype is types.boolean else dmm.lookup(fe_type.dtype).get_value_type()
        super().__init__(dmm, fe_type, ir.VectorType(of, fe_type.count))


def lanes(dtype: Any) -> Lanes:
    """What fills one register."""
    return Lanes(dtype, BYTES * 8 // dtype.bitwidth)


def splat(builder: Any, x: Any, count: int) -> Any:
    vector = ir.VectorType(x.type, count)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), x, ir.Constant(I32, 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(I32, count), [0] * count)
    )


# ---- arithmetic and comparisons, with numbers on either side ------------------------------------------------------


def as_lanes(context: Any, builder: Any, x: Any, from_type: Any, to: Lanes) -> Any:
    if isinstance(from_type, Lanes):
        return x
    return splat(builder, context.cast(builder, x, from_type, to.dtype), to.count)


def _operator(op: Any, emit: Callable[[Any, Any, Any], Any], truth: bool = False) -> None:
    @type_callable(op)
    def typing(context: Any) -> Any:
        def typer(a: Any, b: Any) -> Any:
            v = a if isinstance(a, Lanes) else b
            if isinstance(v, Lanes) and all(t == v or isinstance(t, types.Number) for t in (a, b)):
                return Lanes(types.boolean, v.count) if truth else v
            return None

        return typer

    def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        v = next(t for t in sig.args if isinstance(t, Lanes))
        a, b = (as_lanes(context, builder, x, t, v) for x, t in zip(args, sig.args, strict=True))
        return emit(builder, a, b)

    for kinds in ((Lanes, Lanes), (Lanes, types.Number), (types.Number, Lanes)):
        lower_builtin(op, *kinds)(lower)


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))
_operator(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), truth=True)
_operator(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), truth=True)
_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), truth=True)
_operator(operator.ge, lambda builder, a, b: builder.fcmp_ordered(">=", a, b), truth=True)


@type_callable(operator.neg)
def _neg_typing(context: Any) -> Any:
    return lambda a: a if isinstance(a, Lanes) else None


@lower_builtin(operator.neg, Lanes)
def _neg(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0])


# ---- pointers -----------------------------------------------------------------------------------------------------
# Numba's CPointer, of which it knows p[i]; here are p + i, counted in elements, and ways to make one.


@type_callable(operator.add)
def _add_typing(context: Any) -> Any:
    return lambda p, i: p if isinstance(p, types.CPointer) and isinstance(i, types.Integer) else None


@lower_builtin(operator.add, types.CPointer, types.Integer)
def _add(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.gep(args[0], [context.cast(builder, args[1], sig.args[1], types.intp)])


def _at(of: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.inttoptr(args[-1], context.get_value_type(sig.return_type))

    return types.CPointer(of), gen


@intrinsic
def reals(tyctx: Any, like: Any, address: Any) -> Any:
    """The address as a pointer to numbers of the dtype that `like` has."""
    pointer, gen = _at(like.dtype)
    return pointer(like, types.intp), gen


@intrinsic
def indices(tyctx: Any, address: Any) -> Any:
    pointer, gen = _at(types.intp)
    return pointer(types.intp), gen


@intrinsic
def flags(tyctx: Any, address: Any) -> Any:
    pointer, gen = _at(types.uint8)
    return pointer(types.intp), gen


@intrinsic
def address(tyctx: Any, p: Any) -> Any:
    """The other way round; of a contiguous array: where its first element is."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        at = context.make_array(p)(context, builder, args[0]).data if isinstance(p, types.Array) else args[0]
        return builder.ptrtoint(at, I64)

    return types.intp(p), gen


# ---- structs ------------------------------------------------------------------------------------------------------


class Struct(types.Type):
    """A NamedTuple of integers that lies in memory as an array of them: passed on as one pointer, it compiles fast."""

    def __init__(self, of: Any) -> None:
        self.fields: tuple[str, ...] = of._fields
        super().__init__(name=f"Struct({of.__name__})")


@register_model(Struct)
class _StructModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Struct) -> None:
        super().__init__(dmm, fe_type, I64.as_pointer())


@infer_getattr
class _StructFields(AttributeTemplate):
    key = Struct

    def generic_resolve(self, struct: Struct, name: str) -> Any:
        return types.intp if name in struct.fields else None


@lower_getattr_generic(Struct)
def _field(context: Any, builder: Any, struct: Struct, value: Any, name: str) -> Any:
    return builder.load(builder.gep(value, [ir.Constant(I64, struct.fields.index(name))]))


@lower_setattr_generic(Struct)
def _set_field(context: Any, builder: Any, sig: Any, args: Any, name: str) -> None:
    struct, value = args
    builder.store(value, builder.gep(struct, [ir.Constant(I64, sig.args[0].fields.index(name))]))


def struct(of: Any) -> Any:
    """A function for compiled code: an array of integers -> the NamedTuple `of` that lies there."""
    found = Struct(of)

    @intrinsic
    def at(tyctx: Any, array: Any) -> Any:
        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return context.make_array(array)(context, builder, args[0]).data

        return found(array), gen

    return at


@intrinsic
def alive(tyctx: Any, arrays: Any) -> Any:
    """Nothing; but arrays are kept until here. Numba sees no use of them in that of their addresses."""
    return types.void(arrays), lambda context, builder, sig, args: context.get_dummy_value()


# ---- memory -------------------------------------------------------------------------------------------------------


def load_at(builder: Any, p: Any, vector: Any, align: int) -> Any:
    return builder.load(builder.bitcast(p, vector.as_pointer()), align=align)


def mask_of(builder: Any, n: Any, count: int) -> Any:
    lane = ir.Constant(ir.VectorType(I64, count), list(range(count)))
    return builder.icmp_signed("<", lane, splat(builder, n, count))


def _masked(builder: Any, name: str, vector: Any, result: Any, *args: Any) -> Any:
    suffix = f"v{vector.count}f{32 if vector.element == ir.FloatType() else 64}.p0"
    kind = ir.FunctionType(result, [a.type for a in args])
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.masked.{name}.{suffix}")
    return builder.call(function, args)


def load_masked(builder: Any, p: Any, vector: Any, align: int, mask: Any) -> Any:
    """Where the mask is not set: zeros, and nothing is read."""
    at = builder.bitcast(p, vector.as_pointer())
    return _masked(builder, "load", vector, vector, at, ir.Constant(I32, align), mask, ir.Constant(vector, None))


def store_masked(builder: Any, x: Any, p: Any, align: int, mask: Any) -> None:
    at = builder.bitcast(p, x.type.as_pointer())
    _masked(builder, "store", x.type, ir.VoidType(), x, at, ir.Constant(I32, align), mask)


@intrinsic
def load(tyctx: Any, p: Any) -> Any:
    """A register full."""
    of = lanes(p.dtype)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return load_at(builder, args[0], context.get_value_type(of), p.dtype.bitwidth // 8)

    return of(p), gen


@intrinsic
def store(tyctx: Any, p: Any, x: Any) -> Any:
    """A register full; of a number, as many of it."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = as_lanes(context, builder, args[1], sig.args[1], lanes(p.dtype))
        at = builder.bitcast(args[0], value.type.as_pointer())
        builder.store(value, at, align=p.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(p, x), gen


@intrinsic(prefer_literal=True)
def loads(tyctx: Any, p: Any, stride: Any, n: Any) -> Any:
    """A tuple of n registers full, `stride` elements apart."""
    return _loads([], p, stride, n)


@intrinsic(prefer_literal=True)
def loads_after(tyctx: Any, first: Any, p: Any, stride: Any, n: Any) -> Any:
    """The same with the register full at `first` before them."""
    return _loads([first], p, stride, n)


def _loads(before: list[Any], p: Any, stride: Any, n: Any) -> Any:
    of, count = lanes(p.dtype), n.literal_value
    tuple_type = types.UniTuple(of, len(before) + count) if before or count else types.Tuple(())

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        vector, align = context.get_value_type(of), p.dtype.bitwidth // 8
        *first, start, by, _ = args
        at = first + [builder.gep(start, [builder.mul(by, ir.Constant(I64, j))]) for j in range(count)]
        return context.make_tuple(builder, tuple_type, [load_at(builder, q, vector, align) for q in at])

    return tuple_type(*before, p, types.intp, n), gen


@intrinsic
def stores(tyctx: Any, p: Any, stride: Any, values: Any) -> Any:
    """The other way round."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _stores(context, builder, sig, args)
        return context.get_dummy_value()

    return types.void(p, types.intp, values), gen


@intrinsic
def stores_some(tyctx: Any, p: Any, stride: Any, values: Any, n: Any) -> Any:
    """The first n lanes of each; nothing behind them is touched."""
    of = lanes(p.dtype)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        n = args[3]
        # A masked store forwards late to the load that follows.
        with builder.if_else(builder.icmp_signed(">=", n, ir.Constant(I64, of.count))) as (whole, part):
            with whole:
                _stores(context, builder, sig, args)
            with part:
                _stores(context, builder, sig, args, mask_of(builder, n, of.count))
        return context.get_dummy_value()

    return types.void(p, types.intp, values, types.intp), gen


def _stores(context: Any, builder: Any, sig: Any, args: Any, mask: Any = None) -> None:
    p, stride, values = args[:3]
    dtype = sig.args[0].dtype
    for j, kind in enumerate(sig.args[2].types):
        x = as_lanes(context, builder, builder.extract_value(values, j), kind, lanes(dtype))
        at, align = builder.gep(p, [builder.mul(stride, ir.Constant(I64, j))]), dtype.bitwidth // 8
        if mask is None:
            builder.store(x, builder.bitcast(at, x.type.as_pointer()), align=align)
        else:
            store_masked(builder, x, at, align, mask)


# ---- the processor's mode -----------------------------------------------------------------------------------------


def _control(builder: Any, read: bool, value: Any = None) -> Any:
    """Read or write the register that says whether denormals are flushed; 0 where it is not known."""
    if X86:
        slot = cgutils.alloca_once(builder, I32)
        name = f"llvm.x86.sse.{'stmxcsr' if read else 'ldmxcsr'}"
        function = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer()])
        if not read:
            builder.store(builder.trunc(value, I32), slot)
        call = cgutils.get_or_insert_function(builder.module, function, name)
        builder.call(call, [builder.bitcast(slot, BYTE.as_pointer())])
        return builder.zext(builder.load(slot), I64)
    if platform.machine().lower() in ("aarch64", "arm64"):
        kinds = (I64, []) if read else (ir.VoidType(), [I64])
        name = f"llvm.aarch64.{'get' if read else 'set'}.fpcr"
        call = cgutils.get_or_insert_function(builder.module, ir.FunctionType(*kinds), name)
        return builder.call(call, [] if read else [value])
    return ir.Constant(I64, 0)


@intrinsic
def flush_on(tyctx: Any) -> Any:
    """Flush denormals to zero, as operands and results, in this thread; returns what `flush_restore` needs."""

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        old = _control(builder, True)
        _control(builder, False, builder.or_(old, ir.Constant(I64, 0x8040 if X86 else 1 << 24)))
        return old

    return types.intp(), gen


@intrinsic
def flush_restore(tyctx: Any, old: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _control(builder, False, args[0])
        return context.get_dummy_value()

    return types.void(types.intp), gen
