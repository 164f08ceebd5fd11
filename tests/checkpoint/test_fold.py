"""Weights behind weight norm and weight drop are what torch makes of them; what is behind anything else is named."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from crafted import CHECKPOINTS, layer_state, strict_load

import fastrnn
from fastrnn import CheckpointError

SPELLINGS = {
    "old": ("{prefix}{name}_g", "{prefix}{name}_v"),
    "new": ("{prefix}parametrizations.{name}.original0", "{prefix}parametrizations.{name}.original1"),
}


def normed(state, name, g, v, *, spelling="new", prefix="rnn."):
    """`state` with weight `name` kept by weight norm."""
    g_name, v_name = (text.format(prefix=prefix, name=name) for text in SPELLINGS[spelling])
    return {key: array for key, array in state.items() if key != prefix + name} | {g_name: g, v_name: v}


def naive(g, v):
    """The weight, element by element."""
    weight = np.empty(v.shape)
    for i in range(v.shape[0]):
        for j in range(v.shape[1]):
            if g.size == 1:
                vector, magnitude = v.ravel(), g.item()
            elif g.shape[0] != 1:
                vector, magnitude = v[i], g[i, 0]
            else:
                vector, magnitude = v[:, j], g[0, j]
            weight[i, j] = float(v[i, j]) * float(magnitude) / math.sqrt(math.fsum(float(x) ** 2 for x in vector))
    return weight


def test_what_torch_saved():
    state = strict_load(CHECKPOINTS / "parametrized.pt")
    for key, kind in (("old", "LSTM"), ("new", "GRU"), ("fastai", "RNN")):
        layer = fastrnn.from_state_dict(state, key)
        assert type(layer).__name__ == kind
        for array, expected in zip(layer.parameters().values(), state["weights"][key], strict=True):
            np.testing.assert_allclose(array, expected, rtol=2**-22, atol=0)
    infos = {info.prefix.removeprefix("model.module."): info for info in fastrnn.find_layers(state)}
    assert list(infos) == ["old.", "new.", "conv.", "fastai.module."]
    assert infos["conv."].text == "Conv1d(3, 4, kernel_size=(5,))"
    assert infos["conv."].n_parameters == 4 * 3 * 5 + 4
    for key in ("old", "new"):
        assert infos[f"{key}."].n_parameters == sum(array.size for array in state["weights"][key])


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("g_shape", [(12, 1), (1, 4), (), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_weight_norm(spelling, g_shape, dtype):
    rng = np.random.default_rng(0)
    g, v = rng.normal(size=g_shape).astype(dtype), rng.normal(size=(12, 4)).astype(dtype)
    g = np.asarray(g)
    state = normed(layer_state("GRU", 3, 4, prefix="rnn.", dtype=dtype), "weight_hh_l0", g, v, spelling=spelling)
    layer = fastrnn.from_state_dict(state)
    exact = np.float64 if dtype is np.float64 else np.float32
    assert layer.weight_hh_l0.dtype == exact
    np.testing.assert_allclose(layer.weight_hh_l0, naive(g, v), rtol=4 * np.finfo(exact).eps, atol=0)
    np.testing.assert_array_equal(layer.weight_ih_l0, state["rnn.weight_ih_l0"].astype(exact))
    (info,) = fastrnn.find_layers(state)
    assert (info.text, info.n_parameters) == ("GRU(3, 4)", 12 * 3 + 12 * 4 + 2 * 12)


def test_every_weight_may_be_normed():
    state = layer_state("LSTM", 3, 4, L=2, P=2, bidirectional=True, prefix="rnn.")
    kept = dict(state)
    for name, v in state.items():
        if "weight" in name:
            kept = normed(kept, name.removeprefix("rnn."), np.linalg.norm(v, axis=1, keepdims=True), v)
    layer = fastrnn.from_state_dict(kept)
    assert list(layer.parameters()) == [name.removeprefix("rnn.") for name in state]
    for name, array in layer.parameters().items():  # the magnitudes are the norms: nothing changes
        np.testing.assert_allclose(array, state[f"rnn.{name}"], rtol=1e-6)


def test_cells_and_other_nestings():
    state = layer_state("LSTMCell", 3, 4)
    v = state.pop("weight_hh")
    parts = {"original0": np.float32(2), "original1": v}
    for nested in (
        {"cell": state | {"parametrizations": {"weight_hh": parts}}},
        {"cell": state | {"parametrizations.weight_hh": parts}},
        {"cell": state | {"weight_hh_g": np.full((1, 1), 2, np.float32), "weight_hh_v": v}},
    ):
        cell = fastrnn.from_state_dict(nested, "cell")
        np.testing.assert_allclose(cell.weight_hh, 2 * v / np.linalg.norm(v), rtol=1e-6)


def test_zeros_give_nan_as_in_torch():
    v = np.ones((12, 4), np.float32)
    v[3] = 0
    state = normed(layer_state("GRU", 3, 4, prefix="rnn."), "weight_hh_l0", np.ones((12, 1), np.float32), v)
    with np.errstate(all="raise"):
        weight = fastrnn.from_state_dict(state).weight_hh_l0
    assert np.isnan(weight[3]).all()
    assert np.isfinite(np.delete(weight, 3, axis=0)).all()


ONES = np.ones((12, 4), np.float32)


@pytest.mark.parametrize("g_shape", [(12, 4), (12,), (4, 1), (1, 12), (12, 1, 1), (0,), (2, 4)])
def test_magnitudes_that_do_not_fit(g_shape):
    state = normed(layer_state("GRU", 3, 4, prefix="rnn."), "weight_hh_l0", np.ones(g_shape, np.float32), ONES)
    with pytest.raises(CheckpointError, match=r"rnn\.: weight_hh_l0 is kept by weight norm as shapes .*\(12, 4\)"):
        fastrnn.from_state_dict(state)


def test_directions_that_do_not_fit_the_layer():
    v = np.ones((12, 5), np.float32)
    state = normed(layer_state("GRU", 3, 4, prefix="rnn."), "bias_ih_l0", np.ones((12, 1), np.float32), v)
    with pytest.raises(CheckpointError, match=r"bias_ih_l0 has shape \(12, 5\); the other arrays ask for \(12,\)"):
        fastrnn.from_state_dict(state)


@pytest.mark.parametrize(("g", "v"), [(int, float), (float, int), ("U3", float), (float, complex), (bool, bool)])
def test_pairs_of_other_than_floating_point_numbers(g, v):
    g, v = np.ones((12, 1)).astype(g), np.ones((12, 4)).astype(v)
    state = normed(layer_state("GRU", 3, 4, prefix="rnn."), "weight_hh_l0", g, v)
    with pytest.raises(
        CheckpointError, match=f"weight_hh_l0 is kept by weight norm in {g.dtype} and {v.dtype}; expected"
    ):
        fastrnn.from_state_dict(state)


HIDDEN = {
    "only half a pair": ({"weight_hh_l0_g": ONES[:, :1]}, "weight norm, of which there is only g"),
    "pruning": ({"weight_hh_l0_orig": ONES, "weight_hh_l0_mask": ONES}, "pruned; call torch.nn.utils.prune.remove"),
    "old spectral norm": (
        {"weight_hh_l0_orig": ONES, "weight_hh_l0_u": ONES[:, 0], "weight_hh_l0_v": ONES[0]},
        "spectral norm, which is not supported; call torch.nn.utils.remove_spectral_norm",
    ),
    "new spectral norm": (
        {
            "parametrizations.weight_hh_l0.original": ONES,
            "parametrizations.weight_hh_l0.0._u": ONES[:, 0],
            "parametrizations.weight_hh_l0.0._v": ONES[0],
        },
        "spectral norm",
    ),
    "orthogonal": (
        {"parametrizations.weight_hh_l0.original": ONES, "parametrizations.weight_hh_l0.0.base": ONES},
        r"a parametrization that is not supported \(original, 0.base\); call torch.nn.utils.parametrize.remove",
    ),
    "a part of a parametrization": ({"parametrizations.weight_hh_l0.original0": ONES}, r"not supported \(original0\)"),
    "what was only kept before a change": ({"weight_hh_l0_orig": ONES}, r"not supported \(orig\)"),
}


@pytest.mark.parametrize("case", HIDDEN)
def test_what_cannot_be_folded_is_named(case):
    kept, reason = HIDDEN[case]
    good = layer_state("LSTM", 2, 3, prefix="good.")
    state = layer_state("GRU", 3, 4, prefix="rnn.")
    del state["rnn.weight_hh_l0"]
    state |= good | {f"rnn.{name}": array for name, array in kept.items()}
    for call in (fastrnn.find_layers, lambda state: fastrnn.from_state_dict(state, "rnn")):
        with pytest.raises(CheckpointError, match=rf"rnn\.: weight_hh_l0 is .*{reason}"):
            call(state)
    assert type(fastrnn.from_state_dict(state, "good")) is fastrnn.LSTM


def test_a_weight_that_is_there_counts_more_than_parts_of_others():
    state = layer_state("GRU", 3, 4)
    for other in ("weight_hh_l0_mask", "weight_hh_l0_g", "weight_hh_l0_u"):  # a user's own, torch has it otherwise
        layer = fastrnn.from_state_dict(state | {other: ONES})
        np.testing.assert_array_equal(layer.weight_hh_l0, state["weight_hh_l0"])


def test_what_is_folded_counts_more_than_what_the_last_call_left():
    state = layer_state("GRU", 3, 4, prefix="rnn.")
    v, expected = state["rnn.weight_hh_l0"], state["rnn.weight_hh_l0"]
    stale = {"rnn.weight_hh_l0": np.zeros_like(expected)}
    pair = normed(state, "weight_hh_l0", np.linalg.norm(v, axis=1, keepdims=True), v, spelling="old")
    for kept in (pair, state | {"rnn.weight_hh_l0_raw": expected}):
        layer = fastrnn.from_state_dict(kept | stale)
        np.testing.assert_allclose(layer.weight_hh_l0, expected, rtol=1e-6)


# Weight drop


@pytest.mark.parametrize("stale", [True, False])
@pytest.mark.parametrize("raw", ["rnn.module.weight_hh_l0_raw", "rnn.weight_hh_l0_raw"])  # awd-lstm, fastai
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_weight_drop(kind, raw, stale):
    state = layer_state(kind, 3, 4, prefix="rnn.module.")
    expected = list(state.values())
    state[raw] = state["rnn.module.weight_hh_l0"]
    state["rnn.module.weight_hh_l0"] = np.full_like(state[raw], np.nan)
    if not stale:
        del state["rnn.module.weight_hh_l0"]
    for given in (state, {"model": [state]}):
        for prefix in (None, "rnn", "rnn.module"):
            layer = fastrnn.from_state_dict(given, prefix)
            for array, value in zip(layer.parameters().values(), expected, strict=True):
                np.testing.assert_array_equal(array, value)
    (info,) = fastrnn.find_layers(state)
    assert (info.prefix, info.n_parameters) == ("rnn.module.", sum(array.size for array in expected))


def test_two_raw_weights_are_one_too_many():
    state = layer_state("GRU", 3, 4, prefix="rnn.module.")
    state["rnn.module.weight_hh_l0_raw"] = state["rnn.weight_hh_l0_raw"] = ONES
    with pytest.raises(CheckpointError, match="weight_hh_l0: two arrays have this name"):
        fastrnn.from_state_dict(state)


@pytest.mark.parametrize(
    "name",
    [
        "weight_l0_raw",
        "my_weight_hh_l0_raw",
        "weight_hh_l0_raw.x",
        "weight_hh_l0_old",
        "parametrizations.weight_hh_l0",
    ],
)
def test_names_that_only_look_so(name):
    state = layer_state("GRU", 3, 4)
    del state["weight_hh_l0"]
    with pytest.raises(ValueError, match="there is no recurrent layer in this state"):
        fastrnn.from_state_dict(state | {name: ONES})


def test_names_that_end_in_parametrizations():
    state = {"parametrizations.weight.original0": ONES[:, :1], "parametrizations.weight.original1": ONES}
    assert [info.text for info in fastrnn.find_layers(state)] == ["Linear(in_features=4, out_features=12, bias=False)"]
    assert fastrnn.find_layers({f"my{name}": array for name, array in state.items()}) == []
