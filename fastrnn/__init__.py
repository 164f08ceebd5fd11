"""RNN, LSTM and GRU with torch's weights, in NumPy: verified, fast, without torch.

>>> import fastrnn, numpy as np
>>> layer = fastrnn.GRU(3, 4, rng=0)
>>> y, h_n = layer(np.zeros((5, 2, 3)))
>>> y.shape, h_n.shape
((5, 2, 4), (1, 2, 4))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

# `fastrnn.backends` is the function; the package of that name stays importable ("from fastrnn.backends import ...").
from .backends import backends, set_backend, set_cuda_precision, set_flush_denormals, use_backend
from .errors import BackendError, CheckpointError
from .layers import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from .threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from . import data as data
    from . import functional as functional
    from . import losses as losses
    from . import optim as optim
    from . import plot as plot
    from . import testing as testing
    from .checkpoint import find_layers, load
    from .checkpoint.model_state import model_state_dict
    from .checkpoint.save import save  # not from .checkpoint: mypy may take that for the module of the same name
    from .config import show_config
    from .custom import Cell
    from .gates import gate_activations
    from .interop.keras import from_keras_weights
    from .interop.onnx import from_onnx
    from .layers.activations import ELU, GELU, Hardtanh, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Tanh
    from .layers.batch_norm import BatchNorm1d
    from .layers.conv import Conv1d, Conv2d
    from .layers.custom import Recurrent
    from .layers.dropout import Dropout
    from .layers.embedding import Embedding
    from .layers.from_state_dict import from_state_dict
    from .layers.leaf import Gradients
    from .layers.linear import Linear
    from .layers.module import Module
    from .layers.norm import LayerNorm
    from .layers.parameters import Parameter
    from .layers.pool import MaxPool1d
    from .layers.saved import load_model
    from .layers.sequential import ModuleList, Sequential
    from .layers.shape import Flatten, LastStep, MeanOverTime, SelectOutput
    from .layers.softmax import LogSoftmax, Softmax
    from .packing import (
        PackedSequence,
        invert_permutation,
        pack_padded_sequence,
        pack_sequence,
        pad_packed_sequence,
        pad_sequence,
        unpack_sequence,
        unpad_sequence,
    )

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "BackendError",
    "BatchNorm1d",
    "Cell",
    "CheckpointError",
    "Conv1d",
    "Conv2d",
    "Dropout",
    "Embedding",
    "Flatten",
    "GRUCell",
    "Gradients",
    "Hardtanh",
    "LSTMCell",
    "LastStep",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "MaxPool1d",
    "MeanOverTime",
    "Module",
    "ModuleList",
    "PackedSequence",
    "Parameter",
    "RNNCell",
    "ReLU",
    "Recurrent",
    "SelectOutput",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "backends",
    "find_layers",
    "from_keras_weights",
    "from_onnx",
    "from_state_dict",
    "gate_activations",
    "get_num_threads",
    "invert_permutation",
    "load",
    "load_model",
    "model_state_dict",
    "pack_padded_sequence",
    "pack_sequence",
    "pad_packed_sequence",
    "pad_sequence",
    "save",
    "set_backend",
    "set_cuda_precision",
    "set_flush_denormals",
    "set_num_threads",
    "show_config",
    "unpack_sequence",
    "unpad_sequence",
    "use_backend",
]

# Imported when first used, so that `import fastrnn` costs little more than `import numpy`.
_LAZY = {
    "Cell": "custom",
    "Recurrent": "layers.custom",
    "find_layers": "checkpoint",
    "load": "checkpoint",
    "load_model": "layers.saved",
    "model_state_dict": "checkpoint.model_state",
    "save": "checkpoint",
    "from_keras_weights": "interop.keras",
    "from_onnx": "interop.onnx",
    "from_state_dict": "layers.from_state_dict",
    "gate_activations": "gates",
    "ELU": "layers.activations",
    "GELU": "layers.activations",
    "Hardtanh": "layers.activations",
    "LeakyReLU": "layers.activations",
    "ReLU": "layers.activations",
    "SiLU": "layers.activations",
    "Sigmoid": "layers.activations",
    "Softplus": "layers.activations",
    "Tanh": "layers.activations",
    "Conv1d": "layers.conv",
    "Conv2d": "layers.conv",
    "Dropout": "layers.dropout",
    "Embedding": "layers.embedding",
    "Gradients": "layers.leaf",
    "Linear": "layers.linear",
    "Module": "layers.module",
    "Parameter": "layers.parameters",
    "BatchNorm1d": "layers.batch_norm",
    "LayerNorm": "layers.norm",
    "MaxPool1d": "layers.pool",
    "ModuleList": "layers.sequential",
    "Sequential": "layers.sequential",
    "Flatten": "layers.shape",
    "LastStep": "layers.shape",
    "MeanOverTime": "layers.shape",
    "SelectOutput": "layers.shape",
    "LogSoftmax": "layers.softmax",
    "Softmax": "layers.softmax",
    "show_config": "config",
    "PackedSequence": "packing",
    "invert_permutation": "packing",
    "pack_padded_sequence": "packing",
    "pack_sequence": "packing",
    "pad_packed_sequence": "packing",
    "pad_sequence": "packing",
    "unpack_sequence": "packing",
    "unpad_sequence": "packing",
}


_MODULES = ("data", "functional", "jit", "losses", "optim", "plot", "testing")


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("fastrnn")
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    if name in _LAZY:
        value = globals()[name] = getattr(import_module(f".{_LAZY[name]}", __name__), name)
        return value
    raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES, "__version__"})
