"""``fastrnn.jit`` as users' own compiled code calls it."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from typing import NamedTuple

import body_tools
import layer_tools
import numpy as np
import pytest
from layer_tools import Case, as_float64, assert_same_bits

import fastrnn
from fastrnn import jit

numba = pytest.importorskip("numba", reason="numba is not installed")
njit = numba.njit


@njit
def walk(p, x, states, y):
    for t in range(len(x)):
        jit.step(p, x[t], states)
        y[t] = states[0]


@njit
def walk_rnn(p, x, h, y):
    for t in range(len(x)):
        jit.rnn_step(p, x[t], h)
        y[t] = h


@njit
def walk_lstm(p, x, h, c, y):
    for t in range(len(x)):
        jit.lstm_step(p, x[t], h, c)
        y[t] = h


@njit
def walk_gru(p, x, h, y):
    for t in range(len(x)):
        jit.gru_step(p, x[t], h)
        y[t] = h


def steps(cell, p, x, states, y):
    walks = {"rnn": walk_rnn, "lstm": walk_lstm, "gru": walk_gru}
    if (named := walks.get(cell.partition("_")[0])) is None:
        walk(p, x, states, y)
    else:
        named(p, x, *states, y)


def sequence(cell, p, x, states, y):
    calls = {"rnn": jit.rnn_forward, "lstm": jit.lstm_forward, "gru": jit.gru_forward}
    if (named := calls.get(cell.partition("_")[0])) is None:
        jit.forward(p, x, states, y)
    else:
        named(p, x, *states, y)


def ran(how, case, index=None, name=None):
    """The layer's output and final states as `how`, `steps` or `sequence`, makes them of packed weights."""
    cell = name or case.name.split()[0]
    states = tuple(s[0, 0].copy() for s in layer_tools.parts_of(case.hx))
    x = np.ascontiguousarray(case.x[:, 0])
    y = np.full((len(x), len(states[0])), np.nan, x.dtype)
    how(cell, jit.pack(case.layer, index), x, states, y)
    return y, *states


def result(case, backend):
    with fastrnn.use_backend(backend):
        if backend == "reference":
            y, end = layer_tools.truth(case.layer, case.x, case.hx)
        else:
            y, end = case.call()
    return y[:, 0], *(s[0, 0] for s in layer_tools.parts_of(end))


#: Those whose results are compared to the bit with the numba backend's: it has to be compiled too.
COMPARED = [
    ("rnn_relu", "float64"),
    ("lstm", "float32"),
    ("lstm_proj", "float32"),
    ("gru", "float32"),
    ("peephole_lstm", "float32"),
]
OTHERS = [
    ("rnn_tanh", "float32"),
    ("gru", "float64"),
    ("independent_rnn", "float32"),
    ("integrator", "float32"),
    ("exponential_lstm", "float64"),
]
#: I, H: less than a register, whole ones, tails.
SIZES = [(1, 2), (3, 5), (16, 32), (7, 33)]


@pytest.mark.parametrize(("cell", "dtype"), COMPARED + OTHERS)
def test_steps(cell, dtype, assert_close):
    for i, (I, H) in enumerate(SIZES):
        with fastrnn.use_backend("reference"):  # compiles nothing
            case = Case(cell, 20, 1, I, H, dtype, seed=i, bias=i != 1)
        assert_close(ran(steps, case), result(case, "reference"), dtype)


@pytest.mark.parametrize(("cell", "dtype"), COMPARED)
def test_bits_are_those_of_the_numba_backend(cell, dtype):
    for i, (I, H) in enumerate(SIZES):
        case = Case(cell, 200, 1, I, H, dtype, seed=i, bias=i != 1)
        expected = result(case, "numba")
        assert_same_bits(ran(steps, case), expected, case.name)
        assert_same_bits(ran(sequence, case), expected, case.name)


def test_a_sequence_of_no_steps():
    case = Case("lstm", 1, 1, 3, 5)
    case.x = case.x[:0]
    y, h, c = ran(sequence, case)
    assert y.shape == (0, 5)
    assert_same_bits((h, c), tuple(s[0, 0] for s in case.hx))


