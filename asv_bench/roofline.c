/* roofline BYTES [CORE]: what one core can do at best. So many bytes are read again and again; with 0 it multiplies and
   adds. Prints bytes or operations per second. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define CHAINS 12 /* independent ones, more than latency times ports on any processor so far */
#define SECONDS 0.05
#define TRIALS 9

typedef float vfloat __attribute__((vector_size(BYTES)));
typedef int64_t vint __attribute__((vector_size(BYTES)));

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static volatile int64_t sink;

static double read_once(const vint *p, size_t n)
{
    vint a = {0}, b = a, c = a, d = a, e = a, f = a, g = a, h = a, all;
    for (size_t i = 0; i < n; i += 8) {
        a |= p[i];
        b |= p[i + 1];
        c |= p[i + 2];
        d |= p[i + 3];
        e |= p[i + 4];
        f |= p[i + 5];
        g |= p[i + 6];
        h |= p[i + 7];
        __asm__ volatile("" : "+r"(p)); /* read it, also the next time */
    }
    all = a | b | c | d | e | f | g | h;
    sink = all[0];
    return (double)(n * sizeof(vint));
}

static double multiply_add(size_t n)
{
    vfloat a[CHAINS], x, y;
    float sum = 0;
    for (int j = 0; j < BYTES / 4; j++) {
        x[j] = 0.999f;
        y[j] = 1e-3f;
    }
    for (int i = 0; i < CHAINS; i++)
        a[i] = x + (float)i;
    for (size_t k = 0; k < n; k++) {
#pragma GCC unroll 12
        for (int i = 0; i < CHAINS; i++)
            a[i] = a[i] * x + y;
    }
    for (int i = 0; i < CHAINS; i++)
        sum += a[i][0];
    sink = (int64_t)sum;
    return 2.0 * (double)n * CHAINS * (BYTES / 4);
}

int main(int argc, char **argv)
{
    size_t huge = (size_t)2 << 20, bytes = argc > 1 ? strtoull(argv[1], NULL, 10) : 0;
    size_t n = bytes / sizeof(vint) & ~(size_t)7;
    vint *p = NULL;
    double best = 0;
#ifdef __linux__
    if (argc > 2) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(atoi(argv[2]), &cores);
        sched_setaffinity(0, sizeof cores, &cores);
    }
#endif
    if (bytes) {
        size_t size = (bytes + huge - 1) & ~(huge - 1);
        if (n == 0 || !(p = aligned_alloc(huge, size)))
            return 1;
#ifdef MADV_HUGEPAGE
        madvise(p, size, MADV_HUGEPAGE);
#endif
        memset(p, 1, size);
    }
    for (int trial = 0; trial < TRIALS; trial++) {
        double done = 0, began = now(), seconds;
        do
            done += p ? read_once(p, n) : multiply_add(100000);
        while ((seconds = now() - began) < SECONDS);
        if (trial && done / seconds > best)
            best = done / seconds;
    }
    printf("%.6g\n", best);
    free(p);
    return 0;
}
