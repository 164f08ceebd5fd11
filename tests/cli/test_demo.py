"""The demo: what it shows, and that it sees a disagreement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import fastrnn

VERSE = [
    "Shall I compare thee more shall despise;",
    "When love hath the better than her heart's beauty,",
    "Which shall be that heaven thee in thee,",
    "And for the beauty shall live, which not that thee,",
]


def test_demo(cli):
    status, out, err = cli("demo")
    assert (status, err) == (0, "")
    assert "HELLO WORLD" in out
    assert out.count("right") == 2
    assert "WRONG" not in out
    assert "154,093 parameters" in out
    assert out.endswith("\n  ".join(["", *VERSE]) + "\n")


def test_demo_json(cli):
    status, out, _ = cli("demo", "--all", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures["ok"]
    assert {"reference", "cython"} <= {row["backend"] for row in figures["backends"]}
    assert all(0 < row["absolute"] <= row["allowed"] < 1e-4 and row["us_per_step"] > 0 for row in figures["backends"])
    assert "HELLO WORLD" in figures["messages"]
    assert figures["verse"] == VERSE


def test_demo_reports_disagreement(cli, folder, monkeypatch):
    from fastrnn.cli import demo

    golden = fastrnn.load(demo.DATA / "demo_golden.npz")
    np.savez("demo_golden.npz", **{**golden, "h_n": golden["h_n"] + np.float32(1e-4)})
    for name in ("demo.pt", "writer.pt"):
        Path(name).write_bytes((demo.DATA / name).read_bytes())
    monkeypatch.setattr(demo, "DATA", folder)
    status, out, _ = cli("demo")
    assert status == 1
    assert out.count("WRONG") == 2
    status, out, _ = cli("demo", "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


@pytest.mark.parametrize("backend", ["reference", "cython"])
def test_verse_is_what_the_whole_model_finds_likely(backend):
    """The same lines on every backend; and read in one call, the model expects most of what it wrote."""
    from fastrnn.cli import demo

    writer = fastrnn.load(demo.DATA / "writer.pt")
    state, alphabet = writer["state_dict"], writer["alphabet"]
    with fastrnn.use_backend(backend):
        assert demo.write(state, alphabet) == VERSE
    embed, head = fastrnn.Embedding(len(alphabet), 48), fastrnn.Linear(192, len(alphabet))
    net = fastrnn.Sequential({"embed": embed, "rnn": fastrnn.GRU(48, 192), "head": head})
    net.load_state_dict(state)
    tokens = np.array([alphabet.index(c) for c in "\n".join(VERSE)])
    assert (net(tokens[:-1]).argmax(-1) == tokens[1:]).mean() > 0.6


def test_demo_data_is_small():
    from fastrnn.cli import demo

    assert sum(path.stat().st_size for path in demo.DATA.iterdir()) < 550_000