@pytest.mark.parametrize("flush", [True, False])
def test_denormals_in_sequences(flush):
    """As in layers, by the setting when the layer was packed."""
    case = Case("rnn_relu", 20, 1, 3, 20, "float64")
    case.x[...], case.hx[...] = 1e-310, 0
    for bias in ("bias_ih_l0", "bias_hh_l0"):
        case.layer.parameters()[bias][:] = 0
    case.layer.parameters().changed()
    fastrnn.set_flush_denormals(flush)
    try:
        got, expected = ran(sequence, case), result(case, "numba")
    finally:
        fastrnn.set_flush_denormals(True)
    assert_same_bits(got, expected)
    assert got[0].any() != flush


def test_output_over_the_input():
    case = Case("lstm", 500, 1, 5, 5)
    p, x, h, c = jit.pack(case.layer), case.x[:, 0].copy(), *(s[0, 0].copy() for s in case.hx)
    jit.lstm_forward(p, x, h, c, x)
    assert_same_bits((x, h, c), ran(sequence, case))


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_cells(kind, assert_close):
    """``nn.RNNCell`` and the like are packed as layers are."""
    cell = getattr(fastrnn, f"{kind}Cell")(3, 5, rng=0)
    x, h = np.ones((1, 3), np.float32), np.linspace(-1, 1, 5, dtype=np.float32)
    states = (h, 2 * h)[: 1 + (kind == "LSTM")]
    with fastrnn.use_backend("reference"):
        expected = cell.astype("float64")(as_float64(x[0]), as_float64(states if kind == "LSTM" else h))
    steps(kind.lower(), jit.pack(cell), x, states, np.empty((1, 5), np.float32))
    assert_close(states, layer_tools.parts_of(expected), "float32")


@njit
def two_layers_both_ways(packs, x, h, y):
    """What a layer of a bidirectional network with two layers does, as users write it."""
    for layer in range(2):
        out = np.empty((len(x), 2 * h.shape[1]), x.dtype)
        for d in range(2):
            p, state = packs[2 * layer + d], h[2 * layer + d]
            for i in range(len(x)):
                t = len(x) - 1 - i if d else i
                jit.gru_step(p, x[t], state)
                out[t, d * len(state) : (d + 1) * len(state)] = state
        x = out
    y[:] = x


def test_layers_and_directions_by_index(assert_close):
    case = Case("gru", 20, 1, 3, 20, num_layers=2, bidirectional=True)
    packs = tuple(jit.pack(case.layer, i) for i in range(4))
    h, y = case.hx[:, 0].copy(), np.empty((20, 40), np.float32)
    two_layers_both_ways(packs, case.x[:, 0].copy(), h, y)
    expected, end = layer_tools.truth(case.layer, case.x, case.hx)
    assert_close((y, h), (expected[:, 0], end[:, 0]), "float32")


@njit
def count_steps(p, x, h, n):
    for _ in range(n):
        jit.gru_step(p, x, h)


@pytest.fixture
def allocations():
    """A function: how often compiled code has allocated memory."""
    counters, statistics = numba.core.runtime._nrt_python, numba.core.runtime.rtsys.get_allocation_stats
    there = counters.memsys_stats_enabled()
    counters.memsys_enable_stats()
    yield lambda: statistics().alloc
    if not there:
        counters.memsys_disable_stats()


def test_steps_allocate_nothing(allocations):
    p, x, h = jit.pack(fastrnn.GRU(3, 20, rng=0)), np.ones(3, np.float32), np.zeros(20, np.float32)
    count_steps(p, x, h, 1)
    counts = []
    for n in (10, 1000):
        before = allocations()
        count_steps(p, x, h, n)
        counts.append(allocations() - before)
    assert counts[0] == counts[1] > 0


# ---- packs ----------------------------------------------------------------------------------------------------------


def test_a_pack_is_a_copy():
    case = Case("gru", 20, 1, 3, 20)
    p, x = jit.pack(case.layer), case.x[:, 0].copy()
    results = []
    for _ in range(2):
        h, y = case.hx[0, 0].copy(), np.empty((20, 20), np.float32)
        walk_gru(p, x, h, y)
        results.append((y, h))
        case.layer.parameters()["weight_hh_l0"][:] = 0
        case.layer.parameters().changed()
    assert_same_bits(*results)
    assert np.abs(result(case, "reference")[0] - results[0][0]).max() > 0.01


