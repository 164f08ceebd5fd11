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


@pytest.fixture
def set_num_threads():
    before = fastrnn.get_num_threads()
    yield fastrnn.set_num_threads
    fastrnn.set_num_threads(before)


@pytest.mark.parametrize("cell", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    ("T", "N", "H", "num_layers", "bidirectional"),
    [
        (600, 1, 64, 2, False),  # layers side by side
        (600, 3, 48, 3, False),
        (60, 1, 300, 1, False),  # units of one sequence split
        (60, 1, 200, 2, True),  # directions side by side
        (40, 70, 100, 1, True),  # rows split
    ],
)
def test_number_of_threads(cell, T, N, H, num_layers, bidirectional, set_num_threads):
    layer = getattr(fastrnn, cell)(5, H, num_layers, bidirectional=bidirectional, rng=0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(T, N, 5)).astype(np.float32)
    ragged = {"lengths": rng.integers(0, T + 1, N), "reset": rng.random((T, N)) < 0.1}
    for options in ({}, ragged):
        results = []
        for n in (1, 2, 3, 5):
            set_num_threads(n)
            y, state, states = layer(x, **options, return_states=True)
            results.append([y, *(state if cell == "LSTM" else (state,)), *(s for s in states if s is not None)])
        for other in results[1:]:
            for a, b in zip(other, results[0], strict=True):
                np.testing.assert_array_equal(a, b)
