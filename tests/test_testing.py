"""check_gradients: passes on what is right, fails on a gradient that is wrong in any one place, and says where."""

from __future__ import annotations

import pickle
from importlib import import_module

import numpy as np
import pytest
from layer_tools import CELLS, make, random_state

import fastrnn
from fastrnn.backends import reference
from fastrnn.testing import GradientError, GradientReport, check_gradients

CELL_KINDS = {
    "RNNCell": {},
    "RNNCell relu": {"nonlinearity": "relu"},
    "LSTMCell": {},
    "GRUCell": {},
    "GRUCell no bias": {"bias": False},
}


def layers():
    yield from (make(cell, 2, 4) for cell in CELLS)
    yield make("lstm_proj", 2, 4, num_layers=2, bidirectional=True, batch_first=True)
    yield make("gru", 3, 2, "float64", num_layers=3, dropout=0.5).train()
    yield make("rnn_relu", 1, 3, bias=False, bidirectional=True)
    for name, options in CELL_KINDS.items():
        yield getattr(fastrnn, name.split()[0])(3, 4, rng=0, **options)


@pytest.mark.parametrize("layer", [*layers()], ids=lambda layer: repr(layer))
def test_right_gradients(layer, backend):
    report = check_gradients(layer, max_elements=8)
    states = ["h_0", "c_0"] if "LSTM" in repr(layer) else ["h_0"]
    assert list(report.errors) == ["x", *states, *layer.state_dict()]
    assert 0 < max(report.errors.values()) < 1e-8  # tolerance: 1e-7
    assert report.n_checked == sum(min(8, n) for n in sizes(layer, report))


def sizes(layer, report):
    """Of the arrays that are drawn where none is given: x (4, 3, I), or of cells (3, I)."""
    if "Cell" in repr(layer):
        known = {"x": 3 * layer.input_size, "h_0": 3 * layer.hidden_size, "c_0": 3 * layer.hidden_size}
    else:
        rows = layer.num_layers * (1 + layer.bidirectional) * (4 if layer.batch_first else 3)
        width = getattr(layer, "proj_size", 0) or layer.hidden_size
        known = {"x": 12 * layer.input_size, "h_0": rows * width, "c_0": rows * layer.hidden_size}
    return [known[name] if name in known else getattr(layer, name).size for name in report.errors]


@pytest.mark.parametrize("cell", CELLS)
def test_arguments_of_the_call(cell, backend):
    layer, rng = make(cell, 2, 3, bidirectional=True), np.random.default_rng(0)
    x, hx = rng.normal(size=(5, 3, 2)), random_state(rng, layer, 3)
    reset = rng.random((5, 3)) < 0.3
    for options in ({}, {"lengths": [5, 0, 2]}, {"reset": reset}, {"lengths": [1, 5, 3], "reset": reset}):
        report = check_gradients(layer, x, hx, max_elements=3, **options)
        assert isinstance(report, GradientReport)
    check_gradients(layer, x.tolist(), max_elements=1)
    check_gradients(layer, x[:, 0], max_elements=2)
    check_gradients(layer, hx=hx, x=x[:2], max_elements=1)
    for T, N in ((0, 2), (3, 0)):
        report = check_gradients(layer, np.zeros((T, N, 2)), max_elements=2)
        assert report.errors["x"] == 0
    single = fastrnn.LSTMCell(2, 3, rng=0)
    check_gradients(single, [0.5, -1.0], ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]))


def test_nothing_is_changed(backend):
    layer, rng = make("gru", 2, 3, num_layers=2, dropout=0.5).train(), np.random.default_rng(0)
    x, hx = rng.normal(size=(4, 3, 2)), random_state(rng, layer, 3)
    before = pickle.dumps((layer, x, hx))
    check_gradients(layer, x, hx, max_elements=3)
    assert pickle.dumps((layer, x, hx)) == before
    assert layer.training


def test_the_backend_in_force_is_checked(backend, monkeypatch):
    module, seen = import_module(f"fastrnn.backends.{backend}"), []
    original = module.backward
    monkeypatch.setattr(module, "backward", lambda *args: (seen.append(1), original(*args))[1])
    check_gradients(make("gru", 2, 3), max_elements=1)
    assert seen


# --- wrong gradients --------------------------------------------------------------------------------------------------


def wrong_dx(prepared, record, dy, dh, dc, dx, sums):
    dx[1, 0] *= -1


def wrong_step(prepared, record, dy, dh, dc, dx, sums):
    dx[-1, :, 0] += 1e-5


def wrong_dh(prepared, record, dy, dh, dc, dx, sums):
    dh[0, 1] = 0


def wrong_dc(prepared, record, dy, dh, dc, dx, sums):
    dc *= 1.001


