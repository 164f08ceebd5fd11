"""The engine's own calls of the driver and of cuBLAS, through `cuda.core`, on the driver that `driver.c` makes up.

Each check is a process of its own, whose libraries are these.
"""

from __future__ import annotations

import ctypes
import gc
import os
import shutil
import subprocess
import sys
import threading
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

COMPILER = shutil.which(os.environ.get("CC", "cc"))
SOURCE = Path(__file__).with_name("driver.c")


@cache
def driver():
    library = ctypes.CDLL("libcuda.so.1")
    library.fake_allocated.restype = library.fake_retained.restype = ctypes.c_long
    return library


def check_no_context_before_it_is_needed():
    import fastrnn

    assert {info.name: info.available for info in fastrnn.backends()}["cuda"]
    assert driver().fake_retained() == 0
    os.environ["FASTRNN_CUDA_DEVICE"] = "2"
    sys.modules.pop("fastrnn.backends.cuda")
    (why,) = (info.why_not for info in fastrnn.backends() if info.name == "cuda")
    assert "there is 2 GPUs, numbered from 0, but FASTRNN_CUDA_DEVICE is 2" in why


def check_devices():
    import fastrnn
    from fastrnn.cuda import runtime

    for index in (0, 1):
        device = runtime.device(index)
        found = device.name, device.capability, device.multiprocessors, device.shared_per_block
        assert found == ("Fake GPU", (9, 0), 132, 232448)
        assert runtime.device(index) is device
    with pytest.raises(fastrnn.BackendError, match="cuda:2 is not there: this machine has 2, numbered from 0"):
        runtime.device(2)
    assert driver().fake_depth() == 0


def check_memory():
    import fastrnn
    from fastrnn.cuda import runtime

    for index in (0, 1):
        stream = runtime.device(index).stream()
        before = driver().fake_allocated()
        a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        on_device = stream.to_device(a)
        np.testing.assert_array_equal(stream.to_host(on_device[1]), a[1])
        other = stream.zeros(a.shape, np.float32)
        assert not stream.to_host(other).any()
        stream.copy(other, on_device)
        np.testing.assert_array_equal(stream.to_host(other), a)
        stream.fill(other[1], 0xFF)
        assert np.isnan(stream.to_host(other)[1]).all()
        assert driver().fake_allocated() == before + 2
        del on_device, other
        assert driver().fake_allocated() == before
        expected = r"8,589\.9 MB were asked for, float32 of shape \(32768, 65536\); 3,221 MB of 85,899 MB are free"
        with pytest.raises(fastrnn.BackendError, match=expected):
            stream.empty((1 << 15, 1 << 16), np.float32)
        assert driver().fake_depth() == 0


def check_what_is_current_is_put_back():
    from fastrnn.cuda import runtime

    first, second = runtime.device(0), runtime.device(1)
    current = ctypes.c_void_p()
    driver().cuCtxPushCurrent_v2(ctypes.c_void_p(0x1001))
    with first:
        driver().cuCtxGetCurrent(ctypes.byref(current))
        assert current.value == 0x1000
        with second:
            second.stream().zeros((3,), np.float32)
        driver().cuCtxGetCurrent(ctypes.byref(current))
        assert current.value == 0x1000
    driver().cuCtxGetCurrent(ctypes.byref(current))
    assert (current.value, driver().fake_depth()) == (0x1001, 1)


def check_products():
    from fastrnn.cuda import cublas, gemm, runtime
    from fastrnn.cuda.runtime import Array

    rng = np.random.default_rng(0)
    stream = runtime.device(0).stream()
    sizes = [(1, 3, 4, 5), (1, 1, 4, 5), (1, 3, 1, 5), (1, 3, 4, 1), (2, 3, 4, 5), (2, 1, 1, 1), (3, 5, 1, 2)]
    for dtype in (np.float32, np.float64):
        for (B, M, K, N), turned_a, turned_b, accumulate, wide in product(sizes, *[(False, True)] * 4):
            a = rng.normal(size=(B, K, M) if turned_a else (B, M, K)).astype(dtype)
            b = rng.normal(size=(B, N, K) if turned_b else (B, K, N)).astype(dtype)
            c = rng.normal(size=(B, M, N + 3 * wide)).astype(dtype)
            of_a, of_b, of_c = map(stream.to_device, (a, b, c))
            of_a, a = (of_a.swapaxes(1, 2), a.swapaxes(1, 2)) if turned_a else (of_a, a)
            of_b, b = (of_b.swapaxes(1, 2), b.swapaxes(1, 2)) if turned_b else (of_b, b)
            given = [of_a, of_b, of_c[..., :N]]
            gemm.gemm(stream, *(given if B > 1 else [array[0] for array in given]), accumulate=accumulate)
            expected = c.copy()
            expected[..., :N] = a @ b + accumulate * c[..., :N]
            np.testing.assert_allclose(stream.to_host(of_c), expected, rtol=0, atol=20 * np.finfo(dtype).eps)
    # The same matrix again and again, and rows that cuBLAS cannot take.
    again = Array(of_b.memory, of_b.pointer, (2, 2, 2), np.float64, (0, 2, 1))
    assert cublas.product(stream, again, again, stream.zeros((2, 2, 2), np.float64), "d", False, "ieee") is not None
    same_row = Array(of_b.memory, of_b.pointer, (1, 2, 2), np.float64, (0, 0, 1))
    assert cublas.product(stream, same_row, same_row, stream.zeros((1, 2, 2), np.float64), "d", False, "ieee") is None


