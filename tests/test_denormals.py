"""Denormal numbers: kernels take them as zero, nobody else notices, and results stay right.

That steps on decayed states take no longer than others is measured by asv_bench/benchmarks/denormals.py. Here it is
shown by what makes it so: with flushing, no state is ever denormal.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import threading
from functools import partial

import numpy as np
import pytest
from layer_tools import CELLS, arrays_in, assert_same_bits, gradients, make, normal_like

import fastrnn
from fastrnn import threads

H = 20


@pytest.fixture(autouse=True)
def _cython():
    with fastrnn.use_backend("cython"):
        yield
    fastrnn.set_flush_denormals(True)


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return request.param


def decaying(cell, dtype="float32", factor=0.5):
    """A layer whose state is multiplied by `factor` in each step, unless it is large; inputs do not count."""
    if cell.startswith("rnn"):
        layer = fastrnn.RNN(3, H, nonlinearity=cell[4:], dtype=dtype)
    elif cell == "gru":
        layer = fastrnn.GRU(3, H, dtype=dtype)
    else:
        layer = fastrnn.LSTM(3, H, proj_size=4 if cell == "lstm_proj" else 0, dtype=dtype)
    params = layer.parameters()
    for array in params.values():
        array[...] = 0
    logit = np.log(factor / (1 - factor))  # of the gate that keeps the state
    if cell.startswith("rnn"):
        params["weight_hh_l0"][...] = np.eye(H) * factor
    else:
        params["bias_hh_l0"][H : 2 * H] = logit  # f of LSTM, z of GRU
    if cell == "lstm_proj":
        params["weight_hr_l0"][...] = np.eye(4, H)
    params.changed()
    return layer


def call(layer, T, start):
    """All states of every step of three rows, (T+1, 3, ·) each; rows begin with `start`, half of it and zero."""
    x, rows = np.zeros((T, 3, 3)), np.array([[1.0], [0.5], [0.0]]) * start
    h_0 = np.broadcast_to(rows, (1, 3, getattr(layer, "proj_size", 0) or H))
    c_0 = np.broadcast_to(rows, (1, 3, H))
    y, end, states = layer(x, (h_0, c_0) if isinstance(layer, fastrnn.LSTM) else h_0, return_states=True)
    ends = end if isinstance(end, tuple) else (end,)
    for state, last in zip(states, ends, strict=False):
        np.testing.assert_array_equal(state[:, -1], last)
    np.testing.assert_array_equal(states.h[0, 1:], y)
    return [s[0] for s in states if s is not None]


def denormals(a):
    return int(((a != 0) & (np.abs(a) < np.finfo(a.dtype).tiny)).sum())


@pytest.mark.parametrize("cell", CELLS)
def test_decayed_states_are_zero(cell, dtype):
    """Never denormal on the way there; without flushing they are, for many steps."""
    tiny = np.finfo(dtype).tiny
    layer = decaying(cell, dtype)
    found = {}
    for flush in (True, False):
        fastrnn.set_flush_denormals(flush)
        states = call(layer, 100, tiny * 2.0**20)
        assert all(np.abs(state[15]).max() >= tiny for state in states)
        assert all((state[-1] == 0).all() for state in states)
        found[flush] = sum(denormals(state) for state in states)
    assert found[True] == 0
    assert found[False] > 100


def test_denormal_inputs_count_as_zero(dtype):
    tiny = np.finfo(dtype).tiny
    layer = decaying("rnn_relu", dtype)
    layer.weight_ih_l0 = np.full((H, 3), 8.0)
    for flush, expected in ((True, 0), (False, 6 * tiny)):
        fastrnn.set_flush_denormals(flush)
        assert (layer(np.full((1, 2, 3), tiny / 4, dtype))[0] == expected).all()


@pytest.mark.parametrize("cell", CELLS)
def test_flushing_changes_nothing_above_denormals(cell, dtype):
    tiny = np.finfo(dtype).tiny
    rng = np.random.default_rng(0)
    options = {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {"proj_size": 4} if cell == "lstm_proj" else {}
    kind = {"rnn": fastrnn.RNN, "lst": fastrnn.LSTM, "gru": fastrnn.GRU}[cell[:3]]
    normal = kind(3, H, num_layers=2, bidirectional=True, dtype=dtype, rng=0, **options)
    no_bias = kind(3, H, bias=False, dtype=dtype, rng=0, **options)
    x = rng.normal(size=(50, 4, 3))
    results = {}
    for flush in (True, False):
        fastrnn.set_flush_denormals(flush)
        results[flush] = normal(x)[0], no_bias(x * tiny)[0], call(decaying(cell, dtype), 100, tiny * 2.0**20)
    np.testing.assert_array_equal(results[True][0], results[False][0])
    # Each step may lose less than a few `tiny`; what it loses decays as the state does.
    assert denormals(results[False][1]) > 0
    assert np.abs(results[True][1] - results[False][1]).max() <= 3 * H * tiny
    for on, off in zip(results[True][2], results[False][2], strict=True):
        assert np.abs(on - off).max() <= 2 * tiny
        assert (on[np.abs(off) >= 4 * tiny] != 0).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("flush", [True, False])
def test_long_decay_stays_right(cell, flush):
    """4000 steps, in float32 through all of its range, beside float64."""
    fastrnn.set_flush_denormals(flush)
    T, tiny = 4000, float(np.finfo(np.float32).tiny)
    layer = decaying(cell, factor=0.97)
    got = call(layer, T, 0.01)
    with fastrnn.use_backend("reference"):
        truth = call(layer.astype("float64"), T, 0.01)
    for a, b in zip(got, truth, strict=True):
        assert b[-1].max() < tiny / 1000
        # a rounding or two per step, and what is lost below `tiny`: 33 = 1 / (1 - 0.97) steps' worth of it
        np.testing.assert_allclose(a, b, rtol=3 * T * np.finfo(np.float32).eps, atol=33 * tiny)
        assert not flush or denormals(a) == 0


def vanishing(cell, dtype):
    """A layer whose state's gradient is halved by each step on the way back, and shows in x's gradient at each."""
    layer = decaying(cell, dtype)
    params = layer.parameters()
    params["weight_ih_l0"][...] = 1
    if cell == "rnn_relu":
        params["bias_ih_l0"][...] = 1  # so that units are on
    if cell == "lstm_proj":
        params["bias_hh_l0"][3 * H :] = 9  # o is 1: d_h_n reaches c
    params.changed()
    return layer


def backward_of(layer, T, start, **options):
    """All gradients for three rows where the final state has the gradient `start`, half of it and zero."""
    shape = (1, 3, getattr(layer, "proj_size", 0) or H)
    rows = np.array([[1.0], [0.5], [0.0]]) * start
    d_state = np.broadcast_to(rows, shape)
    if isinstance(layer, fastrnn.LSTM):
        d_state = d_state, np.broadcast_to(rows, (1, 3, H))
    _, backward = layer.vjp(np.zeros((T, 3, 3)), **options)
    return arrays_in(backward(None, d_state, per_sample=True))


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 1}])
def test_vanished_gradients_are_zero(cell, options, dtype):
    """Never denormal on the way there, those of the weights included; without flushing they are, for many steps."""
    tiny = np.finfo(dtype).tiny
    layer = vanishing(cell, dtype)
    found = {}
    for flush in (True, False):
        fastrnn.set_flush_denormals(flush)
        grads = backward_of(layer, 200, tiny * 2.0**20, **options)
        assert np.abs(grads["x"][-1]).max() >= tiny
        assert not grads["x"][0].any()
        found[flush] = sum(denormals(a) for a in grads.values())
        assert keeps_denormals()
    assert found[True] == 0
    assert found[False] > 100


@pytest.mark.parametrize("cell", CELLS)
def test_flushing_changes_no_gradient_above_denormals(cell, dtype):
    rng = np.random.default_rng(0)
    layer = make(cell, 3, H, dtype, num_layers=2, bidirectional=True)
    x = rng.normal(size=(50, 4, 3))
    seeds, results = normal_like(rng, layer(x)), {}
    tiny = np.finfo(dtype).tiny
    for flush in (True, False):
        fastrnn.set_flush_denormals(flush)
        results[flush] = gradients(layer, x, None, seeds), backward_of(vanishing(cell, dtype), 200, tiny * 2.0**20)
    assert_same_bits(results[True][0], results[False][0])
    # Each step may lose less than a few `tiny` in each unit; what it loses is halved by the next one.
    for on, off in zip(*(results[flush][1].values() for flush in (True, False)), strict=True):
        assert np.abs(on - off).max() <= 8 * H * tiny


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("flush", [True, False])
def test_streams(cell, flush):
    fastrnn.set_flush_denormals(flush)
    layer = decaying(cell)
    stream = layer.stream()
    state = stream.state
    for array in state if isinstance(state, tuple) else (state,):
        array[...] = np.finfo(np.float32).tiny * 8
    stream.state = state
    seen = 0
    for turn in range(20):
        y = stream.step(np.zeros(3)) if turn % 2 else stream.process(np.zeros((1, 1, 3)))
        state = stream.state
        seen += sum(denormals(a) for a in (y, *(state if isinstance(state, tuple) else (state,))))
    assert (seen == 0) == flush


# ---- the processor's mode -------------------------------------------------------------------------------------------


def keeps_denormals():
    """Whether this thread's arithmetic takes denormals as they are, as operands and as results."""
    found = []
    for dtype in (np.float32, np.float64):
        tiny = np.full(33, np.finfo(dtype).tiny)
        found += [(tiny * dtype(0.25)).all(), (tiny * dtype(0.25) * dtype(16) == tiny * dtype(4)).all()]
    assert len({bool(f) for f in found}) == 1
    return bool(found[0])


