"""Instructions that Numba has no words for, as inline PTX; all that the project has of it.

PTX: https://docs.nvidia.com/cuda/parallel-thread-execution/. Pointers are `types.CPointer`, indices count elements.
What is said of memory here goes for the whole device: an address that blocks hand values over by is written with
`store_relaxed` and read with `load_relaxed`, which never come from a multiprocessor's own cache.
"""

from __future__ import annotations

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic
from numba.cuda.typing import signature

f32, i32, u32, i64, u64 = types.float32, types.int32, types.uint32, types.int64, types.uint64
_LETTER = {f32: "f", i32: "r", u32: "r", i64: "l", u64: "l", types.float64: "d"}
_SUFFIX = {f32: "f32", i32: "s32", u32: "u32", i64: "s64", u64: "u64", types.float64: "f64"}


def _call(context, builder, text, result, given, values, volatile=True):
    """One instruction; `result` and `given` are Numba's types, a result of several is a tuple."""
    results = list(result) if isinstance(result, types.BaseTuple) else [] if result == types.void else [result]
    lowered = [context.get_value_type(t) for t in results]
    returned = ir.LiteralStructType(lowered) if len(lowered) > 1 else lowered[0] if lowered else ir.VoidType()
    constraints = [f"={_LETTER[t]}" for t in results] + [_LETTER[t] for t in given]
    if volatile:
        constraints.append("~{memory}")
    function = ir.FunctionType(returned, [value.type for value in values])
    found = builder.call(ir.InlineAsm(function, text, ",".join(constraints), side_effect=volatile), values)
    if len(results) > 1:
        return context.make_tuple(builder, result, [builder.extract_value(found, i) for i in range(len(results))])
    return found if results else context.get_dummy_value()


def _address(builder, pointer, index):
    return builder.ptrtoint(builder.gep(pointer, [index]), ir.IntType(64))


def _number(context, builder, value, given, wanted):
    """An index or a value in the type that the instruction takes; literals come in wider ones."""
    return context.cast(builder, value, given, wanted)


def _pure(name, text, result, given, doc):
    """An instruction on registers alone."""

    def typing(typingctx, *arguments):
        def code(context, builder, sig, values):
            return _call(context, builder, text, result, given, values, volatile=False)

        return signature(result, *given), code

    names = ", ".join(f"a{i}" for i in range(len(given)))
    scope = {"typing": typing}
    exec(f"def {name}(typingctx, {names}):\n    return typing(typingctx, {names})", scope)  # intrinsics have no *args
    scope[name].__doc__ = doc
    scope[name].__module__ = __name__
    return intrinsic(scope[name])


# ---- memory ---------------------------------------------------------------------------------------------------------


def _load(name, instruction, doc):
    """An instruction that reads the element at an index."""

    def load(typingctx, pointer, index):
        element = pointer.dtype

        def code(context, builder, sig, values):
            text = f"{instruction}.{_SUFFIX[element]} $0, [$1];"
            return _call(context, builder, text, element, [u64], [_address(builder, values[0], values[1])])

        return signature(element, pointer, index), code

    return _named(load, name, doc)


def _store(name, instruction, doc, suffixes=_SUFFIX):
    """An instruction that takes a value to the element at an index."""

    def store(typingctx, pointer, index, value):
        element = pointer.dtype

        def code(context, builder, sig, values):
            number = _number(context, builder, values[2], sig.args[2], element)
            text = f"{instruction}.{suffixes[element]} [$0], $1;"
            given = [_address(builder, values[0], values[1]), number]
            return _call(context, builder, text, types.void, [u64, element], given)

        return signature(types.void, pointer, index, value), code

    return _named(store, name, doc)


def _named(typing, name, doc):
    typing.__name__ = typing.__qualname__ = name
    typing.__doc__ = doc
    return intrinsic(typing)


