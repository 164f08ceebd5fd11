/* Memory for packed weights and scratch. Weights that fill a good part of the second-level cache want huge pages: with
   4 KiB pages the kernel's choice of page frames decides how many of them collide there, and the time of one and the
   same LSTM step (H=256) varies from 7 to 35 us. */
#pragma once
#include <stddef.h>
#include <stdlib.h>

#include "_atomic.h"
#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

#define CACHE_LINE 64
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)256 << 10) /* below this, a whole huge page would be mostly waste */

/* Large blocks that were given back, for whoever asks for that size next. The system gives memory page by page, each
   filled with zeros first: a training step of LSTM H=128 over one sequence of 100 steps, its weights packed anew, took
   1.4 ms without and takes 1.1. Where there is no room others make some, in turn. Nobody waits for the lock; a child
   forked while it is held by another thread does without kept blocks. */
#define KEPT_BLOCKS 16
#define KEPT_BYTES ((size_t)64 << 20) /* in all */

typedef struct { void *p; size_t bytes; } kept_block;

static struct {
    volatile long lock;
    int next; /* to make room, in turn */
    size_t bytes; /* in all */
    kept_block block[KEPT_BLOCKS];
} kept;

static inline void *kept_take(size_t bytes) {
    void *p = NULL;
    if (atomic_swap(&kept.lock, 1)) return NULL;
    for (int i = 0; i < KEPT_BLOCKS && p == NULL; i++) {
        if (kept.block[i].p == NULL || kept.block[i].bytes != bytes) continue;
        p = kept.block[i].p;
        kept.block[i].p = NULL;
        kept.bytes -= bytes;
    }
    atomic_set(&kept.lock, 0);
    return p;
}

static inline void system_free(void *p) {
#if defined(_WIN32)
    _aligned_free(p);
#else
    free(p);
#endif
}

static inline void kept_give(void *p, size_t bytes) {
    void *out[KEPT_BLOCKS];
    int n = 0, at = 0;
    if (bytes > KEPT_BYTES || atomic_swap(&kept.lock, 1)) {
        system_free(p);
        return;
    }
    while (at < KEPT_BLOCKS && kept.block[at].p != NULL) at++; /* an empty place */
    while (at == KEPT_BLOCKS || kept.bytes + bytes > KEPT_BYTES) {
        kept_block *slot = &kept.block[kept.next];
        if (slot->p != NULL) {
            out[n++] = slot->p;
            kept.bytes -= slot->bytes;
            slot->p = NULL;
            at = kept.next;
        }
        kept.next = (kept.next + 1) % KEPT_BLOCKS;
    }
    kept.block[at].p = p;
    kept.block[at].bytes = bytes;
    kept.bytes += bytes;
    atomic_set(&kept.lock, 0);
    while (n > 0) system_free(out[--n]);
}

/* What is really asked of the system for so many bytes; 0 where that does not fit into a size_t. */
static inline size_t rounded(size_t bytes) {
    if (bytes > (size_t)-1 - HUGE_PAGE) return 0;
    return bytes >= HUGE_FROM ? (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1) : bytes ? bytes : 1;
}

static inline void *aligned_new(size_t bytes) {
    size_t size = rounded(bytes);
    int huge = size >= HUGE_PAGE;
    void *p = huge ? kept_take(size) : NULL;
    if (p != NULL || size == 0) return p;
#if defined(_WIN32)
    return _aligned_malloc(size, CACHE_LINE);
#else
    if (posix_memalign(&p, huge ? HUGE_PAGE : CACHE_LINE, size)) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(p, size, MADV_HUGEPAGE);
#endif
    return p;
#endif
}

/* bytes: as many as were asked for */
static inline void aligned_delete(void *p, size_t bytes) {
    if (p != NULL && bytes >= HUGE_FROM)
        kept_give(p, rounded(bytes));
    else
        system_free(p);
}
