"""The layers around the recurrence: values by hand, finite differences, purity, wrong input, what torch recorded."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
from layer_tools import assert_same_bits
from model_cases import CASES
from model_tools import assert_gradients

import fastrnn

GOLDEN = np.load(Path(__file__).parent / "data" / "layers.npz")


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def made(case, dtype="float64"):
    """The layer in that dtype, and an input."""
    layer = case.make(fastrnn).to(dtype)
    layer.load_state_dict(case.varied(layer.state_dict()))
    return layer, case.x(dtype=dtype)


def smooth(layer, x):
    """`x` moved away from the kinks of the layer."""
    if isinstance(layer, fastrnn.Embedding):
        return np.where(x == layer.padding_idx, 0, x)  # its gradient is 0 on purpose
    kinks = {"Hardtanh": ("min_val", "max_val"), "Softplus": ()}.get(type(layer).__name__, ())
    points = [0.0, *(getattr(layer, name) for name in kinks)]
    if isinstance(layer, fastrnn.Softplus):
        points.append(layer.threshold / layer.beta)
    for point in points:
        x = np.where(np.abs(x - point) < 0.02, point + 0.05, x)
    return x


def test_finite_differences(case):
    layer, x = made(case)
    assert_gradients(layer, smooth(layer, x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_recorded_by_torch(case, dtype, assert_close):
    name = next(name for name, other in CASES.items() if other is case)
    layer = case.make(fastrnn).to(dtype)
    state = {key: GOLDEN[f"{name}/{key}"] for key in layer.state_dict()}
    layer.load_state_dict(state)
    x = GOLDEN[f"{name}/x"]
    x = x.astype(dtype) if x.dtype.kind == "f" else x
    y, backward = layer.vjp(x)
    for key, array in layer._buffers.items():
        assert_close(array.astype(dtype), GOLDEN.get(f"{name}/after_{key}", state[key]).astype("float64"), dtype)
    assert_close(layer(x), GOLDEN[f"{name}/y"], dtype)
    assert_close(y, GOLDEN[f"{name}/y"], dtype)
    grads = backward(GOLDEN[f"{name}/dy"])
    if grads.x is not None:
        assert_close(grads.x, GOLDEN[f"{name}/dx"], dtype, gradient=True)
    expected = {key: GOLDEN[f"{name}/d_{key}"] for key in grads.params}
    assert_close(grads.params, expected, dtype, gradient=True)


def test_the_recording_is_of_these_layers():
    assert {key.split("/")[0] for key in GOLDEN} == set(CASES)


# --- pure -------------------------------------------------------------------------------------------------------------


def test_pure(case):
    """Later changes of what went in and came out do not count, and nothing is shared or written to."""
    layer, x = made(case, "float32")
    before = x.copy()
    x.flags.writeable = False
    y, backward = layer.vjp(x)
    dy = np.random.default_rng(0).normal(size=y.shape).astype(y.dtype)
    dy.flags.writeable = False
    first = backward(dy)
    np.testing.assert_array_equal(x, before)
    assert not np.may_share_memory(x, y)
    kept = copy.deepcopy(first)
    x.flags.writeable = True
    for array in [x, y, *([] if first.x is None else [first.x]), *first.params.values()]:
        array[...] = 1
    second = backward(dy)
    if kept.x is not None:
        assert_same_bits(second.x, kept.x)
    assert_same_bits(tuple(second.params.values()), tuple(kept.params.values()))


def test_wrt(case):
    layer, x = made(case)
    y, backward = layer.vjp(x)
    both = backward(np.ones_like(y))
    only_x, only_params = (layer.vjp(x, wrt=wrt)[1](np.ones_like(y)) for wrt in ("x", ["params"]))
    assert only_x.params is None
    assert only_params.x is None
    assert (only_x.x is None) == (both.x is None)
    assert list(only_params.params) == list(layer.parameters())
    assert repr(backward) == f"<backward through {case.kind} with respect to x, params>"
    for wrong, error in (("hx", ValueError), ([], ValueError), (3, TypeError)):
        with pytest.raises(error, match="wrt should name some of 'x', 'params'"):
            layer.vjp(x, wrt=wrong)


def test_wrong_gradients(case):
    layer, x = made(case)
    y, backward = layer.vjp(x)
    with pytest.raises(ValueError, match="dy should have shape"):
        backward(np.ones((*y.shape, 2)))
    with pytest.raises(TypeError, match="dy should be an array of real numbers"):
        backward(None)
    for clone in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="backward function cannot be copied or pickled"):
            clone(backward)


def test_changed_weights(case):
    layer, x = made(case)
    y, backward = layer.vjp(x)
    layer.parameters().changed()
    with pytest.raises(RuntimeError, match="have changed since vjp was called"):
        backward(np.ones_like(y))


def test_copies(case):
    layer, x = made(case)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert repr(twin) == repr(layer)
        np.testing.assert_array_equal(twin(x), layer(x))


def test_dtypes(case):
    layer, x = made(case, "float32")
    assert layer(x).dtype == np.float32
    if x.size:
        assert layer(x.tolist()).shape == layer(x).shape
    double = layer.astype("float64")
    assert double(x.astype("float64") if x.dtype.kind == "f" else x).dtype == np.float64


@pytest.mark.parametrize("name", ["relu", "gelu", "softmax", "flatten", "linear"])
def test_what_may_go_in(name):
    layer = CASES[name].make(fastrnn)
    x = CASES[name].x()
    y = layer(x)
    for given in (np.asfortranarray(x), x[::-1][::-1], x.astype(">f4"), x.view(np.recarray)):
        np.testing.assert_array_equal(layer(given), y)
        assert type(layer(given)) is np.ndarray
    for dtype in (np.int64, bool, np.float16):
        assert layer(x.astype(dtype)).dtype == np.float32
    for wrong in (x + 0j, x.astype(str), None, object()):
        with pytest.raises(TypeError, match="x should be an array of real numbers"):
            layer(wrong)
    with pytest.raises(ValueError, match="x should be an array of real numbers"):
        layer([[1, 2], [3]])


# --- values -----------------------------------------------------------------------------------------------------------


def test_linear_by_hand():
    layer = fastrnn.Linear(2, 3, dtype="float64")
    layer.weight, layer.bias = [[1, 2], [3, 4], [5, 6]], [10, 20, 30]
    y, backward = layer.vjp([[1, 1], [0, 2]])
    np.testing.assert_array_equal(y, [[13, 27, 41], [14, 28, 42]])
    grads = backward([[1, 0, 0], [0, 1, 2]])
    np.testing.assert_array_equal(grads.x, [[1, 2], [13, 16]])
    np.testing.assert_array_equal(grads.params["weight"], [[1, 1], [0, 2], [0, 4]])
    np.testing.assert_array_equal(grads.params["bias"], [1, 1, 2])
    assert fastrnn.Linear(2, 3, bias=False).bias is None


def test_embedding_by_hand():
    layer = fastrnn.Embedding(3, 2, padding_idx=1, dtype="float64")
    assert not layer.weight[1].any()
    layer.weight = [[1, 2], [3, 4], [5, 6]]
    y, backward = layer.vjp([2, 1, 2, 0])
    np.testing.assert_array_equal(y, [[5, 6], [3, 4], [5, 6], [1, 2]])
    grads = backward([[1, 0], [7, 7], [2, 3], [4, 4]])
    np.testing.assert_array_equal(grads.params["weight"], [[4, 4], [0, 0], [3, 3]])
    assert grads.x is None
    np.testing.assert_array_equal(layer(np.array([2, 0], np.uint8)), [[5, 6], [1, 2]])


@pytest.mark.parametrize("kind", ["Linear", "Embedding"])
def test_initial_values(kind):
    layer = getattr(fastrnn, kind)(100, 50, rng=3)
    first = layer.state_dict()
    layer.reset_parameters()
    assert (layer.weight != first["weight"]).any()
    layer.reset_parameters(rng=3)
    for name, array in first.items():
        np.testing.assert_array_equal(getattr(layer, name), array)
    if kind == "Linear":
        assert 0.0999 < np.abs(layer.weight).max() <= 0.1
        assert 0.08 < np.abs(layer.bias).max() <= 0.1
    else:
        assert abs(layer.weight.std() - 1) < 0.05


def test_values_where_functions_have_kinks():
    x = np.array([-np.inf, -1.0, -0.0, 0.0, 1.0, np.inf, np.nan])

    def both(layer):
        y, backward = layer.vjp(x)
        return y, backward(np.ones(7)).x

    y, dx = both(fastrnn.ReLU())
    np.testing.assert_array_equal(y, [0, 0, 0, 0, 1, np.inf, np.nan])
    np.testing.assert_array_equal(dx, [0, 0, 0, 0, 1, 1, 1])
    y, dx = both(fastrnn.Hardtanh())
    np.testing.assert_array_equal(y, [-1, -1, 0, 0, 1, 1, np.nan])
    np.testing.assert_array_equal(dx, [0, 0, 1, 1, 0, 0, 0])
    y, dx = both(fastrnn.LeakyReLU(0.5))
    np.testing.assert_array_equal(y, [-np.inf, -0.5, 0, 0, 1, np.inf, np.nan])
    np.testing.assert_array_equal(dx, [0.5, 0.5, 0.5, 0.5, 1, 1, 0.5])
    assert not np.isnan(fastrnn.ReLU().vjp([-1.0])[1]([np.inf]).x).any()


def test_extremes_make_no_noise():
    """Overflow and the like in between pass without a warning, which the tests would take for an error."""
    x = np.array([-1e4, -800, 800, 1e4])
    for name in ("ELU", "GELU", "SiLU", "Sigmoid", "Softplus", "Tanh"):
        y, backward = getattr(fastrnn, name)().vjp(x)
        assert np.isfinite(y).all()
        assert np.isfinite(backward(np.ones(4)).x).all()
    np.testing.assert_array_equal(fastrnn.Softmax(0)(x), [0, 0, 0, 1])
    np.testing.assert_array_equal(fastrnn.LogSoftmax(0)(x), x - 1e4)


@pytest.mark.parametrize("name", ["ELU", "GELU", "SiLU", "Sigmoid", "Softplus", "Tanh"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_elements_do_not_depend_on_their_neighbours(name, dtype):
    layer, x = getattr(fastrnn, name)(), 3 * np.random.default_rng(0).normal(size=(37, 41)).astype(dtype)
    whole, backward = layer.vjp(x)
    slopes = backward(np.ones_like(x)).x
    for n in range(37):
        np.testing.assert_array_equal(layer(x[n : n + 1])[0], whole[n])
        y, backward = layer.vjp(x[n, : n + 1])
        np.testing.assert_array_equal(y, whole[n, : n + 1])
        np.testing.assert_array_equal(backward(np.ones_like(y)).x, slopes[n, : n + 1])
        np.testing.assert_array_equal(layer(x[:, n]), whole[:, n])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_linear_do_not_depend_on_their_neighbours(dtype):
    layer = fastrnn.Linear(37, 21, dtype=dtype, rng=0)
    x = np.random.default_rng(0).normal(size=(30, 5, 37)).astype(dtype)
    whole, backward = layer.vjp(x)
    dx = backward(whole).x
    for n in range(30):
        y, backward = layer.vjp(x[n, : n % 5 + 1])
        np.testing.assert_array_equal(y, whole[n, : n % 5 + 1])
        np.testing.assert_array_equal(backward(y).x, dx[n, : n % 5 + 1])


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_do_not_depend_on_their_neighbours(kind, dtype):
    x = np.random.default_rng(0).normal(size=(9, 301, 3)).astype(dtype)
    whole = getattr(fastrnn, kind)(1)(x)
    for n in range(9):
        np.testing.assert_array_equal(getattr(fastrnn, kind)(1)(x[n : n + 1])[0], whole[n])
    for k in range(3):
        np.testing.assert_array_equal(getattr(fastrnn, kind)(1)(x[:, :, k]), whole[:, :, k])


def test_dropout():
    layer, x = fastrnn.Dropout(0.25, rng=0), np.ones((100, 80))
    np.testing.assert_array_equal(layer(x), x)
    assert layer(x) is not x
    layer.train()
    y, backward = layer.vjp(x)
    assert set(np.unique(y)) == {0, 1 / 0.75}
    assert abs((y == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(backward(x).x, y)
    np.testing.assert_array_equal(backward(2 * x).x, 2 * y)
    assert (layer(x) != y).any()
    np.testing.assert_array_equal(fastrnn.Dropout(0.25, rng=0).train()(x), y)
    layer.p = 1
    assert not layer(x).any()
    layer.p = 0.0
    np.testing.assert_array_equal(layer(x), x)
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1, but got 2"):
        layer.p = 2
    assert layer.p == 0
    assert layer.eval().vjp(x)[1](x).x is not x
    assert fastrnn.Dropout().train()(np.ones(3, np.float32)).dtype == np.float32


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fastrnn.Linear(0, 3), ValueError, "in_features must be greater than zero, got: 0"),
        (lambda: fastrnn.Linear(2.0, 3), TypeError, "in_features should be of type int, got: float"),
        (lambda: fastrnn.Linear(2, 3, 1), TypeError, "bias should be of type bool"),
        (lambda: fastrnn.Linear(2, 3, dtype="int32"), TypeError, "dtype should be float32 or float64"),
        (lambda: fastrnn.Linear(2, 3, device="cuda"), ValueError, "device should be 'cpu', where Linear runs"),
        (lambda: fastrnn.Linear(2, 3, rng="a"), TypeError, "rng should be an int"),
        (lambda: fastrnn.Embedding(3, 2, 3), ValueError, "Padding_idx must be within num_embeddings"),
        (lambda: fastrnn.Embedding(3, 2, -4), ValueError, "Padding_idx must be within num_embeddings"),
        (lambda: fastrnn.Embedding(3, 2, max_norm=1.0), ValueError, "max_norm is not supported by Embedding, got: 1.0"),
        (lambda: fastrnn.Embedding(3, 2, norm_type=1.0), ValueError, "norm_type is not supported"),
        (lambda: fastrnn.Embedding(3, 2, sparse=True), ValueError, "sparse is not supported"),
        (lambda: fastrnn.Embedding(3, 2, scale_grad_by_freq=True), ValueError, "scale_grad_by_freq is not supported"),
        (lambda: fastrnn.Dropout("a"), TypeError, "p should be a number, got: str"),
        (lambda: fastrnn.Dropout(-0.1), ValueError, "dropout probability has to be between 0 and 1, but got -0.1"),
        (lambda: fastrnn.Dropout(inplace=1), TypeError, "inplace should be of type bool"),
        (lambda: fastrnn.GELU("x"), ValueError, "approximate argument must be either none or tanh"),
        (lambda: fastrnn.Hardtanh(1, -1), ValueError, r"max_val \(-1\) must be greater than min_val \(1\)"),
        (lambda: fastrnn.ELU("a"), TypeError, "alpha should be a number, got: str"),
        (lambda: fastrnn.ReLU(1), TypeError, "inplace should be of type bool"),
        (lambda: fastrnn.Softmax(), TypeError, "dim should say the axis along which Softmax runs"),
        (lambda: fastrnn.Softmax(1.0), TypeError, "dim should be of type int"),
        (lambda: fastrnn.SelectOutput("a"), TypeError, "item should be of type int"),
        (lambda: fastrnn.LastStep(1), TypeError, "batch_first should be of type bool"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("layer", "x", "error", "words"),
    [
        (
            fastrnn.Linear(3, 4),
            np.ones((2, 2, 5)),
            ValueError,
            r"mat1 and mat2 shapes cannot be multiplied \(4x5 and 3x4",
        ),
        (fastrnn.Linear(3, 4), 1.0, ValueError, "both arguments to linear need to be at least 1D, but they are 0D"),
        (fastrnn.Embedding(3, 4), [3], IndexError, "index out of range in self"),
        (fastrnn.Embedding(3, 4), [-1], IndexError, "index out of range in self"),
        (fastrnn.Embedding(3, 4), [1.0], TypeError, "Expected tensor for argument #1 'indices' to have one of"),
        (fastrnn.Embedding(3, 4), [True], TypeError, "Expected tensor for argument #1 'indices' to have one of"),
        (fastrnn.Flatten(1, 0), np.ones((2, 3)), ValueError, "flatten.. has invalid args: start_dim cannot come after"),
        (
            fastrnn.Flatten(3),
            np.ones((2, 3)),
            IndexError,
            r"Dimension out of range .expected to be in range of .-2, 1.",
        ),
        (fastrnn.Softmax(1), 1.0, IndexError, "Dimension out of range"),
        (fastrnn.LastStep(), np.ones((2, 3, 4, 5)), ValueError, "LastStep: Expected input to be 2D or 3D, got 4D"),
        (fastrnn.SelectOutput(2), (1, 2), IndexError, "item=2 is out of range"),
        (fastrnn.SelectOutput((1, 0)), (1, 2), TypeError, "x should be nested as deep as item=.1, 0. says, got: int"),
        (fastrnn.SelectOutput(1), (1, (2, 3)), TypeError, "item=1 should lead to an array, got: a tuple of 2"),
        (fastrnn.SelectOutput(1), [1, 2], TypeError, "x should be nested as deep"),
    ],
)
def test_wrong_input(layer, x, error, words):
    for call in (layer, layer.vjp):
        with pytest.raises(error, match=words):
            call(x)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (fastrnn.Linear(2, 3), "in_features"),
        (fastrnn.Linear(2, 3, False), "bias"),
        (fastrnn.Embedding(2, 3), "padding_idx"),
        (fastrnn.GELU(), "approximate"),
        (fastrnn.Hardtanh(), "min_val"),
        (fastrnn.Softmax(0), "dim"),
        (fastrnn.Flatten(), "start_dim"),
        (fastrnn.SelectOutput(), "item"),
    ],
)
def test_what_a_layer_is_cannot_be_changed_afterwards(layer, name):
    with pytest.raises(AttributeError, match=f"{name} is fixed"):
        setattr(layer, name, 1)
