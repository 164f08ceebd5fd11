/* One step of an optimizer over n numbers of a parameter `p` along its gradient `g`, all in one pass. Compilers make
 * vectors of these loops. Nothing is summed up and no multiply-add is fused: the same bits on every instruction set.
 */
#pragma once
#include <math.h>
#include <stddef.h>

#include "_simd.h"

#if FASTRNN_REAL == 32
#define ROOT sqrtf
#else
#define ROOT sqrt
#endif
#if defined(_MSC_VER)
#define ALONE __restrict
#else
#define ALONE restrict
#endif

/* What is to be made smaller: sign is -1 to go up the gradient. An infinite p without decay is none of g's business. */
INLINE real descent(real p, real g, real sign, real decay) { return decay != 0 ? sign * g + decay * p : sign * g; }

static void sgd_step(ptrdiff_t n, real *ALONE p, const real *ALONE g, real lr, real sign, real decay) {
    for (ptrdiff_t i = 0; i < n; i++) p[i] -= lr * descent(p[i], g[i], sign, decay);
}

/* b: running sum of gradients; share: of a gradient in it, all of the first one. */
static void momentum_step(ptrdiff_t n, real *ALONE p, const real *ALONE g, real *ALONE b, real lr, real sign,
                          real decay, real momentum, real share, int first, int nesterov) {
    for (ptrdiff_t i = 0; i < n; i++) {
        real gi = descent(p[i], g[i], sign, decay);
        real bi = first ? gi : momentum * b[i] + share * gi;
        b[i] = bi;
        p[i] -= lr * (nesterov ? gi + momentum * bi : bi);
    }
}

/* m, v: running means of the gradient and of its square; largest: of v so far, or NULL; kept: of p before the step.
 * lr and eps have the corrections for the means' first steps in them. */
INLINE void adam_loop(ptrdiff_t n, real *ALONE p, const real *ALONE g, real *ALONE m, real *ALONE v,
                      real *ALONE largest, real lr, real sign, real decay, real kept, real rest1, real beta2,
                      real rest2, real eps, int amsgrad) {
    for (ptrdiff_t i = 0; i < n; i++) {
        real gi = descent(p[i], g[i], sign, decay);
        real mi = m[i] + rest1 * (gi - m[i]), vi = beta2 * v[i] + rest2 * (gi * gi);
        m[i] = mi;
        v[i] = vi;
        if (amsgrad) largest[i] = vi = largest[i] > vi ? largest[i] : vi;
        p[i] = kept * p[i] - lr * (mi / (ROOT(vi) + eps));
    }
}

static void adam_step(ptrdiff_t n, real *p, const real *g, real *m, real *v, real *largest, real lr, real sign,
                      real decay, real kept, real rest1, real beta2, real rest2, real eps) {
    if (largest)
        adam_loop(n, p, g, m, v, largest, lr, sign, decay, kept, rest1, beta2, rest2, eps, 1);
    else
        adam_loop(n, p, g, m, v, NULL, lr, sign, decay, kept, rest1, beta2, rest2, eps, 0);
}

/* v: running mean of the gradient's square; b: running sum of steps, or NULL; m: running mean of the gradient, or NULL,
 * whose square is then taken off v. */
INLINE void rmsprop_loop(ptrdiff_t n, real *ALONE p, const real *ALONE g, real *ALONE v, real *ALONE b, real *ALONE m,
                         real lr, real sign, real decay, real alpha, real rest, real momentum, real eps,
                         int with_momentum, int centered) {
    for (ptrdiff_t i = 0; i < n; i++) {
        real gi = descent(p[i], g[i], sign, decay), vi = alpha * v[i] + rest * (gi * gi);
        v[i] = vi;
        if (centered) {
            real mi = m[i] + rest * (gi - m[i]);
            m[i] = mi;
            vi -= mi * mi;
        }
        real step = gi / (ROOT(vi) + eps);
        if (with_momentum) b[i] = step = momentum * b[i] + step;
        p[i] -= lr * step;
    }
}

static void rmsprop_step(ptrdiff_t n, real *p, const real *g, real *v, real *b, real *m, real lr, real sign, real decay,
                         real alpha, real rest, real momentum, real eps) {
    if (b && m)
        rmsprop_loop(n, p, g, v, b, m, lr, sign, decay, alpha, rest, momentum, eps, 1, 1);
    else if (b)
        rmsprop_loop(n, p, g, v, b, NULL, lr, sign, decay, alpha, rest, momentum, eps, 1, 0);
    else if (m)
        rmsprop_loop(n, p, g, v, NULL, m, lr, sign, decay, alpha, rest, momentum, eps, 0, 1);
    else
        rmsprop_loop(n, p, g, v, NULL, NULL, lr, sign, decay, alpha, rest, momentum, eps, 0, 0);
}
