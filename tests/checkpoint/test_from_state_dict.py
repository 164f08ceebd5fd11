"""Layers made of checkpoints: the right class, options and weights."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from crafted import CHECKPOINTS, layer_state

import fastrnn
from fastrnn import CheckpointError

LAYERS = {
    "RNN(3, 4)": layer_state("RNN", 3, 4),
    "GRU(3, 4, num_layers=2, bias=False)": layer_state("GRU", 3, 4, L=2, bias=False),
    "LSTM(3, 4, num_layers=2, bidirectional=True)": layer_state("LSTM", 3, 4, L=2, bidirectional=True),
    "LSTM(3, 4, proj_size=2)": layer_state("LSTM", 3, 4, P=2),
    "RNNCell(3, 4)": layer_state("RNNCell", 3, 4),
    "LSTMCell(3, 4)": layer_state("LSTMCell", 3, 4),
    "GRUCell(3, 4, bias=False)": layer_state("GRUCell", 3, 4, bias=False),
}


@pytest.mark.parametrize("expected", LAYERS)
def test_the_layer_has_the_class_and_the_weights(expected):
    layer = fastrnn.from_state_dict(LAYERS[expected])
    assert type(layer).__name__ == expected.partition("(")[0]
    weights = layer.state_dict()
    assert list(weights) == list(LAYERS[expected])
    for name, array in LAYERS[expected].items():
        np.testing.assert_array_equal(weights[name], array)
    assert (layer.input_size, layer.hidden_size, layer.bias) == (3, 4, "bias=False" not in expected)
    if "Cell" not in expected:
        assert layer.num_layers == (2 if "num_layers" in expected else 1)
        assert layer.bidirectional == ("bidirectional" in expected)
    assert not layer.training


def test_options():
    layer = fastrnn.from_state_dict(LAYERS["RNN(3, 4)"], batch_first=True, nonlinearity="relu")
    assert layer.batch_first
    assert layer.nonlinearity == "relu"
    assert fastrnn.from_state_dict(LAYERS["RNNCell(3, 4)"], nonlinearity="relu").nonlinearity == "relu"
    with pytest.raises(ValueError, match="Unknown nonlinearity 'x'"):
        fastrnn.from_state_dict(LAYERS["RNN(3, 4)"], nonlinearity="x")
    with pytest.raises(ValueError, match="nonlinearity='relu' does not apply to LSTM"):
        fastrnn.from_state_dict(LAYERS["LSTM(3, 4, proj_size=2)"], nonlinearity="relu")
    with pytest.raises(ValueError, match="batch_first=True does not apply to LSTMCell"):
        fastrnn.from_state_dict(LAYERS["LSTMCell(3, 4)"], batch_first=True)


def test_dtypes():
    for stored, asked, made in (
        (np.float32, None, np.float32),
        (np.float64, None, np.float64),
        (np.float16, None, np.float32),
        (ml_dtypes.bfloat16, None, np.float32),
        (ml_dtypes.float8_e5m2, None, np.float32),
        (np.float32, "float64", np.float64),
        (np.float64, np.float32, np.float32),
        (ml_dtypes.bfloat16, "float64", np.float64),
    ):
        state = layer_state("GRU", 3, 4, dtype=stored)
        layer = fastrnn.from_state_dict(state, dtype=asked)
        assert layer.weight_ih_l0.dtype == made
        np.testing.assert_array_equal(layer.weight_ih_l0, state["weight_ih_l0"].astype(made))


def test_the_weights_are_copies():
    state = fastrnn.load(CHECKPOINTS / "nested.pt")
    layer = fastrnn.from_state_dict(state, "encoder.rnn")
    before = layer.weight_ih_l0.copy()
    layer.weight_ih_l0[...] = 0  # the arrays of the file are read-only
    stored = state["model_state_dict"]["module._orig_mod.encoder.rnn.weight_ih_l0"]
    np.testing.assert_array_equal(stored, before)


@pytest.mark.parametrize("state", ["model.pt", CHECKPOINTS, None, np.ones(3), fastrnn.GRU(3, 4)])
def test_what_is_no_state(state):
    words = f"state should be a dict of arrays, got: {type(state).__name__}; fastrnn.load reads files"
    with pytest.raises(TypeError, match=words):
        fastrnn.from_state_dict(state)


@pytest.mark.parametrize(
    "key",
    [
        "weight_hh_l0_raw",
        "rnn.weight_hh_l0_g",
        "rnn.weight_ih_l1_reverse_v",
        "rnn.parametrizations.weight_hh_l0.original0",
        "cell.parametrizations.weight_hh.original",
        "cell.weight_hh_orig",
    ],
)
def test_weights_that_have_to_be_folded(key):
    state = {"model": {"head.weight": np.ones((2, 3)), "rnn.weight_ih_l0": np.ones((12, 3)), key: np.ones((12, 4))}}
    with pytest.raises(ValueError, match=f"model.{key}: the weights are behind weight drop, weight norm .* folded"):
        fastrnn.from_state_dict(state)
    for other in ("weight_l0_raw", "my_weight_hh_l0_raw", "weight_hh_l0_raw.x"):
        with pytest.raises(ValueError, match="there is no recurrent layer in this state"):
            fastrnn.from_state_dict({other: np.ones((12, 4))})
    folded = fastrnn.GRU(3, 4).state_dict() | {"other." + key: np.ones((12, 4))}
    assert type(fastrnn.from_state_dict(folded)) is fastrnn.GRU


def test_errors_are_those_of_finding():
    with pytest.raises(ValueError, match="no recurrent layer"):
        fastrnn.from_state_dict({})
    with pytest.raises(ValueError, match="3 recurrent layers where one is expected"):
        fastrnn.from_state_dict(fastrnn.load(CHECKPOINTS / "nested.pt"))
    state = layer_state("GRU", 3, 4)
    del state["bias_hh_l0"]
    with pytest.raises(CheckpointError, match="bias_hh_l0 missing"):
        fastrnn.from_state_dict(state)
