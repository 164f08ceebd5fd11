"""Kernel A on the executor, held to the reference."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("greenlet")

from executor import SENTINEL, load
from forward_cases import FIVE_GATES, Case

from fastrnn.cells import CELLS, GRU, LSTM, RNN_RELU, RNN_TANH

A = load("small_batch")
TUNING = A.Tuning(units=8, warps=1)
each_cell = pytest.mark.parametrize("spec", CELLS.values(), ids=lambda spec: spec.name)


def check(case, tuning=TUNING, module=A, **options):
    kernel = module.kernel(case.spec, case.H, case.N, case.D, tuning=tuning, **case.flags)
    return case.check(kernel, module.grid(case.H, case.D, tuning), **options)


def run(case, tuning=TUNING, module=A, **options):
    kernel = module.kernel(case.spec, case.H, case.N, case.D, tuning=tuning, **case.flags)
    return case.run(kernel, module.grid(case.H, case.D, tuning), **options)


@each_cell
@pytest.mark.parametrize("N", [1, 2, 3, 4])
def test_cells(spec, N):
    outcome = check(Case(spec, 32, N, seed=N), A.Tuning(8, 1))
    assert outcome.stale > 0  # somebody did wait


@pytest.mark.parametrize(
    ("tuning", "H"),
    [
        (A.Tuning(16, 2), 64),
        (A.Tuning(13, 1), 32),  # rows that are no power of two, a block that is not full
        (A.Tuning(12, 2), 36),  # warps and lanes without columns
        (A.Tuning(32, 3), 96),
        (A.Tuning(8, 1, groups=8), 32),
        (A.Tuning(8, 1, groups=2), 32),
        (A.Tuning(8, 1, groups=1), 32),
        (A.Tuning(16, 1, groups=32), 32),
        (A.Tuning(32, 2, groups=32), 64),  # no block waits for another; a lane has more sums than one
    ],
    ids=str,
)
@pytest.mark.parametrize("spec", [LSTM, GRU, RNN_TANH], ids=lambda spec: spec.name)
def test_splits(tuning, H, spec):
    check(Case(spec, H, N=1 + (H < 64), T=3, seed=H), tuning)


@each_cell
@pytest.mark.parametrize("seed", range(3))
def test_everything_at_once(spec, seed):
    """Two directions, ragged rows (one of them empty), resets, gx with rows first, another order each time."""
    case = Case(spec, 32, 4, 2, 5, lengths=[3, 0, 5, 1], resets=True, reverse=seed == 2, seed=seed, t_first=False)
    check(case, seed=seed)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("options", [{"lengths": [4, 2, 1]}, {"resets": True}, {"keep": False}, {"T": 1}], ids=str)
def test_options(options, reverse):
    check(Case(GRU, 16, 3, seed=5, **{"reverse": reverse} | options))
    check(Case(LSTM, 16, 3, D=2, seed=5, **{"reverse": reverse} | options))


def test_every_row_ends_before_the_last_step():
    check(Case(LSTM, 32, 2, D=2, T=4, lengths=[2, 1]))
    check(Case(LSTM, 32, 2, D=2, T=2, lengths=[0, 0]))


@pytest.mark.parametrize("seed", range(6))
def test_orders(seed):
    check(Case(LSTM, 64, 1, T=6, seed=seed), A.Tuning(16, 2), seed=seed)


@pytest.mark.parametrize("D", [1, 2])
def test_a_value_that_looks_like_the_sentinel(D):
    def put(gx):
        gx[1, 0, 3] = SENTINEL
        return gx

    (y, *_), status = run(Case(RNN_RELU, 32, 2, D, values={"gx": put}))
    assert status == 0
    assert not np.isnan(y[:, 1]).any()
    assert np.argwhere(np.isnan(y[1, 0, :32])).tolist() == [[3]]
    assert np.isnan(y[2:, 0, :32]).all()
    assert not (y.astype(np.float32).view(np.uint32) == 0xFFFFFFFF).any()


def test_initial_states_may_look_like_the_sentinel():
    def put(h_0):
        h_0[0, 0, 5] = SENTINEL
        return h_0

    check(Case(GRU, 32, 2, T=3, values={"h_0": put}))


def test_a_cell_of_a_user():
    check(Case(FIVE_GATES, 32, 3, D=2, lengths=[4, 1, 3], resets=True))


# ---- giving up

NO_STORE = (
    "                    ptx.store_relaxed(y, y_at, new)",
    "                    if unit > 20: ptx.store_relaxed(y, y_at, new)",
)


def test_gives_up():
    """A block that never writes: all come to their end, and the status says so."""
    _, status = run(Case(LSTM, 32, 2, T=6), module=load("small_batch", (NO_STORE,)), spins=20, patience=10000)
    assert status == 1


def test_leaves_when_others_gave_up():
    module = load("small_batch", (NO_STORE, ("LOOK = 1024", "LOOK = 16")))
    _, status = run(Case(LSTM, 32, 2, T=6), module=module, status=1, patience=10000)
    assert status == 1
