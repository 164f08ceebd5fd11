"""Convolutions, norms and pooling held to torch: every argument, odd values, running statistics, refusals."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from model_cases import LayerCase

import fastrnn

torch = pytest.importorskip("torch")
from test_model_layers_torch import result_and_gradients, twins  # noqa: E402  # they need torch
from test_names_and_refusals_torch import refusal, same_refusal  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:Using padding=.same. with even kernel lengths")


def held_to_torch(case, seed, assert_close):
    torch.manual_seed(seed)
    ours, theirs, _ = twins(case, "float64")
    assert repr(ours) == repr(theirs)
    for batch in range(2 if case.train else 1):
        x = case.x(seed + batch, "float64")
        y, backward = ours.vjp(x)
        dy = np.random.default_rng(seed).normal(size=y.shape)
        truth = result_and_gradients(theirs, x, dy)
        assert_close(y, truth[0], "float64")
        grads = backward(dy)
        assert_close((grads.x, grads.params), truth[1:], "float64", gradient=True)
        assert list(grads.params) == list(truth[2])
        for key, buffer in theirs.named_buffers():
            assert_close(ours._buffers[key].astype("float64"), buffer.double().numpy(), "float64")


def product(**options):
    return [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]


CONV = product(
    kernel_size=[1, 3, 4],
    stride=[1, 3],
    padding=[0, 2, "same", "valid"],
    dilation=[1, 2],
    groups=[1, 2, 4],
    padding_mode=["zeros", "reflect", "replicate", "circular"],
)
CONV = [o for o in CONV if not (o["padding"] == "same" and o["stride"] > 1)]


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv1d(groups, padding_mode, assert_close):
    for i, options in enumerate(o for o in CONV if (o["groups"], o["padding_mode"]) == (groups, padding_mode)):
        shape = (2, 4, 11) if i % 4 < 2 else (4, 11)
        held_to_torch(LayerCase("Conv1d", (4, 8), {**options, "bias": i % 2 == 0}, shape), i, assert_close)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_conv2d(padding_mode, assert_close):
    options = product(
        kernel_size=[(1, 3), (3, 2)],
        stride=[1, (2, 1)],
        padding=[0, (1, 2), "same"],
        dilation=[1, (2, 1)],
        groups=[1, 2, 4],
    )
    for i, option in enumerate(o for o in options if not (o["padding"] == "same" and o["stride"] != 1)):
        case = LayerCase("Conv2d", (4, 4), {**option, "padding_mode": padding_mode}, (2,) * (i % 2) + (4, 7, 5))
        held_to_torch(case, i, assert_close)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("track_running_stats", [True, False])
def test_batch_norm(track_running_stats, train, assert_close):
    options = product(eps=[1e-5, 0.3], momentum=[0.1, 0.7, None], affine=[True, False], bias=[True, False])
    for i, option in enumerate(options):
        option["track_running_stats"] = track_running_stats
        case = LayerCase("BatchNorm1d", (3,), option, ((4, 3), (4, 3, 5), (1, 3, 5))[i % 3], train=train)
        held_to_torch(case, i, assert_close)


def test_layer_norm(assert_close):
    shapes = [5, [5], (3, 5), (2, 3, 5)]
    options = product(normalized_shape=shapes, eps=[1e-5, 0.3], elementwise_affine=[True, False], bias=[True, False])
    for i, option in enumerate(options):
        held_to_torch(LayerCase("LayerNorm", (), option, (4, 2, 3, 5)), i, assert_close)


@pytest.mark.parametrize("batched", [True, False])
def test_max_pool(batched, assert_close):
    options = product(
        kernel_size=[1, 2, (3,), 5], stride=[None, 1, 3], padding=[0, 1, 2], dilation=[1, 2], ceil_mode=[False, True]
    )
    for i, option in enumerate(options):
        if option["padding"] <= np.ravel(option["kernel_size"])[0] // 2:
            case = LayerCase("MaxPool1d", (), option, ((2,) if batched else ()) + (3, 12))
            held_to_torch(case, i, assert_close)


@pytest.mark.parametrize("seed", range(6))
def test_max_pool_of_ties_and_nan(seed, assert_close):
    """Rows of few values, all of them odd."""
    rng = np.random.default_rng(seed)
    x = rng.choice([0.0, -0.0, 1, -1, np.nan, np.inf, -np.inf], size=(2, 3, 12))
    for options in product(kernel_size=[2, 3, 4], stride=[1, 2, 3], padding=[0, 1], ceil_mode=[False, True]):
        ours, theirs = fastrnn.MaxPool1d(**options), torch.nn.MaxPool1d(**options)
        y, backward = ours.vjp(x)
        dy = rng.normal(size=y.shape)
        truth = result_and_gradients(theirs, x, dy)
        assert_close((y, backward(dy).x), truth[:2], "float64", gradient=True)
        np.testing.assert_array_equal(ours(x), theirs(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("kind", ["LayerNorm", "BatchNorm1d"])
@pytest.mark.parametrize("train", [False, True])
def test_odd_values_of_norms(kind, train, assert_close):
    """Values that are equal, far from zero, large, NaN and inf."""
    case = LayerCase(kind, (4,), {}, (6, 4), train=train)
    x = np.random.default_rng(0).normal(size=(6, 4)) * [1e-12, 1, 1e8, 1] + [0, 1e3, 0, 7]
    nan, inf = x.copy(), x.copy()
    nan[2, 1], inf[1, 3] = np.nan, np.inf
    for given in (x, x.T.copy()[:, :4], np.full((6, 4), 3.0), np.zeros((6, 4)), nan, inf):
        ours, theirs, _ = twins(case, "float64")
        y, backward = ours.vjp(given)
        truth = result_and_gradients(theirs, given)
        assert_close(y, truth[0], "float64")
        assert_close(ours(given), truth[0], "float64")
        grads = backward(np.ones(y.shape))
        assert_close((grads.x, grads.params), truth[1:], "float64", gradient=True)


@pytest.mark.parametrize("kind", ["LayerNorm", "BatchNorm1d", "Conv1d", "Conv2d"])
@pytest.mark.parametrize("train", [False, True])
def test_large_float32(kind, train, assert_close):
    """Sums of many terms are as good as torch's."""
    args, shape = {
        "LayerNorm": ((700,), (50, 700)),
        "BatchNorm1d": ((4,), (64, 4, 500)),
        "Conv1d": ((64, 32, 9), (8, 64, 300)),
        "Conv2d": ((16, 32, 3), (8, 16, 40, 30)),
    }[kind]
    case = LayerCase(kind, args, {}, shape, train=train)
    torch.manual_seed(0)
    ours, theirs, exact = twins(case)
    x = case.x()
    y, backward = ours.vjp(x)
    dy = np.random.default_rng(0).normal(size=y.shape).astype(np.float32)
    truth, peer = result_and_gradients(exact, x.astype(np.float64), dy), result_and_gradients(theirs, x, dy)
    assert_close(y, truth[0], "float32", peer[0])
    grads = backward(dy)
    assert_close((grads.x, grads.params), truth[1:], "float32", peer[1:], gradient=True)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "args", "options", "shape"),
    [
        ("Conv1d", (3, 4, 3), {}, (2, 3, 5, 6)),
        ("Conv1d", (3, 4, 3), {}, (3,)),
        ("Conv1d", (3, 4, 3), {}, (2, 5, 6)),
        ("Conv1d", (3, 4, 3), {}, (5, 6)),
        ("Conv1d", (4, 4, 3), {"groups": 2}, (2, 5, 6)),
        ("Conv1d", (4, 4, 3), {"groups": 4}, (2, 5, 6)),
        ("Conv1d", (3, 4, 3), {}, (2, 3, 2)),
        ("Conv1d", (3, 4, 5), {"padding": 1}, (2, 3, 2)),
        ("Conv1d", (3, 4, 3), {"dilation": 2}, (2, 3, 2)),
        ("Conv1d", (3, 4, 1), {}, (2, 3, 0)),
        ("Conv1d", (3, 4, 3), {"padding": 3, "padding_mode": "reflect"}, (2, 3, 3)),
        ("Conv1d", (3, 4, 3), {"padding": 3, "padding_mode": "reflect"}, (3, 3)),
        ("Conv1d", (3, 4, 3), {"padding": 4, "padding_mode": "circular"}, (2, 3, 3)),
        ("Conv1d", (3, 4, 3), {"padding": -1}, (2, 3, 9)),
        ("Conv1d", (3, 4, 3), {"stride": 0}, (2, 3, 9)),
        ("Conv1d", (3, 4, 3), {"dilation": 0}, (2, 3, 9)),
        ("Conv1d", (3, 4, 3), {"padding": "same", "stride": 2}, None),
        ("Conv1d", (3, 4, 3), {"groups": 0}, None),
        ("Conv1d", (3, 4, 3), {"groups": 2}, None),
        ("Conv1d", (4, 3, 3), {"groups": 2}, None),
        ("Conv1d", (3, 4, 3), {"stride": (1, 2)}, (2, 3, 9)),
        ("Conv1d", (3, 4, 3), {"padding": (1, 2)}, (2, 3, 9)),
        ("Conv2d", (3, 4, 3), {}, (5, 6)),
        ("Conv2d", (3, 4, 3), {}, (1, 1, 3, 5, 6)),
        ("Conv2d", (3, 4, 3), {}, (2, 2, 5, 6)),
        ("Conv2d", (3, 4, 3), {}, (2, 3, 2, 9)),
        ("Conv2d", (3, 4, (3, 9), 1, (0, 1), (2, 1)), {}, (2, 3, 2, 5)),
        ("Conv2d", (3, 4, 3), {"padding": (1, 5), "padding_mode": "reflect"}, (2, 3, 3, 4)),
        ("LayerNorm", (3,), {}, (2, 4)),
        ("LayerNorm", ((2, 3),), {}, (2, 4, 3)),
        ("LayerNorm", ((2, 3),), {}, (3,)),
        ("LayerNorm", (3,), {}, ()),
        ("LayerNorm", ((),), {}, (3,)),
        ("BatchNorm1d", (3,), {}, (3,)),
        ("BatchNorm1d", (3,), {}, (1, 2, 3, 3)),
        ("BatchNorm1d", (3,), {}, (2, 4)),
        ("BatchNorm1d", (3,), {"track_running_stats": False}, (2, 4, 3)),
        ("MaxPool1d", (2,), {}, (3,)),
        ("MaxPool1d", (2,), {}, (1, 1, 3, 4)),
        ("MaxPool1d", (2,), {}, (2, 3, 0)),
        ("MaxPool1d", (2,), {}, (2, 0, 3)),
        ("MaxPool1d", (4,), {}, (2, 3, 2)),
        ("MaxPool1d", (4,), {"padding": 3}, (2, 3, 9)),
        ("MaxPool1d", (4,), {"padding": -1}, (2, 3, 9)),
        ("MaxPool1d", (4, 0), {}, (2, 3, 9)),
        ("MaxPool1d", (0,), {}, (2, 3, 9)),
        ("MaxPool1d", (2,), {"dilation": 0}, (2, 3, 9)),
        ("MaxPool1d", ((2, 3),), {}, (2, 3, 9)),
    ],
)
def test_refusals(kind, args, options, shape):
    """Ours may come when the layer is made already."""

    def run(namespace, of):
        layer = getattr(namespace, kind)(*args, **options)
        return layer if shape is None else layer(of(shape))

    same_refusal(refusal(lambda: run(fastrnn, np.ones)), refusal(lambda: run(torch.nn, torch.ones)))


@pytest.mark.parametrize(
    ("kind", "args", "options", "shape", "common"),
    [
        ("BatchNorm1d", (3,), {}, (1, 3), "Expected more than 1 value per channel when training, got input size"),
        ("BatchNorm1d", (3,), {}, (1, 3, 1), "Expected more than 1 value per channel when training, got input size"),
        ("Conv1d", (3, 4, 3), {"padding_mode": "x"}, None, "padding_mode must be one of {"),
        ("Conv1d", (3, 4, 3), {"padding": "x"}, None, "Invalid padding string 'x', should be one of {"),
    ],
)
def test_refusals_with_a_text_of_torchs_own(kind, args, options, shape, common):
    """torch's words end in the name of its class, or in a set, whose order changes."""

    def run(namespace, of):
        layer = getattr(namespace, kind)(*args, **options).train()
        return layer if shape is None else layer(of(shape))

    for refused in (refusal(lambda: run(fastrnn, np.ones)), refusal(lambda: run(torch.nn, torch.ones))):
        assert type(refused) is ValueError
        assert str(refused).startswith(common)
