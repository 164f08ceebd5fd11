"""Wrong arguments of layers on a GPU: the errors of the CPU, those that arrays there bring, and nothing changed."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
from device_tools import KINDS, Fake, Twins

import fastrnn

F = np.float32


def zeros(*shape, dtype=F):
    return np.zeros(shape, dtype)


# What the CPU says, the GPU says in the same words, whatever kind the arrays are of.
SAME = [
    {"x": zeros(4, 3, 2)},
    {"x": zeros(4)},
    {"x": zeros(1, 4, 3, 3)},
    {"hx": zeros(1, 3, 4)},
    {"hx": (zeros(1, 3, 4),)},
    {"hx": (zeros(1, 3, 4), zeros(1, 3, 5))},
    {"hx": (zeros(3, 4), zeros(1, 3, 4))},
    {"hx": ()},
    {"lengths": zeros(2, dtype=int)},
    {"lengths": zeros(3, 1, dtype=int)},
    {"reset": zeros(3, 4, dtype=bool)},
    {"out": zeros(4, 3, 5)},
    {"out": np.broadcast_to(F(0), (4, 3, 4))},
]


@pytest.mark.parametrize("kind", KINDS, ids=repr)
@pytest.mark.parametrize("wrong", SAME)
def test_errors_are_those_of_the_cpu(wrong, kind):
    twins = Twins("lstm", hx=False)
    given = {"x": twins.x} | wrong
    with pytest.raises((TypeError, ValueError)) as expected:
        twins.cpu(**given)
    given = {name: kind.give(value) for name, value in given.items()}
    if "out" in wrong and not wrong["out"].flags.writeable and kind is KINDS[1]:
        given["out"] = Fake(wrong["out"], read_only=True)
    with pytest.raises(type(expected.value)) as error:
        twins.gpu(**given)
    assert str(error.value) == str(expected.value)


def masked(array):
    return Fake(array, mask=Fake(array))


def elsewhere(array):
    return SimpleNamespace(__dlpack_device__=lambda: (1, 0), __array__=lambda *a, **k: array)


ONLY_HERE = [
    ({"x": Fake(zeros(4, 3, 3, dtype="f8"))}, TypeError, "x should have dtype float32, got: float64 .*not cast"),
    ({"x": Fake(zeros(4, 3, 3, dtype="f2"))}, TypeError, "x should have dtype float32, got: float16"),
    ({"x": Fake(zeros(4, 3, 3, dtype=">f4"))}, TypeError, "x should have dtype float32, got: >f4"),
    ({"x": Fake(zeros(4, 3, 3, dtype="c8"))}, TypeError, "x should have dtype float32, got: complex64"),
    ({"x": masked(zeros(4, 3, 3))}, TypeError, "x cannot be taken from Fake: it has a mask"),
    ({"x": Fake(np.frombuffer(bytes(145), F, 36, 1).reshape(4, 3, 3))}, TypeError, "x should be aligned"),
    (
        {"hx": (zeros(1, 3, 4), zeros(1, 3, 4))},
        TypeError,
        r"hx\[0\] should be an array on the GPU, as x is, got: ndarray",
    ),
    ({"hx": (Fake(zeros(1, 3, 4)), zeros(1, 3, 4))}, TypeError, r"hx\[1\] should be an array on the GPU"),
    (
        {"hx": (Fake(zeros(1, 3, 4)), Fake(zeros(1, 3, 4, dtype="f8")))},
        TypeError,
        r"hx\[1\] should have dtype float32",
    ),
    ({"lengths": Fake(zeros(3))}, TypeError, "lengths should have dtype int32 or int64, got: float32"),
    ({"lengths": Fake(zeros(3, dtype="u1"))}, TypeError, "lengths should have dtype int32 or int64, got: uint8"),
    ({"lengths": [5, 1, 1]}, ValueError, "lengths should be between 0 and the number of steps, 4"),
    ({"reset": Fake(zeros(4, 3, dtype="u1"))}, TypeError, "reset should have dtype bool, got: uint8"),
    ({"out": zeros(4, 3, 4)}, TypeError, "out should be an array on the GPU, as x is, got: ndarray"),
    ({"x": zeros(4, 3, 3), "out": Fake(zeros(4, 3, 4))}, TypeError, "out should be a NumPy array, as x is, got: Fake"),
    (
        {"x": zeros(4, 3, 3), "lengths": Fake(zeros(3, dtype=int))},
        TypeError,
        "lengths should be a NumPy array, as x is",
    ),
    ({"x": [[[0.0] * 3] * 3] * 4, "reset": Fake(zeros(4, 3, dtype=bool))}, TypeError, "reset should be a NumPy array"),
    ({"x": zeros(4, 3, 3), "hx": (Fake(zeros(1, 3, 4)),) * 2}, TypeError, r"hx\[0\] should be a NumPy array"),
    ({"x": object()}, TypeError, "x should be an array of real numbers, got: object"),
    ({"x": None}, TypeError, "x should be an array of real numbers, got: None"),
    (
        {"x": Fake(zeros(4, 3, 3)), "return_states": False, "hx": 3},
        TypeError,
        "hx should be an array on the GPU.*got: int",
    ),
]


@pytest.mark.parametrize(("wrong", "error", "words"), ONLY_HERE)
def test_what_only_arrays_on_a_gpu_bring(wrong, error, words):
    twins = Twins("lstm", num_layers=1, hx=False)
    given = {"x": Fake(twins.x)} | wrong
    memory = [v.array for v in given.values() if isinstance(v, Fake)]
    before = copy.deepcopy(memory)
    with pytest.raises(error, match=words):
        twins.gpu(**given)
    np.testing.assert_equal(memory, before)
    given = {name: value for name, value in given.items() if name not in ("out", "return_states")}
    if "out" not in wrong:
        with pytest.raises(error, match=words):
            twins.gpu.vjp(**given)


def test_arrays_that_say_they_are_on_the_host_are_numpys():
    twins = Twins("gru")
    output, _ = twins.gpu(elsewhere(twins.x))
    assert type(output) is np.ndarray


def test_packed_sequences_on_the_gpu():
    packed = fastrnn.pack_padded_sequence(Twins("gru").x, [4, 2, 1])
    on_device = SimpleNamespace(batch_sizes=packed.batch_sizes, data=Fake(packed.data))
    for call in (Twins("gru").gpu, Twins("gru").gpu.vjp):
        with pytest.raises(TypeError, match=r"x.data should be a NumPy array: on the GPU, give a padded array"):
            call(on_device)


def test_nothing_is_drawn_for_a_wrong_call():
    twins = Twins("gru", num_layers=2, dropout=0.5)
    layer = twins.gpu.train()
    layer._rng = np.random.default_rng(1)
    for call in (layer, layer.vjp):
        with pytest.raises(TypeError):
            call(Fake(twins.x.astype("f8")))
        with pytest.raises(ValueError, match=r"Expected hidden size"):
            call(Fake(twins.x), Fake(zeros(2, 3, 5)))
    assert layer._rng.random() == np.random.default_rng(1).random()


@pytest.mark.parametrize("name", ["GRUCell", "LSTMCell"])
def test_cells(name):
    cpu = getattr(fastrnn, name)(3, 4)
    gpu = copy.deepcopy(cpu).to("cuda")
    pair = name == "LSTMCell"
    for kind in KINDS:
        for x, state in [((3, 2), (3, 4)), ((1, 3, 3), (3, 4)), ((3, 3), (2, 4)), ((3, 3), (4,)), ((3,), (3,))]:
            given = zeros(*x), (zeros(*state), zeros(*state)) if pair else zeros(*state)
            with pytest.raises(ValueError, match=" ") as expected:
                cpu(*given)
            for call in (gpu, gpu.vjp):
                with pytest.raises(ValueError, match=" ") as error:
                    call(*kind.give(given))
                assert str(error.value) == str(expected.value)
    with pytest.raises(TypeError, match="x should have dtype float32, got: float64"):
        gpu(Fake(zeros(3, 3, dtype="f8")))
    with pytest.raises(TypeError, match=r"hx.* should be a NumPy array, as x is, got: Fake"):
        gpu(zeros(3, 3), (Fake(zeros(3, 4)),) * 2 if pair else Fake(zeros(3, 4)))
    with pytest.raises(TypeError, match="hx should be"):
        gpu(zeros(3, 3), zeros(3, 4) if pair else (zeros(3, 4),))


@pytest.mark.parametrize(
    "options", [{"wrt": "y"}, {"wrt": ()}, {"consume": 1}, {"checkpoint_every": 0}, {"checkpoint_every": 1.5}]
)
def test_options_of_vjp(options):
    twins = Twins("gru")
    with pytest.raises((TypeError, ValueError)) as expected:
        twins.cpu.vjp(twins.x, **options)
    with pytest.raises(type(expected.value)) as error:
        twins.gpu.vjp(Fake(twins.x), **options)
    assert str(error.value) == str(expected.value)


@pytest.mark.parametrize("kind", KINDS, ids=repr)
def test_seeds(kind):
    twins = Twins("lstm", batch_first=True)
    backs = [twins.cpu.vjp(twins.x)[1], twins.gpu.vjp(kind.give(twins.x))[1]]
    wrong = [
        ((zeros(4, 3, 4),), {}),
        (((zeros(3, 4, 4), zeros(3, 4, 4)),), {}),
        ((zeros(3, 4, 4), zeros(1, 3, 4)), {}),
        ((zeros(3, 4, 4), (zeros(1, 3, 4), zeros(1, 2, 4))), {}),
        ((zeros(3, 4, 4),), {"per_sample": 1}),
    ]
    for args, options in wrong:
        with pytest.raises((TypeError, ValueError)) as expected:
            backs[0](*args, **options)
        with pytest.raises(type(expected.value)) as error:
            backs[1](*kind.give(args), **options)
        if not isinstance(args[0], tuple):
            assert str(error.value) == str(expected.value)
    if kind is KINDS[1]:
        with pytest.raises(TypeError, match="d_output should have dtype float32, got: float64"):
            backs[1](Fake(zeros(3, 4, 4, dtype="f8")))


def test_devices_that_are_not_there(monkeypatch):
    from fastrnn.cuda import call

    def missing(index):
        raise fastrnn.BackendError(f"device cuda:{index} is not there")

    layer = fastrnn.GRU(2, 3, rng=0)
    before = layer.state_dict()
    monkeypatch.setattr(call.runtime, "device", missing)
    for to in (lambda: layer.to("cuda:7"), lambda: layer.to("float64", "cuda:7"), lambda: layer.to(device="cuda:7")):
        with pytest.raises(fastrnn.BackendError, match="device 'cuda:7' cannot be used: device cuda:7 is not there"):
            to()
    assert (layer.device, layer.dtype) == ("cpu", F)
    np.testing.assert_equal(layer.state_dict(), before)
    for name in (
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:1.0",
        "cuda:٣",
        "cuda0",
        "CUDA",
        "cuda:0:1",
        " cuda",
        "gpu",
        "",
        0,
    ):
        with pytest.raises(ValueError, match="device should be 'cpu', 'cuda' or 'cuda:N', got"):
            layer.to(device=name)


def test_out_of_memory_says_so(monkeypatch):
    from fastrnn.cuda import simulator

    def full(*args):
        raise MemoryError("2 MB of 3 MB are free")

    twins = Twins("gru")
    stream = twins.gpu.stream(3)
    stream.step(twins.x[0])
    before = stream.state
    with monkeypatch.context() as patch:
        patch.setattr(simulator.Driver, "allocate", full)
        for call in (twins.gpu, twins.gpu.vjp, stream.process):
            with pytest.raises(
                fastrnn.BackendError, match=r"out of memory on .*MB were asked for.*2 MB of 3 MB are free"
            ):
                call(twins.x)
    np.testing.assert_array_equal(stream.state, before)
    twins.gpu(twins.x)
