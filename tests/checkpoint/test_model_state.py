"""The state dict of a whole model, out of everything that is put around one."""

from __future__ import annotations

import numpy as np
import pytest
from crafted import CHECKPOINTS, strict_load

import fastrnn
from fastrnn import CheckpointError


@pytest.fixture
def state():
    """A model of three layers, and of one array of its own."""
    layers = {
        "embed": fastrnn.Embedding(5, 3, rng=0),
        "rnn": fastrnn.GRU(3, 4, rng=0),
        "head": fastrnn.Linear(4, 2, rng=0),
    }
    found = {f"{part}.{name}": a for part, layer in layers.items() for name, a in layer.state_dict().items()}
    return found | {"temperature": np.array(2.0)}


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def wrapped(state, head):
    return {head + name: array for name, array in state.items()}


def test_what_is_around_a_model(state):
    for around in (
        state,
        {"model_state_dict": state, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}}},
        {"state_dict": {"model": state}},
        {"net": wrapped(state, "module.")},
        wrapped(state, "_orig_mod."),
        wrapped(state, "module._orig_mod."),
        {"n_averaged": np.array(3)} | wrapped(state, "module._orig_mod.module."),
    ):
        assert_same(fastrnn.model_state_dict(around), state)


def test_a_part_of_a_models_own_of_such_a_name_stays(state):
    mixed = wrapped(state, "module.") | {"head.bias": np.ones(2)}
    assert_same(fastrnn.model_state_dict(mixed), mixed)
    assert_same(fastrnn.model_state_dict(wrapped(state, "net.")), wrapped(state, "net."))


def test_whole_modules():
    module = strict_load(CHECKPOINTS / "module.pt")
    found = fastrnn.model_state_dict({"epoch": 1, "model": module})
    assert {"embed.weight", "encoder.rnn.weight_hh_l1_reverse", "decoder.weight_hr_l0", "head.bias"} <= set(found)
    expected = dict(np.load(CHECKPOINTS / "module.npz"))
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize(
    "names", [("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1")]
)
def test_weight_norm(names, state):
    v = state.pop("head.weight").astype(np.float64)
    g = np.array([[2.0], [3.0]])
    kept = state | {f"head.{name}": a for name, a in zip(names, (g, v), strict=True)}
    found = fastrnn.model_state_dict({"state_dict": wrapped(kept, "module.")})
    assert "head.weight" in found
    assert not [name for name in found if name.endswith(names)]
    np.testing.assert_allclose(found["head.weight"], g * v / np.linalg.norm(v, axis=1, keepdims=True), rtol=1e-15)


def test_what_cannot_be_undone_is_named(state):
    with pytest.raises(CheckpointError, match=r"head\.weight is kept by spectral norm.*remove_spectral_norm"):
        fastrnn.model_state_dict(state | {"head.weight_orig": np.ones((2, 4)), "head.weight_u": np.ones(2)})


def test_several_models_and_none(state):
    with pytest.raises(ValueError, match=r"several models, 'model', 'ema': give one, as state\['model'\]"):
        fastrnn.model_state_dict({"model": state, "ema": state})
    assert_same(fastrnn.model_state_dict({"model": state, "ema": state}["ema"]), state)
    for nothing in ({}, {"epoch": 3}, {"model": {}}, []):
        with pytest.raises(ValueError, match="no arrays"):
            fastrnn.model_state_dict(nothing)
    for wrong in ("model.pt", fastrnn.Linear(2, 2), None):
        with pytest.raises(TypeError, match="state should be a dict of arrays"):
            fastrnn.model_state_dict(wrong)


def test_it_loads(state):
    class Model(fastrnn.Module):
        def __init__(self):
            self.embed, self.rnn, self.head = fastrnn.Embedding(5, 3), fastrnn.GRU(3, 4), fastrnn.Linear(4, 2)
            self.temperature = fastrnn.Parameter(1.0)

    model = Model()
    model.load_state_dict(fastrnn.model_state_dict({"model_state_dict": wrapped(state, "module."), "epoch": 2}))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, state[name].astype("float32"))
