"""What torch.load(weights_only=True) does with the hostile files of the tests, beside what fastrnn does. Needs torch.

    python tests/parity/compare_hostile.py          # prints the tables
    python tests/parity/compare_hostile.py --write  # writes them into docs/checkpoints.md

Each file is read in a process of its own, with at most 4 GB more memory and 10 seconds of the processor's time.
"""

from __future__ import annotations

import os
import pickle
import re
import resource
import sys
import tempfile
import warnings
from collections import Counter, defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoint"))

from crafted import strict_load
from hostile import CANARY, cases
from make_hostile import memory, write

from fastrnn import CheckpointError

DOCUMENT = Path(__file__).parents[2] / "docs" / "checkpoints.md"
BEGIN, END = "<!-- hostile files: by compare_hostile.py -->", "<!-- end of hostile files -->"
MEMORY, SECONDS = 4 << 30, 10
LARGE = 100_000  # kB that are worth a remark
FOREIGN = ("npz", "safetensors", "onnx")  # formats that torch.load does not claim to read
GROUPS = {
    "1": "code execution",
    "2": "layouts",
    "3": "giants over a few bytes",
    "4": "archives",
    "5": "time and memory",
    "6": "broken",
    "7": "byte orders, bools, NaNs, polyglots",
    "8": "what others read without a guard",
}


def fastrnns_verdict(path: Path) -> str:
    try:
        strict_load(path)
    except CheckpointError:
        return "refused"
    return "read, inert"


def torchs_verdict(path: Path) -> str:
    import torch

    before = memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the peak begins anew
    try:
        torch.load(path, weights_only=True)
        verdict = "read"
    except (RuntimeError, pickle.UnpicklingError) as error:
        verdict = "out of memory" if "allocate" in str(error) else "refused"
    except Exception as error:
        verdict = f"{type(error).__name__}"
    growth = memory("VmHWM") - before
    return f"{verdict}, {growth / 1000:.0f} MB" if growth > LARGE else verdict


def in_child(verdict_of, path: Path) -> str:
    """The verdict from a process that may crash, hang or eat up memory."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        size = memory("VmSize") * 1024 + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (size, size))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            os.write(writing, verdict_of(path).encode())
        except MemoryError:
            os.write(writing, b"MemoryError")
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        verdict = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"more than {SECONDS} s" if os.WTERMSIG(status) in (24, 9) else f"crash, signal {os.WTERMSIG(status)}"
    return verdict or "ended the process"


def compare(folder: Path, groups: str = "".join(GROUPS)) -> dict[str, tuple[str, str]]:
    """torch's and fastrnn's verdict on each file of these groups."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    paths, verdicts = [path for path in write(folder) if path.parent.name[0] in groups], {}
    work = folder / "work"
    work.mkdir()
    os.chdir(work)
    for path in paths:
        name = f"{path.parent.name}/{path.name}"
        theirs = "-" if path.name.startswith(FOREIGN) else in_child(torchs_verdict, path)
        if (work / CANARY).exists():
            theirs = "RUN"
            (work / CANARY).unlink()
        verdicts[name] = theirs, in_child(fastrnns_verdict, path)
        assert not list(work.iterdir()), name
    return verdicts


def plain(verdict: str) -> str:
    """Without the exact figure, which is another one each time."""
    return verdict.partition(",")[0]


def table(verdicts: dict[str, tuple[str, str]]) -> str:
    """A row for each pair of verdicts in a group, with the names of the files."""
    rows = defaultdict(list)
    for name, (theirs, ours) in verdicts.items():
        group, _, file = name.partition("/")
        rows[group[0], theirs, ours].append(file)
    lines = ["| group | torch.load | fastrnn.load | files |", "|---|---|---|---|"]
    for (group, theirs, ours), files in sorted(rows.items()):
        lines.append(f"| {group} | {theirs} | {ours} | {len(files)}: {'; '.join(sorted(files))} |")
    return "\n".join(lines)


def summary(verdicts: dict[str, tuple[str, str]]) -> str:
    """A row for each group, with numbers of files."""
    lines = ["| group | files | `torch.load(weights_only=True)` | `fastrnn.load` |", "|---|---|---|---|"]
    for group, title in GROUPS.items():
        pairs = [pair for name, pair in verdicts.items() if name[0] == group]
        counts = [Counter(map(plain, column)).most_common() for column in zip(*pairs, strict=True)]
        cells = [", ".join(f"{n} {what}" for what, n in column if what != "-") for column in counts]
        lines.append(f"| {group}. {title} | {len(pairs)} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def written() -> dict[str, tuple[str, str]]:
    """The verdicts that stand in the document."""
    verdicts = {}
    part = DOCUMENT.read_text("utf-8").partition(BEGIN)[2].partition(END)[0]
    for group, theirs, ours, files in re.findall(r"^\| (\d) \| (.+?) \| (.+?) \| \d+: (.+) \|$", part, re.MULTILINE):
        verdicts |= {f"{group}/{name}": (theirs, ours) for name in files.split("; ")}
    return verdicts


def by_number(name: str) -> str:
    """A file's name with the number of its group alone."""
    return name[0] + "/" + name.partition("/")[2]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        verdicts = compare(Path(folder))
        os.chdir(DOCUMENT.parent)
    assert verdicts.keys() == cases().keys()
    details = "<details><summary>Each file</summary>\n\n" + table(verdicts) + "\n\n</details>\n"
    tables = f"{summary(verdicts)}\n\n{details}"
    if "--write" in sys.argv:
        before, _, rest = DOCUMENT.read_text("utf-8").partition(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{tables}{END}{rest.partition(END)[2]}", "utf-8")
    print(tables)


if __name__ == "__main__":
    main()
