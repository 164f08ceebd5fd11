"""From a file to a layer: 2 layers of 512 units, 13 MB."""

from __future__ import annotations

import tempfile
from pathlib import Path

import fastrnn


class Load:
    params = ([".pt", ".safetensors", ".npz"],)
    param_names = ("format",)

    def setup(self, suffix: str) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / f"model{suffix}"
        fastrnn.save(fastrnn.LSTM(256, 512, num_layers=2, rng=0).state_dict(), self.path)

    def teardown(self, suffix: str) -> None:
        self.folder.cleanup()

    def time_load(self, suffix: str) -> None:
        fastrnn.load(self.path)

    def time_load_and_make_a_layer(self, suffix: str) -> None:
        fastrnn.from_state_dict(fastrnn.load(self.path))

    def peakmem_load(self, suffix: str) -> None:
        fastrnn.load(self.path)
