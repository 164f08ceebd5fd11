/* What the threads of these modules share: counters, flags, and a lock for which nobody waits. */
#pragma once
#if defined(_WIN32)
#ifndef WIN32_LEAN_AND_MEAN
#define WIN32_LEAN_AND_MEAN
#endif
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <windows.h>
#endif

#if defined(__GNUC__)
#define atomic_add(p, n) __atomic_add_fetch(p, n, __ATOMIC_ACQ_REL)
#define atomic_get(p) __atomic_load_n(p, __ATOMIC_ACQUIRE)
#define atomic_set(p, n) __atomic_store_n(p, n, __ATOMIC_RELEASE)
#define atomic_swap(p, n) __atomic_exchange_n(p, n, __ATOMIC_ACQ_REL)
#else
#define atomic_add(p, n) (InterlockedExchangeAdd(p, n) + (n))
#define atomic_get(p) InterlockedOr(p, 0)
#define atomic_set(p, n) InterlockedExchange(p, n)
#define atomic_swap(p, n) InterlockedExchange(p, n)
#endif
