"""What is shown of checkpoints, good and bad."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from cli_tools import normal, save_array, save_layer

import fastrnn


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
    }
    assert figures["others"]["epoch"] == "7"


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
    Path("model.pt").touch()
    monkeypatch.setattr(fastrnn, "load", lambda path: state)
    monkeypatch.setattr(fastrnn, "find_layers", lambda state: [])
    status, out, _ = cli("inspect", "model.pt", "--json")
    assert status == 0
    assert [array["name"] for array in json.loads(out)["arrays"]] == ["a", "list.0", "self.0"]


def test_inspect_of_a_file_without_layers(cli, folder):
    fastrnn.save({"table": np.zeros((2, 3))}, "model.npz")
    status, out, _ = cli("inspect", "model.npz")
    assert status == 0
    assert "no recurrent layer" in out
    assert "(2, 3)" in out
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
