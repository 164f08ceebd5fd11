"""What torch, CuPy, JAX and Numba are asked, and what becomes of their arrays: with stand-ins, in the simulator."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
from device_tools import Fake, Twins, nested

import fastrnn
from fastrnn.cuda import device_array, engine, libraries


class FakeLibrary:
    """A module with arrays over NumPy's memory, its current stream, and a list of what it allocated."""

    def __init__(self, handle):
        self.handle, self.made = handle, []

        class Mine(Fake):
            is_cuda, requires_grad = True, False

            @property
            def shape(self):
                return self.array.shape

            def reshape(self, shape):
                return type(self)(self.array.reshape(shape))

        self.kind = Mine

    def new(self, shape, dtype=None, device="cuda:0"):
        assert device == "cuda:0"
        self.made.append(self.kind(np.full(shape, np.nan, dtype)))
        return self.made[-1]

    def give(self, value):
        return nested(self.kind, value)


def torch(handle):
    library = FakeLibrary(handle)
    library.Tensor, library.empty = library.kind, library.new
    library.float32, library.float64 = np.float32, np.float64
    library.cuda = SimpleNamespace(current_stream=lambda gpu: SimpleNamespace(cuda_stream=library.handle))
    return library


def cupy(handle):
    library = FakeLibrary(handle)
    library.ndarray, library.empty = library.kind, library.new
    library.cuda = SimpleNamespace(
        Device=lambda gpu: nullcontext(), get_current_stream=lambda gpu: SimpleNamespace(ptr=library.handle)
    )
    return library


LIBRARIES = {"torch": torch, "cupy": cupy}


@pytest.fixture
def streams(monkeypatch):
    """The handles of the streams that layers run on."""
    seen = []
    for name in ("forward", "backward"):
        original = getattr(engine, name)

        def spy(prepared, stream, *args, original=original, **options):
            seen.append(stream.handle)
            return original(prepared, stream, *args, **options)

        monkeypatch.setattr(engine, name, spy)
    return seen


@pytest.mark.parametrize("name", LIBRARIES)
@pytest.mark.parametrize("batch_first", [False, True])
def test_memory_and_stream_are_the_librarys(name, batch_first, streams, monkeypatch, assert_close):
    library = LIBRARIES[name](77)
    monkeypatch.setitem(sys.modules, name, library)
    twins = Twins("lstm", num_layers=2, bidirectional=True, batch_first=batch_first)
    given = library.give((twins.x, twins.hx))

    def taken(value):
        def one(array):
            assert any(array.array is m.array or array.array.base is m.array for m in library.made)
            return array.array

        return nested(one, value)

    output, final = twins.gpu(*given)
    assert_close(taken((output, final)), nested(np.float64, twins.cpu(twins.x, twins.hx)), "float32")
    assert len(library.made) == 3  # nothing is made twice
    (output, final), backward = twins.gpu.vjp(*given)
    seeds = taken((output, final))
    found = taken(backward(*library.give(seeds)))
    with fastrnn.use_backend("reference"):
        expected = twins.cpu.vjp(twins.x, twins.hx)[1](*seeds)
    assert_close(found, nested(np.float64, expected), "float32", gradient=True)
    assert set(streams) == {77}
    library.handle = 78
    assert_close(taken(backward(*library.give(seeds))), nested(np.float64, expected), "float32", gradient=True)
    assert streams[-2:] == [78, 78]
    assert taken(twins.gpu(*given, return_states=True)[2]).h.shape == (4, 5, 3, 4)


@pytest.mark.parametrize("name", LIBRARIES)
def test_cells_and_streams(name, streams, monkeypatch):
    library = LIBRARIES[name](5)
    monkeypatch.setitem(sys.modules, name, library)
    cell, layer = fastrnn.GRUCell(3, 4, rng=0), fastrnn.GRU(3, 4, rng=0)
    x = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    expected, steps = cell(x), layer.stream(2)
    found = cell.to("cuda")(library.kind(x))
    assert len(library.made) == 1
    np.testing.assert_allclose(found.array, expected, atol=1e-6)
    result, backward = cell.vjp(library.kind(x))
    found = backward(result).x.array
    cell.to("cpu")
    np.testing.assert_allclose(found, cell.vjp(x)[1](result.array).x, atol=1e-6)
    on_device = layer.to("cuda").stream(2)
    for _ in range(3):
        np.testing.assert_allclose(on_device.step(library.kind(x)).array, steps.step(x), atol=1e-6)
    np.testing.assert_allclose(on_device.state.array, steps.state, atol=1e-6)
    assert set(streams) == {5}
    library.handle = 6
    np.testing.assert_allclose(on_device.step(library.kind(x)).array, steps.step(x), atol=1e-6)
    assert streams[-1] == 6
    on_device.reset()
    np.testing.assert_array_equal(on_device.state.array, 0)


