/* Checks fastrnn/_tile.h as compiled, bit by bit: every tile adds up in the order that it promises, and touches nothing
 * but its rows and panels. Prints what it found, exit status 1 where the contract is broken. */
#ifdef __linux__
#define _GNU_SOURCE /* as Python.h does */
#endif
#include "../fastrnn/_alloc.h"
#include "../fastrnn/_meet.h"
#include "../fastrnn/_tile.h"

#include <math.h>
#include <stdio.h>

#define K_MAX 128
#define K_FIRST 3                    /* the block of k that is looked at starts here */
#define A_SIZE (K_FIRST + K_MAX + 1) /* and at least one number follows it */
#define ROWS_MAX 8
#define LDZ (2 * PANEL * VL + 1)     /* odd: rows are not aligned */
#define BEFORE 5
#define Z_SIZE (BEFORE + (ROWS_MAX + 1) * LDZ)

typedef struct { int rows, nv, panels; } shape;

static int failures, checks;

static void check(int ok, const char *what, shape s, int K)
{
    checks++;
    if (!ok && failures++ < 20)
        printf("FAILED: %s: %d rows, %d panels of %d vectors, K = %d\n", what, s.rows, s.panels, s.nv, K);
}

/* in [-1, 1), with so many bits that the order of additions and every rounding show */
static real number(void)
{
    static uint64_t state = 1;
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (real)((double)(state >> 11) * 0x1p-52 - 1);
}

static real multiply_add(real x, real w, real sum)
{
#if FUSED && FASTRNN_REAL == 32
    return fmaf(x, w, sum);
#elif FUSED
    return fma(x, w, sum);
#else
    return x * w + sum;
#endif
}

static void naive(shape s, int K, const real *w, ptrdiff_t w_next, const real *const *a, real *z)
{
    for (int p = 0; p < s.panels; p++)
        for (int m = 0; m < s.rows; m++)
            for (int column = 0; column < s.nv * VL; column++) {
                real sum = 0;
                for (int k = 0; k < K; k++)
                    sum = multiply_add(a[m][K_FIRST + k], w[p * w_next + k * s.nv * VL + column], sum);
                z[m * LDZ + p * PANEL * VL + column] += sum;
            }
}

static void call(shape s, int K, const real *w, ptrdiff_t w_next, const real *const *a, real *z)
{
    if (s.panels == 2)
        (s.nv == 4 ? tile_pair_4 : tile_pair_3)(K, w, w_next, a, K_FIRST, z, LDZ);
    else
        (s.nv == 4 ? tile_4 : tile_3)(s.rows, K, w, w_next, a, K_FIRST, z, LDZ);
}

static void check_tile(shape s, int K)
{
    static real a[ROWS_MAX][A_SIZE], z[Z_SIZE], expected[Z_SIZE];
    const real *rows[ROWS_MAX];
    ptrdiff_t used = (ptrdiff_t)K * s.nv * VL, w_next = used + 2; /* a gap, so unaligned, between the panels */
    real *w = aligned_new((size_t)(s.panels * w_next) * sizeof(real));
    if (w == NULL) {
        check(0, "out of memory", s, K);
        return;
    }
    /* What is not to be read is NaN. */
    for (ptrdiff_t i = 0; i < s.panels * w_next; i++)
        w[i] = i % w_next < used ? number() : (real)NAN;
    for (int m = 0; m < ROWS_MAX; m++) {
        for (int k = 0; k < A_SIZE; k++)
            a[ROWS_MAX - 1 - m][k] = m < s.rows && k >= K_FIRST && k < K_FIRST + K ? number() : (real)NAN;
        rows[m] = a[ROWS_MAX - 1 - m]; /* in any order in memory */
    }
    for (int i = 0; i < Z_SIZE; i++)
        expected[i] = z[i] = number();
    naive(s, K, w, w_next, rows, expected + BEFORE);
    call(s, K, w, w_next, rows, z + BEFORE);
    check(memcmp(z, expected, sizeof z) == 0, "not the same bits", s, K);
    aligned_delete(w, (size_t)(s.panels * w_next) * sizeof(real));
}

static void check_tiles(int K)
{
    for (int rows = 1; rows <= ROWS_4; rows++)
        check_tile((shape){rows, 4, 1}, K);
    for (int rows = 1; rows <= ROWS_3; rows++)
        check_tile((shape){rows, 3, 1}, K);
    check_tile((shape){1, 4, 2}, K);
    check_tile((shape){1, 3, 2}, K);
}

