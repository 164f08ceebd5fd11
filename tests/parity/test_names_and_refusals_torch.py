"""Names, attributes and refusals of layers and cells, held to torch itself."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now
from torch_twin import to_torch  # noqa: E402

# --- names, attributes, repr ------------------------------------------------------------------------------------------

MODULES = [
    ("RNN", (1, 2), {}),
    ("RNN", (1, 2, 3, "relu", False, True, 0.5, True), {}),
    ("RNN", (4, 3), {"num_layers": 2, "nonlinearity": "tanh", "dropout": 0.25}),
    ("LSTM", (3, 4), {}),
    ("LSTM", (3, 4, 2, False, True, 0.5, True, 2), {}),
    ("LSTM", (3, 4), {"proj_size": 1, "num_layers": 3, "bidirectional": True}),
    ("LSTM", (3, 4), {"bias": False, "proj_size": 3}),
    ("GRU", (10, 20), {"num_layers": 2}),
    ("GRU", (10, 20, 2, False, True, 0, True), {}),
    ("RNNCell", (1, 2), {}),
    ("RNNCell", (1, 2, False, "relu"), {}),
    ("LSTMCell", (1, 2, False), {}),
    ("LSTMCell", (3, 2), {}),
    ("GRUCell", (1, 2), {}),
    ("GRUCell", (3, 2), {"bias": False}),
]


@pytest.mark.parametrize(("name", "arguments", "options"), MODULES)
def test_names_shapes_attributes_repr(name, arguments, options):
    ours = getattr(fastrnn, name)(*arguments, **options)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    assert {key: array.shape for key, array in ours.state_dict().items()} == shapes
    assert list(ours.state_dict()) == list(shapes)
    assert list(ours.parameters()) == [key for key, _ in theirs.named_parameters()]
    assert repr(ours) == repr(theirs)
    names = ["input_size", "hidden_size", "bias"]
    if name.endswith("Cell"):
        names += ["nonlinearity"] if name == "RNNCell" else []
    else:
        names += ["num_layers", "batch_first", "dropout", "bidirectional", "proj_size"]
        names += ["nonlinearity"] if name == "RNN" else []
        assert [[w.shape for w in ws] for ws in ours.all_weights] == [
            [tuple(w.shape) for w in ws] for ws in theirs.all_weights
        ]
        for key, array in zip(shapes, itertools.chain(*ours.all_weights), strict=True):
            assert array is getattr(ours, key)
    for attribute in names:
        assert getattr(ours, attribute) == getattr(theirs, attribute), attribute
    assert not ours.training
    assert theirs.training
    assert ours.train() is ours
    assert ours.training
    assert not ours.eval().training


@pytest.mark.parametrize(("name", "arguments", "options"), MODULES)
def test_initial_values_are_drawn_in_the_range_of_torch(name, arguments, options):
    """Uniform in (-k, k), k = 1 / sqrt(H), every parameter; in parameters() order from the generator."""
    layer = getattr(fastrnn, name)(*arguments, **options, rng=5)
    k = 1 / np.sqrt(layer.hidden_size)
    rng = np.random.default_rng(5)
    for key, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, rng.uniform(-k, k, array.shape).astype(np.float32), err_msg=key)
    theirs = getattr(torch.nn, name)(*arguments, **options)
    assert all(p.abs().max() <= k for p in theirs.parameters())


@pytest.mark.parametrize(("name", "arguments", "options"), MODULES)
def test_state_dicts_go_both_ways(name, arguments, options):
    theirs = getattr(torch.nn, name)(*arguments, **options)
    ours = getattr(fastrnn, name)(*arguments, **options)
    ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    for key, array in ours.state_dict().items():
        np.testing.assert_array_equal(array, theirs.state_dict()[key].numpy())


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(call):
    """What a call is refused with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Exception, match="") as caught:  # noqa: PT011  # class and words are the caller's to judge
            call()
    return caught.value


def same_refusal(ours, theirs):
    """Classes agree, RuntimeError standing for ValueError, and our message begins with torch's."""
    assert type(ours) is {RuntimeError: ValueError}.get(type(theirs), type(theirs)), repr(ours)
    assert str(ours).startswith(str(theirs).rstrip(".")), f"{ours!s}\n  instead of\n{theirs!s}"


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((1.5, 2), {}),
        (("3", 2), {}),
        ((None, 2), {}),
        ((0, 2), {}),
        ((-1, 2), {}),
        ((2, 0), {}),
        ((2, -1), {}),
        ((2, 3.0), {}),
        ((2, 3, 0), {}),
        ((2, 3, -2), {}),
        ((2, 3), {"bias": 1}),
        ((2, 3), {"bias": None}),
        ((2, 3), {"batch_first": 1}),
        ((2, 3), {"batch_first": "yes"}),
        ((2, 3), {"dropout": 1.5}),
        ((2, 3), {"dropout": -0.1}),
        ((2, 3), {"dropout": True}),
        ((2, 3), {"dropout": float("nan")}),
        ((2, 3), {"dropout": "0.5"}),
    ],
)
def test_constructor_refusals(name, arguments, options):
    ours = refusal(lambda: getattr(fastrnn, name)(*arguments, **options))
    same_refusal(ours, refusal(lambda: getattr(torch.nn, name)(*arguments, **options)))


