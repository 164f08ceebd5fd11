"""Models of one's own: parts, names, state dicts, copies, dtypes, mode, text."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastrnn


class Tagger(fastrnn.Module):
    """Without ``super().__init__()``, as models may be written."""

    def __init__(self, hidden=4):
        self.hidden = hidden
        self.embed = fastrnn.Embedding(9, 3, rng=0)
        self.rnn = fastrnn.GRU(3, hidden, batch_first=True, rng=1)
        self.head = fastrnn.Linear(hidden, 2, rng=2)
        self.scale = fastrnn.Parameter([1.0, 2.0])

    def forward(self, tokens, lengths=None):
        y, _ = self.rnn(self.embed(tokens), lengths=lengths)
        return self.head(y) * self.scale


class Nested(fastrnn.Module):
    def __init__(self):
        super().__init__()
        self.tagger = Tagger()
        self.shared = self.tagger.head
        self.blocks = fastrnn.ModuleList(fastrnn.Linear(2, 2, rng=i) for i in range(3))
        self.norm = None
        self.register_buffer("mean", np.zeros(2, np.float32))
        self.register_buffer("count", np.array(7))

    def forward(self, tokens):
        y = self.tagger(tokens)
        for block in self.blocks:
            y = block(y)
        return y - self.mean


TOKENS = [[1, 2, 3], [4, 5, 0]]


def test_names():
    gru = [f"weight_{kind}_l0" for kind in ("ih", "hh")] + [f"bias_{kind}_l0" for kind in ("ih", "hh")]
    tagger = ["scale", "embed.weight", *(f"rnn.{name}" for name in gru), "head.weight", "head.bias"]
    assert list(Tagger().state_dict()) == tagger
    nested = ["mean", "count", *(f"tagger.{name}" for name in tagger), "shared.weight", "shared.bias"]
    nested += [f"blocks.{i}.{name}" for i in range(3) for name in ("weight", "bias")]
    model = Nested()
    assert list(model.state_dict()) == nested
    assert list(model.parameters()) == [n for n in nested[2:] if not n.startswith("shared")]
    assert [name for name, _ in model.named_modules()] == [
        "", "tagger", "tagger.embed", "tagger.rnn", "tagger.head", "blocks", "blocks.0", "blocks.1", "blocks.2",
    ]  # fmt: skip
    assert "shared" in [name for name, _ in model.named_modules(remove_duplicate=False)]
    assert [name for name, _ in model.named_children()] == ["tagger", "shared", "blocks"]
    assert list(model.children()) == [model.tagger, model.shared, model.blocks]
    assert next(iter(model.modules())) is model
    assert {"tagger", "mean", "forward"} <= set(dir(model))
    assert {"scale", "hidden"} <= set(dir(model.tagger))


def test_the_call():
    model = Tagger()
    y = model(TOKENS)
    assert y.shape == (2, 3, 2)
    expected = model.head(model.rnn(model.embed(TOKENS))[0]) * np.float32([1, 2])
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(model(TOKENS, lengths=[3, 1])[0], y[0])
    assert Nested()(TOKENS).shape == (2, 3, 2)


def test_nothing_defined():
    class Empty(fastrnn.Module):
        pass

    with pytest.raises(NotImplementedError, match=r'Module \[Empty\] is missing the required "forward" function'):
        Empty()(1)
    with pytest.raises(NotImplementedError, match="Empty has no vjp: define one"):
        Empty().vjp(1)
    with pytest.raises(TypeError):
        Empty(1)
    assert repr(Empty()) == "Empty()"
    assert Empty().state_dict() == {}
    with pytest.raises(AttributeError, match="'Empty' object has no attribute 'weight'"):
        Empty().weight  # noqa: B018


# --- attributes -------------------------------------------------------------------------------------------------------


def test_parameters_are_arrays():
    model = Tagger()
    assert type(model.scale) is np.ndarray
    assert model.scale.dtype == np.float32
    given = np.ones(2)
    model.extra = fastrnn.Parameter(given, dtype="float64")
    given[:] = 5
    np.testing.assert_array_equal(model.extra, [1, 1])
    assert model.extra.dtype == np.float64
    assert list(model.state_dict())[:2] == ["scale", "extra"]
    live = model.scale
    model.scale = [3, 4]
    assert model.scale is live
    np.testing.assert_array_equal(live, [3, 4])
    model.scale = fastrnn.Parameter([5, 6])
    assert model.scale is live
    with pytest.raises(ValueError, match=r"scale should have shape \(2,\), got: \(3,\)"):
        model.scale = np.ones(3)
    with pytest.raises(TypeError, match="scale should be an array of real numbers"):
        model.scale = None
    np.testing.assert_array_equal(live, [5, 6])
    for wrong, options in ((["a"], {}), ([1j], {}), (None, {}), ([1], {"dtype": int})):
        with pytest.raises(TypeError):
            fastrnn.Parameter(wrong, **options)
    assert repr(fastrnn.Parameter([1])) == "Parameter(array([1.], dtype=float32))"


def test_parts_are_replaced_in_their_place():
    model = Tagger()
    model.rnn = fastrnn.LSTM(3, 4, batch_first=True)
    assert [name for name, _ in model.named_children()] == ["embed", "rnn", "head"]
    assert model(TOKENS).shape == (2, 3, 2)
    with pytest.raises(TypeError, match=r"cannot assign 'int' as child module 'rnn' \(fastrnn.Module or None expected"):
        model.rnn = 3
    assert isinstance(model.rnn, fastrnn.LSTM)
    model.rnn = None
    assert model.rnn is None
    assert [name for name, _ in model.named_children()] == ["embed", "head"]
    model.rnn = fastrnn.GRU(3, 4)
    model.hidden = fastrnn.Linear(1, 1)
    assert [name for name, _ in model.named_children()] == ["embed", "head", "rnn", "hidden"]
    assert "hidden" not in vars(model)
    model.hidden = fastrnn.Parameter([1])
    assert model.hidden.tolist() == [1]
    assert list(model.state_dict())[:2] == ["scale", "hidden"]
    assert "hidden" not in [name for name, _ in model.named_children()]


def test_buffer_that_is_not_saved():
    model = fastrnn.Sequential(fastrnn.Linear(2, 2))
    model.register_buffer("mask", np.ones(2, np.float32), persistent=False)
    model.register_buffer("mean", np.zeros(2, np.float32))
    assert list(model.state_dict()) == ["mean", "0.weight", "0.bias"]
    assert model.load_state_dict(model.state_dict()) == ([], [])
    assert model.to("float64").mask.dtype == "float64"
    assert copy.deepcopy(model).load_state_dict(model.state_dict()) == ([], [])
    model.register_buffer("mask", [1, 2])
    assert list(model.state_dict()) == ["mask", "mean", "0.weight", "0.bias"]
    with pytest.raises(TypeError, match="persistent should be of type bool"):
        model.register_buffer("other", [1, 2], persistent=1)
    assert not hasattr(model, "other")


def test_buffers():
    model = Nested()
    model.mean = [1, 2]
    np.testing.assert_array_equal(model.state_dict()["mean"], np.float32([1, 2]))
    with pytest.raises(ValueError, match="mean should have shape"):
        model.mean = 3
    assert "mean" not in model.parameters()
    model.to("float64")
    assert (model.mean.dtype, model.count.dtype) == (np.float64, np.int64)
    with pytest.raises(KeyError, match="attribute 'tagger' already exists"):
        model.register_buffer("tagger", np.ones(1))
    with pytest.raises(KeyError, match="buffer name can"):
        model.register_buffer("a.b", np.ones(1))
    with pytest.raises(TypeError, match="b should be an array of real numbers"):
        model.register_buffer("b", "text")


def test_add_module():
    model = Tagger()
    model.add_module("more", fastrnn.Linear(1, 1))
    assert list(model.state_dict())[-1] == "more.bias"
    for name, error in (("a.b", KeyError), ("", KeyError), ("hidden", KeyError), ("scale", KeyError), (3, TypeError)):
        with pytest.raises(error):
            model.add_module(name, fastrnn.ReLU())
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        model.add_module("b", 3)


# --- state dicts ------------------------------------------------------------------------------------------------------


def test_loading():
    model, other = Nested(), Nested()
    for array in other.parameters().values():
        array += 1
    other.count = 8
    assert (model(TOKENS) != other(TOKENS)).any()
    assert model.load_state_dict(other.state_dict()) == ([], [])
    np.testing.assert_array_equal(model(TOKENS), other(TOKENS))
    assert model.count == 8
    state = model.state_dict()
    state["tagger.scale"][:] = 0
    assert model.tagger.scale.any()


def test_a_failed_load_lists_all_and_changes_nothing():
    model = Nested()
    before, y = model.state_dict(), model(TOKENS)
    bad = {key: array + 1 for key, array in before.items() if key != "tagger.rnn.bias_hh_l0"}
    bad |= {"tagger.more": np.ones(1), "blocks.2.bias": np.ones(3)}
    with pytest.raises(ValueError, match=r"Error.s. in loading state_dict for Nested:") as caught:
        model.load_state_dict(bad)
    lines = str(caught.value).split("\n\t")
    assert lines[1:] == [
        'Missing key(s) in state_dict: "tagger.rnn.bias_hh_l0".',
        'Unexpected key(s) in state_dict: "tagger.more".',
        "size mismatch for blocks.2.bias: copying a param with shape (3,) from checkpoint, the shape in current model "
        "is (2,).",
    ]
    with pytest.raises(TypeError, match=r"blocks.1.bias should be an array of real numbers"):
        model.load_state_dict(before | {"blocks.1.bias": "text"})
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like, got list"):
        model.load_state_dict([])
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    np.testing.assert_array_equal(model(TOKENS), y)
    missing, unexpected = model.load_state_dict({"mean": [1, 2], "other": 3}, strict=False)
    assert unexpected == ["other"]
    assert missing == [key for key in before if key != "mean"]


def test_loading_ones_own_arrays():
    model = fastrnn.Sequential(fastrnn.Linear(2, 2, rng=0), fastrnn.Linear(2, 2, rng=1))
    first, second = (layer.weight.copy() for layer in model)
    model.load_state_dict({"0.weight": model[1].weight.T, "1.weight": model[0].weight}, strict=False)
    np.testing.assert_array_equal(model[0].weight, second.T)
    np.testing.assert_array_equal(model[1].weight, first)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_of_a_model():
    model = Nested()
    y, params = model(TOKENS), model.parameters()
    assert params["tagger.head.bias"] is model.shared.bias
    params["tagger.rnn.weight_hh_l0"][...] = 1
    params["blocks.1.bias"] += 1
    params.changed()
    assert (model(TOKENS) != y).any()
    params["tagger.head.bias"] = [7, 8]
    np.testing.assert_array_equal(model.shared.bias, [7, 8])
    params.update({"tagger.scale": [0, 0]})
    assert not model.tagger.scale.any()
    with pytest.raises(KeyError, match="'mean' is no parameter of Nested"):
        params["mean"] = [1, 1]
    with pytest.raises(KeyError, match="no parameter"):
        params.update(mean=[1, 1])
    with pytest.raises(TypeError, match="cannot be added or removed"):
        params.pop("tagger.scale")
    assert type(copy.deepcopy(params)) is dict


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.parameters().changed(),
        lambda m: m.load_state_dict(m.state_dict()),
        lambda m: setattr(m.tagger.head, "bias", [1, 2]),
        lambda m: m.tagger.rnn.parameters().changed(),
        lambda m: m.tagger.rnn.reset_parameters(),
        lambda m: m.to("float64"),
        lambda m: setattr(m.tagger, "scale", [1, 2]),
    ],
)
def test_a_change_of_a_part_is_a_change_of_the_model(change):
    model = Nested()
    check = model._unchanged()
    check()
    change(model)
    with pytest.raises(RuntimeError, match="have changed since vjp was called"):
        check()


# --- dtype, mode, copies, text ----------------------------------------------------------------------------------------


def test_to_and_astype():
    model = Nested()
    y = model(TOKENS)
    double = model.astype("float64")
    assert {a.dtype for a in double.parameters().values()} == {np.dtype(np.float64)}
    assert double.tagger.head is double.shared
    assert model(TOKENS).dtype == np.float32
    np.testing.assert_array_equal(model.to("float64").to(np.float32).to("cpu")(TOKENS), y)
    for wrong in ("int32", "gpu"):
        with pytest.raises(TypeError, match="dtype should be float32 or float64"):
            model.to(wrong)
    with pytest.raises(ValueError, match="device should be"):
        model.to(device="gpu")


def test_to_that_fails_changes_nothing(monkeypatch):
    class Full(np.ndarray):
        def astype(self, *args, **options):
            raise MemoryError

    model = Nested()
    last = model.blocks[2]
    monkeypatch.setitem(last._params, "bias", last.bias.view(Full))
    with pytest.raises(MemoryError):
        model.to("float64")
    assert {a.dtype for a in model.parameters().values()} == {np.dtype(np.float32)}
    assert {m.dtype for m in model.modules() if hasattr(m, "dtype")} == {np.dtype(np.float32)}


def test_train_and_eval():
    model = Nested()
    assert not any(module.training for module in model.modules())
    assert model.train() is model
    assert all(module.training for module in model.modules())
    model.tagger.eval()
    assert [module.training for module in (model, model.tagger, model.tagger.rnn, model.blocks[0])] == [
        True, False, False, True,
    ]  # fmt: skip
    with pytest.raises(TypeError, match="mode should be of type bool"):
        model.train(3)
    model.train(False)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_equal_and_independent(clone):
    model = Nested().train()
    model(TOKENS)
    twin = clone(model)
    assert repr(twin) == repr(model)
    assert twin.training
    assert twin.shared is twin.tagger.head
    np.testing.assert_array_equal(twin(TOKENS), model(TOKENS))
    assert not any(
        np.may_share_memory(a, b) for a, b in zip(twin.state_dict().values(), model.parameters().values(), strict=False)
    )
    for array in twin.parameters().values():
        array[...] = 0
    twin.parameters().changed()
    assert model(TOKENS).any()
    assert not twin(TOKENS).any()


def test_repr():
    assert (
        repr(Nested())
        == """\
