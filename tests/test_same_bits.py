"""On the cython backend a result has the same bits whatever stands beside it and however the call is cut.

The first half calls the kernels of every instruction set that this processor runs; the second half calls layers.
"""

from __future__ import annotations

import threading
from importlib import import_module
from itertools import pairwise

import numpy as np
import pytest

import fastrnn
from fastrnn import sequence, threads
from fastrnn.backends import cython
from fastrnn.cells import CELLS

GATES = {name: spec.n_gates for name, spec in CELLS.items()}
NAMES = ("rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru")

#: I, H, size of the projection: less than a vector, whole vectors, tails, several blocks of K_BLOCK = 128.
SIZES = ((5, 3, 2), (2, 16, 1), (1, 33, 17), (131, 70, 20), (5, 150, 131))


@pytest.fixture(autouse=True)
def _cython():
    with fastrnn.use_backend("cython"):
        yield


def assert_same_bits(got, expected, what=""):
    """Both are arrays or lists of them; not even 0.0 and -0.0 may stand for each other."""
    if isinstance(expected, list):
        for a, b in zip(got, expected, strict=True):
            assert_same_bits(a, b, what)
        return
    assert got.dtype == expected.dtype
    bits = f"u{expected.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(bits), np.ascontiguousarray(expected).view(bits), err_msg=str(what)
    )


# ---- kernels --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=cython.instruction_sets())
def isa(request):
    return request.param


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture(params=NAMES)
def layers(request, isa, dtype):
    """One `Layer` of a cell for each of SIZES."""
    module = import_module(f"fastrnn._kernels_f{8 * dtype.itemsize}_{isa}")
    return [Layer(module, request.param, dtype, *size) for size in SIZES]


class Layer:
    """A layer's packed weights, and inputs for it."""

    def __init__(self, module, cell, dtype, I, H, P):
        self.name = f"{cell} I={I} H={H}"
        self.I, self.H, self.P = I, H, P if cell == "lstm_proj" else 0
        self.H_out = self.P or H
        self.has_c = cell.startswith("lstm")
        self.rng, self.dtype = np.random.default_rng(I + H), dtype
        cell = cell.removesuffix("_proj")
        rows, k = GATES[cell] * H, 1 / np.sqrt(H)
        shapes = [(rows, I), (rows, self.H_out), (rows,), (rows,)] + [(P, H)] * bool(self.P)
        self.packed = module.PackedWeights(cell, *(self.rng.uniform(-k, k, s).astype(dtype) for s in shapes))
        self.stepper = module.Stepper

    def inputs(self, T, N):
        """x, h_0, c_0"""
        shapes = [(T, N, self.I), (N, self.H_out), (N, self.H)][: 2 + self.has_c]
        return [self.rng.normal(size=shape).astype(self.dtype) for shape in shapes] + [None] * (not self.has_c)

    def run(self, x, h_0, c_0, lengths=None, reset=None, reverse=False, parts=1):
        """[y, h_n], and [c_n, c of every step] of LSTM."""
        T, N, _ = x.shape
        y, h = np.zeros((T, N, self.H_out), self.dtype), h_0.copy()
        c = c_0.copy() if self.has_c else None
        c_all = np.zeros((T, N, self.H), self.dtype) if self.has_c else None
        lengths = None if lengths is None else np.array(lengths, np.intp)
        in_threads(self.packed.run(x, y, h, c, lengths, reset, c_all, reverse=reverse, parts=parts))
        return [y, h, c, c_all] if self.has_c else [y, h]


def in_threads(run):
    """Every part of a `LayerRun`, in threads of their own."""
    threads = [threading.Thread(target=run, args=(i,)) for i in range(1, run.parts)]
    for thread in threads:
        thread.start()
    run(0)
    for thread in threads:
        thread.join()


def rows_of(arrays, rows):
    """Those rows of x or y (T, N, ·) and of states (N, ·)."""
    return [None if a is None else a[:, rows] if a.ndim == 3 else a[rows] for a in arrays]


def test_rows_beside_others(layers):
    for layer in layers:
        inputs = layer.inputs(20, 13)
        whole = layer.run(*inputs)
        for n in range(13):
            assert_same_bits(layer.run(*rows_of(inputs, [n])), rows_of(whole, [n]), f"{layer.name} row {n} alone")
        for n in range(2, 13):
            rows = layer.rng.permutation(13)[:n]
            assert_same_bits(layer.run(*rows_of(inputs, rows)), rows_of(whole, rows), f"{layer.name} rows {rows}")


@pytest.mark.parametrize("N", [1, 4])
def test_chunks_of_time(layers, N):
    """More steps than there are in one of the kernel's own chunks: these are at most 192, or 48 with 4 rows."""
    T = 200
    for layer in layers:
        x, h_0, c_0 = layer.inputs(T, N)
        whole = layer.run(x, h_0, c_0)
        for steps in (1, 7, 64, T - 1):
            h, c, cut = h_0, c_0, []
            for t in range(0, T, steps):
                cut.append(layer.run(x[t : t + steps], h, c))
                h, c = cut[-1][1], cut[-1][2] if layer.has_c else None
            for i in range(0, len(whole), 3):  # what has steps: y and c_all
                assert_same_bits(np.concatenate([part[i] for part in cut]), whole[i], f"{layer.name} {steps} at a time")
            assert_same_bits(cut[-1][1:3], whole[1:3], f"{layer.name} {steps} at a time")


