"""The backend `numba`: what compiling costs, its speed beside that of `cython`, and steps inside compiled code."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from fastrnn import jit
from fastrnn.jit import sigmoid, tanh

from .common import layer, normal, use

T = 100
SIZES = [16, 64, 256]


def mgu(gx: Any, gh: Any, s: Any) -> Any:
    f = sigmoid(gx[0] + gh[0])
    return (s[0] + f * (tanh(gx[1] + f * gh[1]) - s[0]),)


def made(cell: str, H: int) -> Any:
    return layer(cell, H, H) if cell != "MGU" else fastrnn.Recurrent(fastrnn.Cell(mgu, 2, name="MGU"), H, H, rng=0)


#: Prints the seconds of the imports and of the first call.
FIRST = """
import time
began = time.perf_counter()
import numpy, fastrnn
fastrnn.set_num_threads(1)
fastrnn.set_backend("numba")
layer, x = fastrnn.{cell}(8, 16, rng=0), numpy.zeros((10, 1, 8), "float32")
imported = time.perf_counter()
if {gradients}:
    (y, _), backward = layer.vjp(x)
    backward(y)
else:
    layer(x)
print(imported - began, time.perf_counter() - imported)
"""


class FirstCall:
    """Of a fresh process: with an empty cache, or with what an earlier one has left there."""

    params = (["GRU"], ["empty", "filled"], [False, True])
    param_names = ("cell", "cache", "gradients")
    timeout = 240

    def setup(self, cell: str, cache: str, gradients: bool) -> None:
        use("numba")
        self.folder = tempfile.TemporaryDirectory()
        self.runs = 0
        if cache == "filled":
            self.seconds(cell, cache, gradients)

    def teardown(self, cell: str, cache: str, gradients: bool) -> None:
        self.folder.cleanup()

    def seconds(self, cell: str, cache: str, gradients: bool) -> tuple[float, float]:
        self.runs += cache == "empty"
        environment = os.environ | {"NUMBA_CACHE_DIR": str(Path(self.folder.name) / str(self.runs))}
        command = [sys.executable, "-c", FIRST.format(cell=cell, gradients=gradients)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        imports, call = map(float, run.stdout.split())
        return imports, call

    def track_first_call(self, cell: str, cache: str, gradients: bool) -> float:
        """Without the imports."""
        return self.seconds(cell, cache, gradients)[1]

    def track_first_call_and_imports(self, cell: str, cache: str, gradients: bool) -> float:
        return sum(self.seconds(cell, cache, gradients))

    track_first_call.unit = track_first_call_and_imports.unit = "seconds"  # type: ignore[attr-defined]


class BesideCython:
    """The same layers on both; the minimal gated unit, a user's cell, has `numba` alone."""

    params = (["numba", "cython"], ["LSTM", "GRU", "MGU"], SIZES, [1, 32])
    param_names = ("backend", "cell", "H", "N")

    def setup(self, backend: str, cell: str, H: int, N: int) -> None:
        if (backend, cell) == ("cython", "MGU"):
            raise NotImplementedError("a user's cell")
        use(backend)
        self.layer, self.x = made(cell, H), normal(T, N, H)
        self.time_vjp_and_backward(backend, cell, H, N)  # compiles, and packs the weights
        self.layer(self.x)

    def time_forward(self, backend: str, cell: str, H: int, N: int) -> None:
        self.layer(self.x)

    def time_vjp_and_backward(self, backend: str, cell: str, H: int, N: int) -> None:
        _, backward = self.layer.vjp(self.x)
        backward(self.x)


class Inside:
    """T steps of a loop in a compiled function, by `fastrnn.jit`."""

    params = (["LSTM", "GRU", "RNN", "MGU"], SIZES)
    param_names = ("cell", "H")

    def setup(self, cell: str, H: int) -> None:
        use("numba")
        from numba import njit

        step = jit.step

        @njit  # type: ignore[untyped-decorator]
        def steps(p: Any, x: Any, states: Any) -> None:
            for t in range(len(x)):
                step(p, x[t], states)

        self.steps, self.x = steps, normal(T, H)
        self.packed = jit.pack(made(cell, H))
        self.states = tuple(np.zeros(H, np.float32) for _ in range(1 + (cell == "LSTM")))
        self.steps(self.packed, self.x, self.states)  # compiles

    def time_steps(self, cell: str, H: int) -> None:
        self.steps(self.packed, self.x, self.states)
