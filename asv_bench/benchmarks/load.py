"""Loading checkpoints: a layer of 13 MB, 300 tensors of 100 MB, and a file of 2 GB of which little is read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import fastrnn

FORMATS = [".pt", ".safetensors", ".npz"]


class Load:
    """From a file to a layer: 2 layers of 512 units."""

    params = (FORMATS,)
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


class ManyTensors:
    """So many tensors of 100 MB in all."""

    params = (FORMATS, [300, 10_000], [True, False])
    param_names = ("format", "tensors", "check_crc")

    def setup(self, suffix: str, n: int, check_crc: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / f"model{suffix}"
        fastrnn.save({f"layers.{i}.weight": np.ones((16, 1_562_500 // n), np.float32) for i in range(n)}, self.path)

    def teardown(self, suffix: str, n: int, check_crc: bool) -> None:
        self.folder.cleanup()

    def time_load(self, suffix: str, n: int, check_crc: bool) -> None:
        fastrnn.load(self.path, check_crc=check_crc)


class LargeFile:
    """2 GB, of which names and sizes alone are wanted; its checksums are compared in the second case."""

    params = ([False, True],)
    param_names = ("check_crc",)
    timeout = 300

    def setup_cache(self) -> None:
        """Once; asv runs all in a folder of its own that it deletes."""
        arrays = {f"layers.{i}.weight": np.ones((1 << 12, 1 << 11), np.float32) for i in range(60)}
        fastrnn.save(arrays | fastrnn.GRU(8, 8, rng=0).state_dict(), "large.pt")

    def time_find_layers(self, check_crc: bool) -> None:
        fastrnn.find_layers(fastrnn.load("large.pt", check_crc=check_crc))

    def peakmem_find_layers(self, check_crc: bool) -> None:
        fastrnn.find_layers(fastrnn.load("large.pt", check_crc=check_crc))
