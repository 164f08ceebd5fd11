"""Layers told by names and shapes: every kind, every nesting, and what does not fit together."""

from __future__ import annotations

import collections
import time

import ml_dtypes
import numpy as np
import pytest
from crafted import CHECKPOINTS, layer_state, strict_load

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import Opaque, RecurrentInfo
from fastrnn.checkpoint import groups as groups_module
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
    arguments = {
        "input_size": I,
        "hidden_size": H,
        **({"proj_size": 0} if kind == "LSTM" else {}),
        "num_layers": L,
        "bias": bias,
        "bidirectional": bidirectional,
    }
    info, n_parameters = only(state), sum(array.size for array in state.values())
    assert info == RecurrentInfo("", kind, arguments, np.dtype(np.float32), n_parameters)
    assert info.is_recurrent
    assert {name: getattr(info, name) for name in arguments} == arguments
    assert (info.proj_size, info.batch_first, info.nonlinearity) == (0, None, None)
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
        f"<LayerInfo '{prefix}embed.': Embedding(7, 3), float32, 21 parameters>",
        f"<LayerInfo '{prefix}encoder.rnn.': GRU(3, 4, num_layers=2, bidirectional=True), float32, 552 parameters>",
        f"<LayerInfo '{prefix}decoder.': LSTM(8, 5, proj_size=2, bias=False), float32, 210 parameters>",
        f"<LayerInfo '{prefix}cell.': RNNCell(2, 3), float32, 21 parameters>",
        f"<LayerInfo '{prefix}head.': Linear(in_features=2, out_features=7, bias=True), float32, 21 parameters>",
    ]
    module = strict_load(CHECKPOINTS / "module.pt")
    prefixes = [info.prefix for info in fastrnn.find_layers(module)]
    assert prefixes == ["embed.", "encoder.rnn.", "decoder.", "cell.", "head."]


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


def test_wrappers_in_the_middle_may_be_left_out():
    state = layer_state("GRU", 2, 3, prefix="encoder.module._orig_mod.rnns.0.module.")
    for prefix in ("encoder.rnns.0", "encoder._orig_mod.rnns.0.", "encoder.rnns.0.module"):
        assert describe(state, prefix)[0].prefix == "encoder.module._orig_mod.rnns.0.module."
    for prefix in (
        "encoder.rnns",
        "rnns.0",
        "encoder.0",
        "module.encoder.rnns.0",
        "encoder.rnns.0.0",
        "encoder.rnns.0..0",
    ):
        with pytest.raises(ValueError, match="no recurrent layer where one is expected"):
            describe(state, prefix)
    state |= layer_state("GRU", 2, 3, prefix="encoder.rnns.0.")
    assert describe(state, "encoder.rnns.0")[0].prefix == "encoder.rnns.0."


def test_a_model_beside_its_average():
    model, average = layer_state("GRU", 2, 3, prefix="rnn."), layer_state("GRU", 2, 3, prefix="module.rnn.")
    for name in ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "swa_model", "swa_state_dict"):
        state = {"model": model, name: {"n_averaged": np.int64(3), **average}}
        with pytest.raises(ValueError, match=rf"2 recurrent layers.*'model\.rnn\.', '{name}\.module\.rnn\.'"):
            describe(state, "rnn")
        assert describe(state, f"{name}.rnn")[0].prefix == f"{name}.module.rnn."
        assert describe({name: average}, "rnn")[0].prefix == f"{name}.module.rnn."


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
    assert not any(info.is_recurrent for info in fastrnn.find_layers(state))
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


# Other layers

KNOWN = [
    ("head", {"weight": (4, 3), "bias": (4,)}, "Linear(in_features=3, out_features=4, bias=True)"),
    ("head", {"weight": (4, 3)}, "Linear(in_features=3, out_features=4, bias=False)"),
    ("head", {"weight": (1, 1), "bias": (1,)}, "Linear(in_features=1, out_features=1, bias=True)"),
    *((name, {"weight": (9, 3)}, "Embedding(9, 3)") for name in ("embed", "word_embeddings", "wte", "wpe", "tok_emb")),
    *((name, {"weight": (9, 3)}, "Embedding(9, 3)") for name in ("Lookup", "embeds.0", "a.embedding.0.1")),
    *(
        (name, {"weight": (9, 3)}, "Linear(in_features=3, out_features=9, bias=False)")
        for name in ("embed_out", "embedding_proj", "embed.head", "0", "temperature")
    ),
    ("embed", {"weight": (4, 3), "bias": (4,)}, "Linear(in_features=3, out_features=4, bias=True)"),
    ("conv", {"weight": (4, 3, 5), "bias": (4,)}, "Conv1d(3, 4, kernel_size=(5,))"),
    ("conv", {"weight": (4, 3, 5, 2)}, "Conv2d(3, 4, kernel_size=(5, 2), bias=False)"),
    ("conv", {"weight": (4, 3, 1, 1, 1), "bias": (4,)}, "Conv3d(3, 4, kernel_size=(1, 1, 1))"),
    *(
        (name, {"weight": (4,), "bias": (4,)}, "LayerNorm((4,), elementwise_affine=True, bias=True)")
        for name in ("norm", "ln_1", "0", "signal")
    ),
    ("x", {"weight": (2, 4), "bias": (2, 4)}, "LayerNorm((2, 4), elementwise_affine=True, bias=True)"),
    ("gn", {"weight": (2, 4), "bias": (2, 4)}, "LayerNorm((2, 4), elementwise_affine=True, bias=True)"),
    *(
        (name, {"weight": (4,), "bias": (4,)}, "GroupNorm(num_channels=4, affine=True, bias=True)")
        for name in ("gn1", "group_norm", "encoder.GroupNorm.0", "block_gn")
    ),
    (
        "bn",
        {"weight": (4,), "bias": (4,), "running_mean": (4,), "running_var": (4,), "num_batches_tracked": ()},
        "BatchNorm(4, affine=True, bias=True, track_running_stats=True)",
    ),
    (
        "bn",
        {"running_mean": (4,), "running_var": (4,)},
        "BatchNorm(4, affine=False, bias=False, track_running_stats=True)",
    ),
]


