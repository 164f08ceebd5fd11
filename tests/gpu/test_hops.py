"""The kernels that time a hop, on the executor: they come to their end, and see what was sent."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("greenlet")

from executor import Fault, load, run

HOPS = 6
BLOCKS = {"relaxed": 2, "release": 2, "barrier": 3, "exchange": 5}


def play(kind, *, edits=(), seed=0, words=None, spins=1000):
    """Runs it; the words and the status afterwards."""
    hops = load("hops", edits)
    blocks = BLOCKS[kind]
    kernel = getattr(hops, kind)(*(() if kind in ("relaxed", "release") else (blocks,)))
    if words is None:
        words = np.zeros(HOPS * hops.WORDS if kind == "exchange" else 256)
    count, elapsed, status = np.zeros(256, np.int32), np.zeros(1), np.zeros(1, np.int32)
    run(kernel, (blocks, 1), [words, count, elapsed, status, HOPS, 32 * (kind != "exchange"), spins], seed=seed)
    assert (elapsed[0] > 0) == (status[0] == 0)
    return words, count, status[0]


@pytest.mark.parametrize("kind", BLOCKS)
@pytest.mark.parametrize("seed", range(3))
def test_ends(kind, seed):
    words, count, status = play(kind, seed=seed)
    assert status == 0
    if kind == "relaxed":
        assert words[32] == words[64] == HOPS / 2
    if kind == "release":
        assert count[32] == count[64] == HOPS / 2
        assert words[96] == HOPS + 1
    if kind == "barrier":
        assert count[32] == BLOCKS[kind] * HOPS
    if kind == "exchange":
        assert np.all(words == 1)


def test_a_flag_that_is_not_released():
    """Then data may come after their flag."""
    then = "\n            tries = 0"
    edits = ((f"ptx.store_release(count, mine, int32(i)){then}", f"ptx.store_relaxed(count, mine, int32(i)){then}"),)

    def lost(seed):
        try:
            return play("release", edits=edits, seed=seed)[0][96] != HOPS + 1
        except Fault:
            return True

    assert any(lost(seed) for seed in range(10))


@pytest.mark.parametrize("kind", BLOCKS)
def test_nobody_waits_for_ever(kind):
    """One block is not there at all: the others give up."""
    me = {"relaxed": "        me = cuda.blockIdx.x\n        mine = first + me * WARP  # a cache line each"}
    me |= {"release": "        me = cuda.blockIdx.x\n        mine = first + me * WARP\n"}
    me |= {"barrier": "        me = cuda.threadIdx.x\n", "exchange": "        lane = cuda.threadIdx.x\n"}
    edits = ((me[kind], f"        if cuda.blockIdx.x == 1:\n            return\n{me[kind]}"),)
    *_, status = play(kind, edits=edits, spins=20)
    assert status == 1
