"""Wrong arguments: an error of the right class that names the argument, and nothing changed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import fastrnn

NAN = float("nan")
F = np.float32

# --- constructors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((0, 2), {}, ValueError, "input_size must be greater than zero, got: 0"),
        ((-3, 2), {}, ValueError, "input_size must be greater than zero, got: -3"),
        ((2, 0), {}, ValueError, "hidden_size must be greater than zero, got: 0"),
        ((2.0, 2), {}, TypeError, "input_size should be of type int, got: float"),
        ((2, "3"), {}, TypeError, "hidden_size should be of type int, got: str"),
        ((2, None), {}, TypeError, "hidden_size should be of type int, got: NoneType"),
        ((True, 2), {}, TypeError, "input_size should be of type int, got: bool"),
        ((2, [3]), {}, TypeError, "hidden_size should be of type int, got: list"),
        ((2, 3), {"bias": 1}, TypeError, "bias should be of type bool, got: int"),
        ((2, 3), {"bias": None}, TypeError, "bias should be of type bool, got: NoneType"),
        ((2, 3), {"dtype": "float16"}, TypeError, "dtype should be float32 or float64, got: 'float16'"),
        ((2, 3), {"dtype": "int64"}, TypeError, "dtype should be float32 or float64"),
        ((2, 3), {"dtype": "nonsense"}, TypeError, "dtype should be float32 or float64"),
        ((2, 3), {"dtype": None}, TypeError, "dtype should be float32 or float64"),
        ((2, 3), {"device": "gpu"}, ValueError, "device should be .*got: 'gpu'"),
        ((2, 3), {"device": 0}, ValueError, "device should be .*got: 0"),
        ((2, 3), {"device": "cpu:1"}, ValueError, "device should be .*got: 'cpu:1'"),
        ((2, 3), {"rng": "seed"}, TypeError, "rng"),
        ((2, 3), {"rng": -1}, ValueError, "rng"),
        ((2, 3), {"rng": 1.5}, TypeError, "rng"),
        ((2,), {}, TypeError, "hidden_size"),
        ((2, 3), {"wrong": 1}, TypeError, "wrong"),
    ],
)
def test_constructors(name, arguments, options, error, words):
    with pytest.raises(error, match=words):
        getattr(fastrnn, name)(*arguments, **options)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"num_layers": 0}, ValueError, "num_layers must be greater than zero, got: 0"),
        ({"num_layers": 1.5}, TypeError, "num_layers should be of type int, got: float"),
        ({"num_layers": True}, TypeError, "num_layers should be of type int, got: bool"),
        ({"batch_first": "yes"}, TypeError, "batch_first should be of type bool, got: str"),
        ({"bidirectional": 1}, TypeError, "bidirectional should be of type bool, got: int"),
        ({"dropout": -0.1}, ValueError, r"dropout should be a number in range \[0, 1\].*got: -0.1"),
        ({"dropout": NAN}, ValueError, r"dropout should be a number in range \[0, 1\]"),
        ({"dropout": True}, ValueError, r"dropout should be a number in range \[0, 1\]"),
        ({"dropout": "0.5"}, ValueError, r"dropout should be a number in range \[0, 1\]"),
        ({"dropout": None}, ValueError, r"dropout should be a number in range \[0, 1\]"),
    ],
)
def test_constructors_of_layers(name, options, error, words):
    with pytest.raises(error, match=words):
        getattr(fastrnn, name)(2, 3, **options)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fastrnn.RNN(2, 3, nonlinearity="selu"), ValueError, "Unknown nonlinearity 'selu'. Select from"),
        (lambda: fastrnn.RNN(2, 3, 1, True), (TypeError, ValueError), "nonlinearity"),
        (lambda: fastrnn.RNN(2, 3, nonlinearity=["tanh"]), (TypeError, ValueError), "nonlinearity"),
        (lambda: fastrnn.RNNCell(2, 3, nonlinearity="selu"), ValueError, "Unknown nonlinearity 'selu'. Select from"),
        (lambda: fastrnn.LSTM(2, 3, proj_size=3), ValueError, "proj_size has to be smaller than hidden_size, got: 3"),
        (lambda: fastrnn.LSTM(2, 3, proj_size=-1), ValueError, "proj_size should be a positive integer or zero"),
        (lambda: fastrnn.LSTM(2, 3, proj_size=1.0), TypeError, "proj_size should be of type int, got: float"),
        (lambda: fastrnn.GRU(2, 3, 1, True, False, 0.0, False, 0), TypeError, "positional"),
        (lambda: fastrnn.GRU(2, 3, proj_size=1), TypeError, "proj_size"),
        (lambda: fastrnn.GRU(2, 3, nonlinearity="relu"), TypeError, "nonlinearity"),
        (lambda: fastrnn.GRU(2, 3, device="cuda:99"), fastrnn.BackendError, "device 'cuda:99' cannot be used: "),
    ],
)
def test_constructors_of_one_class(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_numpy_sizes_are_sizes():
    layer = fastrnn.LSTM(np.int64(3), np.uint8(4), num_layers=np.int32(2), proj_size=np.int16(2), dropout=F(0.5))
    assert repr(layer) == "LSTM(3, 4, proj_size=2, num_layers=2, dropout=0.5)"
    assert type(layer.hidden_size) is int


# --- calls ------------------------------------------------------------------------------------------------------------


def unchanged_after(thing, call, error, words, *arrays):
    """The call fails as said; the pickled layer (weights, mode, generator) and the arrays are what they were."""
    before, copies = pickle.dumps(thing), [np.array(array) for array in arrays]
    with pytest.raises(error, match=words):
        call()
    assert pickle.dumps(thing) == before
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


X = np.zeros((4, 2, 3), F)  # T=4, N=2, I=3 for layers of 5 hidden units

NOT_REAL = [
    (np.zeros((4, 2, 3), complex), "complex128"),
    (np.full((4, 2, 3), "1"), "<U1"),
    (np.full((4, 2, 3), None), "object"),
    (np.zeros((4, 2, 3), "datetime64[s]"), "datetime64"),
    ([[[b"x"] * 3] * 2] * 4, r"\|S1"),
    (None, "None"),
    ("text", "<U4"),
    ({"x": 1}, "object"),
    (object(), "object"),
]


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("x", "got"), NOT_REAL, ids=[got for _, got in NOT_REAL])
def test_input_that_is_no_array_of_real_numbers(name, x, got):
    layer = getattr(fastrnn, name)(3, 5, 2, dropout=0.5).train()
    unchanged_after(layer, lambda: layer(x), TypeError, f"x should be an array of real numbers, got: .*{got}")
    cell = getattr(fastrnn, f"{name}Cell")(3, 5)
    unchanged_after(cell, lambda: cell(x), TypeError, f"x should be an array of real numbers, got: .*{got}")
    stream = getattr(fastrnn, name)(3, 5).stream(2)
    for call, argument in ((stream.step, "x_t"), (stream.process, "chunk")):
        with pytest.raises(TypeError, match=f"{argument} should be an array of real numbers, got: .*{got}"):
            call(x)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros(3), "Expected input to be 2D or 3D, got 1D"),
        (np.float64(3), "Expected input to be 2D or 3D, got 0D"),
        (np.zeros((1, 4, 2, 3)), "Expected input to be 2D or 3D, got 4D"),
        (np.zeros((4, 2, 2)), "Expected 3, got 2.*4, 2, 2"),
        (np.zeros((4, 4)), "Expected 3, got 4.*4, 4"),
        (np.zeros((4, 2, 0)), "Expected 3, got 0.*4, 2, 0"),
        ([[[1, 2, 3]], [[1, 2]]], "x should be an array of real numbers"),
    ],
)
def test_input_of_the_wrong_shape(name, x, words):
    layer = getattr(fastrnn, name)(3, 5, 2, dropout=0.5).train()
    unchanged_after(layer, lambda: layer(x), ValueError, words)


H = np.zeros((2, 2, 5), F)  # two layers, N=2


@pytest.mark.parametrize("name", ["RNN", "GRU"])
@pytest.mark.parametrize(
    ("hx", "error", "words"),
    [
        (H[0], ValueError, "For batched 3-D input, hx should also be 3-D but got 2-D tensor"),
        (H[:1], ValueError, r"Expected hidden size \(2, 2, 5\), got \[1, 2, 5\]"),
        (H[:, :1], ValueError, r"Expected hidden size \(2, 2, 5\), got \[2, 1, 5\]"),
        (H[..., :1], ValueError, r"Expected hidden size \(2, 2, 5\), got \[2, 2, 1\]"),
        (H.swapaxes(0, 2), ValueError, r"Expected hidden size \(2, 2, 5\), got \[5, 2, 2\]"),
        (H * 1j, TypeError, "hx should be an array of real numbers, got: complex"),
        ("zero", TypeError, "hx should be an array of real numbers"),
        ((H, H), TypeError, "hx should be one array of shape .2, 2, 5., got: a tuple of 2"),
        ((H,), TypeError, "hx should be one array of shape .2, 2, 5., got: a tuple of 1"),
        ({"h_0": H}, TypeError, "hx should be an array of real numbers"),
    ],
)
def test_wrong_states(name, hx, error, words):
    layer = getattr(fastrnn, name)(3, 5, 2, dropout=0.5).train()
    unchanged_after(layer, lambda: layer(X, hx), error, words)


@pytest.mark.parametrize(
    ("hx", "error", "words"),
    [
        (H, TypeError, r"hx should be a pair \(h_0, c_0\), got: ndarray"),
        ((H,), TypeError, r"hx should be a pair \(h_0, c_0\), got: tuple of 1"),
        ((H, H, H), TypeError, r"hx should be a pair \(h_0, c_0\), got: tuple of 3"),
        ("ab", TypeError, r"hx should be a pair \(h_0, c_0\), got: str"),
        ({"h": H, "c": H}, TypeError, r"hx should be a pair \(h_0, c_0\), got: dict"),
        ((H, None), TypeError, r"hx\[1\] should be an array of real numbers"),
        ((None, H), TypeError, r"hx\[0\] should be an array of real numbers"),
        ((H, H * 1j), TypeError, r"hx\[1\] should be an array of real numbers, got: complex"),
        ((H, H[0]), ValueError, r"hx and cx should also be 3-D but got \(3-D, 2-D\) tensors"),
        ((H[:1], H), ValueError, r"Expected hidden\[0\] size \(2, 2, 5\), got \[1, 2, 5\]"),
        ((H, H[:, :1]), ValueError, r"Expected hidden\[1\] size \(2, 2, 5\), got \[2, 1, 5\]"),
    ],
)
def test_wrong_states_of_lstm(hx, error, words):
    layer = fastrnn.LSTM(3, 5, 2, dropout=0.5).train()
    unchanged_after(layer, lambda: layer(X, hx), error, words)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"lengths": [1]}, ValueError, r"lengths should have shape \(2,\).*got: \(1,\)"),
        ({"lengths": [1, 2, 3]}, ValueError, r"lengths should have shape \(2,\).*got: \(3,\)"),
        ({"lengths": [[1], [2]]}, ValueError, r"lengths should have shape \(2,\).*got: \(2, 1\)"),
        ({"lengths": 3}, ValueError, r"lengths should have shape \(2,\).*got: \(\)"),
        ({"lengths": []}, ValueError, r"lengths should have shape \(2,\).*got: \(0,\)"),
        ({"lengths": [5, 1]}, ValueError, "lengths should be between 0 and .*4, got: .*5"),
        ({"lengths": [-1, 1]}, ValueError, "lengths should be between 0 and .*4, got: .*-1"),
        ({"lengths": [2**63 + 1, 1]}, (TypeError, ValueError), "lengths should be"),
        ({"lengths": [2**70, 1]}, (TypeError, ValueError), "lengths should be"),
        ({"lengths": [1.5, 2]}, TypeError, "lengths should be integers, got: float64"),
        ({"lengths": [True, False]}, TypeError, "lengths should be integers, got: bool"),
        ({"lengths": ["1", "2"]}, TypeError, "lengths should be integers, got: <U1"),
        ({"lengths": [[1], [2, 3]]}, (TypeError, ValueError), "lengths should"),
        ({"reset": np.zeros((4, 3), bool)}, ValueError, r"reset should have shape .*got: \(4, 3\)"),
        ({"reset": np.zeros(4, bool)}, ValueError, r"reset should have shape .*got: \(4,\)"),
        ({"reset": np.zeros((4, 2))}, TypeError, "reset should be an array of bool, got: float64"),
        ({"reset": np.zeros((4, 2), int)}, TypeError, "reset should be an array of bool, got: int64"),
        ({"reset": [[True], [True, False]]}, (TypeError, ValueError), "reset should"),
        ({"out": np.zeros((4, 2, 4), F)}, ValueError, r"out should have shape .*, got: \(4, 2, 4\)"),
        ({"out": np.zeros((4, 5), F)}, ValueError, r"out should have shape .*, got: \(4, 5\)"),
        ({"out": np.zeros((4, 2, 5))}, TypeError, "out should have dtype float32, got: float64"),
        ({"out": [0.0]}, TypeError, "out should be a numpy array, got: list"),
        ({"out": np.broadcast_to(F(0), (4, 2, 5))}, ValueError, "out should be writable, got a read-only array"),
        ({"wrong": 1}, TypeError, "wrong"),
    ],
)
def test_wrong_options_of_a_call(batch_first, options, error, words):
    layer = fastrnn.LSTM(3, 5, 2, dropout=0.5, batch_first=batch_first).train()
    if batch_first:
        options = {
            key: value.swapaxes(0, 1) if isinstance(value, np.ndarray) and value.ndim > 2 else value
            for key, value in options.items()
        }
        words = words.replace(r"\(4, 2, 4\)", r"\(2, 4, 4\)")
    x = X.swapaxes(0, 1) if batch_first else X
    arrays = [value for value in options.values() if isinstance(value, np.ndarray)]
    unchanged_after(layer, lambda: layer(x, **options), error, words, *arrays)


def test_reset_has_the_order_of_the_input():
    layer = fastrnn.GRU(3, 5, batch_first=True)
    x = X.swapaxes(0, 1)
    layer(x, reset=np.zeros((2, 4), bool))
    with pytest.raises(ValueError, match=r"reset should have shape \(2, 4\), got: \(4, 2\)"):
        layer(x, reset=np.zeros((4, 2), bool))
    layer(X[:, 0], reset=np.zeros(4, bool))
    with pytest.raises(ValueError, match=r"reset should have shape \(4,\), got: \(4, 1\)"):
        layer(X[:, 0], reset=np.zeros((4, 1), bool))


def test_an_error_found_late_leaves_out_alone():
    """Each argument is checked before the first number is written."""
    layer, out = fastrnn.LSTM(3, 5), np.full((4, 2, 5), 7, F)
    for options in ({"lengths": [9, 9]}, {"reset": np.zeros((1, 1), bool)}, {"hx": (H, H)}, {"hx": 1}):
        with pytest.raises((TypeError, ValueError)):
            layer(X, **options, out=out)
    assert (out == 7).all()


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lengths": [2, 1]}, "lengths should be None where x is a PackedSequence"),
        ({"reset": np.zeros((2, 2), bool)}, "reset should be None where x is a PackedSequence"),
        ({"out": np.zeros((3, 5), F)}, "out should be None where x is a PackedSequence"),
    ],
)
def test_wrong_options_of_a_packed_call(name, options, words):
    layer = getattr(fastrnn, name)(3, 5)
    packed = fastrnn.pack_sequence([np.ones((2, 3)), np.ones((1, 3))])
    unchanged_after(layer, lambda: layer(packed, **options), ValueError, words)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_wrong_packs(name):
    layer = getattr(fastrnn, name)(3, 5)
    with pytest.raises(ValueError, match="Expected 3, got 2"):
        layer(fastrnn.pack_sequence([np.ones((2, 2))]))
    with pytest.raises(ValueError, match="Expected packed data to be 2D, got 1D"):
        layer(fastrnn.pack_sequence([np.ones(3)]))
    with pytest.raises(TypeError, match=r"x\.data should be an array of real numbers, got: complex128"):
        layer(fastrnn.pack_sequence([np.ones((2, 3), complex)]))


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("GRUCell", (X,), ValueError, "GRUCell: Expected input to be 1D or 2D, got 3D instead"),
        ("RNNCell", (1.0,), ValueError, "RNNCell: Expected input to be 1D or 2D, got 0D instead"),
        ("LSTMCell", (X[0, :, :2],), ValueError, "input has inconsistent input_size: got 2 expected 3"),
        ("GRUCell", (X[0], H[0, :1]), ValueError, "Input batch size 2 doesn't match hidden0 batch size 1"),
        ("GRUCell", (X[0], H[0, :, :4]), ValueError, "hidden0 has inconsistent hidden_size: got 4, expected 5"),
        ("GRUCell", (X[0], H[0, 0]), ValueError, "hidden0 should be 2D"),
        ("GRUCell", (X[0, 0], H[0]), ValueError, "hidden0 should be 1D"),
        ("GRUCell", (X[0], (H[0], H[0])), TypeError, "hx should be one array .*got: a tuple of 2"),
        ("RNNCell", (X[0], "h"), TypeError, "hx should be an array of real numbers"),
        ("LSTMCell", (X[0], H[0]), TypeError, r"hx should be a pair \(h, c\), got: ndarray"),
        ("LSTMCell", (X[0], (H[0],)), TypeError, r"hx should be a pair \(h, c\), got: tuple of 1"),
        ("LSTMCell", (X[0], (H[0], None)), TypeError, r"hx\[1\] should be an array of real numbers"),
        ("LSTMCell", (X[0], (H[0], H[0, :, :4])), ValueError, "hidden1 has inconsistent hidden_size: got 4"),
    ],
)
def test_wrong_arguments_of_cells(name, arguments, error, words):
    cell = getattr(fastrnn, name)(3, 5)
    unchanged_after(cell, lambda: cell(*arguments), error, words)


# --- streams ----------------------------------------------------------------------------------------------------------

S = np.zeros((1, 2, 5), F)


def set_state(value):
    def call(stream):
        stream.state = value

    return call


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: s.step(X[0, 0]), ValueError, r"x_t should have shape \(2, 3\), got: \(3,\)"),
        (lambda s: s.step(X[0, :1]), ValueError, r"x_t should have shape \(2, 3\), got: \(1, 3\)"),
        (lambda s: s.step(X), ValueError, r"x_t should have shape \(2, 3\), got: \(4, 2, 3\)"),
        (lambda s: s.step(X[0, :, :2]), ValueError, r"x_t should have shape \(2, 3\), got: \(2, 2\)"),
        (lambda s: s.step(X[0], out=np.zeros((2, 5))), TypeError, "out should have dtype float32, got: float64"),
        (lambda s: s.step(X[0], out=np.zeros((1, 5), F)), ValueError, r"out should have shape \(2, 5\), got: \(1, 5\)"),
        (lambda s: s.step(X[0], out=[]), TypeError, "out should be a numpy array, got: list"),
        (lambda s: s.process(X[0]), ValueError, "chunk should be 3D, got 2D"),
        (lambda s: s.process(X[:, :1]), ValueError, r"chunk should have .*got: .*\(4, 1, 3\)"),
        (lambda s: s.process(X[..., :2]), ValueError, r"chunk should have .*got: .*\(4, 2, 2\)"),
        (lambda s: s.reset([True]), ValueError, r"mask should have shape \(2,\), got: \(1,\)"),
        (lambda s: s.reset([1, 0]), TypeError, "mask should be an array of bool, got: int64"),
        (set_state(S), TypeError, r"state should be a pair \(h, c\), got: ndarray"),
        (set_state((S, S, S)), TypeError, r"state should be a pair \(h, c\), got: tuple"),
        (set_state((S + 1, S[:, :1])), ValueError, r"state\[1\] should have shape \(1, 2, 5\), got: \(1, 1, 5\)"),
        (set_state((S[0], S)), ValueError, r"state\[0\] should have shape \(1, 2, 5\), got: \(2, 5\)"),
        (set_state((S + 1, S * 1j)), TypeError, r"state\[1\] should be an array of real numbers, got: complex"),
    ],
)
def test_wrong_arguments_of_streams(call, error, words):
    stream = fastrnn.LSTM(3, 5, rng=0).stream(2)
    stream.step(X[0])
    before = stream.state
    with pytest.raises(error, match=words):
        call(stream)
    for part, old in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(part, old)


@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), ("1", TypeError)])
def test_wrong_batch_sizes_of_streams(size, error):
    with pytest.raises(error, match="batch_size"):
        fastrnn.GRU(3, 5).stream(size)


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda layer: layer.to("float16"), TypeError, "dtype should be float32 or float64"),
        (lambda layer: layer.to(dtype=int), TypeError, "dtype should be float32 or float64"),
        (lambda layer: layer.to("nowhere"), TypeError, "dtype should be float32 or float64"),
        (lambda layer: layer.to("cuda:99"), fastrnn.BackendError, "device 'cuda:99' cannot be used: "),
        (lambda layer: layer.to(device="tpu"), ValueError, "device should be .*got: 'tpu'"),
        (lambda layer: layer.to(device="cuda:one"), ValueError, "device should be .*got: 'cuda:one'"),
        (lambda layer: layer.to(device="cuda:-1"), ValueError, "device should be .*got: 'cuda:-1'"),
        (lambda layer: layer.to("float64", "cuda:99"), fastrnn.BackendError, "device 'cuda:99' cannot be used: "),
        (lambda layer: layer.astype("int8"), TypeError, "dtype should be float32 or float64"),
        (lambda layer: layer.train("yes"), TypeError, "mode should be of type bool, got: str"),
        (lambda layer: layer.reset_parameters(rng="x"), TypeError, "rng"),
        (lambda layer: layer.load_state_dict(None), TypeError, "Expected state_dict to be dict-like, got NoneType"),
        (lambda layer: layer.load_state_dict([("a", 1)]), TypeError, "Expected state_dict to be dict-like, got list"),
        (lambda layer: layer.weight_ih_l7, AttributeError, "weight_ih_l7"),
    ],
)
def test_wrong_arguments_of_methods(call, error, words):
    layer = fastrnn.GRU(3, 5)
    unchanged_after(layer, lambda: call(layer), error, words)


def test_all_wrong_keys_in_one_error():
    layer = fastrnn.GRU(3, 5)
    state = {"bias_ih_l0": np.ones(4), "weight_hh_l0": np.ones((2, 2)), "bias": 1, "other": 2}
    unchanged_after(
        layer,
        lambda: layer.load_state_dict(state),
        ValueError,
        r'(?s)Missing key.*"weight_ih_l0", "bias_hh_l0".*Unexpected key.*"bias", "other".*size mismatch for '
        r"weight_hh_l0: .*\(2, 2\).*\(15, 5\).*size mismatch for bias_ih_l0: .*\(4,\).*\(15,\)",
    )