@pytest.mark.parametrize(
    ("name", "arguments", "options"),
    [
        ("RNN", (2, 3), {"nonlinearity": "sigmoid"}),
        ("RNN", (2, 3, 1, "RELU"), {}),
        ("RNN", (2, 3, 1, "tanh", 1), {}),
        ("LSTM", (2, 3), {"proj_size": -1}),
        ("LSTM", (2, 3), {"proj_size": 3}),
        ("LSTM", (2, 3), {"proj_size": 7}),
        ("LSTM", (2, 3, 1, "tanh"), {}),
        ("GRU", (2, 3, 1, "relu"), {}),
    ],
)
def test_constructor_refusals_of_one_class(name, arguments, options):
    ours = refusal(lambda: getattr(fastrnn, name)(*arguments, **options))
    same_refusal(ours, refusal(lambda: getattr(torch.nn, name)(*arguments, **options)))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("options", [{"foo": 1}, {"nonlinearity": "x"}, {"proj_size": 1}])
def test_arguments_of_other_classes(name, options):
    own = {"RNN": "nonlinearity", "LSTM": "proj_size", "GRU": ""}[name]
    if own in options:
        return
    with pytest.raises(TypeError, match=next(iter(options))):
        getattr(fastrnn, name)(2, 3, **options)


