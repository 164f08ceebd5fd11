"""The ways through the GPU engine, and how one of them is taken whatever the engine would choose."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fastrnn

from ...errors import BackendError
from .worker import NotHere

#: FASTRNN_CUDA_PATH for the way forth and for the way back. With " tf32" behind the name, in that precision.
ENVIRONMENT = {
    "chosen": ("", ""),
    "general": ("general", "general"),
    "A0": ("a0", "general"),
    "A": ("a", "general"),
    "B": ("b", "general"),
    "C": ("general", "c"),
}
#: Modules of `fastrnn.cuda` by which `choice` calls them.
NAMES = {"one_block": "A0", "small_batch": "A", "tensor_cores": "B", "bptt": "C"}


class Path:
    """One of them, for layers of one kind.

    Parameters
    ----------
    name : str
    layer : RNN, LSTM, GRU or Recurrent, on a GPU
    N : int

    Raises
    ------
    NotHere
        It is not for such a layer and so many rows.
    """

    def __init__(self, name: str, layer: Any, N: int) -> None:
        self.name = name
        self._ways = ENVIRONMENT[name.removesuffix(" tf32")]
        fastrnn.set_cuda_precision("tf32" if name.endswith(" tf32") else "ieee")
        self.ran = " + ".join(self._kernel(way, layer, N) for way in ("forward", "backward"))

    def _kernel(self, way: str, layer: Any, N: int) -> str:
        """What the engine takes for that way."""
        from ...cuda import choice, runtime

        device, spec = runtime.device(0), layer._spec
        asked = self._ways[way == "backward"]
        if device.simulated and asked not in ("", "general"):
            raise NotHere("the simulator has the general path alone")
        plain = spec.recurrent and not getattr(layer, "proj_size", 0)
        D = 2 if layer.bidirectional else 1
        with self.back() if way == "backward" else self.forth():
            try:
                module = getattr(choice, way)(spec, layer.dtype, layer.hidden_size, N, D, device, plain)
            except BackendError as error:
                raise NotHere(str(error)) from error
        return "general" if module is None else NAMES[module.__name__.rpartition(".")[2]]

    def forth(self) -> Any:
        """A context in which calls take it."""
        return _forced(self._ways[0])

    def back(self) -> Any:
        """A context in which gradients take it."""
        return _forced(self._ways[1])


@contextmanager
def _forced(asked: str) -> Iterator[None]:
    before = os.environ.get("FASTRNN_CUDA_PATH")
    os.environ["FASTRNN_CUDA_PATH"] = asked
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTRNN_CUDA_PATH"]
        else:
            os.environ["FASTRNN_CUDA_PATH"] = before
