"""The layers around the recurrence, held to torch itself: values, gradients, odd values, names, refusals."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from model_cases import CASES

import fastrnn

torch = pytest.importorskip("torch")
from test_names_and_refusals_torch import refusal, same_refusal  # noqa: E402  # they need torch
from torch_twin import to_numpy  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def twins(case, dtype="float32"):
    """fastrnn's layer, torch's with the same weights, and that in float64."""
    theirs = case.make(torch.nn).to(getattr(torch, dtype))
    state = case.varied({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    theirs.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    ours = case.make(fastrnn).to(dtype)
    ours.load_state_dict(state)
    exact = case.make(torch.nn).double()
    exact.load_state_dict({key: tensor.double() for key, tensor in theirs.state_dict().items()})
    return ours, theirs, exact


def result_and_gradients(module, x, dy=None):
    """y, the gradients of x (None for indices) and of the parameters by name."""
    x = torch.from_numpy(np.asarray(x))
    x = x.requires_grad_() if x.is_floating_point() else x
    y = module(x * 1 if x.is_floating_point() else x)  # some layers write over their argument
    dy = np.ones(y.shape) if dy is None else dy
    params = dict(module.named_parameters())
    wanted = [*params.values(), *([x] if x.requires_grad else [])]
    found = torch.autograd.grad((y * torch.from_numpy(np.asarray(dy, y.detach().numpy().dtype))).sum(), wanted)
    dx = found[-1].numpy() if x.requires_grad else None
    return y.detach().numpy(), dx, dict(zip(params, (to_numpy(g) for g in found), strict=False))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("seed", range(3))
def test_values_and_gradients(case, dtype, seed, assert_close):
    torch.manual_seed(seed)
    ours, theirs, exact = twins(case, dtype)
    x = case.x(seed, dtype)
    x_exact = x.astype(np.float64) if x.dtype.kind == "f" else x
    y, backward = ours.vjp(x)
    dy = np.asarray(np.random.default_rng(seed).normal(size=y.shape).astype(dtype))
    truth = result_and_gradients(exact, x_exact, dy)
    peer = result_and_gradients(theirs, x, dy)
    assert_close(y, truth[0], dtype, peer[0] if dtype == "float32" else None)
    grads = backward(dy)
    assert list(grads.params) == list(truth[2])
    peer = peer[1:] if dtype == "float32" else None
    assert_close((grads.x, grads.params), truth[1:], dtype, peer, gradient=True)
    for key, buffer in exact.named_buffers():
        assert_close(ours._buffers[key].astype(dtype), buffer.double().numpy(), dtype)


ODD = [
    *("relu", "leaky relu", "elu", "elu of another size", "gelu", "gelu by tanh", "silu", "sigmoid", "tanh"),
    *("softplus", "softplus with a threshold", "hardtanh", "hardtanh of other bounds"),
]


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_values(name, dtype, assert_close):
    """At kinks, far out, NaN and inf; for gradients that are inf or NaN too."""
    ours, theirs, _ = twins(CASES[name], dtype)
    x = np.array([0.0, -0.0, 1, -1, 2, -2, 0.5, 1.2, 30, -30, 90, -90, 200, -200, 1e4, -1e4, np.inf, -np.inf, np.nan])
    x = np.concatenate([x, np.nextafter(x.astype(dtype), 3).astype(np.float64)]).astype(dtype)
    if name == "gelu":
        x = x[~(x > 1e30)]  # where torch in float32 says inf and NaN
    for value in (1.0, np.inf, np.nan):
        if np.isinf(value):
            x = x[~(np.abs(x) > 30) | np.isinf(x)]  # what underflows, and where, is not torch's: 0 * inf
        dy = np.full(x.shape, value, dtype)
        y, dx, _ = result_and_gradients(theirs, x, dy)
        got, backward = ours.vjp(x)
        assert_close(got, y.astype(np.float64), dtype)
        settled = ~np.isnan(x) | (name not in ("elu", "elu of another size", "hardtanh", "hardtanh of other bounds"))
        dx = dx.astype(np.float64)[settled]  # of others at NaN, torch's gradient depends on where in an array it is
        assert_close(backward(dy).x[settled], dx, dtype, gradient=True)


@pytest.mark.parametrize("name", ["softmax", "log softmax"])
def test_odd_values_along_an_axis(name, assert_close):
    ours, theirs, _ = twins(CASES[name], "float64")
    rows = [[0, -np.inf], [np.inf, 0], [-np.inf, -np.inf], [np.nan, 0], [1e4, 0], [-1e4, 0], [np.inf, np.inf]]
    for row in rows:
        y, dx, _ = result_and_gradients(theirs, np.array([row], float), np.array([[1.0, 2.0]]))
        got, backward = ours.vjp([row])
        assert_close((got, backward([[1.0, 2.0]]).x), (y, dx), "float64")


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_and_repr(case):
    ours, theirs = case.make(fastrnn), case.make(torch.nn)
    assert repr(ours) == repr(theirs)
    shapes = {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    assert {key: array.shape for key, array in ours.state_dict().items()} == shapes
    assert list(ours.state_dict()) == list(shapes)
    for name in inspect.signature(type(ours).__init__).parameters:
        if name not in ("self", "dtype", "device", "rng", "args", "kwargs", "bias") and hasattr(ours, name):
            assert getattr(ours, name) == getattr(theirs, name), name


#: Of torch's arguments: keywords here, and what torch itself calls deprecated.
LEFT_OUT = ("device", "dtype", "min_value", "max_value")


@pytest.mark.parametrize("kind", sorted({case.kind for case in CASES.values()}))
def test_arguments_are_torchs_in_torchs_order(kind):
    ours, theirs = (
        [(p.name, p.default) for p in inspect.signature(getattr(namespace, kind).__init__).parameters.values()
         if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in LEFT_OUT and not p.name.startswith("_")]
        for namespace in (fastrnn, torch.nn)
    )  # fmt: skip
    assert ours == theirs


def test_initial_values_are_drawn_as_in_torch():
    for bias in (True, False):
        ours, theirs = fastrnn.Linear(50, 400, bias, rng=5), torch.nn.Linear(50, 400, bias)
        rng = np.random.default_rng(5)
        for name, array in ours.state_dict().items():
            k = 1 / np.sqrt(50)
            np.testing.assert_array_equal(array, rng.uniform(-k, k, array.shape).astype(np.float32))
            assert abs(float(theirs.state_dict()[name].abs().max()) / np.abs(array).max() - 1) < 0.02
    ours, theirs = fastrnn.Embedding(400, 50, 3, rng=5), torch.nn.Embedding(400, 50, 3)
    assert abs(ours.weight.std() / theirs.weight.detach().numpy().std() - 1) < 0.02
    assert not ours.weight[3].any()
    assert not theirs.weight[3].any()


def test_dropout_is_torchs_in_distribution():
    x = np.ones((300, 300), np.float32)
    ours, theirs = fastrnn.Dropout(0.3, rng=0).train()(x), torch.nn.Dropout(0.3)(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(np.unique(ours), np.unique(theirs))
    assert abs((ours == 0).mean() - (theirs == 0).mean()) < 0.01


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Dropout", (1.5,)),
        ("Dropout", (-0.1,)),
    ],
)
def test_constructor_refusals(kind, arguments):
    same_refusal(*(refusal(lambda n=n: getattr(n, kind)(*arguments)) for n in (fastrnn, torch.nn)))


@pytest.mark.parametrize(
    ("kind", "arguments", "words"),
    [
        ("Embedding", (3, 2, 3), "Padding_idx must be within num_embeddings"),
        ("Embedding", (3, 2, -4), "Padding_idx must be within num_embeddings"),
        ("Hardtanh", (1, -1), "max_val"),
        ("Hardtanh", (1, 1), "max_val"),
    ],
)
def test_constructor_refusals_that_torch_asserts(kind, arguments, words):
    """torch raises AssertionError, here it is ValueError."""
    ours, theirs = (refusal(lambda n=n: getattr(n, kind)(*arguments)) for n in (fastrnn, torch.nn))
    assert (type(ours), type(theirs)) == (ValueError, AssertionError)
    assert str(ours).startswith(str(theirs).split("\n")[0])
    assert words in str(theirs)


@pytest.mark.parametrize(
    ("kind", "arguments", "x"),
    [
        ("Linear", (3, 4), np.ones((2, 5), np.float32)),
        ("Linear", (3, 4), np.ones(5, np.float32)),
        ("Linear", (3, 4), np.ones((2, 3, 5), np.float32)),
        ("Linear", (3, 4), np.float32(1)),
        ("Embedding", (3, 4), np.array([3])),
        ("Embedding", (3, 4), np.array([0, -1])),
        ("Flatten", (1, 0), np.ones((2, 3))),
        ("Flatten", (3,), np.ones((2, 3))),
        ("Flatten", (-4,), np.ones((2, 3))),
        ("Flatten", (0, 2), np.ones((2, 3))),
        ("Flatten", (), np.ones(2)),
        ("Softmax", (2,), np.ones((2, 3))),
        ("Softmax", (-3,), np.ones((2, 3))),
        ("Softmax", (1,), np.float64(1)),
        ("LogSoftmax", (2,), np.ones((2, 3))),
    ],
)
def test_call_refusals(kind, arguments, x):
    ours = refusal(lambda: getattr(fastrnn, kind)(*arguments)(x))
    same_refusal(ours, refusal(lambda: getattr(torch.nn, kind)(*arguments)(torch.from_numpy(np.asarray(x)))))
    gradient = refusal(lambda: getattr(fastrnn, kind)(*arguments).vjp(x))
    assert (type(gradient), str(gradient)) == (type(ours), str(ours))


def test_embedding_of_no_integers():
    """torch's RuntimeError is a TypeError here, as everywhere for arrays of a wrong type."""
    for x in (np.ones(2, np.float32), np.array([True])):
        ours = refusal(lambda x=x: fastrnn.Embedding(3, 4)(x))
        theirs = refusal(lambda x=x: torch.nn.Embedding(3, 4)(torch.from_numpy(x)))
        assert type(ours) is TypeError
        common = "Expected tensor for argument #1 'indices' to have one of the"
        assert str(ours).startswith(common)
        assert str(theirs).startswith(common)
    refused = refusal(lambda: fastrnn.GELU("x"))
    theirs = refusal(lambda: torch.nn.GELU("x")(torch.ones(2)))
    same_refusal(refused, theirs)  # at once, and not at the first call