def test_dropout_with_one_layer_warns():
    with pytest.warns(UserWarning, match="dropout option adds dropout") as theirs:
        torch.nn.GRU(2, 3, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option adds dropout") as ours:
        fastrnn.GRU(2, 3, dropout=0.5)
    assert str(ours[0].message).startswith(str(theirs[0].message))
    assert ours[0].filename == __file__


# What the layers (3 in, 4 hidden, one direction) and cells are called with: shapes of x and of the states.
CALLS = {
    "rank 1": ((3,), None),
    "rank 4": ((1, 2, 2, 3), None),
    "features": ((2, 2, 7), None),
    "features, unbatched": ((2, 7), None),
    "state of rank 2": ((2, 2, 3), (2, 4)),
    "state of rank 4": ((2, 2, 3), (1, 1, 2, 4)),
    "state of rank 3, unbatched": ((2, 3), (1, 2, 4)),
    "state of rank 1, unbatched": ((2, 3), (4,)),
    "state's batch": ((2, 2, 3), (1, 3, 4)),
    "state's layers": ((2, 2, 3), (2, 2, 4)),
    "state's size": ((2, 2, 3), (1, 2, 5)),
}


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("case", CALLS)
def test_call_refusals(name, case):
    shape, state = CALLS[case]
    hx = None if state is None else np.ones(state, np.float32)
    hx = (hx, hx) if name == "LSTM" and hx is not None else hx
    x = np.ones(shape, np.float32)
    ours = refusal(lambda: getattr(fastrnn, name)(3, 4)(x, hx))
    same_refusal(ours, refusal(lambda: getattr(torch.nn, name)(3, 4)(to_torch(x), to_torch(hx))))


@pytest.mark.parametrize(
    ("shape", "h", "c"),
    [
        ((2, 2, 3), (1, 2, 4), (1, 3, 4)),
        ((2, 2, 3), (1, 2, 4), (2, 4)),
        ((2, 2, 3), (2, 4), (1, 2, 4)),
        ((2, 3), (1, 4), (1, 1, 4)),
        ((2, 2, 3), (1, 3, 4), (1, 3, 4)),
    ],
)
def test_call_refusals_of_lstm(shape, h, c):
    x, hx = np.ones(shape, np.float32), (np.ones(h, np.float32), np.ones(c, np.float32))
    ours = refusal(lambda: fastrnn.LSTM(3, 4)(x, hx))
    same_refusal(ours, refusal(lambda: torch.nn.LSTM(3, 4)(to_torch(x), to_torch(hx))))


@pytest.mark.parametrize(("h", "c"), [((1, 2, 4), (1, 2, 4)), ((1, 2, 2), (1, 2, 2))])
def test_call_refusals_of_a_projected_lstm(h, c):
    x, hx = np.ones((2, 2, 3), np.float32), (np.ones(h, np.float32), np.ones(c, np.float32))
    ours = refusal(lambda: fastrnn.LSTM(3, 4, proj_size=2)(x, hx))
    same_refusal(ours, refusal(lambda: torch.nn.LSTM(3, 4, proj_size=2)(to_torch(x), to_torch(hx))))


@pytest.mark.parametrize("name", ["RNN", "GRU"])
@pytest.mark.parametrize("case", ["state", "features"])
def test_packed_refusals(name, case):
    """torch's LSTM skips these checks; ours makes them."""
    sequences = [np.ones((n, 7 if case == "features" else 3), np.float32) for n in (3, 2)]
    hx = np.ones((1, 3, 4), np.float32) if case == "state" else None
    theirs = refusal(
        lambda: getattr(torch.nn, name)(3, 4)(rnn.pack_sequence([to_torch(s) for s in sequences]), to_torch(hx))
    )
    same_refusal(refusal(lambda: getattr(fastrnn, name)(3, 4)(fastrnn.pack_sequence(sequences), hx)), theirs)
    words = "Expected hidden.0. size .1, 2, 4., got .1, 3, 4." if case == "state" else "input.size.-1. must be equal"
    with pytest.raises(ValueError, match=words):
        fastrnn.LSTM(3, 4)(fastrnn.pack_sequence(sequences), hx if hx is None else (hx, hx))


CELL_CALLS = {
    "rank 0": ((), None),
    "rank 3": ((1, 2, 3), None),
    "features": ((2, 7), None),
    "features, unbatched": ((7,), None),
    "state's batch": ((2, 3), (3, 4)),
    "state's size": ((2, 3), (2, 5)),
    "state's size, unbatched": ((3,), (5,)),
    "state's rank": ((2, 3), (1, 2, 4)),
}


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("case", CELL_CALLS)
def test_cell_call_refusals(name, case):
    shape, state = CELL_CALLS[case]
    hx = None if state is None else np.ones(state, np.float32)
    hx = (hx, hx) if name == "LSTMCell" and hx is not None else hx
    x = np.ones(shape, np.float32)
    ours = refusal(lambda: getattr(fastrnn, name)(3, 4)(x, hx))
    same_refusal(ours, refusal(lambda: getattr(torch.nn, name)(3, 4)(to_torch(x), to_torch(hx))))


def test_cell_call_refusal_of_the_cell_state():
    x, h, c = (np.ones(s, np.float32) for s in ((2, 3), (2, 4), (2, 5)))
    ours = refusal(lambda: fastrnn.LSTMCell(3, 4)(x, (h, c)))
    same_refusal(ours, refusal(lambda: torch.nn.LSTMCell(3, 4)(to_torch(x), (to_torch(h), to_torch(c)))))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("case", ["missing", "unexpected", "shape", "all", "empty"])
def test_load_state_dict_refusals(name, case):
    ours, theirs = getattr(fastrnn, name)(3, 4), getattr(torch.nn, name)(3, 4)
    state = {key: np.zeros(tuple(t.shape), np.float32) for key, t in theirs.state_dict().items()}
    first, second = list(state)[:2]
    if case in ("missing", "all"):
        del state[first]
    if case in ("unexpected", "all"):
        state |= {"foo": np.ones(1, np.float32), "bar": np.ones(2, np.float32)}
    if case in ("shape", "all"):
        state[second] = np.ones((5, 2), np.float32)
    if case == "empty":
        state = {}
    expected = refusal(lambda: theirs.load_state_dict({key: to_torch(array) for key, array in state.items()}))
    error = refusal(lambda: ours.load_state_dict(state))
    assert type(error) is ValueError
    # The same lines; a shape is printed as NumPy prints it, which is torch.Size([16, 4]) less the name.
    lines = [line.strip() for line in str(error).replace("torch.Size([5, 2])", "(5, 2)").splitlines()]
    for line, wanted in zip(lines, str(expected).splitlines(), strict=True):
        assert line.split("shape")[0].rstrip(". ") == wanted.split("shape")[0].strip().rstrip(". ")
    if case in ("shape", "all"):
        assert "(5, 2)" in "".join(lines)


def test_load_state_dict_not_strict():
    state = dict(fastrnn.GRU(3, 4, rng=1).state_dict())
    del state["bias_hh_l0"]
    state["foo"] = np.ones(1)
    theirs = torch.nn.GRU(3, 4)
    expected = theirs.load_state_dict({key: to_torch(array) for key, array in state.items()}, strict=False)
    ours = fastrnn.GRU(3, 4, rng=2)
    kept = ours.bias_hh_l0.copy()
    result = ours.load_state_dict(state, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (expected.missing_keys, expected.unexpected_keys)
    np.testing.assert_array_equal(ours.bias_hh_l0, kept)
    np.testing.assert_array_equal(ours.weight_ih_l0, state["weight_ih_l0"])
    with pytest.raises(ValueError, match="size mismatch for weight_ih_l0"):
        ours.load_state_dict(state | {"weight_ih_l0": np.ones((1, 1))}, strict=False)