def in_a_thread(task):
    result = []
    thread = threading.Thread(target=lambda: result.append(task()))
    thread.start()
    thread.join()
    return result[0]


@pytest.mark.parametrize("flush", [True, False])
@pytest.mark.parametrize("cell", CELLS)
def test_the_mode_is_put_back(cell, flush, dtype):
    assert keeps_denormals()
    fastrnn.set_flush_denormals(flush)
    layer = decaying(cell, dtype)
    call(layer, 5, 1.0)
    assert keeps_denormals()
    stream = layer.stream()
    stream.step(np.zeros(3))
    assert keeps_denormals()
    stream.process(np.zeros((2, 1, 3)))
    assert keeps_denormals()
    layer(np.zeros((0, 2, 3)))
    layer(np.zeros((2, 0, 3)))
    assert keeps_denormals()
    for T in (0, 5):
        backward_of(layer, T, 1.0)
        assert keeps_denormals()
    assert in_a_thread(lambda: (call(layer, 5, 1.0), keeps_denormals())[1])
    assert in_a_thread(lambda: (backward_of(layer, 5, 1.0), keeps_denormals())[1])


@pytest.mark.parametrize("N", [1, 24], ids=["units", "rows"])
def test_the_mode_of_other_threads_is_put_back(N, monkeypatch):
    monkeypatch.setattr(threads, "_limit", 2)
    monkeypatch.setattr(threads, "_pool", type(threads._pool)())
    layer, found = fastrnn.LSTM(150, 200, rng=0), {}

    def ask():
        found[threading.get_ident()] = keeps_denormals()
        meet.wait()  # so that each thread is asked

    for turn in range(3):
        (y, _), backward = layer.vjp(np.ones((30, N, 150), np.float32))
        if turn:
            backward(y)
        meet = threading.Barrier(2, timeout=60)
        with threads.team(2) as team:
            team.run([ask, ask])
    assert list(found.values()) == [True, True]


