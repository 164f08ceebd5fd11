"""Writes the hostile files that the tests use, one folder for each group of the attack list. The same files every time.

    python tests/make_hostile.py FOLDER
    python tests/make_hostile.py FOLDER --measure

The second also reads each file with fastrnn, in a process of its own, and prints the slowest and the greediest.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "checkpoint"))

from crafted import CHECKPOINTS
from hostile import cases, content_of


def write(folder: Path) -> list[Path]:
    paths = []
    for name, case in cases().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content_of(case))
        paths.append(path)
    return paths


def memory(field: str) -> int:
    """In kB: VmRSS, now; VmHWM, at its peak."""
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(field)).split()[1])


def measure(path: Path) -> tuple[float, int, str]:
    """CPU seconds, kB by which the memory grows at its peak, and what comes of it."""
    import fastrnn

    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    before, start = memory("VmRSS"), time.process_time()
    try:
        fastrnn.load(path)
        outcome = "read"
    except fastrnn.CheckpointError:
        outcome = "refused"
    except Exception as error:
        outcome = type(error).__name__
    return time.process_time() - start, memory("VmHWM") - before, outcome


def in_child(path: Path) -> tuple[float, int, str]:
    reading, writing = os.pipe()
    if not os.fork():
        os.write(writing, " ".join(map(str, measure(path))).encode())
        os._exit(0)
    os.wait()
    os.close(writing)
    with open(reading) as answer:
        seconds, kilobytes, outcome = (answer.read() or "0 0 ended").split(maxsplit=2)
    return float(seconds), int(kilobytes), outcome


def report(paths: list[Path]) -> None:
    import fastrnn

    for path in CHECKPOINTS.iterdir():  # what is imported when it is first needed would count as the first file's
        fastrnn.load(path)
    results = [(*in_child(path), f"{path.parent.name}/{path.name}") for path in paths]
    for key, what in ((0, "slowest"), (1, "greediest")):
        print(f"\nThe {what} of {len(results)}:")
        for seconds, kilobytes, outcome, name in sorted(results, key=lambda row: row[key])[:-11:-1]:
            print(f"{seconds:6.2f} s {kilobytes / 1000:8.1f} MB  {outcome:8} {name}")
    print({outcome: sum(row[2] == outcome for row in results) for outcome in {row[2] for row in results}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--measure", action="store_true")
    arguments = parser.parse_args()
    paths = write(arguments.folder)
    if arguments.measure:
        report(paths)


if __name__ == "__main__":
    main()
