"""The reference backend, which everything else is held to: values worked out by hand, and plain Python loops."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest
from sampler import configurations

import fastrnn

tanh, exp = math.tanh, math.exp


@pytest.fixture(autouse=True)
def _reference():
    with fastrnn.use_backend("reference"):
        yield


def loaded(layer, **arrays):
    layer.load_state_dict({name: np.asarray(values, float) for name, values in arrays.items()})
    return layer


def test_rnn_tanh_by_hand():
    layer = loaded(
        fastrnn.RNN(1, 1, dtype="float64"),
        weight_ih_l0=[[0.5]],
        weight_hh_l0=[[-0.25]],
        bias_ih_l0=[0.1],
        bias_hh_l0=[0.2],
    )
    y, h_n = layer([[1.0], [-2.0]])
    first = 0.6640367702678490  # tanh(0.5 * 1 + 0.1 - 0.25 * 0 + 0.2) = tanh(0.8)
    assert y[0, 0] == pytest.approx(first, abs=1e-15)
    assert y[1, 0] == pytest.approx(tanh(0.5 * -2 + 0.1 - 0.25 * first + 0.2), abs=1e-15)
    assert h_n.shape == (1, 1)
    assert h_n[0, 0] == y[1, 0]


def test_rnn_relu_by_hand():
    layer = loaded(
        fastrnn.RNN(2, 2, nonlinearity="relu", bias=False, dtype="float64"),
        weight_ih_l0=[[1, 2], [-1, 1]],
        weight_hh_l0=[[0, 3], [1, -1]],
    )
    y, h_n = layer(np.array([[[1.0, 1.0]], [[2.0, -1.0]], [[0.0, 5.0]]]), np.array([[[10.0, 1.0]]]))
    # step 1: [1 + 2 + 3 * 1, -1 + 1 + 10 - 1] = [6, 9]; step 2: [2 - 2 + 27, -2 - 1 + 6 - 9 = -6 -> 0] = [27, 0]
    # step 3: [10 + 0, 5 + 27 - 0] = [10, 32]
    assert y[:, 0].tolist() == [[6, 9], [27, 0], [10, 32]]
    assert h_n[0, 0].tolist() == [10, 32]


def test_lstm_by_hand_one_gate_at_a_time():
    """Gates are told apart by their biases; ln 3 has the sigmoid 3/4, ln 9 has 9/10, -ln 3 has 1/4."""
    layer = loaded(
        fastrnn.LSTM(1, 1, dtype="float64"),
        weight_ih_l0=[[0.0]] * 4,
        weight_hh_l0=[[0.0]] * 4,
        bias_ih_l0=[math.log(3), math.log(9), 0.0, 0.0],
        bias_hh_l0=[0.0, 0.0, 0.5, -math.log(3)],
    )
    y, (h_n, c_n) = layer([[0.0], [0.0]], ([[0.3]], [[2.0]]))
    c_1 = 0.9 * 2.0 + 0.75 * tanh(0.5)
    c_2 = 0.9 * c_1 + 0.75 * tanh(0.5)
    assert y[:, 0] == pytest.approx([0.25 * tanh(c_1), 0.25 * tanh(c_2)], abs=1e-15)
    assert c_n[0, 0] == pytest.approx(c_2, abs=1e-15)
    assert h_n[0, 0] == y[1, 0]


def test_lstm_by_hand_weights_and_states():
    layer = loaded(
        fastrnn.LSTM(1, 1, bias=False, dtype="float64"),
        weight_ih_l0=[[0.1], [0.2], [0.3], [0.4]],
        weight_hh_l0=[[-0.5], [0.6], [-0.7], [0.8]],
    )
    _, (h_n, c_n) = layer([[2.0]], ([[0.5]], [[-1.0]]))
    i = 1 / (1 + exp(-(0.1 * 2 - 0.5 * 0.5)))
    f = 1 / (1 + exp(-(0.2 * 2 + 0.6 * 0.5)))
    g = tanh(0.3 * 2 - 0.7 * 0.5)
    o = 1 / (1 + exp(-(0.4 * 2 + 0.8 * 0.5)))
    c = f * -1.0 + i * g
    assert c_n[0, 0] == pytest.approx(c, abs=1e-15)
    assert h_n[0, 0] == pytest.approx(o * tanh(c), abs=1e-15)


def test_projected_lstm_by_hand():
    """Zero weights but for w_hh of the o gate: what is fed back is the projected h, c stays as wide as the layer."""
    layer = loaded(
        fastrnn.LSTM(1, 2, bias=False, proj_size=1, dtype="float64"),
        weight_ih_l0=np.zeros((8, 1)),
        weight_hh_l0=[[0.0]] * 6 + [[1.0], [-1.0]],
        weight_hr_l0=[[2.0, 3.0]],
    )
    y, (h_n, c_n) = layer([[0.0], [0.0]], ([[0.4]], [[1.0, 4.0]]))
    # i = f = 1/2, g = 0: c halves each step.
    h_1 = 2 * tanh(0.5) / (1 + exp(-0.4)) + 3 * tanh(2.0) / (1 + exp(0.4))
    h_2 = 2 * tanh(0.25) / (1 + exp(-h_1)) + 3 * tanh(1.0) / (1 + exp(h_1))
    assert y[:, 0] == pytest.approx([h_1, h_2], abs=1e-14)
    assert (h_n.shape, c_n.shape) == ((1, 1), (1, 2))
    assert c_n[0].tolist() == [0.25, 1.0]


def test_gru_by_hand():
    """The reset gate multiplies the recurrent part of n with its bias, not h."""
    layer = loaded(
        fastrnn.GRU(1, 1, dtype="float64"),
        weight_ih_l0=[[0.5], [-0.3], [0.7]],
        weight_hh_l0=[[0.2], [0.4], [-0.6]],
        bias_ih_l0=[0.1, -0.1, 0.05],
        bias_hh_l0=[-0.2, 0.3, 0.9],
    )
    y, h_n = layer([[2.0]], [[-0.5]])
    r = 1 / (1 + exp(-(0.5 * 2 + 0.1 + 0.2 * -0.5 - 0.2)))
    z = 1 / (1 + exp(-(-0.3 * 2 - 0.1 + 0.4 * -0.5 + 0.3)))
    n = tanh(0.7 * 2 + 0.05 + r * (-0.6 * -0.5 + 0.9))
    h = (1 - z) * n + z * -0.5
    assert y[0, 0] == pytest.approx(h, abs=1e-15)
    assert h_n[0, 0] == pytest.approx(h, abs=1e-15)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("RNNCell", tanh(0.75)), ("GRUCell", 0.5 * tanh(0.5 + 0.5 * 0.25) + 0.5 * 1.0)],
)
def test_cells_by_hand(name, expected):
    """All gates but the last are switched off: r = z = 1/2."""
    cell = getattr(fastrnn, name)(1, 1, dtype="float64")
    arrays = {key: np.zeros_like(array) for key, array in cell.state_dict().items()}
    arrays["bias_ih"][-1], arrays["weight_hh"][-1] = 0.5, 0.25
    assert loaded(cell, **arrays)([0.0], [1.0])[0] == pytest.approx(expected, abs=1e-15)


def test_lstm_cell_by_hand():
    cell = fastrnn.LSTMCell(1, 1, dtype="float64")
    arrays = {key: np.zeros_like(array) for key, array in cell.state_dict().items()}
    arrays["bias_hh"][2] = 0.5  # i = f = o = 1/2, g = tanh(0.5)
    h, c = loaded(cell, **arrays)([0.0], ([0.2], [3.0]))
    assert c[0] == pytest.approx(1.5 + 0.5 * tanh(0.5), abs=1e-15)
    assert h[0] == pytest.approx(0.5 * tanh(c[0]), abs=1e-15)


@pytest.mark.parametrize("cell", ["rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru"])
def test_against_loops(cell, assert_close):
    """Layers, directions, ragged rows, resets and recorded states, all together."""
    options = {"dtype": ["float32", "float64"], "T": [2, 6], "N": [1, 2, 4], "H": [3, 5], "form": ["plain", "lengths"]}
    for config in configurations(25, cell=cell, batch_first=False, **options):
        layer, (x, hx, lengths) = config.layer(), config.inputs()
        reset = np.random.default_rng(config.seed).random((config.T, config.N)) < 0.3 if config.seed % 2 else None
        y, h_n, c_n, h_all, c_all = naive.run(layer, x, hx, lengths, reset)
        y_got, state, states = layer(x, hx, lengths=lengths, reset=reset, return_states=True)
        got = (y_got, state, states.h)
        expected = (y, (h_n, c_n) if config.kind == "LSTM" else h_n, h_all)
        if config.kind == "LSTM":
            got, expected = (*got, states.c), (*expected, c_all)
        assert_close(got, expected, config.dtype)


def test_float32_is_rounded_once_per_layer():
    """The reference computes in float64: for one layer its float32 result is the float64 result, rounded."""
    x = np.random.default_rng(0).normal(size=(17, 5, 3)).astype(np.float32)
    layer = fastrnn.LSTM(3, 33, rng=0)
    y, _ = layer(x)
    exact, _ = layer.astype("float64")(x.astype(np.float64))
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, exact.astype(np.float32))
