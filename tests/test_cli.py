"""The command line: figures, exit statuses, wrong usage, and that nothing half-written is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

import fastrnn
from fastrnn.cli import main

DATA = Path(__file__).parent / "data"
COMMANDS = ["demo", "inspect", "run", "verify", "convert"]
posix = pytest.mark.skipif(os.name != "posix", reason="signals, pseudo-terminals and users of POSIX")


@pytest.fixture
def cli(capsys):
    """``cli(*arguments)``: exit status, stdout, stderr."""

    def call(*arguments):
        status = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        if err:
            assert err.count("\n") == 1
            assert err.startswith(("fastrnn: error: ", "fastrnn: warning: "))
        return status, out, err

    return call


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def subprocess_of(*arguments, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([sys.executable, "-m", "fastrnn", *map(str, arguments)], **options)


def save_layer(layer, name="model.npz", prefix=""):
    fastrnn.save({prefix + key: array for key, array in layer.state_dict().items()}, name)
    return layer


def save_array(name, array):
    np.save(name, array)
    return array


def normal(*shape, dtype="float32", seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


# -- help, version, wrong usage -----------------------------------------------------------------------------------


def test_help_and_version(cli):
    status, out, _ = cli("--help")
    assert status == 0
    assert all(command in out for command in COMMANDS)
    assert cli("--version") == (0, f"fastrnn {fastrnn.__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command(cli, command):
    status, out, _ = cli(command, "--help")
    assert status == 0
    assert out.startswith(f"usage: fastrnn {command}")


def test_without_arguments_shows_help_as_wrong_usage(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "inspect" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["insepct"], ["'insepct'", "did you mean 'inspect'?"]),
        (["demo", "--jsno"], ["'--jsno'", "did you mean '--json'?"]),
        (["--versoin"], ["'--versoin'", "did you mean '--version'?"]),
        (["demo", "--js"], ["'--js'"]),  # no guessing
        (["demo", "extra"], ["'extra'"]),
        (["run", "model.npz"], ["--input", "--output"]),
        (["run", "model.npz", "--input", "x.npy", "--outptu=y.npy"], ["--output"]),
        (["run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", "lots"], ["'lots'", "256M"]),
        (["run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", "0"], ["'0'"]),
        (["verify", "model.npz", "--steps", "0"], ["'0'"]),
        (["verify", "model.npz", "--dtype", "float16"], ["'float16'", "float32"]),
        (["verify", "model.npz", "--tolerance", "nan"], ["'nan'"]),
        (["modle.npz"], ["modle.npz", "no such file", "did you mean 'model.npz'?"]),
        (["inspect", "nowhere/model.pt"], ["nowhere/model.pt", "no such file"]),
        (["inspect", "."], ["folder"]),
        (["convert", "model.npz", "model.xyz"], ["xyz"]),
    ],
)
def test_wrong_usage(cli, folder, arguments, words):
    save_layer(fastrnn.GRU(3, 4, rng=0))
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert all(word in err for word in words), err
    assert os.listdir() == ["model.npz"]


def test_prefixes(cli, folder):
    state = {
        f"{name}.rnn.{key}": a for name in ("encoder", "decoder") for key, a in fastrnn.GRU(3, 4).state_dict().items()
    }
    fastrnn.save(state, "model.npz")
    status, _, err = cli("verify", "model.npz")
    assert status == 2
    assert "'encoder.rnn.'" in err
    assert "'decoder.rnn.'" in err
    status, _, err = cli("verify", "model.npz", "--prefix", "encodr.rnn.")
    assert status == 2
    assert "did you mean 'encoder.rnn.'?" in err
    assert cli("verify", "model.npz", "--prefix", "encoder.rnn.")[0] == 0
    assert cli("verify", "model.npz", "--prefix", "decoder.rnn")[0] == 0  # the dot may be left out
    status, _, err = cli("verify", "model.npz", "--prefix", "decoder.rnn", "--nonlinearity", "relu")
    assert status == 2
    assert "nonlinearity" in err
    assert "did you mean" not in err


# -- demo ---------------------------------------------------------------------------------------------------------


def test_demo(cli):
    status, out, err = cli("demo")
    assert (status, err) == (0, "")
    assert "HELLO WORLD" in out
    assert out.count("right") == 2
    assert "WRONG" not in out


def test_demo_json(cli):
    status, out, _ = cli("demo", "--all", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures["ok"]
    assert {"reference", "cython"} <= {row["backend"] for row in figures["backends"]}
    assert all(0 < row["absolute"] <= row["allowed"] < 1e-4 and row["us_per_step"] > 0 for row in figures["backends"])
    assert "HELLO WORLD" in figures["messages"]


def test_demo_reports_disagreement(cli, folder, monkeypatch):
    from fastrnn.cli import demo

    golden = fastrnn.load(demo.DATA / "demo_golden.npz")
    np.savez("demo_golden.npz", **{**golden, "h_n": golden["h_n"] + np.float32(1e-4)})
    Path("demo.pt").write_bytes((demo.DATA / "demo.pt").read_bytes())
    monkeypatch.setattr(demo, "DATA", folder)
    status, out, _ = cli("demo")
    assert status == 1
    assert out.count("WRONG") == 2
    status, out, _ = cli("demo", "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


def test_demo_data_is_small():
    from fastrnn.cli import demo

    assert sum(path.stat().st_size for path in demo.DATA.iterdir()) < 300_000


# -- inspect ------------------------------------------------------------------------------------------------------


def test_inspect(cli, folder):
    lstm = fastrnn.LSTM(3, 8, num_layers=2, bidirectional=True, proj_size=2, rng=0)
    state = {"model": {f"encoder.{k}": a for k, a in lstm.state_dict().items()}, "epoch": 7, "notes": "x" * 10_000}
    fastrnn.save(state, "model.pt")
    parameters = sum(a.size for a in lstm.state_dict().values())
    status, out, _ = cli("inspect", "model.pt")
    assert status == 0
    assert out == cli("model.pt")[1]
    row = next(line for line in out.splitlines() if line.startswith("model.encoder. "))
    assert row.split()[1:] == ["LSTM", "3", "8", "2", "bidirectional,", "proj_size=2", "float32", f"{parameters:,}"]
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


# -- run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["100M", "20k", "1"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_run_is_the_layer(cli, folder, assert_close, memory, bidirectional, batch_first, ragged):
    """However little memory there is for a chunk, and with the states given and kept."""
    T, N = (6, 3) if memory == "1" else (40, 7)
    options = {"num_layers": 2, "bidirectional": bidirectional, "proj_size": 3}
    layer = save_layer(fastrnn.LSTM(5, 6, **options, batch_first=batch_first, rng=0))
    x = save_array("x.npy", normal(N, T, 5) if batch_first else normal(T, N, 5))
    h_0, c_0 = normal(2 * (1 + bidirectional), N, 3, seed=1), normal(2 * (1 + bidirectional), N, 6, seed=2)
    np.savez("s.npz", h_0=h_0, c_0=c_0)
    lengths = save_array("lengths.npy", np.random.default_rng(0).integers(0, T + 1, N)) if ragged else None
    arguments = ["--batch-first"] * batch_first + ["--lengths", "lengths.npy"] * ragged
    status, _, err = cli(
        *("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", memory),
        *("--state-in", "s.npz", "--state-out", "s.npz", *arguments),
    )
    assert (status, err) == (0, "")
    y, (h_n, c_n) = layer(x, (h_0, c_0), lengths=lengths)
    states = fastrnn.load("s.npz")
    assert sorted(states) == ["c_n", "h_n"]
    assert_close((np.load("y.npy"), states["h_n"], states["c_n"]), (y, h_n, c_n), "float32")


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_run_of_a_single_sequence_goes_on_where_it_ended(cli, folder, assert_close, kind):
    layer = save_layer(getattr(fastrnn, kind)(3, 5, rng=0))
    x = normal(50, 3)
    run = ["run", "model.npz", "--max-memory", "1k", "--state-out", "s.npz"]
    save_array("x.npy", x[:20])
    assert cli(*run, "--input", "x.npy", "--output", "y0.npy")[0] == 0
    save_array("x.npy", x[20:])
    assert cli(*run, "--input", "x.npy", "--output", "y1.npy", "--state-in", "s.npz")[0] == 0
    y, _ = layer(x)
    assert_close(np.concatenate([np.load("y0.npy"), np.load("y1.npy")]), y, "float32")


@pytest.mark.parametrize("dtype", ["int16", "bool", "float16", ">f8"])
def test_run_takes_any_real_numbers_in_any_layout(cli, folder, assert_close, dtype):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0))
    x = save_array("x.npy", np.asfortranarray(3 * normal(6, 4, 3)).astype(dtype))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--dtype", "float64")[0] == 0
    assert_close(np.load("y.npy"), layer.astype("float64")(x)[0], "float64")


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (0, 3)])
def test_run_of_nothing(cli, folder, shape):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    save_array("x.npy", np.zeros(shape))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--state-out", "s.npz")[0] == 0
    assert np.load("y.npy").shape == (*shape[:-1], 5)
    assert fastrnn.load("s.npz")["h_n"].shape == (1, *shape[1:-1], 5)


def test_run_of_a_relu_rnn(cli, folder, assert_close):
    layer = save_layer(fastrnn.RNN(3, 5, nonlinearity="relu", rng=0))
    x = save_array("x.npy", normal(9, 2, 3))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--nonlinearity", "relu")[0] == 0
    assert_close(np.load("y.npy"), layer(x)[0], "float32")


def test_run_of_a_cell_over_time(cli, folder, assert_close):
    cell = save_layer(fastrnn.LSTMCell(3, 5, rng=0))
    x = save_array("x.npy", normal(9, 2, 3))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy")[0] == 0
    hx, y = None, []
    for x_t in x:
        hx = cell(x_t, hx)
        y.append(hx[0])
    assert_close(np.load("y.npy"), np.array(y), "float32")


def test_run_json(cli, folder):
    save_layer(fastrnn.GRU(3, 5, rng=0), prefix="rnn.")
    save_array("x.npy", normal(9, 2, 3))
    status, out, _ = cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures.pop("seconds") > 0
    assert figures == {
        "layer": "GRU(3, 5)",
        "prefix": "rnn.",
        "output": "y.npy",
        "shape": [9, 2, 5],
        "dtype": "float32",
        "bytes": 360,
        "steps": 18,
        "nan_values": 0,
    }


def test_run_counts_nans(cli, folder):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    x = normal(90, 2, 3)
    x[87, 1] = np.nan
    save_array("x.npy", x)
    for memory in ("1M", "1k"):
        status, _, err = cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", memory)
        assert status == 0
        assert "15 of 900 output values are NaN" in err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--input", "missing.npy"], 2, ["missing.npy", "no such file"]),
        (["--input", "x.npz"], 1, ["x.npz"]),
        (["--input", "empty.npy"], 1, ["empty.npy"]),
        (["--input", "objects.npy"], 1, ["objects.npy"]),
        (["--input", "huge.npy"], 1, ["huge.npy"]),
        (["--input", "rank4.npy"], 2, ["rank4.npy", "(T, N, 3) or (T, 3)", "(2, 2, 2, 3)"]),
        (["--input", "wide.npy"], 2, ["wide.npy", "(T, N, 3)", "(4, 2, 7)"]),
        (["--input", "wide.npy", "--batch-first"], 2, ["(N, T, 3)"]),
        (["--input", "complex.npy"], 2, ["complex.npy", "real", "complex64"]),
        (["--output", "y.txt"], 2, ["y.txt", ".npy"]),
        (["--output", "nowhere/y.npy"], 2, ["nowhere", "no such folder"]),
        (["--output", "folder.npy"], 2, ["folder.npy", "folder"]),
        (["--output", "x.npy"], 2, ["x.npy", "overwrite"]),
        (["--output", "./link.npy"], 2, ["x.npy", "overwrite"]),
        (["--state-out", "s.txt"], 2, ["s.txt", ".npz"]),
        (["--state-out", "model.npz"], 2, ["model.npz", "overwrite"]),
        (["--state-in", "missing.npz"], 2, ["missing.npz"]),
        (["--state-in", "x.npz"], 2, ["x.npz", "h_0 or h_n"]),
        (["--state-in", "wrong.npz"], 2, ["wrong.npz", "(1, 2, 5)", "(1, 3, 5)"]),
        (["--lengths", "float.npy"], 2, ["float.npy", "integers", "float64"]),
        (["--lengths", "short.npy"], 2, ["short.npy", "(2,)", "(1,)"]),
        (["--lengths", "long.npy"], 2, ["long.npy", "0 to 4", str(2**62)]),
        (["--lengths", "negative.npy"], 2, ["negative.npy", "0 to 4", "-1"]),
        (["--device", "cup"], 2, ["cup"]),
        (["--device", "cuda:77"], 2, ["cuda:77"]),
    ],
)
def test_run_refuses(cli, folder, arguments, status, words):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    arrays = {
        "x": normal(4, 2, 3),
        "rank4": normal(2, 2, 2, 3),
        "wide": normal(4, 2, 7),
        "complex": normal(4, 2, 3).astype("complex64"),
        "float": np.ones(2),
        "short": np.ones(1, int),
        "long": np.array([2**62, 1]),
        "negative": np.array([-1, 1]),
    }
    for name, array in arrays.items():
        np.save(f"{name}.npy", array)
    np.savez("x.npz", x=arrays["x"])
    np.savez("wrong.npz", h_n=normal(1, 3, 5))
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    Path("empty.npy").touch()
    header = Path("x.npy").read_bytes()[:128]
    Path("huge.npy").write_bytes(header.replace(b"(4, 2, 3), ", b"(2**40,3), ").replace(b"2**40", b"9" * 5))
    os.mkdir("folder.npy")
    os.link("x.npy", "link.npy")
    before = {name: os.stat(name).st_mtime_ns for name in os.listdir()}
    options = {"--input": "x.npy", "--output": "y.npy"} | dict(zip(arguments[::2], arguments[1::2], strict=False))
    flags = ["--batch-first"] * ("--batch-first" in arguments)
    found, out, err = cli("run", "model.npz", *(a for item in options.items() for a in item if a), *flags)
    assert (found, out) == (status, "")
    assert all(word in err for word in words), err
    assert {name: os.stat(name).st_mtime_ns for name in os.listdir()} == before


def test_run_that_fails_midway_leaves_the_old_output(cli, folder, monkeypatch):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    save_array("x.npy", normal(60, 2, 3))
    Path("y.npy").write_text("old")
    Path("s.npz").write_text("old")
    calls = []

    def fail_later(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("no more")
        return original(self, *args, **kwargs)

    original = fastrnn.GRU.__call__
    monkeypatch.setattr(fastrnn.GRU, "__call__", fail_later)
    run = ["run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--state-out", "s.npz", "--max-memory", "1k"]
    status, out, err = cli(*run)
    assert (status, out) == (2, "")
    assert "no more" in err
    assert len(calls) == 3
    assert sorted(os.listdir()) == ["model.npz", "s.npz", "x.npy", "y.npy"]
    assert Path("y.npy").read_text() == Path("s.npz").read_text() == "old"
    assert cli(*run)[0] == 0
    assert np.load("y.npy").shape == (60, 2, 5)


def test_run_without_room_on_the_disk(cli, folder, monkeypatch):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    save_array("x.npy", normal(60, 2, 3))
    monkeypatch.setattr("shutil.disk_usage", lambda path: os.terminal_size((0, 0)) and type("U", (), {"free": 100}))
    status, _, err = cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy")
    assert status == 2
    assert "y.npy" in err
    assert "2.4 kB" in err
    assert "100 bytes" in err
    assert sorted(os.listdir()) == ["model.npz", "x.npy"]


@posix
def test_run_into_a_read_only_folder():
    """As a user whom permissions bind: root may write anywhere."""
    code = """if True:
        import os, sys
        from fastrnn.cli import main
        run = ["run", "model.npz", "--input", "x.npy", "--output"]
        assert main([*run, "y.npy"]) == 0  # imports all that is needed: the other user may not read it
        if os.getuid() == 0:
            os.setuid(65534)
        sys.exit(main([*run, "locked/y.npy"]))
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_layer(fastrnn.GRU(3, 5, rng=0), folder / "model.npz")
        save_array(folder / "x.npy", normal(6, 2, 3))
        (folder / "locked").mkdir(mode=0o555)
        folder.chmod(0o755)
        process = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        assert process.returncode == 2, process.stderr
        assert process.stderr == "fastrnn: error: locked: --output: no permission to write into this folder\n"
        assert os.listdir(folder / "locked") == []


