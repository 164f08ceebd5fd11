"""fastrnn.functional: the layers' calls and gradients to the last bit, and clear errors about parameters."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import numpy as np
import pytest
from layer_tools import CELLS, Case, assert_same_bits, each, make, normal_like, random_state
from sampler import configurations

import fastrnn
from fastrnn import functional as F

CALLS = {"RNN": (F.rnn, F.rnn_vjp), "LSTM": (F.lstm, F.lstm_vjp), "GRU": (F.gru, F.gru_vjp)}


def functions(layer):
    """The call and the vjp for the layer's kind, with what is an attribute of the layer filled in."""
    options = {"batch_first": layer.batch_first}
    if isinstance(layer, fastrnn.RNN):
        options["nonlinearity"] = layer.nonlinearity
    call, vjp = CALLS[type(layer).__name__]
    return (
        lambda x, hx, params, **more: call(x, hx, params, **options, **more),
        lambda x, hx, params, **more: vjp(x, hx, params, **options, **more),
    )


@pytest.mark.parametrize("cell", CELLS)
def test_sampled_layers(cell, backend):
    """Results, states and gradients; layers, directions, biases, projections and dtype are read off the parameters."""
    grid = {"T": [1, 5], "N": [None, 1, 3], "I": [1, 3], "H": [1, 3, 16]}
    for config in configurations(20, seed=9, cell=cell, **grid):
        layer, (x, hx, lengths) = config.layer(), config.inputs()
        call, vjp = functions(layer)
        params = layer.state_dict()
        for array in params.values():
            array.flags.writeable = False
        if config.form.startswith("packed"):
            x = fastrnn.pack_padded_sequence(x, lengths, config.batch_first, config.form == "packed")
            options = {}
        else:
            reset = np.random.default_rng(config.seed).random(x.shape[:-1]) < 0.2
            options = {"reset": reset} if lengths is None else {"lengths": lengths, "reset": reset}
        expected, of_layer = layer.vjp(x, hx, **options)
        assert_same_bits(unpacked(call(x, hx, params, **options)), unpacked(expected))
        result, backward = vjp(x, hx, params, **options)
        assert_same_bits(unpacked(result), unpacked(expected))
        seeds = normal_like(np.random.default_rng(config.seed), unpacked(expected))
        seeds = (expected[0]._replace(data=seeds[0]), seeds[1]) if "packed" in config.form else seeds
        for per_sample in (False, True):
            grads, of_call = (b(*seeds, per_sample=per_sample) for b in (of_layer, backward))
            if "packed" in config.form:
                grads, of_call = (g._replace(x=g.x.data) for g in (grads, of_call))
            assert_same_bits(of_call, grads)
        states, more = (
            layer(x, hx, return_states=True, **options)[2],
            call(x, hx, params, return_states=True, **options),
        )
        assert_same_bits(tuple(more[2]), tuple(states))


def unpacked(result):
    y, end = result
    return (y.data if isinstance(y, fastrnn.PackedSequence) else y), end


@pytest.mark.parametrize("cell", CELLS)
def test_options_of_the_calls(cell, backend):
    case = Case(cell, 7, 3, 3, 5, ragged=[4, 7, 2], num_layers=2, bidirectional=True)
    call, vjp = functions(case.layer)
    params = case.layer.parameters()  # live arrays will do
    expected, out = case.call(), np.empty_like(case.call()[0])
    assert call(case.x, case.hx, params, out=out, **case.options)[0] is out
    assert_same_bits(out, expected[0])
    whole = case.gradients()
    for options in ({"checkpoint_every": 2}, {"consume": True}, {"wrt": ("x", "hx", "params")}):
        backward = vjp(case.x, case.hx, params, **case.options, **options)[1]
        assert_same_bits(backward(*case.seeds), whole)
    backward = vjp(case.x, case.hx, params, consume=True)[1]
    backward(None)
    with pytest.raises(RuntimeError, match="a second time"):
        backward(None)
    assert vjp(case.x, case.hx, params, wrt="x")[1](None).params is None