/* sums[m][v] += a[k][c + m] g[k][v], k ascending from zero */
static void check_outer(int columns, int nv, int K)
{
    enum { C = 3, LDA = 16, LDG = 4 * VL + 3 };
    static real a[K_MAX][LDA], g[K_MAX * LDG], sums[ROWS_MAX * 4 * VL + 2], expected[ROWS_MAX * 4 * VL + 2];
    const real *rows[K_MAX];
    for (int k = 0; k < K_MAX; k++) {
        for (int i = 0; i < LDA; i++)
            a[k][i] = k < K && i >= C && i < C + columns ? number() : (real)NAN;
        for (int i = 0; i < LDG; i++)
            g[k * LDG + i] = k < K && i < nv * VL ? number() : (real)NAN;
        rows[k] = a[k];
    }
    for (size_t i = 0; i < sizeof sums / sizeof *sums; i++)
        sums[i] = expected[i] = number();
    for (int m = 0; m < columns; m++)
        for (int i = 0; i < nv * VL; i++) {
            real sum = 0;
            for (int k = 0; k < K; k++)
                sum = multiply_add(a[k][C + m], g[k * LDG + i], sum);
            expected[1 + m * nv * VL + i] += sum;
        }
    (nv == 4 ? outer_4 : outer_3)(columns, K, g, LDG, rows, C, sums + 1);
    check(memcmp(sums, expected, sizeof sums) == 0, "outer: not the same bits", (shape){columns, nv, 1}, K);
}

static void check_outers(int K)
{
    for (int columns = 1; columns <= ROWS_4; columns++)
        check_outer(columns, 4, K);
    for (int columns = 1; columns <= ROWS_3; columns++)
        check_outer(columns, 3, K);
}

static void check_memory(void)
{
    static const size_t sizes[] = {0, 1, HUGE_FROM - 1, HUGE_FROM, HUGE_PAGE + 1};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *p = aligned_new(sizes[i]);
        check(p != NULL && (uintptr_t)p % CACHE_LINE == 0, "aligned_new", (shape){0, 0, 0}, (int)sizes[i]);
        if (p != NULL && sizes[i])
            p[0] = p[sizes[i] - 1] = 1;
        aligned_delete(p, sizes[i]);
    }
    /* A large block that was given back is the next one of its size; each is handed out once; not too many are kept. */
    void *blocks[KEPT_BLOCKS + 1], *again;
    size_t large = (KEPT_BYTES / KEPT_BLOCKS - 1) & ~(HUGE_PAGE - 1);
    for (int i = 0; i <= KEPT_BLOCKS; i++)
        blocks[i] = aligned_new(large);
    for (int i = 0; i <= KEPT_BLOCKS; i++)
        aligned_delete(blocks[i], large);
    check(kept.bytes <= KEPT_BYTES, "kept too much", (shape){0, 0, 0}, (int)(kept.bytes >> 20));
    again = aligned_new(large);
    int found = 0; /* the first one had to make room */
    for (int i = 1; i <= KEPT_BLOCKS; i++)
        found |= again == blocks[i];
    check(found, "a kept block is not used again", (shape){0, 0, 0}, 0);
    blocks[0] = aligned_new(large);
    check(blocks[0] != NULL && blocks[0] != again, "one block for two", (shape){0, 0, 0}, 0);
    aligned_delete(again, large);
    aligned_delete(blocks[0], large);
    /* Who takes and gives one size again and again drives out no other. */
    void *other = aligned_new(3 * large);
    aligned_delete(other, 3 * large);
    for (int i = 0; i < 2 * KEPT_BLOCKS; i++)
        aligned_delete(aligned_new(HUGE_PAGE), HUGE_PAGE);
    again = kept_take(3 * large); /* the system might give the same address */
    check(again == other, "a block was driven out for nothing", (shape){0, 0, 0}, 0);
    if (again != NULL)
        aligned_delete(again, 3 * large);
    /* Another size takes the place of what nobody asks for any more. */
    for (int i = 0; i < 2 * KEPT_BLOCKS; i++) {
        blocks[0] = aligned_new(2 * large);
        check(kept.bytes <= KEPT_BYTES, "kept too much", (shape){0, 0, 0}, (int)(kept.bytes >> 20));
        aligned_delete(blocks[0], 2 * large);
        again = aligned_new(2 * large);
        check(again == blocks[0], "the newest block is not kept", (shape){0, 0, 0}, i);
        aligned_delete(again, 2 * large);
    }
    for (size_t less = 0; less < 3; less++) {
        volatile size_t bytes = (size_t)-1 - less * (HUGE_PAGE / 2);
        void *p = aligned_new(bytes);
        check(p == NULL, "aligned_new of all memory", (shape){0, 0, 0}, (int)less);
        aligned_delete(p, bytes);
    }
}

static void check_meeting(void)
{
    static meeting m;
    check(!meet(&m, 1, 1) && !meet(&m, 1, 2), "alone and waiting", (shape){0, 0, 0}, 0);
    meet_drop(&m, 2);
    check(meet_drop_at(&m) == 2, "meet_drop", (shape){0, 0, 0}, 0);
    meet_no_more(&m);
    check(!meet(&m, 2, 3), "waiting after meet_no_more", (shape){0, 0, 0}, 0);
    move_from(this_processor());
    check(meet_yields() == 0, "yields", (shape){0, 0, 0}, 0);
}

int main(void)
{
    for (int K = 1; K <= 9; K++)
        check_tiles(K), check_outers(K);
    check_tiles(127), check_outers(127);
    check_tiles(128), check_outers(128);
    check_memory();
    check_meeting();
    printf("float%d, %d lanes, %s, tiles of %d and %d rows: %d of %d checks failed\n", FASTRNN_REAL, VL,
           FUSED ? "fused" : "not fused", ROWS_4, ROWS_3, failures, checks);
    return failures != 0;
}
