"""Compiles every kernel that the GPU check launches, and calls all that leads to it, without a GPU.

``python tests/gpu/dry.py --quick --only A,C`` goes through the check's layers with a device that has no memory and runs
nothing: kernels are compiled to PTX, launches are checked for the number and the kind of their arguments. What Numba
cannot compile, and what the host's side does wrong, shows. The PTX is kept where the engine looks for it
(FASTRNN_CUDA_CACHE), for a machine with a GPU and the same versions of Python and of packages.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastrnn.cli.gpu import items, parity
from fastrnn.cli.gpu.paths import Path
from fastrnn.cli.gpu.times import TORCH
from fastrnn.cli.gpu.worker import NotHere
from fastrnn.cuda import compiler, cublas, hops, runtime

T = 3


class Driver:
    """See `fastrnn.cuda.runtime.Driver`. Addresses are of no memory."""

    name, simulated = "no GPU", False

    def __init__(self, capability: tuple[int, int], multiprocessors: int, shared: int) -> None:
        self.capability, self.multiprocessors, self.shared_per_block = capability, multiprocessors, shared
        self.kernels: dict[Any, int] = {}
        self._next = 1 << 30

    def enter(self) -> None: ...
    def leave(self) -> None: ...
    def wait(self, stream: Any) -> None: ...
    def stream(self, handle: int) -> None: ...
    def put(self, stream: Any, to: int, array: Any) -> None: ...
    def move(self, stream: Any, to: int, pointer: int, nbytes: int) -> None: ...
    def fill(self, stream: Any, to: int, byte: int, nbytes: int) -> None: ...

    def get(self, stream: Any, array: Any, pointer: int) -> None:
        array.fill(0)

    def allocate(self, stream: Any, size: int, dtype: Any) -> tuple[Any, int]:
        address = self._next
        self._next += -(-size * dtype.itemsize // 256) * 256
        return None, address

    def pinned(self, size: int, dtype: Any) -> Any:
        return np.zeros(size, dtype)

    def launcher(self, stream: Any, kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        began = time.monotonic()
        if kernel not in self.kernels:
            compiler.ptx(kernel, self.capability)
            self.kernels[kernel] = round(time.monotonic() - began, 2)
        assert all(0 < n <= limit for n, limit in zip(grid, (2**31 - 1, 65535, 65535), strict=False)), grid
        assert kernel.threads <= 1024
        assert not kernel.cooperative or np.prod(grid) <= 32 * self.multiprocessors

        def launch(*arguments: Any) -> None:
            for letter, a in zip(kernel.parameters, arguments, strict=True):
                assert isinstance(a, int | np.integer), f"{letter}: {a!r}"
                assert letter == "n" or 1 << 30 <= a < self._next, f"{letter}: {a:#x}"

        return launch


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", help="paths, as in A,C")
    parser.add_argument("--capability", default="9.0")
    parser.add_argument("--multiprocessors", type=int, default=132)
    parser.add_argument("--shared", type=int, default=227 * 1024)
    args = parser.parse_args()
    warnings.filterwarnings("error", "fastrnn is slower", RuntimeWarning)
    major, minor = map(int, args.capability.split("."))
    driver = Driver((major, minor), args.multiprocessors, args.shared)
    runtime._module = lambda: SimpleNamespace(count=lambda: 1, Driver=lambda index: driver)
    cublas._library = lambda: None
    unset = dict.fromkeys(("cell", "batch", "hidden", "steps"))
    options = argparse.Namespace(**unset, quick=args.quick, alone=True)
    failed = 0
    cases = [item.arguments[0] for item in items.items_of("parity", options) if item.run is parity.run]
    for timed in items.all_timed(options):
        if timed.engine not in TORCH:
            problem = timed.problem
            cases.append(parity.Case(timed.engine, problem.cell, problem.N, problem.H, options=("plain",)))
    for case in dict.fromkeys(cases):
        if args.only and case.path.split()[0] not in args.only.split(","):
            continue
        known = len(driver.kernels)
        began, what = time.monotonic(), "all compiled"
        try:
            layer = parity.layer_of(case).to("cuda")
            path = Path(case.path, layer, case.N)
            parity.arrays(layer, parity.call_of(case, layer, T), case, path.forth, path.back)
            what = path.ran
        except NotHere as reason:
            what = f"n/a: {reason}"
        except Exception as error:
            failed += 1
            what = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        new = len(driver.kernels) - known
        seconds = time.monotonic() - began
        name = f"{case.path} {case.cell} N={case.N} H={case.H} D={case.D} {case.dtype} {' '.join(case.options)}"
        print(f"{name:<60} {what}; {new} new kernels, {seconds:.1f} s", flush=True)
    for kernel in (
        hops.relaxed(),
        hops.release(),
        hops.barrier(args.multiprocessors),
        hops.exchange(args.multiprocessors),
    ):
        compiler.ptx(kernel, driver.capability)
    print(f"{len(driver.kernels)} kernels, {failed} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
