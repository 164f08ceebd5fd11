/* Checks fastrnn/_simd.h as compiled: `simd_driver [stride]` prints what it found, exit status 1 where the contract is
 * broken. float32: every stride-th bit pattern (1: all 2^32). float64: the same patterns spread over 64 bits, and as
 * many numbers drawn from the ranges that matter. `simd_driver levels` prints the x86-64 levels of this processor. */
#include "../fastrnn/_simd.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#if FASTRNN_REAL == 32
typedef double reference;
#define NORMAL_MIN 1.1754943508222875e-38
#define SMALL_MAX 1.2e-38 /* largest absolute error where the true result is below normal */
#else
typedef long double reference;
#define NORMAL_MIN 2.2250738585072014e-308
#define SMALL_MAX 2.3e-308
#endif
/* float64 where long double is no wider: 1 more, for the error of the reference itself */
#define ULP_MAX (sizeof(reference) > sizeof(real) ? 4.0 : 5.0)
#define BLOCK (16 * 64)

static long failures;

static void check(int ok, const char *what, double value)
{
    if (ok)
        return;
    if (failures++ < 20)
        printf("FAILED: %s (%.17g)\n", what, value);
}

static uint64_t double_bits(double x) { uint64_t b; memcpy(&b, &x, sizeof b); return b; }
static double bits_double(uint64_t b) { double x; memcpy(&x, &b, sizeof x); return x; }

/* ---- sigmoid and tanh against the reference ------------------------------------------------------------------- */

typedef struct { double ulp, at, small; } worst;

static reference true_sigmoid(reference x)
{
#if FASTRNN_REAL == 32
    return 1 / (1 + exp(-x));
#else
    return 1 / (1 + expl(-x));
#endif
}

static reference true_tanh(reference x)
{
#if FASTRNN_REAL == 32
    return tanh(x);
#else
    reference e = expm1l(-2 * fabsl(x)), y = -e / (e + 2);
    return x < 0 ? -y : y;
#endif
}

static void compare(double x, double y, reference truth, worst *w, const char *name)
{
    if (x != x) {
        check(y != y, name, x);
        return;
    }
    double error = (double)(truth - y), size = fabs((double)truth);
    error = fabs(error);
    if (size < NORMAL_MIN) {
        if (!(error <= w->small))
            w->small = error;
        return;
    }
    /* the spacing of `real` at the true result */
    double power = bits_double(double_bits(size) & 0x7ff0000000000000u);
    double ulp = error / power * (double)((uint64_t)1 << MANTISSA_BITS);
    if (!(ulp <= w->ulp)) {
        w->ulp = ulp;
        w->at = x;
    }
}

/* One block of inputs, with denormals and with flushing; the reference is computed without. */
static void sweep_block(const real *x, worst w[2])
{
    static real sigmoid[2][BLOCK], tangent[2][BLOCK];
    for (int flush = 0; flush < 2; flush++) {
        unsigned old = flush ? fp_flush_on() : 0;
        for (int i = 0; i < BLOCK; i += VL) {
            vstore(sigmoid[flush] + i, vsigmoid(vload(x + i)));
            vstore(tangent[flush] + i, vtanh(vload(x + i)));
        }
        if (flush)
            fp_restore(old);
    }
    for (int i = 0; i < BLOCK; i++) {
        reference s = true_sigmoid(x[i]), t = true_tanh(x[i]);
        for (int flush = 0; flush < 2; flush++) {
            compare(x[i], sigmoid[flush][i], s, &w[0], "sigmoid(NaN) is a number");
            compare(x[i], tangent[flush][i], t, &w[1], "tanh(NaN) is a number");
            if (sigmoid[flush][i] < 0 || sigmoid[flush][i] > 1 || fabs(tangent[flush][i]) > 1)
                check(0, "result outside its range", x[i]);
        }
    }
}

static real from_bits(real_bits b) { real x; memcpy(&x, &b, sizeof x); return x; }

