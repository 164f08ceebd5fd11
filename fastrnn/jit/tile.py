"""The register tile: rows of a matrix product kept in registers over a block of k. As `_tile.h`, written in LLVM.

Every element is added up in one order, whatever the number of rows: k ascending from zero, one multiply-add each, and
the block's sum added to what was there. So a result does not depend on who else is in the batch.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .lanes import I64, INLINE, REGISTERS, STRICT, lanes, load_at, splat

_SUMS = 24 if REGISTERS == 32 else 12  # registers for sums; the others hold what is multiplied
K_BLOCK = 32  # terms of a sum: more round worse, fewer are slower
OUTER = 4  # vectors of a panel in `add_outer`
OUTER_ROWS = 128  # rows that `add_outer` sums up at once: what they have of one panel stays in the first-level cache


def most_rows(width: int) -> int:
    return max(1, min(8, _SUMS // width))


class _Emitter:
    """Writes tiles in the middle of a function that Numba is lowering."""

    def __init__(self, context: Any, builder: Any, of: Any) -> None:
        self.builder = builder
        self.vector = context.get_value_type(of)
        self.count, self.bits = of.count, of.dtype.bitwidth
        name = f"llvm.fmuladd.v{self.count}f{self.bits}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        self.multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)

    def step(self, p: Any, *factors: Any) -> Any:
        """p further on by the product of the factors, in elements."""
        by = factors[0]
        for f in factors[1:]:
            by = self.builder.mul(by, f)
        return self.builder.gep(p, [by])

    def load(self, p: Any, vectors: int) -> Any:
        return load_at(self.builder, self.step(p, _int(vectors * self.count)), self.vector, self.bits // 8)

    def store(self, x: Any, p: Any, vectors: int) -> None:
        at = self.step(p, _int(vectors * self.count))
        self.builder.store(x, self.builder.bitcast(at, self.vector.as_pointer()), align=self.bits // 8)

    def row(self, rows: Any, m: int, real: Any) -> Any:
        """Where the m-th row is: `rows` are addresses."""
        return self.builder.inttoptr(self.builder.load(self.builder.gep(rows, [_int(m)])), real)

    def sums(self, n: int) -> list[Any]:
        """n registers with zeros."""
        slots = [cgutils.alloca_once(self.builder, self.vector) for _ in range(n)]
        for slot in slots:
            self.builder.store(ir.Constant(self.vector, None), slot)
        return slots

    def add(self, slot: Any, x: Any, w: Any) -> None:
        self.builder.store(self.builder.call(self.multiply_add, [x, w, self.builder.load(slot)]), slot)

    def splat(self, p: Any) -> Any:
        return splat(self.builder, self.builder.load(p), self.count)

    def switch(self, value: Any, most: int, emit: Any) -> None:
        """emit(1), ..., emit(most), of which the one of `value` is run."""
        after = self.builder.append_basic_block("after")
        none = self.builder.append_basic_block("none")
        choice = self.builder.switch(value, none)
        for n in range(1, most + 1):
            block = self.builder.append_basic_block(f"tile.{n}")
            choice.add_case(_int(n), block)
            self.builder.position_at_end(block)
            emit(n)
            self.builder.branch(after)
        self.builder.position_at_end(none)
        self.builder.unreachable()
        self.builder.position_at_end(after)


def _int(n: int) -> Any:
    return ir.Constant(I64, n)


@intrinsic(prefer_literal=True)
def _tile(
    tyctx: Any, width: Any, panels: Any, rows: Any, K: Any, w: Any, w_next: Any, a: Any, k: Any, old: Any, ld_old: Any,
    z: Any, ldz: Any
) -> Any:  # fmt: skip
    """z[m][v] = old[m][v] + sum over K values of k of a[m][k] * w[k][v]        m: rows, v: vectors

    w[k][v] lie at w + (k * width + v) vectors. With two panels there is one row, and a second panel's w lie w_next
    further on, its z right behind the first's.
    """
    W, P, of = width.literal_value, panels.literal_value, lanes(w.dtype)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, _, rows, K, w, w_next, a, k, old, ld_old, z, ldz = args
        e = _Emitter(context, builder, of)

        def emit(R: int) -> None:
            at = [e.step(e.row(a, m, w.type), k) for m in range(R)]
            sums = e.sums(R * P * W)
            with cgutils.for_range(builder, K) as loop:
                weights = []
                for p in range(P):
                    row = e.step(e.step(w, w_next, _int(p)), loop.index, _int(W * e.count))
                    weights += [e.load(row, v) for v in range(W)]
                for m in range(R):
                    x = e.splat(e.step(at[m], loop.index))
                    for v in range(P * W):
                        e.add(sums[m * P * W + v], x, weights[v])
            for m in range(R):
                was, to = e.step(old, ld_old, _int(m)), e.step(z, ldz, _int(m))
                for v in range(P * W):
                    e.store(builder.fadd(e.load(was, v), builder.load(sums[m * P * W + v])), to, v)

        if P == 2:
            emit(1)
        else:
            e.switch(rows, most_rows(W), emit)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(width, panels, intp, intp, w, intp, a, intp, old, intp, z, intp), gen


@cache
def product_of(width: int) -> Any:
    """The matrix product over panels of `width` vectors."""
    most = most_rows(width)
    pairs = 2 * width <= _SUMS

    @njit(**STRICT)
    def tiles(rows, K, w, a, k, old, ld_old, z, ldz):  # type: ignore[no-untyped-def]
        # Spread evenly: 32 rows are 6 + 6 + 5 + 5 + 5 + 5.
        n, m = (rows + most - 1) // most, 0
        for t in range(n):
            r = rows // n + (1 if t < rows % n else 0)
            _tile(width, 1, r, K, w, 0, a + m, k, old + m * ld_old, ld_old, z + m * ldz, ldz)
            m += r

    @njit(**STRICT)
    def product(rows, K, panels, w, a, old, ld_old, z, ldz):  # type: ignore[no-untyped-def]
        """z (rows, panels, width) = old (rows, panels, width) + a (rows, K) @ w (panels, K, width), widths in vectors.

        One row takes two panels at a time: more independent sums. `old` may be z, or one row for all (ld_old = 0).
        """
        VL = lane_count(w)
        panel = 0
        while panel < panels:
            taken = 2 if pairs and rows == 1 and panel + 1 < panels else 1
            at = panel * width * VL
            before, ld_before = old + at, ld_old
            for k in range(0, max(K, 1), K_BLOCK):
                kb = min(K - k, K_BLOCK)
                block = w + (panel * K + k) * width * VL
                if taken == 2:
                    _tile(width, 2, 1, kb, block, K * width * VL, a, k, before, ld_before, z + at, ldz)
                else:
                    tiles(rows, kb, block, a, k, before, ld_before, z + at, ldz)
                before, ld_before = z + at, ldz
            panel += taken

    return product


@intrinsic
def lane_count(tyctx: Any, p: Any) -> Any:
    """How many numbers of the kind that p points to are in a register."""
    n = lanes(p.dtype).count
    return types.intp(p), lambda context, builder, sig, args: _int(n)


@intrinsic
def _outer(tyctx: Any, columns: Any, rows: Any, g: Any, ldg: Any, a: Any, lda: Any, to: Any, ldto: Any) -> Any:
    """to[j][v] += sum over rows r of g[r][j] * a[r][v]        j: columns of g, v: OUTER vectors"""
    of = lanes(g.dtype)

    def gen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        columns, rows, g, ldg, a, lda, to, ldto = args
        e = _Emitter(context, builder, of)

        def emit(J: int) -> None:
            sums = e.sums(J * OUTER)
            with cgutils.for_range(builder, rows) as loop:
                left, right = e.step(g, loop.index, ldg), e.step(a, loop.index, lda)
                values = [e.load(right, v) for v in range(OUTER)]
                for j in range(J):
                    x = e.splat(e.step(left, _int(j)))
                    for v in range(OUTER):
                        e.add(sums[j * OUTER + v], x, values[v])
            for j in range(J):
                at = e.step(to, ldto, _int(j))
                for v in range(OUTER):
                    e.store(builder.fadd(e.load(at, v), builder.load(sums[j * OUTER + v])), at, v)

        e.switch(columns, most_rows(OUTER), emit)
        return context.get_dummy_value()

    intp = types.intp
    return types.void(intp, intp, g, intp, a, intp, to, intp), gen


_MOST = most_rows(OUTER)


@njit(**STRICT)
def add_outer(rows, g, ldg, first, last, a, lda, C, to, spare):  # type: ignore[no-untyped-def]
    """to (columns of g, C) += g (rows, columns) transposed @ a (rows, C), for columns first..last of g.

    Rows of `a` end in zeros up to whole panels; `to` is contiguous. spare: (most_rows(OUTER), OUTER) vectors.
    """
    wide = OUTER * lane_count(g)
    for r in range(0, rows, OUTER_ROWS):
        count = min(rows - r, OUTER_ROWS)
        for c in range(0, C, wide):
            n = min(C - c, wide)
            for j in range(first, last, _MOST):
                J = min(last - j, _MOST)
                left, right, here = g + (r * ldg + j), a + (r * lda + c), to + (j * C + c)
                if n == wide:
                    _outer(J, count, left, ldg, right, lda, here, C)
                    continue
                for q in range(J):
                    for i in range(n):
                        spare[q * wide + i] = here[q * C + i]
                _outer(J, count, left, ldg, right, lda, spare, wide)
                for q in range(J):
                    for i in range(n):
                        here[q * C + i] = spare[q * wide + i]
