"""What to paste into an issue."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from .backends import backends, flush_denormals
from .errors import BackendError
from .threads import get_num_threads


def show_config() -> None:
    """Print versions, processor, instruction set, threads and backends."""
    print(f"fastrnn   {version('fastrnn')}")
    print(f"python    {sys.version.split()[0]} ({platform.python_implementation()}), {platform.platform()}")
    for package in ("numpy", "ml_dtypes", "safetensors", "numba", "numba-cuda"):
        try:
            print(f"{package:<9} {version(package)}")
        except PackageNotFoundError:
            print(f"{package:<9} not installed")
    print(f"processor {processor()}, {os.cpu_count()} logical")
    try:
        from .backends import cython

        print(f"kernels   {cython.ISA}; this processor also runs {', '.join(cython.instruction_sets())}")
    except (ImportError, BackendError) as error:
        print(f"kernels   none: {error}")
    print(f"threads   {get_num_threads()}; denormals {'flushed' if flush_denormals() else 'kept'} in kernels")
    for info in backends():
        print(f"backend   {info.name}: {'available' if info.available else info.why_not}{loops(info.name)}")
    settings = {name: value for name, value in os.environ.items() if name.startswith("FASTRNN_")}
    print(f"settings  {settings or 'none in the environment'}")


def loops(name: str) -> str:
    """Which loops the backend numba has, where it is available."""
    if name != "numba":
        return ""
    try:
        from .jit.choice import LANES, WHY_NO_LANES
    except ImportError:
        return ""
    if not LANES:
        return f", plain loops ({WHY_NO_LANES})"
    from .jit.lanes import BYTES

    return f", vectors of {BYTES} bytes"


def processor() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
