"""What `import fastrnn` costs beside `import numpy`, each in a fresh process, and how large a wheel is."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from pathlib import Path
from statistics import median

import fastrnn

REPEAT = 7
# VmHWM and not getrusage: that one starts from what the parent process had.
MEASURE = """
import time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began)
try:
    words = open("/proc/self/status").read().split()
    print(int(words[words.index("VmHWM:") + 1]) / 1e3)
except OSError:
    print("nan")
"""
NOT_SHIPPED = {".c", ".h", ".pyx", ".pxi", ".pyc"}


def seconds_and_megabytes() -> dict[str, tuple[float, float]]:
    """Medians for numpy and fastrnn, taken in turn."""
    runs: dict[str, list[list[str]]] = {"numpy": [], "fastrnn": []}
    for _ in range(REPEAT):
        for module, results in runs.items():
            command = [sys.executable, "-c", MEASURE.format(module=module)]
            results.append(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    return {
        module: (median(float(seconds) for seconds, _ in results), median(float(mb) for _, mb in results))
        for module, results in runs.items()
    }


def track_import_time() -> float:
    figures = seconds_and_megabytes()
    return figures["fastrnn"][0] / figures["numpy"][0]


track_import_time.unit = "times numpy's"  # type: ignore[attr-defined]


def track_import_memory() -> float:
    figures = seconds_and_megabytes()
    return figures["fastrnn"][1] - figures["numpy"][1]


track_import_memory.unit = "MB over numpy's"  # type: ignore[attr-defined]


def track_wheel_size() -> float:
    """The package's files, compressed as in a wheel."""
    folder = Path(fastrnn.__file__).parent
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.suffix not in NOT_SHIPPED:
                wheel.write(path, path.relative_to(folder))
    return len(buffer.getvalue()) / 1e6


track_wheel_size.unit = "MB"  # type: ignore[attr-defined]
