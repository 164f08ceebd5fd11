"""Wrong arguments of `vjp` and `backward`: an error of the right class that names the argument, and nothing changed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from layer_tools import assert_same_bits

import fastrnn

X = np.ones((4, 2, 3))  # T=4, N=2, I=3 for layers of 5 hidden units
H = np.zeros((2, 2, 5))  # two layers, N=2
Y = np.ones((4, 2, 5))
PACK = fastrnn.pack_padded_sequence(X, [4, 2])
KINDS = ("RNN", "LSTM", "GRU")


def fails(thing, call, error, words):
    """As said, and the pickled layer (weights, mode, generator) is what it was."""
    before = pickle.dumps(thing)
    with pytest.raises(error, match=words):
        call()
    assert pickle.dumps(thing) == before


def dropping(name, **options):
    """A layer that would draw random numbers if a wrong argument were noticed too late."""
    return getattr(fastrnn, name)(3, 5, 2, dropout=0.5, rng=0, **options).train()


# --- vjp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"wrt": "y"}, ValueError, "wrt should name some of 'x', 'hx', 'params', got: 'y'"),
        ({"wrt": "h_0"}, ValueError, "wrt should name some of 'x', 'hx', 'params', got: 'h_0'"),
        ({"wrt": ("x", "weights")}, ValueError, "wrt should name some of .*, got: 'weights'"),
        ({"wrt": ["x", 1]}, ValueError, "wrt should name some of .*, got: 1"),
        ({"wrt": [["x"]]}, ValueError, r"wrt should name some of .*, got: \['x'\]"),
        ({"wrt": ()}, ValueError, "wrt should name some of .*, got: none"),
        ({"wrt": ""}, ValueError, "wrt should name some of .*, got: ''"),
        ({"wrt": None}, TypeError, "wrt should name some of .*, got: NoneType"),
        ({"wrt": 3}, TypeError, "wrt should name some of .*, got: int"),
        ({"consume": 1}, TypeError, "consume should be of type bool, got: int"),
        ({"consume": None}, TypeError, "consume should be of type bool, got: NoneType"),
        ({"checkpoint_every": 0}, ValueError, "checkpoint_every must be greater than zero, got: 0"),
        ({"checkpoint_every": -4}, ValueError, "checkpoint_every must be greater than zero, got: -4"),
        ({"checkpoint_every": 2.0}, TypeError, "checkpoint_every should be of type int, got: float"),
        ({"checkpoint_every": True}, TypeError, "checkpoint_every should be of type int, got: bool"),
        ({"checkpoint_every": "all"}, TypeError, "checkpoint_every should be of type int, got: str"),
        ({"hx": X}, (TypeError, ValueError), r"hx|Expected hidden size"),
        ({"lengths": [5, 1]}, ValueError, "lengths should be between 0 and .*4, got: .*5"),
        ({"lengths": [1]}, ValueError, r"lengths should have shape \(2,\)"),
        ({"reset": np.zeros((4, 2))}, TypeError, "reset should be an array of bool, got: float64"),
        ({"reset": np.zeros((2, 4), bool)}, ValueError, r"reset should have shape \(4, 2\), got: \(2, 4\)"),
        ({"return_states": True}, TypeError, "return_states"),
        ({"out": Y}, TypeError, "out"),
        ({"per_sample": True}, TypeError, "per_sample"),
    ],
)
def test_wrong_options(name, options, error, words):
    layer = dropping(name)
    fails(layer, lambda: layer.vjp(X, **options), error, words)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (X * 1j, TypeError, "x should be an array of real numbers, got: complex128"),
        ("x", TypeError, "x should be an array of real numbers, got: <U1"),
        (X[0, 0], ValueError, "Expected input to be 2D or 3D, got 1D"),
        (X[..., :2], ValueError, "Expected 3, got 2"),
        (fastrnn.pack_sequence([np.ones((2, 2))]), ValueError, "Expected 3, got 2"),
    ],
)
def test_wrong_input(name, x, error, words):
    layer = dropping(name)
    fails(layer, lambda: layer.vjp(x), error, words)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("option", ["lengths", "reset"])
def test_wrong_options_of_packed_input(name, option):
    layer = dropping(name)
    value = [4, 2] if option == "lengths" else np.zeros((4, 2), bool)
    words = f"{option} should be None where x is a PackedSequence"
    fails(layer, lambda: layer.vjp(PACK, **{option: value}), ValueError, words)


# --- backward ---------------------------------------------------------------------------------------------------------


def backward_fails(layer, arguments, x, words, *wrong, error=ValueError, **options):
    """And a right call afterwards gives what it would have given, even of a backward that may be called once."""
    _, backward = layer.vjp(x, **arguments)
    _, once = layer.vjp(x, consume=True, **arguments)
    for call in (backward, once):
        fails(layer, lambda call=call: call(*wrong, **options), error, words)
    expected = backward(None)
    assert_same_bits(tuple(map(np.asarray, expected.params.values())), tuple(once(None).params.values()))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize(
    ("d_output", "error", "words"),
    [
        (Y[:3], ValueError, r"d_output should have shape \(4, 2, 5\), got: \(3, 2, 5\)"),
        (Y[:, :1], ValueError, r"d_output should have shape \(4, 2, 5\), got: \(4, 1, 5\)"),
        (Y[..., :4], ValueError, r"d_output should have shape \(4, 2, 5\), got: \(4, 2, 4\)"),
        (Y.swapaxes(0, 1), ValueError, r"d_output should have shape \(4, 2, 5\), got: \(2, 4, 5\)"),
        (Y[0], ValueError, r"d_output should have shape \(4, 2, 5\), got: \(2, 5\)"),
        (1.0, ValueError, r"d_output should have shape \(4, 2, 5\), got: \(\)"),
        ([[1.0], [1.0, 2.0]], ValueError, "d_output should be an array of real numbers"),
        (Y * 1j, TypeError, "d_output should be an array of real numbers, got: complex128"),
        ("ones", TypeError, "d_output should be an array of real numbers, got: <U4"),
        ((Y, H), TypeError, "d_output should be one array, as the output is .*got: a tuple of 2"),
        (PACK, TypeError, "d_output should be one array, as the output is .*got: PackedSequence"),
    ],
)
def test_wrong_d_output(name, d_output, error, words):
    backward_fails(getattr(fastrnn, name)(3, 5, 2), {}, X, words, d_output, error=error)


@pytest.mark.parametrize("name", KINDS)
def test_d_output_has_the_form_of_the_output(name):
    kind = getattr(fastrnn, name)
    words = r"d_output should have shape \({}\), got: \({}\)"
    batch_first = kind(3, 5, batch_first=True, bidirectional=True)
    wide = np.ones((4, 2, 10))
    backward_fails(batch_first, {}, X.swapaxes(0, 1), words.format("2, 4, 10", "4, 2, 10"), wide)
    backward_fails(kind(3, 5, bidirectional=True), {}, X, words.format("4, 2, 10", "4, 2, 5"), Y)
    backward_fails(kind(3, 5), {}, X[:, 0], words.format("4, 5", "4, 1, 5"), Y[:, :1])
    backward_fails(fastrnn.LSTM(3, 6, proj_size=5), {}, X, words.format("4, 2, 5", "4, 2, 6"), np.ones((4, 2, 6)))
    backward_fails(kind(3, 5), {}, PACK, words.format("6, 5", "4, 2, 5"), Y)


@pytest.mark.parametrize("name", KINDS)
def test_wrong_packs(name):
    layer = getattr(fastrnn, name)(3, 5)
    unsorted = fastrnn.pack_padded_sequence(X, [2, 4], enforce_sorted=False)
    for d_output, words in (
        (fastrnn.pack_padded_sequence(Y, [4, 3]), r"d_output should have the output's batch_sizes \[2, 2, 1, 1\], got"),
        (fastrnn.pack_padded_sequence(Y, [3, 3]), r"d_output should have the output's batch_sizes .*got: \[2, 2, 2\]"),
        (fastrnn.pack_padded_sequence(X, [4, 2]), r"d_output should have shape \(6, 5\), got: \(6, 3\)"),
        (PACK.data[:5], r"d_output should have shape \(6, 5\), got: \(5, 3\)"),
    ):
        backward_fails(layer, {}, PACK, words, d_output)
    other = fastrnn.pack_padded_sequence(Y, [4, 2], enforce_sorted=False)
    words = r"d_output should have its rows in the output's order \[1 0\], got: \[0 1\]"
    backward_fails(layer, {}, unsorted, words, other)
    complex_pack = fastrnn.pack_padded_sequence(Y * 1j, [4, 2])
    words = "d_output should be an array of real numbers, got: complex128"
    backward_fails(layer, {}, PACK, words, complex_pack, error=TypeError)


@pytest.mark.parametrize("name", ["RNN", "GRU"])
@pytest.mark.parametrize(
    ("d_state", "error", "words"),
    [
        (H[0], ValueError, "d_state should also be 3-D but got 2-D"),
        (H[:1], ValueError, r"Expected d_state size \(2, 2, 5\), got \[1, 2, 5\]"),
        (H[:, :1], ValueError, r"Expected d_state size \(2, 2, 5\), got \[2, 1, 5\]"),
        (H[..., :1], ValueError, r"Expected d_state size \(2, 2, 5\), got \[2, 2, 1\]"),
        (H * 1j, TypeError, "d_state should be an array of real numbers, got: complex128"),
        ("zero", TypeError, "d_state should be an array of real numbers"),
        ((H, H), TypeError, r"d_state should be one array of shape \(2, 2, 5\), got: a tuple of 2"),
    ],
)
def test_wrong_d_state(name, d_state, error, words):
    backward_fails(getattr(fastrnn, name)(3, 5, 2), {}, X, words, Y, d_state, error=error)


@pytest.mark.parametrize(
    ("d_state", "error", "words"),
    [
        (H, TypeError, r"d_state should be a pair \(d_h_n, d_c_n\), got: ndarray"),
        ((H,), TypeError, r"d_state should be a pair \(d_h_n, d_c_n\), got: tuple of 1"),
        ((H, H, H), TypeError, r"d_state should be a pair \(d_h_n, d_c_n\), got: tuple of 3"),
        ({"h": H}, TypeError, r"d_state should be a pair \(d_h_n, d_c_n\), got: dict"),
        ((H, "c"), TypeError, r"d_state\[1\] should be an array of real numbers, got: <U1"),
        ((H * 1j, H), TypeError, r"d_state\[0\] should be an array of real numbers, got: complex128"),
        ((H, H[0]), ValueError, r"d_state\[0\] and d_state\[1\] should also be 3-D but got \(3-D, 2-D\)"),
        ((H[:1], H), ValueError, r"Expected d_state\[0\] size \(2, 2, 5\), got \[1, 2, 5\]"),
        ((H, H[:, :1]), ValueError, r"Expected d_state\[1\] size \(2, 2, 5\), got \[2, 1, 5\]"),
    ],
)
def test_wrong_d_state_of_lstm(d_state, error, words):
    backward_fails(fastrnn.LSTM(3, 5, 2), {}, X, words, Y, d_state, error=error)


@pytest.mark.parametrize("name", KINDS)
def test_wrong_arguments_of_backward(name):
    layer = getattr(fastrnn, name)(3, 5, 2)
    for wrong in (1, "yes", None):
        words = f"per_sample should be of type bool, got: {type(wrong).__name__}"
        backward_fails(layer, {}, X, words, Y, per_sample=wrong, error=TypeError)
    backward_fails(layer, {}, X, "positional", Y, None, True, error=TypeError)
    backward_fails(layer, {}, X, "d_output", error=TypeError)
    unbatched = (H[:, :1], H[:, :1]) if name == "LSTM" else H[:, :1]
    words = "For unbatched 2-D input, d_state.* should also be 2-D but got"
    backward_fails(layer, {}, X[:, 0], words, None, unbatched)


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"wrt": "y"}, ValueError, "wrt should name some of 'x', 'hx', 'params', got: 'y'"),
        ({"wrt": []}, ValueError, "wrt should name some of .*, got: none"),
        ({"wrt": 0}, TypeError, "wrt should name some of .*, got: int"),
        ({"consume": True}, TypeError, "consume"),
        ({"checkpoint_every": 1}, TypeError, "checkpoint_every"),
        ({"lengths": [1, 1]}, TypeError, "lengths"),
        ({"hx": "h"}, TypeError, "hx should be"),
    ],
)
def test_wrong_options_of_cells(name, options, error, words):
    cell = getattr(fastrnn, name)(3, 5)
    fails(cell, lambda: cell.vjp(X[0], **options), error, words)
    fails(cell, lambda: cell.vjp(X, wrt="x"), ValueError, f"{name}: Expected input to be 1D or 2D, got 3D")
    fails(cell, lambda: cell.vjp(X[0, :, :2]), ValueError, "input has inconsistent input_size: got 2 expected 3")


D = np.zeros((2, 5))


@pytest.mark.parametrize(
    ("name", "x", "d_h", "error", "words"),
    [
        ("GRUCell", X[0], D[:1], ValueError, r"d_h should have shape \(2, 5\), got: \(1, 5\)"),
        ("GRUCell", X[0], D[0], ValueError, r"d_h should have shape \(2, 5\), got: \(5,\)"),
        ("RNNCell", X[0, 0], D[:1], ValueError, r"d_h should have shape \(5,\), got: \(1, 5\)"),
        ("RNNCell", X[0], None, TypeError, "d_h should be an array of real numbers"),
        ("RNNCell", X[0], D * 1j, TypeError, "d_h should be an array of real numbers, got: complex128"),
        ("GRUCell", X[0], (D, D), ValueError, r"d_h should have shape \(2, 5\), got: \(2, 2, 5\)"),
        ("LSTMCell", X[0], D, TypeError, r"d_h should be a pair \(d_h, d_c\), got: ndarray"),
        ("LSTMCell", X[0], None, TypeError, r"d_h should be a pair \(d_h, d_c\), got: NoneType"),
        ("LSTMCell", X[0], (D,), TypeError, r"d_h should be a pair \(d_h, d_c\), got: tuple of 1"),
        ("LSTMCell", X[0], (D, D[:1]), ValueError, r"d_h\[1\] should have shape \(2, 5\), got: \(1, 5\)"),
        ("LSTMCell", X[0], (D[:, :1], D), ValueError, r"d_h\[0\] should have shape \(2, 5\), got: \(2, 1\)"),
        ("LSTMCell", X[0], ("h", D), TypeError, r"d_h\[0\] should be an array of real numbers"),
    ],
)
def test_wrong_gradients_of_cells(name, x, d_h, error, words):
    cell = getattr(fastrnn, name)(3, 5)
    _, backward = cell.vjp(x)
    fails(cell, lambda: backward(d_h), error, words)
    right = np.zeros((*x.shape[:-1], 5))
    given = (right, None) if name == "LSTMCell" else right
    fails(cell, lambda: backward(given, per_sample=0), TypeError, "per_sample should be of type bool, got: int")
    assert not backward(given).x.any()
