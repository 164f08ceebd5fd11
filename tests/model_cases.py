"""Layers around the recurrence, with inputs: the same constructor calls for torch and fastrnn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class LayerCase(NamedTuple):
    """One layer and the shape of its input.

    below: the input is of integers below this, if given. train: in training mode.
    """

    kind: str
    args: tuple
    options: dict
    shape: tuple
    below: int | None = None
    train: bool = False

    def x(self, seed=0, dtype="float32"):
        rng = np.random.default_rng(seed)
        if self.below is not None:
            return np.array(rng.integers(0, self.below, self.shape))
        return np.array(2 * rng.normal(size=self.shape), dtype)

    def make(self, namespace, **more):
        return getattr(namespace, self.kind)(*self.args, **self.options, **more).train(self.train)

    def varied(self, state, seed=0):
        """A state dict (of arrays) in which nothing is as constant as it is in new layers; exact in float32."""
        if self.kind not in ("LayerNorm", "BatchNorm1d"):
            return state
        rng = np.random.default_rng(seed)
        new = {name: rng.normal(size=a.shape).astype(np.float32).astype(a.dtype) for name, a in state.items()}
        if "running_var" in new:
            new["running_var"] = np.abs(new["running_var"]) + np.asarray(0.5, new["running_var"].dtype)
            new["num_batches_tracked"] = np.array(3)
        return new


CASES = {
    "linear": LayerCase("Linear", (5, 3), {}, (4, 5)),
    "linear without bias": LayerCase("Linear", (5, 3), {"bias": False}, (2, 4, 5)),
    "linear of a vector": LayerCase("Linear", (5, 3), {}, (5,)),
    "linear of no rows": LayerCase("Linear", (5, 3), {}, (0, 5)),
    "embedding": LayerCase("Embedding", (7, 3), {}, (2, 6), 7),
    "embedding with padding": LayerCase("Embedding", (7, 3), {"padding_idx": -5}, (3, 5), 7),
    "embedding of one index": LayerCase("Embedding", (7, 3), {}, (), 7),
    "embedding of nothing": LayerCase("Embedding", (7, 3), {}, (0, 2), 7),
    "layer norm": LayerCase("LayerNorm", (6,), {}, (4, 6)),
    "layer norm of two axes": LayerCase("LayerNorm", ((3, 4), 0.1), {}, (2, 5, 3, 4)),
    "layer norm of one row": LayerCase("LayerNorm", ([5],), {"bias": False}, (5,)),
    "layer norm of no rows": LayerCase("LayerNorm", (5,), {}, (0, 5)),
    "layer norm without parameters": LayerCase("LayerNorm", (6, 1e-5, False), {}, (4, 6)),
    "batch norm": LayerCase("BatchNorm1d", (5,), {}, (4, 5)),
    "batch norm of steps": LayerCase("BatchNorm1d", (5, 0.1), {"bias": False}, (3, 5, 7)),
    "batch norm without parameters": LayerCase("BatchNorm1d", (5,), {"affine": False}, (3, 5, 7)),
    "batch norm of batches": LayerCase("BatchNorm1d", (5,), {"track_running_stats": False}, (3, 5, 7)),
    "batch norm of no rows": LayerCase("BatchNorm1d", (5,), {}, (0, 5), train=True),
    "batch norm in training": LayerCase("BatchNorm1d", (5,), {}, (4, 5), train=True),
    "batch norm of steps in training": LayerCase("BatchNorm1d", (5, 1e-3, 0.3), {}, (3, 5, 7), train=True),
    "batch norm of means in training": LayerCase("BatchNorm1d", (5, 1e-3, None, False), {}, (3, 5, 7), train=True),
    "batch norm of batches in training": LayerCase(
        "BatchNorm1d", (5,), {"track_running_stats": False, "bias": False}, (3, 5, 7), train=True
    ),
    "conv1d": LayerCase("Conv1d", (3, 4, 3), {}, (2, 3, 8)),
    "conv1d unbatched": LayerCase("Conv1d", (3, 4, 2), {"bias": False}, (3, 8)),
    "conv1d of no rows": LayerCase("Conv1d", (3, 4, 2), {}, (0, 3, 8)),
    "conv1d strided": LayerCase("Conv1d", (3, 4, 3, 2, 1), {}, (2, 3, 8)),
    "conv1d with steps left over": LayerCase("Conv1d", (3, 4, 2, 3), {"padding": "valid"}, (2, 3, 10)),
    "conv1d with gaps": LayerCase("Conv1d", (3, 4, 3, 2, 3, 2), {"padding_mode": "reflect"}, (2, 3, 8)),
    "conv1d of the same length": LayerCase("Conv1d", (3, 4, 4, 1, "same", 3), {}, (2, 3, 8)),
    "conv1d mirrored to the same length": LayerCase(
        "Conv1d", (3, 4, 4), {"padding": "same", "padding_mode": "reflect"}, (3, 8)
    ),
    "conv1d by groups": LayerCase("Conv1d", (4, 6, 3, 1, 1, 1, 2), {}, (3, 4, 8)),
    "conv1d of each channel": LayerCase("Conv1d", (3, 3, 3), {"groups": 3, "stride": 2, "dilation": 2}, (3, 3, 9)),
    "conv1d of each channel to two": LayerCase("Conv1d", (3, 6, 2, 1, 1), {"groups": 3, "bias": False}, (3, 8)),
    "conv1d with the border": LayerCase("Conv1d", (3, 4, 3), {"padding": 9, "padding_mode": "replicate"}, (2, 3, 4)),
    "conv1d around": LayerCase("Conv1d", (3, 4, 3), {"padding": (4,), "padding_mode": "circular"}, (2, 3, 4)),
    "conv2d": LayerCase("Conv2d", (2, 3, 2), {}, (2, 2, 4, 5)),
    "conv2d unbatched": LayerCase("Conv2d", (2, 3, (1, 3)), {"bias": False}, (2, 4, 5)),
    "conv2d strided": LayerCase("Conv2d", (2, 3, (3, 2), (2, 1), (1, 2), (1, 2)), {}, (2, 2, 4, 5)),
    "conv2d of the same size": LayerCase("Conv2d", (2, 3, (2, 3), 1, "same", (1, 2)), {}, (1, 2, 4, 5)),
    "conv2d mirrored": LayerCase("Conv2d", (2, 3, 3, 1, (1, 3)), {"padding_mode": "reflect"}, (1, 2, 4, 5)),
    "conv2d with the border": LayerCase("Conv2d", (1, 2, 3, 2, (4, 1)), {"padding_mode": "replicate"}, (1, 3, 4)),
    "conv2d around": LayerCase("Conv2d", (1, 2, 3, 2, (2, 1)), {"padding_mode": "circular"}, (1, 1, 3, 4)),
    "conv2d by groups": LayerCase("Conv2d", (4, 6, 2, 2), {"groups": 2}, (2, 4, 5, 4)),
    "conv2d of each channel": LayerCase("Conv2d", (2, 4, (3, 2), (1, 2), 1, (1, 2), 2), {}, (2, 2, 4, 5)),
    "max pool": LayerCase("MaxPool1d", (2,), {}, (2, 3, 7)),
    "max pool unbatched": LayerCase("MaxPool1d", ((3,), 1), {"padding": (1,)}, (3, 7)),
    "max pool with gaps": LayerCase("MaxPool1d", (3, 2, 1, 2), {}, (2, 3, 8)),
    "max pool past the end": LayerCase("MaxPool1d", (3, 2, 1), {"ceil_mode": True}, (2, 3, 8)),
    "max pool not from the padding": LayerCase("MaxPool1d", (4, 3, 2, 1, False, True), {}, (2, 3, 8)),
    "max pool over gaps of its own": LayerCase("MaxPool1d", (2, 4), {}, (2, 3, 9)),
    "max pool of no rows": LayerCase("MaxPool1d", (2,), {}, (0, 3, 9)),
    "flatten": LayerCase("Flatten", (), {}, (2, 3, 4, 5)),
    "flatten inner axes": LayerCase("Flatten", (1, 2), {}, (2, 3, 4, 5)),
    "flatten to the last": LayerCase("Flatten", (-2,), {}, (2, 3, 4)),
    "flatten one axis": LayerCase("Flatten", (0, 0), {}, (2, 3)),
    "flatten of a number": LayerCase("Flatten", (0,), {}, ()),
    "relu": LayerCase("ReLU", (), {}, (4, 7)),
    "relu in place": LayerCase("ReLU", (True,), {}, (4, 7)),
    "leaky relu": LayerCase("LeakyReLU", (), {}, (4, 7)),
    "leaky relu steeper": LayerCase("LeakyReLU", (0.3,), {}, (4, 7)),
    "elu": LayerCase("ELU", (), {}, (4, 7)),
    "elu of another size": LayerCase("ELU", (1.7,), {}, (4, 7)),
    "gelu": LayerCase("GELU", (), {}, (4, 7)),
    "gelu by tanh": LayerCase("GELU", ("tanh",), {}, (4, 7)),
    "silu": LayerCase("SiLU", (), {}, (4, 7)),
    "sigmoid": LayerCase("Sigmoid", (), {}, (4, 7)),
    "tanh": LayerCase("Tanh", (), {}, (4, 7)),
    "tanh of a number": LayerCase("Tanh", (), {}, ()),
    "softplus": LayerCase("Softplus", (), {}, (4, 7)),
    "softplus with a threshold": LayerCase("Softplus", (2.5, 3), {}, (4, 7)),
    "hardtanh": LayerCase("Hardtanh", (), {}, (4, 7)),
    "hardtanh of other bounds": LayerCase("Hardtanh", (-2, 0.5), {}, (4, 7)),
    "softmax": LayerCase("Softmax", (-1,), {}, (4, 7)),
    "softmax of the first axis": LayerCase("Softmax", (0,), {}, (4, 3, 2)),
    "softmax of an inner axis": LayerCase("Softmax", (), {"dim": 1}, (4, 3, 2)),
    "log softmax": LayerCase("LogSoftmax", (-1,), {}, (4, 7)),
    "log softmax of the first axis": LayerCase("LogSoftmax", (0,), {}, (5,)),
}
