/* Where the threads that share one sequence meet once per step. Waiting gives way: a bounded spin, then the processor
   is yielded at every look. An endless spin with two processes of two threads on two cores takes hundreds of times as
   long as one thread. */
#pragma once
#include <errno.h>
#include <time.h>

#include "_atomic.h"
#if defined(_WIN32)
#define yield_processor() SwitchToThread()
#else
#include <sched.h>
#define yield_processor() sched_yield()
#endif

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define pause_processor() _mm_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define pause_processor() __asm__ volatile("yield")
#else
#define pause_processor() ((void)0)
#endif

#define SPINS 200

/* A thread that is being woken, or whose caches are cold, comes late by some tens of microseconds. One that comes later
   than this was not given a processor. */
#define LONG_WAIT 2e-4 /* seconds */

typedef struct {
    volatile long arrived; /* over all meetings so far */
    volatile long drop_at; /* the meeting after which the first thread goes on alone; 0: none */
    char apart[56];        /* neighbours in memory must not share the cache line */
} meeting;

static volatile long yields_in_all = 0;

static inline double meet_seconds(void) {
#if defined(_WIN32)
    LARGE_INTEGER ticks, per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
#endif
}

/* Wait until all `parts` threads have come to meeting number `count` (1, 2, ...). Whether that took long. */
static inline int meet(meeting *m, long parts, long count) {
    long yields = 0;
    double began;
    if (atomic_add(&m->arrived, 1) >= count * parts) return 0;
    for (int i = 0; i < SPINS; i++) {
        if (atomic_get(&m->arrived) >= count * parts) return 0;
        pause_processor();
    }
    for (began = meet_seconds(); atomic_get(&m->arrived) < count * parts; yields++) yield_processor();
    atomic_add(&yields_in_all, yields);
    return meet_seconds() - began > LONG_WAIT;
}

/* Let all others pass every meeting: for a thread that cannot go on. */
#define NO_MORE (1L << 30)
static inline void meet_no_more(meeting *m) { atomic_set(&m->arrived, NO_MORE); }
static inline int meet_is_over(meeting *m) { return atomic_get(&m->arrived) >= NO_MORE; }

/* Linux may wake a thread on the very processor of the one that woke it, and leave it there as long as the two run in
   turns: one LSTM sequence (H=512) on two threads after a pause of 30 ms took 70 us a step, as with one thread, and
   takes 41 since a thread that finds itself so moves away. Then it may run where it might before. */
static inline int this_processor(void) {
#if defined(__linux__)
    return sched_getcpu();
#else
    return -1;
#endif
}

static inline void move_from(int processor) {
#if defined(__linux__)
    cpu_set_t allowed, others;
    if (processor < 0 || sched_getcpu() != processor || sched_getaffinity(0, sizeof allowed, &allowed)) return;
    others = allowed;
    CPU_CLR(processor, &others);
    if (CPU_COUNT(&others) && !sched_setaffinity(0, sizeof others, &others))
        while (sched_setaffinity(0, sizeof allowed, &allowed) && errno == EINTR) {}
#else
    (void)processor;
#endif
}

static inline long meet_drop_at(meeting *m) { return atomic_get(&m->drop_at); }
static inline void meet_drop(meeting *m, long count) { atomic_set(&m->drop_at, count); }
static inline long meet_yields(void) { return atomic_get(&yields_in_all); }