class Robot(NamedTuple):
    """Of a user."""

    name: int
    brain: jit.Packed
    head: jit.PackedLinear


@njit
def lives(robots, x, h, out):
    for robot in robots:
        jit.gru_step(robot.brain, x, h)
        jit.linear(robot.head, h, out)


def test_packs_outlive_their_layers_inside_tuples():
    def robot(seed):
        layer = fastrnn.GRU(3, 20, rng=seed)
        return Robot(seed, jit.pack(layer), jit.pack_linear(np.eye(2, 20, dtype=np.float32)))

    robots = robot(0), robot(1)
    gc.collect()
    np.full(1 << 20, np.nan)  # what is free is written over
    x, h, out = np.ones(3, np.float32), np.zeros(20, np.float32), np.zeros(2, np.float32)
    lives(robots, x, h, out)
    expected = np.zeros((1, 20), np.float32)
    with fastrnn.use_backend("reference"):
        for seed in (0, 1):
            expected = fastrnn.GRU(3, 20, rng=seed)(x[None], expected)[1]
    np.testing.assert_allclose(h, expected[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out, h[:2])


@njit(nogil=True)
def walk_often(p, x, h, y, n):
    for _ in range(n):
        h[:] = 0
        walk_gru(p, x, h, y)


def test_threads_with_a_pack_each():
    layer = fastrnn.GRU(3, 20, rng=0)
    xs = np.random.default_rng(0).normal(size=(4, 50, 3)).astype(np.float32)
    alone, together = np.empty((4, 50, 20), np.float32), np.empty((4, 50, 20), np.float32)

    def work(i, out, n):
        walk_often(jit.pack(layer), xs[i], np.zeros(20, np.float32), out[i], n)

    for i in range(4):
        work(i, alone, 1)
    threads = [threading.Thread(target=work, args=(i, together, 200)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same_bits(together, alone)


def packs():
    layer = fastrnn.GRU(3, 20, rng=0)
    return jit.pack(layer), jit.pack(layer, gradients=True), jit.pack_linear(np.ones((2, 3)))


@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickle.dumps])
def test_packs_are_not_copied(how):
    for p in packs():
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            how(p)


def test_packs_are_arguments_and_nothing_else():
    """As a global, addresses would be compiled in, and come to life in another process out of Numba's cache."""
    p = jit.pack(fastrnn.GRU(3, 20, rng=0))

    @njit
    def of_a_global(x, h):
        jit.gru_step(p, x, h)

    @njit
    def returned(p):
        return p

    with pytest.raises(numba.TypingError, match="should be an argument of compiled functions, got: a global"):
        of_a_global(np.ones(3, np.float32), np.zeros(20, np.float32))
    with pytest.raises(numba.TypingError, match="cannot be returned from compiled functions"):
        returned(p)


# ---- gradients ------------------------------------------------------------------------------------------------------


BACKWARD = {"rnn": jit.rnn_backward, "lstm": jit.lstm_backward, "gru": jit.gru_backward}


@pytest.mark.parametrize(
    ("cell", "dtype", "options"), [("lstm_proj", "float32", {}), ("peephole_lstm", "float32", {"bias": False})]
)
def test_gradients(cell, dtype, options, assert_close):
    named = BACKWARD.get(cell.partition("_")[0])
    for T, I, H in ((300, 3, 20), (1, 5, 33)):
        case = Case(cell, T, 1, I, H, dtype, **options)
        p = jit.pack(case.layer, gradients=True)
        x, states = case.x[:, 0].copy(), tuple(s[0, 0].copy() for s in layer_tools.parts_of(case.hx))
        before = x.copy(), *(s.copy() for s in states)
        dy, d_end = case.seeds[0][:, 0].copy(), [s[0, 0] for s in layer_tools.parts_of(case.seeds[1])]
        found = []
        for _ in range(2):
            d_states, dx = tuple(s.copy() for s in d_end), np.full_like(x, np.nan)
            if named:
                named(p, x, *states, dy, *d_states, dx)
            else:
                jit.backward(p, x, states, dy, d_states, dx)
            weights = {f"{name}_l0": g.copy() for name, g in p.gradients._asdict().items() if g is not None}
            found.append((dx, d_states, weights))
        (dx, d_states, weights), (dx_again, d_states_again, twice) = found
        assert_same_bits((x, *states), before)
        assert_same_bits((dx, d_states), (dx_again, d_states_again))

        expected = layer_tools.true_gradients(case.layer, case.x, case.hx, case.seeds)
        hx = tuple(s[0, 0] for s in layer_tools.parts_of(expected.hx))
        assert list(weights) == list(case.layer.state_dict())
        assert_close((dx, d_states, weights), (expected.x[:, 0], hx, expected.params), dtype, gradient=True)
        doubled = {name: 2 * g for name, g in expected.params.items()}
        assert_close(twice, doubled, dtype, gradient=True)
        with fastrnn.use_backend("numba"):
            same = case.gradients()
        assert_same_bits((dx, d_states), (same.x[:, 0], tuple(s[0, 0] for s in layer_tools.parts_of(same.hx))))
        assert_same_bits(tuple(weights.values()), tuple(same.params.values()))


@njit
def descend(p, weights, x, h_0, y, target, dx, d_h, rate):
    """A step of gradient descent: the gradients have the shapes of torch's weights."""
    d_h[:] = 0
    jit.gru_backward(p, x, h_0, 2 * (y - target), d_h, dx)
    weights[0][:] -= rate * p.gradients.weight_ih
    weights[1][:] -= rate * p.gradients.weight_hh
    weights[2][:] -= rate * p.gradients.bias_ih
    weights[3][:] -= rate * p.gradients.bias_hh


def test_gradients_inside_users_functions(assert_close):
    case, losses = Case("gru", 150, 1, 3, 20, "float64"), []
    x, h_0, target = case.x[:, 0].copy(), case.hx[0, 0].copy(), np.full((150, 20), 0.5)
    for _ in range(5):
        y, dx, d_h = case.call()[0][:, 0].copy(), np.empty_like(x), np.empty_like(h_0)
        losses.append(((y - target) ** 2).sum())
        seeds = 2 * (y - target)[:, None], np.zeros((1, 1, 20))
        expected = layer_tools.true_gradients(case.layer, case.x, case.hx, seeds)
        p = jit.pack(case.layer, gradients=True)
        descend(p, tuple(case.layer.parameters().values()), x, h_0, y, target, dx, d_h, 1e-3)
        case.layer.parameters().changed()
        assert_close((dx, d_h), (expected.x[:, 0], expected.hx[0, 0]), "float64", gradient=True)
        assert_close(p.gradients, tuple(expected.params.values()), "float64", gradient=True)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]


