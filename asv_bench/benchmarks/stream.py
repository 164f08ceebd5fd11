"""One step per call, the state kept."""

from __future__ import annotations

from .common import BACKENDS, CELLS, layer, normal, use


class Stream:
    params = (BACKENDS, CELLS, [16, 64, 256], [1, 8])
    param_names = ("backend", "cell", "H", "N")

    def setup(self, backend: str, cell: str, H: int, N: int) -> None:
        use(backend)
        self.stream, self.frame = layer(cell, H, H).stream(N), normal(N, H)
        self.stream.step(self.frame)

    def time_step(self, backend: str, cell: str, H: int, N: int) -> None:
        self.stream.step(self.frame)
