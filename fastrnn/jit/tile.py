"""Matrix products, written in LLVM: the register tile of `_tile.h`, and the loops around it.

Every element is added up in one order, whatever the number of rows: k ascending from zero, one multiply-add each, in
sums of at most K_BLOCK terms, and these added to what was there. So a result does not depend on who else is in the
batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import I64, REGISTERS, lanes, load_at, splat
from .rows import call_function

_SUMS = 24 if REGISTERS == 32 else 12  # registers for sums; the others hold what is multiplied
K_BLOCK = 32  # terms of a sum: more round worse, fewer are slower
COLUMNS = 4  # registers of a panel where no cell says otherwise
OUTER_ROWS = 128  # rows that `add_outer` sums up at once: what they have of one panel stays in the first-level cache


def most_rows(width: int) -> int:
    return max(1, min(6, _SUMS // width))


def _int(n: int) -> Any:
    return ir.Constant(I64, n)


class _Emitter:
    """Arithmetic with addresses, registers and loops, in the middle of a function."""

    def __init__(self, builder: Any, of: Any, vector: Any) -> None:
        self.builder, self.vector, self.count, self.align = builder, vector, of.count, of.dtype.bitwidth // 8
        kind = ir.FunctionType(vector, [vector] * 3)
        name = f"llvm.fmuladd.v{of.count}f{of.dtype.bitwidth}"
        self.multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

    def add(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.add(total, term)
        return total

    def mul(self, *factors: Any) -> Any:
        product = factors[0]
        for factor in factors[1:]:
            product = self.builder.mul(product, factor)
        return product

    def smaller(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def step(self, p: Any, *factors: Any) -> Any:
        """p further on by the product of the factors, in elements."""
        return self.builder.gep(p, [self.mul(*factors)])

    def load(self, p: Any, vectors: int) -> Any:
        return load_at(self.builder, self.step(p, _int(vectors * self.count)), self.vector, self.align)

    def store(self, x: Any, p: Any, vectors: int) -> None:
        at = self.step(p, _int(vectors * self.count))
        self.builder.store(x, self.builder.bitcast(at, self.vector.as_pointer()), align=self.align)

    def sums(self, n: int) -> list[Any]:
        """n registers with zeros."""
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(n)]
        for slot in slots:
            self.builder.store(ir.Constant(self.vector, None), slot)
        return slots

    def multiply(self, sums: Sequence[Any], R: int, x: Callable[[int], Any], V: int, w: Callable[[int], Any]) -> None:
        """sums[m][v] += x(m) * w(v). The fewer are kept in registers, and the others are read one by one."""
        x, w = cache(x), cache(w)
        pairs = [(m, v) for m in range(R) for v in range(V)]
        for m, v in pairs if R > V else sorted(pairs, key=lambda pair: pair[1]):
            slot = sums[m * V + v]
            self.builder.store(self.builder.call(self.multiply_add, [x(m), w(v), self.builder.load(slot)]), slot)

    def add_to(self, sums: Sequence[Any], old: Any, to: Any) -> None:
        for v, total in enumerate(sums):
            self.store(self.builder.fadd(self.load(old, v), self.builder.load(total)), to, v)

    def splat(self, p: Any) -> Any:
        return splat(self.builder, self.builder.load(p), self.count)

    def switch(self, value: Any, most: int, emit: Callable[[int], None]) -> None:
        """emit(1), ..., emit(most), of which the one of `value` is run."""
        after, none = (self.builder.append_basic_block(name) for name in ("after", "none"))
        choice = self.builder.switch(value, none)
        for n in range(1, most + 1):
            block = self.builder.append_basic_block(f"tile.{n}")
            choice.add_case(_int(n), block)
            self.builder.position_at_end(block)
            emit(n)
            self.builder.branch(after)
        self.builder.position_at_end(none)
        self.builder.branch(after)  # 0
        self.builder.position_at_end(after)

    @contextmanager
    def loop(self, n: Any, step: Any = None) -> Iterator[Any]:
        """for i in range(0, n, step)"""
        with cgutils.for_range_slice(self.builder, _int(0), n, step or _int(1), I64, inc=True) as (i, _):
            yield i

    @contextmanager
    def spread(self, n: Any, most: int) -> Iterator[tuple[Any, Any]]:
        """n in pieces of at most `most`, as even as can be (32: 6 + 6 + 5 + 5 + 5 + 5): where each begins, its size."""
        pieces = self.builder.sdiv(self.add(n, _int(most - 1)), _int(most))
        some = self.builder.select(self.builder.icmp_signed("==", pieces, _int(0)), _int(1), pieces)
        size, longer = self.builder.sdiv(n, some), self.builder.srem(n, some)
        with self.loop(pieces) as i:
            is_longer = self.builder.zext(self.builder.icmp_signed("<", i, longer), I64)
            yield self.add(self.mul(i, size), self.smaller(i, longer)), self.add(size, is_longer)


def _emitter(context: Any, builder: Any, dtype: Any) -> _Emitter:
    of = lanes(dtype)
    return _Emitter(builder, of, context.get_value_type(of))


# ---- a @ w --------------------------------------------------------------------------------------------------------


def _tile(e: _Emitter, R: int, W: int, P: int, K: Any, w: Any, w_next: Any, a: Any, k: Any, old: Any, ld_old: Any,
          z: Any, ldz: Any) -> None:  # fmt: skip
    """z[m][v] = old[m][v] + sum over K values of k of a[m][k] * w[k][v]        m < R rows, v < W vectors

    w[k][v] lie at w + (k * W + v) vectors. A second panel's (P = 2) lie w_next further on, its z right behind.
    """
    real = w.type
    at = [e.step(e.builder.inttoptr(e.builder.load(e.step(a, _int(m))), real), k) for m in range(R)]
    sums = e.sums(R * P * W)
    with e.loop(K) as i:
        rows = [e.step(e.step(w, w_next, _int(p)), i, _int(W * e.count)) for p in range(P)]
        e.multiply(sums, R, lambda m: e.splat(e.step(at[m], i)), P * W, lambda v: e.load(rows[v // W], v % W))
    for m in range(R):
        e.add_to(sums[m * P * W : (m + 1) * P * W], e.step(old, ld_old, _int(m)), e.step(z, ldz, _int(m)))


def _product(context: Any, W: int, dtype: Any, builder: Any, args: Any) -> None:
    rows, K, panels, w, a, old, ld_old, z, ldz = args
    e = _emitter(context, builder, dtype)
    wide = _int(W * e.count)

    def blocks(panel: Any, tiles: Callable[..., None]) -> None:
        """The blocks of k of one panel, or of two."""
        w_panel, old_panel, z_panel = e.step(w, panel, K, wide), e.step(old, panel, wide), e.step(z, panel, wide)
        least = builder.select(builder.icmp_signed(">", K, _int(0)), K, _int(1))
        with e.loop(least, _int(K_BLOCK)) as k:
            first = builder.icmp_signed("==", k, _int(0))
            before = builder.select(first, old_panel, z_panel)
            ld_before = builder.select(first, ld_old, ldz)
            kb = e.smaller(builder.sub(K, k), _int(K_BLOCK))
            tiles(kb, e.step(w_panel, k, wide), k, before, ld_before, z_panel)

    def one_row(P: int) -> Callable[..., None]:
        def tile(kb: Any, w: Any, k: Any, old: Any, ld_old: Any, z: Any) -> None:
            _tile(e, 1, W, P, kb, w, e.mul(K, wide), a, k, old, ld_old, z, ldz)

        return tile

    def tiles(kb: Any, w: Any, k: Any, old: Any, ld_old: Any, z: Any) -> None:
        with e.spread(rows, most_rows(W)) as (m, R):
            here = e.step(a, m), k, e.step(old, m, ld_old), ld_old, e.step(z, m, ldz), ldz
            e.switch(R, most_rows(W), lambda R: _tile(e, R, W, 1, kb, w, _int(0), *here))

    with builder.if_else(builder.icmp_signed("==", rows, _int(1))) as (one, many):
        with one:  # two panels at a time, for more independent sums
            paired = builder.and_(panels, _int(-2 if 2 * W <= _SUMS else 0))
            with e.loop(paired, _int(2)) as panel:
                blocks(panel, one_row(2))
            with e.loop(builder.sub(panels, paired)) as panel:
                blocks(e.add(paired, panel), one_row(1))
        with many, e.loop(panels) as panel:
            blocks(panel, tiles)


@intrinsic(prefer_literal=True)
def product(
    tyctx: Any, like: Any, rows: Any, K: Any, panels: Any, w: Any, a: Any, old: Any, ld_old: Any, z: Any, ldz: Any
) -> Any:
    """z (rows, panels) = old (rows, panels) + a (rows, K) @ w (panels, K)

    A panel has as many registers as `like` says, a cell or a number. `a` are addresses of rows; `old` may be z, or one
    row for all with ld_old = 0.
    """
    W = like.literal_value if isinstance(like, types.IntegerLiteral) else like.width

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_function(builder, f"product.{w.dtype}.{W}", args[1:], partial(_product, context, W, w.dtype))

    intp = types.intp
    return types.void(like, intp, intp, intp, w, a, old, intp, z, intp), gen


# ---- g transposed @ a ---------------------------------------------------------------------------------------------


def _outer(e: _Emitter, J: int, V: int, rows: Any, g: Any, ldg: Any, a: Any, lda: Any, to: Any, ldto: Any) -> None:
    """to[j][v] += sum over rows r of g[r][j] * a[r][v]        j < J columns of g, v < V vectors"""
    sums = e.sums(J * V)
    with e.loop(rows) as r:
        left, right = e.step(g, r, ldg), e.step(a, r, lda)
        e.multiply(sums, J, lambda j: e.splat(e.step(left, _int(j))), V, lambda v: e.load(right, v))
    for j in range(J):
        at = e.step(to, ldto, _int(j))
        e.add_to(sums[j * V : (j + 1) * V], at, at)


def _add_outer(context: Any, dtype: Any, builder: Any, args: Any) -> None:
    rows, g, ldg, first, last, a, lda, C, to, ldto = args
    e = _emitter(context, builder, dtype)
    wide = _int(COLUMNS * e.count)

    def panel(V: int, r: Any, c: Any) -> None:
        count = e.smaller(builder.sub(rows, r), _int(OUTER_ROWS))
        with e.spread(builder.sub(last, first), most_rows(COLUMNS)) as (j, J):
            j = e.add(first, j)
            here = (
                count, e.step(e.step(g, r, ldg), j), ldg, e.step(e.step(a, r, lda), c), lda,
                e.step(e.step(to, j, ldto), c), ldto,
            )  # fmt: skip
            e.switch(J, most_rows(COLUMNS), lambda J: _outer(e, J, V, *here))

    with e.loop(rows, _int(OUTER_ROWS)) as r, e.loop(C, wide) as c:  # noqa: SIM117
        # The last panel may be one or two registers: of few columns, most of the work would be for nothing.
        with builder.if_else(builder.icmp_signed("<=", builder.sub(C, c), _int(2 * e.count))) as (narrow, whole):
            with narrow, builder.if_else(builder.icmp_signed("<=", builder.sub(C, c), _int(e.count))) as (one, two):
                with one:
                    panel(1, r, c)
                with two:
                    panel(2, r, c)
            with whole:
                panel(COLUMNS, r, c)


@intrinsic
def add_outer(
    tyctx: Any, rows: Any, g: Any, ldg: Any, first: Any, last: Any, a: Any, lda: Any, C: Any, to: Any, ldto: Any
) -> Any:
    """to (columns of g, C) += g (rows, columns) transposed @ a (rows, C), for columns first..last of g.

    Rows of `a` and `to` are whole panels of COLUMNS registers.
    """

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return call_function(builder, f"outer.{g.dtype}", args, partial(_add_outer, context, g.dtype))

    intp = types.intp
    return types.void(intp, g, intp, intp, intp, a, intp, intp, to, intp), gen
