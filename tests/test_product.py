"""Products with a matrix: against exact sums, on every build of the kernels, with the same bits in any batch."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

import fastrnn
from fastrnn import product
from fastrnn.backends import cython
from fastrnn.backends.cython import instruction_sets

SIZES = [(1, 1, 1), (3, 5, 7), (2, 300, 130), (30, 33, 64), (200, 64, 65), (513, 17, 9)]  # rows M, K, O


@pytest.fixture(params=[*instruction_sets(), None])
def kernels(request, monkeypatch):
    """Each build, and none: NumPy's product."""
    if request.param is None:
        monkeypatch.setattr(product, "_kernels", lambda dtype: None)
    else:
        cython.kernels.cache_clear()
        monkeypatch.setattr(cython, "ISA", request.param)
    yield request.param
    cython.kernels.cache_clear()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def integers(rng, *shape, dtype):
    """Products and sums of these are exact, in whatever order."""
    return rng.integers(-8, 9, shape).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_exact(kernels, size, dtype, rng):
    M, K, O = size
    x, w, b, g = (integers(rng, *s, dtype=dtype) for s in ((M, K), (O, K), (O,), (M, O)))
    np.testing.assert_array_equal(product.Matrix(w, b)(x), x @ w.T + b)
    np.testing.assert_array_equal(product.Matrix(w)(x), x @ w.T)
    np.testing.assert_array_equal(product.Matrix(w, transposed=True)(g), g @ w)
    np.testing.assert_array_equal(product.sum_outer(g, x), g.T @ x)
    assert product.Matrix(w, b)(x).dtype == product.sum_outer(g, x).dtype == dtype


def test_any_layout(kernels, rng):
    x, w, b = (integers(rng, *s, dtype="float32") for s in ((6, 5, 40), (70, 20), (140,)))
    w, b = np.asfortranarray(w), b[::2]
    for view in (x[:, :, ::2], x[::2, ::-1, :20], x.swapaxes(0, 1)[..., 3:23], x[0, 0, :20], x[:0, :, :20]):
        y = product.Matrix(w, b)(view)
        np.testing.assert_array_equal(y, view @ w.T + b)
        np.testing.assert_array_equal(product.sum_outer(y, view), y.reshape(-1, 70).T @ view.reshape(-1, 20))


def test_the_matrix_is_copied(kernels, rng):
    w, b, x = (integers(rng, *s, dtype="float32") for s in ((5, 4), (5,), (3, 4)))
    matrices = [product.Matrix(w, b), product.Matrix(w.T.copy(), transposed=True)]
    before = [m(x) for m in matrices]
    w[:] = b[:] = 0
    for m, y in zip(matrices, before, strict=True):
        np.testing.assert_array_equal(m(x), y)


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_same_bits(n_threads, rng):
    """Whatever the batch, and however many threads."""
    x, w, b = (rng.standard_normal(s).astype("float32") for s in ((700, 150), (300, 150), (300,)))
    m = product.Matrix(w, b)
    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(1)
    y, sums = m(x), product.sum_outer(m(x), x)
    try:
        fastrnn.set_num_threads(n_threads)
        np.testing.assert_array_equal(m(x), y)
        np.testing.assert_array_equal(np.concatenate([m(x[:1]), m(x[1:7]), m(x[7:])]), y)
        np.testing.assert_array_equal(product.sum_outer(y, x), sums)
    finally:
        fastrnn.set_num_threads(before)


def test_nan_and_infinity_travel(kernels):
    x = np.array([[np.nan, 1], [np.inf, 1], [1, 2]], "float32")
    y = product.Matrix(np.array([[1, 0], [0, 1]], "float32"))(x)
    np.testing.assert_array_equal(np.isnan(y), [[True, True], [False, True], [False, False]])
    assert y[1, 0] == np.inf


def test_rounding(kernels, rng):
    """No more than that of sums of 128 terms."""
    x, w = (rng.standard_normal(s).astype("float32") for s in ((20, 2000), (70, 2000)))
    exact = x.astype("float64") @ w.T.astype("float64")
    scale = np.abs(x).astype("float64") @ np.abs(w.T).astype("float64")
    for y in (product.Matrix(w)(x), product.sum_outer(np.asfortranarray(x.T), w.T.copy())):
        error = np.abs(y - exact) / scale
        assert error.max() < 128 * np.finfo("float32").eps / 4


def test_many_calls_at_the_same_time(rng):
    from concurrent.futures import ThreadPoolExecutor

    x, w = (rng.standard_normal(s) for s in ((300, 64), (200, 64)))
    m = product.Matrix(w)
    with ThreadPoolExecutor(4) as pool:
        found = [f.result() for f in [pool.submit(partial(m, x)) for _ in range(20)]]
    assert all(np.array_equal(y, found[0]) for y in found)
