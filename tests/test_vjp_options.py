"""`checkpoint_every`, samples, dropout, windows of time, threads: ways to the same gradients."""

from __future__ import annotations

import copy
import threading
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest
from layer_tools import (
    CELLS,
    Case,
    arrays_in,
    assert_same_bits,
    differences,
    each,
    gradients,
    make,
    normal_like,
    parts_of,
    random_state,
    scalar,
)

import fastrnn


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


# --- checkpoint_every -------------------------------------------------------------------------------------------------


@pytest.fixture(params=["float32", "float64"])
def cut(request, backend, monkeypatch):
    """dtype, number of steps, in multiples of how many they are cut, and whether rows alone have the same bits."""
    dtype, module = request.param, import_module(f"fastrnn.backends.{backend}")
    if backend == "reference" and dtype == "float64":
        # It never cuts, since that would round float32's states; float64 can be cut anywhere.
        monkeypatch.setattr(module, "CHUNK_STEPS", 1)
    chunk = min(module.CHUNK_STEPS, 1000)
    return dtype, (2 * chunk + 44 if 1 < chunk < 1000 else 9), chunk, chunk > 1


def places(T, chunk):
    return sorted({1, 2, chunk, chunk + 1, 2 * chunk, T - 1, T, T + 1, 10**12})


@pytest.mark.parametrize(
    ("N", "options"),
    [
        (3, {}),
        (3, {"resets": 0.1, "bidirectional": True}),
        (3, {"ragged": True, "num_layers": 2, "bidirectional": True}),
        (3, {"ragged": True, "resets": 0.05, "num_layers": 2}),
        (3, {"ragged": True, "num_layers": 3, "bidirectional": True, "dropout": 0.5}),
        (33, {"ragged": True, "bidirectional": True}),
    ],
)
def test_checkpoints_keep_the_bits(cell, N, options, cut):
    dtype, T, chunk, rows_alike = cut
    case = Case(cell, T, N, 3, 5, dtype, kinks=True, **options)
    case.layer.train()
    for per_sample in (False, True)[: 1 + rows_alike]:
        plain = case.gradients(per_sample=per_sample)
        for every in places(T, chunk) if not per_sample else (chunk, T - 1):
            got = case.gradients(checkpoint_every=every, per_sample=per_sample)
            assert_same_bits(got, plain, f"checkpoint_every={every} per_sample={per_sample}")
    some = case.gradients(checkpoint_every=chunk, consume=True, wrt=("x", "hx"))
    assert_same_bits(some, case.gradients()._replace(params=None))


def test_checkpoints_are_used(backend, monkeypatch):
    """Steps that were not kept are run again, one stretch after the other: never more than one is in memory."""
    module, steps = import_module(f"fastrnn.backends.{backend}"), []
    monkeypatch.setattr(module, "CHUNK_STEPS", min(module.CHUNK_STEPS, 128))
    T, original = 300, module.forward

    def spy(prepared, x, *args, **kwargs):
        steps.append(len(x))
        original(prepared, x, *args, **kwargs)

    monkeypatch.setattr(module, "forward", spy)
    case = Case("lstm", T, 2, 3, 5)
    for every, stretches in ((None, [300]), (1, [128, 128, 44]), (128, [128, 128, 44]), (129, [256, 44]), (300, [300])):
        steps.clear()
        _, backward = case.vjp(checkpoint_every=every)
        assert steps == stretches
        for _ in range(2):
            steps.clear()
            backward(*case.seeds)
            assert steps == ([] if every is None else stretches[::-1])


