"""Losses: values by hand, gradients against finite differences, what is ignored, what is refused."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from fastrnn import losses

LN2 = np.log(2)
NAMES = ["cross_entropy", "nll_loss", "binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss"]


def softmax(x, axis=1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


# -- by hand ----------------------------------------------------------------------------------------------------------


def test_cross_entropy_by_hand():
    logits = np.log([[0.25, 0.75], [0.5, 0.5]])
    loss, d = losses.cross_entropy(logits, [0, 1])
    np.testing.assert_allclose(loss, (np.log(4) + LN2) / 2, rtol=1e-14)
    np.testing.assert_allclose(d, [[-0.375, 0.375], [0.25, -0.25]], rtol=1e-14)


def test_cross_entropy_weighted_smoothed_by_hand():
    # Of the target 0.8 + 0.1 is on the class and 0.1 on the other; log 4 and log(4/3) are what they cost.
    logits, weight = np.log([[0.25, 0.75], [0.5, 0.5]]), [1.0, 3.0]
    loss, d = losses.cross_entropy(logits, [0, 1], weight=weight, label_smoothing=0.2)
    first = 0.9 * np.log(4) + 0.1 * 3 * np.log(4 / 3)
    second = 0.9 * 3 * LN2 + 0.1 * LN2
    np.testing.assert_allclose(loss, (first + second) / (1 + 3), rtol=1e-14)
    np.testing.assert_allclose(d[0], np.array([0.25 * 1.2 - 0.9, 0.75 * 1.2 - 0.3]) / 4, rtol=1e-14)
    np.testing.assert_allclose(d[1], np.array([0.5 * 2.8 - 0.1, 0.5 * 2.8 - 2.7]) / 4, rtol=1e-14)


def test_cross_entropy_of_probabilities_by_hand():
    logits = np.log([[0.25, 0.75], [0.5, 0.5]])
    loss, d = losses.cross_entropy(logits, [[0.5, 0.5], [0.0, 1.0]], weight=[1.0, 3.0])
    # The mean is over the two rows, whatever the weights.
    np.testing.assert_allclose(loss, (0.5 * np.log(4) + 1.5 * np.log(4 / 3) + 3 * LN2) / 2, rtol=1e-14)
    np.testing.assert_allclose(d, [[0.0, 0.0], [0.75, -0.75]], atol=1e-15)


def test_nll_by_hand():
    loss, d = losses.nll_loss([[-1.0, -2.0], [-3.0, -4.0], [-5.0, -6.0]], [1, 0, 1], weight=[1.0, 2.0])
    np.testing.assert_allclose(loss, (2 * 2 + 3 + 2 * 6) / 5, rtol=1e-15)
    np.testing.assert_allclose(d, [[0, -0.4], [-0.2, 0], [0, -0.4]], rtol=1e-15)


def test_binary_cross_entropy_by_hand():
    loss, d = losses.binary_cross_entropy_with_logits(np.log([1 / 3, 1.0]), [1.0, 0.0], pos_weight=2.0)
    np.testing.assert_allclose(loss, (2 * np.log(4) + LN2) / 2, rtol=1e-14)
    np.testing.assert_allclose(d, [-0.75, 0.25], rtol=1e-14)
    loss, d = losses.binary_cross_entropy_with_logits(np.log([1 / 3, 1.0]), [1.0, 0.0], weight=[3.0, 1.0])
    np.testing.assert_allclose(loss, (3 * np.log(4) + LN2) / 2, rtol=1e-14)
    np.testing.assert_allclose(d, [-1.125, 0.25], rtol=1e-14)


def test_binary_cross_entropy_of_large_logits():
    loss, d = losses.binary_cross_entropy_with_logits([1000.0, -1000.0, 800.0], [1.0, 0.0, 0.0], reduction="none")
    np.testing.assert_array_equal(loss, [0.0, 0.0, 800.0])
    np.testing.assert_array_equal(d, [0.0, 0.0, 1.0])


def test_differences_by_hand():
    x, t = [0.0, 2.0, -0.5], [0.0, 0.0, 0.0]
    assert losses.mse_loss(x, t)[0] == 4.25 / 3
    np.testing.assert_allclose(losses.mse_loss(x, t)[1], [0, 4 / 3, -1 / 3])
    assert losses.l1_loss(x, t, reduction="sum")[0] == 2.5
    np.testing.assert_array_equal(losses.l1_loss(x, t, reduction="sum")[1], [0, 1, -1])
    loss, d = losses.smooth_l1_loss(x, t, reduction="none")
    np.testing.assert_array_equal(loss, [0, 1.5, 0.125])
    np.testing.assert_array_equal(d, [0, 1, -0.5])
    loss, d = losses.smooth_l1_loss(x, t, reduction="none", beta=0.25)
    np.testing.assert_array_equal(loss, [0, 1.875, 0.375])
    np.testing.assert_array_equal(d, [0, 1, -1])
    np.testing.assert_array_equal(losses.smooth_l1_loss(x, t, beta=0)[1], losses.l1_loss(x, t)[1])


def test_weighted_means_by_hand():
    x, t, weight = [1.0, 2.0], [0.0, 0.0], [1.0, 3.0]
    assert losses.mse_loss(x, t, weight=weight)[0] == 13 / 4
    np.testing.assert_array_equal(losses.mse_loss(x, t, weight=weight)[1], [0.5, 3.0])
    assert losses.l1_loss(x, t, weight=weight)[0] == 7 / 4
    np.testing.assert_array_equal(losses.l1_loss(x, t, weight=weight)[1], [0.25, 0.75])


# -- gradients --------------------------------------------------------------------------------------------------------


def cases():
    """(name, loss as a function of the prediction, prediction)."""
    rng = np.random.default_rng(0)
    scores, deep, one = rng.normal(size=(5, 4)), rng.normal(size=(3, 4, 2, 3)), rng.normal(size=4)
    classes, deep_classes = np.array([0, 3, -100, 1, 3]), rng.integers(0, 4, (3, 2, 3))
    deep_classes[1, 0] = 2
    weight = rng.uniform(0.5, 2, 4)
    for options in ({}, {"weight": weight}, {"label_smoothing": 0.3}, {"weight": weight, "label_smoothing": 0.3}):
        name = " ".join(options)
        f = partial(losses.cross_entropy, **options)
        yield f"cross_entropy {name}", partial(f, target=classes), scores
        yield f"cross_entropy deep {name}", partial(f, target=deep_classes, ignore_index=2), deep
        yield f"cross_entropy one {name}", partial(f, target=2), one
        yield f"cross_entropy p {name}", partial(f, target=softmax(rng.normal(size=(5, 4)))), scores
        yield f"cross_entropy deep p {name}", partial(f, target=softmax(rng.normal(size=deep.shape))), deep
    for options in ({}, {"weight": weight}):
        yield f"nll {options.keys()}", partial(losses.nll_loss, target=classes, **options), scores
        yield f"nll deep {options.keys()}", partial(losses.nll_loss, target=deep_classes, **options), deep
    yes = rng.uniform(size=(5, 4))
    for options in ({}, {"weight": weight}, {"pos_weight": weight}, {"weight": 2.0, "pos_weight": weight}):
        f = partial(losses.binary_cross_entropy_with_logits, target=yes, **options)
        yield f"binary {options.keys()}", f, scores
    each = rng.uniform(0.5, 2, (5, 4))
    for weights in ({}, {"weight": each}):
        yield f"mse {weights.keys()}", partial(losses.mse_loss, target=yes, **weights), scores
        yield f"l1 {weights.keys()}", partial(losses.l1_loss, target=yes, **weights), scores
    yield "smooth l1", partial(losses.smooth_l1_loss, target=yes, beta=0.7), scores


CASES = {name: (f, x) for name, f, x in cases()}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_derivatives(name, reduction, tolerance):
    f, x = CASES[name]
    loss, d = f(x, reduction=reduction)
    assert d.shape == x.shape
    assert np.isfinite(loss).all()

    def total(x):
        return np.sum(f(x, reduction=reduction)[0])

    h, expected = 1e-3, np.empty_like(x)
    for i in np.ndindex(*x.shape):
        step = np.zeros_like(x)
        step[i] = h
        near, far = total(x + step) - total(x - step), total(x + 2 * step) - total(x - 2 * step)
        expected[i] = (8 * near - far) / (12 * h)
    assert np.abs(d - expected).max() < tolerance("float64", largest=np.abs(expected).max(), gradient=True)


@pytest.mark.parametrize("name", CASES)
def test_reductions_belong_together(name):
    f, x = CASES[name]
    each, d_each = f(x, reduction="none")
    total, d_total = f(x, reduction="sum")
    mean, d_mean = f(x)
    np.testing.assert_allclose(total, each.sum(), rtol=1e-14)
    np.testing.assert_array_equal(d_total, d_each)
    np.testing.assert_allclose(d_mean * (total / mean), d_total, rtol=1e-12)
    assert np.ndim(total) == np.ndim(mean) == 0


# -- types, and what is not read --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_float32_stays_float32(name, reduction):
    f, x = CASES[name]
    before = x.astype(np.float32)
    x = before.copy()
    loss, d = f(x, reduction=reduction)
    assert loss.dtype == d.dtype == np.float32
    np.testing.assert_array_equal(x, before)
    truth, d_truth = f(x.astype(np.float64), reduction=reduction)
    np.testing.assert_allclose(loss, truth, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(d, d_truth, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("given", "dtype"), [("float16", "float32"), ("int8", "float32"), ("int64", "float32")])
def test_other_numbers_are_cast(given, dtype):
    loss, d = losses.mse_loss(np.array([1, 2], given), [0, 0])
    assert loss.dtype == d.dtype == dtype


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("options", [{}, {"weight": [1.0, 2.0, 3.0]}])
def test_what_is_ignored_is_not_read(name, options):
    f = getattr(losses, name)
    x = np.random.default_rng(0).normal(size=(4, 3))
    loss, d = f(x, [0, -100, 2, -100], **options)
    broken = x.copy()
    broken[1], broken[3] = np.nan, np.inf
    again, d_again = f(broken, [0, -100, 2, -100], **options)
    assert loss == again == f(x[::2], [0, 2], **options)[0]
    np.testing.assert_array_equal(d_again, d)
    assert not d[1::2].any()
    each, _ = f(broken, [0, -100, 2, -100], reduction="none", **options)
    assert not each[1::2].any()


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_the_mean_of_nothing(name):
    f = getattr(losses, name)
    loss, d = f(np.ones((2, 3)), [-100, -100])
    assert np.isnan(loss)
    np.testing.assert_array_equal(d, np.zeros((2, 3)))
    assert f(np.ones((2, 3)), [-100, -100], reduction="sum")[0] == 0
    loss, d = f(np.ones((0, 3)), [])
    assert np.isnan(loss)
    assert d.shape == (0, 3)


@pytest.mark.parametrize("name", NAMES[2:])
def test_the_mean_of_no_elements(name):
    loss, d = getattr(losses, name)(np.ones((0, 3)), np.ones((0, 3)))
    assert np.isnan(loss)
    assert d.shape == (0, 3)


def test_infinite_logits():
    logits = [[-np.inf, 0.0, 0.0], [0.0, -np.inf, 0.0]]
    loss, d = losses.cross_entropy(logits, [1, 1], reduction="none")
    np.testing.assert_allclose(loss, [LN2, np.inf])
    np.testing.assert_allclose(d, [[0, -0.5, 0.5], [0.5, -1, 0.5]])
    assert np.isnan(losses.cross_entropy([[np.inf, 0.0]], [0])[0])
    assert np.isnan(losses.cross_entropy([[np.nan, 0.0]], [0])[0])


def test_nan_has_a_gradient_of_nan():
    for name in NAMES[2:]:
        loss, d = getattr(losses, name)([np.nan, 1.0], [0.0, 0.0])
        assert np.isnan(loss), name
        np.testing.assert_array_equal(np.isnan(d), [True, False], name)


def test_large_logits():
    loss, d = losses.cross_entropy(np.float32([[1e4, 0.0]]), [1])
    assert loss == 1e4
    np.testing.assert_array_equal(d, [[1, -1]])


def test_classes_of_any_integers():
    for dtype in ("uint8", "int16", "int64"):
        assert losses.cross_entropy([[0.0, 0.0]], np.array([1], dtype))[0] == LN2


# -- wrong input ------------------------------------------------------------------------------------------------------

X = np.zeros((3, 4))
WRONG = [
    ("cross_entropy", (X, [0, 1, 9]), {}, ValueError, "Target 9 is out of bounds"),
    ("cross_entropy", (X, [0, 1, -1]), {}, ValueError, "Target -1 is out of bounds"),
    ("cross_entropy", (X, [0, 1]), {}, ValueError, r"Expected input batch_size \(3\) to match target batch_size \(2\)"),
    ("cross_entropy", (X, 1), {}, ValueError, r"Expected input batch_size \(3\) to match target batch_size \(0\)"),
    ("cross_entropy", (np.zeros((3, 4, 5)), np.zeros((3, 6), int)), {}, ValueError, r"Expected target size \[3, 5\]"),
    ("cross_entropy", (X, [0.0, 1.0, 2.0]), {}, TypeError, "expected target dtype to be"),
    ("cross_entropy", (X, np.zeros((3, 4), int)), {}, TypeError, "Expected floating point type for target with class"),
    ("cross_entropy", (X, X), {"ignore_index": 1}, ValueError, "ignore_index is not supported for floating point"),
    ("cross_entropy", (X, [0, 1, 2]), {"weight": np.ones(3)}, ValueError, "weight tensor should be defined either for"),
    ("cross_entropy", (X, [0, 1, 2]), {"label_smoothing": 1.5}, ValueError, "label_smoothing must be between 0.0 and"),
    ("cross_entropy", (X, [0, 1, 2]), {"label_smoothing": np.nan}, ValueError, "label_smoothing must be between"),
    ("cross_entropy", (X, [0, 1, 2]), {"label_smoothing": "a"}, TypeError, "label_smoothing should be a real number"),
    ("cross_entropy", (X, [0, 1, 2]), {"ignore_index": 0.5}, TypeError, "ignore_index should be of type int"),
    ("cross_entropy", (1.0, 0), {}, ValueError, "prediction should have an axis of classes"),
    ("cross_entropy", (X, ["a", "b", "c"]), {}, TypeError, "target should be an array of real numbers"),
    ("nll_loss", (X, [0, 1, 9]), {}, ValueError, "Target 9 is out of bounds"),
    ("nll_loss", (X, X), {}, ValueError, "Expected target size"),
    ("nll_loss", (X, np.zeros(3)), {}, TypeError, "expected target dtype to be"),
    ("binary_cross_entropy_with_logits", (X, np.zeros(4)), {}, ValueError, r"Target size \(\(4,\)\) must be the same"),
    ("binary_cross_entropy_with_logits", (X, X), {"weight": np.ones(5)}, ValueError, "The size of weight"),
    ("binary_cross_entropy_with_logits", (X, X), {"pos_weight": np.ones((2, 3, 4))}, ValueError, "The size of pos_w"),
    ("mse_loss", (X, np.zeros((3, 1))), {}, ValueError, r"Using a target size \(\(3, 1\)\) that is different to the"),
    ("mse_loss", (X, X), {"weight": np.ones(4)}, ValueError, "Weights and input must have the same size"),
    ("l1_loss", (X, np.zeros(4)), {}, ValueError, "Using a target size"),
    ("smooth_l1_loss", (X, X), {"beta": -1}, ValueError, "smooth_l1_loss does not support negative values for beta"),
    ("smooth_l1_loss", (X, X), {"beta": None}, TypeError, "beta should be a real number"),
]


@pytest.mark.parametrize(("name", "args", "options", "error", "message"), WRONG)
def test_wrong_arguments(name, args, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        getattr(losses, name)(*args, **options)


@pytest.mark.parametrize("name", NAMES)
def test_wrong_reduction_and_prediction(name):
    f = getattr(losses, name)
    target = [0, 1, 2] if name in NAMES[:2] else X
    with pytest.raises(ValueError, match=r"^avg is not a valid value for reduction"):
        f(X, target, reduction="avg")
    with pytest.raises(TypeError, match=r"^prediction should be an array of real numbers"):
        f(X * 1j, target)
    with pytest.raises(TypeError, match=r"^prediction should be an array of real numbers"):
        f(None, target)
