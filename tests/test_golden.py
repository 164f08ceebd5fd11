"""Recorded torch results, on a machine that need not have torch: load the checkpoint, run, compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastrnn

FILES = sorted((Path(__file__).parent / "data").glob("golden_*.npz"))


def test_the_files_are_there():
    assert len(FILES) == 39


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem[len("golden_") :])
def test_recorded_result(path, backend, assert_close):
    golden = np.load(path)
    nonlinearity = "relu" if "relu" in path.name else "tanh"
    state = fastrnn.load(path.with_suffix(".pt"))
    hx = golden.get("h_0")
    if "c_0" in golden:
        hx = hx, golden["c_0"]
    expected = golden["h_n"]
    if "c_n" in golden:
        expected = expected, golden["c_n"]
    if "cell" in path.name:
        cell = fastrnn.from_state_dict(state, nonlinearity=nonlinearity)
        assert_close(cell(golden["x"], hx), expected, golden["x"].dtype)
        return
    layer = fastrnn.from_state_dict(state, batch_first=bool(golden["batch_first"]), nonlinearity=nonlinearity)
    assert layer.dtype == golden["x"].dtype
    result = layer(golden["x"], hx, lengths=golden.get("lengths"))
    assert_close(result, (golden["output"], expected), layer.dtype)
