"""Cells of users, on every backend that runs them: torch's cells written as such are torch's cells, others are what
their bodies say, and their layers have all that layers have.
"""

from __future__ import annotations

import copy
import pickle
import sys
from importlib import import_module

import naive
import numpy as np
import pytest
from layer_tools import (
    USERS,
    Case,
    arrays_in,
    as_float64,
    assert_same_bits,
    each,
    gradients,
    make,
    normal_like,
    parts_of,
    random_state,
    truth,
)
from sampler import configurations

import fastrnn
from fastrnn import bodies
from fastrnn.elementary import select, sigmoid, tanh
from fastrnn.testing import GradientError, check_gradients


@pytest.fixture(params=[info.name for info in fastrnn.backends() if info.available and info.name != "cython"])
def backend(request):
    """Runs the test on each backend that runs users' cells; its name."""
    with fastrnn.use_backend(request.param):
        yield request.param


@pytest.fixture(params=USERS)
def user(request):
    """The name of a cell that torch does not have."""
    return request.param


# --- torch's cells, written by users ----------------------------------------------------------------------------------


def elman(gx, gh, s):
    return (tanh(gx[0] + gh[0]),)


def rectified(gx, gh, s):
    a = gx[0] + gh[0]
    return (select(a > 0, a, 0.0),)


def lstm(gx, gh, s):
    i, f = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
    g, o = tanh(gx[2] + gh[2]), sigmoid(gx[3] + gh[3])
    c = f * s[1] + i * g
    return o * tanh(c), c


def gru(gx, gh, s):
    r, z = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
    n = tanh(gx[2] + r * gh[2])
    return ((1 - z) * n + z * s[0],)


TWINS = {
    "rnn_tanh": fastrnn.Cell(elman, 1),
    "rnn_relu": fastrnn.Cell(rectified, 1),
    "lstm": fastrnn.Cell(lstm, 4, 2),
    "gru": fastrnn.Cell(gru, 3),
    "gru, given backward": fastrnn.Cell(gru, 3, backward=bodies.gru_backward),
    "lstm, given backward": fastrnn.Cell(lstm, 4, 2, backward=bodies.lstm_backward),
}


@pytest.fixture(params=TWINS)
def twin(request):
    """The name of one of torch's cells, and a user's cell that is the same."""
    return request.param.partition(",")[0], TWINS[request.param]


def drawn_like(cell, layer, rng):
    """A layer of the cell with a built-in layer's options; parameters are drawn in the same order."""
    names = ("num_layers", "bias", "batch_first", "dropout", "bidirectional", "dtype")
    options = {name: getattr(layer, name) for name in names}
    other = fastrnn.Recurrent(cell, layer.input_size, layer.hidden_size, **options, rng=rng)
    assert_same_bits(tuple(other.state_dict().values()), tuple(layer.state_dict().values()))
    assert list(other.state_dict()) == list(layer.state_dict())
    return other.train(layer.training)


def test_torch_cells_of_users(twin, backend, disagreement):
    """Sizes, layers, directions, batches, states, lengths and packs: outputs, states and all gradients."""
    name, cell = twin
    wrong = []
    for config in configurations(40, seed=5, cell=name, H=[1, 3, 16, 33]):
        layer, inputs = config.layer(), config.inputs()
        same = drawn_like(cell, layer, config.seed)
        got = config.call(same, inputs)
        seeds = normal_like(np.random.default_rng(config.seed), got)
        with fastrnn.use_backend("reference"):
            exact, given = layer.astype("float64"), inputs._replace(x=as_float64(inputs.x), hx=as_float64(inputs.hx))
            expected = config.call(exact, given)
            grads = config.gradients(exact, given, as_float64(seeds))
        problem = disagreement(got, expected, config.dtype)
        problem = problem or disagreement(config.gradients(same, inputs, seeds), grads, config.dtype, gradient=True)
        if problem:
            wrong.append(f"{problem}: {config}")
    assert not wrong, "\n".join(wrong)


