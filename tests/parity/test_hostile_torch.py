"""Hostile and damaged files: what the table in the documentation says of them, and what torch reads."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoint"))

import compare_hostile
from crafted import contents, strict_load
from hostile import READ, cases
from test_broken_files import FILES

from fastrnn import CheckpointError

torch = pytest.importorskip("torch")


def test_the_table_says_what_fastrnn_does():
    """That each file has the outcome that is expected of it, test_attacks.py and test_greedy_files.py show."""
    expected = {name: "read, inert" if reason is READ else "refused" for name, (_, reason) in cases().items()}
    said = compare_hostile.written()
    assert said.keys() == set(map(compare_hostile.by_number, expected))
    for name, outcome in expected.items():
        assert said[compare_hostile.by_number(name)][1] == outcome, name


def test_the_table_says_what_torch_does(full, tmp_path, monkeypatch):
    """Of the attacks that run code and those on archives; all groups take minutes. The table is of torch 2.13."""
    monkeypatch.chdir(tmp_path)
    said = compare_hostile.written()
    for name, (theirs, _) in compare_hostile.compare(tmp_path, *([] if full else ["14"])).items():
        known = said[compare_hostile.by_number(name)][0]
        assert compare_hostile.plain(theirs) == compare_hostile.plain(known), name


def contents_of_torch(value):
    """The same as `contents`, of what torch has read."""
    if isinstance(value, torch.Tensor):
        return contents(value.detach().resolve_conj().resolve_neg().numpy())
    if isinstance(value, dict):
        return "dict", [(contents(key), contents_of_torch(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value).__name__, list(map(contents_of_torch, value))
    return contents(value)


@pytest.mark.parametrize("kind", ["torch, without checksums", "stream"])
def test_damaged_files_that_torch_reads_too_are_read_alike(kind):
    """Every byte changed: what the bytes say, where there is no checksum."""
    content, both = FILES[kind].content, 0
    for position in range(len(content)):
        for change in (1, 4, 16, 128):
            damaged = bytearray(content)
            damaged[position] ^= change
            try:
                ours = contents(strict_load(bytes(damaged)))
            except CheckpointError:
                continue
            try:
                theirs = torch.load(io.BytesIO(damaged), weights_only=True)
            except Exception:  # torch has many
                continue
            assert ours == contents_of_torch(theirs), (position, change)
            both += 1
    assert both > 100
