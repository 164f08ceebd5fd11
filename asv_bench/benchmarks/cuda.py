"""Layers on a GPU, on arrays that are there already. Skipped where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn

from .common import layer, normal

T = 256
CELLS = ["LSTM", "GRU"]
SIZES = [(1, 64), (1, 512), (16, 512), (256, 512)]


class OnGPU:
    """What the benchmarks share: a layer, its input, and a function that waits for the GPU."""

    def prepare(self, cell: str, size: tuple[int, int], precision: str = "ieee") -> None:
        """
        Raises
        ------
        NotImplementedError
            There is no GPU here; asv skips the benchmark then.
        """
        N, H = size
        try:
            self.layer = layer(cell, H, H).to("cuda")
            from numba import cuda
        except (ImportError, fastrnn.BackendError) as error:
            raise NotImplementedError(str(error)) from error
        fastrnn.set_cuda_precision(precision)
        self.x: Any = cuda.to_device(normal(T, N, H))
        self.wait = cuda.synchronize


class Forward(OnGPU):
    params = (CELLS, SIZES, ["ieee", "tf32"])
    param_names = ("cell", "N, H", "precision")

    def setup(self, cell: str, size: tuple[int, int], precision: str) -> None:
        self.prepare(cell, size, precision)
        self.time_forward(cell, size, precision)  # compiles

    def time_forward(self, cell: str, size: tuple[int, int], precision: str) -> None:
        self.layer(self.x)
        self.wait()


class Backward(OnGPU):
    params = (CELLS, SIZES)
    param_names = ("cell", "N, H")

    def setup(self, cell: str, size: tuple[int, int]) -> None:
        self.prepare(cell, size)
        self.time_vjp_and_backward(cell, size)

    def time_vjp_and_backward(self, cell: str, size: tuple[int, int]) -> None:
        _, backward = self.layer.vjp(self.x)
        backward(self.x)
        self.wait()


class FromNumPy(OnGPU):
    """With copies there and back."""

    params = (CELLS, SIZES)
    param_names = ("cell", "N, H")

    def setup(self, cell: str, size: tuple[int, int]) -> None:
        self.prepare(cell, size)
        self.x = np.asarray(self.x.copy_to_host())
        self.layer(self.x)

    def time_forward(self, cell: str, size: tuple[int, int]) -> None:
        self.layer(self.x)


class Stream(OnGPU):
    """One step per call, from the CPU's memory and back to it."""

    params = (CELLS, SIZES[:2])
    param_names = ("cell", "N, H")

    def setup(self, cell: str, size: tuple[int, int]) -> None:
        self.prepare(cell, size)
        self.stream, self.frame = self.layer.stream(size[0]), normal(*size)
        self.stream.step(self.frame)

    def time_step(self, cell: str, size: tuple[int, int]) -> None:
        self.stream.step(self.frame)


class FirstCall(OnGPU):
    """After the weights have changed: they are copied anew."""

    params = (CELLS, SIZES[:2])
    param_names = ("cell", "N, H")

    def setup(self, cell: str, size: tuple[int, int]) -> None:
        self.prepare(cell, size)
        self.time_first_call(cell, size)

    def time_first_call(self, cell: str, size: tuple[int, int]) -> None:
        self.layer.parameters().changed()
        self.layer(self.x)
        self.wait()
