"""What more than one thread is worth, and what it costs where somebody else wants the processors."""

from __future__ import annotations

import subprocess
import sys

import fastrnn

from .common import layer, normal, use

T = 100


class Threads:
    """One sequence (split by hidden units), a batch (by rows), and two layers of two directions."""

    params = (["cython"], [1, 2])
    param_names = ("backend", "threads")

    def setup(self, backend: str, threads: int) -> None:
        use(backend)
        fastrnn.set_num_threads(threads)
        self.large, self.x = layer("LSTM", 512, 512), normal(T, 1, 512)
        self.middle, self.batch = layer("LSTM", 128, 128), normal(T, 32, 128)
        self.stacked = fastrnn.LSTM(128, 128, num_layers=2, bidirectional=True, rng=0)

    def time_one_sequence(self, backend: str, threads: int) -> None:
        self.large(self.x)

    def time_batch(self, backend: str, threads: int) -> None:
        self.middle(self.batch)

    def time_bidirectional(self, backend: str, threads: int) -> None:
        self.stacked(self.batch)


OTHER_PROCESS = f"""
import numpy, fastrnn
fastrnn.set_num_threads({{threads}})
layer, x = fastrnn.LSTM(512, 512, rng=0), numpy.zeros(({T}, 1, 512), "float32")
layer(x)
print("ready", flush=True)
while True:
    layer(x)
"""


class Crowded:
    """One sequence, beside another process that does the same with as many threads."""

    params = (["cython"], [1, 2])
    param_names = ("backend", "threads")

    def setup(self, backend: str, threads: int) -> None:
        use(backend)
        fastrnn.set_num_threads(threads)
        self.layer, self.x = layer("LSTM", 512, 512), normal(T, 1, 512)
        self.layer(self.x)
        command = [sys.executable, "-c", OTHER_PROCESS.format(threads=threads)]
        self.other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.other.stdout is not None
        self.other.stdout.readline()

    def teardown(self, backend: str, threads: int) -> None:
        self.other.kill()
        self.other.communicate()

    def time_crowded(self, backend: str, threads: int) -> None:
        self.layer(self.x)
