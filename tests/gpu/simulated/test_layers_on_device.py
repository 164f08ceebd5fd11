"""Calls of layers and cells on a GPU against those on the CPU, in Numba's simulator."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest
from device_tools import CELL_CLASSES, KINDS, Fake, Twins
from layer_tools import USERS, each, truth

import fastrnn

ON_DEVICE = KINDS[1]


# Every cell and every option at least once, each with arrays of either kind.
CASES = [
    ("rnn_tanh", {}, {}),
    ("rnn_relu", {"bias": False, "num_layers": 2}, {}),
    ("lstm", {"batch_first": True}, {"lengths": [2, 4, 0]}),
    ("lstm", {"bidirectional": True, "dtype": "float64"}, {"lengths": [1, 4, 3]}),
    ("lstm_proj", {"num_layers": 2, "bidirectional": True}, {"reset": 0.3}),
    ("gru", {"bidirectional": True, "batch_first": True}, {"lengths": [4, 1, 2], "reset": 0.4}),
    ("gru", {"num_layers": 3, "hx": False}, {"lengths": [4, 3, 1]}),
    ("gru", {"T": 1, "N": 1}, {}),
    ("lstm", {"T": 0}, {}),
    ("lstm", {"N": 0}, {}),
    ("gru", {"N": None}, {"lengths": 3, "reset": 0.5}),
    ("lstm", {"N": None, "bidirectional": True, "batch_first": True}, {}),
    *((cell, {"bidirectional": True}, {"lengths": [3, 4, 2], "reset": 0.3}) for cell in USERS),
]


@pytest.mark.parametrize(("cell", "options", "ragged"), CASES)
def test_calls(cell, options, ragged, kind, assert_close):
    twins = Twins(cell, **options)
    x, before = kind.give((twins.x, twins.hx)), copy.deepcopy((twins.x, twins.hx))
    options = twins.options(**ragged)
    got = kind.take(twins.gpu(*x, **options, return_states=True))
    assert_close(got, truth(twins.cpu, twins.x, twins.hx, **options, return_states=True), twins.cpu.dtype)
    assert type(got[2]) is type(twins.cpu(twins.x, return_states=True)[2])
    np.testing.assert_equal((twins.x, twins.hx), before)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("options", [{"num_layers": 2, "dropout": 0.4}, {"num_layers": 2, "dropout": 1.0}])
@pytest.mark.parametrize("lengths", [None, [2, 4, 3]])
def test_dropout_is_that_of_the_cpu(cell, options, lengths, kind, assert_close):
    twins = Twins(cell, **options)
    for layer in (twins.cpu.train(), twins.gpu.train()):
        layer._rng = np.random.default_rng(5)
    for _ in range(2):
        expected = twins.cpu(twins.x, twins.hx, lengths=lengths)
        ragged = lengths
        if lengths and kind is ON_DEVICE:
            ragged = Fake(np.array(lengths, np.int64))
        got = kind.take(twins.gpu(*kind.give((twins.x, twins.hx)), lengths=ragged))
        assert_close(got, each(np.float64, expected), "float32")
    assert twins.cpu._rng.random() == twins.gpu._rng.random()


@pytest.mark.parametrize("unsorted", [False, True])
def test_packed_sequences(unsorted, assert_close):
    twins = Twins("lstm", num_layers=2, bidirectional=True)
    packed = fastrnn.pack_padded_sequence(twins.x, [2, 4, 1] if unsorted else [4, 2, 1], enforce_sorted=not unsorted)
    (y, got), (expected, state) = twins.gpu(packed, twins.hx), twins.cpu(packed, twins.hx)
    assert type(y) is fastrnn.PackedSequence
    np.testing.assert_equal(y[1:], expected[1:])
    assert_close((y.data, got), each(np.float64, (expected.data, state)), "float32")


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_lengths_and_resets_on_the_device(dtype, assert_close):
    for batch_first in (False, True):
        twins = Twins("gru", bidirectional=True, batch_first=batch_first)
        reset = twins.rng.random(twins.x.shape[:2]) < 0.4
        expected = truth(twins.cpu, twins.x, twins.hx, lengths=[4, 0, 3], reset=reset)
        # As of a length below 0 or above T: it counts as 0 or T. Strided, too.
        lengths = np.array([5, 99, -1, 99, 3], dtype)[::2]
        x, hx = ON_DEVICE.give((twins.x, twins.hx))
        for given in (reset, Fake(reset), Fake(np.asfortranarray(reset))):
            got = twins.gpu(x, hx, lengths=Fake(lengths), reset=given)
            assert_close(ON_DEVICE.take(got), expected, "float32")


def strided(x):
    padded = np.full((*x.shape[:-1], 2 * x.shape[-1]), np.nan, x.dtype)
    padded[..., ::2] = x
    return {
        "Fortran order": np.asfortranarray(x),
        "strided features": padded[..., ::2],
        "strided rows": np.repeat(x, 2, axis=1)[:, ::2],
        "transposed": x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        "negative strides": x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
    }


def test_memory_layouts(assert_close):
    twins = Twins("gru", num_layers=2)
    expected = truth(twins.cpu, twins.x, twins.hx)
    for x, h in zip(strided(twins.x).values(), strided(twins.hx).values(), strict=True):
        assert_close(ON_DEVICE.take(twins.gpu(Fake(x), Fake(h))), expected, "float32")
    same = np.broadcast_to(twins.x[:1, :, :1], twins.x.shape)
    assert_close(ON_DEVICE.take(twins.gpu(Fake(same))), truth(twins.cpu, same), "float32")
    lists = twins.gpu(twins.x.astype(np.float64).tolist(), twins.hx.tolist())
    assert_close(lists, expected, "float32")


@pytest.mark.parametrize("batch_first", [False, True])
def test_out(batch_first, kind, assert_close):
    twins = Twins("lstm", I=4, batch_first=batch_first)
    expected = truth(twins.cpu, twins.x, twins.hx)
    x, hx = kind.give((twins.x, twins.hx))
    for out in (
        np.full_like(twins.x, np.nan),
        np.full((4, 3, 4), np.nan, np.float32).reshape(twins.x.shape, order="F"),
    ):
        given = kind.give(out)
        output, state = twins.gpu(x, hx, out=given)
        assert output is given
        assert_close((out, kind.take(state)), expected, "float32")
    over = twins.x.copy()  # in the place of the input
    given = kind.give(over)
    assert twins.gpu(given, hx, out=given)[0] is given
    assert_close(over, expected[0], "float32")


def test_out_of_one_row(kind, assert_close):
    twins = Twins("gru", N=None)
    out = np.full((4, 4), np.nan, np.float32)
    twins.gpu(*kind.give((twins.x, twins.hx)), out=kind.give(out))
    assert_close(out, truth(twins.cpu, twins.x, twins.hx)[0], "float32")


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "options"), CELL_CLASSES)
@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_cells(cell, options, batch, kind, assert_close):
    cpu, rng = cell(3, 4, **options, rng=0), np.random.default_rng(1)
    gpu = copy.deepcopy(cpu).to(device="cuda")
    x = rng.normal(size=(*batch, 3)).astype(np.float32)
    states = tuple(rng.normal(size=(*batch, 4)).astype(np.float32) for _ in range(2))
    for hx in (None, states if cell is fastrnn.LSTMCell else states[0]):
        assert_close(kind.take(gpu(*kind.give((x, hx)))), truth(cpu, x, hx), "float32")


# --- layers -----------------------------------------------------------------------------------------------------------


def test_names_of_devices():
    layer = fastrnn.GRU(2, 3, device="cuda", rng=0)
    assert layer.device == "cuda:0"
    assert fastrnn.GRUCell(2, 3, device="cuda:0").device == "cuda:0"
    assert layer.to("cpu").device == "cpu"
    assert layer.to("float64", "cuda:1").device == "cuda:1"
    assert layer.dtype == np.float64
    assert fastrnn.GRU(2, 3).device == "cpu"


def test_parameters_stay_on_the_host(assert_close):
    twins = Twins("lstm", num_layers=2)
    assert all(type(array) is np.ndarray for array in twins.gpu.parameters().values())
    for change in (
        lambda layer: setattr(layer, "weight_hh_l0", layer.weight_hh_l0 * 2),
        lambda layer: layer.load_state_dict({name: a / 2 for name, a in layer.state_dict().items()}),
        lambda layer: layer.to("float64").to("float32"),
        lambda layer: layer.reset_parameters(7),
        lambda layer: (layer.bias_ih_l1.fill(0.5), layer.parameters().changed()),
    ):
        change(twins.cpu)
        change(twins.gpu)
        assert_close(twins.gpu(twins.x, twins.hx), truth(twins.cpu, twins.x, twins.hx), "float32")


def test_copies_go_without_what_is_on_the_device(assert_close):
    twins = Twins("gru")
    expected = twins.gpu(twins.x, twins.hx)
    assert twins.gpu._prepared
    for other in (copy.deepcopy(twins.gpu), copy.copy(twins.gpu), pickle.loads(pickle.dumps(twins.gpu))):
        assert other.device == "cuda:0"
        assert not other._prepared
        np.testing.assert_array_equal(other(twins.x, twins.hx)[0], expected[0])
    assert len(pickle.dumps(twins.gpu)) < len(pickle.dumps(twins.cpu)) + 200
    exact = twins.gpu.astype("float64")
    assert (exact.device, exact.dtype) == ("cuda:0", np.float64)
    assert_close(exact(twins.x, twins.hx), truth(twins.cpu, twins.x, twins.hx), "float64")


def test_copies_are_made_once_and_go_with_the_layer():
    twins = Twins("gru")
    twins.gpu(twins.x)
    stack = twins.gpu._stack()
    twins.gpu(Fake(twins.x))
    assert twins.gpu._stack() is stack
    seen = weakref.ref(stack.prepared[0])
    del stack
    twins.gpu.to("cpu")
    gc.collect()
    assert seen() is None


def test_the_device_decides_whatever_backend_is_chosen(monkeypatch):
    from fastrnn.cuda import engine

    twins, seen, original = Twins("gru"), [], engine.forward
    monkeypatch.setattr(engine, "forward", lambda *a, **k: seen.append(1) or original(*a, **k))
    with fastrnn.use_backend("reference"):
        twins.gpu(twins.x)
        assert len(seen) == 1
        twins.cpu(twins.x)
    assert len(seen) == 1


def test_same_bits_again():
    twins = Twins("lstm", bidirectional=True, dtype="float64")
    first, second = (twins.gpu(twins.x, twins.hx) for _ in range(2))
    np.testing.assert_equal(first, second)


def test_threads(assert_close):
    twins = Twins("gru", num_layers=2)
    expected, found = truth(twins.cpu, twins.x, twins.hx), [None] * 4

    def run(i):
        found[i] = twins.gpu(twins.x, twins.hx)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for got in found:
        assert_close(got, expected, "float32")


# --- results ----------------------------------------------------------------------------------------------------------


def test_results_own_their_memory_and_inputs_are_let_go():
    twins = Twins("gru")
    x = Fake(twins.x.copy())
    output, _ = twins.gpu(x)
    seen, expected = weakref.ref(x.array), np.asarray(output).copy()
    del x, twins
    gc.collect()
    assert seen() is None
    np.testing.assert_array_equal(np.asarray(output), expected)


def test_device_arrays():
    twins = Twins("lstm", N=2)
    output, (h_n, c_n) = twins.gpu(Fake(twins.x), (Fake(twins.hx[0]), Fake(twins.hx[1])))
    assert (output.shape, output.dtype, output.device, len(output)) == ((4, 2, 4), np.float32, "cuda:0", 4)
    assert repr(output) == "DeviceArray(shape=(4, 2, 4), dtype=float32, device='cuda:0')"
    described = output.__cuda_array_interface__
    assert (described["shape"], described["typestr"], described["version"]) == ((4, 2, 4), "<f4", 3)
    assert output.__dlpack_device__() == (2, 0)
    host = output.copy_to_host()
    np.testing.assert_array_equal(np.asarray(output), host)
    assert np.asarray(output, np.float64).dtype == np.float64
    np.testing.assert_array_equal(np.asarray(output.reshape((8, 4))), host.reshape(8, 4))
    for function in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            function(output)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(output, copy=False)
    for options in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="not supported"):
            output.__dlpack__(**options)
    # They come in again.
    again, _ = twins.gpu(Fake(twins.x), (h_n, c_n))
    np.testing.assert_array_equal(np.asarray(again), twins.gpu(twins.x, (np.asarray(h_n), np.asarray(c_n)))[0])