@posix
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_nothing(folder, signum, status):
    save_layer(fastrnn.GRU(1, 2, rng=0))
    save_array("x.npy", np.zeros((400_000, 1), np.float32))  # many seconds on the reference
    arguments = ["run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--state-out", "s.npz"]
    environment = {**os.environ, "FASTRNN_BACKEND": "reference"}
    process = subprocess_of(*arguments, "--max-memory", "10k", env=environment)
    deadline = time.monotonic() + 60
    while len(os.listdir()) < 3 and process.poll() is None:  # until the temporary file is there
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (status, "", "")
    assert sorted(os.listdir()) == ["model.npz", "x.npy"]


# -- verify -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gru_0", "lstm_1", "lstm_proj_2", "rnn_tanh_3", "gru_cell", "lstm_cell"])
def test_verify_against_torch(cli, name):
    golden = DATA / f"golden_{name}.npz"
    status, out, _ = cli("verify", DATA / f"golden_{name}.pt", "--golden", golden, "--json")
    figures = json.loads(out)
    assert status == 0, out
    assert figures["ok"]
    against = {(check["backend"], check["against"]) for check in figures["checks"]}
    assert against >= {(b, a) for b in ("reference", "cython") for a in ("float64 reference", str(golden))}
    recorded = {check["value"] for check in figures["checks"] if check["against"] == str(golden)}
    assert recorded == set(np.load(golden)) & {"output", "h_n", "c_n"}


