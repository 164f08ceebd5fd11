"""What is done with whole rows of numbers in memory, as functions of LLVM's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import BYTE, I64, Lanes, lanes, load_at, load_masked, mask_of, store_masked


def call_function(builder: Any, name: str, args: Any, emit: Callable[[Any, Any], None]) -> Any:
    """Call a function of LLVM's own, which `emit` writes once into each module."""
    known = builder.module.globals.get(name)
    if known is None:
        known = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), [a.type for a in args]), name)
        known.linkage = "internal"
        known.attributes.add("nounwind")
        known.attributes.add("noinline")
        inside = ir.IRBuilder(known.append_basic_block("entry"))
        emit(inside, known.args)
        inside.ret_void()
    builder.call(known, args)
    return ir.Constant(BYTE.as_pointer(), None)


def _row_function(name: str, combine: Callable[[Any, Any, Any], Any]) -> Any:
    """A function (to, source, count) that does something with each element of two rows."""

    def emit(context: Any, of: Lanes, builder: Any, args: Any) -> None:
        to, source, count = args
        vector, align = context.get_value_type(of), of.dtype.bitwidth // 8
        whole = builder.and_(count, ir.Constant(I64, -of.count))
        start, step = ir.Constant(I64, 0), ir.Constant(I64, of.count)
        with cgutils.for_range_slice(builder, start, whole, step, I64, inc=True) as (i, _):
            old, new = (load_at(builder, builder.gep(p, [i]), vector, align) for p in (to, source))
            at = builder.bitcast(builder.gep(to, [i]), vector.as_pointer())
            builder.store(combine(builder, old, new), at, align=align)
        rest = builder.sub(count, whole)
        with builder.if_then(builder.icmp_signed(">", rest, start)):
            mask = mask_of(builder, rest, of.count)
            old, new = (load_masked(builder, builder.gep(p, [whole]), vector, align, mask) for p in (to, source))
            store_masked(builder, combine(builder, old, new), builder.gep(to, [whole]), align, mask)

    @intrinsic
    def function(tyctx: Any, to: Any, source: Any, count: Any) -> Any:
        of = lanes(to.dtype)

        def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return call_function(builder, f"{name}.{of.dtype}", args, partial(emit, context, of))

        return types.void(to, source, types.intp), gen

    return function


copy_row = _row_function("copy", lambda builder, old, new: new)
add_row = _row_function("add", lambda builder, old, new: builder.fadd(old, new))


@intrinsic
def clear_row(tyctx: Any, to: Any, count: Any) -> Any:
    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        size = ir.Constant(I64, to.dtype.bitwidth // 8)
        cgutils.memset(builder, args[0], builder.mul(args[1], size), 0)
        return context.get_dummy_value()

    return types.void(to, types.intp), gen
