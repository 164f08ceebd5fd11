"""Plain loops in place of SIMD lanes; `test_plain.py` runs these where they are chosen, compiled and as Python."""

from __future__ import annotations

import sys

import layer_tools
import numba
import numpy as np
import pytest
from layer_tools import Case, arrays_in, assert_same_bits, truth

import fastrnn
from fastrnn import elementary
from fastrnn.jit import choice
from fastrnn.vjp import WRT

COMPILED = not numba.config.DISABLE_JIT
CELLS = (*layer_tools.CELLS, *layer_tools.USERS)
if COMPILED:  # takes seconds for each: those that differ in what arrays there are
    COMBINATIONS = [("lstm_proj", "float32"), ("gru", "float32"), ("independent_rnn", "float64")]
else:
    COMBINATIONS = [("gru", "float32"), *((cell, "float64") for cell in CELLS)]


@pytest.fixture(autouse=True)
def numba_backend():
    with fastrnn.use_backend("numba"):
        yield


def test_they_are_chosen():
    assert not choice.LANES
    assert choice.engine.__name__ == "fastrnn.jit.plain"
    assert not {"fastrnn.jit.lanes", "fastrnn.jit.gates"} & {*sys.modules}
    with pytest.raises(
        fastrnn.BackendError, match=r"fastrnn\.jit\.pack cannot run here: (FASTRNN_LANES|NUMBA_DISABLE_JIT) is"
    ):
        fastrnn.jit.pack  # noqa: B018


CASES = (
    (7, 1, 3, 5, {}),
    (7, 3, 1, 9, {"ragged": True}),
    (9, 2, 6, 2, {"resets": 0.3, "bias": False}),
    (7, 4, 3, 4, {"ragged": True, "resets": 0.3, "bidirectional": True, "num_layers": 2}),
    (150, 3, 2, 2, {"ragged": [150, 130, 20], "resets": 0.05, "bidirectional": True}),
)


@pytest.mark.parametrize(("cell", "dtype"), COMBINATIONS)
def test_every_option(cell, dtype, disagreement):
    wrong = []
    for seed, (T, N, I, H, options) in enumerate(CASES):
        case = Case(cell, T, N, I, H, dtype, seed, **options)
        expected = truth(case.layer, case.x, case.hx, **case.options, return_states=True)
        got = case.layer(case.x, case.hx, **case.options, return_states=True)
        wrong += [disagreement(got, expected, dtype), case.problem(disagreement)]
    assert not any(wrong), "\n".join(wrong)


@pytest.mark.parametrize(("cell", "dtype"), COMBINATIONS)
def test_ways_to_the_same_gradients(cell, dtype):
    """What is not wanted is left out, what is not given is zeros; sequences may be cut, rows are rows of their own."""
    case = Case(cell, 150, 3, 2, 3, dtype, bidirectional=True, ragged=[150, 140, 0])
    backward = case.vjp()[1]
    whole = backward(*case.seeds)
    assert_same_bits(case.vjp(checkpoint_every=128)[1](*case.seeds), whole)
    zeros = np.zeros_like(case.seeds[0])
    got, expected = (arrays_in(backward(given, case.seeds[1])) for given in (None, zeros))
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    for wrt in ("x", "hx", "params"):
        assert_same_bits(case.vjp(wrt=wrt)[1](*case.seeds), whole._replace(**dict.fromkeys({*WRT} - {wrt})))
    rows = backward(*case.seeds, per_sample=True)
    assert_same_bits(rows.x, whole.x)
    total = {name: values.sum(0) for name, values in rows.params.items()}
    for name, values in whole.params.items():
        np.testing.assert_allclose(total[name], values, rtol=1e-4, atol=1e-4)


EXACT = {"exp": np.exp, "sigmoid": lambda a: 1 / (1 + np.exp(-a)), "tanh": np.tanh}


@pytest.mark.skipif(not COMPILED, reason="the functions are then NumPy's")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", EXACT)
def test_functions(name, dtype):
    """At most 4 ULP where the result is normal, NaN for NaN, and no other type."""
    function = getattr(elementary, name)

    @numba.njit
    def apply(a, to):
        for i in range(len(a)):
            to[i] = function(a[i])

    info = np.finfo(dtype)
    x = np.concatenate([np.linspace(-end, end, 20_001) for end in (1e-3, 1, 25, -np.log(info.smallest_subnormal))])
    x = np.concatenate([x, [0.0, -0.0, np.inf, -np.inf, np.nan, info.tiny, info.max, -info.max]]).astype(dtype)
    y = np.empty_like(x)
    apply(x, y)
    with np.errstate(all="ignore"):
        exact = EXACT[name](x.astype(np.longdouble))
        error, ulp = np.abs(y - exact), np.spacing(np.abs(exact).astype(dtype))
    np.testing.assert_array_equal(np.isnan(y), np.isnan(x))
    normal = (np.abs(exact) >= info.tiny) & (np.abs(exact) < info.max)
    assert (error / ulp)[normal].max() <= 4
    assert error[np.abs(exact) < info.tiny].max(initial=0) <= 1.1 * info.tiny
    odd = np.isinf(x) | (x == 0)
    assert y[odd].tobytes() == exact[odd].astype(dtype).tobytes()  # -0.0 too


@pytest.mark.skipif(not COMPILED, reason="the functions are then NumPy's")
def test_numbers_keep_their_type():
    """Not widened by literals, which are float64 in compiled code."""

    @numba.njit
    def results(a, b):
        first = elementary.select(a > 0, a, b), elementary.zero_like(a), elementary.exp(a)
        return *first, elementary.sigmoid(a), elementary.tanh(a), elementary.select(a > 0, 1, 2)

    for a, b in ((np.float32(1), 0.0), (np.float32(1), 0), (1.0, 0)):
        got = results(a, b)
        assert got[:2] == (a, 0)
        assert results(-a, b)[:2] == (b, 0)
        assert got[-1] == 1
        types = results.nopython_signatures[-1].return_type
        assert {*types} == {numba.typeof(a), numba.typeof(1)}
    assert elementary.sigmoid(0) == numba.njit(lambda: elementary.sigmoid(0))() == 0.5
