"""Layers told by names and shapes: every kind, every nesting, and what does not fit together."""

from __future__ import annotations

import collections

import ml_dtypes
import numpy as np
import pytest
from crafted import CHECKPOINTS, layer_state, strict_load

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import LayerInfo
from fastrnn.checkpoint.state_dict import describe


def only(state):
    (info,) = fastrnn.find_layers(state)
    return info


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("L", [1, 2, 11])
@pytest.mark.parametrize(("I", "H"), [(3, 4), (4, 4), (1, 1), (12, 3), (3, 12)])
def test_every_layer(kind, bias, bidirectional, L, I, H):
    state = layer_state(kind, I, H, L=L, bias=bias, bidirectional=bidirectional)
    assert only(state) == LayerInfo(
        prefix="",
        kind=kind,
        input_size=I,
        hidden_size=H,
        num_layers=L,
        bias=bias,
        bidirectional=bidirectional,
        proj_size=0,
        dtype=np.dtype(np.float32),
        n_parameters=sum(array.size for array in state.values()),
    )
    shuffled = dict(reversed(state.items()))
    info, arrays = describe(shuffled)
    assert info == only(state)
    assert list(arrays) == list(state)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("P", [1, 2, 3])
def test_projections(bidirectional, P):
    info = only(layer_state("LSTM", 5, 4, L=2, P=P, bidirectional=bidirectional))
    assert (info.kind, info.hidden_size, info.proj_size, info.num_layers) == ("LSTM", 4, P, 2)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [True, False])
def test_cells(kind, bias):
    info = only(layer_state(kind, 3, 4, bias=bias))
    assert (info.kind, info.input_size, info.hidden_size, info.bias, info.is_cell) == (kind, 3, 4, bias, True)


def test_what_torch_saved():
    state = strict_load(CHECKPOINTS / "nested.pt")
    prefix = "model_state_dict.module._orig_mod."
    assert [repr(info) for info in fastrnn.find_layers(state)] == [
        f"<LayerInfo '{prefix}encoder.rnn.': GRU(3, 4, num_layers=2, bidirectional=True), float32, 552 parameters>",
        f"<LayerInfo '{prefix}decoder.': LSTM(8, 5, bias=False, proj_size=2), float32, 210 parameters>",
        f"<LayerInfo '{prefix}cell.': RNNCell(2, 3), float32, 21 parameters>",
    ]
    module = strict_load(CHECKPOINTS / "module.pt")
    assert [info.prefix for info in fastrnn.find_layers(module)] == ["encoder.rnn.", "decoder.", "cell."]


def test_through_every_nesting():
    one = layer_state("GRU", 2, 3, prefix="rnn.")
    state = {
        "state_dict": one,
        "model_state": collections.OrderedDict(one),
        "list": [{"x": 1}, (one,)],
        "deep": {"net": {"module": one}},
        3: one,
        "note": "text",
        "array": np.ones(3),
        "nothing": None,
    }
    state["itself"] = state
    prefixes = [info.prefix for info in fastrnn.find_layers(state)]
    assert prefixes == ["state_dict.rnn.", "model_state.rnn.", "list.1.0.rnn.", "deep.net.module.rnn.", "3.rnn."]
    for prefix in prefixes:
        for given in (prefix, prefix.removesuffix(".")):
            info, arrays = describe(state, given)
            assert info.prefix == prefix
            assert arrays["weight_ih_l0"] is one["rnn.weight_ih_l0"]


def test_wrappers_may_be_left_out():
    state = {"model_state_dict": layer_state("GRU", 2, 3, prefix="module._orig_mod.encoder.rnn.")}
    for prefix in (
        "encoder.rnn",
        "encoder.rnn.",
        "_orig_mod.encoder.rnn.",
        "model_state_dict.module._orig_mod.encoder.rnn",
    ):
        assert describe(state, prefix)[0].prefix == "model_state_dict.module._orig_mod.encoder.rnn."
    with pytest.raises(ValueError, match="no recurrent layer where one is expected"):
        describe(state, "rnn")  # "encoder." is a name of the model's own
    assert describe({"state_dict": layer_state("GRU", 2, 3)}, "")[0].prefix == "state_dict."


def test_an_exact_prefix_wins():
    state = layer_state("GRU", 2, 3, prefix="rnn.") | layer_state("LSTM", 2, 3, prefix="model.rnn.")
    assert describe(state, "rnn")[0].kind == "GRU"
    assert describe(state, "model.rnn")[0].kind == "LSTM"


