"""On the backend numba, too, a result has the same bits whatever stands beside it and however the call is cut."""

from __future__ import annotations

import numpy as np
import pytest
from layer_tools import make, parts_of
from test_same_bits import arrays, assert_same_bits

import fastrnn
from fastrnn import threads

pytest.importorskip("numba", reason="numba is not installed")

CELLS = ("rnn_tanh", "lstm_proj", "gru", "peephole_lstm")
SIZES = ((5, 3), (2, 16), (40, 70))  # I, H: less than a vector, a whole one, tails and several blocks of K_BLOCK


@pytest.fixture(autouse=True)
def _numba():
    with fastrnn.use_backend("numba"):
        yield


@pytest.fixture(params=CELLS)
def layers(request):
    return [make(request.param, I, H, dtype="float32", rng=0) for I, H in SIZES]


def normal(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def gradients(layer, x, lengths=None, reset=None, **options):
    """All gradients, x's first, of some scalar."""
    (y, _), backward = layer.vjp(x, lengths=lengths, reset=reset, **options)
    found = backward(np.cos(np.arange(y.size, dtype=y.dtype)).reshape(y.shape))
    return [found.x, *parts_of(found.hx), *found.params.values()]


def test_rows_beside_others(layers):
    for layer in layers:
        x = normal(20, 9, layer.input_size)
        whole = arrays(layer(x))
        for rows in ([0], [8], [3, 1], [0, 1, 2, 3, 4, 5, 6]):
            some = [a[:, rows] for a in whole]
            assert_same_bits(arrays(layer(x[:, rows])), some, f"{layer} rows {rows}")


def test_ragged_rows(layers):
    lengths = [3, 20, 0, 7, 19, 1, 20, 12, 5]
    for layer in layers:
        x = normal(20, 9, layer.input_size)
        y, *states = arrays(layer(x, lengths=lengths))
        for n, T in enumerate(lengths):
            alone = arrays(layer(x[:T, [n]]))
            assert_same_bits([y[:T, [n]], *(s[:, [n]] for s in states)], alone, f"{layer} row {n}")


@pytest.mark.parametrize("N", [1, 3])
def test_chunks_of_time_and_streams(layers, N):
    for layer in layers:
        x = normal(200, N, layer.input_size)  # more steps than a chunk of the loop's own
        y, states = layer(x)
        for steps in (1, 64, 199):
            hx, pieces = None, []
            for start in range(0, 200, steps):
                piece, hx = layer(x[start : start + steps], hx)
                pieces.append(piece)
            assert_same_bits([np.concatenate(pieces), *parts_of(hx)], [y, *parts_of(states)], f"{layer} by {steps}")
        stream = layer.stream(N)
        assert_same_bits(np.stack([stream.step(x_t) for x_t in x]), y, f"{layer} as a stream")


@pytest.mark.parametrize("ragged", [False, True])
def test_number_of_threads(layers, ragged, monkeypatch):
    monkeypatch.setattr("fastrnn.jit.engine._PAYS", 1)
    for layer in layers:
        x, rng = normal(150, 7, layer.input_size), np.random.default_rng(0)
        lengths = [3, 150, 0, 77, 149, 1, 12] if ragged else None
        reset = rng.random((150, 7)) < 0.1
        found = []
        for n in (1, 2, 3):
            monkeypatch.setattr(threads, "_limit", n)
            found.append(arrays(layer(x, lengths=lengths, reset=reset)) + gradients(layer, x, lengths, reset))
        assert_same_bits(found[1], found[0], f"{layer} 2 threads")
        assert_same_bits(found[2], found[0], f"{layer} 3 threads")


def test_gradients_of_cut_sequences(layers):
    for layer in layers:
        x = normal(300, 2, layer.input_size)
        whole = gradients(layer, x)
        assert_same_bits(gradients(layer, x, checkpoint_every=128), whole, f"{layer} in pieces")


def test_numbers_that_are_kept_for_gradients():
    """gx + gh of each gate where they matter together, else both; a chain rule by hand may treat them apart."""
    from importlib import import_module

    from fastrnn import bodies
    from fastrnn.cells import CELLS, CellSpec, Weights

    numba = import_module("fastrnn.backends.numba")
    cells = {spec: 2 if spec.name == "gru" else 1 for spec in CELLS.values()}
    cells[CellSpec("derived", "abcd", ("h", "c"), bodies.lstm)] = 1
    cells[CellSpec("by hand", "abcd", ("h", "c"), bodies.lstm, bodies.lstm_backward)] = 2
    for spec, parts in cells.items():
        w = np.zeros((spec.n_gates * 64, 64), np.float32)
        assert numba.gates_width(numba.prepare_backward(spec, Weights(w, w))) == parts * spec.n_gates * 64, spec.name
