/* Vector lanes for one element type: load, store, multiply-add, sigmoid, tanh, relu.
 *
 * The only file that knows vector widths. Compiled once per element type, with FASTRNN_REAL defined as 32 or 64, and
 * once per instruction set; `vec` is the widest register there is. Without vector extensions (MSVC), or with
 * FASTRNN_SCALAR defined, a vec is one plain number and the same kernels still compile.
 *
 * Every rounding is written out: compile with -ffp-contract=off, never with -ffast-math (it deletes the rounding to
 * an integer in vreduce and lets NaN and inf get lost). */
#ifndef FASTRNN_SIMD_H
#define FASTRNN_SIMD_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__) || defined(_M_X64)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__i386__) && !defined(__SSE2_MATH__)
#error "x87 arithmetic rounds too late: compile with -msse2 -mfpmath=sse"
#endif

#if FASTRNN_REAL == 32
typedef float real;
typedef uint32_t real_bits;
#define MANTISSA_BITS 23
#define EXPONENT_BIAS 127
#elif FASTRNN_REAL == 64
typedef double real;
typedef uint64_t real_bits;
#define MANTISSA_BITS 52
#define EXPONENT_BIAS 1023
#else
#error "define FASTRNN_REAL as 32 or 64"
#endif

#if defined(__GNUC__) || defined(__clang__) /* clang for the MSVC ABI defines only the second */
#define GNU_C 1
#else
#define GNU_C 0
#endif

#if GNU_C
#define INLINE static inline __attribute__((always_inline))
#elif defined(_MSC_VER)
#define INLINE static __forceinline
#pragma fp_contract(off)
#else
#define INLINE static inline
#endif

/* ---- the lane type -------------------------------------------------------------------------------------------- */

#if defined(FASTRNN_SCALAR) || !GNU_C
#define VECTOR_BYTES 0
#define VL 1
#else
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#else
#define VECTOR_BYTES 16
#endif
#define VL (VECTOR_BYTES / (FASTRNN_REAL / 8))
#endif

#if VECTOR_BYTES
typedef real vec __attribute__((vector_size(VECTOR_BYTES)));
typedef real_bits vec_bits __attribute__((vector_size(VECTOR_BYTES)));
typedef real vec_unaligned __attribute__((vector_size(VECTOR_BYTES), aligned(FASTRNN_REAL / 8), may_alias));

INLINE vec vload(const real *p) { return *(const vec_unaligned *)p; }
INLINE void vstore(real *p, vec a) { *(vec_unaligned *)p = a; }
INLINE vec vzero(void) { return (vec){0}; }
/* x - 0 folds to x (x + 0 does not: -0 + 0 is 0), so this is one broadcast from memory */
INLINE vec vset(real x) { return x - (vec){0}; }
INLINE vec_bits vbits(vec a) { return (vec_bits)a; }
INLINE vec vfrom_bits(vec_bits a) { return (vec)a; }
#else
typedef real vec;
typedef real_bits vec_bits;

INLINE vec vload(const real *p) { return *p; }
INLINE void vstore(real *p, vec a) { *p = a; }
INLINE vec vzero(void) { return 0; }
INLINE vec vset(real x) { return x; }
INLINE vec_bits vbits(vec a) { vec_bits b; memcpy(&b, &a, sizeof b); return b; }
INLINE vec vfrom_bits(vec_bits a) { vec b; memcpy(&b, &a, sizeof b); return b; }
#endif

/* The intrinsic of this width and element type, on x86. */
#if FASTRNN_REAL == 32
#define X86_(width, op) _mm##width##_##op##_ps
#else
#define X86_(width, op) _mm##width##_##op##_pd
#endif
#if VECTOR_BYTES == 64
#define X86(op) X86_(512, op)
#elif VECTOR_BYTES == 32
#define X86(op) X86_(256, op)
#elif VECTOR_BYTES == 16 && defined(__SSE2__)
#define X86(op) X86_(, op)
#endif

