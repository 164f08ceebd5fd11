"""Arrays of torch, CuPy, JAX, Numba and others on a real GPU: in, out, on their streams, without the host."""

from __future__ import annotations

import copy
import gc
import threading

import numpy as np
import pytest
from device_tools import Fake, Twins, nested
from gpu_libraries import LIBRARIES, Interface
from layer_tools import normal_like

import fastrnn

# Whatever the libraries warn of as they are imported is not about this.
pytestmark = pytest.mark.filterwarnings("default")

# Longer than a few chunks of any kernel, wide enough for every path.
SIZES = {"T": 40, "N": 3, "I": 24, "H": 64}


@pytest.fixture(autouse=True)
def _general_path(monkeypatch):
    """Whose kernels are compiled soon; torch's arrays meet the others too, in `test_calls_and_gradients`."""
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "general")


@pytest.fixture(params=LIBRARIES)
def library(request):
    return LIBRARIES[request.param]()


@pytest.fixture
def with_streams(request):
    return LIBRARIES[request.param]()


BOTH = pytest.mark.parametrize("with_streams", ["torch", "cupy"], indirect=True)


def close(got, expected, times=1.0):
    """Within what sums in another order differ by."""
    if isinstance(expected, dict):
        assert list(got) == list(expected)
        got, expected = tuple(got.values()), tuple(expected.values())
    if isinstance(expected, tuple):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            close(a, b, times)
        return
    if expected is None:
        assert got is None
        return
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    allowed = times * (2e-5 if expected.dtype == np.float32 else 1e-11) * max(1.0, np.abs(expected).max(initial=0))
    error = np.abs(got - expected).max(initial=0)
    assert error <= allowed


def give(library, value):
    return nested(library.give, value)


def take(library, value):
    def taken(array):
        assert library.is_mine(array), type(array)
        return library.take(array)

    return nested(taken, value)


@pytest.mark.parametrize(
    ("cell", "options", "ragged"),
    [
        ("lstm", {"num_layers": 2, "bidirectional": True}, {"lengths": [40, 3, 17], "reset": 0.1}),
        ("gru", {"batch_first": True}, {}),
        ("lstm_proj", {"bias": False}, {"lengths": [5, 40, 40]}),
        ("rnn_tanh", {"N": 20, "num_layers": 2}, {}),
        ("gru", {"N": None, "bidirectional": True}, {}),
    ],
)
def test_calls_and_gradients(library, cell, options, ragged, monkeypatch):
    if type(library).__name__ == "Torch":
        monkeypatch.delenv("FASTRNN_CUDA_PATH")
    twins = Twins(cell, **SIZES | options)
    ragged = twins.options(**ragged)
    x, hx = give(library, (twins.x, twins.hx))
    expected = twins.cpu(twins.x, twins.hx, **ragged, return_states=True)
    close(take(library, twins.gpu(x, hx, **ragged, return_states=True)), expected)
    result, backward = twins.gpu.vjp(x, hx, **ragged)
    close(take(library, result), expected[:2])
    seeds = normal_like(np.random.default_rng(5), expected[:2])
    on_cpu = twins.cpu.vjp(twins.x, twins.hx, **ragged)[1]
    for per_sample in (False, True):
        found = take(library, backward(*give(library, seeds), per_sample=per_sample))
        close(tuple(found), tuple(on_cpu(*seeds, per_sample=per_sample)), 5)
    if ragged and library.has_streams:
        on_gpu = {name: library.give(np.asarray(value)) for name, value in ragged.items()}
        close(take(library, twins.gpu(x, hx, **on_gpu)), expected[:2])


def test_float64(library):
    if type(library).__name__ == "JAX":
        pytest.skip("JAX has float32 alone unless it is told otherwise")
    twins = Twins("lstm", **SIZES, dtype="float64", bidirectional=True)
    close(take(library, twins.gpu(*give(library, (twins.x, twins.hx)))), twins.cpu(twins.x, twins.hx))


