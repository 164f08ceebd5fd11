"""How long a value takes from one multiprocessor to another: what bounds a recurrence that is spread over many.

Four ways to hand something over, each with the waiting of a real step and none of its arithmetic:

- ``relaxed``: the word is the data. The reader polls it until it is no longer what it was (kernels A, B and C);
- ``release``: data, then a flag that is released; the reader acquires the flag, then reads the data;
- ``barrier``: every multiprocessor counts up one word and waits until all have (``grid.sync()`` does this);
- ``exchange``: every multiprocessor writes some words of a row and polls the whole row, as kernel A does with h.

In the first two a pair of blocks plays ping-pong. All times are of the device's own clock.
"""

from __future__ import annotations

from functools import cache
from statistics import median
from typing import Any

import numpy as np
from numba import cuda, float32, int32

from ..errors import BackendError
from . import ptx
from .runtime import Kernel

KINDS = ("relaxed", "release", "barrier", "exchange")
HOPS = 4000  # of a launch: some 2 ms
SHORT = 40  # of the first launch of each kind
LAUNCHES = 7
SPINS = 1 << 18  # tries before a poll gives up: a tenth of a second
WORDS = 512  # of a row in `exchange`
WARP = 32
APART = 8 * 1000 + WARP  # words between those that launches use: they lie in different parts of the L2 cache

# Every kernel has the same parameters:
#   words    float32: zeros, what is handed over is never 0; in `exchange` (hops, WORDS)
#   count    int32: zeros; flags, or the counter of the barrier
#   elapsed  float32 (1): nanoseconds of all hops
#   status   int32 (1): 1 where a poll gave up
#   hops, first, spins  numbers: how many; the first word that is used; tries of a poll
PARAMETERS = "fifinnn"