def test_torch_cells_of_users_with_resets_and_dropout(twin, backend, assert_close):
    """Also what is kept of every step, and the gradients of each row."""
    name, cell = twin
    for options in ({}, {"num_layers": 3, "dropout": 0.5, "ragged": [9, 0, 4, 8], "bidirectional": True}):
        case = Case(name, 9, 4, 3, 5, "float64", resets=0.2, **options)
        case.layer.train()
        same = fastrnn.Recurrent(cell, 3, 5, **{k: v for k, v in options.items() if k != "ragged"}, dtype="float64")
        same.load_state_dict(case.layer.state_dict())
        same.train()._rng = copy.deepcopy(case.layer._rng)  # the same dropout
        given = (case.x, case.hx)
        with fastrnn.use_backend("reference"):
            expected = copy.deepcopy(case.layer)(*given, **case.options, return_states=True)
            grads = case.gradients()
            samples = case.gradients(per_sample=True)
        got = copy.deepcopy(same)(*given, **case.options, return_states=True)
        assert_close(got, expected, "float64")
        for per_sample, of_torch in ((False, grads), (True, samples)):
            found = gradients(copy.deepcopy(same), *given, case.seeds, **case.options, per_sample=per_sample)
            assert_close(found, of_torch, "float64", gradient=True)


# --- others -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_are_what_the_bodies_say(user, dtype, backend, disagreement):
    """Computed number by number: layers, directions, ragged rows, resets, states of every step."""
    rng, wrong = np.random.default_rng(0), []
    for N, H, options in (
        (2, 1, {}),
        (1, 19, {"bias": False}),
        (3, 5, {"num_layers": 2, "bidirectional": True}),
        (5, 8, {"num_layers": 3}),
    ):
        layer = make(user, 2, H, dtype, **options)
        x, hx = rng.normal(size=(6, N, 2)).astype(dtype), random_state(rng, layer, N)
        lengths, reset = rng.integers(0, 7, N), rng.random((6, N)) < 0.2
        for how in ({}, {"lengths": lengths}, {"reset": reset}, {"lengths": lengths, "reset": reset}):
            y, end, states = layer(x, hx, **how, return_states=True)
            h_n, *others = parts_of(end)
            got = [y, h_n, states.h] + ([np.concatenate(others, axis=-1), states.c] if others else [])
            y, h_n, c_n, h_all, c_all = naive.run(layer, x, hx, **how)
            expected = [y, h_n, h_all] + ([c_n, c_all] if others else [])
            if problem := disagreement(tuple(got), tuple(expected), dtype):
                wrong.append(f"{problem}: H={H} {options} {[*how]}")
    assert not wrong, "\n".join(wrong)


def test_gradients_are_the_derivatives(user, backend):
    for options in ({}, {"num_layers": 2, "bidirectional": True, "bias": False, "batch_first": True}):
        layer, rng = make(user, 2, 3, **options), np.random.default_rng(0)
        x, hx = rng.normal(size=(4, 3, 2)), random_state(rng, layer, 4 if layer.batch_first else 3)
        reset = rng.random((4, 3)) < 0.2
        report = check_gradients(layer, x, hx, lengths=[1, 3, 2, 0][: 4 if options else 3], reset=reset, max_elements=8)
        names = ["h_0", "c_0"] if layer.cell.states <= 2 else ["h_0", "c1_0", "c2_0", "c3_0"]
        assert list(report.errors) == ["x", *names[: layer.cell.states], *layer.state_dict()]
        assert max(report.errors.values()) < 1e-8  # tolerance: 1e-7


def test_wrong_gradients_are_found(backend):
    right = bodies.rnn_tanh_backward  # Numba knows functions by names, not in modules

    def backward(gx, gh, s, ds):
        (d,), _, (d_h,) = right(gx, gh, s, ds)
        return (d,), (1.001 * d,), (d_h,)

    layer = fastrnn.Recurrent(fastrnn.Cell(elman, 1, backward=backward), 2, 3, rng=0)
    with pytest.raises(GradientError, match="gradients are wrong"):
        check_gradients(layer)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_agree_with_the_reference(user, dtype, backend, disagreement):
    cases = [
        Case(user, T, N, 3, H, dtype, **options)
        for T, N, H, options in (
            (1, 1, 1, {}),
            (7, 1, 33, {"bias": False}),
            (12, 9, 16, {"ragged": True}),
            (9, 4, 21, {"resets": 0.2, "num_layers": 2, "bidirectional": True}),
            (300, 3, 5, {"resets": 0.05, "ragged": True, "bidirectional": True}),
        )
    ]
    wrong = [problem for case in cases if (problem := case.problem(disagreement))]
    assert not wrong, "\n".join(wrong)