# ---- linear ---------------------------------------------------------------------------------------------------------


@njit
def heads(p, x, y):
    for t in range(len(x)):
        jit.linear(p, x[t], y[t])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear(dtype, assert_close):
    rng = np.random.default_rng(0)
    for O, I in ((1, 1), (2, 20), (64, 33), (70, 100)):
        w, b, x = (rng.normal(size=shape).astype(dtype) for shape in ((O, I), O, (5, I)))
        for bias in (None, b):
            y = np.full((5, O), np.nan, dtype)
            heads(jit.pack_linear(w, bias), x, y)
            truth = as_float64(x) @ as_float64(w).T + (0.0 if bias is None else as_float64(b))
            assert_close(y, truth, dtype)


def test_linear_packs_what_can_be_made_an_array():
    y = np.empty(2, np.float32)
    jit.linear(jit.pack_linear([[1, 2], [3, 4]], [1, 0]), np.ones(2, np.float32), y)
    np.testing.assert_array_equal(y, [4, 7])


# ---- wrong arguments ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None,), TypeError, "layer should be a recurrent layer or cell of fastrnn, got: NoneType"),
        ((fastrnn.GRU,), TypeError, "layer should be a recurrent layer or cell of fastrnn, got: type"),
        ((fastrnn.GRU(2, 3, 2),), ValueError, "index should say which of 2 layers and directions of GRU.*got: None"),
        ((fastrnn.GRU(2, 3, 2), 2), ValueError, "index should be in 0..1, got: 2"),
        ((fastrnn.GRU(2, 3), -1), ValueError, "index should be in 0..0, got: -1"),
        ((fastrnn.GRU(2, 3), "0"), TypeError, "index should be of type int, got: str"),
    ],
)
def test_wrong_arguments_of_pack(arguments, error, words):
    with pytest.raises(error, match=words):
        jit.pack(*arguments)


