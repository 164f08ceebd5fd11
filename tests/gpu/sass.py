"""What kernels become on GPUs: registers, spills, wide loads and so on, found without a GPU. ::

    python tests/gpu/sass.py                # prints the table of all kernels, as Markdown
    python tests/gpu/sass.py --write        # and makes it what test_sass.py expects: tests/gpu/sass.json
    python tests/gpu/sass.py gru "N=1 "     # prints rows that have all of these words
    python tests/gpu/sass.py --install      # prints how to install the tools

Other versions of the tools count otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastrnn.cells import CELLS

INSTALL = (
    'pip install "numba-cuda[cu13]>=0.30,<0.31" "cuda-toolkit[nvvm,nvrtc,cudart,cccl]==13.0.*"',
    'pip install --no-deps "nvidia-cuda-nvcc==13.0.*" nvidia-cuda-nvdisasm',
)
EXPECTED = Path(__file__).with_name("sass.json")


class Device(NamedTuple):
    """What of a GPU decides which kernels run; see `fastrnn.cuda.runtime.Device`."""

    name: str
    capability: tuple[int, int]
    multiprocessors: int
    shared_per_block: int
    simulated: bool = False
    gave_up: frozenset[str] = frozenset()


#: A100, H100 and B200.
DEVICES = {
    device.name: device
    for device in (
        Device("sm_80", (8, 0), 108, 166912),
        Device("sm_90", (9, 0), 132, 232448),
        Device("sm_100", (10, 0), 148, 232448),
    )
}


class Case(NamedTuple):
    """A layer whose kernel is looked at."""

    way: str  # forward, backward; general forward, general backward, product, sums
    cell: str = "lstm"
    H: int = 0
    N: int = 1
    D: int = 1
    all: bool = False  # ragged, resets, and forward for training
    precision: str = "ieee"
    dtype: str = "float32"

    def __str__(self) -> str:
        text = [self.way]
        if self.way not in ("product", "sums"):
            text.append(self.cell)
        if self.H:
            text.append(f"H={self.H} N={self.N} D={self.D}")
        text += [self.precision] * (self.precision != "ieee") + [self.dtype] * (self.dtype != "float32")
        return " ".join(text + ["all options"] * self.all)


#: Looked at on all of `DEVICES`.
EVERYWHERE = [
    Case("forward", H=64),
    Case("forward", H=512),
    Case("forward", H=1024),
    Case("forward", H=512, N=16),
    Case("forward", H=512, N=16, precision="tf32"),
    Case("backward", H=512),
    Case("general forward"),
    Case("product"),
]
#: Looked at on sm_90.
MORE = [
    Case("forward", "gru", H=64),
    Case("forward", H=256),
    Case("forward", H=512, D=2),
    Case("forward", H=512, all=True),
    Case("forward", H=512, N=4),
    Case("forward", "gru", H=512),
    Case("forward", "gru", H=1024),
    Case("forward", "rnn_tanh", H=512),
    Case("forward", H=512, N=16, all=True),
    Case("forward", H=512, N=64),
    Case("forward", H=1024, N=16),
    Case("forward", "gru", H=512, N=16),
    Case("backward", H=1024),
    Case("backward", H=512, N=4),
    Case("backward", H=512, all=True),
    Case("backward", "gru", H=512),
    Case("general forward", dtype="float64", all=True),
    Case("general backward"),
    Case("general backward", "gru", all=True),
    Case("product", dtype="float64"),
    Case("sums"),
]
ROWS = [(case, name) for case in EVERYWHERE for name in DEVICES] + [(case, "sm_90") for case in MORE]


def kernel_of(case: Case, architecture: str) -> Any:
    """The kernel that runs it there."""
    from fastrnn.backends import set_cuda_precision
    from fastrnn.cuda import choice, gemm, general, persistent
    from fastrnn.cuda.cell import device_cell

    set_cuda_precision(case.precision)
    spec, dtype, device = CELLS[case.cell], np.dtype(case.dtype), DEVICES[architecture]
    cell = device_cell(spec, dtype)
    options = {"ragged": case.all, "resets": case.all}
    if case.way == "product":
        return gemm._tiled(cell.number, 64, 16, 4)
    if case.way == "sums":
        return gemm._sums(cell.number, 32, 8)
    if case.way == "general forward":
        return general.forward(cell, 256, **options, keep=case.all, projection=False, aside=False)
    if case.way == "general backward":
        return general.backward(cell, 256, **options, has_dy=True, projection=False, aside=False)

    forward = case.way == "forward"
    find = choice.forward if forward else choice.backward
    module = find(spec, dtype, case.H, case.N, case.D, device, True)
    assert module is not None, f"{case} is left to the general path on {architecture}"
    options |= {"keep": case.all} if forward else {"has_dy": True}
    kernel, _ = persistent._planned(module, spec, case.H, case.N, case.D, device, case.precision, **options)
    return kernel


class Measured(NamedTuple):
    """Of a kernel on an architecture.

    Attributes
    ----------
    kernel : str
        Its module.
    registers : int
        Of a thread.
    spilled : int
        Bytes that are stored since there are no registers left, and loaded again.
    local : int
        Instructions on local memory: those, and arrays whose index the compiler does not know.
    wide : int
        Loads of 128 bits that the whole device sees.
    generic : int
        Loads and stores that find out at run time which memory they are for.
    tensor : int
        Instructions of tensor cores.
    """

    kernel: str
    registers: int
    spilled: int
    local: int
    wide: int
    generic: int
    tensor: int


@lru_cache
def tools() -> tuple[str, str] | None:
    """ptxas and nvdisasm of the wheels, None where something of `INSTALL` is not there."""
    if importlib.util.find_spec("numba_cuda") is None or (nvidia := importlib.util.find_spec("nvidia")) is None:
        return None
    for folder in nvidia.submodule_search_locations or ():
        found = [Path(folder) / "cu13" / "bin" / name for name in ("ptxas", "nvdisasm")]
        if all(path.is_file() for path in found):
            return str(found[0]), str(found[1])
    return None


def measure(case: Case, architecture: str) -> Measured:
    """Compile its kernel, with the tools."""
    from fastrnn.cuda import compiler

    found = tools()
    assert found is not None
    ptxas, nvdisasm = found
    kernel = kernel_of(case, architecture)
    _, code = compiler.ptx(kernel, DEVICES[architecture].capability)
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        source.write_bytes(code)
        log = _output(ptxas, "-v", f"-arch={architecture}", "-c", source, "-o", binary)
        text = _output(nvdisasm, "-c", binary)
    (registers,) = re.findall(r"Used (\d+) registers", log)
    spilled = re.findall(r"(\d+) bytes spill", log)
    operations = Counter(re.findall(r"^\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]+)", text, re.MULTILINE))

    def count(pattern: str) -> int:
        return sum(n for operation, n in operations.items() if re.match(pattern, operation))

    return Measured(
        kernel.function.__module__.rpartition(".")[2],
        int(registers),
        sum(map(int, spilled)),
        count(r"(LDL|STL)\b"),
        count(r"LDG\.E\.128\.STRONG\.GPU"),
        count(r"(LD|ST|ATOM|RED)\.E"),
        count(r"[HI]MMA\b"),
    )


def _output(*command: Any) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}:\n{done.stderr}")
    return done.stdout + done.stderr


def measure_all(rows: Iterable[tuple[Case, str]]) -> dict[str, Measured | str]:
    """By name of the row; where a kernel cannot be compiled, the error."""
    rows = list(rows)
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 8), mp_context=get_context("spawn")) as pool:
        return dict(zip(starmap(row_name, rows), pool.map(_measured, rows), strict=True))


def _measured(row: tuple[Case, str]) -> Measured | str:
    try:
        return measure(*row)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def row_name(case: Case, architecture: str) -> str:
    return f"{architecture} {case}"


def expected() -> dict[str, Measured]:
    return {name: Measured(*values) for name, values in json.loads(EXPECTED.read_text()).items()}


def markdown(table: Mapping[str, Measured]) -> str:
    """The table; numbers that are 0 in all rows of it are left out."""
    shown = [i for i, field in enumerate(Measured._fields) if field == "kernel" or any(m[i] for m in table.values())]
    heads = ["on", "what", *(Measured._fields[i] for i in shown)]
    lines = [heads, ["---", "---", "---", *("---:" for _ in shown[1:])]]
    lines += [[*name.split(" ", 1), *(str(m[i]) for i in shown)] for name, m in table.items()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main(arguments: list[str]) -> int:
    if "--install" in arguments:
        print(*INSTALL, sep="\n")
        return 0
    if tools() is None:
        print("The tools are missing:", *INSTALL, sep="\n", file=sys.stderr)
        return 1
    words = [a for a in arguments if a != "--write"]
    table = measure_all(row for row in ROWS if all(word in f"{row_name(*row)} " for word in words))
    errors = {name: m for name, m in table.items() if isinstance(m, str)}
    measured = {name: m for name, m in table.items() if isinstance(m, Measured)}
    print(markdown(measured))
    for name, error in errors.items():
        print(f"{name}: {error}", file=sys.stderr)
    if "--write" in arguments and not errors:
        lines = (
            f"  {json.dumps(name)}: {json.dumps(m)}" for name, m in ((expected() if words else {}) | measured).items()
        )
        EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
