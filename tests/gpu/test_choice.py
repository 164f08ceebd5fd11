"""Which kernels run which layer."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest

import fastrnn
from fastrnn.cells import GRU, LSTM

pytest.importorskip("numba_cuda")
if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    pytest.skip("there the general path runs everything", allow_module_level=True)

from fastrnn.cuda import choice, one_block, persistent

F, D = np.dtype("f"), np.dtype("d")


class Device:
    """As `fastrnn.cuda.runtime.Device`: an H100."""

    capability = (9, 0)
    multiprocessors = 132
    shared_per_block = 227 * 1024
    simulated = False

    def __init__(self):
        self.gave_up = set()


def chosen(*given, way=choice.forward, device=None, plain=True):
    module = way(*given, device or Device(), plain)
    return None if module is None else module.__name__.rpartition(".")[2]


def test_by_shape(monkeypatch):
    monkeypatch.delenv("FASTRNN_CUDA_PATH", raising=False)
    assert chosen(LSTM, F, 64, 1, 2) == "one_block"
    assert chosen(LSTM, F, 512, 1, 1) == "small_batch"
    assert chosen(GRU, F, 512, 32, 1) == "tensor_cores"
    assert chosen(LSTM, F, 512, 1, 1, way=choice.backward) == "bptt"
    for case in ((LSTM, D, 64, 1, 1), (LSTM, F, 7000, 1, 1), (GRU, F, 512, 5000, 1)):
        assert chosen(*case) is None
        assert chosen(*case, way=choice.backward) is None
    assert chosen(LSTM, F, 64, 1, 1, plain=False) is None


def test_what_gave_up_is_not_taken_again(monkeypatch):
    monkeypatch.delenv("FASTRNN_CUDA_PATH", raising=False)
    device = Device()
    device.gave_up = {"one_block", "bptt"}
    assert chosen(LSTM, F, 64, 1, 1, device=device) == "small_batch"
    assert chosen(LSTM, F, 64, 1, 1, device=device, way=choice.backward) is None


def test_a_kernel_that_cannot_be_launched_is_not_tried_again(monkeypatch):
    class Stream:
        device = Device()

        def launch(self, *arguments):
            raise RuntimeError("too few registers")

    layer = SimpleNamespace(spec=LSTM, H=64, D=1)
    options = {"ragged": False, "resets": False, "keep": False}
    monkeypatch.delenv("FASTRNN_CUDA_PATH", raising=False)
    with pytest.warns(RuntimeWarning, match="slower here, as one_block cannot run on .*too few registers"):
        assert not persistent._launched(one_block, layer, Stream(), 1, options, [])
    assert chosen(LSTM, F, 64, 1, 1, device=Stream.device) == "small_batch"
    assert chosen(LSTM, F, 32, 1, 1, device=Stream.device) == "one_block"
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "a0")
    with pytest.raises(RuntimeError, match="too few registers"):
        persistent._launched(one_block, layer, Stream(), 1, options, [])


def test_forced(monkeypatch):
    for path, forth, back in (
        ("general", None, None),
        ("a", "small_batch", "bptt"),
        ("a0, c", "one_block", "bptt"),
        ("c", "one_block", "bptt"),
    ):
        monkeypatch.setenv("FASTRNN_CUDA_PATH", path)
        assert chosen(LSTM, F, 64, 1, 1) == forth
        assert chosen(LSTM, F, 64, 1, 1, way=choice.backward) == back
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "a")
    with pytest.raises(fastrnn.BackendError, match="FASTRNN_CUDA_PATH is a, which cannot run gru, H=64, N=9, D=1"):
        chosen(GRU, F, 64, 9, 1)
    monkeypatch.setenv("FASTRNN_CUDA_PATH", "z")
    with pytest.raises(ValueError, match="should name general, a0, a, b, c, got: 'z'"):
        chosen(LSTM, F, 64, 1, 1)
