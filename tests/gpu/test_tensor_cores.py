"""The forward pass of batches on tensor cores, on the executor, against the reference in float64."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("greenlet")

import executor
from forward_case import Forward

from fastrnn.cells import CELLS, GRU, LSTM, RNN_RELU, RNN_TANH

tensor_cores = executor.load("tensor_cores")
Tuning, tuning = tensor_cores.Tuning, tensor_cores.tuning

RAGGED = [5, 0, 3, 1, 5, 4, 2, 0, 5, 1, 3]
H100 = SimpleNamespace(multiprocessors=132, shared_per_block=227 * 1024, capability=(9, 0))


def resets(T, N, seed=0):
    return np.random.default_rng(seed).random((T, N)) < 0.4


def check(case, how, precision="ieee", edits=(), **options):
    module = executor.load("tensor_cores", edits)
    spec, H, N, D = case.shape
    kernel = module.kernel(spec, H, N, D, **case.flags, precision=precision, tuning=how)
    case.check(kernel, module.grid(H, N, D, how), **options)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("cell", CELLS)
def test_every_cell(cell, seed):
    check(Forward(CELLS[cell], 32, 16, keep=True, draw=seed), Tuning(1, 1, 2), seed=seed)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("spec", [LSTM, GRU], ids=lambda spec: spec.name)
def test_everything_at_once(spec, reverse):
    case = Forward(
        spec, 48, 11, 2, 5, lengths=RAGGED, reset=resets(5, 11, reverse), reverse=reverse, keep=True, draw=reverse
    )
    check(case, Tuning(1, 1, 3), seed=reverse)


@pytest.mark.parametrize("reverse", [0, 1])
@pytest.mark.parametrize("options", [{"lengths": RAGGED}, {"reset": resets(5, 11)}, {"keep": True}], ids=str)
def test_each_option(options, reverse):
    check(Forward(LSTM, 32, 11, T=5, reverse=reverse, **options), Tuning(2, 1, 2), seed=7)


@pytest.mark.parametrize(
    "how",
    [
        Tuning(1, 1, 1),
        Tuning(1, 1, 4),  # warps with nothing to multiply
        Tuning(1, 3, 2),  # a last block with fewer units, half a tile of gates
        Tuning(3, 2, 3, stored=False),
        Tuning(2, 2, 2, kept=0),
        Tuning(2, 1, 2, stored=False, kept=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_tunings(how, precision):
    check(Forward(GRU, 48, 20, reverse=1), how, precision, seed=3)


@pytest.mark.parametrize("N", [1, 8, 9])
def test_batches(N):
    check(Forward(LSTM, 32, N, 2, 4), Tuning(1, 2, 2), seed=N)


def test_one_step():
    check(Forward(LSTM, 32, 5, 2, 1, reset=np.ones((1, 5)), keep=True), Tuning(1, 1, 2))
    check(Forward(RNN_TANH, 32, 5, 2, 1, lengths=[1, 0, 1, 0, 0]), Tuning(1, 1, 2))


def test_rows_that_never_run():
    check(Forward(LSTM, 32, 9, 2, 3, lengths=[0] * 9), Tuning(1, 1, 2))


@pytest.mark.parametrize("seed", range(4))
def test_schedules(seed):
    check(Forward(LSTM, 64, 16, T=6), Tuning(1, 2, 4), seed=seed, delay=300 if seed % 2 else 60)


def test_nan_that_looks_like_nothing():
    """relu lets a NaN with the sentinel's bits pass."""

    def change(given):
        given.gx[0, 3] = given.h_0[0, 2, 1] = executor.SENTINEL

    check(Forward(RNN_RELU, 32, 8, T=3, change=change), Tuning(1, 1, 2))


# ---- precision


def errors(precision):
    """Of a step, with weights and h rounded as tensor cores round them."""
    case = Forward(RNN_RELU, 128, 8, T=1)
    module = executor.load("tensor_cores")
    how = Tuning(1, 2, 4, stored=precision != "ieee, split anew")
    precision = precision.split(",")[0]
    kernel = module.kernel(*case.shape, **case.flags, precision=precision, tuning=how)
    case.run(kernel, module.grid(128, 8, 1, how), round_to_tf32=True)
    return np.abs(case.got.y[..., :128] - case.truth.y).max()


def test_precision():
    assert 1e-4 < errors("tf32") < 2e-3
    # Numbers of 53 bits are taken as of 22. Of float32, which has 24, see the next test.
    assert errors("ieee") < 1e-6
    assert errors("ieee, split anew") < 1e-6


