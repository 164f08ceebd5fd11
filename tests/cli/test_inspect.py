"""What is shown of checkpoints, good and bad."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from cli_tools import DATA, normal, save_array, save_layer

import fastrnn
from fastrnn.checkpoint import Opaque
from fastrnn.cli import files
from fastrnn.cli.contents import contents


def test_inspect(cli, folder):
    lstm = fastrnn.LSTM(3, 8, num_layers=2, bidirectional=True, proj_size=2, rng=0)
    state = {"model": {f"encoder.{k}": a for k, a in lstm.state_dict().items()}, "epoch": 7, "notes": "x" * 10_000}
    fastrnn.save(state, "model.pt")
    parameters = sum(a.size for a in lstm.state_dict().values())
    status, out, _ = cli("inspect", "model.pt")
    assert status == 0
    assert out == cli("model.pt")[1]
    row = next(line for line in out.splitlines() if line.startswith("model.encoder. "))
    text = "LSTM(3, 8, proj_size=2, num_layers=2, bidirectional=True)"
    assert row.split(maxsplit=1)[1].rsplit(maxsplit=1) == [text, f"{parameters:,}"]
    assert text == repr(lstm)
    assert "weight_hr_l1_reverse" in out
    assert "(2, 8)" in out
    assert "epoch" in out
    assert len(out) < 5000
    status, out, _ = cli("inspect", "model.pt", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures["layers"] == [
        {
            "is_recurrent": True,
            "text": text,
            "bytes": 4 * parameters,
            "prefix": "model.encoder.",
            "kind": "LSTM",
            "input_size": 3,
            "hidden_size": 8,
            "num_layers": 2,
            "bias": True,
            "bidirectional": True,
            "proj_size": 2,
            "dtype": "float32",
            "n_parameters": parameters,
        }
    ]
    assert figures["arrays"][0] == {
        "name": "model.encoder.weight_ih_l0",
        "shape": [32, 3],
        "dtype": "float32",
        "bytes": 32 * 3 * 4,
        "shares_memory_with": None,
    }
    assert figures["others"]["epoch"] == "7"
    assert figures["containers"] == {"": "dict of 3", "model": "dict of 20"}
    assert (figures["format"], figures["metadata"]) == ("torch's zip format", {})
    assert figures["bytes"] == os.path.getsize("model.pt")
    total = {"arrays": 20, "values": parameters, "bytes": 4 * parameters, "bytes_without_shared": 4 * parameters}
    assert figures["total"] == total


def rows(out):
    """The lines of the tree: name with its indentation, and the rest."""
    lines = iter(out.splitlines())
    titles = next(line for line in lines if line.startswith("name "))
    width = titles.index("values") if "values" in titles else titles.index("what")
    found = []
    for line in lines:
        indent = len(line) - len(line.lstrip())
        name, *rest = line.split()
        found.append((" " * indent + name, " ".join(rest)))
    assert width
    return found


def test_tree(cli, folder):
    """Every "." is a level, levels of one name are one line, layers of all kinds have what torch prints."""
    weight = np.ones((3, 4), np.float32)
    state = {
        "model_state_dict": {
            "module._orig_mod.embed.weight": np.ones((7, 3), np.float32),
            "module._orig_mod.head.weight": weight,
            "module._orig_mod.head.bias": np.ones(3, np.float32),
        },
        "tied": [weight, weight[1]],
        "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.999)}]},
        "note": None,
    }
    fastrnn.save(state, "model.pt")
    status, out, _ = cli("inspect", "model.pt")
    assert status == 0
    assert out.splitlines()[1] == "5 arrays of 52 values, 208 B, 64 B of it shared"
    assert "no recurrent layer" in out
    assert rows(out) == [
        ("model_state_dict", "144 B dict of 3"),
        ("  module._orig_mod", "144 B"),
        ("    embed", "21 84 B Embedding(7, 3)"),
        ("      weight", "21 84 B float32 (7, 3)"),
        ("    head", "15 60 B Linear(in_features=4, out_features=3, bias=True)"),
        ("      weight", "12 48 B float32 (3, 4)"),
        ("      bias", "3 12 B float32 (3,)"),
        ("tied", "64 B list of 2"),
        ("  0", "12 48 B float32 (3, 4), shares memory with model_state_dict.module._orig_mod.head.weight"),
        ("  1", "4 16 B float32 (4,), shares memory with model_state_dict.module._orig_mod.head.weight"),
        ("optimizer", "dict of 2"),
        ("  state", "dict of 1"),
        ("    0", "dict of 1"),
        ("      step", "3"),
        ("  param_groups", "list of 1"),
        ("    0", "dict of 2"),
        ("      lr", "0.1"),
        ("      betas", "(0.9, 0.999)"),
        ("note", "None"),
    ]
    figures = json.loads(cli("inspect", "model.pt", "--json")[1])
    assert [(layer["kind"], layer["prefix"], layer["bytes"], layer["is_recurrent"]) for layer in figures["layers"]] == [
        ("Embedding", "model_state_dict.module._orig_mod.embed.", 84, False),
        ("Linear", "model_state_dict.module._orig_mod.head.", 60, False),
    ]
    assert [array["shares_memory_with"] for array in figures["arrays"]] == [None] * 3 + [
        "model_state_dict.module._orig_mod.head.weight"
    ] * 2
    assert figures["total"] == {"arrays": 5, "values": 52, "bytes": 208, "bytes_without_shared": 144}
    assert figures["containers"]["optimizer.param_groups.0"] == "dict of 2"


def test_names_of_containers_are_whole(cli, folder):
    out = cli("inspect", DATA / "checkpoints" / "policy.zip")[1]
    assert "zip archive of checkpoints" in out
    assert rows(out)[:5] == [
        ("data", """'{"n_steps": 8}'"""),
        ("pytorch_variables.pth", "{}"),
        ("policy.pth", "576 B dict of 4"),
        ("  lstm_actor", "144 576 B LSTM(3, 4)"),
        ("    weight_ih_l0", "48 192 B float32 (16, 3)"),
    ]


def test_names_that_stand_for_two_things(cli, folder):
    value = {"a.b": np.ones(2, np.int8), "a": {"b": np.ones(3, np.int8), "": 5}, "a.b.c": "x"}
    fastrnn.save(value, "model.pt")
    assert rows(cli("inspect", "model.pt")[1]) == [
        ("a", "5 B dict of 2"),
        ("  b", "2 2 B int8 (2,)"),
        ("    c", "'x'"),
        ("  b", "3 3 B int8 (3,)"),
        ("  ''", "5"),
    ]


def test_a_layer_or_a_module_that_is_all(cli, folder):
    fastrnn.save(fastrnn.GRU(2, 3).state_dict(), "model.npz")
    out = cli("inspect", "model.npz")[1]
    assert rows(out)[0] == ("(all)", "63 252 B GRU(2, 3)")
    assert "(none)  GRU(2, 3)                63" in out
    out = cli("inspect", DATA / "checkpoints" / "module.pt")[1]
    assert rows(out)[0] == ("(all)", "3.3 kB module of class __main__.Model")
    assert "\nencoder.rnn.  GRU(3, 4, num_layers=2, bidirectional=True)" in out
    assert ("  rnn", "552 2.2 kB GRU(3, 4, num_layers=2, bidirectional=True)") in rows(out)
    assert "_backward_hooks" not in out
    fastrnn.save(np.ones(3), "model.pt")
    assert rows(cli("inspect", "model.pt")[1]) == [("(all)", "3 24 B float64 (3,)")]
    fastrnn.save([], "model.pt")
    assert rows(cli("inspect", "model.pt")[1]) == [("(all)", "[]")]
    fastrnn.save({}, "model.safetensors")
    assert "0 arrays of 0 values" in cli("inspect", "model.safetensors")[1]


def test_of_modules_only_what_is_meant_is_shown():
    weight = np.ones((3, 2))
    inside = {"training": True, "_parameters": {"weight": weight, "bias": None}, "_buffers": {}, "_modules": {}}
    linear = Opaque("torch.nn.modules.linear", "Linear", state=inside)
    script = Opaque("__torch__", "Net", state={"_hidden": [weight], "_w": weight, "_sub": linear, "n": 3, "_n": 4})
    other = Opaque("my", "Thing", args=(1, weight), state={"_a": 5}, items={"b": 6})
    entries = contents({"linear": linear, "script": script, "other": other})
    assert [(entry.name, entry.text) for entry in entries] == [
        ("", "dict of 3"),
        ("linear", "module of class torch.nn.modules.linear.Linear"),
        ("linear.weight", "float64 (3, 2)"),
        ("script", "object of class __torch__.Net"),
        ("script._w", "float64 (3, 2)"),
        ("script._sub", "the same as linear"),
        ("script.n", "3"),
        ("other", "object of class my.Thing"),
        ("other._a", "5"),
        ("other.b", "6"),
        ("other.args", "tuple of 2"),
        ("other.args.0", "1"),
        ("other.args.1", "float64 (3, 2)"),
    ]


def test_format_and_metadata(cli, folder):
    metadata = {"format": "pt", "a\nuthor": "a" * 500, **{f"key {i}": "" for i in range(30)}}
    fastrnn.save({"w": np.ones(2)}, "model.safetensors", metadata=metadata)
    out = cli("inspect", "model.safetensors")[1]
    assert out.startswith("model.safetensors: safetensors, ")
    assert "\nmetadata 'format': 'pt'\n" in out
    assert "\nmetadata ... 12 more\n" in out
    assert "aaa'... 500 in all\n" in out
    assert json.loads(cli("inspect", "model.safetensors", "--json")[1])["metadata"] == metadata
    fastrnn.save({"w": np.ones(2)}, "model.npz")
    for path, words in {
        "model.npz": "npz",
        DATA / "checkpoints" / "small.pt": "torch's zip format",
        DATA / "checkpoints" / "gru_bf16.safetensors": "safetensors",
        DATA / "checkpoints" / "scripted.pt": "TorchScript archive",
        DATA / "checkpoints" / "stream_small.pt": "torch's stream format",
        DATA / "checkpoints" / "lstm.onnx": "ONNX",
    }.items():
        assert cli("inspect", path)[1].startswith(f"{path}: {words}")


def test_onnx(cli, folder):
    path = DATA / "checkpoints" / "lstm.onnx"
    assert "layers are in the graph: fastrnn.from_onnx makes them" in cli("inspect", path)[1]
    status, out, _ = cli("convert", path, "a.npz")
    assert status == 0
    assert "left out: the graph" in out
    assert fastrnn.load("a.npz").keys() == fastrnn.load(path).keys()


def test_only_the_pickle_is_read(cli, folder):
    fastrnn.save({"w": np.arange(1000.0)}, "model.pt")
    content = bytearray(Path("model.pt").read_bytes())
    content[-2000] ^= 1
    Path("model.pt").write_bytes(content)
    assert cli("inspect", "model.pt")[0] == 0
    assert cli("convert", "model.pt", "other.pt")[0] == 1


def test_hostile_names_stay_short(cli, folder):
    arrays = {str(i): np.ones(1) for i in range(500)}
    nested = arrays
    for _ in range(50):
        nested = {"a" * 1000: nested}
    for value in (
        nested,
        {"a" * 1_000_000: arrays},
        {"." * 1000 + name: array for name, array in arrays.items()},
        {"." * 1000: arrays},
    ):
        fastrnn.save(value, "model.pt")
        for options in ([], ["--json"]):
            status, out, _ = cli("inspect", "model.pt", *options)
            assert status == 0
            assert len(out) < 500_000


def test_inspect_shows_no_control_sequences(cli, folder):
    fastrnn.save({"a\x1b[31m\nb": np.zeros(2, np.float32), "note": "\x1b]0;title\x07"}, "model.pt")
    status, out, _ = cli("inspect", "model.pt")
    assert status == 0
    assert "\x1b" not in out
    assert "\x07" not in out
    assert r"a\x1b[31m\nb" in out


def test_inspect_of_what_refers_to_itself(cli, folder, monkeypatch):
    a = np.zeros((2, 3), np.float32)
    state = {"a": a, "list": [a]}
    state["self"] = [a, state]
    state["many"] = [[[[[state["list"]] * 50] * 50] * 50] * 50] * 50  # 50^5 ways to the one array
    fastrnn.save({}, "model.pt")
    monkeypatch.setattr(fastrnn, "load", lambda path, **options: state)
    monkeypatch.setattr(files, "scan", lambda state: ([], None))
    status, out, _ = cli("inspect", "model.pt", "--json")
    assert status == 0
    assert [array["name"] for array in json.loads(out)["arrays"]] == ["a", "list.0", "self.0"]
    others = json.loads(out)["others"]
    assert others["self.1"] == "the same as the whole"
    assert others["many.0.0.0.0.1"] == "the same as list"
    assert others["many.1"] == "the same as many.0"


def test_inspect_of_a_file_without_layers(cli, folder):
    fastrnn.save({"table": np.zeros((2, 3))}, "model.npz")
    status, out, _ = cli("inspect", "model.npz")
    assert status == 0
    assert "no recurrent layer" in out
    assert "(2, 3)" in out
    fastrnn.save("only text", "text.pt")
    assert "'only text'" in cli("inspect", "text.pt")[1]
    for command in (["verify"], ["run", "--input", "model.npz", "--output", "y.npy"]):
        status, _, err = cli(command[0], "model.npz", *command[1:])
        assert status == 1
        assert "no recurrent layer" in err


def test_inspect_of_a_broken_layer_shows_the_arrays(cli, folder):
    state = fastrnn.GRU(3, 4).state_dict()
    fastrnn.save({**state, "weight_hh_l0": np.zeros((12, 5), np.float32)}, "model.npz")
    status, out, err = cli("inspect", "model.npz")
    assert status == 1
    assert "(12, 5)" in out
    assert "model.npz" in err
    assert "weight_ih_l0 has 12 rows" in err


def test_a_broken_layer_hides_no_other(cli, folder):
    good, bad = fastrnn.GRU(3, 4, rng=0).state_dict(), fastrnn.LSTM(3, 4).state_dict()
    del bad["bias_hh_l0"]
    fastrnn.save({"good": good, "bad": bad}, "model.pt")
    status, out, err = cli("inspect", "model.pt")
    assert status == 1
    assert out.split("\n\n")[1].splitlines()[1].split() == ["good.", "GRU(3,", "4)", "108"]
    assert "bad.: bias_hh_l0 missing" in err
    save_array("x.npy", normal(2, 3, 3))
    assert cli("run", "model.pt", "--prefix", "good", "--input", "x.npy", "--output", "y.npy")[0] == 0
    status, _, err = cli("run", "model.pt", "--prefix", "bad", "--input", "x.npy", "--output", "y.npy")
    assert status == 1
    assert "model.pt: bad.: bias_hh_l0 missing" in err
    status, _, err = cli("run", "model.pt", "--input", "x.npy", "--output", "y.npy")
    assert status == 2
    assert "'good.', 'bad.'" in err


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("command", ["inspect", "verify", "convert", "run"])
def test_bad_checkpoint(cli, folder, command, content):
    Path("bad.pt").write_bytes(content)
    save_array("x.npy", normal(2, 3, 4))
    more = {"convert": ["out.npz"], "run": ["--input", "x.npy", "--output", "out.npy"]}
    status, out, err = cli(command, "bad.pt", *more.get(command, []))
    assert (status, out) == (1, "")
    assert "bad.pt" in err
    assert sorted(os.listdir()) == ["bad.pt", "x.npy"]


def test_corrupted_checkpoint(cli, folder):
    save_layer(fastrnn.GRU(3, 4, rng=0), "model.pt")
    content = bytearray(Path("model.pt").read_bytes())
    middle = content.index(fastrnn.load("model.pt")["weight_hh_l0"].tobytes())
    content[middle] ^= 1
    Path("model.pt").write_bytes(content)
    status, out, err = cli("verify", "model.pt")
    assert (status, out) == (1, "")
    assert "model.pt" in err
