"""exp, sigmoid and tanh in compiled code, on numbers and on SIMD lanes; and what a caller's fast-math flags do to them.

The bounds are those of the compiled kernels, in `test_kernels_math.py`.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

import fastrnn
from fastrnn import jit

numba = pytest.importorskip("numba", reason="numba is not installed")
lanes = import_module("fastrnn.jit.lanes")
njit, address, load, reals, store = numba.njit, lanes.address, lanes.load, lanes.reals, lanes.store
exp, sigmoid, tanh = jit.exp, jit.sigmoid, jit.tanh

WIDER = {"float32": np.float64, "float64": np.longdouble}
#: Largest error in ULP that was seen: exp 1.0 (float32) and 1.0 (float64), sigmoid 2.4 and 2.4, tanh 3.0 and 3.0.
ULP = {"exp": 2, "sigmoid": 4, "tanh": 4}
#: Largest absolute error where the true result is below normal: of sigmoid and tanh, and, in ULP there, of exp.
SMALL = {"float32": 1.2e-38, "float64": 2.3e-308}
SMALL_EXP = 1.01


def on_numbers(function, **options):
    @njit(**options)
    def every(x, y):
        for i in range(len(x)):
            y[i] = function(x[i])

    return every


def on_lanes(function, **options):
    @njit(**options)
    def every(x, y, n):
        for i in range(0, len(x), n):
            store(reals(x, address(y)) + i, function(load(reals(x, address(x)) + i)))

    return every


FUNCTIONS = {"exp": exp, "sigmoid": sigmoid, "tanh": tanh}
NUMBERS = {name: on_numbers(function) for name, function in FUNCTIONS.items()}
LANES = {name: on_lanes(function) for name, function in FUNCTIONS.items()}


def applied(of, name, x):
    """`x` any array; lanes have to be filled."""
    y = np.full_like(x, 7)
    if of is NUMBERS:
        NUMBERS[name](x, y)
        return y
    n = lanes.BYTES // x.itemsize
    filled = np.concatenate([x, np.zeros(-len(x) % n, x.dtype)])
    y = np.full_like(filled, 7)
    LANES[name](filled, y, n)
    return y[: len(x)]


@pytest.fixture(scope="module", params=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module")
def sample(dtype):
    """All over the bit patterns, dense where the functions bend and where they under- or overflow, and the odd ones."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    if dtype == "float32":
        patterns = np.arange(0, 2**32, 2111, dtype=np.uint32).view(dtype)
    else:
        patterns = rng.integers(0, 2**64, 500_000, np.uint64, endpoint=False).view(dtype)
    low, high = float(np.log(info.smallest_subnormal)), float(np.log(info.max))
    ranges = [np.linspace(-a, a, 100_001) for a in (1e-3, 1, 25)]
    ranges += [np.linspace(low - 5, low / 2, 50_001), np.linspace(high - 1, high + 1, 50_001)]
    tiny = info.smallest_subnormal * np.array([1, 2, 3, 1000, 2**20], dtype)
    edges = np.array([0, np.inf, np.nan, info.tiny, info.max, info.eps, *tiny], dtype)
    return np.concatenate([patterns, *(r.astype(dtype) for r in ranges), edges, -edges])


def true(name, x):
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # invalid: signalling NaN
        x = x.astype(WIDER[str(x.dtype)])
        return {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}[name](x)


