"""Kernels of the general path compile for the GPUs that there are, without one; and are found on disk again."""

from __future__ import annotations

import os

import numpy as np
import pytest

import fastrnn
from fastrnn.cells import CELLS

pytest.importorskip("numba_cuda")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("compiles nothing", allow_module_level=True)

from layer_tools import USERS
from numba import float32, float64

from fastrnn.cuda import compiler, copies, gemm, general
from fastrnn.cuda.cell import device_cell
from fastrnn.cuda.runtime import Kernel

F, D = np.dtype("f"), np.dtype("d")
FORTH = {"ragged": True, "resets": True, "keep": True, "projection": False, "aside": True}
BACK = {"ragged": True, "resets": True, "has_dy": True, "projection": False, "aside": True}


def cell(name, dtype=F):
    return device_cell(CELLS[name] if name in CELLS else USERS[name].spec, dtype)


KERNELS = {
    **{f"{name} forth": lambda name=name: general.forward(cell(name), 256, **FORTH) for name in ("lstm", "rnn_relu")},
    **{f"{name} back": lambda name=name: general.backward(cell(name), 256, **BACK) for name in ("gru", "rnn_tanh")},
    "float64": lambda: general.backward(cell("lstm", D), 256, **BACK),
    "projected": lambda: general.forward(cell("lstm"), 256, **{**FORTH, "projection": True}),
    **{
        name: lambda name=name: general.backward(cell(name), 256, **BACK)
        for name in ("peephole_lstm", "independent_rnn")
    },
    "exponential_lstm": lambda: general.forward(cell("exponential_lstm"), 256, **FORTH),
    "project": lambda: general.project(float32, 256, ragged=True, resets=True),
    "before_projection": lambda: general.before_projection(float64, 256, ragged=True, resets=True, has_dy=True),
    "cut_initial": lambda: general.cut_initial(float32, 256, ragged=True),
    "previous": lambda: general.previous(float64, 256, ragged=True, resets=True),
    "product": lambda: gemm._tiled(float32, 64, 16, 4),
    "sums": lambda: gemm._sums(float64, 32, 8),
    "copy": lambda: copies._kernel(1, 256),
}


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTRNN_CUDA_CACHE", str(tmp_path / "kernels"))
    compiler._folder.cache_clear()
    yield
    compiler._folder.cache_clear()


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_compile(name):
    capability = ((8, 0), (9, 0), (10, 0))[len(name) % 3]
    entry, code = compiler.ptx(KERNELS[name](), capability)
    text = code.decode()
    assert f".entry {entry}(" in text
    assert f".target sm_{capability[0]}{capability[1]}" in text
    assert f".maxntid {256}" in text
    if name not in ("float64", "before_projection", "previous", "sums"):
        assert ".f64" not in text, "a literal has made float64 of what it met"
    assert "__nv" not in text, "calls of functions that were not put in"


def scale(factor):
    def kernel(a, n):
        a[0] = a[0] * float32(factor) + n

    return Kernel(kernel, "fn", 32, float32)


def test_kept_on_disk(tmp_path, monkeypatch):
    """The same kernel is not compiled again, one with another constant, type or target is."""
    entry, code = compiler.ptx(scale(2.0), (9, 0))
    (file,) = (tmp_path / "kernels").iterdir()
    others = [compiler.ptx(scale(3.0), (9, 0)), compiler.ptx(scale(2.0), (8, 0))]
    others.append(compiler.ptx(scale(2.0)._replace(threads=64), (9, 0)))
    others.append(compiler.ptx(scale(2.0)._replace(number=float64), (9, 0)))
    assert len({other for _, other in others} | {code}) == 5
    assert len(list((tmp_path / "kernels").iterdir())) == 5
    monkeypatch.setattr(compiler, "_compile", None)
    assert compiler.ptx(scale(2.0), (9, 0)) == (entry, code)
    file.write_bytes(code[:100])  # as another process that was ended may have left it
    with pytest.raises(TypeError):
        compiler.ptx(scale(2.0), (9, 0))


def test_the_cell_is_part_of_the_key():
    kernels = [general.forward(cell(name), 256, **FORTH) for name in ("rnn_tanh", "rnn_relu", "lstm", "coupled_lstm")]
    kernels.append(general.forward(cell("lstm"), 256, **{**FORTH, "ragged": False}))
    kernels.append(general.forward(cell("lstm", D), 256, **FORTH))
    assert len({compiler._path(kernel, (9, 0)) for kernel in kernels}) == len(kernels)
    assert None not in {compiler._path(kernel, (9, 0)) for kernel in kernels}


def test_no_place_on_disk(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTRNN_CUDA_CACHE", str(tmp_path / "file"))
    compiler._folder.cache_clear()
    assert b".entry" in compiler.ptx(scale(5.0), (9, 0))[1]


def test_what_numba_cannot_compile():
    def kernel(a):
        a[0] = a.no_such_thing

    with pytest.raises(fastrnn.BackendError, match=r"(?s)Numba cannot compile .*kernel for a GPU: .*no_such_thing"):
        compiler.ptx(Kernel(kernel, "f", 32, float32), (9, 0))
