"""Help, version, wrong usage, and the process around a command: terminals, pipes, imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cli_tools import COMMANDS, posix, save_array, save_layer, subprocess_of

import fastrnn
from fastrnn.cli import main


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
        (["--json", "model.npz"], ["no option '--json'; options of a command or file stand behind it"]),
        (["--hlep", "demo"], ["'--hlep'", "did you mean '--help'?"]),
        (["--version=3"], ["'--version'"]),
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


def test_other_layers_are_no_choice(cli, folder):
    state = {f"rnn.{key}": array for key, array in fastrnn.GRU(3, 4).state_dict().items()}
    state |= {"head.weight": np.ones((2, 4), np.float32), "embed.weight": np.ones((5, 3), np.float32)}
    fastrnn.save(state, "model.pt")
    save_array("x.npy", np.zeros((2, 1, 3), np.float32))
    for options in ([], ["--prefix", "rnn"]):
        assert cli("verify", "model.pt", *options)[0] == 0
        assert cli("run", "model.pt", "--input", "x.npy", "--output", "y.npy", *options)[0] == 0
    status, _, err = cli("verify", "model.pt", "--prefix", "head.")
    assert status == 2
    assert "'rnn.'" in err
    assert "'embed.'" not in err


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
    text = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    for command in COMMANDS:
        main([command, "--help"])
        options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
        assert [option for option in options if option not in text] == []
