"""Layers and cells, held to torch itself: values, NaN and inf, dropout."""

from __future__ import annotations

import itertools
from functools import partial

import numpy as np
import pytest
from layer_tools import CELLS, each
from luck import is_bad_luck
from sampler import Config, Inputs, configurations

import fastrnn

torch = pytest.importorskip("torch")
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now
from torch_twin import to_numpy, to_torch, torch_call, torch_twin  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.inference_mode():
        yield
    torch.set_num_threads(threads)


def problems(config, disagreement, draw=0, times=1):
    """What is wrong with the result of each backend that is wrong."""
    layer, inputs = config.layer(draw), config.inputs(draw)
    module, exact = torch_twin(layer, config.input_size, config.H, **config.options)
    truth = torch_call(exact, config, inputs)
    peer = torch_call(module, config, inputs) if config.dtype == "float32" else None
    found = {}
    for backend in ("reference", "cython"):
        with fastrnn.use_backend(backend):
            if problem := disagreement(config.call(layer, inputs), truth, config.dtype, peer, times):
                found[backend] = problem
    return found


@pytest.mark.parametrize("cell", CELLS)
def test_sampled_layers(cell, disagreement, full):
    wrong = []
    for config in configurations(None if full else 600, seed=CELLS.index(cell), cell=cell):
        for backend, problem in problems(config, disagreement).items():
            if not is_bad_luck(partial(problems, disagreement=disagreement), config, backend):
                wrong.append(f"{backend}: {problem}: {config}")
    assert not wrong, f"{len(wrong)} disagree with torch:\n" + "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
def test_accuracy_beyond_the_grid(cell, tolerance):
    """Many features, many steps, many units, inputs that saturate the gates.

    Rounding errors are large here, and which of two engines is luckier differs from case to case: means over twenty
    layers of the largest error are compared.
    """
    wrong = []
    shapes = [(3, 2, 700, 9, 1), (500, 1, 2, 40, 1), (4, 40, 5, 7, 1), (9, 3, 30, 200, 1), (17, 3, 5, 33, 30)]
    for T, N, I, H, scale in shapes:
        errors = {"torch": [], "reference": [], "cython": []}
        for seed in range(20):
            config = Config(cell, 1, False, True, False, "float32", T, N, I, H, False, "plain")
            layer = config.layer()
            layer.reset_parameters(seed)
            inputs = Inputs(
                np.random.default_rng(seed).normal(size=(T, N, I), scale=scale).astype(np.float32), None, None
            )
            module, exact = torch_twin(layer, I, H, **config.options)
            truth = torch_call(exact, config, inputs)[0]
            errors["torch"].append(np.abs(torch_call(module, config, inputs)[0] - truth).max())
            for backend in ("reference", "cython"):
                with fastrnn.use_backend(backend):
                    errors[backend].append(np.abs(layer(inputs.x)[0] - truth).max())
        means = {name: np.mean(values) for name, values in errors.items()}
        allowed = tolerance("float32", largest=np.abs(truth).max(), peer=means["torch"])
        if max(means["reference"], means["cython"]) > allowed:
            wrong.append(f"T={T} N={N} I={I} H={H} scale={scale}: {means}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("form", ["plain", "packed", "packed_unsorted"])
def test_initial_states_and_packs_keep_their_parts(form):
    """A pack comes back as a pack with the same sizes and order; torch's module takes the same parts."""
    config = Config("lstm", 2, True, True, False, "float64", 17, 5, 3, 3, True, form)
    x, hx, lengths = config.inputs()
    layer = config.layer()
    module, _ = torch_twin(layer, 3, 3, **config.options)
    if form == "plain":
        np.testing.assert_array_equal(layer(x)[0], layer(x, tuple(np.zeros_like(h) for h in hx))[0])
        return
    ours, _ = layer(fastrnn.pack_padded_sequence(x, lengths, False, form == "packed"), hx)
    theirs, _ = module(rnn.pack_padded_sequence(to_torch(x), to_torch(lengths), False, form == "packed"), to_torch(hx))
    assert type(ours) is fastrnn.PackedSequence
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b.numpy())


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells(name, disagreement):
    wrong = []
    extras = [{"nonlinearity": f} for f in ("tanh", "relu")] if name == "RNNCell" else [{}]
    grid = itertools.product(extras, [True, False], ["float32", "float64"], [None, 1, 2, 5], [1, 3, 16, 33, 64], [0, 1])
    for seed, (extra, bias, dtype, N, H, given) in enumerate(grid):
        cell = getattr(fastrnn, name)(3, H, bias, **extra, dtype=dtype, rng=seed)
        rng = np.random.default_rng(seed)
        batch = () if N is None else (N,)
        x, h, c = (rng.normal(size=(*batch, n)).astype(dtype) for n in (3, H, H))
        hx = ((h, c) if name == "LSTMCell" else h) if given else None
        module = getattr(torch.nn, name)(3, H, bias, **extra).to(to_torch(x).dtype)
        module.load_state_dict({k: to_torch(v) for k, v in cell.state_dict().items()})
        peer = to_numpy(module(to_torch(x), to_torch(hx)))
        truth = to_numpy(module.double()(*each(torch.Tensor.double, to_torch((x, hx)))))
        for backend in ("reference", "cython"):
            with fastrnn.use_backend(backend):
                problem = disagreement(cell(x, hx), truth, dtype, peer)
            if problem:
                wrong.append(f"{backend} {extra} bias={bias} {dtype} N={N} H={H} given={given}: {problem}")
    assert not wrong, "\n".join(wrong)


