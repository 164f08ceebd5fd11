"""Between the formats."""

from __future__ import annotations

import numpy as np
from cli_tools import save_layer

import fastrnn


def test_convert(cli, folder):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0), "model.pt")
    for source, target in (
        ("model.pt", "model.safetensors"),
        ("model.safetensors", "model.npz"),
        ("model.npz", "b.pt"),
    ):
        assert cli("convert", source, target)[0] == 0
    state = fastrnn.load("b.pt")
    assert state.keys() == layer.state_dict().keys()
    assert all(np.array_equal(state[key], a) for key, a in layer.state_dict().items())
