"""Fixtures of the command line's tests: a call in this process, an empty folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fastrnn.cli import main

sys.path.insert(0, str(Path(__file__).parent))  # cli_tools.py: --import-mode=importlib leaves this folder out


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
