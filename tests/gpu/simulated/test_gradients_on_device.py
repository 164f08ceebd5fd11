"""Gradients of layers and cells on a GPU against those of the reference, in Numba's simulator."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
from device_tools import CELL_CLASSES, KINDS, Fake, Twins, nested
from layer_tools import USERS, normal_like, true_gradients

import fastrnn

ON_DEVICE = KINDS[1]


def seeds_of(twins, **options):
    return normal_like(np.random.default_rng(9), twins.cpu(twins.x, twins.hx, **options))


# T = 6 and kinks of relu would be a matter of luck: rnn_relu in float64.
CASES = [
    ("rnn_tanh", {"batch_first": True}, {"lengths": [1, 6, 3], "reset": 0.3}, {}),
    ("rnn_relu", {"bidirectional": True, "dtype": "float64"}, {}, {}),
    ("lstm", {"num_layers": 2, "bias": False}, {"lengths": [6, 0, 3]}, {"per_sample": True}),
    ("lstm", {"bidirectional": True, "num_layers": 2}, {"reset": 0.3}, {}),
    ("lstm_proj", {"bidirectional": True}, {"lengths": [2, 6, 4], "reset": 0.3}, {"per_sample": True}),
    ("gru", {"num_layers": 2, "hx": False}, {"lengths": [6, 4, 1], "reset": 0.3}, {}),
    ("gru", {"bidirectional": True, "N": None}, {}, {"per_sample": True}),
    ("gru", {"T": 0}, {}, {}),
    ("lstm", {"N": 0}, {}, {"per_sample": True}),
    *((cell, {"bidirectional": True}, {"lengths": [5, 6, 2]}, {}) for cell in USERS),
]


@pytest.mark.parametrize(("cell", "options", "ragged", "back"), CASES)
def test_gradients(cell, options, ragged, back, kind, assert_close):
    twins = Twins(cell, **{"T": 6} | options)
    ragged = twins.options(**ragged)
    seeds = seeds_of(twins, **ragged)
    expected_result = twins.cpu(twins.x, twins.hx, **ragged)
    result, backward = twins.gpu.vjp(*kind.give((twins.x, twins.hx)), **ragged)
    assert_close(kind.take(result), nested(np.float64, expected_result), twins.cpu.dtype)
    with fastrnn.use_backend("reference"):
        truth = copy.deepcopy(twins.cpu).to("float64").vjp(twins.x, twins.hx, **ragged)[1](*seeds, **back)
    for _ in range(2):
        found = kind.take(backward(*kind.give(seeds), **back))
        assert type(found) is type(truth)
        assert list(found.params) == list(truth.params)
        assert_close(found, truth, twins.cpu.dtype, gradient=True)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("every", "bidirectional"), [(1, False), (2, True), (3, False), (99, True)])
def test_checkpoints(cell, every, bidirectional, kind, assert_close):
    twins = Twins(cell, T=5, num_layers=2, bidirectional=bidirectional, dropout=0.3)
    ragged = twins.options(lengths=[3, 5, 0], reset=0.3)
    seeds = seeds_of(twins, **ragged)
    grads = []
    for layer, given, options in ((twins.cpu, KINDS[0], {}), (twins.gpu, kind, {"checkpoint_every": every})):
        layer.train()._rng = np.random.default_rng(3)
        _, backward = layer.vjp(*given.give((twins.x, twins.hx)), **ragged, **options)
        for back in ({}, {"per_sample": True}):
            grads.append(given.take(backward(*given.give(seeds), **back)))
    for found, expected in zip(grads[2:], grads[:2], strict=True):
        assert_close(found, nested(np.float64, expected), "float32", gradient=True)


@pytest.mark.parametrize("wrt", ["x", "hx", "params", ("x", "hx")])
def test_only_what_is_wanted(wrt, kind, assert_close):
    twins = Twins("lstm", num_layers=2)
    seeds = seeds_of(twins)
    expected = true_gradients(twins.cpu, twins.x, twins.hx, seeds, wrt=wrt)
    found = twins.gpu.vjp(*kind.give((twins.x, twins.hx)), wrt=wrt)[1](*kind.give(seeds))
    assert [g is None for g in found] == [g is None for g in expected]
    assert_close(kind.take(found), expected, "float32", gradient=True)


def test_parts_of_the_seeds(kind, assert_close):
    twins = Twins("lstm")
    d_output, (d_h, d_c) = seeds_of(twins)
    _, backward = twins.gpu.vjp(*kind.give((twins.x, twins.hx)))
    for seeds in ((None, (d_h, d_c)), (d_output, None), (None, (None, d_c)), (d_output, (d_h, None)), (None, None)):
        expected = true_gradients(twins.cpu, twins.x, twins.hx, seeds)
        assert_close(kind.take(backward(*kind.give(seeds))), expected, "float32", gradient=True)


@pytest.mark.parametrize("unsorted", [False, True])
def test_packed_sequences(unsorted, assert_close):
    twins = Twins("lstm", bidirectional=True)
    packed = fastrnn.pack_padded_sequence(twins.x, [2, 4, 1] if unsorted else [4, 2, 1], enforce_sorted=not unsorted)
    grads = []
    for layer in (twins.cpu, twins.gpu):
        (y, state), backward = layer.vjp(packed, twins.hx)
        seeds = normal_like(np.random.default_rng(4), (y.data, state))
        grads += [backward(y._replace(data=seeds[0]), seeds[1], per_sample=per_sample) for per_sample in (False, True)]
    for found, expected in zip(grads[2:], grads[:2], strict=True):
        np.testing.assert_equal(found.x[1:], expected.x[1:])
        parts = [(g.x.data, g.hx, g.params) for g in (found, expected)]
        assert_close(parts[0], nested(np.float64, parts[1]), "float32", gradient=True)


def test_dropout_has_one_mask(kind, assert_close):
    twins = Twins("gru", num_layers=3, dropout=0.5)
    ragged = {"lengths": [2, 4, 3]}
    seeds = seeds_of(twins, **ragged)
    grads = []
    for layer, given in ((twins.cpu, KINDS[0]), (twins.gpu, kind)):
        layer.train()._rng = np.random.default_rng(3)
        _, backward = layer.vjp(*given.give((twins.x, twins.hx)), **ragged)
        grads.append(given.take(backward(*given.give(seeds))))
    assert_close(grads[1], nested(np.float64, grads[0]), "float32", gradient=True)


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}])
def test_later_changes_of_arrays_do_not_count(options, kind):
    twins = Twins("lstm", num_layers=2)
    seeds = kind.give(seeds_of(twins))
    expected = kind.take(twins.gpu.vjp(*kind.give((twins.x, twins.hx)), **options)[1](*seeds))
    reset, lengths = np.zeros(twins.x.shape[:2], bool), np.full(3, 4)
    given = (twins.x, twins.hx, reset, lengths)
    x, hx, reset_given, lengths_given = kind.give(given)
    (output, _), backward = twins.gpu.vjp(x, hx, reset=reset_given, lengths=lengths_given, **options)
    memory = output._array.pointer if kind is ON_DEVICE else output
    for array in (twins.x, *twins.hx, reset, lengths, memory):
        array[...] = 1
    found = kind.take(backward(*seeds))
    np.testing.assert_equal(tuple(found), tuple(expected))
    again = kind.take(backward(*seeds))
    np.testing.assert_equal(tuple(again), tuple(expected))


def test_consume(kind):
    twins = Twins("gru", num_layers=2)
    seeds = kind.give(seeds_of(twins))
    expected = kind.take(twins.gpu.vjp(*kind.give((twins.x, twins.hx)))[1](*seeds))
    _, backward = twins.gpu.vjp(*kind.give((twins.x, twins.hx)), consume=True)
    for wrong in ((seeds[0], kind.give(np.zeros(3, np.float32))), (kind.give(np.zeros(3, np.float32)),)):
        with pytest.raises(ValueError, match="d_"):
            backward(*wrong)
    np.testing.assert_equal(tuple(kind.take(backward(*seeds))), tuple(expected))
    with pytest.raises(RuntimeError, match="second time"):
        backward(*seeds)


def test_changed_weights(kind):
    twins = Twins("gru")
    seeds = kind.give(seeds_of(twins))
    _, backward = twins.gpu.vjp(*kind.give((twins.x, twins.hx)))
    twins.gpu.bias_ih_l0 = 0 * twins.gpu.bias_ih_l0
    with pytest.raises(RuntimeError, match="have changed"):
        backward(*seeds)


def test_what_it_keeps(kind):
    twins = Twins("gru")
    x = kind.give(twins.x.copy())
    seen = weakref.ref(x.array if kind is ON_DEVICE else x)
    _, backward = twins.gpu.vjp(x)
    del x
    gc.collect()
    assert seen() is None
    assert repr(backward) == "<backward through GRU with respect to x, hx, params>"
    with pytest.raises(TypeError, match="call vjp again"):
        pickle.dumps(backward)


@pytest.mark.parametrize(("cell", "options"), CELL_CLASSES)
@pytest.mark.parametrize("batch", [(), (3,)])
def test_cells(cell, options, batch, kind, assert_close):
    cpu, rng = cell(3, 4, **options, dtype="float64", rng=0), np.random.default_rng(1)
    gpu = copy.deepcopy(cpu).to("cuda")
    x, *states = (rng.normal(size=(*batch, n)) for n in (3, 4, 4))
    is_lstm = cell is fastrnn.LSTMCell
    hx = tuple(states) if is_lstm else states[0]
    for state in (None, hx):
        for per_sample in (False, True):
            result, backward = gpu.vjp(*kind.give((x, state)))
            expected, truth = cpu.vjp(x, state)
            assert_close(kind.take(result), expected, "float64")
            found = kind.take(backward(kind.give(hx), per_sample=per_sample))
            assert_close(found, truth(hx, per_sample=per_sample), "float64", gradient=True)
    if is_lstm:
        found = kind.take(backward((None, kind.give(states[1]))))
        assert_close(found, truth((None, states[1])), "float64", gradient=True)
    with pytest.raises(ValueError, match="d_h"):
        backward(kind.give((np.zeros(3), np.zeros(3)) if is_lstm else np.zeros(3)))


def test_seeds_of_another_kind():
    twins = Twins("lstm")
    d_output, d_state = seeds_of(twins)
    on_host, on_device = twins.gpu.vjp(twins.x)[1], twins.gpu.vjp(Fake(twins.x))[1]
    with pytest.raises(TypeError, match="d_output should be a NumPy array, as x is, got: Fake"):
        on_host(Fake(d_output))
    with pytest.raises(TypeError, match=r"d_state\[1\] should be an array on the GPU, as x is, got: ndarray"):
        on_device(Fake(d_output), (Fake(d_state[0]), d_state[1]))
    cell = fastrnn.GRUCell(3, 4, device="cuda")
    with pytest.raises(TypeError, match="d_h should be a NumPy array, as x is, got: Fake"):
        cell.vjp(np.zeros(3))[1](Fake(np.zeros(4, np.float32)))