@pytest.mark.parametrize("H", [512, 1024])
def test_ieee_is_as_exact_as_float32(H):
    """With the sums as tensor cores make them: eight products and a sum, cut off to float32."""
    rng = np.random.default_rng(H)
    w = (rng.uniform(-1, 1, (500, H)) / np.sqrt(H)).astype(np.float32)
    h = np.tanh(rng.standard_normal((500, H))).astype(np.float32)
    exact = (w.astype(np.float64) * h).sum(1)
    plain = np.zeros(500, np.float32)
    for k in range(H):
        plain += w[:, k] * h[:, k]

    total = np.zeros(500, np.float32)
    w_large, h_large = cut(w), rounded(h)
    for warp in range(8):
        columns = np.arange(H).reshape(-1, 8, 2, 8)[:, warp].reshape(-1, 8)
        large, small = np.zeros((2, 500), np.float32)
        for k in columns:
            large = multiply(large, w_large[:, k], h_large[:, k])
            small = multiply(small, (w - w_large)[:, k], h_large[:, k])
            small = multiply(small, w_large[:, k], (h - h_large)[:, k])
        total += small + large
    assert rms(total - exact) < 1.2 * rms(plain - exact)


def cut(a):
    """Without the lower 13 bits."""
    return (a.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


def rounded(a):
    return cut((a.view(np.uint32) + np.uint32(0x1000)).view(np.float32))


def multiply(c, a, b):
    exact = c + (cut(np.ascontiguousarray(a)).astype(np.float64) * cut(np.ascontiguousarray(b))).sum(1)
    near = exact.astype(np.float32)
    return np.where(np.abs(near) > np.abs(exact), np.nextafter(near, np.float32(0)), near)


def rms(a):
    return np.sqrt(np.mean(a**2))


# ---- faults


def test_gives_up():
    """A block that stores nothing: the others stop to wait, and all come to their end."""
    store = "ptx.store_relaxed(y, in_y[i] + y_now, value)"
    case = Forward(LSTM, 32, 8, T=3)
    module = executor.load("tensor_cores", ((store, f"if block > 0:\n                        {store}"),))
    kernel = module.kernel(*case.shape, **case.flags, precision="ieee", tuning=Tuning(1, 1, 2))
    case.run(kernel, module.grid(32, 8, 1, Tuning(1, 1, 2)), spins=200, patience=2000)
    assert case.got.status[0] == 1


FAULTS = {
    "nothing is waited for": ("if cuda.all_sync(LANES, ready | gave_up):", "if True:"),
    "no barrier": ("cuda.syncthreads()", "pass"),
    "one place for partial sums": ("place = PARTIALS - place", "place = 0"),
    "the sentinel is written": ("value = readable(state[0])", "value = state[0]"),
    "one word of four is looked at": ("| (ptx.bits(values[at + 3]) == SENTINEL)", ""),
    "rows past the batch are polled": ("if row < N:\n            end =", "if True:\n            end ="),
    "reset rows are polled": ("if resets and takes and not (backwards and starts):", "if False:"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_caught(fault):
    def change(given):
        given.gx[0, 4] = executor.SENTINEL

    reset = None if "sentinel" in fault else resets(5, 11)
    case = Forward(RNN_RELU, 32, 11, T=5, lengths=RAGGED, reset=reset, change=change)
    check(case, Tuning(1, 1, 2))
    with pytest.raises((executor.Fault, AssertionError)):
        check_often(case, FAULTS[fault])


def check_often(case, edit):
    for seed in range(5):
        check(case, Tuning(1, 1, 2), edits=(edit,), seed=seed, spins=1000)


# ---- tunings


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("spec", [LSTM, GRU, RNN_TANH], ids=lambda spec: spec.name)
def test_what_is_chosen(spec, precision):
    for H in (16, 48, 128, 320, 512, 768, 1024):
        for N, D in ((1, 1), (5, 2), (16, 1), (20, 2), (64, 1), (128, 1)):
            how = tuning(spec, H, N, D, H100.multiprocessors, H100.shared_per_block, precision)
            if how is None:
                assert H > 320
                continue
            assert D * how.groups(N) * how.blocks(H) <= H100.multiprocessors
            assert 8 * how.groups(N) * how.row_tiles >= N
            assert 8 * how.blocks(H) * how.unit_tiles >= H
            assert how.shared(spec.n_gates, H, precision) <= H100.shared_per_block
            assert 32 * how.warps * how.registers(spec, H, precision) <= 65536


def test_what_is_large_enough():
    """Shapes that are wanted have a tuning."""
    for H, N in ((512, 128), (1024, 64)):
        assert tuning(LSTM, H, N, 1, H100.multiprocessors, H100.shared_per_block) is not None
    assert tuning(LSTM, 2048, 16, 1, H100.multiprocessors, H100.shared_per_block) is None


def test_fits():
    assert tensor_cores.fits(LSTM, np.dtype("f4"), 512, 16, 1, H100)
    assert not tensor_cores.fits(LSTM, np.dtype("f8"), 512, 16, 1, H100)
    assert not tensor_cores.fits(LSTM, np.dtype("f4"), 500, 16, 1, H100)
    assert not tensor_cores.fits(LSTM._replace(unit_weights=1), np.dtype("f4"), 512, 16, 1, H100)
    assert not tensor_cores.fits(
        LSTM, np.dtype("f4"), 512, 16, 1, SimpleNamespace(**{**vars(H100), "capability": (7, 5)})
    )