@pytest.mark.parametrize("cell", CELLS)
def test_dropout(cell, backend):
    """Drawn from `rng`, as a layer draws from its own."""
    generator = np.random.default_rng(5)
    layer = make(cell, 3, 5, rng=generator, num_layers=3, dropout=0.5)
    before = copy.deepcopy(generator)
    x = np.random.default_rng(0).normal(size=(6, 2, 3)).astype(np.float32)
    call, vjp = functions(layer)
    expected, backward = layer.train().vjp(x)
    seeds = normal_like(before, expected)
    for _ in range(2):
        before = np.random.default_rng(5)
        make(cell, 3, 5, rng=before, num_layers=3, dropout=0.5)
        assert_same_bits(call(x, None, layer.state_dict(), dropout=0.5, rng=copy.deepcopy(before)), expected)
        result, of_call = vjp(x, None, layer.state_dict(), dropout=0.5, rng=before)
        assert_same_bits(result, expected)
        assert_same_bits(of_call(*seeds), backward(*seeds))
    one, other = (call(x, None, layer.state_dict(), dropout=0.5, rng=seed)[0] for seed in (1, 2))
    assert (one != other).any()
    assert_same_bits(call(x, None, layer.state_dict(), dropout=0.5, rng=1)[0], one)
    assert_same_bits(call(x, None, layer.state_dict()), layer.eval()(x))


def test_parameters_of_many_kinds(backend):
    """A checkpoint, lists, other dtypes: float64 where weight_ih_l0 is, else float32; nothing is written to."""
    state = fastrnn.load(Path(__file__).parent / "data" / "golden_gru_0.pt")
    layer = fastrnn.from_state_dict(state)
    rng = np.random.default_rng(0)
    x, hx = rng.normal(size=(4, 2, layer.input_size)), random_state(rng, layer, 2)
    assert_same_bits(F.gru(x, hx, state), layer(x, hx))
    rounded = {name: array.astype(np.float16) for name, array in state.items()}
    for dtype, kinds in (
        ("float32", [rounded, {name: array.tolist() for name, array in rounded.items()}]),
        ("float64", [rounded | {"weight_ih_l0": rounded["weight_ih_l0"].astype(float)}]),
    ):
        layer = fastrnn.from_state_dict(rounded, dtype=dtype)
        for params in kinds:
            before = copy.deepcopy(params)
            (y, h_n), backward = F.gru_vjp(x, hx, params)
            assert_same_bits((y, h_n), layer(x, hx))
            assert_same_bits(backward(y), layer.vjp(x, hx)[1](y))
            for name, array in before.items():
                np.testing.assert_array_equal(params[name], array)


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_keep_to_the_parameters_as_they_were(cell, backend):
    case = Case(cell, 4, 2, 3, 5)
    params, (_, vjp) = case.layer.state_dict(), functions(case.layer)
    expected = case.gradients()
    for options in ({}, {"checkpoint_every": 1}):
        given = {name: array.copy() for name, array in params.items()}
        (y, end), backward = vjp(case.x, case.hx, given, **options)
        for array in (*given.values(), y):
            array[...] = np.nan
        each(lambda state: state.fill(np.nan), end)
        given.clear()
        assert_same_bits(backward(*case.seeds), expected)