def check_launches():
    import numba

    import fastrnn
    from fastrnn.cuda import runtime
    from fastrnn.cuda.runtime import Kernel

    seen = []

    pointers, unsigned = ctypes.POINTER(ctypes.c_void_p), ctypes.c_uint

    @ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(unsigned), unsigned, unsigned, pointers)
    def launched(name, grid, threads, shared, parameters):
        values = [ctypes.cast(parameters[i], ctypes.POINTER(ctypes.c_int64))[0] for i in range(3)]
        seen.append((b"made" in name, grid[:3], threads, shared, values))

    def made(a, n, m):
        a[n] = m

    driver().fake_callback(launched)
    stream = runtime.device(0).stream()
    seen.clear()
    a = stream.empty((4,), np.float32)
    for options in ({}, {"cooperative": True}, {"shared": 100_000}):
        stream.launch(Kernel(made, "fnn", 64, numba.float32, **options), (3, 2), [a[1], -5, 1 << 40])
    values = [a.pointer + 4, -5, 1 << 40]
    assert seen == [(True, [3, 2, 1], 64, shared, values) for shared in (0, 0, 100_000)]
    with pytest.raises(fastrnn.BackendError, match="cuKernelSetAttribute"):
        stream.launch(Kernel(made, "fnn", 64, numba.float32, shared=1 << 20), (3, 2), [a, 0, 0])
    driver().fake_callback(None)


def check_layers_in_several_threads():
    import fastrnn

    os.environ["FASTRNN_CUDA_PATH"] = "general"  # whose kernels are compiled soon
    with fastrnn.use_backend("cuda"):
        layer, x = fastrnn.LSTM(3, 4, num_layers=2, bidirectional=True), np.ones((5, 2, 3), np.float32)
        layer(x)
    failures = []

    def work():
        try:
            with fastrnn.use_backend("cuda"):
                for _ in range(5):
                    y, backward = layer.vjp(x, lengths=[5, 2])
                    backward(np.ones_like(y[0]))
            assert driver().fake_depth() == 0
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


class Interface:
    """An array with nothing but the interface of another one."""

    def __init__(self, array, **changes):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__ | changes


def check_arrays_of_numba():
    """Kernels do not run, but all else: whose memory it is, when it is given back, on which GPU it is."""
    from numba import cuda

    import fastrnn

    os.environ["FASTRNN_CUDA_PATH"] = "general"

    def full(shape, value):
        return cuda.to_device(np.full(shape, value, np.float32))

    layer, hx = fastrnn.LSTM(3, 4, num_layers=2, device="cuda", rng=0), (full((2, 2, 4), 2), full((2, 2, 4), 3))
    y, (h_n, c_n) = layer(full((0, 2, 3), 0), hx)  # no steps, no kernels
    np.testing.assert_array_equal(h_n.copy_to_host(), np.full((2, 2, 4), 2, np.float32))
    np.testing.assert_array_equal(c_n.copy_to_host(), np.full((2, 2, 4), 3, np.float32))
    assert {type(a) for a in (y, h_n, c_n)} == {type(hx[0])}
    x, allocated = full((5, 2, 3), 1), []
    for _ in range(4):
        lengths, reset = cuda.to_device(np.array([5, 2])), np.zeros((5, 2), bool)
        result, backward = layer.vjp(x, hx, lengths=lengths, reset=reset)
        found = backward(*result)
        stream = layer.stream(2)
        step, _ = stream.step(full((2, 3), 1)), stream.reset(np.array([True, False]))
        stream.state = stream.state
        states = layer(x, hx, return_states=True)[2]
        assert {type(a) for a in (found.x, step, *found.params.values(), *states)} == {type(x)}
        assert (found.x.shape, step.shape, states.c.shape) == ((5, 2, 3), (2, 4), (2, 6, 2, 4))
        out = full((5, 2, 4), 0)
        assert layer(x, out=out)[0] is out
        del lengths, result, backward, found, stream, step, states, out
        gc.collect()
        cuda.current_context().memory_manager.deallocations.clear()
        allocated.append(driver().fake_allocated())
    assert len({*allocated[1:]}) == 1
    with cuda.gpus[1]:
        elsewhere = full((5, 2, 3), 1)
    with pytest.raises(ValueError, match="x should be on cuda:0, as the layer is, got: cuda:1"):
        layer(elsewhere)
    assert type(layer.to("cuda:1")(elsewhere)[0]) is type(x)
    with pytest.raises(ValueError, match="x should be on cuda:1, as the layer is, got: cuda:0"):
        layer.vjp(x)


