"""Between the formats: what comes out, what is said to change, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
from cli_tools import DATA, save_layer

import fastrnn

CHECKPOINTS = DATA / "checkpoints"


def test_convert(cli, folder):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0), "model.pt")
    for source, target in (
        ("model.pt", "model.safetensors"),
        ("model.safetensors", "model.npz"),
        ("model.npz", "b.pt"),
    ):
        status, out, err = cli("convert", source, target)
        assert (status, err) == (0, "")
        assert out.startswith(f"{target}: ")
        assert out.count("\n") == 1  # nothing changes
    state = fastrnn.load("b.pt")
    assert state.keys() == layer.state_dict().keys()
    assert all(np.array_equal(state[key], a) for key, a in layer.state_dict().items())


def trainer(path="trainer.pt"):
    """As a trainer saves it."""
    lstm = fastrnn.LSTM(3, 4, rng=0)
    state = {
        "epoch": 7,
        "model_state_dict": {f"rnn.{name}": array for name, array in lstm.state_dict().items()},
        "optimizer": {"state": {0: {"exp_avg": np.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "notes": ["a", None],
    }
    fastrnn.save(state, path)
    return state


def test_nesting_is_kept_in_pt_from_any_format(cli, folder):
    state = trainer()
    assert cli("convert", "trainer.pt", "copy.pth")[0] == 0
    assert repr(fastrnn.load("copy.pth")) == repr(state)
    assert Path("copy.pth").read_bytes() == Path("trainer.pt").read_bytes()
    for name in ("nested", "views", "protocol_5"):
        assert cli("convert", CHECKPOINTS / f"{name}.pt", "a.pt", "--arrays")[0] == 0
        with np.load(CHECKPOINTS / f"{name}.npz") as expected:
            read = fastrnn.load("a.pt")
            assert read.keys() == set(expected)
            for key in expected:
                np.testing.assert_array_equal(read[key].astype(expected[key].dtype), expected[key])


def test_the_same_file_in_and_out(cli, folder):
    arrays = {"w": np.arange(1 << 19, dtype=np.float32), "v": np.ones(3, np.int8)}  # 2 MiB: mapped
    for suffix in (".pt", ".safetensors", ".npz"):
        path = Path(f"a{suffix}")
        fastrnn.save(arrays, path)
        content = path.read_bytes()
        assert cli("convert", path, path)[0] == 0
        assert path.read_bytes() == content
    assert sorted(os.listdir()) == ["a.npz", "a.pt", "a.safetensors"]


def test_a_part_of_the_file(cli, folder):
    state = trainer()
    weights = state["model_state_dict"]
    for prefix in ("model_state_dict", "model_state_dict."):
        assert cli("convert", "trainer.pt", "a.safetensors", "--prefix", prefix)[0] == 0
        assert fastrnn.load("a.safetensors").keys() == weights.keys()
    assert cli("convert", "trainer.pt", "a.npz", "--prefix", "model_state_dict.rnn")[0] == 0
    read = fastrnn.load("a.npz")
    assert read.keys() == {name.removeprefix("rnn.") for name in weights}
    np.testing.assert_array_equal(read["weight_ih_l0"], weights["rnn.weight_ih_l0"])
    assert cli("convert", "trainer.pt", "a.pt", "--prefix", "optimizer.param_groups.0")[0] == 0
    assert fastrnn.load("a.pt") == {"lr": 0.1, "params": [0]}
    assert cli("convert", "trainer.pt", "a.pt", "--prefix", "optimizer.state.0")[0] == 0
    assert fastrnn.load("a.pt")["exp_avg"].tolist() == [1, 1, 1]
    fastrnn.save({"a.b": np.ones(1), "a": {"c": np.ones(2)}, "ab": np.ones(3)}, "odd.pt")
    assert cli("convert", "odd.pt", "a.pt", "--prefix", "a.c")[0] == 0
    assert fastrnn.load("a.pt").shape == (2,)


@pytest.mark.parametrize("prefix", ["model_state_dcit", "model_state_dict.rn", "epoch.x", "optimizer.state.1"])
def test_a_prefix_that_nothing_is_under(cli, folder, prefix):
    trainer()
    status, out, err = cli("convert", "trainer.pt", "a.pt", "--prefix", prefix)
    assert (status, out) == (2, "")
    assert f"nothing is under the prefix '{prefix}'" in err
    assert ("did you mean 'model_state_dict'?" in err) == (prefix == "model_state_dcit")
    assert os.listdir() == ["trainer.pt"]


def test_arrays_alone(cli, folder):
    trainer()
    status, out, err = cli("convert", "trainer.pt", "a.safetensors")
    assert (status, out) == (2, "")
    assert "optimizer.state.0: this format's keys are strings" in err
    assert "--prefix" in err
    assert "--arrays" in err
    assert os.listdir() == ["trainer.pt"]
    status, out, _ = cli("convert", "trainer.pt", "a.safetensors", "--arrays")
    assert status == 0
    assert "left out, as they are no arrays: epoch, optimizer.param_groups.0.lr" in out
    assert fastrnn.load("a.safetensors").keys() == {
        "optimizer.state.0.exp_avg",
        *(f"model_state_dict.rnn.{name}" for name in fastrnn.LSTM(3, 4).state_dict()),
    }
    status, out, _ = cli("convert", "trainer.pt", "a.npz", "--arrays", "--prefix", "optimizer.state", "--json")
    assert status == 0
    assert json.loads(out) == {
        "input": "trainer.pt",
        "output": "a.npz",
        "bytes": os.path.getsize("a.npz"),
        "changes": [],
    }


def test_a_whole_module(cli, folder):
    module = CHECKPOINTS / "module.pt"
    for target in ("a.pt", "a.npz"):
        status, _, err = cli("convert", module, target)
        assert status == 2
        assert "--arrays its arrays alone" in err
    assert "module.pt: obj: an object of the unknown class __main__.Model" in cli("convert", module, "a.pt")[2]
    assert cli("convert", module, "a.npz", "--arrays")[0] == 0
    with np.load(CHECKPOINTS / "module.npz") as expected:
        read = fastrnn.load("a.npz")
        assert read.keys() == set(expected)
        assert all(np.array_equal(read[name], expected[name]) for name in expected)
    assert cli("convert", module, "b.npz", "--arrays", "--prefix", "encoder.rnn")[0] == 0
    assert fastrnn.from_state_dict(fastrnn.load("b.npz")).num_layers == 2


def test_objects_are_refused_by_their_place(cli, folder):
    status, _, err = cli("convert", CHECKPOINTS / "objects.pt", "a.pt")
    assert status == 2
    assert "obj['namespace']: an object of the unknown class argparse.Namespace cannot be saved" in err
    assert os.listdir() == []


def test_what_changes_is_said(cli, folder):
    weight = np.arange(6.0).reshape(2, 3)
    fastrnn.save({"a": {"w": weight, "tied": weight}, "view": weight[1], "epoch": 7, "lr": 0.5}, "a.pt")
    for target in ("a.safetensors", "a.npz"):
        status, out, _ = cli("convert", "a.pt", target, "--json")
        assert status == 0
        assert [change["names"] for change in json.loads(out)["changes"]] == [["epoch", "lr"], ["a.tied", "view"]]
        out = cli("convert", "a.pt", target)[1]
        assert "become arrays, as the format has no numbers: epoch, lr\n" in out
        assert "stored by themselves, as the format shares no memory: a.tied, view\n" in out
        read = fastrnn.load(target)
        assert (read["epoch"].shape, int(read["epoch"]), float(read["lr"])) == ((), 7, 0.5)
    fastrnn.save({"w": weight, "empty": {}, "a": {"b": {}, "c": 1}}, "empty.pt")
    assert "left out, as there is nothing in them: empty, a.b\n" in cli("convert", "empty.pt", "a.npz")[1]
    fastrnn.save(5, "five.pt")
    assert "left out, as they are no arrays: (all)\n" in cli("convert", "five.pt", "a.npz", "--arrays")[1]
    out = cli("convert", CHECKPOINTS / "scripted.pt", "a.npz", "--arrays")[1]
    assert "left out: the code and its constants\n" in out
    fastrnn.save({f"n{i}": i for i in range(100)}, "many.pt")
    assert "n0, n1, n2, n3, n4 and 95 more" in cli("convert", "many.pt", "a.npz")[1]


def metadata_of(path):
    with safetensors.safe_open(path, "numpy") as file:
        return file.metadata()


def test_metadata_is_kept(cli, folder):
    arrays = {"w": np.ones(3)}
    for metadata in ({"author": "ü", "format": "pt"}, {"format": "np"}, {}):
        fastrnn.save(arrays, "a.safetensors", metadata=metadata)
        status, out, _ = cli("convert", "a.safetensors", "b.safetensors")
        assert status == 0
        assert out.count("\n") == 1
        assert metadata_of("b.safetensors") == (metadata or None)
        assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
        for target in ("b.pt", "b.npz"):
            out = cli("convert", "a.safetensors", target)[1]
            assert ("left out of the metadata, for which the format has no place: author" in out) == (
                "author" in metadata
            )
    cli("convert", "b.pt", "c.safetensors")
    assert metadata_of("c.safetensors") == {"format": "pt"}


@pytest.mark.parametrize(
    ("value", "target", "words"),
    [
        ({"a": np.ones(1, ml_dtypes.bfloat16)}, "a.npz", ["a: npz does not hold bfloat16"]),
        ({"a": np.ones(1, complex)}, "a.safetensors", ["a: safetensors has no place", "complex128"]),
        ({"a.b": np.ones(1), "a": {"b": np.ones(1)}}, "a.npz", ["a.b: two values"]),
        ({"a": {"b": "text"}}, "a.npz", ["a.b: str cannot be saved in this format", "--arrays"]),
        ({"a": [np.ones(1)]}, "a.npz", ["a: list cannot be saved in this format", "--arrays"]),
        ([np.ones(1)], "a.npz", ["expected a dict of arrays"]),
        ({"a": 1 << 70}, "a.npz", ["a: an integer of more than 64 bits"]),
    ],
)
def test_what_does_not_fit_is_refused_by_its_place(cli, folder, value, target, words):
    fastrnn.save(value, "in.pt")
    status, out, err = cli("convert", "in.pt", target)
    assert (status, out) == (2, "")
    assert all(word in err for word in ["in.pt: ", *words]), err
    assert os.listdir() == ["in.pt"]


def test_names_without_end_are_refused(cli, folder):
    value = {"w": np.ones(1)}
    for _ in range(100):
        value = {"a" * 1000: value}
    fastrnn.save(value, "in.pt")
    for options in ([], ["--arrays"]):
        status, _, err = cli("convert", "in.pt", "a.npz", *options)
        assert status == 2
        assert "too long" in err
        assert len(err) < 1000
    assert os.listdir() == ["in.pt"]
