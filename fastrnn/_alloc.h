/* Memory for packed weights and scratch. Weights that fill a good part of the second-level cache want huge pages: with
   4 KiB pages the kernel's choice of page frames decides how many of them collide there, and the time of one and the
   same LSTM step (H=256) varies from 7 to 35 us. */
#pragma once
#include <stddef.h>
#include <stdlib.h>
#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

#define CACHE_LINE 64
#define HUGE_PAGE ((size_t)2 << 20)
#define HUGE_FROM ((size_t)256 << 10) /* below this, a whole huge page would be mostly waste */

static inline void *aligned_new(size_t bytes) {
#if defined(_WIN32)
    return _aligned_malloc(bytes ? bytes : 1, CACHE_LINE);
#else
    void *p = NULL;
    int huge = bytes >= HUGE_FROM;
    if (bytes > (size_t)-1 - HUGE_PAGE) return NULL; /* rounding up would wrap */
    if (huge) bytes = (bytes + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
    if (posix_memalign(&p, huge ? HUGE_PAGE : CACHE_LINE, bytes ? bytes : 1)) return NULL;
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (huge) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
#endif
}

static inline void aligned_delete(void *p) {
#if defined(_WIN32)
    _aligned_free(p);
#else
    free(p);
#endif
}