def test_wrong_gradients_of_pack():
    with pytest.raises(TypeError, match="gradients should be of type bool, got: int"):
        jit.pack(fastrnn.GRU(2, 3), gradients=1)
    with pytest.raises(TypeError):
        jit.pack(fastrnn.GRU(2, 3), 0, True)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.ones(3),), ValueError, r"weight should have shape \(O, I\), got: \(3,\)"),
        ((np.ones((2, 3)), np.ones(3)), ValueError, r"bias should have shape \(2,\), got: \(3,\)"),
        ((np.ones((2, 3), complex),), TypeError, "weight should be an array of real numbers, got: complex128"),
        ((np.ones((2, 3)), "b"), TypeError, "bias should be an array of real numbers"),
    ],
)
def test_wrong_arguments_of_pack_linear(arguments, error, words):
    with pytest.raises(error, match=words):
        jit.pack_linear(*arguments)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


P, P_GRADIENTS, P_LINEAR = packs()
X, H, Y, DX = (np.ones(shape, np.float32) for shape in ((4, 3), 20, (4, 20), (4, 3)))
ARRAY = "an array of float32 with {} axes"


@pytest.mark.parametrize(
    ("function", "arguments", "words"),
    [
        ("gru_step", (None, X[0], H), "p should be what fastrnn.jit.pack returns, got: none"),
        ("gru_step", ((1, 2), X[0], H), "p should be what fastrnn.jit.pack returns"),
        ("gru_step", (P_LINEAR, X[0], H), "p should be what fastrnn.jit.pack returns, got: PackedLinear"),
        ("lstm_step", (P, X[0], H, H), "p should be packed from LSTM, got: gru"),
        ("rnn_forward", (P, X, H, Y), "p should be packed from RNN, got: gru"),
        ("gru_step", (P, X[0].astype(float), H), f"x should be {ARRAY.format(1)}, got: .*float64"),
        ("gru_step", (P, X, H), f"x should be {ARRAY.format(1)}, got: .*2d"),
        ("gru_step", (P, (1.0, 2.0, 3.0), H), f"x should be {ARRAY.format(1)}, got: UniTuple"),
        ("gru_step", (P, 1.0, H), f"x should be {ARRAY.format(1)}, got: float64"),
        ("gru_step", (P, X[0], H.astype(float)), f"h should be {ARRAY.format(1)}, got: .*float64"),
        ("gru_step", (P, X[0], read_only(H)), "h should not be read-only"),
        ("step", (P, X[0], H), "states should be a tuple of 1 arrays, got: array"),
        ("step", (P, X[0], (H, H)), "states should be a tuple of 1 arrays, got: UniTuple"),
        ("gru_forward", (P, X[0], H, Y), f"x should be {ARRAY.format(2)}, got: .*1d"),
        ("gru_forward", (P, X, H, Y.astype(float)), f"y should be {ARRAY.format(2)}, got: .*float64"),
        ("gru_forward", (P, X, H, read_only(Y)), "y should not be read-only"),
        ("gru_backward", (P, X, H, Y, H, DX), r"p should be what fastrnn.jit.pack\(layer, gradients=True\) returns"),
        ("gru_backward", (P_GRADIENTS, X, H, Y[0], H, DX), f"dy should be {ARRAY.format(2)}"),
        ("gru_backward", (P_GRADIENTS, X, H, Y, Y, DX), f"dh should be {ARRAY.format(1)}, got: .*2d"),
        ("gru_backward", (P_GRADIENTS, X, H, Y, read_only(H), DX), "dh should not be read-only"),
        ("gru_backward", (P_GRADIENTS, X, H, Y, H, read_only(DX)), "dx should not be read-only"),
        ("backward", (P_GRADIENTS, X, (H,), Y, H, DX), "d_states should be a tuple of 1 arrays, got: array"),
        ("linear", (P, X[0], H), "p should be what fastrnn.jit.pack_linear returns, got: Packed"),
        ("linear", (P_LINEAR, X[0], H), r"x should be an array of float64 with 1 axes, got: array\(float32"),
        (
            "linear",
            (P_LINEAR, X[0].astype(float), H),
            r"y should be an array of float64 with 1 axes, got: array\(float32",
        ),
    ],
)
def test_wrong_types(function, arguments, words):
    """Found while users' functions are compiled."""
    called = getattr(jit, function)

    @njit
    def users(arguments):
        called(*arguments)

    for call in (lambda: called(*arguments), lambda: users(arguments)):
        with pytest.raises(numba.TypingError, match=words):
            call()