def test_ways_to_the_same_gradients(user, backend, assert_close, monkeypatch):
    module = import_module(f"fastrnn.backends.{backend}")
    monkeypatch.setattr(module, "CHUNK_STEPS", 1 if backend == "reference" else module.CHUNK_STEPS)
    case = Case(user, 9, 4, 3, 5, "float64", ragged=True, resets=0.2, num_layers=2, bidirectional=True, dropout=0.5)
    case.layer.train()
    plain, samples = case.gradients(), case.gradients(per_sample=True)
    assert_same_bits(case.gradients(checkpoint_every=4), plain)
    assert_same_bits(case.gradients(consume=True, wrt="hx"), plain._replace(x=None, params=None))
    assert_close({name: a.sum(0) for name, a in samples.params.items()}, plain.params, "float64", gradient=True)
    _, backward = case.vjp()
    found = backward(None, tuple(None for _ in case.hx) if isinstance(case.hx, tuple) else None)
    assert not any(array.any() for array in arrays_in(found).values())
    case.layer.parameters().changed()
    with pytest.raises(RuntimeError, match="have changed"):
        backward(None)


# --- what layers have -------------------------------------------------------------------------------------------------


def test_batches_and_packs(user, backend, assert_close):
    layer, rng = make(user, 3, 5, num_layers=2, bidirectional=True), np.random.default_rng(0)
    x, lengths = rng.normal(size=(6, 4, 3)).astype("float32"), [2, 6, 1, 3]
    hx = random_state(rng, layer, 4)
    y, end = expected = layer(x, hx, lengths=lengths)
    first = make(user, 3, 5, num_layers=2, bidirectional=True, batch_first=True)
    out = np.empty((4, 6, 10), "float32")
    y_first, end_first = first(x.swapaxes(0, 1), hx, lengths=lengths, out=out)
    assert y_first is out
    assert_same_bits((y_first.swapaxes(0, 1), end_first), expected)

    pack = fastrnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    y_packed, end_packed = layer(pack, hx)
    assert_same_bits((fastrnn.pad_packed_sequence(y_packed)[0], end_packed), expected)
    (y_packed, _), backward = layer.vjp(pack, hx)
    seeds = normal_like(rng, expected)
    d_packed = fastrnn.pack_padded_sequence(seeds[0], lengths, enforce_sorted=False)
    grads, plain = backward(d_packed, seeds[1]), gradients(layer, x, hx, seeds, lengths=lengths)
    assert_same_bits(grads._replace(x=fastrnn.pad_packed_sequence(grads.x)[0]), plain)

    one = layer(x[:, 1], each(lambda s: s[:, 1], hx))
    assert_close(one, (y[:, 1], each(lambda s: s[:, 1], end)), "float32")
    assert_close(layer(x[:, :2], return_states=True)[:2], truth(layer, x[:, :2]), "float32")


@pytest.mark.parametrize(("T", "N"), [(0, 2), (3, 0), (0, 0)])
def test_nothing_to_do(user, T, N, backend):
    layer = make(user, 2, 3)
    hx = random_state(np.random.default_rng(0), layer, N)
    (y, end), backward = layer.vjp(np.zeros((T, N, 2)), hx)
    assert y.shape == (T, N, 3)
    assert_same_bits(end, hx)
    grads = backward(y, hx)
    assert_same_bits(grads.hx, hx)
    assert not any(array.any() for array in grads.params.values())


def test_streams(user, backend, assert_close):
    layer, rng = make(user, 3, 5, num_layers=2), np.random.default_rng(0)
    x, hx = rng.normal(size=(7, 2, 3)).astype("float32"), random_state(rng, layer, 2)
    y, end = layer(x, hx)
    stream = layer.stream(2)
    assert [s.shape for s in parts_of(stream.state)] == [(2, 2, 5)] * layer.cell.states
    assert not any(s.any() for s in parts_of(stream.state))
    stream.state = hx
    assert_same_bits(stream.state, hx)
    steps = [stream.step(x_t) for x_t in x[:3]]
    got = np.concatenate([steps, stream.process(x[3:])])
    assert_close((got, stream.state), (y, end), "float32")

    stream.reset([True, False])
    for state, before in zip(parts_of(stream.state), parts_of(end), strict=True):
        assert not state[:, 0].any()
        np.testing.assert_allclose(state[:, 1], before[:, 1], rtol=1e-5, atol=1e-6)
    stream.reset()
    assert_close(stream.process(x), layer(x)[0], "float32")
    with pytest.raises(TypeError, match="cannot be copied or pickled"):
        copy.copy(stream)


