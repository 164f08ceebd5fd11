"""The headers of the kernels, built for every instruction set: against the C library, lanes, tiles, optimizers.

``FASTRNN_FULL=1`` sweeps all 2**32 float32 numbers, some minutes per build.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FULL = os.environ.get("FASTRNN_FULL") == "1"
COMPILERS = [shlex.split(os.environ.get("CC", "cc")), ["cc"], ["gcc"], ["clang"]]
COMPILER = next((command for command in COMPILERS if shutil.which(command[0])), None)
# Those of setup.py that change results, and every warning is an error.
FLAGS = ["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]

# name -> flags, bytes per vector (0: one number), does vfma round once
BUILDS = {"scalar": (["-DFASTRNN_SCALAR"], 0, False)}
if platform.machine().lower() in ("x86_64", "amd64"):
    BUILDS["x86-64-v2"] = (["-march=x86-64-v2"], 16, False)
    BUILDS["x86-64-v3"] = (["-march=x86-64-v3"], 32, True)
    BUILDS["x86-64-v4"] = (["-march=x86-64-v4", "-mprefer-vector-width=512"], 64, True)
else:
    BUILDS["baseline"] = ([], 16, platform.machine().lower() in ("aarch64", "arm64"))

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")


def compile_driver(name: str, folder: Path, bits: int, flags: list[str]) -> Path:
    assert COMPILER is not None
    source = Path(__file__).with_name(f"{name}_driver.c")
    program = folder / f"{name}_driver.exe"
    libraries = [] if sys.platform == "win32" else ["-lm"]
    command = [*COMPILER, *FLAGS, *flags, f"-DFASTRNN_REAL={bits}", str(source), "-o", str(program), *libraries]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return program


@pytest.fixture(scope="module")
def runnable(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The builds that this processor runs."""
    program = compile_driver("simd", tmp_path_factory.mktemp("levels"), 32, ["-DFASTRNN_SCALAR"])
    levels = subprocess.run([program, "levels"], capture_output=True, text=True, check=True).stdout.split()
    return {name for name in BUILDS if not name.startswith("x86-64-") or name in levels}


def run_driver(name: str, build: str, bits: int, folder: Path, runnable: set[str], *arguments: str) -> None:
    flags, width, fused = BUILDS[build]
    program = compile_driver(name, folder, bits, flags)
    if build not in runnable:
        pytest.skip(f"compiles, but this processor does not run {build}")
    result = subprocess.run([program, *arguments], capture_output=True, text=True)
    print(result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    lanes = max(1, width // (bits // 8))
    assert result.stdout.startswith(f"float{bits}, {lanes} lanes, {'fused' if fused else 'not fused'}")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("build", BUILDS)
def test_contract(build: str, bits: int, tmp_path: Path, runnable: set[str]) -> None:
    stride = {32: 1, 64: 61}[bits] if FULL else {32: 1021, 64: 8161}[bits]
    run_driver("simd", build, bits, tmp_path, runnable, str(stride))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("build", BUILDS)
def test_tiles(build: str, bits: int, tmp_path: Path, runnable: set[str]) -> None:
    run_driver("tile", build, bits, tmp_path, runnable)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("build", BUILDS)
def test_optimizers(build: str, bits: int, tmp_path: Path, runnable: set[str]) -> None:
    run_driver("optimizers", build, bits, tmp_path, runnable)
