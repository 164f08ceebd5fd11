"""Devices where there is no GPU, nor what it takes to use one: clear errors, and CPUs that know nothing of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: What a process puts first that shall find no module of some names.
WITHOUT = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names} or name in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
for name in list(sys.modules):
    assert name not in {names}
"""

ERRORS = """
import fastrnn
layer = fastrnn.GRU(2, 3, rng=0)
for call in (
    lambda: layer.to("cuda"),
    lambda: layer.to("float64", "cuda"),
    lambda: fastrnn.GRUCell(2, 3, device="cuda"),
    lambda: layer.to(device="cuda:1"),
):
    try:
        call()
    except fastrnn.BackendError as error:
        assert str(error).startswith("device 'cuda"), error
        print(error)
    else:
        raise AssertionError("no error")
assert (layer.device, str(layer.dtype)) == ("cpu", "float32")
layer([[1.0, 2.0]])
"""


def run(code, **environment):
    import os

    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("names", [("numba",), ("numba.cuda", "numba_cuda"), ("cuda",)])
def test_a_package_is_missing(names):
    lines = run(WITHOUT.format(names=names) + ERRORS).splitlines()
    assert len(lines) == 4
    for line in lines:
        assert "cannot be used: " in line
        assert 'pip install "fastrnn[cuda]"' in line


def test_no_gpu_is_visible():
    lines = run(ERRORS, CUDA_VISIBLE_DEVICES="", NUMBA_ENABLE_CUDASIM="0").splitlines()
    assert len(lines) == 4
    assert all("cannot be used: " in line for line in lines)


def test_the_cpu_imports_nothing_of_cuda():
    code = """
import sys, pickle, copy, numpy as np, fastrnn
layer, cell = fastrnn.LSTM(2, 3, rng=0), fastrnn.GRUCell(2, 3, rng=0)
x = np.zeros((4, 1, 2), np.float32)
layer(x, return_states=True)
(y, _), backward = layer.vjp(x)
backward(y)
layer.stream().step(x[0])
cell(x[0])
copy.deepcopy(layer).to("cpu").to("float64")
pickle.loads(pickle.dumps(layer))
print(*sys.modules)
"""
    loaded = run(code).split()
    assert "fastrnn.vjp" in loaded
    wrong = [name for name in loaded if name == "cuda" or name.startswith(("cuda.", "fastrnn.cuda", "numba", "torch"))]
    assert not wrong


def test_the_name_of_the_device_survives():
    """Of a layer that was saved where there is a GPU."""
    code = """
import pickle, numpy as np, fastrnn
layer = fastrnn.GRU(2, 3, rng=0)
layer.__dict__["_device"] = "cuda:99"
other = pickle.loads(pickle.dumps(layer))
assert other.device == "cuda:99"
try:
    other(np.zeros((4, 1, 2)))
except fastrnn.BackendError as error:
    print(error)
assert other.to("cpu")(np.zeros((4, 1, 2)))[0].shape == (4, 1, 3)
"""
    assert "cuda" in run(code)


def test_layers_pickled_before_there_were_devices():
    code = """
import pickle, fastrnn
layer = fastrnn.GRU(2, 3, rng=0)
assert "_device" not in layer.__dict__
assert layer.device == "cpu"
"""
    run(code)
