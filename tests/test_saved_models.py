"""Models in files: made again as they were; files that say something wrong; nothing else is ever made of one."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import fastrnn

TOKENS = [[1, 2, 3, 4], [4, 5, 0, 0]]


def model():
    return fastrnn.Sequential(
        fastrnn.Embedding(7, 5, padding_idx=0, rng=0),
        fastrnn.LSTM(5, 6, 2, batch_first=True, dropout=0.25, proj_size=4, dtype="float64", rng=1),
        fastrnn.SelectOutput((1, 0, -1)),
        fastrnn.Sequential({"norm": fastrnn.Dropout(0.1), "act": fastrnn.GELU("tanh")}),
        fastrnn.Linear(4, 3, bias=False, rng=2),
        fastrnn.LogSoftmax(-1),
    )


LAYERS = [
    fastrnn.RNN(3, 4, 2, "relu", False, True, 0.5, True),
    fastrnn.LSTM(3, 4, bias=False),
    fastrnn.GRU(3, 4, bidirectional=True, dtype="float64"),
    fastrnn.RNNCell(3, 4, nonlinearity="relu"),
    fastrnn.LSTMCell(3, 4),
    fastrnn.GRUCell(3, 4, bias=False),
    fastrnn.Linear(3, 4),
    fastrnn.Embedding(4, 3, padding_idx=-1),
    fastrnn.LayerNorm((3, 4), 1e-3, bias=False),
    fastrnn.BatchNorm1d(3, 1e-3, None, bias=False, dtype="float64"),
    fastrnn.BatchNorm1d(3, affine=False, track_running_stats=False),
    fastrnn.Conv1d(4, 6, 3, 1, "same", 2, 2, False, "reflect"),
    fastrnn.Conv2d(4, 6, (3, 2), (1, 2), (0, 1)),
    fastrnn.MaxPool1d((3,), 2, 1, 2, False, True),
    fastrnn.Dropout(0.125, True),
    fastrnn.Flatten(0, 2),
    fastrnn.SelectOutput(),
    fastrnn.LastStep(True),
    fastrnn.MeanOverTime(),
    fastrnn.ReLU(True),
    fastrnn.LeakyReLU(0.3),
    fastrnn.ELU(np.float64(2)),
    fastrnn.SiLU(),
    fastrnn.Hardtanh(-1, 2),
    fastrnn.Sigmoid(),
    fastrnn.Tanh(),
    fastrnn.Softplus(2, 10),
    fastrnn.GELU(),
    fastrnn.Softmax(1),
    fastrnn.LogSoftmax(0),
    fastrnn.Sequential(),
]


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize("how", ["path", "bytes", "file"])
def test_round_trip(tmp_path, suffix, how):
    net = model()
    fastrnn.save(net, path := tmp_path / f"model{suffix}")
    if how == "file":
        with open(path, "rb") as file:
            again = fastrnn.load_model(file)
    else:
        again = fastrnn.load_model(path if how == "path" else path.read_bytes())
    assert repr(again) == repr(net)
    assert again[1].dtype == np.float64
    np.testing.assert_array_equal(again(TOKENS, lengths=[4, 2]), net(TOKENS, lengths=[4, 2]))
    assert not any(module.training for module in again.modules())
    again.parameters()["0.weight"] = np.zeros((7, 5))  # the arrays are its own, and not the file's
    y, backward = again.train().vjp(TOKENS)
    assert list(backward(y).params) == list(net.state_dict())
    again[0].reset_parameters(rng=0)
    np.testing.assert_array_equal(again[0].weight, net[0].weight)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: type(layer).__name__)
def test_every_layer(tmp_path, layer, suffix):
    fastrnn.save(layer, path := tmp_path / f"layer{suffix}")
    again = fastrnn.load_model(path)
    assert type(again) is type(layer)
    ours, theirs = vars(layer), vars(again)
    assert set(ours) - {"_rng"} == set(theirs) - {"_rng"}
    for name in set(ours) - {"_rng", "_params", "_buffers", "_prepared"}:
        assert theirs[name] == ours[name], name
    for name, array in layer.state_dict().items():
        assert again.state_dict()[name].dtype == array.dtype
        np.testing.assert_array_equal(again.state_dict()[name], array)


def test_every_public_layer_can_be_saved():
    """Those that cannot are named here, and nowhere else."""
    others = {"Module", "ModuleList", "Recurrent", "Parameter", "Sequential"}
    layers = {
        name
        for name in fastrnn.__all__
        if isinstance(cls := getattr(fastrnn, name), type) and issubclass(cls, fastrnn.Module) and name not in others
    }
    assert {type(layer).__name__ for layer in LAYERS} - {"Sequential"} == layers


def test_the_state_dict_in_the_file(tmp_path):
    net = model()
    fastrnn.save(net, tmp_path / "model.pt")
    fastrnn.save(net, tmp_path / "model.safetensors")
    content = fastrnn.load(tmp_path / "model.pt")
    assert set(content) == {"fastrnn_model", "state_dict"}
    net.load_state_dict(content["state_dict"])
    net.load_state_dict(fastrnn.load(tmp_path / "model.safetensors"))
    assert [info.prefix for info in fastrnn.find_layers(content) if info.is_recurrent] == ["state_dict.1."]
    before = (tmp_path / "model.pt").read_bytes()
    fastrnn.save(net, tmp_path / "model.pt")
    assert (tmp_path / "model.pt").read_bytes() == before


def test_without_torch_and_without_random_numbers(tmp_path):
    fastrnn.save(model(), path := tmp_path / "model.pt")
    code = (
        "import sys, fastrnn\n"
        f"print(fastrnn.load_model({str(path)!r})({TOKENS}).tolist())\n"
        "assert not {'torch', 'numpy.random', 'numba'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    np.testing.assert_array_equal(json.loads(result.stdout), model()(TOKENS).tolist())


# --- what cannot be saved ---------------------------------------------------------------------------------------------


class Own(fastrnn.Module):
    def __init__(self):
        self.head = fastrnn.Linear(2, 2)


class Linear(fastrnn.Linear):
    """It has the name of another class."""


def tied():
    layer = fastrnn.Linear(2, 2)
    return fastrnn.Sequential(layer, layer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Own, "Own cannot be saved with what it is made of, .* save its state_dict"),
        (lambda: fastrnn.Sequential(fastrnn.ReLU(), Own()), "Own cannot be saved"),
        (lambda: Linear(2, 2), "Linear cannot be saved"),
        (lambda: fastrnn.ModuleList([fastrnn.ReLU()]), "ModuleList cannot be saved"),
        (tied, "a model that has a layer twice cannot be saved so; save its state_dict"),
    ],
)
def test_models_that_cannot_be_saved(tmp_path, make, words):
    for suffix in (".pt", ".safetensors", ".npz"):
        with pytest.raises(TypeError, match=words):
            fastrnn.save(make(), tmp_path / f"model{suffix}")
    fastrnn.save(make().state_dict(), tmp_path / "state.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_npz_has_no_place_for_it(tmp_path):
    with pytest.raises(ValueError, match="npz does not say what a model is made of"):
        fastrnn.save(model(), tmp_path / "model.npz")
    assert not list(tmp_path.iterdir())


# --- files that say something wrong -----------------------------------------------------------------------------------


def described(kind="Linear", dtype="float32", **arguments):
    return {"kind": kind, "arguments": arguments, "dtype": dtype}


LINEAR = described(in_features=2, out_features=3, bias=True)
STATE = fastrnn.Linear(2, 3).state_dict()


def changed(**new):
    return {**copy.deepcopy(LINEAR), **new}


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ({"version": 2, **LINEAR}, "the model is of version 2, and 1 is known here"),
        (LINEAR, "the model is of version None"),
        ([1], "not described as fastrnn does it"),
        (None, "not described as fastrnn does it"),
        ({"version": 1}, "not described as fastrnn does it"),
        ({"version": 1, **changed(kind=["Linear"])}, "not described as fastrnn does it"),
        ({"version": 1, **changed(kind="os.system")}, "'os.system' is no layer of fastrnn that a file can name"),
        ({"version": 1, **changed(kind="Module")}, "'Module' is no layer of fastrnn that a file can name"),
        ({"version": 1, **changed(kind="Recurrent")}, "'Recurrent' is no layer of fastrnn"),
        ({"version": 1, **changed(arguments=None)}, "the arguments of Linear should be plain values"),
        ({"version": 1, **described(in_features=[[2]])}, "the arguments of Linear should be plain values"),
        ({"version": 1, **described(in_features={"a": 2})}, "the arguments of Linear should be plain values"),
        ({"version": 1, **described(in_features=2)}, "out_features"),
        ({"version": 1, **described(in_features=2, out_features=3, rng=0)}, "Linear has no argument 'rng'"),
        ({"version": 1, **described(in_features=2, out_features=3, device="cuda")}, "Linear has no argument 'device'"),
        ({"version": 1, **described(in_features=2, out_features=3, self=0)}, "Linear has no argument 'self'"),
        ({"version": 1, **described(in_features="2", out_features=3)}, "in_features should be of type int"),
        ({"version": 1, **described(in_features=2, out_features=4)}, "size mismatch for weight"),
        ({"version": 1, **described(in_features=2, out_features=3, bias=False)}, "Unexpected key.* \"bias\""),
        ({"version": 1, **changed(dtype="int32")}, "dtype should be float32 or float64"),
        ({"version": 1, **changed(dtype=None)}, "dtype should be float32 or float64"),
        ({"version": 1, "kind": "Sequential"}, "the parts of a Sequential should be pairs"),
        ({"version": 1, "kind": "Sequential", "parts": [["0", LINEAR, 1]]}, "the parts of a Sequential should be"),
        ({"version": 1, "kind": "Sequential", "parts": [[["0"], LINEAR]]}, "unhashable|string"),
        ({"version": 1, "kind": "Sequential", "parts": [["forward", LINEAR]]}, "attribute 'forward' already exists"),
        ({"version": 1, "kind": "Sequential", "parts": [["0", LINEAR]]}, "Missing key.* \"0.weight\""),
        ({"version": 1, **described("GRU", input_size=2, hidden_size=2, num_layers=10**9)}, "num_layers=1000000000 is"),
        ({"version": 1, **described("Linear", in_features=10**9, out_features=10**9)}, "size mismatch for weight"),
        ({"version": 1, **described("Linear", in_features=10**30, out_features=1)}, "dimension"),
        ({"version": 1, **described("LSTM", input_size=10**9, hidden_size=10**8)}, "Missing key"),
        ({"version": 1, **described("Embedding", num_embeddings=10**9, embedding_dim=10**9)}, "Missing|mismatch"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_wrong_descriptions(tmp_path, monkeypatch, what, words, suffix):
    path = tmp_path / f"model{suffix}"
    monkeypatch.setattr(fastrnn.Linear, "_described", lambda self: (what or {}, self.state_dict()))
    fastrnn.save(fastrnn.Linear(2, 3), path)
    if what is None:
        fastrnn.save({"fastrnn_model": None, "state_dict": STATE}, path := tmp_path / "model.pt")
    tracemalloc.start()
    try:
        with pytest.raises(fastrnn.CheckpointError, match=words) as caught:
            fastrnn.load_model(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(str(path))


def test_files_that_hold_no_model(tmp_path):
    for name, content in (("a.pt", STATE), ("b.safetensors", STATE), ("c.npz", STATE), ("d.pt", [1, 2])):
        fastrnn.save(content, tmp_path / name)
        with pytest.raises(fastrnn.CheckpointError, match="does not say what the model is made of"):
            fastrnn.load_model(tmp_path / name)
    for content in ({"fastrnn_model": {"version": 1, **LINEAR}}, {"fastrnn_model": {"version": 1}, "state_dict": 3}):
        fastrnn.save(content, tmp_path / "e.pt")
        with pytest.raises(fastrnn.CheckpointError, match="not described as fastrnn does it"):
            fastrnn.load_model(tmp_path / "e.pt")
    for text in ("{", "[" * 100_000, '"text"', "NaN"):
        header = json.dumps({"__metadata__": {"fastrnn_model": text}}).encode()
        (tmp_path / "f.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(fastrnn.CheckpointError):
            fastrnn.load_model(tmp_path / "f.safetensors")
    (tmp_path / "g.pt").write_bytes(b"text")
    with pytest.raises(fastrnn.CheckpointError, match="not a checkpoint"):
        fastrnn.load_model(tmp_path / "g.pt")
    with pytest.raises(FileNotFoundError):
        fastrnn.load_model(tmp_path / "none.pt")
    with pytest.raises(TypeError, match="expected a path"):
        fastrnn.load_model(3)


def test_a_model_of_many_levels(tmp_path):
    net = fastrnn.ReLU()
    for _ in range(60):
        net = fastrnn.Sequential(net)
    fastrnn.save(net, tmp_path / "model.pt")
    assert repr(fastrnn.load_model(tmp_path / "model.pt")) == repr(net)
