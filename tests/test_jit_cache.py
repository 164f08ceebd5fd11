"""Numba's cache on disk: it is hit in the next process, and never where something that was compiled in has changed.

Each test compiles in processes of its own, into a folder of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

pytest.importorskip("numba", reason="numba is not installed")

SETUP = """
import sys
sys.path.insert(0, ".")
import numpy as np, fastrnn
from fastrnn import jit
from fastrnn.jit import forward_loop
x, h = np.ones(3, np.float32), np.full(5, 0.5, np.float32)
"""
STEP = """
jit.step(jit.pack(layer), x, (h,))
print(h.astype(float).tolist(), sum(jit.step.stats.cache_hits.values()))
"""


class Process:
    """Runs programs in a folder with modules of a user and a cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {**os.environ, "NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}

    def write(self, **modules: str) -> None:
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(text)

    def run(self, program: str) -> list:
        command = [sys.executable, "-c", SETUP + program]
        done = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        *_, result, hits = done.stdout.rsplit(maxsplit=1)
        return [result, int(hits)]


@pytest.fixture
def process(tmp_path):
    return Process(tmp_path)


def test_torchs_cells(process):
    program = "layer = fastrnn.RNN(3, 5, rng=0)" + STEP
    first, hits = process.run(program)
    assert hits == 0
    assert process.run(program) == [first, 1]


CELL = """
import fastrnn
from fastrnn.jit import tanh
from helpers import leaky
from numba import njit

def body(gx, gh, s):
    return (leaky(tanh(gx[0] + gh[0]), s[0]),)

def backward(gx, gh, s, ds):  # not derived, lest it change with the body
    return ds, ds, ds

layer = fastrnn.Recurrent(fastrnn.Cell(body, 1, backward=backward), 3, 5, rng=0)
"""
HELPERS = """
import constants
from numba import njit

@njit
def leaky(new, old):
    return old + constants.RATE * (new - old)
"""
USERS = "from cells import layer" + STEP


def test_users_cells(process):
    """The second process hits, and after any edit there is new code; the old one is still there for the old source."""
    process.write(cells=CELL, helpers=HELPERS, constants="RATE = 0.5\n")
    first, hits = process.run(USERS)
    assert hits == 0
    assert process.run(USERS) == [first, 1]

    seen = {first}
    for change in (
        {"cells": CELL.replace("gx[0] + gh[0]", "gx[0] - gh[0]")},  # the body
        {"helpers": HELPERS.replace("(new - old)", "(new + old)")},  # what it calls
        {"constants": "RATE = 0.25\n"},  # what that uses
    ):
        process.write(**{"cells": CELL, "helpers": HELPERS, "constants": "RATE = 0.5\n", **change})
        result, hits = process.run(USERS)
        assert hits == 0
        assert result not in seen
        seen.add(result)
    process.write(constants="RATE = 0.5\n")
    assert process.run(USERS) == [first, 1]


LOOP = """
from numba import njit
from fastrnn import jit

@njit(cache=True)
def loop(p, x, h):
    for _ in range(3):
        jit.step(p, x, (h,))
"""
LOOPS = """
from cells import layer
from loops import loop
loop(jit.pack(layer), x, h)
print(h.astype(float).tolist(), sum(loop.stats.cache_hits.values()))
"""


def test_users_loops(process):
    """A cached function of a user, in a file that does not change, is compiled anew when a cell in it has changed."""
    process.write(cells=CELL, helpers=HELPERS, constants="RATE = 0.5\n", loops=LOOP)
    first, hits = process.run(LOOPS)
    assert hits == 0
    assert process.run(LOOPS) == [first, 1]
    process.write(constants="RATE = 0.25\n")
    other, hits = process.run(LOOPS)
    assert hits == 0
    assert other != first


def test_our_own_sources(process):
    """Two versions of fastrnn with one cache, at one place, and the files' dates the same."""
    package = process.folder / "fastrnn"
    shutil.copytree(Path(fastrnn.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    process.write(cells="import fastrnn\nlayer = fastrnn.RNN(3, 5, rng=0)\n", loops=LOOP)
    gates = package / "jit" / "gates.py"
    original, dates = gates.read_text(), gates.stat()
    edited = original.replace("(s.fma(p, s - 1.0) / s.fma(p, s + 1.0))", "(s.fma(p, s - 1.0) / s.fma(p, s + 2.0))")
    assert edited != original

    here = f"assert fastrnn.__file__ == {str(package / '__init__.py')!r}\n"
    first, hits = process.run(here + LOOPS)
    assert hits == 0
    gates.write_text(edited)
    os.utime(gates, ns=(dates.st_atime_ns, dates.st_mtime_ns))
    other, hits = process.run(here + LOOPS)
    assert hits == 0
    assert other != first
    assert process.run(here + LOOPS) == [other, 1]
    gates.write_text(original)
    assert process.run(here + LOOPS) == [first, 1]