def test_verify_text(cli, folder):
    save_layer(fastrnn.LSTM(3, 5, rng=0))
    status, out, err = cli("verify", "model.npz")
    assert (status, err) == (0, "")
    assert out.count("right") == 6
    assert all(word in out for word in ("cython", "float64 reference", "c_n", "16 eps"))


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
    assert out.count("WRONG") == 2
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
    np.testing.assert_allclose(found[:3], (6 * eps, 1.5 * eps, 1.5), rtol=1e-6)
    assert found.ok
    for wrong in ([1, 4, 0, np.inf, 0], [1, 4, np.nan, -np.inf, 0], [1, 4, np.nan, np.inf, np.nan]):
        found = difference(actual, np.array(wrong, np.float32), 1e9)
        assert not found.ok
        assert found.absolute == np.inf
    assert difference(actual[:0], actual[:0], 0)[:3] == (0, 0, 0)


# -- convert ------------------------------------------------------------------------------------------------------


def test_convert(cli, folder):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0), "model.pt")
    for source, target in (
        ("model.pt", "model.safetensors"),
        ("model.safetensors", "model.npz"),
        ("model.npz", "b.pt"),
    ):
        assert cli("convert", source, target)[0] == 0
    state = fastrnn.load("b.pt")
    assert state.keys() == layer.state_dict().keys()
    assert all(np.array_equal(state[key], a) for key, a in layer.state_dict().items())