load_relaxed = _load(
    "load_relaxed",
    "ld.relaxed.gpu.global",
    "The element at `index`, from the memory that all multiprocessors share.",
)
load_acquire = _load(
    "load_acquire",
    "ld.acquire.gpu.global",
    "The int32 or uint32 at `index`; what its writer released before it is seen afterwards.",
)
store_relaxed = _store(
    "store_relaxed",
    "st.relaxed.gpu.global",
    "Write an element where all multiprocessors see it; at once, and in no order with other addresses.",
)
store_release = _store(
    "store_release",
    "st.release.gpu.global",
    "Write an int32 or uint32; who reads it with `load_acquire` sees all that was written before.",
)
add_release = _store(
    "add_release",
    "red.release.gpu.global.add",
    "Add to an int32 or uint32, as `store_release` writes.",
    {i32: "u32", u32: "u32"},  # of the signed integers PTX adds two's complements all the same
)


@intrinsic
def load_relaxed4(typingctx, pointer, index):
    """Four float32 from `index` on, a multiple of 4, likewise."""
    result = types.UniTuple(f32, 4)

    def code(context, builder, sig, values):
        address = _address(builder, values[0], values[1])
        return _call(context, builder, "ld.relaxed.gpu.global.v4.f32 {$0,$1,$2,$3}, [$4];", result, [u64], [address])

    return signature(result, pointer, index), code


# ---- numbers --------------------------------------------------------------------------------------------------------


@intrinsic
def bits(typingctx, value):
    """The bits of a float32 as uint32."""

    def code(context, builder, sig, values):
        return builder.bitcast(values[0], ir.IntType(32))

    return signature(u32, f32), code


@intrinsic
def from_bits(typingctx, value):
    """The float32 with the bits of a uint32."""

    def code(context, builder, sig, values):
        return builder.bitcast(values[0], ir.FloatType())

    return signature(f32, u32), code


@intrinsic
def round_tf32(typingctx, value):
    """A float32 rounded to tf32, by two instructions of integers where `to_tf32` takes four: of some NaN it makes 0."""

    def code(context, builder, sig, values):
        word = ir.IntType(32)
        rounded = builder.add(builder.bitcast(values[0], word), ir.Constant(word, 0x1000))
        return builder.bitcast(builder.and_(rounded, ir.Constant(word, 0xFFFFE000)), ir.FloatType())

    return signature(f32, f32), code


@intrinsic
def cut_tf32(typingctx, value):
    """A float32 with its lower 13 bits, which the tensor cores leave out, zero."""

    def code(context, builder, sig, values):
        word = ir.IntType(32)
        cut = builder.and_(builder.bitcast(values[0], word), ir.Constant(word, 0xFFFFE000))
        return builder.bitcast(cut, ir.FloatType())

    return signature(f32, f32), code


@intrinsic
def anew(typingctx, value):
    """The float32 itself, but a compiler knows no more that it is: what is made of it in a loop is made each time."""

    def code(context, builder, sig, values):
        return _call(context, builder, "mov.f32 $0, $1;", f32, [f32], values)

    return signature(f32, f32), code


@intrinsic
def as_tf32(typingctx, value):
    """A float32 for the tensor cores, which leave out its lower 13 bits."""

    def code(context, builder, sig, values):
        return builder.bitcast(values[0], ir.IntType(32))

    return signature(u32, f32), code


fma = _pure("fma", "fma.rn.f32 $0, $1, $2, $3;", f32, [f32, f32, f32], "``a0 * a1 + a2``, rounded once (float32).")
exp2 = _pure("exp2", "ex2.approx.ftz.f32 $0, $1;", f32, [f32], "2 to the power of a0, to 2 ulp.")
reciprocal = _pure("reciprocal", "rcp.approx.ftz.f32 $0, $1;", f32, [f32], "1 / a0, to 1 ulp.")
to_tf32 = _pure("to_tf32", "cvt.rna.tf32.f32 $0, $1;", u32, [f32], "a0 rounded to tf32: 10 bits after the point.")
mma_tf32 = _pure(
    "mma_tf32",
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {$0,$1,$2,$3}, {$4,$5,$6,$7}, {$8,$9}, {$10,$11,$12,$13};",
    types.UniTuple(f32, 4),
    [u32] * 6 + [f32] * 4,
    "D (16 x 8) = A (16 x 8) B (8 x 8) + C on the tensor cores of a warp: A, B as tf32, four of C and D in each lane.",
)


@intrinsic
def global_nanoseconds(typingctx):
    """The device's clock (``%globaltimer``)."""

    def code(context, builder, sig, values):
        return _call(context, builder, "mov.u64 $0, %globaltimer;", u64, [], [])

    return signature(u64), code