@pytest.mark.parametrize("of", [NUMBERS, LANES], ids=["numbers", "lanes"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error(name, of, dtype, sample):
    x, exact, y = sample, true(name, sample), applied(of, name, sample)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    assert np.isnan(x).any()
    info = np.finfo(dtype)
    with np.errstate(over="ignore"):
        infinite = np.isinf(exact.astype(dtype))
    np.testing.assert_array_equal(np.isinf(y) & ~np.isnan(x), infinite & (name == "exp"))
    kept = ~np.isnan(x) & ~infinite
    x, y, exact = x[kept], y[kept], exact[kept]
    assert np.all((y >= 0) | (name == "tanh"))
    assert np.all((np.abs(y) <= 1) | (name == "exp"))

    error = np.abs(exact - y)
    normal = np.abs(exact) >= info.tiny
    small = float(info.smallest_subnormal) * SMALL_EXP if name == "exp" else SMALL[dtype]
    assert error[~normal].max() <= small
    _, exponent = np.frexp(exact[normal])
    ulp = error[normal] / np.ldexp(WIDER[dtype](1), exponent - 1 - info.nmant)
    print(
        f"{name} {dtype}: {ulp.max():.2f} ULP at {x[normal][ulp.argmax()]!r}, below normal {error[~normal].max():.3g}"
    )
    # Where nothing wider than float64 exists, one more for the error of the truth itself.
    allowed = ULP[name] + (np.finfo(WIDER[dtype]).nmant == info.nmant)
    assert ulp.max() <= allowed, f"{ulp.max()} ULP at {x[normal][ulp.argmax()]!r}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_numbers_and_lanes_have_the_same_bits(name, sample):
    numbers, of_lanes = applied(NUMBERS, name, sample), applied(LANES, name, sample)
    there = ~np.isnan(sample)
    assert numbers[there].tobytes() == of_lanes[there].tobytes()


@pytest.mark.parametrize("of", [NUMBERS, LANES], ids=["numbers", "lanes"])
def test_special_values(of, dtype):
    x = np.array([0.0, -0.0, np.inf, -np.inf], dtype)
    for name, expected in {"exp": [1, 1, np.inf, 0], "sigmoid": [0.5, 0.5, 1, 0], "tanh": [0.0, -0.0, 1, -1]}.items():
        assert applied(of, name, x).tobytes() == np.array(expected, dtype).tobytes()


@pytest.mark.parametrize("of", [NUMBERS, LANES], ids=["numbers", "lanes"])
def test_exp_where_it_overflows_and_underflows(of, dtype):
    last = {"float32": 88.72283, "float64": 709.782712893384}[dtype]
    x = np.array([last, np.nextafter(np.array(last, dtype), np.inf, dtype=dtype), 710], dtype)
    np.testing.assert_array_equal(np.isinf(applied(of, "exp", x)), [False, True, True])
    x = np.array(
        {"float32": [-87.5, -95, -103, -104, -1e30], "float64": [-708.5, -730, -745, -746, -1e300]}[dtype], dtype
    )
    y = applied(of, "exp", x)
    info = np.finfo(dtype)
    assert np.all((y[:3] > 0) & (y[:3] < info.tiny))  # denormal
    assert not y[3:].any()
    np.testing.assert_allclose(
        y[:3] / info.smallest_subnormal, np.exp(x[:3].astype(float)) / float(info.smallest_subnormal), atol=1
    )


# ---- flags ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_callers_fast_math_does_not_get_in(name, dtype, sample):
    """Elements one by one, the same bits as without: flags would make sigmoid(NaN) of 0 and ruin exp."""
    fast = np.full_like(sample, 7)
    on_numbers(FUNCTIONS[name], fastmath=True)(sample, fast)
    strict = applied(NUMBERS, name, sample)
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(sample))
    there = ~np.isnan(sample)
    assert fast[there].tobytes() == strict[there].tobytes()


def walk(p, x, h, y):
    for t in range(len(x)):
        jit.gru_step(p, x[t], h)
        y[t] = h


@pytest.mark.parametrize("options", [{"fastmath": True}, {"error_model": "python", "boundscheck": True}])
def test_a_callers_options_do_not_change_steps(options):
    p, results = jit.pack(fastrnn.GRU(3, 20, rng=0)), []
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    for function in (njit(walk), njit(**options)(walk)):
        for odd in (0.5, np.nan, np.inf, -np.inf, 3e38):
            x[25, 1] = odd
            h, y = np.zeros(20, np.float32), np.empty((50, 20), np.float32)
            function(p, x, h, y)
            results.append(y)
    for strict, other in zip(results[:5], results[5:], strict=True):
        np.testing.assert_array_equal(strict, other)  # NaN is NaN, whatever its bits
    assert np.isnan(results[1][25:]).all()
    assert np.isfinite(results[1][:25]).all()
    assert np.isfinite(results[2]).any()


def test_integers_and_float32_numbers():
    @njit
    def of(x):
        return sigmoid(x), tanh(x), exp(x)

    assert of(0) == (0.5, 0.0, 1.0)
    assert of.nopython_signatures[0].return_type[0] == numba.float64
    assert of(np.float32(0)) == (0.5, 0.0, 1.0)
    assert of.nopython_signatures[1].return_type[0] == numba.float32
    with pytest.raises(numba.TypingError):
        of("x")


@njit
def chosen(x, y):
    for i in range(len(x)):
        y[i] = jit.select(x[i] < 1.0, jit.select(x[i] >= 0.0, x[i], 0.0), 2)


def test_select_on_numbers():
    x = np.array([-1, 0.5, 3, np.nan], np.float32)
    y = np.empty_like(x)
    chosen(x, y)
    np.testing.assert_array_equal(y, [0, 0.5, 2, 2])


def test_select_of_two_numbers_on_lanes(dtype):
    """What they are chosen for says how many there are."""
    x = np.array([-1, 0.5, 3, np.nan], dtype).repeat(16)
    y = np.empty_like(x)
    on_lanes(njit(lambda a: jit.select(a < 1.0, 0.5, 2)))(x, y, lanes.BYTES // x.itemsize)
    np.testing.assert_array_equal(y, np.array([0.5, 0.5, 2, 2], dtype).repeat(16))