def test_nothing_goes_to_the_host(library, monkeypatch):
    from fastrnn.cuda.runtime import Stream

    twins = Twins("lstm", **SIZES, num_layers=2)
    x, hx = give(library, (twins.x, twins.hx))
    seeds = give(library, normal_like(np.random.default_rng(5), twins.cpu(twins.x, twins.hx)))
    stream = twins.gpu.stream(3)
    step = library.give(twins.x[0])

    def all_of():
        result, backward = twins.gpu.vjp(x, hx)
        return twins.gpu(x, hx), result, backward(*seeds), stream.step(step)

    all_of()

    def never(*args, **options):
        raise AssertionError("a copy between host and GPU")

    with monkeypatch.context() as patch:
        for name in ("to_host", "to_hosts", "to_device"):
            patch.setattr(Stream, name, never)
        found = all_of()
    close(take(library, found[0]), twins.cpu(twins.x, twins.hx))


def test_memory_layouts():
    torch = pytest.importorskip("torch")
    library, twins = LIBRARIES["torch"](), Twins("gru", **SIZES)
    expected = twins.cpu(twins.x, twins.hx)
    padded = torch.full((40, 3, 50), float("nan"), device="cuda")
    padded[..., 1:49:2] = library.give(twins.x)
    rows = library.give(twins.x).transpose(0, 1).contiguous().transpose(0, 1)
    shifted = torch.zeros(twins.x.size + 1, device="cuda")[1:].reshape(twins.x.shape)  # 4 bytes past what is aligned
    shifted.copy_(library.give(twins.x))
    for x in (padded[..., 1:49:2], rows, shifted):
        close(take(library, twins.gpu(x, library.give(twins.hx))), expected)
    one = library.give(twins.x[:1, :, :1]).expand(40, 3, 24)
    close(take(library, twins.gpu(one)), twins.cpu(np.broadcast_to(twins.x[:1, :, :1], twins.x.shape)))
    cupy = pytest.importorskip("cupy")
    backwards = cupy.asarray(twins.x[::-1].copy())[::-1]
    close(cupy.asnumpy(twins.gpu(backwards, cupy.asarray(twins.hx))[0]), expected[0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_out(library, batch_first):
    if type(library).__name__ == "JAX":
        pytest.skip("arrays of JAX cannot be written to")
    twins = Twins("lstm", **SIZES, batch_first=batch_first)
    expected = twins.cpu(twins.x, twins.hx)
    out = library.give(np.full_like(expected[0], np.nan))
    output, state = twins.gpu(*give(library, (twins.x, twins.hx)), out=out)
    assert output is out
    memory = out.array.copy_to_host() if isinstance(out, Interface) else library.take(out)
    close((memory, take(library, state)), expected)


def test_cells(library):
    for name in ("LSTMCell", "GRUCell"):
        cpu = getattr(fastrnn, name)(24, 64, rng=0)
        gpu, rng = copy.deepcopy(cpu).to("cuda"), np.random.default_rng(1)
        x, *states = (rng.standard_normal((3, n), np.float32) for n in (24, 64, 64))
        hx = tuple(states) if name == "LSTMCell" else states[0]
        result, backward = gpu.vjp(*give(library, (x, hx)))
        expected, on_cpu = cpu.vjp(x, hx)
        close(take(library, result), expected)
        close(take(library, gpu(*give(library, (x, hx)))), expected)
        close(tuple(take(library, backward(give(library, hx)))), tuple(on_cpu(hx)), 5)


def test_streams(library):
    twins = Twins("lstm", **SIZES, num_layers=2)
    on_gpu, on_cpu = twins.gpu.stream(3), twins.cpu.stream(3)
    for t, x in enumerate(twins.x[:12]):
        if t % 4 == 3:
            close(on_gpu.step(x), on_cpu.step(x))  # NumPy in between
        else:
            close(take(library, on_gpu.step(library.give(x))), on_cpu.step(x))
        if t == 5:
            mask = np.array([True, False, True])
            on_gpu.reset(mask)
            on_cpu.reset(mask)
    close(take(library, on_gpu.process(library.give(twins.x))), on_cpu.process(twins.x))
    close(take(library, on_gpu.state), on_cpu.state)
    on_gpu.state, on_cpu.state = give(library, twins.hx), twins.hx
    close(take(library, on_gpu.step(library.give(twins.x[0]))), on_cpu.step(twins.x[0]))


# --- order ------------------------------------------------------------------------------------------------------------


@BOTH
def test_work_is_done_on_the_current_stream(with_streams):
    library, twins = with_streams, Twins("lstm", **SIZES, num_layers=2)
    expected = twins.cpu(twins.x, twins.hx)
    seeds = normal_like(np.random.default_rng(5), expected)
    gradients = twins.cpu.vjp(twins.x, twins.hx)[1](*seeds)
    source, hx, d = give(library, (twins.x, twins.hx, seeds))

    def all_of(x, stream):
        result, backward = twins.gpu.vjp(x, hx)
        return twins.gpu(x, hx), result, backward(*d), stream.step(x[0])

    x = library.give(np.full_like(twins.x, np.nan))
    other, stream = library.stream(), twins.gpu.stream(3)
    with other:
        all_of(source, stream)  # compiled, and the state is on this stream
        stream.reset()
        library.keep_busy()
        library.fill(x, source)  # who runs on another stream reads NaN
        found = all_of(x, stream)
        was_busy = library.busy()
        library.fill(x, source * float("nan"))  # and so does who runs later
        found = take(library, found)
    close(found[0], expected)
    close(found[1], expected)
    close(tuple(found[2]), tuple(gradients), 5)
    close(found[3], twins.cpu.stream(3).step(twins.x[0]))
    assert was_busy, "the calls waited for their work"


@BOTH
def test_backward_on_another_stream(with_streams):
    library, twins = with_streams, Twins("gru", **SIZES)
    x, hx = give(library, (twins.x, twins.hx))
    seeds = normal_like(np.random.default_rng(5), twins.cpu(twins.x, twins.hx))
    expected = twins.cpu.vjp(twins.x, twins.hx)[1](*seeds)
    d = give(library, seeds)
    twins.gpu.vjp(x, hx)[1](*d)
    with library.stream():
        library.keep_busy()
        _, backward = twins.gpu.vjp(x, hx)
    with library.stream():
        found = backward(*d)
        del backward
        gc.collect()
        again = twins.gpu.vjp(x, hx)[1](*d)
        close(tuple(take(library, found)), tuple(expected), 5)
        close(tuple(take(library, again)), tuple(expected), 5)


@BOTH
def test_streams_that_end_before_what_was_made_on_them(with_streams):
    library, twins = with_streams, Twins("gru", **SIZES)
    x, hx = give(library, (twins.x, twins.hx))
    expected = twins.cpu(twins.x, twins.hx)
    made = []
    for _ in range(8):
        with library.stream():
            made.append((twins.gpu(x, hx), twins.gpu.vjp(x, hx)))
    gc.collect()
    library.wait()
    for found, (result, _) in made:
        close(take(library, found), expected)
        close(take(library, result), expected)
    del made, found, result
    gc.collect()
    close(take(library, twins.gpu(x, hx)), expected)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_results_outlive_all_else(library):
    twins = Twins("lstm", **SIZES)
    expected = twins.cpu(twins.x, twins.hx)
    x, hx = give(library, (twins.x, twins.hx))
    found = twins.gpu(x, hx)
    del x, hx, twins.gpu
    gc.collect()
    other = Twins("lstm", **SIZES, seed=1)
    kept = [other.gpu(*give(library, (other.x, other.hx))) for _ in range(20)]  # where freed memory would be used
    close(take(library, found), expected)
    del kept


def test_memory_is_not_used_again_too_early(library):
    """Each output is dropped when its reader has been queued."""
    layers = [Twins("gru", **SIZES | {"T": 200, "N": 16}, seed=seed) for seed in range(3)]
    given = [give(library, (t.x, t.hx)) for t in layers]
    expected = [t.cpu(t.x, t.hx)[0] for t in layers]
    read = []
    for i in range(30):
        output, _ = layers[i % 3].gpu(*given[i % 3])
        if type(library).__name__ in ("Numba", "Others"):
            read.append(library.take(output))
        else:
            doubled = output * 2
            for _ in range(5):
                doubled = doubled * 1
            read.append(doubled / 2)
        del output
    for i, array in enumerate(read):
        close(array if isinstance(array, np.ndarray) else library.take(array), expected[i % 3])


def test_weights_that_change_while_calls_are_under_way(library):
    twins = Twins("gru", **SIZES | {"T": 400})
    x, hx = give(library, (twins.x, twins.hx))
    twins.gpu(x, hx)
    found, expected = [], []
    for seed in range(5):
        for layer in (twins.cpu, twins.gpu):
            layer.reset_parameters(seed)
        found.append(twins.gpu(x, hx))
        expected.append(twins.cpu(twins.x, twins.hx))
    for a, b in zip(found, expected, strict=True):
        close(take(library, a), b)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_device_arrays_in_other_libraries():
    twins = Twins("gru", **SIZES)
    library = LIBRARIES["others"]()
    expected = twins.cpu(twins.x, twins.hx)[0]

    def output():
        return twins.gpu(*give(library, (twins.x, twins.hx)))[0]

    for name in ("torch", "cupy", "jax", "numba"):
        try:
            other = LIBRARIES[name]()
        except pytest.skip.Exception:
            continue
        if name == "torch":
            ways = [lambda a, m=other.torch: m.as_tensor(a, device="cuda"), lambda a, m=other.torch: m.from_dlpack(a)]
        elif name == "cupy":
            ways = [other.cupy.asarray, other.cupy.from_dlpack]
        elif name == "jax":
            ways = [other.jax.dlpack.from_dlpack]
        else:
            ways = [other.cuda.as_cuda_array]
        for way in ways:
            taken = way(output())  # nothing else keeps its memory
            gc.collect()
            others = [output() for _ in range(5)]
            close(take(other, taken), expected)
            del others


def test_wrong_arrays(library):
    twins = Twins("lstm", **SIZES)
    x, hx = give(library, (twins.x, twins.hx))
    with pytest.raises(TypeError, match=r"hx\[0\] should be .*, as x is, got: ndarray"):
        twins.gpu(x, twins.hx)
    with pytest.raises(TypeError, match=r"hx.*should be a NumPy array, as x is"):
        twins.gpu(twins.x, hx)
    with pytest.raises(TypeError, match="x should have dtype float32, got: int32"):
        twins.gpu(library.give(np.zeros(twins.x.shape, np.int32)))
    with pytest.raises(ValueError, match=r"input\.size"):
        twins.gpu(library.give(np.zeros((40, 3, 25), np.float32)))
    close(take(library, twins.gpu(x, hx)), twins.cpu(twins.x, twins.hx))


def test_memory_that_is_not_on_a_gpu():
    twins = Twins("gru", **SIZES)

    with pytest.raises((TypeError, ValueError), match="x "):
        twins.gpu(Fake(twins.x))
    close(twins.gpu(twins.x), twins.cpu(twins.x))


def test_torch_tensors_that_are_not_for_a_gpu():
    torch = pytest.importorskip("torch")
    twins = Twins("gru", **SIZES)
    assert type(twins.gpu(torch.from_numpy(twins.x))[0]) is np.ndarray  # on the host: as NumPy's
    x = torch.from_numpy(twins.x).cuda().requires_grad_()
    with pytest.raises(TypeError, match=r"x should be a tensor that requires no grad.*x\.detach\(\)"):
        twins.gpu(x)
    close(twins.gpu(x.detach())[0].cpu().numpy(), twins.cpu(twins.x)[0])


def test_the_current_device_and_context_are_put_back(library):
    from cuda.bindings import driver

    twins = Twins("gru", **SIZES)
    x = library.give(twins.x)
    before = [int(c) for c in driver.cuCtxGetCurrent()[1:]]
    twins.gpu(x)
    twins.gpu(twins.x)
    assert [int(c) for c in driver.cuCtxGetCurrent()[1:]] == before


@BOTH
def test_threads(with_streams):
    library, twins = with_streams, Twins("lstm", **SIZES, num_layers=2)
    expected = twins.cpu(twins.x, twins.hx)
    given, found, errors = give(library, (twins.x, twins.hx)), [None] * 6, []
    twins.gpu(*given)

    def run(i):
        try:
            with library.stream():
                for _ in range(5):
                    result = twins.gpu(*given)
                found[i] = take(library, result)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(found))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for got in found:
        close(got, expected)


def test_numpy():
    twins = Twins("lstm", **SIZES, num_layers=2, bidirectional=True, dropout=0.5)
    for layer in (twins.cpu.train(), twins.gpu.train()):
        layer._rng = np.random.default_rng(3)
    close(twins.gpu(twins.x, twins.hx), twins.cpu(twins.x, twins.hx))
    seeds = normal_like(np.random.default_rng(5), twins.cpu.eval()(twins.x, twins.hx))
    expected = twins.cpu.vjp(twins.x, twins.hx)[1](*seeds)
    for options in ({}, {"checkpoint_every": 16}):
        found = twins.gpu.eval().vjp(twins.x, twins.hx, **options)[1](*seeds)
        close(tuple(found), tuple(expected), 5)
