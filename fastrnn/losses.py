"""Losses with torch's names, arguments and reductions: each gives the loss and its gradient.

>>> import numpy as np
>>> from fastrnn import losses
>>> loss, d_prediction = losses.mse_loss([1.0, 2.0, 3.0], [1.0, 0.0, 0.0])
>>> float(loss), d_prediction
(4.333333333333333, array([0.        , 1.33333333, 2.        ]))

A prediction in float32 or float64 is computed with as it is; other real numbers are cast to float32. The loss is a
number of the same type, or with ``reduction="none"`` an array; the gradient has the prediction's shape, and is then
that of the array's sum: times the gradient of what is made of the array, it is that of the whole. A mean over nothing
is NaN, as in torch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import validate

__all__ = [
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "smooth_l1_loss",
]

Array = NDArray[Any]


def cross_entropy(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> tuple[Any, Array]:
    """Cross entropy of logits and classes, or of logits and probabilities of classes.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html.

    Parameters
    ----------
    prediction : (N, C), (N, C, d1, ...) or (C,)
        Logits; C classes.
    target : int (N,), (N, d1, ...) or (); or of the prediction's shape
        Classes; or the probabilities of classes.
    weight : (C,), optional
        Of each class; 1 where not given.
    ignore_index : int
        Elements of this class count for nothing: what is predicted there is not read, and its gradient is 0. Not with
        probabilities.
    reduction : {"mean", "sum", "none"}
        With classes, the mean is weighted: the sum over the sum of the weights of the elements' classes. With
        probabilities it is the sum over the number of elements, as in torch.
    label_smoothing : float
        From 0 to 1: how much of the target is spread over all classes.

    Returns
    -------
    loss : number, or array of the shape of the classes
    d_prediction : array of the prediction's shape

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, a class that is none of 0 to C - 1, or a wrong option.

    Examples
    --------
    >>> loss, d_logits = cross_entropy([[0.0, 0.0], [0.0, 0.0]], [1, -100])
    >>> float(loss), d_logits
    (0.6931471805599453, array([[ 0.5, -0.5],
           [ 0. ,  0. ]]))
    """
    x, axis = _scores(prediction)
    w = _class_weights(weight, x, axis)
    smoothing = _smoothing(label_smoothing)
    _check_reduction(reduction)
    given = _as_array("target", target)
    if given.shape == x.shape:
        t = _probabilities(given, x, ignore_index)
        return _against_probabilities(x, axis, t, w, smoothing, reduction)
    classes, kept = _classes(given, x, axis, ignore_index)
    return _against_classes(x, axis, classes, kept, w, smoothing, reduction)


def _against_probabilities(
    x: Array, axis: int, t: Array, w: Array | None, smoothing: float, reduction: str
) -> tuple[Any, Array]:
    q = t if not smoothing else t * (1 - smoothing) + smoothing / x.shape[axis]
    q = q if w is None else q * w
    with np.errstate(all="ignore"):
        log_p = _log_softmax(x, axis)
        losses = -(q * log_p).sum(axis)
        d = np.exp(log_p) * q.sum(axis, keepdims=True) - q
        return _reduced(losses, d, reduction, losses.size)


def _against_classes(
    x: Array, axis: int, classes: Array, kept: Array, w: Array | None, smoothing: float, reduction: str
) -> tuple[Any, Array]:
    at = np.expand_dims(classes, axis)
    of_class = _weight_of(classes, w, x)
    share = np.expand_dims(of_class * x.dtype.type(1 - smoothing), axis)
    with np.errstate(all="ignore"):
        log_p = _log_softmax(x, axis)
        d = np.exp(log_p)
        losses = -share * np.take_along_axis(log_p, at, axis)
        if smoothing:
            of_all = np.ones((x.shape[axis], *at.shape[axis + 1 :]), x.dtype) if w is None else w
            spread = of_all * x.dtype.type(smoothing / x.shape[axis])
            losses -= (spread * log_p).sum(axis, keepdims=True)
            d *= share + spread.sum(0)
            d -= spread
        else:
            d *= share
        np.put_along_axis(d, at, np.take_along_axis(d, at, axis) - share, axis)
        losses = np.where(kept, losses.squeeze(axis), x.dtype.type(0))
        loss, d = _reduced(losses, d, reduction, of_class[kept].sum())
    # Last: whatever stands where nothing is to be learnt, NaN included, comes to nothing.
    np.copyto(d, 0, where=~np.expand_dims(kept, axis))
    return loss, d


def nll_loss(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> tuple[Any, Array]:
    """Negative log-likelihood, of log-probabilities and classes.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html.

    Parameters
    ----------
    prediction : (N, C), (N, C, d1, ...) or (C,)
        Logarithms of the probabilities of C classes.
    target : int (N,), (N, d1, ...) or ()
        Classes.
    weight, ignore_index, reduction
        As of `cross_entropy`.

    Returns
    -------
    loss : number, or array of the target's shape
    d_prediction : array of the prediction's shape

    Raises
    ------
    ValueError, TypeError
        As of `cross_entropy`.

    Examples
    --------
    >>> import fastrnn
    >>> loss, d = fastrnn.losses.nll_loss([[-0.5, -1.0], [-2.0, -0.1]], [0, 1])
    >>> round(float(loss), 3)
    0.3
    >>> d
    array([[-0.5,  0. ],
           [ 0. , -0.5]])
    """
    x, axis = _scores(prediction)
    w = _class_weights(weight, x, axis)
    _check_reduction(reduction)
    classes, kept = _classes(_as_array("target", target), x, axis, ignore_index)
    at, of_class = np.expand_dims(classes, axis), _weight_of(classes, w, x)
    with np.errstate(all="ignore"):
        losses = np.where(kept, -of_class * np.take_along_axis(x, at, axis).squeeze(axis), x.dtype.type(0))
        loss, d_class = _reduced(losses, np.where(kept, -of_class, x.dtype.type(0)), reduction, of_class[kept].sum())
    d = np.zeros_like(x)
    np.put_along_axis(d, at, np.expand_dims(np.where(kept, d_class, 0), axis), axis)
    return loss, d


def binary_cross_entropy_with_logits(
    prediction: ArrayLike,
    target: ArrayLike,
    *,
    weight: ArrayLike | None = None,
    reduction: str = "mean",
    pos_weight: ArrayLike | None = None,
) -> tuple[Any, Array]:
    """Cross entropy of logits and probabilities of yes or no, element by element.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html.

    Parameters
    ----------
    prediction : array of any shape
        Logits.
    target : array of the prediction's shape
        Probabilities, most often 0 and 1.
    weight : array, optional
        Of each element; broadcast to the prediction's shape.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements, whatever their weights.
    pos_weight : array, optional
        How much more a yes counts than a no; broadcast to the prediction's shape.

    Returns
    -------
    loss : number, or array of the prediction's shape
    d_prediction : array of the prediction's shape

    Raises
    ------
    ValueError, TypeError
        Shapes that do not fit, arrays that are not of real numbers, or a wrong option.

    Examples
    --------
    >>> import fastrnn
    >>> loss, d = fastrnn.losses.binary_cross_entropy_with_logits([2.0, -1.0], [1, 0])
    >>> round(float(loss), 3), d.round(3)
    (0.22, array([-0.06 ,  0.134]))
    """
    x = validate.floating("prediction", prediction)
    t = validate.real_array("target", target, x.dtype)
    if t.shape != x.shape:
        raise ValueError(f"Target size ({t.shape}) must be the same as input size ({x.shape})")
    w, positive = _broadcast("weight", weight, x), _broadcast("pos_weight", pos_weight, x)
    _check_reduction(reduction)
    with np.errstate(all="ignore"):
        small = np.exp(-np.abs(x))  # exp of nothing large
        surprise = np.log1p(small) + np.maximum(-x, 0)  # -log sigmoid(x)
        no = np.where(x < 0, 1, small) / (1 + small)  # 1 - sigmoid(x)
        share = 1 if positive is None else 1 + (positive - 1) * t
        losses = (1 - t) * x + share * surprise
        d = (1 - t) - share * no
        if w is not None:
            losses, d = losses * w, d * w
        return _reduced(losses, d, reduction, x.size)


def mse_loss(
    prediction: ArrayLike, target: ArrayLike, *, reduction: str = "mean", weight: ArrayLike | None = None
) -> tuple[Any, Array]:
    """Squared error, element by element.

    See https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.mse_loss.html.

    Parameters
    ----------
    prediction, target : arrays of one shape
        The shapes are not broadcast: where they differ, it is hardly ever on purpose.
    reduction : {"mean", "sum", "none"}
        The mean is the sum over the sum of the weights.
    weight : array of the same shape, optional
        Of each element; 1 where not given.

    Returns
    -------
    loss : number, or array of the prediction's shape
    d_prediction : array of the prediction's shape

    Raises
    ------
    ValueError, TypeError
        Shapes that differ, arrays that are not of real numbers, or a wrong option.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.losses.mse_loss([1.0, 2.0], [1.0, 4.0])
    (np.float64(2.0), array([ 0., -2.]))
    """
    with np.errstate(all="ignore"):
        z, w = _difference(prediction, target, weight)
        return _weighted(z * z, 2 * z, w, reduction)


def l1_loss(
    prediction: ArrayLike, target: ArrayLike, *, reduction: str = "mean", weight: ArrayLike | None = None
) -> tuple[Any, Array]:
    """Absolute error, element by element; its gradient is 0 where there is no error, and NaN (in torch 0) at NaN.

    See https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.l1_loss.html.

    Parameters
    ----------
    prediction, target, reduction, weight
        As of `mse_loss`.

    Returns
    -------
    loss : number, or array of the prediction's shape
    d_prediction : array of the prediction's shape

    Raises
    ------
    ValueError, TypeError
        As of `mse_loss`.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.losses.l1_loss([1.0, 2.0], [1.0, 4.0])
    (np.float64(1.0), array([ 0. , -0.5]))
    """
    with np.errstate(all="ignore"):
        z, w = _difference(prediction, target, weight)
        return _weighted(np.abs(z), np.sign(z), w, reduction)


def smooth_l1_loss(
    prediction: ArrayLike, target: ArrayLike, *, reduction: str = "mean", beta: float = 1.0
) -> tuple[Any, Array]:
    """Absolute error less beta / 2, and where it is below `beta` half the squared error over `beta`.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.nn.SmoothL1Loss.html.

    Parameters
    ----------
    prediction, target : arrays of one shape
    reduction : {"mean", "sum", "none"}
    beta : float
        At least 0; with 0 it is `l1_loss`.

    Returns
    -------
    loss : number, or array of the prediction's shape
    d_prediction : array of the prediction's shape

    Raises
    ------
    ValueError, TypeError
        As of `mse_loss`; or `beta` is negative.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.losses.smooth_l1_loss([1.0, 2.0], [1.5, 4.0])
    (np.float64(0.8125), array([-0.25, -0.5 ]))
    """
    beta = validate.real("beta", beta)
    if not beta >= 0:
        raise ValueError(f"smooth_l1_loss does not support negative values for beta. Got: {beta}")
    if beta == 0:
        return l1_loss(prediction, target, reduction=reduction)
    with np.errstate(all="ignore"):
        z, _ = _difference(prediction, target, None)
        size = np.abs(z)
        losses = np.where(size < beta, 0.5 * z * z / beta, size - 0.5 * beta)
        return _weighted(losses, np.where(size < beta, z / beta, np.sign(z)), None, reduction)


def _check_reduction(reduction: Any) -> None:
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{reduction} is not a valid value for reduction: 'mean', 'sum' or 'none'")


def _reduced(losses: Array, d: Array, reduction: str, n: Any) -> tuple[Any, Array]:
    """The loss, and the gradient of it where `d` is that of the sum; n: what a mean divides by."""
    if reduction == "none":
        return losses, d
    total = losses.sum(dtype=d.dtype)
    if reduction == "sum":
        return total, d
    n = d.dtype.type(n)
    return total / n, d / n


def _difference(prediction: ArrayLike, target: ArrayLike, weight: ArrayLike | None) -> tuple[Array, Array | None]:
    """prediction - target, and the weights."""
    x = validate.floating("prediction", prediction)
    t = validate.real_array("target", target, x.dtype)
    if t.shape != x.shape:
        raise ValueError(
            f"Using a target size ({t.shape}) that is different to the input size ({x.shape}). This would be "
            "broadcast; please ensure they have the same size."
        )
    w = None if weight is None else validate.real_array("weight", weight, x.dtype)
    if w is not None and w.shape != x.shape:
        raise ValueError(f"Weights and input must have the same size. Got: {w.shape} and {x.shape}")
    return x - t, w


def _weighted(losses: Array, d: Array, w: Array | None, reduction: str) -> tuple[Any, Array]:
    _check_reduction(reduction)
    if w is None:
        return _reduced(losses, d, reduction, losses.size)
    return _reduced(losses * w, d * w, reduction, w.sum())


def _broadcast(name: str, value: ArrayLike | None, x: Array) -> Array | None:
    if value is None:
        return None
    w = validate.real_array(name, value, x.dtype)
    try:
        np.broadcast_to(w, x.shape)
    except ValueError:
        raise ValueError(
            f"The size of {name} {w.shape} must match the size of prediction {x.shape}, or be such that it can be "
            "broadcast to it"
        ) from None
    return w


def _as_array(name: str, value: ArrayLike) -> Array:
    a = np.asarray(value)
    if a.dtype.kind in "OSUMmc":
        raise TypeError(f"{name} should be an array of real numbers, got: {type(value).__name__} of dtype {a.dtype}")
    return a


def _scores(prediction: ArrayLike) -> tuple[Array, int]:
    """What is predicted for each class, and the axis of the classes."""
    x = validate.floating("prediction", prediction)
    if x.ndim == 0:
        raise ValueError("prediction should have an axis of classes: (C,), (N, C) or (N, C, d1, ...), got: a number")
    return x, min(x.ndim - 1, 1)


def _class_weights(weight: ArrayLike | None, x: Array, axis: int) -> Array | None:
    """(C, 1, ...): as long from its own axis on as `x` is from the axis of the classes on."""
    if weight is None:
        return None
    w = validate.real_array("weight", weight, x.dtype)
    if w.shape != (x.shape[axis],):
        raise ValueError(
            f"weight tensor should be defined either for all {x.shape[axis]} classes or no classes but got weight "
            f"tensor of shape: {list(w.shape)}"
        )
    return w.reshape(-1, *(1 for _ in x.shape[axis + 1 :]))


def _smoothing(value: Any) -> float:
    if not 0 <= validate.real("label_smoothing", value) <= 1:
        raise ValueError(f"label_smoothing must be between 0.0 and 1.0. Got: {value}")
    return float(value)


def _probabilities(target: Array, x: Array, ignore_index: Any) -> Array:
    if target.dtype.kind in "iub" and target.size:
        raise TypeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
    if validate.integer("ignore_index", ignore_index) >= 0:
        raise ValueError(f"ignore_index is not supported for floating point target. Got: {ignore_index}")
    return validate.real_array("target", target, x.dtype)


def _classes(target: Array, x: Array, axis: int, ignore_index: Any) -> tuple[Array, Array]:
    """The classes, 0 where they are ignored, and where they are not."""
    ignored = validate.integer("ignore_index", ignore_index)
    expected = (*x.shape[:axis], *x.shape[axis + 1 :])
    if target.shape != expected:
        if x.ndim > 1 and target.shape[:1] != x.shape[:1]:
            got = target.shape[0] if target.ndim else 0
            raise ValueError(f"Expected input batch_size ({x.shape[0]}) to match target batch_size ({got}).")
        raise ValueError(f"Expected target size {list(expected)}, got {list(target.shape)}")
    if target.dtype.kind not in "iu" and target.size:
        raise TypeError(f"expected target dtype to be that of integers, the classes, but got {target.dtype}")
    kept = np.asarray(target != ignored)
    classes = np.where(kept, target, 0).astype(np.intp)
    wrong = classes[(classes < 0) | (classes >= x.shape[axis])]
    if wrong.size:
        raise ValueError(f"Target {wrong[0]} is out of bounds: there are {x.shape[axis]} classes")
    return classes, kept


def _weight_of(classes: Array, w: Array | None, x: Array) -> Array:
    """Of each element, that of its class."""
    return np.ones(classes.shape, x.dtype) if w is None else np.asarray(w.reshape(-1)[classes])


def _log_softmax(x: Array, axis: int) -> Array:
    z: Array = x - x.max(axis, keepdims=True, initial=-np.inf)
    z -= np.log(np.exp(z).sum(axis, keepdims=True))
    return z
