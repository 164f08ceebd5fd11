"""Layers with `use_backend("cuda")`: what every backend does, in small sizes."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from layer_tools import CELLS, USERS, gradients, make, normal_like, random_state, true_gradients, truth

import fastrnn
from fastrnn.backends import cuda


@pytest.fixture(autouse=True)
def _chosen():
    with fastrnn.use_backend("cuda"):
        yield


def test_the_table():
    assert {info.name: info.available for info in fastrnn.backends()}["cuda"]


@pytest.mark.parametrize("cell", [*CELLS, *USERS])
def test_layers(cell, disagreement):
    rng = np.random.default_rng(1)
    layer = make(cell, 2, 3, num_layers=1 + (cell == "gru"), bidirectional=True, rng=0)
    x, hx = rng.normal(size=(3, 3, 2)).astype(np.float32), random_state(rng, layer, 3)
    options = {"lengths": [2, 3, 0], "reset": rng.random((3, 3)) < 0.3}
    result = layer(x, hx, **options, return_states=True)
    assert not disagreement(result, truth(layer, x, hx, **options, return_states=True), "float32", times=2)
    seeds = normal_like(rng, layer(x, hx, **options))
    got, expected = (f(layer, x, hx, seeds, **options) for f in (gradients, true_gradients))
    assert not disagreement(tuple(got), tuple(expected), "float32", gradient=True, times=2)


def test_gradients_of_each_row_and_of_segments(disagreement):
    rng = np.random.default_rng(2)
    layer = make("gru", 2, 3, "float64", rng=0)
    x, hx = rng.normal(size=(5, 2, 2)), random_state(rng, layer, 2)
    seeds = normal_like(rng, layer(x, hx))
    for options in ({"per_sample": True}, {"checkpoint_every": 2}):
        got, expected = (f(layer, x, hx, seeds, lengths=[5, 3], **options) for f in (gradients, true_gradients))
        assert not disagreement(tuple(got), tuple(expected), "float64", gradient=True)


def test_step_by_step(disagreement):
    layer = make("lstm", 2, 3, num_layers=2, rng=0)
    x = np.random.default_rng(3).normal(size=(3, 2, 2)).astype(np.float32)
    stream = layer.stream(2)
    assert not disagreement(np.stack([stream.step(x_t) for x_t in x]), truth(layer, x)[0], "float32", times=2)


def test_several_threads():
    layer = make("lstm", 2, 3, rng=0)
    x = np.random.default_rng(4).normal(size=(3, 2, 2)).astype(np.float32)
    expected, wrong = layer(x)[0], []

    def work():
        with fastrnn.use_backend("cuda"):
            for _ in range(3):
                if (layer(x)[0] != expected).any():
                    wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_which_device(monkeypatch):
    monkeypatch.setenv("FASTRNN_CUDA_DEVICE", "3")
    with pytest.raises(fastrnn.BackendError, match="1 GPUs, numbered from 0, but FASTRNN_CUDA_DEVICE is 3"):
        cuda._check()
    monkeypatch.setenv("FASTRNN_CUDA_DEVICE", "one")
    with pytest.raises(ValueError, match="should be the number of a GPU, got: 'one'"):
        cuda._check()
