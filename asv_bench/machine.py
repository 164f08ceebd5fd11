"""What the figures were taken on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from functions import worst_ulp

from fastrnn.config import processor

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
PACKAGES = ("fastrnn", "numpy", "torch", "onnxruntime", "openvino", "jax")
VECTORS = ("avx512f", "avx512_bf16", "amx_tile", "avx2", "fma", "asimd", "sve")  # as /proc/cpuinfo names them


def machine() -> dict[str, Any]:
    """Processor, caches, instruction sets, versions."""
    return {
        "processor": processor(),
        "processors": os.cpu_count(),
        "caches": caches(),
        "vectors": vectors(),
        "kernels": kernels(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
        "load": load(),
        "ulp": worst_ulp(),
    }


def line(found: dict[str, Any]) -> str:
    """One line for people."""
    sizes = ", ".join(f"{name} {size >> 10:,} KiB" for name, size in found["caches"].items())
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['processor']}, {found['processors']} processors, {sizes or 'caches unknown'}, "
        f"{' '.join(found['vectors'])}; fastrnn runs its {found['kernels']} kernels; "
        f"Python {found['python']}, {versions}"
    )


def caches() -> dict[str, int]:
    """Bytes of L1, L2 and L3 as one processor sees them; nothing where the system does not say."""
    sizes = {}
    for index in sorted(CACHES.glob("index*")):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction" and size.endswith("K"):
            sizes[f"L{level}"] = int(size[:-1]) << 10
    return sizes


def vectors() -> list[str]:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in VECTORS if name in words]


def kernels() -> str:
    try:
        from fastrnn.backends.cython import ISA
    except ImportError:
        return "no"
    return ISA


def versions() -> dict[str, str]:
    found = {"numpy": np.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Processes that want a processor, mean of the last minute: figures taken on a busy machine are disturbed."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else float("nan")