def test_ambiguity_lists_the_choices():
    state = layer_state("GRU", 2, 3, prefix="a.") | layer_state("GRU", 2, 3, prefix="b.rnn.")
    with pytest.raises(ValueError, match=r"2 recurrent layers where one is expected.*'a\.', 'b\.rnn\.'"):
        describe(state)
    with pytest.raises(ValueError, match=r"prefix 'c': no recurrent layer.*'a\.', 'b\.rnn\.'"):
        describe(state, "c")
    state = {"model": layer_state("GRU", 2, 3, prefix="rnn."), "net": layer_state("GRU", 2, 3, prefix="rnn.")}
    with pytest.raises(ValueError, match=r"2 recurrent layers.*'model\.rnn\.', 'net\.rnn\.'"):
        describe(state, "rnn")
    many = {str(i): layer_state("GRU", 1, 1) for i in range(30)}
    with pytest.raises(ValueError, match=r"30 recurrent layers.*'19\.', \.\.\."):
        describe(many)


@pytest.mark.parametrize("state", [{}, {"a": 1}, [], {"linear.weight": np.ones((2, 3))}])
def test_nothing_to_find(state):
    assert fastrnn.find_layers(state) == []
    with pytest.raises(ValueError, match="there is no recurrent layer"):
        describe(state)


def test_prefix_is_checked():
    with pytest.raises(TypeError, match="prefix should be a str or None, got int"):
        describe({}, 3)


def test_dtypes():
    for dtype in (np.float16, np.float64, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn):
        assert only(layer_state("GRU", 2, 3, dtype=dtype)).dtype == dtype
    mixed = layer_state("GRU", 2, 3, dtype=ml_dtypes.bfloat16)
    mixed["bias_ih_l0"] = mixed["bias_ih_l0"].astype(np.float16)
    assert only(mixed).dtype == np.float32
    mixed["bias_hh_l0"] = mixed["bias_hh_l0"].astype(np.float64)
    assert only(mixed).dtype == np.float64


def test_other_modules_with_such_names_are_passed_over():
    assert (
        fastrnn.find_layers({"weight_ih": np.ones((2, 3)), "b.bias_hh": np.ones(3), "weight_ih_l0": np.ones(3)}) == []
    )


def change(name, value):
    def apply(state):
        state["rnn." + name] = value

    return apply


def drop(name):
    def apply(state):
        del state["rnn." + name]

    return apply


ONES = np.ones((12, 4), np.float32)
BROKEN = {
    "missing bias": (drop("bias_hh_l1_reverse"), "bias_hh_l1_reverse missing"),
    "missing layer": (lambda s: [s.pop(k) for k in [*s] if "_l0" in k], "weight_ih_l0 is missing"),
    "missing direction": (drop("weight_ih_l0_reverse"), "not expected"),
    "missing first bias": (drop("bias_ih_l0"), "bias_hh_l0.* not expected"),
    "third layer in part": (change("weight_ih_l2", ONES), "weight_hh_l2, .* missing"),
    "layer 9999": (change("weight_ih_l9999", ONES), "missing"),
    "a projection of a GRU": (change("weight_hr_l0", np.ones((2, 4), np.float32)), "LSTM, which alone"),
    "cell and layer": (change("weight_ih", ONES), "weight_hh is missing"),
    "rows that are no gates": (change("weight_ih_l0", np.ones((8, 3), np.float32)), "8 rows for a hidden size of 4"),
    "other hidden size": (change("weight_hh_l1", np.ones((12, 5), np.float32)), r"weight_hh_l1 has shape \(12, 5\)"),
    "other input size": (change("weight_ih_l0_reverse", np.ones((12, 2), np.float32)), r"ask for \(12, 3\)"),
    "layer 1 as if of one direction": (change("weight_ih_l1", ONES), r"ask for \(12, 8\)"),
    "bias of two dimensions": (change("bias_ih_l0", np.ones((12, 1), np.float32)), r"ask for \(12,\)"),
    "integers": (change("bias_ih_l0", np.ones(12, np.int64)), "int64; expected floating-point"),
    "complex": (change("bias_ih_l0", np.ones(12, np.complex64)), "complex64; expected floating-point"),
    "three dimensions": (change("weight_hh_l0", np.ones((12, 4, 1), np.float32)), "two sizes"),
    "no input": (change("weight_ih_l0", np.ones((12, 0), np.float32)), "none of them 0"),
    "the same name twice": (change("x", 0), "two arrays have this name"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_does_not_fit_together_is_refused(case):
    state = layer_state("GRU", 3, 4, L=2, bidirectional=True, prefix="rnn.")
    apply, reason = BROKEN[case]
    apply(state)
    if case == "the same name twice":
        state["rnn"] = {"weight_ih_l0": ONES}
    with pytest.raises(CheckpointError, match=reason):
        describe(state, "rnn")
    if case not in ("missing layer", "three dimensions", "cell and layer"):
        with pytest.raises(CheckpointError, match="rnn"):
            fastrnn.find_layers(state)


def test_a_broken_layer_does_not_hide_another():
    state = layer_state("GRU", 3, 4, prefix="good.") | layer_state("GRU", 3, 4, prefix="bad.")
    del state["bad.bias_ih_l0"]
    assert describe(state, "good")[0].kind == "GRU"