def test_parameters(user, tmp_path):
    layer = make(user, 2, 3, num_layers=2, bidirectional=True, rng=7)
    cell, bias = layer.cell, make(user, 2, 3, bias=False)
    names = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_unit"]
    absent = set() if cell.recurrent else {"weight_hh", "bias_hh"}
    absent |= set() if cell.unit_weights else {"weight_unit"}
    fields = [name for name in names if name not in absent]
    state = layer.state_dict()
    assert list(state) == [f"{name}_l{k}{end}" for k in (0, 1) for end in ("", "_reverse") for name in fields]
    assert list(bias.state_dict()) == [f"{name}_l0" for name in fields if "bias" not in name]
    shapes = {"weight_ih": (3 * cell.gates, 6), "weight_hh": (3 * cell.gates, 3), "weight_unit": (cell.unit_weights, 3)}
    for name in fields:
        assert state[f"{name}_l1"].shape == shapes.get(name, (3 * cell.gates,))
    rng = np.random.default_rng(7)
    for array in state.values():
        np.testing.assert_array_equal(array, rng.uniform(-(3**-0.5), 3**-0.5, array.shape).astype("float32"))

    for suffix in ("pt", "safetensors", "npz"):
        fastrnn.save(state, tmp_path / f"layer.{suffix}")
        other = make(user, 2, 3, num_layers=2, bidirectional=True)
        other.load_state_dict(fastrnn.load(tmp_path / f"layer.{suffix}"))
        assert_same_bits(tuple(other.state_dict().values()), tuple(state.values()))
    assert [len(arrays) for arrays in layer.all_weights] == [len(fields)] * 4
    with pytest.raises(ValueError, match=f"Missing key.*{fields[-1]}_l0"):
        layer.load_state_dict({name: array for name, array in state.items() if name != f"{fields[-1]}_l0"})
    with pytest.raises(ValueError, match="should have shape"):
        setattr(layer, f"{fields[-1]}_l0", np.zeros(2))


def test_unit_weights_are_used_and_packed_anew(backend):
    layer = make("peephole_lstm", 2, 3)
    x = np.ones((4, 1, 2))
    y = layer(x)[0]
    layer.weight_unit_l0 = layer.weight_unit_l0 + 1
    changed = layer(x)[0]
    assert np.abs(changed - y).max() > 0.01
    layer.parameters()["weight_unit_l0"][:] -= 1
    layer.parameters().changed()
    np.testing.assert_allclose(layer(x)[0], y, rtol=1e-5)


def test_copies(user, backend):
    layer, x = make(user, 2, 3), np.ones((4, 1, 2))
    y, end = layer(x)
    for same in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert same.cell == layer.cell
        assert_same_bits(same(x), (y, end))
    double = layer.astype("float64")
    assert double(x)[0].dtype == np.float64
    np.testing.assert_allclose(double(x)[0], y, rtol=1e-5)
    assert layer.to("float64") is layer
    assert_same_bits(layer(x), double(x))


def test_repr_of_layers(user):
    layer = make(user, 10, 20, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True)
    options = "num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True"
    assert repr(layer) == f"Recurrent({user}, 10, 20, {options})"
    assert f"{sum(a.size for a in layer.parameters().values()):,} parameters" in layer._repr_html_()
    with fastrnn.use_backend("reference"):
        assert repr(layer.vjp(np.zeros((1, 1, 10)))[1]) == f"<backward through {user} with respect to x, hx, params>"


def test_what_is_fixed():
    layer = make("peephole_lstm", 2, 3)
    for name in ("cell", "hidden_size", "num_layers"):
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(layer, name, getattr(layer, name))
    with pytest.raises(AttributeError, match="no parameter 'weight_units_l0'; the nearest name is weight_unit_l0"):
        layer.weight_units_l0 = 1
    with pytest.warns(UserWarning, match="dropout option adds dropout after all but last recurrent layer"):
        make("peephole_lstm", 2, 3, dropout=0.5)


def test_a_users_layer_is_not_taken_for_one_of_torch():
    state = make("peephole_lstm", 2, 3).state_dict()
    with pytest.raises(fastrnn.CheckpointError, match="weight_unit_l0 not expected"):
        fastrnn.from_state_dict(state)


