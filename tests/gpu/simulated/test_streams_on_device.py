"""Streams of layers on a GPU against those on the CPU, in Numba's simulator."""

from __future__ import annotations

import numpy as np
import pytest
from device_tools import KINDS, Fake, Twins, nested
from layer_tools import USERS

CASES = [
    ("rnn_tanh", {}),
    ("lstm", {"num_layers": 2, "dtype": "float64"}),
    ("lstm_proj", {"num_layers": 2, "batch_first": True}),
    ("gru", {"N": 1}),
    *((cell, {}) for cell in USERS),
]


def close(got, expected):
    for a, b in zip(nested(np.asarray, got), nested(np.asarray, expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("cell", "options"), CASES)
def test_steps_chunks_resets_and_states(cell, options, kind):
    twins = Twins(cell, **options)
    N = options.get("N", 3)
    cpu, gpu = (layer.train().stream(N) for layer in (twins.cpu, twins.gpu))
    steps = twins.x.swapaxes(0, 1) if options.get("batch_first") else twins.x

    def same(a, b):
        close((kind.take(a),), (b,))

    def same_state():
        states = kind.take(gpu.state), cpu.state
        close(*(s if isinstance(s, tuple) else (s,) for s in states))

    assert gpu.batch_size == N
    for x in steps:
        same(gpu.step(kind.give(x)), cpu.step(x))
    same_state()
    same(gpu.process(kind.give(twins.x)), cpu.process(twins.x))
    mask = np.arange(N) % 2 == 0
    for given in (mask, kind.give(mask), mask.tolist()):
        cpu.reset(mask)
        gpu.reset(given)
        same(gpu.step(kind.give(steps[0])), cpu.step(steps[0]))
    same_state()
    cpu.state = twins.hx
    hx = nested(np.copy, twins.hx)
    gpu.state = kind.give(hx)
    for array in hx if isinstance(hx, tuple) else (hx,):
        array[...] = 7  # no longer the stream's
    same(
        gpu.process(kind.give(twins.x[:, :0] if options.get("batch_first") else twins.x[:0])),
        cpu.process(twins.x[:, :0] if options.get("batch_first") else twins.x[:0]),
    )
    same_state()
    cpu.reset()
    gpu.reset()
    same_state()
    out = np.full((N, *cpu.step(steps[0]).shape[1:]), np.nan, twins.cpu.dtype)
    given = kind.give(out)
    assert gpu.step(kind.give(steps[0]), out=given) is given
    cpu.reset()
    close((out,), (cpu.step(steps[0]),))


def test_one_row_without_its_axis(kind):
    twins = Twins("lstm", N=None)
    cpu, gpu = twins.cpu.stream(), twins.gpu.stream()
    for x in twins.x:
        close((kind.take(gpu.step(kind.give(x))),), (cpu.step(x),))
        close((kind.take(gpu.step(kind.give(x[None]))),), (cpu.step(x[None]),))
    close((kind.take(gpu.process(kind.give(twins.x))),), (cpu.process(twins.x),))


def test_arrays_of_both_kinds_in_turn():
    twins = Twins("lstm")
    cpu, gpu = twins.cpu.stream(3), twins.gpu.stream(3)
    assert type(gpu.state[0]) is np.ndarray
    for i, x in enumerate(twins.x):
        kind = KINDS[i % 2]
        close((kind.take(gpu.step(kind.give(x))),), (cpu.step(x),))
        close(kind.take(gpu.state), cpu.state)


def test_states_read_are_copies(kind):
    twins = Twins("gru")
    stream = twins.gpu.stream(3)
    stream.step(kind.give(twins.x[0]))
    state = stream.state
    before = np.asarray(state).copy()
    stream.step(kind.give(twins.x[1]))
    np.testing.assert_array_equal(np.asarray(state), before)
    (state if kind is KINDS[0] else state._array.pointer)[...] = 3
    assert not np.array_equal(np.asarray(stream.state), np.asarray(state))


def test_it_keeps_the_weights_that_it_was_made_with():
    twins = Twins("gru")
    stream, expected = twins.gpu.stream(3), twins.gpu(twins.x)[0]
    twins.gpu.reset_parameters(5)
    close((stream.process(twins.x),), (expected,))


def test_streams_of_another_device_stay_there():
    twins = Twins("gru")
    stream, expected = twins.gpu.stream(3), twins.gpu(twins.x)[0]
    twins.gpu.to("cpu")
    close((stream.process(twins.x),), (expected,))


WRONG = [
    (lambda s: s.step(np.zeros((3, 2))), ValueError, "x_t should have shape"),
    (lambda s: s.step(Fake(np.zeros((2, 3), "f4"))), ValueError, "x_t should have shape"),
    (lambda s: s.step(Fake(np.zeros((3, 3)))), TypeError, "x_t should have dtype float32, got: float64"),
    (lambda s: s.step(np.zeros((3, 3)), out=np.zeros((3, 4))), TypeError, "out should have dtype"),
    (
        lambda s: s.step(Fake(np.zeros((3, 3), "f4")), out=np.zeros((3, 4), "f4")),
        TypeError,
        "out should be an array on",
    ),
    (lambda s: s.step(np.zeros((3, 3)), out=Fake(np.zeros((3, 4), "f4"))), TypeError, "out should be a NumPy array"),
    (lambda s: s.process(Fake(np.zeros((3, 3), "f4"))), ValueError, "chunk should be 3D"),
    (lambda s: s.process(Fake(np.zeros((2, 3, 5), "f4"))), ValueError, "chunk should have a batch of 3"),
    (lambda s: s.reset(Fake(np.zeros(3, "f4"))), TypeError, "mask should have dtype bool"),
    (lambda s: s.reset(Fake(np.zeros(2, bool))), ValueError, "mask should have shape"),
    (lambda s: s.reset([1, 0, 1]), TypeError, "mask"),
    (lambda s: setattr(s, "state", Fake(np.zeros((1, 3, 4), "f4"))), TypeError, r"state should be a pair \(h, c\)"),
    (lambda s: setattr(s, "state", (Fake(np.zeros((1, 3, 4), "f4")), np.zeros((1, 3, 4)))), TypeError, r"state\[1\]"),
    (lambda s: setattr(s, "state", (Fake(np.zeros((1, 3, 4), "f4")),) * 1), TypeError, "state should be a pair"),
    (lambda s: setattr(s, "state", (np.ones((1, 3, 4)), np.zeros((1, 3, 5)))), ValueError, r"state\[1\] should have"),
]


@pytest.mark.parametrize(("call", "error", "words"), WRONG)
def test_wrong_input_changes_nothing(call, error, words):
    twins = Twins("lstm")
    stream = twins.gpu.stream(3)
    stream.step(Fake(twins.x[0]))
    before = nested(np.asarray, stream.state)
    with pytest.raises(error, match=words):
        call(stream)
    np.testing.assert_equal(nested(np.asarray, stream.state), before)


def test_what_has_no_stream():
    with pytest.raises(ValueError, match="bidirectional"):
        Twins("gru", bidirectional=True).gpu.stream()