def test_signatures():
    """Those of the layers' calls, after the parameters; what is an attribute of a layer is an option."""
    attributes = {"nonlinearity", "batch_first", "dropout", "rng"}
    for name, pair in CALLS.items():
        for function, method in zip(pair, ("__call__", "vjp"), strict=True):
            ours = list(inspect.signature(function).parameters.values())
            of_layer = list(inspect.signature(getattr(getattr(fastrnn, name), method)).parameters.values())[1:]
            assert [p.name for p in ours[:3]] == ["x", "hx", "params"]
            assert {p.name: p.default for p in ours[3:] if p.name not in attributes} == {
                p.name: p.default for p in of_layer[2:]
            }
            assert {p.name for p in ours} & attributes == attributes - ({"nonlinearity"} if name != "RNN" else set())
            assert all(p.kind is p.KEYWORD_ONLY for p in ours[3:])
    assert sorted(F.__all__) == sorted(f.__name__ for pair in CALLS.values() for f in pair)
    assert fastrnn.functional is F


# --- wrong arguments --------------------------------------------------------------------------------------------------

X = np.zeros((4, 2, 3))
PARAMS = fastrnn.LSTM(3, 5, 2, bidirectional=True, proj_size=2, rng=0).state_dict()


def without(*names):
    return {name: array for name, array in PARAMS.items() if name not in names}


@pytest.mark.parametrize("function", [F.lstm, F.lstm_vjp])
@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        (None, TypeError, "params should be a mapping of names to arrays, got: NoneType"),
        ([*PARAMS], TypeError, "params should be a mapping of names to arrays, got: list"),
        ({}, ValueError, "params should have weight_ih_l0, got: none"),
        ({"weight_ih": X[0], "bias": 1}, ValueError, "params should have weight_ih_l0, got: weight_ih, bias"),
        (without("weight_hh_l0"), ValueError, "params should have weight_hh_l0, got: weight_ih_l0"),
        (without("bias_hh_l1"), ValueError, "params lacks bias_hh_l1 of LSTM"),
        (without("weight_hr_l1_reverse", "bias_ih_l1"), ValueError, "params lacks bias_ih_l1, weight_hr_l1_reverse of"),
        (without("weight_ih_l1"), ValueError, "params has weight_hh_l1, .*which LSTM with these parameters has not"),
        (
            without("weight_hr_l0"),
            ValueError,
            r"params\['weight_ih_l0'\] should have 4 x 2 rows, as LSTM with 2 hidden",
        ),
        (
            without("weight_hr_l0", "weight_hr_l0_reverse"),
            ValueError,
            r"params\['weight_ih_l0'\] should have 4 x 2 rows",
        ),
        (PARAMS | {"weight_hr_l0": 5}, ValueError, r"params\['weight_hr_l0'\] should have two sizes.*got: \(\)"),
        (
            PARAMS | {"weight_hr_l0": np.ones((0, 5))},
            ValueError,
            r"params\['weight_hr_l0'\] should have two sizes.*\(0, 5",
        ),
        (
            PARAMS | {"weight_hr_l0": np.ones((3, 5))},
            ValueError,
            r"params\['weight_hr_l0'\] should have shape \(2, 5\)",
        ),
        (without("bias_ih_l0"), ValueError, "params has bias_hh_l0, .*which LSTM with"),
        (PARAMS | {"scale": 1}, ValueError, "params has scale, which LSTM with these parameters has not"),
        (PARAMS | {1: X}, ValueError, "params has 1, which LSTM with these parameters has not"),
        (PARAMS | {"weight_ih_l0": X}, ValueError, r"params\['weight_ih_l0'\] should have two sizes.*got: \(4, 2, 3\)"),
        (PARAMS | {"weight_hh_l0": X[:0, 0]}, ValueError, r"params\['weight_hh_l0'\] should have two sizes.*\(0, 3\)"),
        (
            PARAMS | {"weight_hh_l1": X[0]},
            ValueError,
            r"params\['weight_hh_l1'\] should have shape \(20, 2\), got: \(2",
        ),
        (
            PARAMS | {"weight_ih_l0": np.ones((21, 3))},
            ValueError,
            r"params\['weight_ih_l0'\] should have 4 x 5 rows",
        ),
        (
            PARAMS | {"bias_ih_l0": np.ones(19)},
            ValueError,
            r"params\['bias_ih_l0'\] should have shape \(20,\), got: \(1",
        ),
        (
            PARAMS | {"bias_ih_l0": "b"},
            TypeError,
            r"params\['bias_ih_l0'\] should be an array of real numbers, got: <U1",
        ),
        (PARAMS | {"bias_hh_l1": None}, TypeError, r"params\['bias_hh_l1'\] should be an array of real numbers"),
        (PARAMS | {"weight_hh_l0": 1j * X[0]}, TypeError, r"params\['weight_hh_l0'\] should be .*got: complex128"),
    ],
)
def test_wrong_parameters(function, params, error, words):
    with pytest.raises(error, match=words):
        function(X, None, params)


