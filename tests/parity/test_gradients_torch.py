"""Every gradient, held to torch's autograd."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from layer_tools import CELLS, arrays_in, each, near_a_kink, normal_like, parts_of
from luck import is_bad_luck
from sampler import configurations

import fastrnn

torch = pytest.importorskip("torch")
from torch_twin import gradients_of, to_torch, torch_gradients, torch_twin  # noqa: E402  # torch is known to be here now

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def drawn(config, draw, reset=None):
    """The layer and inputs of a configuration, those of another draw where relu's kinks are near; d_output, d_state."""
    for number in itertools.count(draw, 11):  # 11: `is_bad_luck` makes ten more draws
        layer, inputs = config.layer(number), config.inputs(number)
        call = partial(config.call, layer, inputs) if reset is None else partial(with_resets, layer, inputs, reset)
        if not near_a_kink(layer, call):
            break
    return layer, inputs, normal_like(np.random.default_rng(config.seed + number), call())


def with_resets(layer, inputs, reset):
    return layer(inputs.x, inputs.hx, lengths=inputs.lengths, reset=reset.T if layer.batch_first else reset)


def problems(config, disagreement, draw=0, times=1, reset=None):
    """What is wrong with the gradients of each backend that is wrong."""
    layer, inputs, seeds = drawn(config, draw, reset)
    module, exact = torch_twin(layer, config.input_size, config.H, **config.options)
    truth = torch_gradients(exact, config, inputs, seeds, reset)
    peer = torch_gradients(module, config, inputs, seeds, reset) if config.dtype == "float32" else None
    options = {} if reset is None else {"reset": reset.T if config.batch_first else reset}
    found = {}
    for backend in ("reference", "cython"):
        with fastrnn.use_backend(backend):
            got = config.gradients(layer, inputs, seeds, **options)
        assert list(got.params) == list(truth.params)
        if problem := disagreement(got, truth, config.dtype, peer, times, gradient=True):
            found[backend] = problem
    return found


def assert_sampled(configs, disagreement, **options):
    check, wrong = partial(problems, disagreement=disagreement, **options), []
    for config in configs:
        for backend, problem in check(config).items():
            if not is_bad_luck(check, config, backend):
                wrong.append(f"{backend}: {problem}: {config}")
    assert not wrong, f"{len(wrong)} disagree with torch:\n" + "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_sampled_layers(cell, disagreement, full):
    assert_sampled(configurations(None if full else 400, seed=20 + CELLS.index(cell), cell=cell), disagreement)


@pytest.mark.parametrize("cell", CELLS)
def test_resets(cell, disagreement):
    """Ragged rows, layers and directions, cut into episodes that torch runs one by one."""
    axes = {"T": 17, "N": 3, "H": [3, 16], "form": "lengths", "state": True}
    reset = np.random.default_rng(0).random((17, 3)) < 0.2
    reset[0] = [True, False, True]
    assert_sampled(configurations(6, seed=1, cell=cell, **axes), disagreement, reset=reset)


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name, disagreement):
    wrong = []
    extras = [{"nonlinearity": f} for f in ("tanh", "relu")] if name == "RNNCell" else [{}]
    grid = itertools.product(extras, [True, False], ["float32", "float64"], [None, 1, 2, 5], [1, 3, 16, 33, 64])
    for seed, (extra, bias, dtype, N, H) in enumerate(grid):
        for draw in itertools.count():
            rng = np.random.default_rng((seed, draw))
            cell = getattr(fastrnn, name)(3, H, bias, **extra, dtype=dtype, rng=int(rng.integers(2**32)))
            batch = () if N is None else (N,)
            x, h, c = (rng.normal(size=(*batch, n)).astype(dtype) for n in (3, H, H))
            hx = (h, c) if name == "LSTMCell" else h
            if not near_a_kink(cell, partial(cell, x, hx)):
                break
        seeds = normal_like(rng, hx)
        module, exact = torch_twin(cell, 3, H, bias, **extra)
        peer = gradients_of(module, module, *to_torch((x, hx)), seeds)
        truth = gradients_of(exact, exact, *each(torch.Tensor.double, to_torch((x, hx))), seeds)
        for backend in ("reference", "cython"):
            with fastrnn.use_backend(backend):
                got = cell.vjp(x, hx)[1](seeds)
            if problem := disagreement(got, truth, dtype, peer, gradient=True):
                wrong.append(f"{backend} {extra} bias={bias} {dtype} N={N} H={H}: {problem}")
    assert not wrong, "\n".join(wrong)


# --- values that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", ["reference", "cython"])
def test_nan_and_inf_travel_alike(cell, backend):
    """One odd value anywhere in an argument, a weight or a gradient makes the same gradients odd, and no others."""
    wrong, rng = [], np.random.default_rng(0)
    axes = {"T": [2, 17], "N": [2, 5], "H": [3, 16, 33], "form": "plain", "state": True, "dtype": "float32"}
    for config in configurations(60, cell=cell, **axes):
        layer, inputs, seeds = drawn(config, 0)
        bad = np.float32(rng.choice([np.nan, np.inf, -np.inf]))
        states, d_states = parts_of(inputs.hx), parts_of(seeds[1])
        place = rng.choice(5)
        array = [inputs.x, states, list(layer.parameters().values()), seeds[0], d_states][place]
        array = array if isinstance(array, np.ndarray) else array[rng.integers(len(array))]
        array[tuple(rng.integers(n) for n in array.shape)] = bad
        layer.parameters().changed()
        module, _ = torch_twin(layer, config.input_size, config.H, **config.options)
        theirs = torch_gradients(module, config, inputs, seeds)
        with fastrnn.use_backend(backend), np.errstate(all="ignore"):
            ours = config.gradients(layer, inputs, seeds)
        for (name, a), b in zip(arrays_in(ours).items(), arrays_in(theirs).values(), strict=True):
            # inf - inf is NaN: which of the two a sum of infinities comes to depends on the order in which it is added.
            test = np.isnan if np.isnan(bad) else np.isfinite
            if not np.array_equal(test(a), test(b)):
                wrong.append(f"{name} {test.__name__} {test(a).sum()} {test(b).sum()} with {bad} in {place}: {config}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong)