# --- values that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("backend", ["reference", "cython"])
def test_nan_and_inf_travel_alike(cell, backend):
    """One odd value anywhere in the input, a state or a weight makes the same elements NaN or inf, and no others."""
    wrong = []
    rng = np.random.default_rng(0)
    for config in configurations(60, cell=cell, dtype="float32", T=[2, 17], N=[2, 5], H=[3, 16, 33], form=["plain"]):
        layer, (x, hx, _) = config.layer(), config.inputs()
        odd = [np.nan, np.inf, -np.inf]
        odd += [] if backend == "reference" else [3e38, -3e38]  # overflows in float32; the reference has float64
        bad = np.float32(rng.choice(odd))
        places = [x, *(hx if isinstance(hx, tuple) else () if hx is None else (hx,)), *layer.parameters().values()]
        place = places[rng.integers(len(places))]
        place[tuple(rng.integers(n) for n in place.shape)] = bad
        layer.parameters().changed()
        module, _ = torch_twin(layer, config.input_size, config.H, **config.options)
        y, h_n = module(to_torch(x), to_torch(hx))
        with fastrnn.use_backend(backend), np.errstate(all="ignore"):
            y_ours, h_ours = layer(x, hx)
        pairs = [(y_ours, y)]
        pairs += zip(h_ours, h_n, strict=True) if isinstance(h_n, tuple) else [(h_ours, h_n)]
        for ours, theirs in pairs:
            theirs = theirs.numpy()
            for test in (np.isnan, np.isposinf, np.isneginf):
                if not np.array_equal(test(ours), test(theirs)):
                    wrong.append(f"{test.__name__} with {bad}: {config}")
    assert not wrong, f"{len(wrong)} differ:\n" + "\n".join(wrong)


# --- dropout ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_final_state_of_a_lower_layer_is_taken_before_dropout(name, assert_close):
    layer = getattr(fastrnn, name)(4, 8, 2, dropout=0.5, rng=3).train()
    module, _ = torch_twin(layer, 4, 8, 2, dropout=0.5)
    x = np.random.default_rng(1).normal(size=(25, 40, 4)).astype(np.float32)
    for call in (layer, lambda x: to_numpy(module.train()(to_torch(x)))):
        _, masked = call(x)
        _, plain = layer.eval()(x)
        for a, b in zip(masked, plain, strict=True) if name == "LSTM" else [(masked, plain)]:
            assert_close(a[0], b[0], "float32")
            assert np.abs(a[1] - b[1]).max() > 1e-2  # the upper layer saw the mask


def relu_pair(framework, dropout, **options):
    """Two ReLU layers: the lower puts out 1 always, the upper passes on what it gets, so its output is the mask."""
    layer = framework.RNN(1, 6, 2, "relu", dropout=dropout, **options)
    arrays = {key: np.zeros_like(np.asarray(value)) for key, value in layer.state_dict().items()}
    arrays["bias_ih_l0"][:] = 1
    arrays["weight_ih_l1"][:] = np.eye(6)
    layer.load_state_dict({k: to_torch(v) for k, v in arrays.items()} if framework is torch.nn else arrays)
    return layer


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_dropout_statistics(p, assert_close):
    T, N, H = 50, 40, 6
    x = np.zeros((T, N, 1), np.float32)
    theirs = relu_pair(torch.nn, p).train()(to_torch(x))[0].numpy()
    layer = relu_pair(fastrnn, p, rng=0)
    np.testing.assert_array_equal(layer(x)[0], 1)  # eval mode: no mask
    layer.train()
    ours = layer(x)[0]
    scale = np.float32(0 if p == 1 else 1 / (1 - p))
    for masked in (ours, theirs):
        assert np.isfinite(masked).all()
        kept = masked != 0
        assert_close(masked[kept], np.full(kept.sum(), scale), "float32")
        # Binomial: five standard deviations for all elements together, and for every step, row and unit alone.
        for axes, count in (((0, 1, 2), T * N * H), ((1, 2), N * H), ((0, 2), T * H), ((0, 1), T * N)):
            tolerance = 5 * np.sqrt(p * (1 - p) / count)
            assert np.abs(kept.mean(axis=axes) - (1 - p)).max() <= tolerance
    if 0 < p < 1:
        assert (layer(x)[0] != ours).any()  # a fresh mask each call
        again = relu_pair(fastrnn, p, rng=0).train()
        np.testing.assert_array_equal(again(x)[0], ours)  # from the layer's own generator
        for axis in range(3):  # neighbours along no axis share a mask
            a, b = np.split(kept, 2, axis=axis)
            correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
            assert abs(correlation) < 5 / np.sqrt(a.size)


def test_no_dropout_after_the_last_layer():
    layer = fastrnn.GRU(3, 5, 1, rng=0)
    with pytest.warns(UserWarning, match="dropout option"):
        single = fastrnn.GRU(3, 5, 1, dropout=0.9, rng=0).train()
    x = np.random.default_rng(0).normal(size=(4, 2, 3))
    np.testing.assert_array_equal(single(x)[0], layer(x)[0])


# --- empty input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_empty_batches(name):
    x = np.ones((3, 0, 2), np.float32)
    ours, theirs = getattr(fastrnn, name)(2, 4, 2), getattr(torch.nn, name)(2, 4, 2)
    for a, b in zip(ours(x), theirs(to_torch(x)), strict=True):
        for part, other in zip(a, b, strict=True) if isinstance(b, tuple) else [(a, b)]:
            assert part.shape == tuple(other.shape)
    with pytest.raises(RuntimeError, match="Expected sequence length to be larger than 0"):
        theirs(torch.ones(0, 3, 2))  # where ours gives an empty output and the initial state
    y, state = ours(np.ones((0, 3, 2)))
    assert y.shape == (0, 3, 4)
    assert (state[0] if name == "LSTM" else state).shape == (2, 3, 4)
