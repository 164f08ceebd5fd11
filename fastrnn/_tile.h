/* The register tile: rows of a matrix product held in registers over a block of k.

     z[m][v] += sum over k of a[m][k] * w[k][v]        m: rows, v: vectors of VL columns

   Every element of z is added up in one order, whatever the number of rows: k ascending from zero, one multiply-add
   each, and the sum of the block added to z. So a result never depends on who else is in the batch. The caller cuts k
   into blocks, which keeps the rounding error small.

   Weights are packed: w[k][v] of one panel lie at w + k * 4|3 * VL + v * VL. C and not Cython, since the accumulators
   have to be many small variables that only full unrolling turns into registers. */
#pragma once
#include "_simd.h"

#define PANEL 4 /* vectors of z per panel */

#if defined(__AVX512F__) || defined(__aarch64__)
#define WIDE_FILE 1 /* 32 vector registers, else 16 */
#define ROWS_4 6
#define ROWS_3 8
#else
#define WIDE_FILE 0
#define ROWS_4 6
#define ROWS_3 4
#endif

#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#elif defined(_MSC_VER)
#define NOINLINE __declspec(noinline)
#else
#define NOINLINE
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#define UNROLL_K _Pragma("clang loop unroll_count(4)")
#elif defined(__GNUC__)
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_K _Pragma("GCC unroll 4")
#else
#define UNROLL
#define UNROLL_K
#endif

/* rows, nv (vectors), panels are constants at every call. nw: vectors of w per k; z and a second panel's z are PANEL
   vectors apart, its weights w_next further on. */
INLINE void tile(const int rows, const int nv, const int panels, const int nw, ptrdiff_t K, const real *w,
                 ptrdiff_t w_next, const real *const *a, ptrdiff_t k_first, real *z, ptrdiff_t ldz) {
    vec acc[16][4];
    const real *row[8];
    UNROLL for (int m = 0; m < rows; m++) row[m] = a[m] + k_first;
    UNROLL for (int m = 0; m < rows * panels; m++) {
        UNROLL for (int v = 0; v < nv; v++) acc[m][v] = vzero();
    }
    UNROLL_K for (ptrdiff_t k = 0; k < K; k++) {
        UNROLL for (int p = 0; p < panels; p++) {
            vec wk[4];
            UNROLL for (int v = 0; v < nv; v++) wk[v] = vload(w + p * w_next + (k * nw + v) * VL);
            UNROLL for (int m = 0; m < rows; m++) {
                vec x = vset(row[m][k]);
                UNROLL for (int v = 0; v < nv; v++) acc[p * rows + m][v] = vfma(x, wk[v], acc[p * rows + m][v]);
            }
        }
    }
    UNROLL for (int p = 0; p < panels; p++) {
        UNROLL for (int m = 0; m < rows; m++) {
            UNROLL for (int v = 0; v < nv; v++) {
                real *to = z + m * ldz + (p * PANEL + v) * VL;
                vstore(to, vload(to) + acc[p * rows + m][v]);
            }
        }
    }
}

#define TILE_ARGS ptrdiff_t K, const real *w, ptrdiff_t w_next, const real *const *a, ptrdiff_t k, real *z, ptrdiff_t ldz

/* One row, two panels at a time: enough independent sums to hide the latency of the multiply-add. */
static NOINLINE void tile_pair_4(TILE_ARGS) { tile(1, 4, 2, 4, K, w, w_next, a, k, z, ldz); }
static NOINLINE void tile_pair_3(TILE_ARGS) { tile(1, 3, 2, 3, K, w, w_next, a, k, z, ldz); }

/* 16 registers hold 6 rows x 2 vectors: a panel of 4 is done in two halves. */
#if WIDE_FILE
#define TILE_4(rows) tile(rows, 4, 1, 4, K, w, 0, a, k, z, ldz)
#else
#define TILE_4(rows)                            \
    tile(rows, 2, 1, 4, K, w, 0, a, k, z, ldz); \
    tile(rows, 2, 1, 4, K, w + 2 * VL, 0, a, k, z + 2 * VL, ldz)
