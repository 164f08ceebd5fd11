"""Kernel A0 on the executor, held to the reference."""

from __future__ import annotations

import pytest

pytest.importorskip("greenlet")

from executor import load
from forward_cases import FIVE_GATES, Case

from fastrnn.cells import CELLS, GRU, LSTM, RNN_TANH

A0 = load("one_block")


def check(case, slices=2, module=A0, **options):
    kernel = module.kernel(case.spec, case.H, case.N, case.D, slices=slices, **case.flags)
    return case.check(kernel, module.grid(case.N, case.D), **options)


@pytest.mark.parametrize("spec", CELLS.values(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("H", [1, 5, 16, 20, 31])
def test_cells(spec, H):
    check(Case(spec, H, 2, T=5, seed=H))


@pytest.mark.parametrize("slices", [1, 2, 4, 8])
@pytest.mark.parametrize("spec", [LSTM, GRU, RNN_TANH], ids=lambda spec: spec.name)
def test_slices(slices, spec):
    check(Case(spec, 12, 3, T=4), slices)


@pytest.mark.parametrize("spec", CELLS.values(), ids=lambda spec: spec.name)
@pytest.mark.parametrize("seed", range(4))
def test_everything_at_once(spec, seed):
    """Two directions, ragged rows (one of them empty), resets, gx with rows first, another order each time."""
    lengths = [3, 0, 6, 1, 2]
    case = Case(spec, 18, 5, 2, 6, lengths=lengths, resets=True, reverse=seed % 2, seed=seed, t_first=False)
    check(case, seed=seed)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    "options",
    [{"lengths": [4, 2, 1]}, {"resets": True}, {"resets": True, "T": 3}, {"keep": False}, {"T": 1}, {"T": 2}],
    ids=str,
)
def test_options(options, reverse):
    check(Case(GRU, 12, 3, seed=5, **{"reverse": reverse} | options))
    check(Case(LSTM, 12, 3, D=2, seed=5, **{"reverse": reverse} | options))


def test_a_cell_of_a_user():
    check(Case(FIVE_GATES, 9, 3, D=2, lengths=[4, 1, 3], resets=True))