def test_a_tensor_that_requires_grad(monkeypatch):
    library = torch(0)
    monkeypatch.setitem(sys.modules, "torch", library)
    twins = Twins("gru")
    x = library.kind(twins.x)
    x.requires_grad = True
    for call in (twins.gpu, twins.gpu.vjp, twins.gpu.stream(3).process):
        with pytest.raises(TypeError, match=r"(x|chunk) should be a tensor that requires no grad.*\.detach\(\)"):
            call(x)
    x.is_cuda = x.requires_grad = False
    x.__array__ = None
    assert libraries.library_of(x) is None


def test_two_libraries_in_a_call(monkeypatch):
    libraries = {name: make(0) for name, make in LIBRARIES.items()}
    for name, library in libraries.items():
        monkeypatch.setitem(sys.modules, name, library)
    twins = Twins("gru")
    with pytest.raises(TypeError, match="hx should be a torch tensor on the GPU, as x is, got: Mine"):
        twins.gpu(libraries["torch"].kind(twins.x), libraries["cupy"].kind(twins.hx))
    with pytest.raises(TypeError, match="hx should be a CuPy array, as x is, got: ndarray"):
        twins.gpu(libraries["cupy"].kind(twins.x), twins.hx)


def test_numba(streams, monkeypatch):
    made = []

    class Mine(Fake):
        __cuda_ndarray__ = True

    def device_array(shape, dtype):
        made.append(Mine(np.full(shape, np.nan, dtype)))
        made[-1].shape = shape
        return made[-1]

    stand_in = SimpleNamespace(gpus=[nullcontext()], device_array=device_array)
    monkeypatch.setitem(sys.modules, "numba.cuda", stand_in)
    twins = Twins("gru")
    output, h_n = twins.gpu(Mine(twins.x), Mine(twins.hx))
    assert {id(output), id(h_n)} <= {id(m) for m in made}
    np.testing.assert_allclose(output.array, twins.cpu(twins.x, twins.hx)[0], atol=1e-6)
    assert streams == [0]
    twins.gpu(Mine(twins.x, stream=9), Mine(twins.hx))
    assert streams == [0, 9]
    twins.gpu(Mine(twins.x, stream=1), Mine(twins.hx, stream=9))
    assert streams == [0, 9, 0]


class FakeJAX:
    """An array that has DLPack alone, and waits."""

    def __init__(self, array, kind=2):
        self.array, self.waited, self.kind = array, False, kind

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, *, stream=None, max_version=None, **_):
        assert self.waited
        assert stream == 1
        return self.array.__dlpack__(max_version=max_version)

    def block_until_ready(self):
        self.waited = True


def test_jax(streams, monkeypatch, assert_close):
    taken = []

    def from_dlpack(array):
        assert type(array) is device_array.DeviceArray
        taken.append(array)
        return FakeJAX(np.asarray(array))

    stand_in = SimpleNamespace(Array=FakeJAX, dlpack=SimpleNamespace(from_dlpack=from_dlpack))
    monkeypatch.setitem(sys.modules, "jax", stand_in)
    twins = Twins("gru")
    x = np.asfortranarray(twins.x)
    (output, h_n), backward = twins.gpu.vjp(FakeJAX(x), FakeJAX(twins.hx))
    assert all(type(a) is FakeJAX for a in (output, h_n))
    assert_close((output.array, h_n.array), nested(np.float64, twins.cpu(twins.x, twins.hx)), "float32")
    found = nested(lambda a: a.array, backward(FakeJAX(output.array)))
    expected = twins.cpu.vjp(twins.x, twins.hx)[1](output.array)
    assert_close(found, nested(np.float64, expected), "float32", gradient=True)
    assert set(streams) == {0}
    with pytest.raises(ValueError, match="out should be writable"):
        twins.gpu(FakeJAX(x), out=FakeJAX(np.zeros((4, 3, 4), np.float32)))
    elsewhere = type("Elsewhere", (FakeJAX,), {"__dlpack_device__": lambda self: (2, 3)})
    with pytest.raises(ValueError, match="x should be on cuda:0, as the layer is, got: cuda:3"):
        twins.gpu(elsewhere(x))
    assert libraries.library_of(FakeJAX(x, kind=1)) is None


def test_arrays_of_other_libraries_on_a_stream(streams):
    twins = Twins("gru")
    output, _ = twins.gpu(Fake(twins.x, stream=41))
    assert streams == [41]
    assert output.__cuda_array_interface__["stream"] == 41
    twins.gpu(Fake(twins.x, stream=1))
    assert streams == [41, 0]


def test_an_array_that_raises_whatever_it_likes():
    class Odd:
        @property
        def __cuda_array_interface__(self):
            raise OSError("no such thing")

        def __array__(self, *args, **options):
            raise RuntimeError("not to be had")

    with pytest.raises(TypeError, match="x should be an array of real numbers, got: Odd"):
        Twins("gru").gpu(Odd())