static void sweep(uint64_t stride)
{
    static real x[BLOCK];
    worst w[2] = {{0, 0, 0}, {0, 0, 0}};
    for (uint64_t pattern = 0; pattern >> 32 == 0;) {
        int n = 0;
#if FASTRNN_REAL == 32
        for (; n < BLOCK; n++, pattern += stride)
            x[n] = from_bits((uint32_t)pattern);
#else
        static const double ends[] = {24, 1, 50, 1500}; /* centred, the last on the range where sigmoid underflows */
        for (int k = 0; n < BLOCK; k++, pattern += stride) {
            double u = (double)(pattern * 0x9e3779b97f4a7c15u >> 11) * 0x1p-53 - 0.5;
            x[n++] = from_bits(pattern * 0x9e3779b97f4a7c15u);
            x[n++] = u * ends[k % 4];
        }
#endif
        sweep_block(x, w);
    }
    static const char *const names[] = {"sigmoid", "tanh"};
    for (int f = 0; f < 2; f++) {
        printf("%-8s worst %.3f ULP at %.17g, below normal %.3g\n", names[f], w[f].ulp, w[f].at, w[f].small);
        check(w[f].ulp <= ULP_MAX, "too many ULP", w[f].ulp);
        check(w[f].small <= SMALL_MAX, "error below normal", w[f].small);
    }
}

/* ---- single values and the lanes ------------------------------------------------------------------------------ */

/* f(x) in every lane, from memory so that nothing is folded at compile time */
#define LANES(f, x, out) (vstore(in, vset(x)), vstore(out, f(vload(in))))

static int same(real a, real b) { return memcmp(&a, &b, sizeof a) == 0; }

static void special_values(void)
{
    static real in[VL], out[VL];
    static const real inf = INFINITY;
    static const struct { real x, sigmoid, tanh, relu; } table[] = {
        {0, 0.5, 0, 0}, {-(real)0, 0.5, -(real)0, -(real)0}, {INFINITY, 1, 1, INFINITY}, {-INFINITY, 0, -1, 0},
        {(real)1e30, 1, 1, (real)1e30}, {(real)-1e30, 0, -1, 0},
    };
    for (size_t k = 0; k < sizeof table / sizeof *table; k++)
        for (int lane = 0; lane < VL; lane++) {
            LANES(vsigmoid, table[k].x, out);
            check(same(out[lane], table[k].sigmoid), "sigmoid", table[k].x);
            LANES(vtanh, table[k].x, out);
            check(same(out[lane], table[k].tanh), "tanh", table[k].x);
            LANES(vrelu, table[k].x, out);
            check(same(out[lane], table[k].relu), "relu", table[k].x);
        }
    LANES(vrelu, inf - inf, out);
    for (int lane = 0; lane < VL; lane++)
        check(out[lane] != out[lane], "relu(NaN)", out[lane]);
}

