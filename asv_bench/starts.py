"""What a start costs: importing an engine, and making a layer that is then called once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fastrnn.cli.engines import Engine, Problem, onnx_model
from fastrnn.cli.timing import NAP

# VmHWM and not getrusage: that one starts from what the parent process had.
_MEASURE = """
import time
began = time.perf_counter()
{code}
seconds = time.perf_counter() - began
try:
    lines = open("/proc/self/status").read().split()
    print(seconds, int(lines[lines.index("VmHWM:") + 1]) * 1024 / 1e6)
except OSError:
    print(seconds, "nan")
"""
_FIRST_RESULT = {
    "numpy": "import numpy",
    "fastrnn": "import numpy, fastrnn; fastrnn.LSTM(64, 64)(numpy.zeros((100, 1, 64)))",
    "torch": "import torch; torch.nn.LSTM(64, 64)(torch.zeros(100, 1, 64))",
    "onnxruntime": "import numpy, onnxruntime\n"
    "onnxruntime.InferenceSession({model!r}).run(None, dict(X=numpy.zeros((100, 1, 64), 'f')))",
    "openvino": "import numpy, openvino; openvino.compile_model({model!r}, 'CPU')(numpy.zeros((100, 1, 64), 'f'))",
}


class Import(NamedTuple):
    """In a fresh process.

    Attributes
    ----------
    seconds : float
    megabytes : float
        The most that the process had resident, the interpreter's own 10 MB included.
    first_result : float or None
        Seconds until an LSTM of 64 units has run over 100 steps, the import included.
    """

    seconds: float
    megabytes: float
    first_result: float | None


def imports(engines: Sequence[str], repeat: int) -> dict[str, Import]:
    """numpy, and those `engines`."""
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "lstm.onnx"
        if find_spec("onnx"):
            model.write_bytes(onnx_model(Problem("LSTM", 100, 1, 64, 64)))
        figures = {}
        for name in ("numpy", *engines):
            seconds, megabytes = _in_fresh_process(f"import {name}", repeat)
            first = _FIRST_RESULT.get(name, "").format(model=str(model))
            figures[name] = Import(seconds, megabytes, _in_fresh_process(first, repeat)[0] if first else None)
        return figures


def _in_fresh_process(code: str, repeat: int) -> tuple[float, float]:
    """Medians of seconds and megabytes."""
    command = [sys.executable, "-W", "ignore", "-c", _MEASURE.format(code=code)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(repeat)]
    seconds, megabytes = zip(*(map(float, run.splitlines()[-1].split()) for run in runs), strict=True)
    return median(seconds), median(megabytes)


class Start(NamedTuple):
    """Seconds."""

    make: float  # from weights in NumPy arrays, or for OpenVINO and onnxruntime in an ONNX model
    first_call: float  # packs or compiles what is packed or compiled late
    later_call: float


def first_calls(problem: Problem, engines: Sequence[Engine], repeat: int) -> dict[str, Start]:
    """A new layer each time; medians. Each engine gets a nap and one start that is not counted."""
    assert problem.x.size  # made before any clock runs, as are the weights
    assert problem.weights
    figures = {}
    for engine in engines:
        time.sleep(NAP)
        _, *starts = (_start(problem, engine) for _ in range(1 + repeat))
        figures[engine.name] = Start(*map(median, zip(*starts, strict=True)))
    return figures


def _start(problem: Problem, engine: Engine) -> Start:
    clock = [time.perf_counter()]
    run = engine.sequence(problem)
    for _ in range(3):
        clock.append(time.perf_counter())
        run()
    clock.append(time.perf_counter())
    make, first, _, later = (b - a for a, b in pairwise(clock))
    return Start(make, first, later)
