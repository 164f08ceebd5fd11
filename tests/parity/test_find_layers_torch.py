"""Layers are found and made as torch has them: through its wrappers, and with its parametrizations undone."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")
PRUNE = pytest.importorskip("torch.nn.utils.prune")
nn = torch.nn
FULL = (torch.float32, torch.float64)
UTILS = {"old": nn.utils.weight_norm, "new": nn.utils.parametrizations.weight_norm}


@pytest.fixture(autouse=True)
def quiet():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch calls deprecated is what old checkpoints were made with
        yield


def loaded(value):
    out = io.BytesIO()
    torch.save(value, out)
    return fastrnn.load(out.getvalue())


def scripted(module):
    out = io.BytesIO()
    torch.jit.save(module, out)
    return fastrnn.load(out.getvalue())


def assert_same_layer(layer, module, *, rtol=0):
    """Every weight that the module computes with."""
    for name, array in layer.state_dict().items():
        expected = getattr(module, name).detach().to(torch.float64).numpy()
        np.testing.assert_allclose(array.astype(np.float64), expected, rtol=rtol, atol=0, err_msg=name)


# Weight norm

RECURRENT = {
    "RNN": lambda: nn.RNN(3, 5),
    "LSTM": lambda: nn.LSTM(3, 5, num_layers=2, bidirectional=True, proj_size=2),
    "GRU": lambda: nn.GRU(1, 4),
    "LSTMCell": lambda: nn.LSTMCell(3, 5),
    "one": lambda: nn.RNN(1, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [0, 1, -1, None])
@pytest.mark.parametrize("spelling", UTILS)
@pytest.mark.parametrize("kind", RECURRENT)
def test_weight_norm(kind, spelling, dim, dtype):
    module = RECURRENT[kind]().to(dtype)
    names = [name for name, _ in module.named_parameters() if name.startswith("weight")]
    for name in names:
        module = UTILS[spelling](module, name, dim=dim)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5).add_(0.01)
    for hook in module._forward_pre_hooks.values():  # the old spelling computes the weights before each call
        hook(module, ())
    state = loaded({"model": module.state_dict()})
    assert not {f"model.{name}" for name in names} & set(state["model"])
    layer = fastrnn.from_state_dict(state)
    assert {array.dtype for array in layer.parameters().values()} == {
        np.dtype(str(dtype)[6:] if dtype in FULL else "f4")
    }
    assert_same_layer(layer, module, rtol=4 * torch.finfo(dtype).eps)
    (info,) = fastrnn.find_layers(state)
    assert info.n_parameters == sum(getattr(module, name).numel() for name in layer.state_dict())


def test_weight_norm_of_zeros_is_as_in_torch():
    module = UTILS["new"](nn.GRU(2, 3), "weight_hh_l0")
    with torch.no_grad():
        module.parametrizations.weight_hh_l0.original1[4] = 0
    layer = fastrnn.from_state_dict(loaded(module.state_dict()))
    assert np.isnan(layer.weight_hh_l0[4]).all()
    assert_same_layer(layer, module, rtol=1e-6)


def test_weight_norm_of_other_layers():
    for utility in UTILS.values():
        model = nn.Sequential(
            utility(nn.Conv1d(3, 4, 5)), utility(nn.Linear(3, 4), dim=None), utility(nn.GRU(3, 4), "weight_ih_l0")
        )
        texts = [info.text for info in fastrnn.find_layers(loaded(model.state_dict()))]
        assert texts == [
            "Conv1d(3, 4, kernel_size=(5,))",
            "Linear(in_features=3, out_features=4, bias=True)",
            "GRU(3, 4)",
        ]


def test_whole_modules_with_weight_norm():
    module = UTILS["old"](nn.GRU(3, 4, batch_first=True), "weight_hh_l0")
    module(torch.zeros(1, 1, 3))
    layer = fastrnn.from_state_dict(loaded(module.eval()))
    assert layer.batch_first
    assert_same_layer(layer, module, rtol=1e-6)


PARAMETRIZATIONS = nn.utils.parametrizations
OTHERS = {
    "pruned": lambda m: PRUNE.l1_unstructured(m, "weight_hh_l0", 0.5),
    "spectral norm.*remove_spectral": lambda m: nn.utils.spectral_norm(m, "weight_hh_l0"),
    "spectral norm.*remove_parametrizations": lambda m: PARAMETRIZATIONS.spectral_norm(m, "weight_hh_l0"),
    r"parametrization that is not supported \(original, 0.base\)": lambda m: PARAMETRIZATIONS.orthogonal(
        m, "weight_hh_l0"
    ),
}


@pytest.mark.parametrize("reason", OTHERS)
def test_what_cannot_be_folded_is_named(reason):
    model = nn.ModuleDict({"rnn": OTHERS[reason](nn.RNN(3, 4)), "other": nn.GRU(3, 4)})
    state = loaded(model.state_dict())
    for call in (fastrnn.find_layers, lambda state: fastrnn.from_state_dict(state, "rnn")):
        with pytest.raises(fastrnn.CheckpointError, match=f"rnn.: weight_hh_l0 is .*{reason}"):
            call(state)
    assert_same_layer(fastrnn.from_state_dict(state, "other"), model["other"])


# Weight drop


class AwdLstm(nn.Module):
    """As awd-lstm keeps it: the raw weight in the layer itself."""

    def __init__(self, module, *, stale):
        super().__init__()
        self.module = module
        raw = module.weight_hh_l0
        module.register_parameter("weight_hh_l0_raw", nn.Parameter(raw.data.clone()))
        if stale:
            module._parameters["weight_hh_l0"].data.mul_(0)
        else:
            del module._parameters["weight_hh_l0"]


class FastaiDropout(nn.Module):
    """As fastai keeps it: the raw weight in the wrapper."""

    def __init__(self, module, *, stale):
        super().__init__()
        self.module = module
        self.weight_hh_l0_raw = nn.Parameter(module.weight_hh_l0.data.clone())
        if stale:
            module._parameters["weight_hh_l0"].data.mul_(0)
        else:
            del module._parameters["weight_hh_l0"]


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("stale", [False, True])
@pytest.mark.parametrize("wrapper", [AwdLstm, FastaiDropout])
def test_weight_drop(wrapper, stale, whole):
    original = nn.LSTM(3, 4)
    copy = nn.LSTM(3, 4)
    copy.load_state_dict(original.state_dict())
    model = nn.Sequential(nn.Embedding(5, 3), nn.ModuleList([wrapper(copy, stale=stale)]))
    state = loaded(model if whole else model.state_dict())
    assert [info.prefix for info in fastrnn.find_layers(state) if info.is_recurrent] == ["1.0.module."]
    for prefix in (None, "1.0", "1.0.module."):
        assert_same_layer(fastrnn.from_state_dict(state, prefix), original)


# Wrappers


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 3, padding_idx=0)
        self.encoder = nn.ModuleDict({"rnn": nn.GRU(3, 4, batch_first=True)})
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.encoder["rnn"](self.embed(x))[0])


WRAPPERS = {
    "averaged": torch.optim.swa_utils.AveragedModel,
    "parallel": nn.DataParallel,
    "compiled": torch.compile,
}


ORDERS = [(a, b, c) for a in WRAPPERS for b in WRAPPERS for c in WRAPPERS]


# torch cannot save what is compiled twice in a row.
@pytest.mark.parametrize("wrappers", [o for o in ORDERS if ("compiled", "compiled") not in (o[:2], o[1:])])
def test_wrappers_in_any_order(wrappers):
    model = Tagger()
    for name in wrappers:
        model = WRAPPERS[name](model)
    names = [name for name in model.state_dict() if name.endswith("weight_ih_l0")]
    expected = model.state_dict()[names[0]]
    for state in (model.state_dict(), {"epoch": 1, "model_state": model.state_dict()}, [{"net": [model.state_dict()]}]):
        read = loaded(state)
        assert [info.kind for info in fastrnn.find_layers(read)] == ["Embedding", "GRU", "Linear"]
        for prefix in (None, "encoder.rnn", "encoder.rnn."):
            layer = fastrnn.from_state_dict(read, prefix)
            np.testing.assert_array_equal(layer.weight_ih_l0, expected.numpy())
        with pytest.raises(ValueError, match="no recurrent layer where one is expected"):
            fastrnn.from_state_dict(read, "rnn")


def test_a_submodule_compiled_or_parallel():
    model = Tagger()
    model.encoder = nn.DataParallel(torch.compile(model.encoder))
    state = loaded({"state_dict": model.state_dict()})
    assert_same_layer(fastrnn.from_state_dict(state, "encoder.rnn"), model.encoder.module._orig_mod["rnn"])


def test_a_model_beside_its_average():
    model = Tagger()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    state = loaded({"model": model.state_dict(), "swa_model": averaged.state_dict()})
    with pytest.raises(ValueError, match=r"'model\.encoder\.rnn\.', 'swa_model\.module\.encoder\.rnn\.'"):
        fastrnn.from_state_dict(state)


# Whole modules

MODULES = [
    nn.Linear(3, 4),
    nn.Linear(3, 4, bias=False),
    nn.Embedding(4, 3),
    nn.Embedding(4, 3, padding_idx=1, max_norm=2.0, norm_type=1.0, scale_grad_by_freq=True, sparse=True),
    nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2),
    nn.Conv1d(3, 4, 3, padding="same", bias=False),
    nn.Conv2d(4, 6, (3, 2), padding=1, groups=2, bias=False, dilation=2, padding_mode="reflect"),
    nn.Conv3d(1, 2, 3),
    nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1, groups=2),
    nn.ConvTranspose2d(4, 4, 3, bias=False),
    nn.BatchNorm1d(4),
    nn.BatchNorm2d(4, affine=False, eps=0.5),
    nn.BatchNorm3d(4, momentum=0.5, track_running_stats=False),
    nn.LayerNorm(4),
    nn.LayerNorm((2, 4), bias=False),
    nn.GroupNorm(2, 4, eps=0.1),
    nn.GRU(3, 4, num_layers=2, batch_first=True),
    nn.LSTM(3, 4, proj_size=2, bidirectional=True, num_layers=2, bias=False, batch_first=True),
    nn.LSTMCell(3, 4),
    nn.RNNCell(3, 4, nonlinearity="relu", bias=False),
    nn.RNNCell(3, 4),
    nn.GRUCell(3, 4),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_whole_modules_are_printed_as_torch_prints_them(module):
    (info,) = fastrnn.find_layers(loaded(nn.Sequential(nn.ReLU(), module)))
    assert (info.prefix, info.text, info.kind) == ("1.", repr(module), type(module).__name__)
    assert info.n_parameters == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_arguments_make_the_same_module(module):
    (info,) = fastrnn.find_layers(loaded(module))
    other = getattr(nn, info.kind)(**info.arguments)
    assert repr(other) == repr(module)
    assert {name: p.shape for name, p in other.state_dict().items()} == {
        name: p.shape for name, p in module.state_dict().items()
    }


@pytest.mark.parametrize("module", [nn.Bilinear(2, 3, 4), nn.PReLU(), nn.InstanceNorm1d(4, affine=True)])
def test_other_classes_are_not_taken_for_what_their_shapes_look_like(module):
    assert fastrnn.find_layers(loaded(module)) == []


@pytest.mark.parametrize("kind", [nn.RNN, nn.RNNCell])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_modules_say_their_nonlinearity(kind, nonlinearity):
    module = kind(3, 4, nonlinearity=nonlinearity)
    layer = fastrnn.from_state_dict(loaded(module))
    assert layer.nonlinearity == nonlinearity
    x = torch.randn(5, 3)
    expected = module(x) if "Cell" in kind.__name__ else module(x)[0]
    result = layer(x.numpy()) if "Cell" in kind.__name__ else layer(x.numpy())[0]
    np.testing.assert_allclose(result, expected.detach().numpy(), atol=1e-6)
    other = {"tanh": "relu", "relu": "tanh"}[nonlinearity]
    assert fastrnn.from_state_dict(loaded(module), nonlinearity=other).nonlinearity == other
    assert fastrnn.from_state_dict(loaded(module.state_dict())).nonlinearity == "tanh"


# TorchScript


def test_torchscript():
    model = nn.Sequential(
        nn.Embedding(5, 3), nn.Linear(3, 3, bias=False), nn.ConvTranspose1d(3, 3, 2), nn.RNN(3, 4, nonlinearity="relu")
    )
    read = scripted(torch.jit.script(model.eval()))
    assert [info.kind for info in fastrnn.find_layers(read)] == ["Embedding", "Linear", "ConvTranspose1d", "RNN"]
    assert fastrnn.from_state_dict(read).nonlinearity == "relu"
    assert_same_layer(fastrnn.from_state_dict(read), model[3])
    tagger = Tagger().eval()
    traced = scripted(torch.jit.trace(tagger, torch.zeros(1, 1, dtype=torch.int64)))
    assert [info.kind for info in fastrnn.find_layers(traced)] == ["Embedding", "GRU", "Linear"]
    assert_same_layer(fastrnn.from_state_dict(traced, "encoder.rnn"), tagger.encoder["rnn"])


# Cells and layers


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_cell_of_a_layer_and_a_layer_of_a_cell(kind):
    module = getattr(nn, kind)(3, 4)
    state = loaded(module.state_dict())
    cell = fastrnn.from_state_dict(state, cell=True)
    twin = getattr(nn, kind + "Cell")(3, 4)
    twin.load_state_dict({name.removesuffix("_l0"): value for name, value in module.state_dict().items()})
    assert_same_layer(cell, twin)
    layer = fastrnn.from_state_dict(loaded(twin.state_dict()), cell=False, batch_first=True)
    assert layer.batch_first
    assert_same_layer(layer, module)