# --- samples ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"bias": False}, {"ragged": [3, 0, 7, 5], "resets": 0.2, "num_layers": 2, "bidirectional": True}]
)
def test_samples(cell, options, backend, assert_close):
    """The sum over rows is the gradient, and each row's is that of the row alone; x and hx are what they were."""
    case = Case(cell, 7, 4, 3, 5, "float64", **options)
    plain, samples = case.gradients(), case.gradients(per_sample=True)
    assert_close((samples.x, samples.hx), (plain.x, plain.hx), "float64", gradient=True)
    for name, array in case.layer.parameters().items():
        assert samples.params[name].shape == (4, *array.shape)
    assert_close({name: a.sum(0) for name, a in samples.params.items()}, plain.params, "float64", gradient=True)
    for n in range(4):
        here = slice(n, n + 1)
        row = {name: a[here] if name == "lengths" else a[:, here] for name, a in case.options.items()}
        hx, seeds = (each(lambda a, here=here: a[:, here], arrays) for arrays in (case.hx, case.seeds))
        alone = gradients(case.layer, case.x[:, here], hx, seeds, **row)
        assert_close({name: a[n] for name, a in samples.params.items()}, alone.params, "float64", gradient=True)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_samples_of_cells(name, backend, assert_close):
    rng = np.random.default_rng(0)
    one = getattr(fastrnn, name)(3, 5, dtype="float64", rng=0)
    x, h = rng.normal(size=(4, 3)), rng.normal(size=(4, 5))
    hx = (h, rng.normal(size=(4, 5))) if name == "LSTMCell" else h
    result, backward = one.vjp(x, hx)
    seeds = normal_like(rng, result)
    plain, samples = backward(seeds), backward(seeds, per_sample=True)
    assert_close((samples.x, samples.hx), (plain.x, plain.hx), "float64", gradient=True)
    assert_close({key: a.sum(0) for key, a in samples.params.items()}, plain.params, "float64", gradient=True)
    for n in range(4):
        _, of_row = one.vjp(x[n], each(lambda a, n=n: a[n], hx))
        seed = each(lambda a, n=n: a[n], seeds)
        assert_close({key: a[n] for key, a in samples.params.items()}, of_row(seed).params, "float64", gradient=True)
        for key, array in of_row(seed, per_sample=True).params.items():
            assert array.shape == (1, *getattr(one, key).shape)


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_the_mask_is_that_of_the_output(backend):
    """The lower layer puts out 1 always, the upper one passes on what it gets: the output is the mask, scaled."""
    layer = fastrnn.RNN(1, 6, 2, "relu", dropout=0.5, dtype="float64", rng=0).train()
    params = layer.parameters()
    for array in params.values():
        array[...] = 0
    params["bias_ih_l0"][:], params["weight_ih_l1"][:] = 1, np.eye(6)
    params.changed()
    d_output = np.random.default_rng(0).normal(size=(5, 4, 6))
    masks = []
    for every in (None, 2):
        (y, _), backward = layer.vjp(np.zeros((5, 4, 1)), checkpoint_every=every)
        masks.append(y)
        assert set(y.ravel()) == {0.0, 2.0}
        for _ in range(2):
            grads = backward(d_output)
            # What is not dropped is above zero, and there d_output passes both layers' relu; the mask scales it.
            np.testing.assert_allclose(grads.params["bias_ih_l0"], (d_output * y).sum((0, 1)), rtol=1e-12)
            np.testing.assert_allclose(grads.params["bias_ih_l1"], (d_output * (y > 0)).sum((0, 1)), rtol=1e-12)
    assert (masks[0] != masks[1]).any()


def test_dropout_by_differences(cell, backend):
    """Of copies of the layer, which all draw the same masks."""
    case = Case(cell, 4, 3, 2, 3, "float64", ragged=[4, 2, 3], num_layers=3, bidirectional=True, dropout=0.4)
    case.layer.train()
    rng, relu = np.random.default_rng(1), cell == "rnn_relu"

    def value():
        case.layer.parameters().changed()
        y, end, states = copy.deepcopy(case.layer)(case.x, case.hx, return_states=True, **case.options)
        return scalar((y, end), case.seeds), (states.h > 0).tobytes() if relu else None

    grads = arrays_in(case.gradients())
    arrays = [case.x, *parts_of(case.hx), *case.layer.parameters().values()]
    masked = 0
    for array, (name, gradient) in zip(arrays, grads.items(), strict=True):
        along = rng.normal(size=(2, *array.shape)) / np.sqrt(array.size)
        expected = differences(value, array, along)
        got = np.tensordot(along, gradient, array.ndim)
        assert np.abs(got - expected).max() <= 1e-9 * max(1, np.abs(expected).max()), name
    case.layer.eval()
    for name, gradient in arrays_in(case.gradients()).items():
        masked += (gradient != grads[name]).any()
    assert masked > len(grads) / 2  # so that the lines above saw a mask


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout_draws_as_the_call_does(p, backend):
    first, second = (fastrnn.GRU(3, 5, 3, dropout=p, rng=1).train() for _ in range(2))
    x = np.random.default_rng(0).normal(size=(6, 4, 3))
    for every in (None, 1, None):
        result, backward = first.vjp(x, checkpoint_every=every)
        assert_same_bits(result, second(x))
        grads, again = backward(result[0]), backward(result[0])
        assert_same_bits(again, grads)
        for name, array in grads.params.items():
            assert np.isfinite(array).all()
            # With p=1 nothing of a lower layer reaches the output; the upper ones have their recurrent part and biases.
            assert array.any() == (p < 1 or (name.endswith("l2") and name != "weight_ih_l2"))
        assert grads.x.any() == (p < 1)


