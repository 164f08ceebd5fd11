/* Steps of fastrnn/_optimizers.h by hand, as compiled: exit status 1 where one is wrong. The numbers are exact. */
#include "../fastrnn/_optimizers.h"

#include <stdio.h>

enum { N = 19 }; /* more than a vector, and no multiple of one */

static int wrong = 0;

static void check(const char *name, const real *p, real expected) {
    for (int i = 0; i < N; i++)
        if (p[i] != expected) {
            printf("%s: p[%d] is %g, not %g\n", name, i, (double)p[i], (double)expected);
            wrong = 1;
        }
}

static void fill(real *a, real value) {
    for (int i = 0; i < N; i++) a[i] = value;
}

int main(void) {
    real p[N], g[N], a[N], b[N], c[N];
    printf("float%d, %d lanes, %s\n", FASTRNN_REAL, (int)VL, FUSED ? "fused" : "not fused");
    fill(p, 1), fill(g, 2);
    sgd_step(N, p, g, (real)0.5, 1, (real)0.5); /* 1 - 0.5 * (2 + 0.5) */
    check("sgd", p, (real)-0.25);
    fill(p, 1), fill(a, 4);
    momentum_step(N, p, g, a, (real)0.5, -1, 0, (real)0.5, 1, 0, 1); /* buffer 2 - 2, gradient -2 */
    check("momentum", p, 2);
    check("momentum's buffer", a, 0);
    fill(p, 1), fill(a, 0), fill(b, 4), fill(c, 16);
    adam_step(N, p, g, a, b, c, 1, 1, 0, (real)0.5, (real)0.5, (real)0.5, (real)0.5, 4); /* m 1, v 4, largest 16 */
    check("adam, amsgrad", p, (real)0.375);
    fill(p, 1), fill(a, 0), fill(b, 4);
    adam_step(N, p, g, a, b, NULL, 1, 1, 0, 1, (real)0.5, (real)0.5, (real)0.5, 2);
    check("adam", p, (real)0.75);
    fill(p, 1), fill(a, 6), fill(b, 4), fill(c, 0);
    rmsprop_step(N, p, g, a, b, c, 1, 1, 0, (real)0.5, (real)0.5, (real)0.5, 0); /* v 5, mean 1: 2 / 2 + 0.5 * 4 */
    check("rmsprop, centered, with momentum", p, -2);
    fill(p, 1), fill(a, 4);
    rmsprop_step(N, p, g, a, NULL, NULL, 1, 1, 0, (real)0.5, (real)0.5, 0, 2); /* v 4 */
    check("rmsprop", p, (real)0.5);
    return wrong;
}