#endif
#define TILE_3(rows) tile(rows, 3, 1, 3, K, w, 0, a, k, z, ldz)

static NOINLINE void tile_4(int rows, TILE_ARGS) {
    switch (rows) {
        case 1: tile(1, 4, 1, 4, K, w, 0, a, k, z, ldz); break;
        case 2: tile(2, 4, 1, 4, K, w, 0, a, k, z, ldz); break;
        case 3: TILE_4(3); break;
        case 4: TILE_4(4); break;
        case 5: TILE_4(5); break;
        case 6: TILE_4(6); break;
    }
    (void)w_next;
}

static NOINLINE void tile_3(int rows, TILE_ARGS) {
    switch (rows) {
        case 1: TILE_3(1); break;
        case 2: TILE_3(2); break;
        case 3: TILE_3(3); break;
        case 4: TILE_3(4); break;
#if ROWS_3 > 4
        case 5: TILE_3(5); break;
        case 6: TILE_3(6); break;
        case 7: TILE_3(7); break;
        case 8: TILE_3(8); break;
#endif
    }
    (void)w_next;
}

/* The other product, of gradients: rows of a batch are summed over, and nothing is packed.

     sums[m][v] += sum over k of a[k][c + m] * g[k][v]        m: columns of a, k: rows

   in the same way: k ascending from zero, and the sum added. g[k] lie ldg apart; sums[m] are nv vectors. */
INLINE void outer(const int columns, const int nv, const int nw, ptrdiff_t K, const real *g, ptrdiff_t ldg,
                  const real *const *a, ptrdiff_t c, real *sums) {
    vec acc[8][4];
    UNROLL for (int m = 0; m < columns; m++) {
        UNROLL for (int v = 0; v < nv; v++) {
            vprefetch(sums + (m * nw + v) * VL); /* LSTM N=32 H=512: 95 -> 100 GFLOP/s */
            acc[m][v] = vzero();
        }
    }
    for (ptrdiff_t k = 0; k < K; k++) {
        const real *row = a[k] + c;
        vec gk[4];
        UNROLL for (int v = 0; v < nv; v++) gk[v] = vload(g + k * ldg + v * VL);
        UNROLL for (int m = 0; m < columns; m++) {
            vec x = vset(row[m]);
            UNROLL for (int v = 0; v < nv; v++) acc[m][v] = vfma(x, gk[v], acc[m][v]);
        }
    }
    UNROLL for (int m = 0; m < columns; m++) {
        UNROLL for (int v = 0; v < nv; v++) {
            real *to = sums + (m * nw + v) * VL;
            vstore(to, vload(to) + acc[m][v]);
        }
    }
}

#define OUTER_ARGS ptrdiff_t K, const real *g, ptrdiff_t ldg, const real *const *a, ptrdiff_t c, real *sums

#if WIDE_FILE
#define OUTER_4(columns) outer(columns, 4, 4, K, g, ldg, a, c, sums)
#else
#define OUTER_4(columns)                        \
    outer(columns, 2, 4, K, g, ldg, a, c, sums); \
    outer(columns, 2, 4, K, g + 2 * VL, ldg, a, c, sums + 2 * VL)
#endif
#define OUTER_3(columns) outer(columns, 3, 3, K, g, ldg, a, c, sums)

static NOINLINE void outer_4(int columns, OUTER_ARGS) {
    switch (columns) {
        case 1: OUTER_4(1); break;
        case 2: OUTER_4(2); break;
        case 3: OUTER_4(3); break;
        case 4: OUTER_4(4); break;
        case 5: OUTER_4(5); break;
        case 6: OUTER_4(6); break;
    }
}

static NOINLINE void outer_3(int columns, OUTER_ARGS) {
    switch (columns) {
        case 1: OUTER_3(1); break;
        case 2: OUTER_3(2); break;
        case 3: OUTER_3(3); break;
        case 4: OUTER_3(4); break;
#if ROWS_3 > 4
        case 5: OUTER_3(5); break;
        case 6: OUTER_3(6); break;
        case 7: OUTER_3(7); break;
        case 8: OUTER_3(8); break;
#endif
    }
}
