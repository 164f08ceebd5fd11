/* Where the threads that share one sequence meet once per step. Waiting gives way: a bounded spin, then the processor
   is yielded at every look. An endless spin with two processes of two threads on two cores takes hundreds of times as
   long as one thread. */
#pragma once
#if defined(_WIN32)
#include <windows.h>
#define yield_processor() SwitchToThread()
#else
#include <sched.h>
#define yield_processor() sched_yield()
#endif

#if defined(__GNUC__)
#define atomic_add(p, n) __atomic_add_fetch(p, n, __ATOMIC_ACQ_REL)
#define atomic_get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define atomic_set(p, n) __atomic_store_n(p, n, __ATOMIC_RELEASE)
#else
#define atomic_add(p, n) (InterlockedExchangeAdd(p, n) + (n))
#define atomic_get(p) InterlockedOr(p, 0)
#define atomic_set(p, n) InterlockedExchange(p, n)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define pause_processor() _mm_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define pause_processor() __asm__ volatile("yield")
#else
#define pause_processor() ((void)0)
#endif

#define SPINS 200

typedef struct {
    volatile long arrived; /* over all meetings so far */
    volatile long drop_at; /* the meeting after which the first thread goes on alone; 0: none */
    char apart[56];        /* neighbours in memory must not share the cache line */
} meeting;

static volatile long yields_in_all = 0;

/* Wait until all `parts` threads have come to meeting number `count` (1, 2, ...). Whether that took long. */
static inline int meet(meeting *m, long parts, long count) {
    long yields = 0;
    if (atomic_add(&m->arrived, 1) >= count * parts) return 0;
    for (int i = 0; i < SPINS; i++) {
        if (atomic_get(&m->arrived) >= count * parts) return 0;
        pause_processor();
    }
    while (atomic_get(&m->arrived) < count * parts) {
        yield_processor();
        yields++;
    }
    atomic_add(&yields_in_all, yields);
    return yields > 0;
}

static inline long meet_drop_at(meeting *m) { return atomic_get(&m->drop_at); }
static inline void meet_drop(meeting *m, long count) { atomic_set(&m->drop_at, count); }
static inline long meet_yields(void) { return atomic_get(&yields_in_all); }