# -- processes, terminals, pipes ----------------------------------------------------------------------------------


def test_help_and_figures_need_neither_torch_nor_rich():
    code = (
        "import sys; from fastrnn.cli import main; main(['--help']); main(['demo']);"
        "sys.exit(' '.join({'torch', 'rich', 'safetensors', 'numba'} & set(sys.modules)) or 0)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")


def test_python_dash_m(folder):
    process = subprocess_of("insepct")
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err == "fastrnn: error: no command or file 'insepct'; did you mean 'inspect'?\n"


@posix
@pytest.mark.parametrize("arguments", [["demo", "--json"], ["--version"]])
def test_broken_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess_of(*arguments, stdout=writer)
    os.close(writer)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")


def test_output_in_a_narrow_encoding():
    process = subprocess_of("demo", env={**os.environ, "PYTHONIOENCODING": "ascii"})
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    assert "HELLO WORLD" in out


@posix
def test_terminal_gets_a_table_and_a_bar(folder):
    import pty

    save_layer(fastrnn.GRU(1, 2, rng=0))
    save_array("x.npy", np.zeros((2000, 1), np.float32))
    code = "import sys; from fastrnn.cli import main, show; show.BAR_AFTER = 0; sys.exit(main(sys.argv[1:]))"
    for arguments, words in (
        (["inspect", "model.npz"], ["─", "weight_hh_l0"]),
        (["run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", "1k"], ["running", "%"]),
    ):
        master, slave = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100"}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], stdout=slave, stderr=slave, env=environment
        )
        os.close(slave)
        shown = b""
        while True:
            try:
                chunk = os.read(master, 1 << 16)
            except OSError:  # how Linux says that the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        os.close(master)
        assert process.wait() == 0
        assert all(word in shown.decode() for word in words), shown.decode()


def test_docs_name_every_option(capsys):
    text = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
    for command in COMMANDS:
        main([command, "--help"])
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert [option for option in options if option not in text] == []
