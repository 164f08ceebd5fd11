"""Compiled code for smaller processors: registers of 16 and 32 bytes, in processes of their own.

``FASTRNN_FULL=1`` compiles every cell and dtype, forward and backward, some minutes.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="numba is not installed")
FULL = os.environ.get("FASTRNN_FULL") == "1"

PROGRAM = """
import json, re, sys
from pathlib import Path
import numpy as np
tests, cases, backward = json.loads(sys.argv[1])
sys.path.insert(0, tests)
import conftest, fastrnn, layer_tools
from fastrnn.jit import backward_loop, forward_loop, lanes

bad = []
fastrnn.set_backend("numba")
for cell, dtype in cases:
    for i, H in enumerate((5, 20, 36, 52)):
        options = {"bias": i != 1, "ragged": i == 2, "resets": 0.1 * (i == 3), "bidirectional": i == 0}
        N = (1, 1, 5, 7)[i]
        case = layer_tools.Case(cell, 40, N, 3, H, dtype, seed=i, **options)
        expected = layer_tools.truth(case.layer, case.x, case.hx, **case.options)
        bad.append(conftest._disagreement(case.call(), expected, dtype))
        if backward and [cell, dtype] in backward:
            bad.append(case.problem(conftest._disagreement))
        for odd in (np.nan, np.inf, -np.inf):
            case.x[20, 0, 0] = odd
            expected = layer_tools.truth(case.layer, case.x, case.hx, **case.options)
            finite = np.isfinite(case.call()[0]) == np.isfinite(expected[0])
            bad.append("" if finite.all() else f"{cell} {dtype} {odd} travels differently")
registers = set()
for function in (forward_loop.forward, *[backward_loop.backward] * bool(backward)):
    for text in function.inspect_asm().values():
        registers.update(re.findall(r"%([xyz]mm)", text))
print(json.dumps([lanes.BYTES, [b for b in bad if b], sorted(registers)]))
"""

CASES = [("lstm", "float32"), ("gru", "float64")]
BACKWARD = [("gru", "float64")]
if FULL:
    CELLS = ("rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru", "independent_rnn", "peephole_lstm", "exponential_lstm")
    CASES = BACKWARD = [(cell, dtype) for cell in CELLS for dtype in ("float32", "float64")]

#: Bytes of a register; environment; the largest registers that the processor has, and that are used.
TARGETS = {"16 bytes of whatever there is": (16, {"FASTRNN_LANE_BYTES": "16"}, None)}
if platform.machine().lower() in ("x86_64", "amd64"):
    no_more = {"NUMBA_CPU_FEATURES": ""}
    TARGETS["x86-64-v2"] = (16, {"NUMBA_CPU_NAME": "x86-64-v2", **no_more}, "xmm")
    TARGETS["x86-64-v3"] = (32, {"NUMBA_CPU_NAME": "x86-64-v3", **no_more}, "ymm")


@pytest.mark.parametrize("target", TARGETS)
def test_results(target):
    bytes_of, settings, largest = TARGETS[target]
    if target == "x86-64-v3" and "avx2" not in features():
        pytest.skip("this processor does not run x86-64-v3")
    backward = BACKWARD if FULL or target == "x86-64-v2" else []
    arguments = json.dumps([str(Path(__file__).parent), CASES, backward])
    command = [sys.executable, "-W", "ignore::RuntimeWarning", "-c", PROGRAM, arguments]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    of, bad, registers = json.loads(done.stdout.splitlines()[-1])
    assert of == bytes_of
    assert bad == []
    assert largest is None or registers[-1] == largest


def features():
    from numba.core.registry import cpu_target

    return {f[1:] for f in cpu_target.target_context.codegen().magic_tuple()[2].split(",") if f[:1] == "+"}


def test_wrong_size_of_a_register():
    command = [sys.executable, "-c", "import fastrnn.jit"]
    done = subprocess.run(command, env=os.environ | {"FASTRNN_LANE_BYTES": "8"}, capture_output=True, text=True)
    assert "ValueError: FASTRNN_LANE_BYTES should be 16, 32 or 64, got: '8'" in done.stderr


def test_a_compiler_that_is_switched_off():
    """Functions that only Numba knows the body of would do nothing."""
    program = "import fastrnn, fastrnn.jit\nfastrnn.jit.sigmoid(0.0)\nfastrnn.GRU(1, 1)([[0]])\nfastrnn.jit.gru_step"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert "BackendError: fastrnn.jit.gru_step cannot run here: NUMBA_DISABLE_JIT is set" in done.stderr
