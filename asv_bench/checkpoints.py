"""Loading checkpoints beside torch.load and safetensors' own loader: time, and the memory that a file of 2 GB takes.

  python asv_bench/checkpoints.py           # one core, 3 GB of disk; --quick: small files, that only show that it works

Files are read once before they are timed. Import is left out, and all loaders take turns. Of many tensors it is the
processor's time that is shown, which a busy machine disturbs less: nothing waits for the disk.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from compare import prepare_process
from tables import print_table

import fastrnn
from fastrnn.cli.engines import imported
from fastrnn.cli.timing import NAP

Load = Callable[[Path], Any]
LIBRARY, MAPPED = "library", "library, mapped"
FASTRNN: dict[str, Load] = {"fastrnn": fastrnn.load, "check_crc=False": partial(fastrnn.load, check_crc=False)}
# VmHWM and not getrusage: that one starts from what the parent process had. What is imported late is imported before.
_MEASURE = """
import sys, time, {imports}
def status():
    words = open("/proc/self/status").read().split()
    return int(words[words.index("VmHWM:") + 1]) / 1e3
state = {small}
before, began = status(), time.perf_counter()
state = {large}
print(time.perf_counter() - began, status() - before)
"""
_OURS = "fastrnn.find_layers(fastrnn.load({path!r}, check_crc=%s))"
_TORCH = "[tensor.numpy() for tensor in torch.load({path!r}, mmap=%s).values()]"
_LARGE = {
    "fastrnn": ("fastrnn", _OURS % True),
    "fastrnn, check_crc=False": ("fastrnn", _OURS % False),
    "torch": ("torch", _TORCH % False),
    "torch, mapped": ("torch", _TORCH % True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small files, that only show that it works")
    parser.add_argument("--repeat", type=int, default=21, help="calls of each loader (default: 21)")
    args = parser.parse_args()
    prepare_process(threads=1)
    shrink = 100 if args.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        print("Milliseconds to load, and to load and copy every array:\n")
        print_table(list(timed(Path(folder), shrink, args.repeat)))
        print("\nOne large file, each line in fresh processes:\n")
        print_table(large_file(Path(folder), 2_000_000_000 // shrink, max(3, args.repeat // 3)))


# Many tensors


def timed(folder: Path, shrink: int, repeat: int) -> Any:
    for n, megabytes in ((300, 100), (10_000, 40)):
        arrays = tensors(n, megabytes * 1_000_000 // shrink)
        for kind, (path, peers) in files(folder, arrays).items():
            loaders = FASTRNN | peers
            for used in (False, True):
                ms = milliseconds({name: using(load) if used else load for name, load in loaders.items()}, path, repeat)
                yield {
                    "file": f"{n:,} tensors, {megabytes / shrink:g} MB, {kind}{', copied' * used}",
                    **{name: f"{ms[name]:.1f}" if name in ms else "" for name in (*FASTRNN, LIBRARY, MAPPED)},
                    **{f"{LIBRARY} / {name}": f"{ms[LIBRARY] / ms[name]:.2f}" for name in FASTRNN},
                }
            path.unlink()


def tensors(n: int, n_bytes: int) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {f"layers.{i}.weight": rng.standard_normal((16, n_bytes // n // 64), np.float32) for i in range(n)}


def files(folder: Path, arrays: dict[str, Any]) -> dict[str, tuple[Path, dict[str, Load]]]:
    """What the formats' own libraries write of `arrays`, and how they load it into NumPy arrays."""
    torch, safetensors = imported("torch"), imported("safetensors.numpy")
    state = {name: torch.from_numpy(array) for name, array in arrays.items()}
    zipped, stream, plain = (folder / name for name in ("zip.pt", "stream.pt", "plain.safetensors"))
    torch.save(state, zipped)
    torch.save(state, stream, _use_new_zipfile_serialization=False)
    safetensors.save_file(arrays, plain)

    def load(path: Path, **options: Any) -> dict[str, Any]:
        return {name: tensor.numpy() for name, tensor in torch.load(path, weights_only=True, **options).items()}

    return {
        "zip": (zipped, {LIBRARY: load, MAPPED: lambda path: load(path, mmap=True)}),
        "legacy": (stream, {LIBRARY: load}),
        "safetensors": (plain, {LIBRARY: safetensors.load_file}),
    }


def using(load: Load) -> Load:
    return lambda path: [np.array(array) for array in load(path).values()]


def milliseconds(loaders: dict[str, Load], path: Path, repeat: int) -> dict[str, float]:
    """Medians, all in turn; each begins after a nap, with no garbage of the one before."""
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(1 + repeat):
        for name, load in loaders.items():
            gc.collect()
            time.sleep(NAP)
            began = time.process_time()
            result = load(path)
            seconds[name].append(time.process_time() - began)
            del result
    return {name: 1e3 * median(values[1:]) for name, values in seconds.items()}


# One large file


def large_file(folder: Path, n_bytes: int, repeat: int) -> list[dict[str, str]]:
    path, small = folder / "large.pt", folder / "small.pt"
    layer = fastrnn.LSTM(8, 8, rng=0).state_dict()
    n = n_bytes // 60 // 4
    fastrnn.save({f"layers.{i}.weight": np.ones(n, np.float32) for i in range(60)} | layer, path)
    fastrnn.save(layer, small)
    commands = {"fastrnn inspect (whole process)": [sys.executable, "-m", "fastrnn", "inspect", str(path)]}
    for name, (module, code) in _LARGE.items():
        loads = {"small": code.format(path=str(small)), "large": code.format(path=str(path))}
        script = _MEASURE.format(imports=module, **loads)
        commands[name] = [sys.executable, "-c", script]
    figures: dict[str, list[list[float]]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, command in commands.items():
            began = time.perf_counter()
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            whole = time.perf_counter() - began
            figures[name].append([whole, np.nan] if "-m" in command else [*map(float, output.split())])
    rows = []
    for name, runs in figures.items():
        seconds, megabytes = map(median, zip(*runs, strict=True))
        rows.append({"loader": name, "seconds": f"{seconds:.3f}", "memory, MB": f"{megabytes:.1f}"})
    return rows


if __name__ == "__main__":
    main()
