"""Arrays, copies, products and sums of the GPU engine; kernels that give up; too little memory."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest

import fastrnn
from fastrnn.cells import RNN_TANH, Weights
from fastrnn.cuda import engine, gemm, runtime
from fastrnn.cuda.runtime import Array, Kernel

DEVICE = runtime.device(0)
STREAM = DEVICE.stream()
rng = np.random.default_rng(0)


def test_views():
    a = rng.normal(size=(4, 5, 6)).astype(np.float32)
    on_device = STREAM.to_device(a)
    keys = (1, -1, slice(1, 3), (slice(None), 2), (Ellipsis, slice(2, 5)), (slice(None), None), (None, 1, Ellipsis, 0))
    keys += ((slice(0, 0), 1), (0, slice(4, 9), -2), Ellipsis)
    for key in keys:
        view, expected = on_device[key], a[key]
        assert view.shape == expected.shape, key
        if expected.size:
            assert all(n == 1 or s * 4 == t for n, s, t in zip(view.shape, view.strides, expected.strides, strict=True))
        np.testing.assert_array_equal(STREAM.to_host(view), expected)
    np.testing.assert_array_equal(STREAM.to_host(on_device.swapaxes(0, 2)), a.swapaxes(0, 2))
    np.testing.assert_array_equal(STREAM.to_host(on_device.reshape(20, -1)), a.reshape(20, -1))
    assert on_device.merged().shape == (20, 6)
    assert on_device.swapaxes(0, 1).merged() is None
    assert on_device.swapaxes(0, 1).dense
    assert not on_device[:, 1:].dense
    with pytest.raises(IndexError):
        on_device[4]
    with pytest.raises(IndexError, match="no steps"):
        on_device[::2]
    with pytest.raises(ValueError, match="cannot be reshaped"):
        on_device[:, 1:].reshape(-1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64, np.int32])
def test_copies(dtype):
    a = rng.integers(0, 99, (3, 4, 5)).astype(dtype)
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        source = STREAM.to_device(a).transpose(order)
        wide = STREAM.to_device(np.full((*source.shape[:2], 8), 7, dtype))
        STREAM.copy(wide[..., 2:-1][..., : source.shape[2]], source)
        found = STREAM.to_host(wide)
        np.testing.assert_array_equal(found[..., 2 : 2 + source.shape[2]], a.transpose(order))
        assert (found[..., :2] == 7).all()
    STREAM.fill(wide, 0xFF)
    assert (STREAM.to_host(wide).view(np.uint8) == 0xFF).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_products(dtype):
    """Every way in which a factor may lie, sizes at and past a tile, with and without batches."""
    sizes = [(1, 1, 1, 1), (1, 13, 5, 12), (2, 3, 9, 14), (3, 12, 4, 1)]
    for (B, M, K, N), turned_a, turned_b, accumulate in product(sizes, (False, True), (False, True), (False, True)):
        if (M, turned_a) == (12, True):
            continue
        a = rng.normal(size=(B, K, M) if turned_a else (B, M, K)).astype(dtype)
        b = rng.normal(size=(B, N, K) if turned_b else (B, K, N)).astype(dtype)
        c = rng.normal(size=(B, M, N + 2)).astype(dtype)
        on_device = STREAM.to_device(c)
        of_a, of_b = STREAM.to_device(a), STREAM.to_device(b)
        of_a, a = (of_a.swapaxes(1, 2), a.swapaxes(1, 2)) if turned_a else (of_a, a)
        of_b, b = (of_b.swapaxes(1, 2), b.swapaxes(1, 2)) if turned_b else (of_b, b)
        gemm.gemm(STREAM, of_a, of_b, on_device[..., :N], accumulate=accumulate)
        expected = c.copy()
        expected[..., :N] = a @ b + accumulate * c[..., :N]
        np.testing.assert_allclose(STREAM.to_host(on_device), expected, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_products_of_nothing_and_of_one_matrix_again_and_again():
    c = STREAM.to_device(np.ones((2, 3), np.float32))
    a, b = STREAM.empty((2, 0), np.float32), STREAM.empty((0, 3), np.float32)
    gemm.gemm(STREAM, a, b, c, accumulate=True)
    assert (STREAM.to_host(c) == 1).all()
    gemm.gemm(STREAM, a, b, c)
    assert not STREAM.to_host(c).any()
    x, w = rng.normal(size=(3, 2, 4)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    on_device, out = STREAM.to_device(w), STREAM.empty((3, 2, 5), np.float32)
    again = Array(on_device, on_device.pointer, (3, 4, 5), np.float32, (0, 5, 1))
    gemm.gemm(STREAM, STREAM.to_device(x), again, out)
    np.testing.assert_allclose(STREAM.to_host(out), x @ w, atol=1e-6)


@pytest.mark.parametrize(("R", "C"), [(1, 1), (3, 9), (8, 8), (9, 3), (100, 10), (0, 3), (3, 0)])
def test_sums_of_columns(R, C):
    a = rng.normal(size=(R, C))
    found = STREAM.to_host(gemm.column_sums(STREAM, STREAM.to_device(a)))
    np.testing.assert_allclose(found, a.sum(0), atol=1e-13)
    part = STREAM.to_device(a)[:, C // 2 :]
    np.testing.assert_allclose(STREAM.to_host(gemm.column_sums(STREAM, part)), a.sum(0)[C // 2 :], atol=1e-13)


def test_a_kernel_that_gives_up():
    from numba import float32

    def gives_up(status):
        status[0] = 1

    stream = DEVICE.stream(7)
    stream.launch(Kernel(gives_up, "i", 1, float32), (1,), [stream.status("bptt")])
    stream.watch()
    try:
        with pytest.raises(fastrnn.BackendError, match=r"\(bptt\) on .*gave up.*slower"):
            stream.synchronize()
        assert DEVICE.gave_up == {"bptt"}
        stream.synchronize()  # once
    finally:
        DEVICE.gave_up.clear()


def test_a_thread_learns_of_it_where_another_one_looked_first():
    from numba import float32

    def gives_up(status):
        status[0] = 1

    stream = DEVICE.stream(8)
    began = stream.check()
    stream.launch(Kernel(gives_up, "i", 1, float32), (1,), [stream.status("bptt")])
    stream.watch()
    try:
        with pytest.raises(fastrnn.BackendError):
            stream.synchronize()  # the other one
        with pytest.raises(fastrnn.BackendError, match=r"\(bptt\) on .*gave up"):
            stream.synchronize(began)
        stream.synchronize(stream.check())
    finally:
        DEVICE.gave_up.clear()


def test_host_memory_of_copies_under_way_is_bounded():
    stream = DEVICE.stream(9)
    for _ in range(3 * runtime._STAGED_ARRAYS):
        stream.to_device(np.zeros(2, np.float32), wait=False)
        assert len(stream._staged) <= runtime._STAGED_ARRAYS
    for _ in range(3):
        stream.to_device(np.zeros(runtime._STAGED // 8, np.float32), wait=False)
        assert sum(a.nbytes for a in stream._staged) <= runtime._STAGED


def test_streams_of_threads():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(DEVICE.stream, 2).result() is not DEVICE.stream(2)
        assert pool.submit(DEVICE.stream, 10).result() is DEVICE.stream(10)


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_weights_for_which_there_is_no_room(monkeypatch):
    def put(stream, to, array):
        raise MemoryError

    monkeypatch.setattr(DEVICE.driver, "put", put)
    weights = Weights(np.zeros((4, 1), np.float32), np.zeros((4, 4), np.float32))
    with pytest.raises(MemoryError):
        engine.prepare(DEVICE, RNN_TANH, [weights])
    gc.collect()


def test_too_little_memory(monkeypatch):
    def allocate(stream, size, dtype):
        raise MemoryError("5 MB of 7 MB are free")

    monkeypatch.setattr(DEVICE.driver, "allocate", allocate)
    expected = r"out of memory on .*4\.8 MB were asked for, float32 of shape \(1000, 1200\); 5 MB of 7 MB are free"
    with pytest.raises(fastrnn.BackendError, match=expected):
        STREAM.empty((1000, 1200), np.float32)


def test_a_batch_that_indices_cannot_count():
    layer = SimpleNamespace(GH=8, I=2, H_out=2)
    engine._check_sizes(layer, 1 << 27)
    with pytest.raises(fastrnn.BackendError, match="too large"):
        engine._check_sizes(layer, 1 << 28)
