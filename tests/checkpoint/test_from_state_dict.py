"""Layers made of checkpoints: the right class, options and weights."""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from crafted import CHECKPOINTS, layer_state

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import Opaque

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


def test_modules_say_their_options_themselves():
    module = fastrnn.load(CHECKPOINTS / "options.pt")
    layer, cell = fastrnn.from_state_dict(module, "rnn"), fastrnn.from_state_dict(module, "cell")
    assert (layer.batch_first, layer.nonlinearity, cell.nonlinearity) == (True, "relu", "relu")
    layer = fastrnn.from_state_dict(module, "rnn", batch_first=False, nonlinearity="tanh")
    assert (layer.batch_first, layer.nonlinearity) == (False, "tanh")
    cell = fastrnn.from_state_dict(module, "rnn", cell=True)
    assert (type(cell), cell.nonlinearity) == (fastrnn.RNNCell, "relu")


def opaque(module, name, **state):
    return Opaque(module, name, state=state)


def test_options_of_old_modules_and_torchscript():
    state = LAYERS["RNN(3, 4)"]
    for module, attributes, nonlinearity in (
        ("torch.nn.modules.rnn", {"mode": "RNN_RELU"}, "relu"),  # an old one
        ("torch.nn.modules.rnn", {"mode": "RNN_TANH"}, "tanh"),
        ("__torch__.torch.nn.modules.rnn", {"nonlinearity": "relu"}, "relu"),
        ("__torch__.torch.nn.modules.rnn.___torch_mangle_3", {}, "tanh"),
        ("mine", {"nonlinearity": "relu"}, "relu"),  # a subclass
    ):
        layer = fastrnn.from_state_dict({"rnn": opaque(module, "RNN", **state, **attributes)})
        assert (layer.nonlinearity, layer.batch_first) == (nonlinearity, False)
    for wrong in ({"batch_first": 1, "nonlinearity": ["relu"]}, {"nonlinearity": "silu", "mode": {}}):
        layer = fastrnn.from_state_dict(opaque("mine", "RNN", **state, **wrong))
        assert (layer.nonlinearity, layer.batch_first) == ("tanh", False)


def test_a_class_that_contradicts_the_arrays():
    with pytest.raises(CheckpointError, match="is a GRU by its class, and a RNN by its arrays"):
        fastrnn.from_state_dict(opaque("torch.nn.modules.rnn", "GRU", **LAYERS["RNN(3, 4)"]))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_of_a_layer_and_a_layer_of_a_cell(kind, bias):
    of_layer, of_cell = (layer_state(kind + end, 3, 4, bias=bias) for end in ("", "Cell"))
    for state in (of_layer, of_cell):
        for cell, same in ((True, of_cell), (False, of_layer)):
            layer = fastrnn.from_state_dict(state, cell=cell)
            assert type(layer).__name__ == (f"{kind}Cell" if cell else kind)
            assert list(layer.parameters()) == list(same)
            for array, expected in zip(layer.parameters().values(), state.values(), strict=True):
                np.testing.assert_array_equal(array, expected)


def test_options_with_cell():
    layer = fastrnn.from_state_dict(LAYERS["RNNCell(3, 4)"], cell=False, batch_first=True, nonlinearity="relu")
    assert (layer.batch_first, layer.nonlinearity) == (True, "relu")
    assert fastrnn.from_state_dict(LAYERS["RNN(3, 4)"], cell=True, nonlinearity="relu").nonlinearity == "relu"
    with pytest.raises(ValueError, match="batch_first=True does not apply to RNNCell"):
        fastrnn.from_state_dict(LAYERS["RNN(3, 4)"], cell=True, batch_first=True)
    with pytest.raises(TypeError, match="cell should be of type bool, got: int"):
        fastrnn.from_state_dict(LAYERS["RNN(3, 4)"], cell=1)
    for more in (
        "GRU(3, 4, num_layers=2, bias=False)",
        "LSTM(3, 4, num_layers=2, bidirectional=True)",
        "LSTM(3, 4, proj_size=2)",
    ):
        with pytest.raises(ValueError, match=f"cell=True: no single cell does what {re.escape(more)} does"):
            fastrnn.from_state_dict(LAYERS[more], cell=True)


def test_a_projection_is_not_for_cells():
    state = layer_state("LSTM", 3, 4, P=2)
    with pytest.raises(CheckpointError, match="LSTM, which alone may have a weight_hr, and not as a cell"):
        fastrnn.from_state_dict({name.removesuffix("_l0"): array for name, array in state.items()})


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
    words = f"state should be a dict of arrays, got: {type(state).__name__}; "
    with pytest.raises(TypeError, match=words):
        fastrnn.from_state_dict(state)


def test_errors_are_those_of_finding():
    with pytest.raises(ValueError, match="no recurrent layer"):
        fastrnn.from_state_dict({})
    with pytest.raises(ValueError, match="3 recurrent layers where one is expected"):
        fastrnn.from_state_dict(fastrnn.load(CHECKPOINTS / "nested.pt"))
    state = layer_state("GRU", 3, 4)
    del state["bias_hh_l0"]
    with pytest.raises(CheckpointError, match="bias_hh_l0 missing"):
        fastrnn.from_state_dict(state)
