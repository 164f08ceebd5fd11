"""Every path of the engine as the GPU check runs it, on the executor: the host's side and all kernels together."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("greenlet")

import executor

RUN = """
import json, sys, warnings
warnings.filterwarnings("error", "fastrnn is slower", RuntimeWarning)
import emulator
emulator.install(multiprocessors=4)
from fastrnn.cli.gpu import parity
path, cell, N, H, D, options = json.loads(sys.argv[1])
found = parity.run(parity.Case(path, cell, N, H, D, options=tuple(options), T=5), None)
print(json.dumps(found | {"launched": emulator.launched}))
"""
RAGGED = ["ragged", "reset"]


GIVES_UP = """
import json, sys
import emulator
emulator.install(multiprocessors=4)
from fastrnn.cli.gpu import safety
print(json.dumps(safety.gives_up(json.loads(sys.argv[1])[0], None, H=16, T=4)))
"""


def run(*case, code=RUN):
    path = filter(None, [os.path.dirname(executor.__file__), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, "-c", code, json.dumps(case)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert process.returncode == 0, process.stderr[-2000:]
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    ("case", "kernels"),
    [
        (("general", "GRU", 2, 3, 2, RAGGED), {"general"}),
        (("general", "LSTM", 2, 6, 1, ["projection", "ragged"]), {"general"}),
        (("A0", "LSTM", 2, 8, 2, RAGGED), {"one_block"}),
        (("A", "LSTM", 1, 16, 1, []), {"small_batch"}),
        (("A", "GRU", 2, 8, 2, RAGGED), {"small_batch"}),
        (("B", "LSTM", 8, 16, 1, RAGGED), {"tensor_cores"}),
        (("B tf32", "GRU", 9, 16, 1, []), {"tensor_cores"}),
        (("C", "LSTM", 1, 16, 1, []), {"bptt"}),
        (("C", "GRU", 2, 8, 2, RAGGED), {"bptt"}),
        (("chosen", "LSTM", 1, 8, 2, ["two layers", "ragged"]), {"one_block", "bptt"}),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_path(case, kernels):
    found = run(*case)
    assert "verdict" not in found, found
    assert kernels <= found["launched"].keys()
    assert found["of_allowed"] <= 1


@pytest.mark.parametrize("path", ["A", "B", "C"])
def test_a_kernel_gives_up(path):
    """An error once, and other kernels from then on."""
    assert run(path, code=GIVES_UP) == {}