@cache
def relaxed() -> Kernel:
    """A word goes there and back; a hop is one way."""

    def ping_pong(words, count, elapsed, status, hops, first, spins):
        if cuda.threadIdx.x > 0:
            return
        me = cuda.blockIdx.x
        mine = first + me * WARP  # a cache line each
        other = first + (1 - me) * WARP
        began = ptx.global_nanoseconds()
        for i in range(1, hops // 2 + 1):
            value = float32(i)
            if me == 0:
                ptx.store_relaxed(words, mine, value)
            tries = 0
            while ptx.load_relaxed(words, other) != value:
                tries += 1
                if tries > spins:
                    ptx.store_relaxed(status, 0, 1)
                    return
            if me == 1:
                ptx.store_relaxed(words, mine, value)
        if me == 0:
            elapsed[0] = float32(ptx.global_nanoseconds() - began)

    return Kernel(ping_pong, PARAMETERS, WARP, float32, cooperative=True)


@cache
def release() -> Kernel:
    """The same with a flag beside the data."""

    def ping_pong(words, count, elapsed, status, hops, first, spins):
        if cuda.threadIdx.x > 0:
            return
        me = cuda.blockIdx.x
        mine = first + me * WARP
        other = first + (1 - me) * WARP
        sent = float32(1.0)
        began = ptx.global_nanoseconds()
        for i in range(1, hops // 2 + 1):
            if me == 0:
                ptx.store_relaxed(words, mine, sent)
                ptx.store_release(count, mine, int32(i))
            tries = 0
            while ptx.load_acquire(count, other) != int32(i):
                tries += 1
                if tries > spins:
                    ptx.store_relaxed(status, 0, 1)
                    return
            sent = ptx.load_relaxed(words, other) + float32(1.0)  # so that the next word waits for this one
            if me == 1:
                ptx.store_relaxed(words, mine, sent)
                ptx.store_release(count, mine, int32(i))
        if me == 0:
            elapsed[0] = float32(ptx.global_nanoseconds() - began)
            words[first + 2 * WARP] = sent  # hops + 1, where nothing was lost

    return Kernel(ping_pong, PARAMETERS, WARP, float32, cooperative=True)


@cache
def barrier(blocks: int) -> Kernel:
    """All blocks meet, with all threads of each."""

    def meet(words, count, elapsed, status, hops, first, spins):
        gone = cuda.shared.array(1, int32)
        me = cuda.threadIdx.x
        if me == 0:
            gone[0] = int32(0)
        began = ptx.global_nanoseconds()
        for i in range(1, hops + 1):
            cuda.syncthreads()
            if me == 0:
                ptx.add_release(count, first, 1)
                tries = 0
                while gone[0] == 0 and ptx.load_acquire(count, first) < int32(i * blocks):
                    tries += 1
                    if tries > spins:
                        ptx.store_relaxed(status, 0, 1)
                        gone[0] = int32(1)
            cuda.syncthreads()
            if gone[0] != 0:
                return
        if me == 0 and cuda.blockIdx.x == 0:
            elapsed[0] = float32(ptx.global_nanoseconds() - began)

    return Kernel(meet, PARAMETERS, 4 * WARP, float32, cooperative=True)


@cache
def exchange(blocks: int) -> Kernel:
    """A warp in each block writes words of a row, four in a lane, and waits for all of them."""
    quads = WORDS // 4
    polls = quads // WARP

    def step(words, count, elapsed, status, hops, first, spins):
        lane = cuda.threadIdx.x
        me = cuda.blockIdx.x
        began = ptx.global_nanoseconds()
        value = float32(1.0)
        for i in range(hops):
            row = i * WORDS
            for q in range(me + lane * blocks, quads, WARP * blocks):
                for k in range(4):
                    ptx.store_relaxed(words, row + 4 * q + k, value)
            tries = 0
            waiting = True
            while waiting:
                least = value
                for j in range(polls):
                    a, b, c, d = ptx.load_relaxed4(words, row + 4 * (lane + j * WARP))
                    least = min(least, min(min(a, b), min(c, d)))
                waiting = not cuda.all_sync(0xFFFFFFFF, least != float32(0.0))
                tries += 1
                if waiting and tries > spins:
                    if lane == 0:
                        ptx.store_relaxed(status, 0, 1)
                    return
            value = least  # what goes out next waits for what came
        if me == 0 and lane == 0:
            elapsed[0] = float32(ptx.global_nanoseconds() - began)

    return Kernel(step, PARAMETERS, WARP, float32, cooperative=True)


def nanoseconds(device: Any, kind: str, *, hops: int = HOPS, launches: int = LAUNCHES, spins: int = SPINS) -> float:
    """The time of a hop of that kind: the median of several launches, after a short one that does not count.

    Raises
    ------
    BackendError
        A poll gave up, or what came through is not what was sent.
    """
    if kind in ("relaxed", "release"):
        kernel, blocks = relaxed() if kind == "relaxed" else release(), 2
    else:
        blocks = device.multiprocessors
        kernel = barrier(blocks) if kind == "barrier" else exchange(blocks)
    stream = device.stream()
    _once(stream, kernel, kind, blocks, SHORT, 0, spins)
    return median(_once(stream, kernel, kind, blocks, hops, i * APART, spins) for i in range(launches)) / hops


def _once(stream: Any, kernel: Kernel, kind: str, blocks: int, hops: int, first: int, spins: int) -> float:
    size = hops * WORDS if kind == "exchange" else first + 3 * WARP
    words, count = stream.zeros((size,), np.float32), stream.zeros((first + 3 * WARP,), np.int32)
    elapsed, status = stream.zeros((1,), np.float32), stream.zeros((1,), np.int32)
    stream.launch(kernel, (blocks, 1), [words, count, elapsed, status, hops, first, spins])
    if stream.to_host(status)[0]:
        raise BackendError(f"hop {kind!r}: a block waited for another until its {spins} tries were used up")
    if kind == "release" and stream.to_host(words)[first + 2 * WARP] != hops + 1:
        raise BackendError("hop 'release': the data were not there when their flag was")
    return float(stream.to_host(elapsed)[0])