# --- cells ------------------------------------------------------------------------------------------------------------


def test_attributes_of_cells():
    cell = fastrnn.Cell(lstm, np.int64(4), 2, "mine", backward=bodies.lstm_backward)
    assert (cell.body, cell.gates, cell.states, cell.name) == (lstm, 4, 2, "mine")
    assert (cell.backward, cell.unit_weights, cell.recurrent) == (bodies.lstm_backward, 0, True)
    cell = USERS["independent_rnn"]
    assert (cell.gates, cell.states, cell.name, cell.unit_weights) == (1, 1, "independent_rnn", 1)
    assert not cell.recurrent
    assert "def backward(gx, gh, s, u, ds):" in cell.backward.source
    with pytest.raises(AttributeError):
        cell.gates = 2


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (TWINS["gru"], "Cell(gru, gates=3)"),
        (TWINS["lstm, given backward"], "Cell(lstm, gates=4, states=2, backward=lstm_backward)"),
        (fastrnn.Cell(elman, 1, name="Elman"), "Cell(elman, gates=1, name='Elman')"),
        (USERS["independent_rnn"], "Cell(independent_rnn, gates=1, unit_weights=1, recurrent=False)"),
    ],
)
def test_repr_of_cells(cell, text):
    assert repr(cell) == text


def test_equality_and_copies_of_cells():
    cells = [*USERS.values(), *TWINS.values(), fastrnn.Cell(gru, 3, name="GRU")]
    assert len(set(cells)) == len(cells)
    for cell in cells:
        for same in (copy.copy(cell), copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
            assert same == cell
            assert hash(same) == hash(cell)
            assert same.backward is cell.backward
    assert fastrnn.Cell(gru, 3) == TWINS["gru"] != TWINS["gru, given backward"]
    assert TWINS["gru"] != "gru"


def test_functions_within_functions(backend, assert_close):
    def scaled(factor):
        return lambda gx, gh, s: (tanh(factor * (gx[0] + gh[0])),)

    results = []
    for factor in (1.0, 2.0):
        layer = fastrnn.Recurrent(fastrnn.Cell(scaled(factor), 1), 2, 3, rng=0)
        assert repr(layer) == "Recurrent(<lambda>, 2, 3)"
        results.append(layer(np.ones((4, 1, 2)))[0])
    assert_close(results[0], truth(fastrnn.RNN(2, 3, rng=0), np.ones((4, 1, 2)))[0], "float32")
    assert np.abs(results[1] - results[0]).max() > 0.01


def two(gx, gh, s):
    return gx[0], gh[0]


def decides(gx, gh, s):
    return (gx[0] if s[0] > 0 else gh[0],)


def bare(gx, gh, s):
    return gx[0] + gh[0]


def text(gx, gh, s):
    return ("h",)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((), {}, TypeError, "body"),
        ((elman,), {}, TypeError, "gates"),
        (("elman", 1), {}, TypeError, "body should be a function, got: str"),
        ((None, 1), {}, TypeError, "body should be a function, got: NoneType"),
        ((elman, 0), {}, ValueError, "gates must be greater than zero, got: 0"),
        ((elman, 17), {}, ValueError, "gates should be at most 16, got: 17"),
        ((elman, 1.0), {}, TypeError, "gates should be of type int, got: float"),
        ((elman, True), {}, TypeError, "gates should be of type int, got: bool"),
        ((elman, "h"), {}, TypeError, "gates should be of type int, got: str"),
        ((elman, 1, 0), {}, ValueError, "states must be greater than zero, got: 0"),
        ((elman, 1, ("h",)), {}, TypeError, "states should be of type int, got: tuple"),
        ((elman, 1, 1, ""), {}, ValueError, "name should not be empty"),
        ((elman, 1, 1, 5), {}, TypeError, "name should be of type str, got: int"),
        ((elman, 1), {"backward": 1}, TypeError, "backward should be a function, got: int"),
        ((elman, 1), {"unit_weights": -1}, ValueError, "unit_weights should not be negative, got: -1"),
        ((elman, 1), {"unit_weights": None}, TypeError, "unit_weights should be of type int, got: NoneType"),
        ((elman, 1), {"unit_weights": False}, TypeError, "unit_weights should be of type int, got: bool"),
        ((elman, 1), {"recurrent": 1}, TypeError, "recurrent should be of type bool, got: int"),
        # What the body does.
        ((gru, 2), {}, TypeError, "gru failed on symbols.*index out of range"),
        ((lstm, 4), {}, TypeError, "lstm failed on symbols.*index out of range"),
        ((elman, 1), {"recurrent": False}, TypeError, "elman failed on symbols.*index out of range"),
        ((elman, 1), {"unit_weights": 1}, TypeError, "elman failed on symbols.*argument"),
        ((two, 1), {}, TypeError, "two should return a tuple of 1 new states, got: a tuple of 2"),
        ((elman, 1, 2), {}, TypeError, "elman should return a tuple of 2 new states, got: a tuple of 1"),
        ((bare, 1), {}, TypeError, "bare should return a tuple of 1 new states, got: Expression"),
        ((text, 1), {}, TypeError, "text should return new states.*not str"),
        ((decides, 1), {}, TypeError, r"use select\(condition, a, b\)"),
        ((lambda gx, gh, s: (np.maximum(gx[0], 0.0),), 1), {}, TypeError, "<lambda> failed on symbols"),
        ((decides, 1), {"backward": bodies.rnn_tanh_backward}, TypeError, r"use select\(condition, a, b\)"),
    ],
)
def test_wrong_cells(arguments, options, error, words):
    with pytest.raises(error, match=words):
        fastrnn.Cell(*arguments, **options)