static void lanes(void)
{
    real a[VL + 2], b[VL], c[VL], out[VL + 2];
    for (int n = 0; n <= VL; n++) {
        for (int i = 0; i < VL + 2; i++) {
            a[i] = (real)(i + 1);
            out[i] = -1;
        }
        vstore_part(out + 1, vload(a + 1), n);
        for (int i = 0; i < VL + 2; i++)
            check(out[i] == (i >= 1 && i <= n ? a[i] : -1), "vstore_part", n);
    }
    for (int n = 1; n <= VL; n++) {
        static real exact[VL]; /* as long as what may be read */
        memset(exact, 0, sizeof exact);
        for (int i = 0; i < n; i++)
            exact[VL - n + i] = (real)(i + 1);
        vstore(out, vload_part(exact + VL - n, n));
        for (int i = 0; i < VL; i++)
            check(same(out[i], i < n ? (real)(i + 1) : 0), "vload_part", n);
    }
    static const real values[] = {0, -(real)0, 1, (real)-2.5, INFINITY};
    for (size_t k = 0; k < sizeof values / sizeof *values; k++) {
        vstore(out, vset(values[k]));
        for (int i = 0; i < VL; i++)
            check(same(out[i], values[k]), "vset", values[k]);
    }
    vstore(out, vzero());
    for (int i = 0; i < VL; i++)
        check(same(out[i], 0), "vzero", out[i]);
    /* (1 + d)(1 - d) - 1 is -d^2 with one rounding and 0 with two */
    const real d = (real)1 / (real)((real_bits)1 << (MANTISSA_BITS - 1));
    for (int i = 0; i < VL; i++) {
        a[i] = 1 + d;
        b[i] = i % 2 ? 3 : 1 - d;
        c[i] = i % 2 ? (real)i : -1;
    }
    vstore(out, vfma(vload(a), vload(b), vload(c)));
    for (int i = 0; i < VL; i++)
        check(out[i] == (i % 2 ? 3 * (1 + d) + (real)i : FUSED ? -d * d : 0), "vfma", i);
    vprefetch(a);
}

static void relu_backward(void)
{
    static const real inf = INFINITY;
    const real y[] = {2, 0, -(real)0, -1, inf - inf, inf}, expected[] = {7, 0, 0, 0, 7, 7};
    static real in[VL], out[VL];
    for (size_t k = 0; k < sizeof y / sizeof *y; k++) {
        vstore(in, vset(y[k]));
        vstore(out, vrelu_backward(vload(in), vset(7)));
        for (int lane = 0; lane < VL; lane++)
            check(same(out[lane], expected[k]), "relu backward", y[k]);
    }
}

static void transposes(void)
{
    enum { LDA = VL + 3, LDT = VL + 1 };
    static real a[VL * LDA], to[VL * LDT];
    for (int i = 0; i < VL * LDA; i++)
        a[i] = (real)i;
    for (int i = 0; i < VL * LDT; i++)
        to[i] = -1;
    vtranspose(a, LDA, to, LDT);
    for (int i = 0; i < VL; i++)
        for (int j = 0; j < LDT && j * LDT + i < VL * LDT; j++)
            check(to[i * LDT + j] == (j < VL ? a[j * LDA + i] : -1), "vtranspose", i);
}

static void flushing(void)
{
    volatile real small = (real)NORMAL_MIN, half = (real)0.5, denormal = small * half, one = 1;
    check(small * half == denormal && denormal * one > 0, "denormals before", 0);
#if defined(__SSE2__) || defined(_M_X64) || defined(__aarch64__)
    unsigned old = fp_flush_on();
    volatile real result = small * half, operand = denormal / small;
    unsigned again = fp_flush_on();
    fp_restore(again);
    volatile real still = small * half;
    fp_restore(old);
    check(same(result, 0), "a denormal result is not flushed", result);
    check(same(operand, 0), "a denormal operand is not flushed", operand);
    check(same(still, 0), "the inner restore ended the outer flush", still);
#else
    fp_restore(fp_flush_on());
#endif
    check(small * half == denormal && denormal * one > 0, "denormals after", 0);
}

static int print_levels(void)
{
#if defined(__GNUC__) && defined(__x86_64__)
    __builtin_cpu_init();
    int v2 = __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt");
    int v3 = v2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    int v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    printf("%s%s%s\n", v2 ? "x86-64-v2 " : "", v3 ? "x86-64-v3 " : "", v4 ? "x86-64-v4" : "");
#endif
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "levels") == 0)
        return print_levels();
    uint64_t stride = argc > 1 ? strtoull(argv[1], NULL, 10) : 1021;
    printf("float%d, %d lanes, %s\n", FASTRNN_REAL, VL, FUSED ? "fused" : "not fused");
    lanes();
    relu_backward();
    transposes();
    flushing();
    special_values();
    sweep(stride ? stride : 1);
    return failures != 0;
}
