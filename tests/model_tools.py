"""Finite differences of layers and models, for several test files."""

from __future__ import annotations

import numpy as np
from layer_tools import differences


def assert_gradients(layer, x, seed=0, **options):
    """Gradients in float64 against fourth-order finite differences, along each axis of small arrays.

    layer: of float64. x: an array of float64, or of integers. options: of the call.
    """
    rng = np.random.default_rng(seed)
    x = np.array(x)
    y, backward = layer.vjp(x, **options)
    np.testing.assert_array_equal(y, layer(x, **options))
    dy = rng.normal(size=y.shape)
    grads = backward(dy)
    arrays, found = dict(layer.parameters()), dict(grads.params)
    assert list(arrays) == list(found)
    if x.dtype.kind == "f":
        arrays["x"], found["x"] = x, grads.x
    else:
        assert grads.x is None

    def value():
        layer.parameters().changed()
        return float((layer(x, **options) * dy).sum()), ()

    for name, array in arrays.items():
        assert found[name].shape == array.shape, name
        directions = rng.normal(size=(4, *array.shape)) if array.size > 80 else np.eye(array.size)
        directions = directions.reshape(len(directions), *array.shape)
        numerical = differences(value, array, directions)
        exact = np.array([(found[name] * direction).sum() for direction in directions])
        np.testing.assert_allclose(exact, numerical, rtol=1e-8, atol=1e-9, err_msg=name)
