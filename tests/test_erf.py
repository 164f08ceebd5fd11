"""The error function, held to math.erf."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastrnn.layers.erf import erf


def points():
    rng = np.random.default_rng(0)
    nodes = np.arange(-450, 451) / 128  # the nodes of the table, and the points in between
    return np.concatenate(
        [
            np.linspace(-7, 7, 200_001),
            rng.normal(size=20_000),
            10 ** rng.uniform(-37, 1, 20_000),
            -(10 ** rng.uniform(-6, 0, 20_000)),
            nodes,
            np.nextafter(nodes, 9),
            np.nextafter(nodes, -9),
        ]
    )


@pytest.mark.parametrize(("dtype", "ulp"), [(np.float32, 2.5), (np.float64, 2.5)])
def test_units_in_the_last_place(dtype, ulp):
    x = points().astype(dtype)
    truth = np.array([math.erf(value) for value in x])
    got = erf(x)
    assert got.dtype == dtype
    error = np.abs(got.astype(np.float64) - truth) / np.spacing(np.abs(truth.astype(dtype)))
    assert error.max() <= ulp


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_odd_values(dtype):
    x = np.array([0.0, -0.0, 1e30, -np.inf, np.inf, np.nan], dtype)
    got = erf(x)
    np.testing.assert_array_equal(got, [0, 0, 1, -1, 1, np.nan])
    assert np.signbit(got).tolist()[:2] == [False, True]
    assert erf(np.zeros((3, 0), dtype)).shape == (3, 0)
    assert erf(np.array(0.5, dtype)).shape == ()
