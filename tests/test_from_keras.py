"""Layers from Keras' weights: against what Keras computed (make_keras.py) and its equations, and wrong arguments."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import fastrnn

I, H = 2, 3
GATES = {"SimpleRNN": 1, "LSTM": 4, "GRU": 3}
GOLDEN = dict(np.load(Path(__file__).parent / "data" / "keras.npz"))
CASES = sorted(GOLDEN.keys() - {"x", "lengths"})


def shapes(kind, I, bias=True):
    rows = GATES[kind] * H
    found = [(I, rows), (H, rows)]
    return found + [(2, rows) if kind == "GRU" else (rows,)] * bias


def arrays(kind, I=I, *, bidirectional=False, bias=True, seed=0, dtype=np.float32):
    """As `get_weights` gives them."""
    rng = np.random.default_rng(seed)
    return [rng.uniform(-0.8, 0.8, s).astype(dtype) for s in shapes(kind, I, bias) * (1 + bidirectional)]


def recorded(case):
    """Weights (lists of arrays; one list where there is one layer), output, and the last layer's states."""
    kind, bidirectional, bias = case.split()[0], "bidirectional" in case, "without bias" not in case
    width, stacked = H * (1 + bidirectional), "stacked" in case
    layers = [shapes(kind, size, bias) * (1 + bidirectional) for size in ([I, width] if stacked else [I])]
    N, T = GOLDEN["x"].shape[:2]
    states = ((1 + bidirectional) * (1 + (kind == "LSTM")), N, H)
    flat, found = GOLDEN[case], []
    for shape in [shape for layer in layers for shape in layer] + [(N, T, width), states]:
        found.append(flat[: math.prod(shape)].reshape(shape))
        flat = flat[math.prod(shape) :]
    assert not flat.size
    *weights, output, final = found
    n = len(layers[0])
    return [weights[:n], weights[n:]] if stacked else weights, output, final


def test_all_cases_are_recorded():
    assert len(CASES) == 16


@pytest.mark.parametrize("case", CASES)
def test_what_keras_computed(case):
    weights, expected, expected_states = recorded(case)
    nonlinearity = {"nonlinearity": "relu"} if "relu" in case else {}
    layer = fastrnn.from_keras_weights(case.split()[0], weights, **nonlinearity)
    assert layer.batch_first
    lengths = GOLDEN["lengths"] if "masked" in case else None
    y, states = layer(GOLDEN["x"], lengths=lengths)
    D = 2 if layer.bidirectional else 1
    states = states if isinstance(states, tuple) else (states,)
    # Keras: of the last layer, h and c forward, then h and c in reverse
    last = [state[-D + d] for d in range(D) for state in states]
    np.testing.assert_allclose(np.stack(last), expected_states, rtol=0, atol=1e-6)
    if lengths is not None:  # past a row's end, where Keras goes on with its last output, there is 0 here
        expected = np.where((np.arange(expected.shape[1]) < lengths[:, None])[..., None], expected, 0)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-6)


# Keras' equations, transcribed from keras/src/layers/rnn: row by row and step by step in float64


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def run_keras(kind, weights, x, activation=np.tanh):
    """x (N, T, I); output (N, T, H)."""
    kernel, recurrent, *bias = (w.astype(np.float64) for w in weights)
    out = np.zeros((*x.shape[:2], H))
    for n, row in enumerate(x.astype(np.float64)):
        h, c = np.zeros(H), np.zeros(H)
        for t, x_t in enumerate(row):
            if kind == "GRU":
                b_x, b_h = bias[0] if bias else np.zeros((2, 3 * H))
                x_z, x_r, x_h = np.split(x_t @ kernel + b_x, 3)
                h_z, h_r, h_h = np.split(h @ recurrent + b_h, 3)
                z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
                h = z * h + (1 - z) * np.tanh(x_h + r * h_h)
            else:
                a = x_t @ kernel + h @ recurrent + (bias[0] if bias else 0)
                if kind == "LSTM":
                    i, f, g, o = np.split(a, 4)
                    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                    h = sigmoid(o) * np.tanh(c)
                else:
                    h = activation(a)
            out[n, t] = h
    return out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_it_computes_keras_equations(kind, bidirectional, bias, dtype, assert_close):
    weights = arrays(kind, bidirectional=bidirectional, bias=bias, dtype=dtype)
    x = np.random.default_rng(1).uniform(-1, 1, (3, 5, I)).astype(dtype)
    layer = fastrnn.from_keras_weights(kind, weights)
    n = len(weights) // (1 + bidirectional)
    truth = run_keras(kind, weights[:n], x)
    if bidirectional:
        reverse = run_keras(kind, weights[n:], x[:, ::-1])[:, ::-1]
        truth = np.concatenate([truth, reverse], axis=-1)
    assert layer.dtype == dtype
    assert_close(layer(x)[0], truth, np.dtype(dtype))


