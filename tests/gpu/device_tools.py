"""What the tests of layers on a GPU share: arrays on the "GPU" of Numba's simulator, layers there and on the CPU."""

from __future__ import annotations

import copy

import numpy as np
from layer_tools import make, random_state

import fastrnn

CELL_CLASSES = [(fastrnn.RNNCell, {"nonlinearity": "relu"}), (fastrnn.LSTMCell, {}), (fastrnn.GRUCell, {"bias": False})]


class Fake:
    """What another library's array on the GPU looks like, over NumPy's memory: that is where the simulator's GPU is."""

    def __init__(self, array, stream=None, read_only=False, **changes):
        self.array = array
        described = array.__array_interface__
        self.__cuda_array_interface__ = {
            "data": (described["data"][0], read_only),
            "shape": array.shape,
            "strides": described["strides"],
            "typestr": described["typestr"],
            "stream": stream,
            "version": 3,
        } | changes


def nested(function, value):
    """`function` of the arrays in nested tuples and dicts; None stays None."""
    if isinstance(value, dict):
        return {name: nested(function, part) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [nested(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return None if value is None else function(value)


class Kind:
    """Arrays of one kind: how they are made of NumPy's, and what the results have to be."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def give(self, value):
        return nested(Fake, value) if self.name == "device" else value

    def take(self, value):
        """As NumPy arrays, and checked."""
        from fastrnn.cuda.device_array import DeviceArray

        expected = DeviceArray if self.name == "device" else np.ndarray

        def taken(array):
            assert type(array) is expected
            return np.asarray(array)

        return nested(taken, value)


KINDS = [Kind("numpy"), Kind("device")]


class Twins:
    """The same layer on the CPU and on the GPU, with arguments of a call."""

    def __init__(self, cell, T=4, N=3, I=3, H=4, dtype="float32", seed=0, hx=True, **options):
        rng = np.random.default_rng(seed)
        self.cpu = make(cell, I, H, dtype, seed, **options)
        self.gpu = copy.deepcopy(self.cpu).to("cuda")
        batch = () if N is None else (N,)
        shape = (*batch, T, I) if options.get("batch_first") and batch else (T, *batch, I)
        self.x = rng.normal(size=shape).astype(dtype)
        self.hx = random_state(rng, self.cpu, N) if hx else None
        self.rng = rng

    def options(self, lengths=None, reset=None):
        """Of a call. reset: how many of the steps begin an episode."""
        options = {} if lengths is None else {"lengths": lengths}
        return options | ({} if reset is None else {"reset": self.rng.random(self.x.shape[:-1]) < reset})