def nan_dx(prepared, record, dy, dh, dc, dx, sums):
    dx[0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "name"),
    [(wrong_dx, "x"), (wrong_step, "x"), (wrong_dh, "h_0"), (wrong_dc, "c_0"), (nan_dx, "x")],
)
def test_wrong_gradients_of_arguments(spoil, name, monkeypatch):
    original = reference.backward

    def backward(*args):
        original(*args)
        spoil(*args)

    monkeypatch.setattr(reference, "backward", backward)
    with fastrnn.use_backend("reference"), pytest.raises(GradientError, match=rf"gradients are wrong:\s+{name}\["):
        check_gradients(make("lstm", 2, 3))
    if spoil in (wrong_dx, wrong_dh):
        one = fastrnn.GRUCell(2, 3, rng=0)
        monkeypatch.setattr(
            reference, "backward", lambda *args: (original(*args), args[5 if spoil is wrong_dx else 3].fill(0))
        )
        with fastrnn.use_backend("reference"), pytest.raises(GradientError, match=rf"{name}\[0, 0\] is 0, not"):
            check_gradients(one)


@pytest.mark.parametrize("field", ["w_ih", "w_hh", "b_ih", "b_hh", "w_hr"])
@pytest.mark.parametrize("spoil", [lambda w: -w, lambda w: 0 * w, lambda w: w * (1 + 1e-5), lambda w: w[::-1]])
def test_wrong_gradients_of_parameters(field, spoil, monkeypatch):
    original = reference.weight_gradients

    def weight_gradients(sums):
        weights = original(sums)
        return weights._replace(**{field: spoil(getattr(weights, field))})

    monkeypatch.setattr(reference, "weight_gradients", weight_gradients)
    long = {"w": "weight", "b": "bias"}[field[0]] + field[1:]
    with fastrnn.use_backend("reference"), pytest.raises(GradientError, match=rf"gradients are wrong:\s+{long}_l0\["):
        check_gradients(make("lstm_proj", 2, 3))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("which", [0, -1])
def test_wrong_equations(cell, which, monkeypatch):
    """A term left out of one cell's derivative."""
    function = f"{cell.split('_')[0]}_cell_backward"
    original = getattr(reference, function)

    def spoiled(*args):
        result = original(*args)
        parts = list(result) if isinstance(result, tuple) else [result]
        units = parts[which].shape[-1]
        parts[which] = parts[which] * (np.arange(units) != units // 2)
        return tuple(parts) if isinstance(result, tuple) else parts[0]

    monkeypatch.setattr(reference, function, spoiled)
    with fastrnn.use_backend("reference"), pytest.raises(GradientError):
        check_gradients(make(cell, 2, 3), rng=1)


def test_the_message(monkeypatch):
    """How many are wrong of how many, and the first ten with what they are and should be."""
    original = reference.weight_gradients
    monkeypatch.setattr(
        reference, "weight_gradients", lambda sums: original(sums)._replace(w_hh=original(sums).w_hh * 0 + 0.5)
    )
    with fastrnn.use_backend("reference"), pytest.raises(AssertionError) as caught:
        check_gradients(make("gru", 2, 3))
    first, *lines = str(caught.value).splitlines()
    assert first == "27 of 96 gradients are wrong:"
    assert len(lines) == 11
    assert all(line.startswith("  weight_hh_l0[") and " is 0.5, not " in line for line in lines[:10])
    assert lines[10] == "  and 17 more"


def test_tolerance_max_elements_and_rng(monkeypatch):
    layer = make("gru", 2, 3)
    original = reference.weight_gradients
    monkeypatch.setattr(
        reference, "weight_gradients", lambda sums: original(sums)._replace(b_ih=original(sums).b_ih + 1e-4)
    )
    with fastrnn.use_backend("reference"):
        with pytest.raises(GradientError):
            check_gradients(layer)
        report = check_gradients(layer, tolerance=1e-3)
        assert report.errors["bias_ih_l0"] > 1e-6
        assert max(error for name, error in report.errors.items() if name != "bias_ih_l0") < 1e-8
        assert check_gradients(layer, tolerance=1e-3, max_elements=1).n_checked == 6
        same = [check_gradients(layer, tolerance=1e-3, rng=seed).errors for seed in (4, 4, 5)]
        assert same[0] == same[1] != same[2]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": np.tanh}, TypeError, "layer should be a recurrent layer or cell of fastrnn, got: ufunc"),
        ({"tolerance": 0}, ValueError, "tolerance should be a positive number, got: 0"),
        ({"tolerance": "1e-7"}, ValueError, "tolerance should be a positive number, got: '1e-7'"),
        ({"tolerance": float("nan")}, ValueError, "tolerance should be a positive number, got: nan"),
        ({"max_elements": 0}, ValueError, "max_elements must be greater than zero"),
        ({"max_elements": 1.5}, TypeError, "max_elements should be of type int"),
        ({"rng": "seed"}, TypeError, "rng should be an int, a numpy Generator or None"),
        ({"x": np.zeros((4, 3, 7))}, ValueError, "Expected 2, got 7"),
        ({"hx": np.zeros((1, 2, 3))}, ValueError, r"Expected hidden size \(1, 3, 3\), got \[1, 2, 3\]"),
        ({"lengths": [9, 9, 9]}, ValueError, "lengths should be between 0 and"),
    ],
)
def test_wrong_arguments(options, error, words):
    with pytest.raises(error, match=words):
        check_gradients(**({"layer": make("gru", 2, 3)} | options))


def test_public_names():
    assert fastrnn.testing.check_gradients is check_gradients
    assert sorted(fastrnn.testing.__all__) == ["GradientError", "GradientReport", "check_gradients"]