def test_options():
    weights = arrays("SimpleRNN")
    relu = fastrnn.from_keras_weights("RNN", weights, nonlinearity="relu", batch_first=False, dtype="float64")
    assert repr(relu) == "RNN(2, 3)"
    assert (relu.nonlinearity, relu.dtype) == ("relu", np.float64)
    x = np.random.default_rng(1).uniform(-1, 1, (5, 3, I))
    truth = run_keras("SimpleRNN", weights, x.swapaxes(0, 1), lambda a: np.maximum(a, 0))
    np.testing.assert_allclose(relu(x)[0].swapaxes(0, 1), truth, rtol=0, atol=1e-12)
    assert repr(fastrnn.from_keras_weights("GRU", tuple(arrays("GRU")))) == "GRU(2, 3, batch_first=True)"


def test_the_weights_are_copies():
    weights = arrays("SimpleRNN")
    layer = fastrnn.from_keras_weights("SimpleRNN", weights)
    layer.weight_ih_l0[...] = 0
    assert weights[0].all()


GRU, LSTM = arrays("GRU"), arrays("LSTM")
OTHER_H = [np.zeros((I, 8)), np.zeros((2, 8)), np.zeros(8)]
WRONG = {
    "reset_after": ("GRU", [*GRU[:2], GRU[2][0]], {}, r"weights\[2\] .*reset_after=False"),
    "reset_after in a pair": ("GRU", [*GRU, *GRU[:2], GRU[2][0]], {}, r"weights\[5\] .*reset_after=False"),
    "reset_after in a stack": ("GRU", [GRU, [*GRU[:2], GRU[2][0]]], {}, r"weights\[1\]\[2\] .*reset_after=False"),
    "kind": ("ConvLSTM", LSTM, {}, "kind should be one of SimpleRNN, RNN, LSTM, GRU, got: 'ConvLSTM'"),
    "another kind": ("LSTM", GRU, {}, r"weights\[1\] should be a recurrent kernel \(H, 4\*H\), got: \(3, 9\)"),
    "too many": ("LSTM", LSTM + LSTM[:2], {}, "got: 5 arrays"),
    "none": ("LSTM", LSTM[:1], {}, "got: 1 arrays"),
    "unlike": ("LSTM", [LSTM, LSTM[:2]], {}, "got: 2 and 3 arrays"),
    "kernel": ("LSTM", [LSTM[0].T, *LSTM[1:]], {}, r"weights\[0\] should be a kernel \(I, 12\), got: \(12, 2\)"),
    "empty kernel": ("LSTM", [LSTM[0][:0], *LSTM[1:]], {}, r"weights\[0\] should be a kernel"),
    "flat": ("LSTM", [LSTM[0], LSTM[1].ravel()], {}, r"weights\[1\] should be a recurrent kernel"),
    "bias": ("LSTM", [*LSTM[:2], LSTM[2][:3]], {}, r"weights\[2\] should be a bias \(12,\), got: \(3,\)"),
    "order": ("LSTM", [LSTM[0], LSTM[2], LSTM[1]], {}, r"weights\[1\] should be a recurrent kernel"),
    "sizes": ("LSTM", [LSTM, arrays("LSTM", I=4)], {}, r"weights\[1\]\[0\] should be a kernel of 3 inputs, got: 4"),
    "sizes of directions": ("LSTM", LSTM + arrays("LSTM", I=4), {}, r"weights\[3\] should be .* 2 inputs, got: 4"),
    "hidden sizes": ("LSTM", LSTM + OTHER_H, {}, r"one H in all layers and directions, got: \[2, 3\]"),
    "nonlinearity": ("LSTM", LSTM, {"nonlinearity": "relu"}, "does not apply to LSTM"),
    "unknown nonlinearity": ("RNN", arrays("SimpleRNN"), {"nonlinearity": "selu"}, "selu"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments(case):
    kind, weights, options, match = WRONG[case]
    with pytest.raises(ValueError, match=match):
        fastrnn.from_keras_weights(kind, weights, **options)


def test_wrong_types():
    for weights in (np.zeros((2, 3)), "weights.h5", {}, [], None):
        with pytest.raises(TypeError, match="weights should be a list of arrays"):
            fastrnn.from_keras_weights("LSTM", weights)
    with pytest.raises(TypeError, match=r"weights\[1\] should be an array of real numbers"):
        fastrnn.from_keras_weights("LSTM", [LSTM[0], "no array"])
    with pytest.raises(TypeError, match="dtype should be float32 or float64"):
        fastrnn.from_keras_weights("LSTM", LSTM, dtype="int8")
