"""Sigmoid, tanh and relu of the kernels as built and installed; `test_simd.py` builds its own from the same header."""

from __future__ import annotations

from functools import cache
from importlib import import_module

import numpy as np
import pytest

from fastrnn.backends.cython import instruction_sets

WIDER = {"float32": np.float64, "float64": np.longdouble}
#: Largest absolute error where the true result is below normal.
SMALL = {"float32": 1.2e-38, "float64": 2.3e-308}


@pytest.fixture(params=instruction_sets())
def isa(request):
    return request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


def applied(function, isa, values):
    result = values.copy()
    import_module(f"fastrnn._kernels_f{8 * values.itemsize}_{isa}").apply(function, result)
    return result


@cache
def sample(dtype):
    """All over the bit patterns, dense where the functions bend and where sigmoid underflows, and the odd ones."""
    info = np.finfo(dtype)
    bits = np.arange(2**16, dtype=np.uint64) * np.uint64(2**48) + np.uint64(0x9E3779B97F4A)
    patterns = (bits >> np.uint64(64 - info.bits)).astype(f"uint{info.bits}").view(dtype)
    low = float(np.log(info.smallest_subnormal))
    ranges = [np.linspace(-a, a, 20_001) for a in (1e-3, 1, 25)] + [np.linspace(low - 5, low / 2, 20_001)]
    tiny = info.smallest_subnormal * np.array([1, 2, 3, 1000, 2**20], dtype)
    edges = np.array([0, np.inf, np.nan, info.tiny, info.max, info.eps, *tiny], dtype)
    return np.concatenate([patterns, *(r.astype(dtype) for r in ranges), edges, -edges])


@cache
def truth(function, dtype):
    with np.errstate(over="ignore", invalid="ignore"):  # invalid: signalling NaN
        x = sample(dtype).astype(WIDER[dtype])
        return np.tanh(x) if function == "tanh" else 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_error(function, isa, dtype):
    x, exact = sample(dtype), truth(function, dtype)
    y = applied(function, isa, x)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    assert np.isnan(x).any()
    x, y, exact = (a[~np.isnan(x)] for a in (x, y, exact))
    assert np.all((np.abs(y) <= 1) & ((y >= 0) | (function == "tanh")))

    info = np.finfo(dtype)
    error = np.abs(exact - y)
    normal = np.abs(exact) >= info.tiny
    assert error[~normal].max() <= SMALL[dtype]
    _, exponent = np.frexp(exact[normal])
    ulp = error[normal] / np.ldexp(WIDER[dtype](1), exponent - 1 - info.nmant)
    # Where nothing wider than float64 exists, one more for the error of the truth itself.
    allowed = 4 if np.finfo(WIDER[dtype]).nmant > info.nmant else 5
    assert ulp.max() <= allowed, f"{ulp.max()} ULP at {x[normal][ulp.argmax()]!r}"


def test_relu(isa, dtype):
    x = sample(dtype)
    y = applied("relu", isa, x)
    expected = np.where(x < 0, np.zeros((), dtype), x)  # NaN stays NaN and -0.0 stays -0.0
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y), np.signbit(expected))


@pytest.mark.parametrize("function", ["sigmoid", "tanh"])
def test_special_values(function, isa, dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf], dtype)
    expected = np.array([0.5, 0.5, 1, 0] if function == "sigmoid" else [0.0, -0.0, 1, -1], dtype)
    assert applied(function, isa, x).tobytes() == expected.tobytes()


@pytest.mark.parametrize("function", ["sigmoid", "tanh", "relu"])
def test_any_length(function, isa, dtype):
    """Whatever the number of elements and the alignment, the same bits, and no other element is touched."""
    x = np.linspace(-8, 8, 73).astype(dtype)
    whole = applied(function, isa, x)
    assert not np.any(whole[:36] == x[:36])
    module = import_module(f"fastrnn._kernels_f{8 * x.itemsize}_{isa}")
    for n in range(68):
        for start in (0, 1, 5):
            part = x.copy()
            module.apply(function, part[start : start + n])
            expected = np.concatenate([x[:start], whole[start : start + n], x[start + n :]])
            np.testing.assert_array_equal(part, expected)
