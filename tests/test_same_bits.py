"""On the cython backend a result has the same bits whatever stands beside it and however the call is cut."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn


@pytest.fixture(autouse=True)
def _cython():
    with fastrnn.use_backend("cython"):
        yield


@pytest.fixture(params=[(cell, H, dtype) for cell in ("RNN", "LSTM", "LSTM projected", "GRU") for H in (3, 16, 33, 70)
                        for dtype in ("float32", "float64")], ids=str)  # fmt: skip
def case(request):
    """A layer, x (T, N, I), and its output."""
    cell, H, dtype = request.param
    options = {"num_layers": 2, "dtype": dtype, "rng": 0} | ({"proj_size": 2} if "projected" in cell else {})
    layer = getattr(fastrnn, cell.split()[0])(5, H, **options)
    x = np.random.default_rng(0).normal(size=(300, 9, 5)).astype(dtype)
    return layer, x, layer(x)[0]


def test_batch_neighbours(case):
    layer, x, y = case
    for n in range(x.shape[1]):
        np.testing.assert_array_equal(layer(x[:, n])[0], y[:, n])
    for rows in ([0, 1], [8, 3, 1], range(1, 8)):
        np.testing.assert_array_equal(layer(x[:, rows])[0], y[:, rows])


def test_chunks_of_time(case):
    layer, x, y = case
    for steps in (1, 7, 64, 299):
        state, outputs = None, []
        for t in range(0, len(x), steps):
            chunk, state = layer(x[t : t + steps], state)
            outputs.append(chunk)
        np.testing.assert_array_equal(np.concatenate(outputs), y)


def test_streams(case):
    layer, x, y = case
    stream = layer.stream(x.shape[1])
    np.testing.assert_array_equal([stream.step(x_t) for x_t in x[:50]], y[:50])
    np.testing.assert_array_equal(stream.process(x[50:]), y[50:])


def test_lengths_and_resets_of_others(case):
    layer, x, y = case
    lengths, reset = np.arange(60, 331, 30), np.zeros(x.shape[:2], bool)
    reset[5::9, ::2] = True
    ragged = layer(x, lengths=np.minimum(lengths[:9], 300)[::-1])[0]
    for n, length in enumerate(np.minimum(lengths[:9], 300)[::-1]):
        np.testing.assert_array_equal(ragged[:length, n], y[:length, n])
    np.testing.assert_array_equal(layer(x, reset=reset)[0][:, 1::2], y[:, 1::2])


def test_memory_layouts(case):
    layer, x, y = case
    for same in (np.asfortranarray(x), x[:, ::-1].copy()[:, ::-1], x.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        np.testing.assert_array_equal(layer(same)[0], y)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("H", [3, 16, 33, 70])
def test_ragged_rows_in_both_directions(cell, H):
    layer = getattr(fastrnn, cell)(5, H, 2, bidirectional=True, rng=0)
    x, lengths = np.random.default_rng(0).normal(size=(90, 9, 5)), [90, 1, 0, 41, 89, 90, 7, 64, 33]
    y, state = layer(x, lengths=lengths)
    for n, length in enumerate(lengths):
        alone, end = layer(x[:length, n])
        np.testing.assert_array_equal(y[:length, n], alone)
        h, h_alone = (state[0], end[0]) if cell == "LSTM" else (state, end)
        np.testing.assert_array_equal(h[:, n], h_alone)
