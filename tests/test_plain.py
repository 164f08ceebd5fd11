"""The plain loops that stand in for SIMD lanes, and who chooses them: in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import fastrnn

numba = pytest.importorskip("numba")

TESTS = Path(__file__).parent
#: Tests of all backends that plain loops have to pass too: memory, threads, nothing to do, values that are not finite.
OTHERS = {
    "test_backends.py": ["test_any_memory_layout", "test_zero_strides", "test_several_threads_on_one_layer"],
    "test_gradients.py": ["test_any_memory_layout", "test_nan_and_inf_travel", "test_no_gradient_crosses_a_reset"],
    "test_vjp.py": ["test_no_steps", "test_no_rows"],
}


def run(*arguments, **environment):
    result = subprocess.run(
        [sys.executable, *arguments], cwd=TESTS, env=os.environ | environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def pytest_run(*arguments, **environment):
    return run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, **environment)


def test_compiled():
    pytest_run("plain_checks.py", FASTRNN_LANES="0")
    others = [f"{file}::{test}" for file, tests in OTHERS.items() for test in tests]
    pytest_run(*others, "-k", "numba and (lstm_proj or gru)", FASTRNN_LANES="0")


def test_as_python():
    pytest_run("plain_checks.py", NUMBA_DISABLE_JIT="1")


BROKEN = """
import sys, warnings
import numpy as np
import fastrnn
sys.modules["fastrnn.jit.tile"] = None  # cannot be imported; other modules have been by then
with warnings.catch_warnings(record=True) as caught:
    fastrnn.set_backend("numba")
    fastrnn.set_backend("numba")
print(*(w.category.__name__ + ": " + str(w.message) for w in caught), sep="\\n")
layer, x = fastrnn.GRU(2, 3, rng=0), np.ones((4, 2), np.float32)
y, _ = layer(x)
fastrnn.set_backend("reference")
assert np.abs(layer(x)[0] - y).max() < 1e-6
"""


def test_an_unknown_numba():
    (line,) = run("-c", BROKEN, FASTRNN_LANES="1", NUMBA_DISABLE_JIT="0").splitlines()
    assert line.startswith("RuntimeWarning: fastrnn is slower here")
    assert numba.__version__ in line
    assert "fastrnn.jit.tile" in line


class Something:
    half = 0.5


SOMETHING = Something()


def not_compilable(gx, gh, s):
    return (SOMETHING.half * (gx[0] + gh[0]),)


def test_cells_that_numba_cannot_compile():
    layer = fastrnn.Recurrent(fastrnn.Cell(not_compilable, 1), 2, 3)
    for call in (layer, layer.vjp, lambda x: layer.stream().process(x)):
        with (
            fastrnn.use_backend("numba"),
            pytest.raises(fastrnn.BackendError, match=r"(?s)cannot compile not_compilable: .*SOMETHING.*reference"),
        ):
            call(np.ones((4, 2)))


@pytest.mark.parametrize("kind", [numba.core.errors.LoweringError, RuntimeError])
def test_lanes_that_numba_cannot_compile(kind, monkeypatch):
    def fail(*args):
        raise kind("invalid cast opcode")

    with fastrnn.use_backend("numba"):
        module = import_module("fastrnn.backends.numba")
        monkeypatch.setattr(module, "_compiled", set())
        monkeypatch.setattr(module, "forward", fail)
        words = "lstm here; FASTRNN_LANES=0 .*: invalid cast opcode" if module.LANES else "lstm here: invalid"
        with pytest.raises(fastrnn.BackendError, match=words):
            fastrnn.LSTM(2, 3)(np.ones((4, 2)))
