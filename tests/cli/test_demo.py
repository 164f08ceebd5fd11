"""The demo: what it shows, and that it sees a disagreement."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import fastrnn


def test_demo(cli):
    status, out, err = cli("demo")
    assert (status, err) == (0, "")
    assert "HELLO WORLD" in out
    assert out.count("right") == 2
    assert "WRONG" not in out


def test_demo_json(cli):
    status, out, _ = cli("demo", "--all", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures["ok"]
    assert {"reference", "cython"} <= {row["backend"] for row in figures["backends"]}
    assert all(0 < row["absolute"] <= row["allowed"] < 1e-4 and row["us_per_step"] > 0 for row in figures["backends"])
    assert "HELLO WORLD" in figures["messages"]


def test_demo_reports_disagreement(cli, folder, monkeypatch):
    from fastrnn.cli import demo

    golden = fastrnn.load(demo.DATA / "demo_golden.npz")
    np.savez("demo_golden.npz", **{**golden, "h_n": golden["h_n"] + np.float32(1e-4)})
    Path("demo.pt").write_bytes((demo.DATA / "demo.pt").read_bytes())
    monkeypatch.setattr(demo, "DATA", folder)
    status, out, _ = cli("demo")
    assert status == 1
    assert out.count("WRONG") == 2
    status, out, _ = cli("demo", "--json")
    assert (status, json.loads(out)["ok"]) == (1, False)


def test_demo_data_is_small():
    from fastrnn.cli import demo

    assert sum(path.stat().st_size for path in demo.DATA.iterdir()) < 300_000