def check_arrays_of_no_library():
    from cuda.core.utils import StridedMemoryView
    from numba import cuda

    import fastrnn
    from fastrnn.cuda.device_array import DeviceArray

    os.environ["FASTRNN_CUDA_PATH"] = "general"
    layer = fastrnn.GRU(3, 4, device="cuda", rng=0)
    h_0 = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    x, hx = cuda.to_device(np.zeros((0, 2, 3), np.float32)), cuda.to_device(h_0)
    _, h_n = layer(Interface(x), Interface(hx))
    assert type(h_n) is DeviceArray
    np.testing.assert_array_equal(np.asarray(h_n), h_0)
    before = driver().fake_allocated()
    view = StridedMemoryView.from_dlpack(h_n, stream_ptr=1)
    found = view.ptr, view.shape, view.strides, view.dtype, view.device_id, view.readonly
    assert found == (h_n.__cuda_array_interface__["data"][0], (1, 2, 4), (8, 4, 1), np.float32, 0, False)
    for version in (None, (1, 0)):
        assert "dltensor" in repr(h_n.__dlpack__(max_version=version))
    of_numba = cuda.as_cuda_array(h_n)
    del h_n
    gc.collect()
    np.testing.assert_array_equal(of_numba.copy_to_host(), h_0)
    del of_numba
    gc.collect()
    assert driver().fake_allocated() == before
    del view
    gc.collect()
    assert driver().fake_allocated() == before - 1
    host = Interface(x, data=(np.zeros((5, 2, 3), np.float32).ctypes.data, False), shape=(5, 2, 3))
    with pytest.raises(TypeError, match=r"x cannot be taken from Interface: .* is no address on a GPU"):
        layer(host)


class FakeJAX:
    """An array that has DLPack alone: another's."""

    def __init__(self, array):
        self.array, self.__dlpack__, self.__dlpack_device__ = array, array.__dlpack__, array.__dlpack_device__

    def block_until_ready(self):
        return self


def check_arrays_with_dlpack_alone():
    import fastrnn
    from fastrnn.cuda import runtime
    from fastrnn.cuda.device_array import DeviceArray

    sys.modules["jax"] = SimpleNamespace(Array=FakeJAX, dlpack=SimpleNamespace(from_dlpack=FakeJAX))
    layer = fastrnn.LSTM(3, 4, device="cuda:1", rng=0)
    states = [np.full((1, 2, 4), value, np.float32) for value in (2, 3)]

    def give(array, gpu=1):
        stream = runtime.device(gpu).stream()
        return FakeJAX(DeviceArray(stream.to_device(array), stream))

    x = np.zeros((0, 2, 3), np.float32)
    y, found = layer(give(x), tuple(map(give, states)))
    assert {type(a) for a in (y, *found)} == {FakeJAX}
    for a, expected in zip(found, states, strict=True):
        np.testing.assert_array_equal(np.asarray(a.array), expected)
    with pytest.raises(ValueError, match=r"hx\[0\] should be on cuda:1, as the layer is, got: cuda:0"):
        layer(give(x), tuple(give(state, 0) for state in states))
    before = driver().fake_allocated()
    del y, found, a
    gc.collect()
    assert driver().fake_allocated() == before - 3
    assert driver().fake_depth() == 0


CHECKS = {name: check for name, check in globals().items() if name.startswith("check_")}


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    for name, options in (("cuda.so.1", []), ("cublas.so.13", ["-DBLAS"]), ("cublasLt.so.13", ["-DBLAS"])):
        command = [COMPILER, "-shared", "-fPIC", "-O1", *options, str(SOURCE), "-o", str(folder / f"lib{name}")]
        subprocess.run([*command, f"-Wl,-soname,lib{name}", "-ldl"], check=True)
    return folder


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs numba-cuda")
@pytest.mark.skipif(not sys.platform.startswith("linux") or COMPILER is None, reason="needs Linux and a C compiler")
@pytest.mark.skipif(os.environ.get("NUMBA_ENABLE_CUDASIM") == "1", reason="has a driver of its own")
@pytest.mark.parametrize("name", CHECKS)
def test_on_a_made_up_driver(name, libraries, tmp_path):
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "FASTRNN_CUDA_CACHE": str(tmp_path)}
    command = [sys.executable, __file__, name]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "driver.c lacks" not in result.stderr


if __name__ == "__main__":
    for library in ("cublasLt", "cublas"):  # before others of that name are looked for
        ctypes.CDLL(f"lib{library}.so.13")
    CHECKS[sys.argv[1]]()