@pytest.mark.parametrize(
    ("backward", "error", "words"),
    [
        (bodies.rnn_tanh_backward, TypeError, r"dgx of 3, dgh of 3, ds_prev of 1, got: \[1, 1, 1\]"),
        (lambda gx, gh, s: gx, TypeError, "argument"),
        (lambda gx, gh, s, ds: (gx, gh), TypeError, r"<lambda> should return tuples dgx of 3.*got: \[3, 3\]"),
        (lambda gx, gh, s, ds: (gx, gh, s[0]), TypeError, r"<lambda> should return.*got: \[3, 3, 'ndarray'\]"),
        (lambda gx, gh, s, ds: None, TypeError, "<lambda> should return.*got: NoneType"),
        (lambda gx, gh, s, ds: (gx, gh, (ds[1],)), IndexError, "out of range"),
    ],
)
def test_wrong_backwards(backward, error, words):
    with pytest.raises(error, match=words):
        fastrnn.Cell(gru, 3, backward=backward)


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((elman, 2, 3), {}, TypeError, "cell should be a fastrnn.Cell, got: function"),
        (("GRU", 2, 3), {}, TypeError, "cell should be a fastrnn.Cell, got: str"),
        ((TWINS["gru"], 0, 3), {}, ValueError, "input_size must be greater than zero, got: 0"),
        ((TWINS["gru"], 2, 3.0), {}, TypeError, "hidden_size should be of type int, got: float"),
        ((TWINS["gru"], 2, 3), {"bias": 1}, TypeError, "bias should be of type bool, got: int"),
        ((TWINS["gru"], 2, 3), {"dtype": "int64"}, TypeError, "dtype should be float32 or float64"),
        ((TWINS["gru"], 2, 3), {"proj_size": 1}, TypeError, "proj_size"),
        ((TWINS["gru"], 2), {}, TypeError, "hidden_size"),
    ],
)
def test_wrong_layers(arguments, options, error, words):
    with pytest.raises(error, match=words):
        fastrnn.Recurrent(*arguments, **options)


S = np.zeros((1, 2, 3))  # the shape of a state


@pytest.mark.parametrize(
    ("cell", "hx", "error", "words"),
    [
        ("minimal_gated_unit", (S,), TypeError, r"hx should be one array of shape \(1, 2, 3\), got: a tuple of 1"),
        ("minimal_gated_unit", S[0], ValueError, "hx should also be 3-D but got 2-D tensor"),
        ("coupled_lstm", S, TypeError, r"hx should be a pair \(h_0, c_0\), got: ndarray"),
        ("coupled_lstm", (S, S[0]), ValueError, r"hx and cx should also be 3-D but got \(3-D, 2-D\) tensors"),
        ("integrator", S, TypeError, r"hx should be a tuple \(h_0, c1_0, c2_0\), got: ndarray"),
        ("integrator", (S, S), TypeError, r"hx should be a tuple \(h_0, c1_0, c2_0\), got: tuple of 2"),
        ("integrator", (S, S, S[0]), ValueError, r"also be 3-D but got \(3-D, 3-D, 2-D\) tensors"),
        ("integrator", (S, S, S[:, :1]), ValueError, r"Expected hidden\[2\] size \(1, 2, 3\), got \[1, 1, 3\]"),
        ("integrator", (S, S + 1j, S), TypeError, r"hx\[1\] should be an array of real numbers, got: complex128"),
    ],
)
def test_wrong_states(cell, hx, error, words, backend):
    layer, x = make(cell, 2, 3), np.zeros((4, 2, 2))
    with pytest.raises(error, match=words):
        layer(x, hx)
    with pytest.raises(error, match=words):
        layer.vjp(x, hx)
    (y, _), backward = layer.vjp(x)
    with pytest.raises(error, match="d_state"):
        backward(y, hx)