# --- windows of time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("windows", [[0, 1, 4, 4, 12], [0, 11, 12]])
def test_windows_chained_by_their_states_are_the_whole(cell, windows, backend, assert_close):
    """Backprop through time in pieces: each window's d_state is the next one's gradient of its initial state."""
    case = Case(cell, 12, 4, 3, 5, "float64", ragged=[3, 12, 0, 9], resets=0.1, num_layers=2)
    whole = case.gradients()
    state, backwards = case.hx, []
    for a, b in pairwise(windows):
        lengths, reset = np.clip(case.options["lengths"] - a, 0, b - a), case.options["reset"][a:b]
        (_, state), backward = case.layer.vjp(case.x[a:b], state, lengths=lengths, reset=reset)
        backwards.append((backward, case.seeds[0][a:b]))
    d_state, dx, params = case.seeds[1], [], []
    for backward, d_output in reversed(backwards):
        grads = backward(d_output, d_state)
        d_state, dx, params = grads.hx, [grads.x, *dx], [*params, grads.params]
    sums = {name: sum(p[name] for p in params) for name in whole.params}
    assert_close((np.concatenate(dx), d_state, sums), tuple(whole), "float64", gradient=True)


# --- threads, neighbours: the cython backend's bits -------------------------------------------------------------------

#: Calls that are worth more than one thread, and are split in different ways: T, N, I, H, further options.
SPLITS = {
    "rows": (40, 24, 64, 64, {}),
    "ragged rows": (80, 24, 64, 64, {"ragged": np.arange(24) * 80 // 23, "resets": 0.02}),
    "units": (60, 1, 150, 320, {}),
    "units of ragged rows": (60, 3, 70, 320, {"ragged": [7, 60, 49]}),
    "directions": (120, 3, 130, 70, {"bidirectional": True}),
    "layers": (400, 1, 64, 128, {"num_layers": 3}),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("split", SPLITS)
def test_number_of_threads(cell, split, dtype, monkeypatch):
    """One, two and three, in the forward pass and in backward."""
    threads, seen = import_module("fastrnn.threads"), set()
    monkeypatch.setattr(threads, "_limit", 1)
    T, N, I, H, options = SPLITS[split]
    team = threads.team

    def spy(wanted):
        seen.add(min(wanted, threads.get_num_threads()))
        return team(wanted)

    with fastrnn.use_backend("cython"):
        case = Case(cell, T, N, I, H, dtype, kinks=True, **options)
        whole = case.gradients()
        _, backward = case.vjp()
        monkeypatch.setattr(threads, "team", spy)
        for n in (2, 3):
            fastrnn.set_num_threads(n)
            monkeypatch.setattr(import_module("fastrnn.backends.cython"), "_crowded_until", 0.0)
            seen.clear()
            assert_same_bits(backward(*case.seeds), whole, f"{n} threads, the forward pass on one")
            assert split == "layers" or max(seen) > 1  # on the way back, layers have no threads of their own
            assert_same_bits(case.gradients(), whole, f"{n} threads")
            assert max(seen) > 1
            assert_same_bits(case.gradients(checkpoint_every=1), whole, f"{n} threads, steps run again")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("H", [3, 33, 150])
def test_rows_beside_others_on_cython(cell, H, dtype):
    """What belongs to one row has the same bits whatever rows stand beside it: x, states, samples' parameters."""
    with fastrnn.use_backend("cython"):
        case = Case(cell, 20, 9, 5, H, dtype, ragged=[20, 3, 19, 0, 7, 20, 11, 1, 20], resets=0.1, num_layers=2)
        whole = case.gradients(per_sample=True)
        for rows in ([0], [8], [4, 1], [3, 6, 2], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
            some = {name: a[rows] if name == "lengths" else a[:, rows] for name, a in case.options.items()}
            hx, seeds = (each(lambda a, rows=rows: a[:, rows], arrays) for arrays in (case.hx, case.seeds))
            got = gradients(case.layer, case.x[:, rows], hx, seeds, per_sample=True, **some)
            expected = whole._replace(
                x=whole.x[:, rows],
                hx=each(lambda a, rows=rows: a[:, rows], whole.hx),
                params={name: a[rows] for name, a in whole.params.items()},
            )
            assert_same_bits(got, expected, f"rows {rows}")


def test_one_layer_in_many_threads(cell, backend):
    """Calls and gradients of different shapes at once, packed weights made by whoever comes first."""
    layer = make(cell, 3, 17, num_layers=2, bidirectional=True)
    inputs = []
    for i in range(6):
        rng = np.random.default_rng(i)
        x, hx = rng.normal(size=(10 + i, 1 + i % 4, 3)).astype(np.float32), random_state(rng, layer, 1 + i % 4)
        inputs.append((x, hx, normal_like(rng, layer(x, hx))))
    expected = [gradients(layer, *given) for given in inputs]
    problems, barrier = [], threading.Barrier(3)
    layer.parameters().changed()

    def work(first):
        with fastrnn.use_backend(backend):
            barrier.wait()
            for turn in range(12):
                i = (first + turn) % len(inputs)
                try:
                    assert_same_bits(gradients(layer, *inputs[i]), expected[i])
                except AssertionError as error:
                    problems.append(str(error))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems
