"""A fuzzer for `fastrnn.load`, guided by coverage. Needs atheris (Linux and macOS): see CONTRIBUTING.md.

    python tests/fuzz_checkpoint.py FOLDER -max_total_time=600

FOLDER gets what has been found to reach new code, and is where the next run goes on; what follows are libFuzzer's own
options. The first run starts from the golden checkpoints and the hostile files of the tests. A finding is written to
``crash-...`` in the working folder, and is run again by giving its path in place of FOLDER.
"""

from __future__ import annotations

import io
import random
import resource
import sys
import tarfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "checkpoint"))

with atheris.instrument_imports(include=["fastrnn.checkpoint", "fastrnn.interop"]):
    from crafted import CHECKPOINTS, archive, contents, strict_load, tar
    from hostile import cases, content_of

    from fastrnn import CheckpointError, find_layers

LARGEST = 20_000  # bytes of an input
SECONDS, KILOBYTES = 1.0, 100_000  # CPU time and memory that one may take
LIMITS = {"max_bytes": 1 << 22, "max_ops": LARGEST}


def peak() -> int:
    """In kB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)


def try_one(content: bytes) -> None:
    """Read it without checksums, which few changed files would pass: plain data, every byte of which is there, or a
    CheckpointError. With checksums, then, the same data or a CheckpointError.
    """
    before, start = peak(), time.process_time()
    try:
        value = strict_load(content, check_crc=False, **LIMITS)
    except CheckpointError:
        value = None
    seconds, kilobytes = time.process_time() - start, peak() - before
    if seconds > SECONDS or kilobytes > KILOBYTES:
        raise RuntimeError(f"took {seconds:.2f} s and {kilobytes / 1000:.0f} MB")
    if value is None:
        return
    found = contents(value)
    with suppress(CheckpointError):
        if not isinstance(value, str):  # that would be a path
            find_layers(value)
    try:
        again = strict_load(content, **LIMITS)
    except CheckpointError:
        return
    if contents(again) != found:
        raise RuntimeError("reads other data when checksums are looked at")


def change(content: bytes, max_size: int, seed: int) -> bytes:
    """A change of the file; or of a file in an archive, whose sizes and checksums stay right."""
    choice = random.Random(seed)
    try:
        if content[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(content)) as file:
                entries = {info.filename: _raw(content, info) for info in file.infolist()}
            pack = lambda: archive(entries.items())  # noqa: E731
        elif content[257:262] == b"ustar":
            with tarfile.open(fileobj=io.BytesIO(content)) as file:
                entries = {info.name: file.extractfile(info).read() for info in file if info.isfile()}
            pack = lambda: tar(entries)  # noqa: E731
        else:
            return atheris.Mutate(content, max_size)
        name = choice.choice(list(entries))
        if choice.random() < 0.3:
            raise ValueError("the archive itself")
        entries[name] = atheris.Mutate(entries[name], max(1, max_size - len(content)) + len(entries[name]))
        return pack()[:max_size]
    except Exception:  # no whole archive
        return atheris.Mutate(content, max_size)


def _raw(content: bytes, info: zipfile.ZipInfo) -> bytes:
    """What is stored for an entry, without a look at its checksum."""
    start = info.header_offset + 30
    start += sum(int.from_bytes(content[at : at + 2], "little") for at in (start - 4, start - 2))
    return content[start : start + info.compress_size]


def write_seeds(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    files = {path.name: path.read_bytes() for path in CHECKPOINTS.iterdir()}
    files |= {name.replace("/", "_"): content_of(case) for name, case in cases().items()}
    for name, content in files.items():
        if len(content) <= LARGEST:
            (folder / name).write_bytes(content)


def main() -> None:
    folders = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    if not folders:
        raise SystemExit(__doc__)
    if not folders[0].is_file() and not any(folders[0].glob("*")):
        write_seeds(folders[0])
    atheris.Setup([*sys.argv, f"-max_len={LARGEST}"], try_one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