/* Store the first n lanes only, 0 <= n <= VL; nothing else is touched. Where what is stored is read again soon, pad the
 * array and use vstore: a masked store forwards late (6.5 ns from store to load for 3.3 on Zen 4). Without masks, plain
 * stores: vmaskmovps takes 3.3 ns, these 0.5 to 1.6. */
INLINE void vstore_part(real *p, vec a, ptrdiff_t n)
{
#if VECTOR_BYTES == 64
    X86(mask_storeu)(p, (1u << n) - 1, a);
#elif VECTOR_BYTES
    for (int i = 0; i < VL; i++) {
        if (i >= n) /* a break, so that no compiler makes a masked store of it */
            break;
        p[i] = a[i];
    }
#else
    if (n)
        *p = a;
#endif
}

/* The first n lanes, 0 < n <= VL, and zeros; nothing behind them is read. */
INLINE vec vload_part(const real *p, ptrdiff_t n)
{
#if VECTOR_BYTES == 64
    return X86(maskz_loadu)((1u << n) - 1, p);
#else
    real lanes[VL] = {0};
    for (int i = 0; i < VL; i++) {
        if (i >= n)
            break;
        lanes[i] = p[i];
    }
    return vload(lanes);
#endif
}

/* a * b + c: one rounding where the instruction set has it (FUSED), else two. Never left to the compiler. */
#if defined(X86) && defined(__FMA__)
#define FUSED 1
INLINE vec vfma(vec a, vec b, vec c) { return X86(fmadd)(a, b, c); }
#elif VECTOR_BYTES && defined(__aarch64__)
#define FUSED 1
#if FASTRNN_REAL == 32
INLINE vec vfma(vec a, vec b, vec c) { return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
INLINE vec vfma(vec a, vec b, vec c) { return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#endif
#else
#define FUSED 0
INLINE vec vfma(vec a, vec b, vec c) { return a * b + c; }
#endif

/* a < b ? a : b and a > b ? a : b, that is b where either is NaN (minps, maxps): with the constant first NaN passes. */
#if defined(X86)
INLINE vec vmin(vec a, vec b) { return X86(min)(a, b); }
INLINE vec vmax(vec a, vec b) { return X86(max)(a, b); }
#elif VECTOR_BYTES
INLINE vec vselect(vec_bits mask, vec a, vec b) { return vfrom_bits((mask & vbits(a)) | (~mask & vbits(b))); }
INLINE vec vmin(vec a, vec b) { return vselect((vec_bits)(a < b), a, b); }
INLINE vec vmax(vec a, vec b) { return vselect((vec_bits)(a > b), a, b); }
#else
INLINE vec vmin(vec a, vec b) { return a < b ? a : b; }
INLINE vec vmax(vec a, vec b) { return a > b ? a : b; }
#endif

/* to[j][i] = a[i][j] of VL rows and columns; rows lie lda and ldt apart. In log2(VL) stages, each of which exchanges
 * elements of lanes and rows that are d apart: packing LSTM H=512 element by element takes 1.6 ms, so 0.5. */
#if defined(__has_builtin)
#if VECTOR_BYTES && __has_builtin(__builtin_shufflevector)
#define STAGES 1
#endif
#endif
INLINE void vtranspose(const real *a, ptrdiff_t lda, real *to, ptrdiff_t ldt)
{
#ifdef STAGES
#define LOW(d, j) ((j) & d ? VL + (j) - d : (j))
#define HIGH(d, j) ((j) & d ? VL + (j) : (j) + d)
#define LANES_2(f, d, j) f(d, j), f(d, (j) + 1)
#define LANES_4(f, d, j) LANES_2(f, d, j), LANES_2(f, d, (j) + 2)
#define LANES_8(f, d, j) LANES_4(f, d, j), LANES_4(f, d, (j) + 4)
#define LANES_16(f, d, j) LANES_8(f, d, j), LANES_8(f, d, (j) + 8)
#if VL == 16
#define LANES LANES_16
#elif VL == 8
#define LANES LANES_8
#elif VL == 4
#define LANES LANES_4
#else
#define LANES LANES_2
#endif
#define STAGE(d)                                                             \
    for (int i = 0; i < VL; i++)                                             \
        if (!(i & d)) {                                                      \
            vec low = row[i], high = row[i + d];                             \
            row[i] = __builtin_shufflevector(low, high, LANES(LOW, d, 0));   \
            row[i + d] = __builtin_shufflevector(low, high, LANES(HIGH, d, 0)); \
        }
    vec row[VL];
    for (int i = 0; i < VL; i++)
        row[i] = vload(a + i * lda);
    STAGE(1)
#if VL > 2
    STAGE(2)
#endif
#if VL > 4
    STAGE(4)
#endif
#if VL > 8
    STAGE(8)
#endif
    for (int i = 0; i < VL; i++)
        vstore(to + i * ldt, row[i]);
#undef STAGE
#undef STAGES
#undef LANES
#undef LANES_2
#undef LANES_4
#undef LANES_8
#undef LANES_16
#undef LOW
#undef HIGH
#else
    for (int i = 0; i < VL; i++)
        for (int j = 0; j < VL; j++)
            to[j * ldt + i] = a[i * lda + j];
#endif
}

/* ---- activations ---------------------------------------------------------------------------------------------- */

#define LN2 0.6931471805599453
#define LOG2E 1.4426950408889634

/* Both are (s p + ...) / (s p + ...) with e^y = s (1 + p), s a power of two: two independent multiply-adds, then the
 * one division, and no branch. At most 2.9 ULP, over all float32 numbers, where the result is normal; with or without
 * flushing. Zen 4, AVX2, float32: 13 ns in a chain of calls, 2.3 ns side by side.
 * These are the ends of the clamps: from TANH_MAX on tanh rounds to 1, from SIGMOID_MAX on sigmoid does, and at
 * SIGMOID_MIN s has become 0. */
#if FASTRNN_REAL == 32
#define TANH_MAX 10
#define SIGMOID_MAX 20
#else
#define TANH_MAX 20
#define SIGMOID_MAX 40
#endif
#define SIGMOID_MIN (-EXPONENT_BIAS * (real)LN2)

/* k x = n ln 2 + r with |r| <= ln(2)/2; returns r and s = 2^n, or 0 for n = -EXPONENT_BIAS. Adding MAGIC rounds to an
 * integer and leaves n plus the exponent's bias in the low bits, so one shift makes s. s is multiplied in by the
 * callers, not added to the exponent bits: that can turn a NaN into a number. k is 1 or 2, taken here to keep the
 * product off the critical path. */
INLINE vec vreduce(vec x, int k, vec *s)
{
#define MAGIC ((real)1.5 * ((real_bits)1 << MANTISSA_BITS) + EXPONENT_BIAS)
#if FUSED && FASTRNN_REAL == 32
#define LN2_HI 0x1.62e430p-1f
#define LN2_LO -0x1.05c610p-29f
#elif FUSED
#define LN2_HI 0x1.62e42fefa39efp-1
#define LN2_LO 0x1.abc9e3b39803fp-56
#elif FASTRNN_REAL == 32 /* n * LN2_HI must be exact */
#define LN2_HI 0x1.63p-1f
#define LN2_LO -0x1.bd0106p-13f
#else
#define LN2_HI 0x1.62e42fep-1
#define LN2_LO 0x1.f473de6af278fp-30
#endif
    vec t = vfma(x, vset(k * (real)LOG2E), vset(MAGIC));
    vec n = t - MAGIC;
    vec r = vfma(n, vset(-LN2_HI), x * (real)k);
    *s = vfrom_bits(vbits(t) << MANTISSA_BITS);
    /* fused, LN2_HI is ln 2 to half an ULP: enough for tanh, which hardly depends on r once n is large */
    return FUSED && k == 2 ? r : vfma(n, vset(-LN2_LO), r);
}

/* e^r - 1 = r + r^2 q(r) for |r| <= ln(2)/2. q is minimax (Remez), weighted by what its error does to sigmoid and
 * tanh: 0.09 ULP in float32, 0.13 in float64. Estrin's scheme: half the latency of Horner's. */
INLINE vec vexpm1(vec r)
{
    vec r2 = r * r;
#if FASTRNN_REAL == 32
    vec a = vfma(r, vset(0x1.55548ep-3f), vset(0x1.000002p-1f));
    vec b = vfma(r, vset(0x1.123cf2p-7f), vset(0x1.55534cp-5f));
    vec q = vfma(r2, vfma(r2, vset(0x1.6dd99ap-10f), b), a);
#else
    vec r4 = r2 * r2;
    vec a = vfma(r, vset(0x1.5555555555597p-3), vset(0x1.0000000000004p-1));
    vec b = vfma(r, vset(0x1.11111111075e0p-7), vset(0x1.5555555552170p-5));
    vec c = vfma(r, vset(0x1.a01a01bdedb94p-13), vset(0x1.6c16c17fbb206p-10));
    vec d = vfma(r, vset(0x1.71de0aedb681dp-19), vset(0x1.a019a458171b8p-16));
    vec e = vfma(r, vset(0x1.af038b3cdbd41p-26), vset(0x1.28a50a115d4a7p-22));
    vec q = vfma(r4, vfma(r4, e, vfma(r2, d, c)), vfma(r2, b, a));
#endif
    return vfma(r2, q, r);
}

/* e^x / (e^x + 1) */
INLINE vec vsigmoid(vec x)
{
    vec s, r = vreduce(vmax(vset(SIGMOID_MIN), vmin(vset(SIGMOID_MAX), x)), 1, &s);
    vec p = vexpm1(r);
    vec e = FUSED ? vfma(s, p, s) : s * (p + 1); /* not s * p + s: below normal, s * p would be flushed to 0 */
    return e / vfma(s, p, s + 1);
}

/* (e^2x - 1) / (e^2x + 1) for |x|, without cancellation, so small x need no second polynomial. The sign is copied,
 * that of -0.0 too. */
INLINE vec vtanh(vec x)
{
    vec_bits sign = vbits(x) & ((real_bits)1 << (FASTRNN_REAL - 1));
    vec s, r = vreduce(vmin(vset(TANH_MAX), vfrom_bits(vbits(x) ^ sign)), 2, &s);
    vec p = vexpm1(r);
    vec y = vfma(s, p, s - 1) / vfma(s, p, s + 1);
    return vfrom_bits(vbits(y) | sign);
}

/* As torch: NaN stays NaN and -0.0 stays -0.0. */
INLINE vec vrelu(vec x) { return vmax(vzero(), x); }

/* dy where relu let something through, y > 0 or NaN, else 0. */
INLINE vec vrelu_backward(vec y, vec dy)
{
#if VECTOR_BYTES
    return vfrom_bits(vbits(dy) & ~(vec_bits)(y <= 0));
#else
    return y <= 0 ? 0 : dy;
#endif
}

/* ---- the processor -------------------------------------------------------------------------------------------- */

/* Into the first-level cache. asm: GCC 12 keeps accumulators in memory when the builtin is in the loop. */
INLINE void vprefetch(const void *p)
{
#if GNU_C && defined(__SSE2__)
    __asm__ volatile("prefetcht0 %0" : : "m"(*(const char *)p));
#elif GNU_C
    __builtin_prefetch(p, 0, 3);
#else
    (void)p;
#endif
}

/* Flush denormals to zero, as operands and results, in this thread. Returns what fp_restore needs. */
INLINE unsigned fp_flush_on(void)
{
#if defined(__SSE2__) || defined(_M_X64)
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | 0x8040); /* FTZ, DAZ */
    return old;
#elif GNU_C && defined(__aarch64__)
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(old | 1u << 24) : "memory"); /* FZ */
    return (unsigned)old;
#else
    return 0;
#endif
}

INLINE void fp_restore(unsigned old)
{
#if defined(__SSE2__) || defined(_M_X64)
    _mm_setcsr(old);
#elif GNU_C && defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)old) : "memory");
#else
    (void)old;
#endif
}

#endif
