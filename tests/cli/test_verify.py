"""`verify` agrees with torch's recorded results, and sees wrong ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cli_tools import DATA, normal, save_layer

import fastrnn


@pytest.mark.parametrize("name", ["gru_0", "lstm_1", "lstm_proj_2", "rnn_tanh_3", "gru_cell", "lstm_cell"])
def test_verify_against_torch(cli, name):
    golden = DATA / f"golden_{name}.npz"
    status, out, _ = cli("verify", DATA / f"golden_{name}.pt", "--golden", golden, "--json")
    figures = json.loads(out)
    assert status == 0, out
    assert figures["ok"]
    against = {(check["backend"], check["against"]) for check in figures["checks"]}
    assert against >= {(b, a) for b in ("reference", "cython") for a in ("float64", str(golden))}
    recorded = {check["value"] for check in figures["checks"] if check["against"] == str(golden)}
    assert recorded == set(np.load(golden)) & {"output", "h_n", "c_n"}


AVAILABLE = sum(backend.available for backend in fastrnn.backends())


def test_verify_text(cli, folder):
    save_layer(fastrnn.LSTM(3, 5, rng=0))
    status, out, err = cli("verify", "model.npz")
    assert (status, err) == (0, "")
    assert out.count("right") == 3 * AVAILABLE
    assert all(word in out for word in ("cython", "float64", "c_n", "16 eps"))


def test_verify_allows_for_a_layer_that_amplifies_rounding(cli, folder):
    layer = fastrnn.RNN(8, 16, 2, bidirectional=True, rng=1)
    fastrnn.save({name: 4 * array for name, array in layer.state_dict().items()}, "model.npz")
    assert cli("verify", "model.npz")[0] == 0
    assert cli("verify", "model.npz", "--tolerance", "16")[0] == 1


def test_verify_finds_wrong_results(cli, folder):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0))
    x = normal(9, 2, 3)
    y, h_n = layer(x)
    wrong = h_n.copy()
    wrong[0, 1, 2] += 1e-4
    np.savez("golden.npz", x=x, output=y, h_n=wrong)
    status, out, _ = cli("verify", "model.npz", "--golden", "golden.npz")
    assert status == 1
    assert out.count("WRONG") == AVAILABLE
    status, out, _ = cli("verify", "model.npz", "--golden", "golden.npz", "--json")
    assert status == 1
    wrong = [check for check in json.loads(out)["checks"] if not check["ok"]]
    assert {(check["value"], check["against"]) for check in wrong} == {("h_n", "golden.npz")}
    assert all(abs(check["absolute"] - 1e-4) < 1e-6 for check in wrong)
    assert cli("verify", "model.npz", "--golden", "golden.npz", "--tolerance", "10000")[0] == 0


def test_verify_of_a_layer_that_overflows(cli, folder):
    layer = fastrnn.RNN(3, 5, nonlinearity="relu", rng=0)
    fastrnn.save({name: 30 * abs(array) for name, array in layer.state_dict().items()}, "model.npz")
    status, out, err = cli("verify", "model.npz", "--nonlinearity", "relu", "--json")
    assert (status, err) == (1, "")  # the float64 reference goes on where float32 ends
    assert any(check["absolute"] is None for check in json.loads(out)["checks"])


def test_verify_finds_a_wrong_backend(cli, folder, monkeypatch):
    from fastrnn.backends import reference

    save_layer(fastrnn.GRU(3, 5, rng=0))
    monkeypatch.setattr(reference, "sigmoid", lambda a: 1 / (1 + np.exp(-1.001 * a)))
    status, out, _ = cli("verify", "model.npz", "--json")
    wrong = {check["backend"] for check in json.loads(out)["checks"] if not check["ok"]}
    assert status == 1
    assert "cython" in wrong  # it is right, and the truth is not


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": None}, ["golden.npz", "x"]),
        ({"output": None}, ["golden.npz", "output"]),
        ({"x": np.zeros((9, 2, 4))}, ["golden.npz", "GRU(3, 5)", "4"]),
        ({"output": np.zeros((9, 2, 6))}, ["golden.npz", "(9, 2, 6)"]),
        ({"h_0": np.zeros((1, 3, 5))}, ["golden.npz", "[1, 3, 5]"]),
    ],
)
def test_verify_with_a_golden_file_that_does_not_fit(cli, folder, change, words):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0))
    x = normal(9, 2, 3)
    golden = {"x": x, "output": layer(x)[0], **change}
    np.savez("golden.npz", **{key: a for key, a in golden.items() if a is not None})
    status, out, err = cli("verify", "model.npz", "--golden", "golden.npz")
    assert (status, out) == (1, "")
    assert all(word in err for word in words), err


def test_difference():
    from fastrnn.cli.compare import difference

    eps = float(np.finfo(np.float32).eps)
    actual = np.array([1, 4, np.nan, np.inf, 0], np.float32)
    found = difference(actual, np.array([1, 4 * (1 + 1.5 * eps), np.nan, np.inf, 0]), 7 * eps)
    assert found[:3] == (6 * eps, 6 * eps / (4 + 6 * eps), 1.5)
    assert found.ok
    for wrong in ([1, 4, 0, np.inf, 0], [1, 4, np.nan, -np.inf, 0], [1, 4, np.nan, np.inf, np.nan]):
        found = difference(actual, np.array(wrong, np.float32), 1e9)
        assert not found.ok
        assert found.absolute == np.inf
    assert difference(actual[:0], actual[:0], 0)[:3] == (0, 0, 0)
