"""A `run` that is refused, fails or is interrupted leaves everything as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from cli_tools import normal, posix, save_array, save_layer, subprocess_of

import fastrnn


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
    assert "100 B" in err
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
    save_array("x.npy", np.zeros((1_000_000, 1), np.float32))  # half a minute on the reference
    arguments = ["run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--state-out", "s.npz"]
    environment = {**os.environ, "FASTRNN_BACKEND": "reference"}
    process = subprocess_of(*arguments, "--max-memory", "10k", env=environment)
    deadline = time.monotonic() + 60
    while len(os.listdir()) < 3 and process.poll() is None:  # until the temporary file is there
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signum)
    out, err = process.communicate(timeout=60)
    # Where Ctrl-C falls into an `exec` (a dataclass in a late import), Python ends itself by the signal: 130 to a shell
    assert process.returncode in (status, -signum)
    assert (out, err) == ("", "")
    assert sorted(os.listdir()) == ["model.npz", "x.npy"]