def test_the_mode_is_put_back_before_another_part_ends():
    """By each thread for itself."""
    from fastrnn.backends import cython

    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s).astype(np.float32) for s in ((4 * H, 3), (4 * H, H), (4 * H,), (4 * H,))]
    packed = cython.kernels(np.dtype("float32")).PackedWeights("lstm", *weights)
    zeros = partial(np.zeros, dtype=np.float32)
    for flush in (True, False):
        run = packed.run(zeros((9, 1, 3)), zeros((9, 1, H)), zeros((1, H)), zeros((1, H)), flush=flush, parts=2)
        found = []
        other = threading.Thread(target=lambda run=run, found=found: found.append((run(1), keeps_denormals())[1]))
        other.start()
        run(0)
        found.append(keeps_denormals())
        other.join()
        assert found == [True, True]


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64" or platform.libc_ver()[0] != "glibc",
    reason="sets the mode by glibc's functions on x86-64",
)
@pytest.mark.parametrize("flush", [True, False])
def test_a_mode_that_the_caller_has_set_is_kept(flush):
    """Put back, and not switched off: torch.set_flush_denormal(True) may be in force."""
    libm = ctypes.CDLL("libm.so.6")
    fastrnn.set_flush_denormals(flush)
    layer = decaying("lstm")

    def work():
        environment = (ctypes.c_uint32 * 8)()  # the last of it is MXCSR
        assert libm.fegetenv(environment) == 0
        environment[7] |= 0x8040  # FTZ, DAZ
        assert libm.fesetenv(environment) == 0
        before = keeps_denormals()
        call(layer, 5, 1.0)
        layer.stream().step(np.zeros(3))
        backward_of(layer, 5, 1.0)
        return before, keeps_denormals()

    assert in_a_thread(work) == (False, False)
    assert keeps_denormals()


@pytest.mark.parametrize("wrong", [1, 0.0, "yes", None])
def test_wrong_argument(wrong):
    fastrnn.set_flush_denormals(False)
    with pytest.raises(TypeError, match=f"flush should be of type bool, got: {type(wrong).__name__}"):
        fastrnn.set_flush_denormals(wrong)
    assert sum(denormals(a) for a in call(decaying("gru"), 50, float(np.finfo(np.float32).tiny))) > 0