@pytest.mark.parametrize(("name", "shapes", "text"), KNOWN)
def test_other_layers(name, shapes, text):
    state = {f"{name}.{part}": np.ones(shape, np.float32) for part, shape in shapes.items()}
    info = only({"net": state})
    assert (info.prefix, info.text, info.kind) == (f"net.{name}.", text, text.partition("(")[0])
    assert repr(info) == f"<LayerInfo 'net.{name}.': {text}, float32, {info.n_parameters:,} parameters>"
    assert info.n_parameters == sum(state[f"{name}.{part}"].size for part in ("weight", "bias") if part in shapes)
    assert not info.is_recurrent
    with pytest.raises(ValueError, match="there is no recurrent layer in this state"):
        describe(state)


@pytest.mark.parametrize(
    "shapes",
    [
        {"weight": (4,)},  # of PReLU, RMSNorm, or anything
        {"weight": ()},
        {"bias": (4,)},
        {"weight": (4, 3), "bias": (3,)},
        {"weight": (4, 3), "bias": ()},
        {"weight": (4, 3, 5), "bias": (3,)},  # of a transposed convolution
        {"weight": (4, 3, 5, 5, 5, 5), "bias": (4,)},
        {"weight": (4,), "bias": (3,)},
        {"running_mean": (4,)},
        {"running_mean": (4,), "running_var": (3,)},
        {"running_mean": (4, 1), "running_var": (4, 1)},
        {"weight": (3,), "bias": (4,), "running_mean": (4,), "running_var": (4,)},
        {"weight_orig": (4, 3), "weight_u": (4,), "weight_v": (3,), "bias": (4,)},
        {"weight": (4, 3), "bias": (4,), "parametrizations.bias.original": (4,)},
    ],
)
def test_shapes_that_tell_nothing(shapes):
    assert fastrnn.find_layers({f"a.{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}) == []


def test_other_layers_hold_floating_point_numbers():
    assert fastrnn.find_layers({"weight": np.ones((3, 4), np.int64)}) == []
    assert fastrnn.find_layers({"weight": np.ones((3, 4), complex)}) == []
    assert only({"weight": np.ones((3, 4), ml_dtypes.bfloat16)}).dtype == ml_dtypes.bfloat16
    twice = {"a": {"b.weight": np.ones((3, 4))}, "a.b": {"weight": np.ones((3, 4))}}
    assert fastrnn.find_layers(twice) == []


def test_whole_modules_say_more():
    texts = {info.prefix: info.text for info in fastrnn.find_layers(strict_load(CHECKPOINTS / "options.pt"))}
    assert texts == {
        "embed.": "Embedding(5, 3, padding_idx=0)",
        "conv.": "Conv1d(3, 4, kernel_size=(2,), stride=(2,))",
        "up.": "ConvTranspose1d(4, 3, kernel_size=(2,), stride=(1,))",
        "norm.": "GroupNorm(2, 4, eps=1e-05, affine=True, bias=True)",
        "rnn.": "RNN(3, 4, batch_first=True, nonlinearity=relu)",
        "cell.": "RNNCell(3, 4, nonlinearity=relu)",
    }


def test_what_is_no_state_is_refused(tmp_path):
    for state, words in (
        ("model.pt", "str; fastrnn.load reads files"),
        (tmp_path, "Path; fastrnn.load reads files"),
        (fastrnn.GRU(3, 4), r"GRU; \.state_dict\(\) gives it"),
    ):
        for function in (fastrnn.find_layers, fastrnn.from_state_dict):
            with pytest.raises(TypeError, match=rf"^state should be a dict of arrays, got: \w*{words}$"):
                function(state)
    assert fastrnn.find_layers(np.ones(3)) == fastrnn.find_layers(None) == []


def test_whole_modules_of_torch_compile_are_seen_through():
    module = strict_load(CHECKPOINTS / "options.pt")
    compiled = Opaque("torch._dynamo.eval_frame", "OptimizedModule", (module, Opaque("a", "Context")))
    for state, prefix in ((compiled, "_orig_mod."), ({"model": compiled}, "model._orig_mod.")):
        assert {i.prefix: i.text for i in fastrnn.find_layers(state)} == {
            prefix + i.prefix: i.text for i in fastrnn.find_layers(module)
        }
        assert fastrnn.from_state_dict(state, "rnn").batch_first


def test_objects_of_every_kind_are_looked_into():
    state = layer_state("GRU", 3, 4)
    assert only(Opaque("a", "Pair", args=(1, {"rnn": state}))).prefix == "args.1.rnn."  # a namedtuple
    assert only(Opaque("a", "Slots", state=(None, {"rnn": state}))).prefix == "rnn."
    assert only(Opaque("a", "Slots", state=({"rnn": state}, {"b": 1}))).prefix == "rnn."


def test_torchscript_says_the_class():
    state = {"weight": np.ones((4, 3, 5), np.float32), "bias": None, "transposed": True}
    for module in ("__torch__.torch.nn.modules.conv", "__torch__.torch.nn.modules.conv.___torch_mangle_3"):
        info = only({"up": Opaque(module, "ConvTranspose1d", state=state)})
        assert info.text == "ConvTranspose1d(4, 3, kernel_size=(5,), bias=False)"
    assert only({"up": Opaque("mine.torch.nn", "ConvTranspose1d", state=state)}).kind == "Conv1d"


def test_attributes_that_make_no_sense_are_passed_over():
    weight = np.ones((4, 3, 5), np.float32)
    attributes = {
        "weight": weight,
        "stride": [2],
        "padding": "\x1b[31m",
        "groups": 2,
        "dilation": (1,) * 9,
        "bias": None,
    }
    attributes |= {"in_channels": 77, "kernel_size": (9,), "padding_mode": Opaque("a", "b")}
    info = only({"conv": Opaque("torch.nn.modules.conv", "Conv1d", state=attributes)})
    assert info.text == "Conv1d(6, 4, kernel_size=(5,), groups=2, bias=False)"
    for groups in (True, 0, -1, 1.5, "two", None):
        info = only({"conv": Opaque("torch.nn.modules.conv", "Conv1d", state={"weight": weight, "groups": groups})})
        assert info.arguments["in_channels"] == 3
    for name in ("Conv2d", "Linear", "Embedding", "GroupNorm", "Conv", "Conv1", "Bilinear", "BatchNorm1d"):
        assert fastrnn.find_layers(Opaque("torch.nn.modules.conv", name, state=attributes)) == []


# Hostile trees


def test_shared_parts_and_cycles_are_bounded(monkeypatch):
    monkeypatch.setattr(groups_module, "_MAX_GROUPS", 1000)
    monkeypatch.setattr(groups_module, "_MAX_PARTS", 10_000)
    layer, nothing = layer_state("GRU", 1, 1), [1]
    layers = [layer]
    for _ in range(60):  # 2^60 ways to the one layer
        layers, nothing = [layers, layers], [nothing, nothing]
    with pytest.raises(CheckpointError, match="holds more than 1,000 layers"):
        fastrnn.find_layers(layers)
    with pytest.raises(CheckpointError, match=r"more than 10,000 parts, shared ones counted each time"):
        fastrnn.find_layers(nothing)
    assert len(fastrnn.find_layers([layer] * 1000)) == 1000
    ring = {"a": {"rnn": layer}}
    ring["a"]["back"] = ring["a"]["rnn"]["back"] = ring
    assert [info.prefix for info in fastrnn.find_layers(ring)] == ["a.rnn."]


def test_deep_nesting_and_long_names():
    deep = layer_state("GRU", 2, 3)
    for _ in range(400):
        deep = [deep]
    assert only(deep).prefix == "0." * 400
    for _ in range(100_000):
        deep = [deep]
    assert fastrnn.find_layers(deep) == []
    long = {"x" * 1_000_000: [layer_state("GRU", 2, 3) for _ in range(1000)], "y": layer_state("GRU", 2, 3)}
    assert only(long).prefix == "y."
    assert fastrnn.find_layers({"x" * 2000 + ".weight": np.ones((2, 3))}) == []
    assert only({("a", 1): layer_state("GRU", 2, 3)}).prefix == "(a, 1)."


def test_hostile_paths_take_no_longer():
    begin = time.perf_counter()
    names = ["." * 900, "parametrizations." * 55, "weight_hh_l0_" * 75, "weight_hh_l9999" * 60, "a.weight" * 110]
    state = {f"{name}{i}": np.zeros(1) for name in names for i in range(10_000)}
    assert fastrnn.find_layers(state) == []
    for key in ("x" * 1_000_000, ("x" * 1_000_000,), (("x" * 1_000_000,),), b"x" * 1_000_000):
        assert fastrnn.find_layers([{key: [], "rnn": []}] * 50_000) == []
    assert time.perf_counter() - begin < 10


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