def test_reverse_is_the_same_backwards(layers):
    for layer in layers:
        x, h_0, c_0 = layer.inputs(60, 3)
        forward, reverse = layer.run(x[::-1], h_0, c_0), layer.run(x, h_0, c_0, reverse=True)
        for i in range(0, len(forward), 3):
            forward[i] = forward[i][::-1]
        assert_same_bits(reverse, forward, layer.name)


@pytest.mark.parametrize("reverse", [False, True])
def test_ragged_rows(layers, reverse):
    T, lengths = 60, [60, 60, 59, 41, 40, 13, 2, 1, 0]
    for layer in layers:
        x, h_0, c_0 = layer.inputs(T, len(lengths))
        ragged = layer.run(x, h_0, c_0, lengths, reverse=reverse)
        for n, length in enumerate(lengths):
            alone = layer.run(*rows_of([x[:length], h_0, c_0], [n]), reverse=reverse)
            row = rows_of(ragged, [n])
            for i in range(0, len(row), 3):
                assert not row[i][length:].any(), f"{layer.name}: written past a length"
                row[i] = row[i][:length]
            assert_same_bits(row, alone, f"{layer.name} length {length}")


@pytest.mark.parametrize("reverse", [False, True])
def test_resets(layers, reverse):
    """Every episode of every row alone, from zeros but for the first one."""
    T, N = 60, 5
    for layer in layers:
        x, h_0, c_0 = layer.inputs(T, N)
        reset = layer.rng.random((T, N)) < 0.1
        reset[:, 2] = False
        reset[:, 3] = True
        whole = layer.run(x, h_0, c_0, reset=reset, reverse=reverse)
        for n in range(N):
            borders = [0, *(t for t in range(1, T) if reset[t, n]), T]
            episodes = list(pairwise(borders))
            first = not reset[T - 1 if reverse else 0, n] or reverse
            for start, stop in episodes[::-1] if reverse else episodes:
                h, c = rows_of([h_0, c_0], [n])
                if not first:
                    h, c = np.zeros_like(h), None if c is None else np.zeros_like(c)
                first = False
                alone = layer.run(x[start:stop, [n]], h, c, reverse=reverse)
                for i in range(0, len(whole), 3):
                    assert_same_bits(whole[i][start:stop, [n]], alone[i], f"{layer.name} row {n} steps {start}:{stop}")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("N", [1, 5])
def test_parts_in_threads(layers, N, reverse):
    """With projections, ragged rows that join and leave, and resets; also more parts than there are panels."""
    T = 40
    for layer in layers:
        inputs = layer.inputs(T, N)
        lengths = np.linspace(T, 0, N, dtype=np.intp)
        reset = layer.rng.random((T, N)) < 0.1
        for options in ({}, {"lengths": lengths}, {"reset": reset}, {"lengths": lengths, "reset": reset}):
            whole = layer.run(*inputs, **options, reverse=reverse)
            for parts in (2, 3):
                shared = layer.run(*inputs, **options, reverse=reverse, parts=parts)
                assert_same_bits(shared, whole, f"{layer.name} {parts} parts {list(options)}")


@pytest.mark.parametrize("N", [1, 3])
def test_steps(layers, N):
    for layer in layers:
        x, h_0, c_0 = layer.inputs(20, N)
        whole = layer.run(x, h_0, c_0)
        state = [None if s is None else s[None].copy() for s in (h_0, c_0)]
        step = layer.stepper([layer.packed], *state).step
        y = np.zeros_like(whole[0])
        for t in range(len(x)):
            step(x[t], y[t])
        assert_same_bits([y, *(s[0] for s in state if s is not None)], whole[:3], layer.name)


# ---- layers ---------------------------------------------------------------------------------------------------------


