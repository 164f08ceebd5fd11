"""Bodies of torch's cells against the reference, which has equations of its own; their gradients; `elementary`."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from body_tools import TORCH, assert_gradients, draw

from fastrnn import bodies, cells
from fastrnn.backends import reference
from fastrnn.derive import backward_of
from fastrnn.elementary import exp, select, sigmoid, tanh, zero_like

BACKWARD = {name: getattr(bodies, f"{name}_backward") for name in TORCH}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, 800.0, -800.0]


def joined(parts):
    return np.concatenate(parts, axis=-1)


def reference_forward(name, gx, gh, s):
    if name == "lstm":
        return reference.lstm_cell(joined(gx), joined(gh), s[1])
    if name == "gru":
        return (reference.gru_cell(joined(gx), joined(gh), s[0]),)
    return (reference.rnn_cell(cells.CELLS[name], gx[0], gh[0]),)


def reference_backward(name, gx, gh, s, ds):
    """Stacked as there: dgx, dgh, ds_prev."""
    if name == "lstm":
        dgx, dc = reference.lstm_cell_backward(joined(gx), joined(gh), s[1], *ds)
        return dgx, dgx, joined([np.zeros_like(dc), dc])
    if name == "gru":
        return reference.gru_cell_backward(joined(gx), joined(gh), s[0], ds[0])
    dgx = reference.rnn_cell_backward(cells.CELLS[name], gx[0], gh[0], ds[0])
    return dgx, dgx, np.zeros_like(dgx)


def special(cell, rng):
    """Arrays where every pair of a gate's parts, and of a part and a state, has all special values at some place."""
    pairs = np.array(list(product(SPECIAL, SPECIAL))).T
    columns = [rng.permutation(pairs, axis=1) for _ in range(40)]

    def parts(side, count):
        return tuple(np.concatenate([columns[(i * 7 + k) % 40][side] for k in range(40)]) for i in range(count))

    gx, gh = parts(0, cell.gates), parts(1, cell.gates)
    return [gx, gh, tuple(rng.permutation(gx[0]) for _ in range(cell.states))]


@pytest.fixture(params=TORCH)
def name(request):
    return request.param


def test_forward_is_the_reference(name, assert_close):
    given, _ = draw(TORCH[name], np.random.default_rng(0), scale=3)
    assert_close(TORCH[name].body(*given), reference_forward(name, *given), "float64")


def test_backward_is_the_reference(name, assert_close):
    given, ds = draw(TORCH[name], np.random.default_rng(1), scale=3)
    got = tuple(joined(part) for part in BACKWARD[name](*given, ds))
    assert_close(got, reference_backward(name, *given, ds), "float64", gradient=True)


def test_special_values(name, assert_close):
    """NaN, infinities, zeros of either sign in all combinations, with gradients from 0 to infinity."""
    rng = np.random.default_rng(2)
    given = special(TORCH[name], rng)
    ds = tuple(rng.choice([1.0, -0.5, 0.0, np.inf, np.nan], given[0][0].shape) for _ in given[2])
    with np.errstate(all="ignore"):
        assert_close(TORCH[name].body(*given), reference_forward(name, *given), "float64")
        for d in (ds, tuple(np.where(np.isfinite(a), a, 1.5) for a in ds)):
            got = tuple(joined(part) for part in BACKWARD[name](*given, d))
            assert_close(got, reference_backward(name, *given, d), "float64", gradient=True)


def test_relu_at_zero():
    a, zero, d = np.array([0.0, -0.0, np.nan, 3.0, -3.0]), np.zeros(5), np.full(5, 7.0)
    assert np.array_equal(*bodies.rnn_relu((a,), (zero,), (zero,)), [0, 0, np.nan, 3, 0], equal_nan=True)
    (da,), _, (dh,) = bodies.rnn_relu_backward((a,), (zero,), (zero,), (d,))
    assert np.array_equal(da, [0, 0, 7, 7, 0])
    assert not dh.any()


def test_backward_is_the_derivative(name):
    given, ds = draw(TORCH[name], np.random.default_rng(3))
    assert_gradients(TORCH[name].body, BACKWARD[name], given, ds)


def test_backward_is_the_derived_one(name, assert_close):
    given, ds = draw(TORCH[name], np.random.default_rng(4), scale=3)
    assert_close(BACKWARD[name](*given, ds), backward_of(*TORCH[name])(*given, ds), "float64", gradient=True)


def test_float32_stays_float32(name):
    given, ds = draw(TORCH[name], np.random.default_rng(5))
    given, ds = [tuple(a.astype("float32") for a in part) for part in given], tuple(a.astype("float32") for a in ds)
    for got in (TORCH[name].body(*given), *BACKWARD[name](*given, ds)):
        assert {a.dtype for a in got} == {np.dtype("float32")}


# --- elementary -------------------------------------------------------------------------------------------------------


def test_sigmoid():
    a = np.array([0.0, -0.0, np.inf, -np.inf, 1e308, -1e308, np.nan])
    assert np.array_equal(sigmoid(a), [0.5, 0.5, 1, 0, 1, 0, np.nan], equal_nan=True)
    a = np.linspace(-700, 700, 10001)
    true = np.exp(-np.logaddexp(0, -a))
    assert np.all(np.abs(sigmoid(a) / true - 1) < 1e-12)  # to the last digits of small values too


def test_elementary_of_arrays_and_numbers():
    a = np.array([[-1.5, np.nan], [0.0, 2.0]])
    assert np.array_equal(exp(a), np.exp(a), equal_nan=True)
    assert np.array_equal(tanh(a), np.tanh(a), equal_nan=True)
    assert np.array_equal(select(a > 0, a, -1.0), [[-1, -1], [-1, 2]])
    assert np.array_equal(zero_like(a), np.zeros((2, 2)))
    assert (exp(0.0), sigmoid(0), tanh(0.0), select(1 < 2, 3, 4), zero_like(5.0)) == (1, 0.5, 0, 3, 0)
    for function in (exp, sigmoid, tanh, zero_like, lambda a: select(a < 0, 0.0, a)):
        assert function(a.astype("float32")).dtype == np.float32