Nested(
  (tagger): Tagger(
    (embed): Embedding(9, 3)
    (rnn): GRU(3, 4, batch_first=True)
    (head): Linear(in_features=4, out_features=2, bias=True)
  )
  (shared): Linear(in_features=4, out_features=2, bias=True)
  (blocks): ModuleList(
    (0-2): 3 x Linear(in_features=2, out_features=2, bias=True)
  )
)"""
    )
    html = Nested()._repr_html_()
    assert "tagger.rnn.weight_ih_l0" in html
    assert f"{sum(a.size for a in Nested().parameters().values()):,} parameters, float32" in html


def test_extra_repr():
    class Scaled(fastrnn.Module):
        def __init__(self):
            self.head = fastrnn.ReLU()

        def extra_repr(self):
            return "scale=2"

    assert repr(Scaled()) == "Scaled(\n  scale=2\n  (head): ReLU()\n)"


def test_parameters_of_another_dtype():
    """What was taken before says that it is not the model's any more, and nothing is changed."""
    net = fastrnn.Sequential(fastrnn.Linear(2, 3), fastrnn.GRU(3, 2))
    taken = net.parameters()
    part = taken.subset(["0.bias"])
    assert net.to("float32").parameters()["0.bias"] is taken["0.bias"]
    taken.changed()
    optimizer = fastrnn.optim.SGD(taken, lr=0.1, momentum=0.9)
    net.to("float64")
    before = optimizer.state_dict()
    for use in (taken.check, taken.changed, part.changed, lambda: optimizer.step({"0.bias": np.ones(3)})):
        with pytest.raises(RuntimeError, match=r"'0\.\w+' is another array since parameters\(\) was called"):
            use()
    assert optimizer.state_dict() == before
    assert not (taken["0.bias"] != net[0].bias).any()
    net.parameters().changed()


def test_missing_names_are_found_elsewhere():
    layer = fastrnn.Linear(2, 3)
    state = layer.state_dict()
    with pytest.raises(ValueError, match=r"They are in state_dict\['model_state_dict'\]\."):
        layer.load_state_dict({"epoch": 3, "model_state_dict": state})
    with pytest.raises(ValueError, match=r"They are there with 'module\.head\.' before them: leave that away\."):
        layer.load_state_dict({"other": np.ones(1)} | {f"module.head.{name}": a for name, a in state.items()})
    with pytest.raises(ValueError, match=r'"weight", "bias"\.$'):
        layer.load_state_dict({})
    with pytest.raises(ValueError, match="Missing key") as error:
        layer.load_state_dict({"module.weight": state["weight"]})  # not all of them
    assert "They are" not in str(error.value)