@pytest.mark.parametrize(
    ("function", "params", "words"),
    [
        (F.gru, PARAMS, "should have 3 x 2 rows, as GRU with 2 hidden units has, got: 20"),
        (F.gru, without("weight_hr_l0") | {"weight_hh_l0": np.ones((20, 5))}, "should have 3 x 5 rows, .*got: 20"),
        (F.rnn, fastrnn.GRU(3, 5).state_dict(), "should have 1 x 5 rows, as RNN with 5 hidden units has, got: 15"),
        (F.gru, fastrnn.RNN(3, 5).state_dict(), "should have 3 x 5 rows, as GRU with 5 hidden units has, got: 5"),
        (F.gru, fastrnn.LSTM(3, 6).state_dict(), "should have 3 x 6 rows, as GRU with 6 hidden units has, got: 24"),
    ],
)
def test_parameters_of_another_kind(function, params, words):
    with pytest.raises(ValueError, match=rf"params\['weight_ih_l0'\] {words}"):
        function(X, None, params)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.lstm(X[..., :2], None, PARAMS), ValueError, "Expected 3, got 2"),
        (lambda: F.lstm(X[0, 0], None, PARAMS), ValueError, "LSTM: Expected input to be 2D or 3D, got 1D"),
        (lambda: F.lstm_vjp("x", None, PARAMS), TypeError, "x should be an array of real numbers"),
        (lambda: F.lstm(X, X, PARAMS), TypeError, r"hx should be a pair \(h_0, c_0\), got: ndarray"),
        (lambda: F.lstm(X, None, PARAMS, batch_first=1), TypeError, "batch_first should be of type bool, got: int"),
        (
            lambda: F.lstm(X, None, PARAMS, dropout=2),
            ValueError,
            r"dropout should be a number in range \[0, 1\].*got: 2",
        ),
        (lambda: F.lstm(X, None, PARAMS, dropout=0.5, rng="a"), TypeError, "rng should be an int, a numpy Generator"),
        (lambda: F.lstm(X, None, PARAMS, lengths=[9, 1]), ValueError, "lengths should be between 0 and"),
        (lambda: F.lstm(X, None, PARAMS, reset=[1, 0]), TypeError, "reset should be an array of bool"),
        (lambda: F.lstm(X, None, PARAMS, out=X), (TypeError, ValueError), "out should"),
        (lambda: F.rnn(X, None, {}, nonlinearity="selu"), ValueError, "Unknown nonlinearity 'selu'"),
        (lambda: F.rnn_vjp(X, None, {}, nonlinearity=None), ValueError, "Unknown nonlinearity 'None'"),
        (lambda: F.gru(X, None, {}, nonlinearity="relu"), TypeError, "nonlinearity"),
        (lambda: F.lstm_vjp(X, None, PARAMS, wrt="y"), ValueError, "wrt should name some of 'x', 'hx', 'params'"),
        (lambda: F.lstm_vjp(X, None, PARAMS, consume=None), TypeError, "consume should be of type bool"),
        (lambda: F.lstm_vjp(X, None, PARAMS, checkpoint_every=0), ValueError, "checkpoint_every must be greater than"),
        (lambda: F.lstm_vjp(X, None, PARAMS, return_states=True), TypeError, "return_states"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