def make(cell, I, H, **options):
    if cell.startswith("rnn"):
        return fastrnn.RNN(I, H, nonlinearity=cell[4:], **options, rng=0)
    kind = fastrnn.GRU if cell == "gru" else fastrnn.LSTM
    return kind(I, H, **options, **({"proj_size": (H + 1) // 2} if cell == "lstm_proj" else {}), rng=0)


def arrays(result):
    """[output, h_n], and [c_n] of LSTM."""
    y, state = result
    return [y, *state] if isinstance(state, tuple) else [y, state]


@pytest.fixture(params=[(cell, H) for cell in NAMES for H in (3, 33, 150)], ids=lambda p: f"{p[0]}-{p[1]}")
def case(request, isa, dtype, monkeypatch):
    """A layer of two layers, x (T, N, I), and what it gives, on one instruction set."""
    modules = {size: import_module(f"fastrnn._kernels_f{8 * size}_{isa}") for size in (4, 8)}
    monkeypatch.setattr(cython, "kernels", lambda dtype: modules[dtype.itemsize])
    cell, H = request.param
    layer = make(cell, 5, H, num_layers=2, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(60, 5, 5)).astype(dtype)
    return layer, x, arrays(layer(x))


def test_batch_neighbours(case):
    layer, x, whole = case
    for rows in ([0], [4], [0, 1], [3, 1, 2]):
        assert_same_bits(arrays(layer(x[:, rows])), [a[:, rows] for a in whole])
    assert_same_bits(arrays(layer(x[:, 2])), [a[:, 2] for a in whole])


def test_states_carried_from_call_to_call(case):
    layer, x, whole = case
    state, outputs = None, []
    for t in range(0, len(x), 7):
        y, state = layer(x[t : t + 7], state)
        outputs.append(y)
    assert_same_bits(arrays((np.concatenate(outputs), state)), whole)


def test_streams(case):
    layer, x, whole = case
    stream = layer.stream(x.shape[1])
    y = [stream.step(x_t) for x_t in x[:20]]
    y += list(stream.process(x[20:50]))
    y += [stream.step(x_t) for x_t in x[50:]]
    assert_same_bits(arrays((np.array(y), stream.state)), whole)


def test_memory_layouts(case):
    layer, x, whole = case
    for same in (np.asfortranarray(x), x[:, ::-1].copy()[:, ::-1], x.transpose(1, 0, 2).copy().transpose(1, 0, 2)):
        assert_same_bits(arrays(layer(same)), whole)


@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("H", [3, 33, 150])
def test_ragged_rows_and_packed_ones_in_both_directions(cell, H):
    layer = make(cell, 5, H, num_layers=2, bidirectional=True)
    x, lengths = np.random.default_rng(0).normal(size=(90, 9, 5)).astype(np.float32), [90, 1, 0, 41, 89, 90, 7, 64, 33]
    whole = arrays(layer(x, lengths=lengths))
    for n, length in enumerate(lengths):
        alone = arrays(layer(x[:length, n]))
        assert_same_bits([whole[0][:length, n], *(a[:, n] for a in whole[1:])], alone, f"length {length}")
    rows = [n for n, length in enumerate(lengths) if length]
    packed = fastrnn.pack_padded_sequence(x[:, rows], [lengths[n] for n in rows], enforce_sorted=False)
    y, state = layer(packed)
    unpacked = arrays((fastrnn.pad_packed_sequence(y)[0], state))
    assert_same_bits(unpacked, [a[:, rows] for a in whole])


# ---- threads --------------------------------------------------------------------------------------------------------

#: Calls that are worth more than one thread, and how they are split: into what, T, N, I, H, further options.
SPLITS = {
    "rows": ("rows", 40, 24, 64, 64, {}),
    "ragged rows": ("rows", 80, 24, 64, 64, {"lengths": np.arange(24) * 80 // 23}),
    "units": ("units", 60, 1, 150, 320, {}),
    "units of ragged rows": ("units", 60, 3, 70, 320, {"lengths": np.array([7, 60, 49])}),
    "directions": ("sequence", 120, 3, 130, 70, {"bidirectional": True}),
    "layers": ("sequence", 800, 1, 64, 128, {"num_layers": 3}),
}


@pytest.fixture
def seen(monkeypatch):
    """What calls were split into, where more than one thread took part: "rows", "units", or directions and layers."""
    found = set()

    deal, run = cython.deal, cython._run

    def spied_deal(n, arrays):
        if n > 1:
            found.add("rows")
        return deal(n, arrays)

    def spied_run(team, *args):
        if team.size > 1:
            found.add("units")
        run(team, *args)

    monkeypatch.setattr(cython, "deal", spied_deal)
    monkeypatch.setattr(cython, "_run", spied_run)
    steps = sequence._Run.steps

    def spied(*args):
        if threading.current_thread() is not threading.main_thread():
            found.add("sequence")
        steps(*args)

    monkeypatch.setattr(sequence._Run, "steps", spied)
    return found


@pytest.mark.parametrize("cell", NAMES)
@pytest.mark.parametrize("split", SPLITS)
def test_number_of_threads(cell, split, dtype, seen, monkeypatch):
    into, T, N, I, H, options = SPLITS[split]
    options = dict(options)
    lengths = options.pop("lengths", None)
    layer = make(cell, I, H, dtype=dtype, **options)
    x = np.random.default_rng(1).normal(size=(T, N, I)).astype(dtype)
    monkeypatch.setattr(threads, "_limit", 1)
    whole = arrays(layer(x, lengths=lengths))
    assert not seen
    for n in (2, 3):
        seen.clear()
        fastrnn.set_num_threads(n)
        monkeypatch.setattr(cython, "_crowded_until", 0.0)
        assert_same_bits(arrays(layer(x, lengths=lengths)), whole, f"{n} threads")
        assert seen == {into}
