"""LayerNorm, BatchNorm1d and MaxPool1d: values by hand, running statistics, NaN and ties, wrong input."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import fastrnn


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_layer_norm_by_hand():
    layer = fastrnn.LayerNorm((1, 2), eps=3, dtype="float64")
    np.testing.assert_array_equal(layer([[[1, 3]], [[5, 5]]]), [[[-0.5, 0.5]], [[0, 0]]])
    layer.weight, layer.bias = [[2, 4]], [[10, 20]]
    y, backward = layer.vjp([[1, 3]])
    np.testing.assert_array_equal(y, [[9, 22]])
    grads = backward([[1, 0]])
    # y[0] = 10 + 2 (x0 - x1) / 2 / sqrt((x0 - x1)^2 / 4 + 3)
    np.testing.assert_allclose(grads.x, [[3 / 8, -3 / 8]], rtol=1e-15)
    np.testing.assert_array_equal(grads.params["weight"], [[-0.5, 0]])
    np.testing.assert_array_equal(grads.params["bias"], [[1, 0]])


def test_initial_values():
    for layer in (fastrnn.LayerNorm((2, 3), rng=5), fastrnn.BatchNorm1d(3)):
        assert (layer.weight == 1).all()
        assert not layer.bias.any()
        layer.weight, layer.bias = np.zeros_like(layer.weight), np.ones_like(layer.bias)
        layer.reset_parameters()
        assert (layer.weight == 1).all()
        assert not layer.bias.any()
    for options in ({"elementwise_affine": False}, {"bias": False}):
        layer = fastrnn.LayerNorm(3, **options)
        assert layer.bias is None
        assert (layer.weight is None) == ("elementwise_affine" in options)
    layer = fastrnn.BatchNorm1d(3, affine=False, track_running_stats=False)
    assert (layer.weight, layer.bias, layer.running_mean, layer.running_var) == (None,) * 4
    assert layer.state_dict() == {}


@pytest.mark.parametrize("blocks", [1, 5, 1 << 16])
def test_rows_are_taken_in_blocks(blocks, rng, monkeypatch):
    from fastrnn.layers import norm

    layer, x = fastrnn.LayerNorm(4, dtype="float64"), rng.normal(size=(3, 5, 4))
    layer.weight = rng.normal(size=4)
    y, backward = layer.vjp(x)
    grads = backward(y)
    monkeypatch.setattr(norm, "_BLOCK", blocks)
    again, backward = layer.vjp(x)
    np.testing.assert_array_equal(again, y)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(backward(y).x, grads.x)
    for name, gradient in backward(y).params.items():
        np.testing.assert_allclose(gradient, grads.params[name], rtol=1e-14)


def test_layer_norm_far_from_zero(rng):
    """The mean is taken off before squares are taken."""
    x = rng.normal(size=(4, 1000)) + 1e4
    exact = fastrnn.LayerNorm(1000, dtype="float64")(x.astype("float32"))
    np.testing.assert_allclose(fastrnn.LayerNorm(1000)(x), exact, atol=2e-3)


# --- BatchNorm1d ------------------------------------------------------------------------------------------------------


def test_batch_norm_by_hand():
    layer = fastrnn.BatchNorm1d(2, eps=3, dtype="float64").train()
    layer.weight, layer.bias = [2, 4], [10, 20]
    y, backward = layer.vjp([[1, 5], [3, 5]])
    np.testing.assert_array_equal(y, [[9, 20], [11, 20]])
    np.testing.assert_allclose(layer.running_mean, [0.2, 0.5], rtol=1e-15)
    np.testing.assert_allclose(layer.running_var, [1.1, 0.9], rtol=1e-15)
    assert layer.num_batches_tracked == 1
    grads = backward([[1, 0], [0, 0]])
    np.testing.assert_allclose(grads.x, [[3 / 8, 0], [-3 / 8, 0]], rtol=1e-15)
    np.testing.assert_array_equal(grads.params["weight"], [-0.5, 0])
    np.testing.assert_array_equal(grads.params["bias"], [1, 0])
    layer.eval()
    layer.running_mean, layer.running_var = [1, 1], [1, 6]
    np.testing.assert_array_equal(layer([[3, 7]]), [[12, 28]])
    np.testing.assert_array_equal(layer.vjp([[3, 7]])[1]([[1, 1]]).x, [[1, 4 / 3]])
    assert layer.num_batches_tracked == 1


@pytest.mark.parametrize("momentum", [0.25, 0, 1, None])
def test_running_statistics(momentum, rng):
    """A call and a call of vjp count once each, backward and evaluation mode not at all."""
    batches = rng.normal(size=(4, 5, 3, 2))
    layer = fastrnn.BatchNorm1d(3, momentum=momentum, dtype="float64").train()
    mean, var = np.zeros(3), np.ones(3)
    for i, x in enumerate(batches):
        backward = None
        if i % 2:
            layer(x)
        else:
            y, backward = layer.vjp(x)
        part = 1 / (i + 1) if momentum is None else momentum
        mean = (1 - part) * mean + part * x.mean((0, 2))
        var = (1 - part) * var + part * x.var((0, 2), ddof=1)
        for _ in range(2):
            layer.eval()(x)
            layer.train()
            if backward:
                backward(y)
        np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(layer.running_var, var, rtol=1e-13)
        assert layer.num_batches_tracked == i + 1
    twin = fastrnn.BatchNorm1d(3, dtype="float64")
    twin.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(twin(x), layer.eval()(x))
    layer.reset_running_stats()
    assert (layer.num_batches_tracked, layer.running_mean.any(), layer.running_var.tolist()) == (0, False, [1] * 3)
    assert layer.num_batches_tracked.dtype == layer.astype("float32").num_batches_tracked.dtype == np.int64


def test_running_statistics_do_not_disturb_backward(rng):
    """Neither a later batch nor a change of them is a change of the weights."""
    x = rng.normal(size=(2, 6, 3))
    for train in (True, False):
        layer = fastrnn.BatchNorm1d(3, dtype="float64").train(train)
        y, backward = layer.vjp(x[0])
        expected = backward(y)
        layer.train()(x[1])
        for a, b in zip((expected.x, *expected.params.values()), _all(backward(y)), strict=True):
            np.testing.assert_array_equal(a, b)


def _all(grads):
    return grads.x, *grads.params.values()


def test_without_running_statistics(rng):
    """Those of the batch are taken in evaluation mode too."""
    x = rng.normal(size=(6, 3))
    layer = fastrnn.BatchNorm1d(3, track_running_stats=False, dtype="float64")
    np.testing.assert_array_equal(layer(x), layer.train()(x))
    np.testing.assert_allclose(layer(x).mean(0), 0, atol=1e-15)


def test_a_layout_that_convolutions_have(rng):
    x = rng.normal(size=(4, 3, 50)).astype("float32")
    conv, layer = fastrnn.Conv1d(3, 5, 3), fastrnn.BatchNorm1d(5, dtype="float64").train()
    y = conv(x).astype("float64")
    a, b = layer(y), layer(np.ascontiguousarray(y))
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)
    pool = fastrnn.MaxPool1d(2)
    np.testing.assert_array_equal(pool(y), pool(np.ascontiguousarray(y)))


def test_an_empty_batch():
    layer = fastrnn.BatchNorm1d(3).train()
    for x in (np.ones((0, 3)), np.ones((2, 3, 0))):
        y, backward = layer.vjp(x)
        assert y.shape == backward(y).x.shape == x.shape
        assert not backward(y).params["weight"].any()
    assert layer.num_batches_tracked == 2
    assert (layer.running_var == 1).all()


@pytest.mark.parametrize("train", [False, True])
def test_nan_and_inf_make_no_noise(train):
    x = np.array([[np.nan, 1, np.inf], [1, 2, 3]], "float32")
    y, backward = fastrnn.BatchNorm1d(3).train(train).vjp(x)
    assert np.isnan(y[0, 0])
    assert np.isfinite(y[:, 1]).all()
    backward(y)
    y, backward = fastrnn.LayerNorm(3).vjp(x)
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()
    assert np.isfinite(backward(y).x[1]).all()


# --- MaxPool1d --------------------------------------------------------------------------------------------------------


def pooled(layer, row):
    y, backward = layer.vjp([row])
    np.testing.assert_array_equal(layer([row]), y)
    return y[0].tolist(), backward(np.ones(y.shape)).x[0].tolist()


@pytest.mark.parametrize(
    ("options", "row", "y", "dx"),
    [
        ({}, [1, 3, 2, 5, 4, 9, 7], [3, 9], [0, 1, 0, 0, 0, 1, 0]),
        ({"stride": 1}, [1, 1, 1, 1], [1, 1], [1, 1, 0, 0]),
        ({"stride": 1}, [1, 2, 2, 0], [2, 2], [0, 2, 0, 0]),
        ({"stride": 1, "padding": 1}, [-1, -2, -3], [-1, -1, -2], [2, 1, 0]),
        ({"ceil_mode": True}, [1, 2, 3, 4], [3, 4], [0, 0, 1, 1]),
        ({"stride": 1, "dilation": 2}, [1, 5, 3, 2, 2, 9], [3, 9], [0, 0, 1, 0, 0, 1]),
        ({"stride": 1, "padding": 1}, [-np.inf] * 3, [-np.inf] * 3, [2, 1, 0]),
    ],
)
def test_max_pool_by_hand(options, row, y, dx):
    assert pooled(fastrnn.MaxPool1d(3, **options), row) == (y, dx)


def test_no_window_begins_in_the_padding_at_the_end():
    assert pooled(fastrnn.MaxPool1d(2, 3, 1, ceil_mode=True), [1, 2, 3, 4, 5]) == ([1, 4], [1, 0, 0, 1, 0])


def test_max_pool_of_nan():
    """NaN wins, and the last of several has the gradient."""
    nan = np.nan
    y, dx = pooled(fastrnn.MaxPool1d(3, 1, 1), [1, nan, nan, 3])
    assert np.isnan(y).all()
    assert dx == [0, 1, 3, 0]
    y, dx = pooled(fastrnn.MaxPool1d(3, 1), [nan, 1, 2, 3])
    assert np.isnan(y[0])
    assert (y[1], dx) == (3, [1, 0, 0, 1])


def test_max_pool_of_padding_only():
    assert pooled(fastrnn.MaxPool1d(2, padding=1, dilation=5), [1, 2, 3, 4]) == ([-np.inf], [0] * 4)


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fastrnn.LayerNorm(()), ValueError, "Expected normalized_shape to be at least 1-dimensional"),
        (lambda: fastrnn.LayerNorm(0), ValueError, "normalized_shape must be greater than zero"),
        (lambda: fastrnn.LayerNorm((2, "a")), TypeError, "normalized_shape should be of type int, got: str"),
        (lambda: fastrnn.LayerNorm(2.5), TypeError, "normalized_shape should be of type int, got: float"),
        (lambda: fastrnn.LayerNorm(2, "a"), TypeError, "eps should be a number, got: str"),
        (lambda: fastrnn.LayerNorm(2, elementwise_affine=1), TypeError, "elementwise_affine should be of type bool"),
        (lambda: fastrnn.LayerNorm(2, bias=None), TypeError, "bias should be of type bool"),
        (lambda: fastrnn.BatchNorm1d(0), ValueError, "num_features must be greater than zero"),
        (lambda: fastrnn.BatchNorm1d(2, momentum="a"), TypeError, "momentum should be a number, got: str"),
        (lambda: fastrnn.BatchNorm1d(2, affine=None), TypeError, "affine should be of type bool"),
        (lambda: fastrnn.BatchNorm1d(2, track_running_stats=1), TypeError, "track_running_stats should be of type"),
        (lambda: fastrnn.BatchNorm1d(2, dtype="int32"), TypeError, "dtype should be float32 or float64"),
        (lambda: fastrnn.BatchNorm1d(2, device="cuda"), ValueError, "device should be 'cpu', where BatchNorm1d runs"),
        (lambda: fastrnn.MaxPool1d(2, return_indices=True), ValueError, "return_indices is not supported by MaxPool1d"),
        (lambda: fastrnn.MaxPool1d(0), ValueError, r"max_pool1d\(\) kernel_size must be greater than zero, but got 0"),
        (lambda: fastrnn.MaxPool1d(2, 0), ValueError, r"max_pool1d\(\) stride must be greater than zero, but got 0"),
        (lambda: fastrnn.MaxPool1d(2, dilation=0), ValueError, r"max_pool1d\(\) dilation must be greater than zero"),
        (lambda: fastrnn.MaxPool1d(2, padding=-1), ValueError, r"max_pool1d\(\) padding must be non-negative"),
        (lambda: fastrnn.MaxPool1d(2, padding=2), ValueError, r"max_pool1d\(\) padding should be at most half of"),
        (lambda: fastrnn.MaxPool1d((2, 3)), ValueError, r"max_pool1d\(\) kernel_size must be an int, list of ints or"),
        (lambda: fastrnn.MaxPool1d("a"), TypeError, "kernel_size should be of type int, got: str"),
        (lambda: fastrnn.MaxPool1d(2, ceil_mode=1), TypeError, "ceil_mode should be of type bool"),
    ],
)
def test_wrong_arguments(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            fastrnn.LayerNorm((2, 3)),
            (2, 4, 3),
            r"Given normalized_shape=\[2, 3\], expected input with shape \[\*, 2, 3",
        ),
        (fastrnn.LayerNorm(3), (), r"Given normalized_shape=\[3\], expected input with shape \[\*, 3\], but got input"),
        (fastrnn.LayerNorm((2, 3)), (3,), r"Given normalized_shape=\[2, 3\]"),
        (fastrnn.BatchNorm1d(3), (3,), r"expected 2D or 3D input \(got 1D input\)"),
        (fastrnn.BatchNorm1d(3), (1, 2, 3, 3), r"expected 2D or 3D input \(got 4D input\)"),
        (fastrnn.BatchNorm1d(3), (2, 4), "running_mean should contain 4 elements not 3"),
        (fastrnn.BatchNorm1d(3, track_running_stats=False), (2, 4), "weight should contain 4 elements not 3"),
        (fastrnn.BatchNorm1d(3).train(), (1, 3), "Expected more than 1 value per channel when training, got input"),
        (fastrnn.BatchNorm1d(3).train(), (1, 3, 1), "Expected more than 1 value per channel when training"),
        (fastrnn.BatchNorm1d(3, track_running_stats=False), (1, 3), "Expected more than 1 value per channel when"),
        (fastrnn.MaxPool1d(2), (3,), "max_pool1d: Expected 2D or 3D .batch mode. tensor with optional 0 dim batch"),
        (fastrnn.MaxPool1d(2), (2, 3, 0), "max_pool1d: Expected 2D or 3D"),
        (fastrnn.MaxPool1d(4), (2, 3, 2), r"max_pool1d\(\) Invalid computed output size: 0"),
    ],
)
def test_wrong_input(layer, shape, words):
    before = copy.deepcopy(layer.state_dict())
    for call in (layer, layer.vjp):
        with pytest.raises(ValueError, match=words):
            call(np.ones(shape))
        with pytest.raises(TypeError, match="x should be an array of real numbers"):
            call(None)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_what_a_layer_is_and_what_may_be_changed():
    layer = fastrnn.BatchNorm1d(3, affine=False)
    for name in ("num_features", "affine", "track_running_stats", "weight", "bias"):
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(layer, name, 1)
    layer.momentum, layer.eps = None, 0.1
    with pytest.raises(TypeError, match="momentum should be a number"):
        layer.momentum = "a"
    assert repr(layer).startswith("BatchNorm1d(3, eps=0.1, momentum=None, affine=False, bias=False")
    for layer, name in ((fastrnn.LayerNorm(3), "normalized_shape"), (fastrnn.MaxPool1d(3), "stride")):
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(layer, name, 1)