def test_none_among_the_states(backend):
    """Of an initial state it is an error, of a gradient it stands for zeros."""
    layer, x = make("integrator", 2, 3), np.ones((4, 2, 2))
    with pytest.raises(TypeError, match=r"hx\[2\] should be an array of real numbers, got: None"):
        layer(x, (S, S, None))
    (y, _), backward = layer.vjp(x)
    assert_same_bits(backward(y, (S, S + 1, None)), backward(y, (S, S + 1, S)))


@pytest.mark.parametrize(
    ("cell", "state", "error", "words"),
    [
        ("minimal_gated_unit", S[0], ValueError, r"state should have shape \(1, 2, 3\), got: \(2, 3\)"),
        ("coupled_lstm", S, TypeError, r"state should be a pair \(h, c\), got: ndarray"),
        ("integrator", (S, S), TypeError, r"state should be a tuple \(h, c1, c2\), got: tuple"),
        ("integrator", (S, S, S[0]), ValueError, r"state\[2\] should have shape \(1, 2, 3\), got: \(2, 3\)"),
    ],
)
def test_wrong_states_of_streams(cell, state, error, words, backend):
    stream = make(cell, 2, 3).stream(2)
    stream.step(np.ones((2, 2)))
    before = stream.state
    with pytest.raises(error, match=words):
        stream.state = state
    assert_same_bits(stream.state, before)


def test_wrong_input(backend):
    layer = make("peephole_lstm", 2, 3)
    for x, error, words in (
        (np.zeros(2), ValueError, "Recurrent: Expected input to be 2D or 3D, got 1D instead"),
        (np.zeros((4, 2, 3)), ValueError, "Expected 2, got 3"),
        (np.zeros((4, 2, 2), complex), TypeError, "x should be an array of real numbers, got: complex128"),
    ):
        with pytest.raises(error, match=words):
            layer(x)
    with pytest.raises(ValueError, match="stream needs a layer of one direction"):
        make("peephole_lstm", 2, 3, bidirectional=True).stream()


# --- the backend ------------------------------------------------------------------------------------------------------


def test_numba_takes_the_place_of_cython(monkeypatch):
    layer, x = make("minimal_gated_unit", 2, 3), np.ones((4, 1, 2))
    with fastrnn.use_backend("reference"):
        expected = layer(x)
    if {info.name: info.available for info in fastrnn.backends()}["numba"]:
        with fastrnn.use_backend("numba"):
            expected = layer(x)
        with fastrnn.use_backend("cython"):
            assert_same_bits(layer(x), expected)
            assert_same_bits(layer.stream().process(x), expected[0])
    layer.parameters().changed()
    monkeypatch.setitem(sys.modules, "fastrnn.backends.numba", None)  # cannot be imported
    words = r'(?s)minimal_gated_unit is not one of torch\'s cells.*pip install "fastrnn\[numba\]".*"reference"'
    for call in (layer, layer.vjp, lambda x: layer.stream()):
        with fastrnn.use_backend("cython"), pytest.raises(fastrnn.BackendError, match=words):
            call(x)
    with pytest.raises(fastrnn.BackendError, match=r'backend \'numba\' cannot run here.*"fastrnn\[numba\]"'):
        fastrnn.set_backend("numba")
    assert "fastrnn[numba]" in {info.name: info.why_not for info in fastrnn.backends()}["numba"]
    with fastrnn.use_backend("reference"):
        layer(x)
    with fastrnn.use_backend("cython"):
        fastrnn.GRU(2, 3, rng=0)(x)
