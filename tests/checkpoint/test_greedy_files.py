"""Hostile files, group 5: those that ask for time or memory; what all of them cost; and the limits that say so."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path

import pytest
from crafted import (
    bomb,
    contents,
    numbers,
    peak_growth,
    pickled,
    refuse,
    storage,
    strict_load,
    tensor,
    text,
    torch_zip,
    with_tensor,
)
from hostile import READ, cases, content_of
from test_broken_files import FILES

import fastrnn


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """What comes of each hostile file in one fresh process, and by how many kB its peak memory grows over all."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, case in cases().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content_of(case))
    script = """
import json, sys
sys.path.insert(0, sys.argv[1])
from crafted import CHECKPOINTS, strict_load
from fastrnn import CheckpointError
from pathlib import Path
for path in CHECKPOINTS.iterdir():
    strict_load(path)
folder, messages = Path(sys.argv[2]), {}
---
for path in folder.glob("*/*"):
    try:
        strict_load(path)
        message = None
    except CheckpointError as error:
        message = str(error)
    messages[str(path.relative_to(folder))] = message
(folder / "messages").write_text(json.dumps(messages))
"""
    growth = peak_growth(script, str(Path(__file__).parent), str(folder))
    return json.loads((folder / "messages").read_text()), growth


@pytest.mark.parametrize("name", [name for name in cases() if name.startswith("5")])
def test_pickle_resources(name, outcome):
    message, reason = outcome[0][name], cases()[name][1]
    assert message is None if reason is READ else re.search(reason, message)


def test_hostile_files_stay_small(outcome):
    """All of them in one process."""
    assert outcome[0].keys() == cases().keys()
    assert outcome[1] < 100_000


def test_a_huge_memo_index_costs_nothing():
    assert strict_load(torch_zip(pickled(b"Nr\xff\xff\xff\xff"))) is None


def test_the_limits_are_arguments():
    deep = pickled(b"]" * 300 + b"a" * 299)
    refuse(torch_zip(deep), "max_depth=256")
    assert strict_load(torch_zip(deep), max_depth=299)
    refuse(torch_zip(deep), "max_depth", max_depth=298)  # the innermost is empty
    refuse(torch_zip(deep), "max_ops", max_ops=500)
    refuse(torch_zip(pickled(text("x" * 200_000))), "max_bytes", max_bytes=100_000)
    content = bomb(200 << 20)
    refuse(content, "max_bytes")
    refuse(content, "max_bytes", max_bytes=100 << 20)


@pytest.mark.parametrize("kind", FILES)
def test_the_limits_are_for_every_format(kind):
    content = FILES[kind].content
    refuse(content, "max_bytes", max_bytes=8)
    if kind != "npz":
        refuse(content, "max_ops", max_ops=3)
    if kind not in ("npz", "safetensors", "ONNX"):
        refuse(content, "max_depth|max_ops", max_depth=1, max_ops=150)
    assert contents(strict_load(content, max_bytes=5000, max_ops=1500, max_depth=10)) == contents(strict_load(content))


@pytest.mark.parametrize("limit", ["max_bytes", "max_ops", "max_depth"])
def test_limits_are_checked(limit):
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)):
        with pytest.raises(error, match=limit):
            fastrnn.load(with_tensor(), **{limit: wrong})


def test_packed_zeros_are_no_bomb_within_the_limit_that_is_asked_for():
    size = 80 << 20
    layout = {"size": numbers(size // 4), "stride": numbers(1)}
    one = pickled(tensor(storage(numel=size // 4), **layout))
    content = torch_zip(one, {"0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    refuse(content, "max_bytes")
    assert strict_load(content, max_bytes=size).nbytes == size