def test_a_users_cell_does_not_pass_for_one_of_torch():
    p = jit.pack(fastrnn.Recurrent(fastrnn.Cell(body_tools.minimal_gated_unit, 2, name="gru"), 3, 20))
    with pytest.raises(numba.TypingError, match="p should be packed from GRU, got: gru of a user"):
        jit.gru_step(p, X[0], H)


@pytest.mark.parametrize(
    ("function", "shapes", "words"),
    [
        ("lstm_step", (4, 5, 20), "x should have as many elements as the layer has input features"),
        ("lstm_step", (3, 20, 20), "h should have as many elements as the layer's output has features"),
        ("lstm_step", (3, 5, 5), "states besides h should have as many elements as the layer has hidden units"),
        ("lstm_forward", ((4, 2), 5, 20, (4, 5)), "x should have as many columns as the layer has input features"),
        ("lstm_forward", ((4, 3), 6, 20, (4, 5)), "h should have as many elements as the layer's output has features"),
        ("lstm_forward", ((4, 3), 5, 19, (4, 5)), "states besides h should have as many elements"),
        ("lstm_forward", ((4, 3), 5, 20, (3, 5)), r"y \(or dy\) should have a row for each step"),
        ("lstm_forward", ((4, 3), 5, 20, (4, 20)), "should have .* as many columns as the layer's output"),
        ("lstm_backward", ((4, 2), 5, 20, (4, 5), 5, 20, (4, 3)), "x should have as many columns"),
        ("lstm_backward", ((4, 3), 20, 20, (4, 5), 5, 20, (4, 3)), "h should have as many elements"),
        ("lstm_backward", ((4, 3), 5, 5, (4, 5), 5, 20, (4, 3)), "states besides h should have as many elements"),
        ("lstm_backward", ((4, 3), 5, 20, (5, 5), 5, 20, (4, 3)), r"y \(or dy\) should have a row for each step"),
        ("lstm_backward", ((4, 3), 5, 20, (4, 5), 20, 20, (4, 3)), "dh should have as many elements as h"),
        ("lstm_backward", ((4, 3), 5, 20, (4, 5), 5, 5, (4, 3)), "states besides h should have as many elements"),
        ("lstm_backward", ((4, 3), 5, 20, (4, 5), 5, 20, (5, 3)), "dx should have the shape of x"),
        ("lstm_backward", ((4, 3), 5, 20, (4, 5), 5, 20, (4, 2)), "dx should have the shape of x"),
    ],
)
def test_wrong_sizes(function, shapes, words):
    """Found while users' functions run, before anything is written."""
    p = jit.pack(fastrnn.LSTM(3, 20, proj_size=5, rng=0), gradients=function == "lstm_backward")
    arrays = [np.full(shape, 0.5, np.float32) for shape in shapes]
    with pytest.raises(ValueError, match=words):
        getattr(jit, function)(p, *arrays)
    assert all(np.all(a == 0.5) for a in arrays)
    assert function != "lstm_backward" or not any(g.any() for g in p.gradients if g is not None)


