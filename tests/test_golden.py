"""Recorded torch results, on a machine that need not have torch: load the checkpoint, run, compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastrnn

DATA = Path(__file__).parent / "data"
FILES = sorted(DATA.glob("golden_*.npz"))
GRADIENTS = sorted(DATA.glob("gradients_*.npz"))


def test_the_files_are_there():
    names = {path.stem.removeprefix("golden_") for path in FILES}
    assert len(names) == 39
    of_gradients = {path.stem.removeprefix("gradients_") for path in GRADIENTS}
    assert names < of_gradients
    assert sum(name.endswith("_reset") for name in of_gradients) == 5


def loaded(name):
    """The layer or cell of that name, its input and initial states, and all that the file has."""
    path = DATA / f"golden_{name}.npz"
    golden = np.load(path)
    options = {"batch_first": bool(golden["batch_first"])} if "batch_first" in golden else {}
    nonlinearity = "relu" if "relu" in name else "tanh"
    state = fastrnn.load(path.with_suffix(".pt"))
    layer = fastrnn.from_state_dict(state, nonlinearity=nonlinearity, **options)
    assert layer.dtype == golden["x"].dtype
    return layer, golden["x"], pair(golden, "h_0", "c_0"), golden


def pair(arrays, h, c):
    return (arrays[h], arrays[c]) if c in arrays else arrays.get(h)


@pytest.mark.parametrize("name", [path.stem[len("golden_") :] for path in FILES])
def test_recorded_result(name, backend, assert_close):
    layer, x, hx, golden = loaded(name)
    expected = pair(golden, "h_n", "c_n")
    if "cell" in name:
        assert_close(layer(x, hx), expected, layer.dtype)
        return
    assert_close(layer(x, hx, lengths=golden.get("lengths")), (golden["output"], expected), layer.dtype)


@pytest.mark.parametrize("name", [path.stem[len("gradients_") :] for path in GRADIENTS])
def test_recorded_gradients(name, backend, assert_close):
    recorded = np.load(DATA / f"gradients_{name}.npz")
    layer, x, hx, golden = loaded(name.removesuffix("_reset"))
    d_state = pair(recorded, "d_h_n", "d_c_n")
    if "cell" in name:
        grads = layer.vjp(x, hx)[1](d_state)
    else:
        reset = recorded.get("reset")
        reset = reset.T if reset is not None and layer.batch_first else reset
        _, backward = layer.vjp(x, hx, lengths=golden.get("lengths"), reset=reset)
        grads = backward(recorded["d_output"], d_state)
    expected = {parameter: recorded[f"d_{parameter}"] for parameter in layer.state_dict()}
    expected = recorded["d_x"], pair(recorded, "d_h_0", "d_c_0"), expected
    assert_close(tuple(grads), expected, layer.dtype, gradient=True)
