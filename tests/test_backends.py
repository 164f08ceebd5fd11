"""Every backend, held to the reference: sizes, directions, ragged rows, resets, recorded states, memory layouts.

Truth is always the reference in float64 on the same numbers.
"""

from __future__ import annotations

import inspect
import threading
from importlib import import_module

import numpy as np
import pytest
from layer_tools import CELLS, layouts, make, parts_of, random_state, truth
from sampler import configurations

import fastrnn


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_hidden_size(cell, dtype, backend, disagreement):
    """H from 1 to 70: below, at and past every vector width, with every remainder; both directions."""
    wrong = []
    for H in range(2 if cell == "lstm_proj" else 1, 71):
        rng = np.random.default_rng(H)
        layer = make(cell, 1 + H % 5, H, dtype, rng=H, bidirectional=True)
        N = 1 + H % 3
        x, hx = rng.normal(size=(4, N, layer.input_size)).astype(dtype), random_state(rng, layer, N)
        if problem := disagreement(layer(x, hx), truth(layer, x, hx), dtype):
            wrong.append(f"H={H} N={N}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_batch_size(cell, dtype, backend, disagreement):
    """N from 1 to 9 and some larger, ragged and not, at sizes with and without a tail."""
    wrong = []
    for N in (*range(1, 10), 13, 33):
        for H in (5, 16, 37):
            rng = np.random.default_rng(100 * H + N)
            layer = make(cell, 3, H, dtype, rng=N, bidirectional=bool(N % 2))
            x, hx = rng.normal(size=(6, N, 3)).astype(dtype), random_state(rng, layer, N)
            for lengths in (None, rng.integers(0, 7, N)):
                got, expected = layer(x, hx, lengths=lengths), truth(layer, x, hx, lengths=lengths)
                if problem := disagreement(got, expected, dtype):
                    wrong.append(f"N={N} H={H} lengths={lengths}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_wide_inputs_and_long_sequences(cell, backend, disagreement):
    """More steps and features than any chunk of the input projection holds."""
    wrong = []
    for T, N, I, H in ((1000, 1, 3, 8), (300, 3, 5, 16), (3, 2, 700, 9), (1, 1, 1, 1), (2, 300, 2, 4)):
        if cell == "lstm_proj" and H == 1:
            continue
        layer = make(cell, I, H, bidirectional=True)
        # Scaled, so that the sum over many features stays of order one, and its rounding error with it.
        x = (np.random.default_rng(T).normal(size=(T, N, I)) / np.sqrt(I)).astype(np.float32)
        if problem := disagreement(layer(x), truth(layer, x), "float32"):
            wrong.append(f"T={T} N={N} I={I} H={H}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_ragged_rows_resets_and_states_together(cell, backend, disagreement):
    wrong = []
    shapes = {"T": [1, 2, 17], "N": [1, 2, 5], "H": [3, 16, 33], "form": ["plain", "lengths"]}
    for config in configurations(80, seed=3, cell=cell, **shapes):
        layer, (x, hx, lengths) = config.layer(), config.inputs()
        rng = np.random.default_rng(config.seed)
        reset = rng.random(x.shape[:2]) < (0, 0.2, 0.6, 1)[config.seed % 4]
        options = {"lengths": lengths, "reset": reset, "return_states": True}
        if problem := disagreement(layer(x, hx, **options), truth(layer, x, hx, **options), config.dtype):
            wrong.append(f"{problem}: {config} reset={reset.mean():.2f}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_side_by_side(cell, backend, disagreement, monkeypatch):
    """Few rows and many steps: with two threads or more, layers run as a wavefront over chunks of time."""
    monkeypatch.setattr(import_module("fastrnn.sequence"), "_PAYS_WAVE", 1)  # even for a small layer
    monkeypatch.setattr(import_module("fastrnn.threads"), "_limit", 1)  # restored afterwards, whatever is set below
    wrong = []
    rng = np.random.default_rng(0)
    layer = make(cell, 3, 20, num_layers=3)
    for N in (1, 3):
        x, hx = rng.normal(size=(150, N, 3)).astype(np.float32), random_state(rng, layer, N)
        lengths, reset = rng.integers(0, 151, N), rng.random((150, N)) < 0.05
        for options in ({}, {"lengths": lengths, "reset": reset}, {"lengths": np.sort(lengths)[::-1]}):
            expected = truth(layer, x, hx, **options, return_states=True)
            for n in (1, 2, 3):
                fastrnn.set_num_threads(n)
                if problem := disagreement(layer(x, hx, **options, return_states=True), expected, "float32"):
                    wrong.append(f"{n} threads, N={N}, {[*options]}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float64", 30.0), ("float64", 1e3), ("float64", 1e300), ("float32", 1e30)]
)
def test_saturation(cell, dtype, scale, backend, assert_close):
    """Gates at 0 and 1 exactly, no overflow on the way. In float32 only where no rounding error of a sum is left."""
    layer = make(cell, 3, 20, dtype, bias=False)
    x = (np.random.default_rng(1).normal(size=(6, 3, 3)) * scale).astype(dtype)
    assert_close(layer(x), truth(layer, x), dtype)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_any_memory_layout(cell, batch_first, backend, tmp_path):
    layer = make(cell, 3, 19, batch_first=batch_first, bidirectional=True)
    rng = np.random.default_rng(0)
    x, hx = rng.normal(size=(5, 4, 3)).astype(np.float32), random_state(rng, layer, 5 if batch_first else 4)
    for lengths in (None, [3, 5, 0, 4, 1] if batch_first else [5, 0, 3, 1]):
        lengths = None if lengths is None else np.minimum(lengths, x.shape[1 if batch_first else 0])
        y, state = layer(x, hx, lengths=lengths)
        for name, same in layouts(x, tmp_path).items():
            before = np.array(same)
            y_same, state_same = layer(same, hx, lengths=lengths)
            np.testing.assert_array_equal(y_same, y, err_msg=name)
            for part, expected in zip(parts_of(state_same), parts_of(state), strict=True):
                np.testing.assert_array_equal(part, expected, err_msg=name)
            np.testing.assert_array_equal(np.array(same), before, err_msg=f"{name} was written to")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [None, [2, 6, 0, 5]])
def test_zero_strides(cell, lengths, backend):
    """One number, one step or one row again and again."""
    layer, rng = make(cell, 3, 5), np.random.default_rng(0)
    for shape in ((1, 1, 1), (1, 1, 3), (6, 1, 3), (1, 4, 3)):
        x = np.broadcast_to(rng.normal(size=shape).astype(np.float32), (6, 4, 3))
        y, state = layer(x.copy(), lengths=lengths)
        y_same, state_same = layer(x, lengths=lengths)
        np.testing.assert_array_equal(y_same, y)
        np.testing.assert_array_equal(parts_of(state_same)[0], parts_of(state)[0])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_states_in_any_memory_layout(cell, backend, tmp_path):
    layer = make(cell, 3, 4, num_layers=3, bidirectional=True)
    rng = np.random.default_rng(0)
    x, hx = rng.normal(size=(5, 2, 3)), random_state(rng, layer, 2)
    y, _ = layer(x, hx)
    for states in zip(*(layouts(part, tmp_path).values() for part in parts_of(hx)), strict=True):
        before = [np.array(state) for state in states]
        np.testing.assert_array_equal(layer(x, states if cell == "lstm" else states[0])[0], y)
        for state, old in zip(states, before, strict=True):
            np.testing.assert_array_equal(np.array(state), old)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("lengths", [None, [2, 4, 0], [4, 2, 0]], ids=["whole", "unsorted", "sorted"])
def test_out(cell, batch_first, lengths, backend):
    """Written wholly, whatever it held and however it lies in memory, and returned."""
    layer = make(cell, 3, 6, batch_first=batch_first, bidirectional=True, num_layers=2)
    x = np.random.default_rng(0).normal(size=(3, 4, 3) if batch_first else (4, 3, 3)).astype(np.float32)
    y, end = layer(x, lengths=lengths)
    wide = np.full((*y.shape[:2], 3 * y.shape[2]), np.nan, np.float32)
    for out in (
        np.full_like(y, np.nan),
        np.asfortranarray(np.full_like(y, np.nan)),
        wide[..., : y.shape[2]],
        wide[..., y.shape[2] :: 2],
        np.full_like(y, np.nan)[::-1, ::-1],
        np.full_like(y.swapaxes(0, 1), np.nan).swapaxes(0, 1),
    ):
        got, state = layer(x, lengths=lengths, out=out)
        assert got is out
        np.testing.assert_array_equal(out, y)
        for part, expected in zip(parts_of(state), parts_of(end), strict=True):
            np.testing.assert_array_equal(part, expected)


def test_out_unbatched(backend):
    layer = fastrnn.GRU(4, 4, rng=0)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    y, _ = layer(x)
    out = np.empty_like(y)
    assert layer(x, out=out)[0] is out
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize("num_layers", [1, 2])
def test_out_may_overlap_the_input(num_layers, backend):
    layer = fastrnn.GRU(4, 2, num_layers, bidirectional=True, rng=0)
    x = np.random.default_rng(0).normal(size=(300, 3, 4)).astype(np.float32)
    y, _ = layer(x)
    for place in (slice(0, 300), slice(1, 301), slice(7, 307)):
        buffer = np.zeros((307, 3, 4), np.float32)
        buffer[:300] = x
        layer(buffer[:300], out=buffer[place])
        np.testing.assert_array_equal(buffer[place], y)


# --- threads, contract ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_several_threads_on_one_layer(cell, backend, disagreement):
    """Calls of different shapes at once, the packed weights made by whoever comes first."""
    layer = make(cell, 3, 33, num_layers=2, bidirectional=True)
    inputs = [np.random.default_rng(i).normal(size=(10 + i, 1 + i % 4, 3)).astype(np.float32) for i in range(8)]
    expected = [layer(x) for x in inputs]
    problems = []

    def work(first):
        with fastrnn.use_backend(backend):
            barrier.wait()
            for turn in range(20):
                i = (first + turn) % len(inputs)
                if problem := disagreement(layer(inputs[i]), expected[i], "float32"):
                    problems.append(problem)

    barrier = threading.Barrier(4)
    layer.parameters().changed()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_signatures_are_equal():
    backends = import_module("fastrnn.backends")
    modules = [backends.load(info.name) for info in fastrnn.backends() if info.available]
    assert len(modules) >= 2
    functions = {name: f for name, f in vars(backends.Backend).items() if inspect.isfunction(f) and name[0] != "_"}
    assert {"prepare", "forward", "prepare_backward", "backward"} < set(functions)

    def parameters(function):
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    for module in modules:
        assert isinstance(module.CHUNK_STEPS, int)
        assert module.CHUNK_STEPS > 0
        for name, declared in functions.items():
            assert parameters(getattr(module, name)) == parameters(declared)[1:], f"{module.__name__}.{name}"  # no self


def test_the_table_and_the_choice():
    table = {info.name: info for info in fastrnn.backends()}
    assert table["reference"].available
    assert table["cython"].available, table["cython"].why_not
    layer, x = fastrnn.LSTM(3, 40, rng=0), np.ones((20, 2, 3), np.float32)
    results = {}
    for name in ("reference", "cython"):
        with fastrnn.use_backend(name):
            results[name] = layer(x)[0]
            with fastrnn.use_backend("reference"):
                np.testing.assert_array_equal(layer(x)[0], results["reference"])
            np.testing.assert_array_equal(layer(x)[0], results[name])
    assert (results["reference"] != results["cython"]).any()  # so that the lines above can tell them apart


def test_cuda_precision():
    backends = import_module("fastrnn.backends")
    assert backends.cuda_precision() == "ieee"
    try:
        fastrnn.set_cuda_precision("tf32")
        assert backends.cuda_precision() == "tf32"
        for wrong in ("bf16", None, True):
            with pytest.raises(ValueError, match="precision should be 'ieee' or 'tf32', got:"):
                fastrnn.set_cuda_precision(wrong)
    finally:
        fastrnn.set_cuda_precision("ieee")


@pytest.mark.parametrize("choose", ["set_backend", "use_backend"])
def test_unknown_backends(choose):
    def call(name):
        if choose == "set_backend":
            fastrnn.set_backend(name)
        else:
            with fastrnn.use_backend(name):
                pass

    with pytest.raises(ValueError, match=r"backend should be one of .*reference.* got: 'fortran'"):
        call("fortran")