def test_rows_and_parts_of_arrays():
    """What is contiguous in its last axis will do: rows that a loop yields, columns of a wider array."""
    layer = fastrnn.GRU(3, 20, rng=0)
    p, (y, h_n) = jit.pack(layer), layer(X)

    @njit
    def over_rows(p, x, h):
        for x_t in x:
            jit.gru_step(p, x_t, h)

    wide, out = np.zeros((len(X), 7), np.float32), np.full((len(X), 30), 7, np.float32)
    wide[:, 2:5] = X
    for x in (X, wide[:, 2:5]):
        h = np.zeros(20, np.float32)
        over_rows(p, x, h)
        np.testing.assert_allclose(h, h_n[0], atol=1e-6)
    h = np.zeros((2, 20), np.float32)
    jit.gru_forward(p, wide[:, 2:5], h[1], out[:, 4:24])
    np.testing.assert_allclose(out[:, 4:24], y, atol=1e-6)
    assert not h[0].any()
    assert np.all(out[:, :4] == 7)
    assert np.all(out[:, 24:] == 7)


def test_states_of_unlike_layouts():
    """One contiguous, one a part of something, one read-only: Numba has a type for each."""
    layer = fastrnn.LSTM(3, 20, rng=0)
    p, (_, (h_n, c_n)) = jit.pack(layer, gradients=True), layer(X)
    h, c = np.zeros(20, np.float32), np.zeros((20, 2), np.float32, order="F")[:, 1]
    jit.lstm_forward(p, X, h, c, np.empty((4, 20), np.float32))
    np.testing.assert_allclose([h, c], [h_n[0], c_n[0]], atol=1e-6)
    h, c = np.zeros(20, np.float32), np.zeros((3, 20), np.float32)[::2][1]
    for x in X:
        jit.lstm_step(p, x, h, c)
    np.testing.assert_allclose([h, c], [h_n[0], c_n[0]], atol=1e-6)
    zeros = np.zeros(20, np.float32)
    zeros.flags.writeable = False
    dy, dx, dh, dc = (np.ones(shape, np.float32) for shape in ((4, 20), (4, 3), 20, 20))
    jit.lstm_backward(p, X, zeros, np.zeros(20, np.float32), dy, dh, dc, dx)
    (_, _), backward = layer.vjp(X)
    expected = backward(dy, (np.ones((1, 20)), np.ones((1, 20))))
    np.testing.assert_allclose(dx, expected.x, atol=1e-5)


def test_gradients_of_both_biases_are_added_to():
    """An LSTM has one gradient for the two; what stood in either array stays, and need not be the same."""
    layer = fastrnn.LSTM(3, 20, rng=0)
    p, zeros = jit.pack(layer, gradients=True), np.zeros(20, np.float32)
    dy, dx = np.ones((4, 20), np.float32), np.empty((4, 3), np.float32)

    def run():
        jit.lstm_backward(p, X, zeros, zeros, dy, zeros.copy(), zeros.copy(), dx)

    run()
    once = p.gradients.bias_ih.copy()
    assert np.array_equal(p.gradients.bias_hh, once)
    p.gradients.bias_ih[:], p.gradients.bias_hh[:] = 0, 5
    run()
    np.testing.assert_array_equal(p.gradients.bias_ih, once)
    np.testing.assert_array_equal(p.gradients.bias_hh, 5 + once)


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("gru_step", (X[:3, 0], H)),
        ("gru_step", (X[0], np.zeros(40, np.float32)[::2])),
        ("gru_forward", (X[:, ::-1], H, Y)),
        ("gru_forward", (np.asfortranarray(X), H, Y)),
        ("gru_forward", (X, H, np.asfortranarray(Y))),
    ],
)
def test_strides_that_will_not_do(function, arguments):
    with pytest.raises(ValueError, match="arrays should be contiguous in their last axis"):
        getattr(jit, function)(P, *arguments)


def test_wrong_sizes_of_linear():
    p, y = jit.pack_linear(np.ones((2, 3), np.float32)), np.zeros(2, np.float32)
    for x, out in ((np.ones(2, np.float32), y), (np.ones(3, np.float32), np.zeros(3, np.float32))):
        with pytest.raises(ValueError, match="x and y should have as many elements as the weight has columns and rows"):
            jit.linear(p, x, out)
        assert not out.any()
