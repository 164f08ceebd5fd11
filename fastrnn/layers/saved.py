"""Models in files: what they are made of as plain values, and the way back."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..checkpoint import load_with_metadata
from ..checkpoint.save import MODEL
from ..checkpoint.source import name_of
from ..errors import BackendError, CheckpointError
from . import activations, softmax
from .base import UNSET, Layer
from .batch_norm import BatchNorm1d
from .cell import GRUCell, LSTMCell, RNNCell
from .conv import Conv1d, Conv2d
from .dropout import Dropout
from .embedding import Embedding
from .linear import Linear
from .module import Module
from .norm import LayerNorm
from .pool import MaxPool1d
from .recurrent import GRU, LSTM, RNN
from .sequential import Sequential
from .shape import Flatten, LastStep, MeanOverTime, SelectOutput

_VERSION = 1
_PLAIN = (bool, int, float, str, type(None))
#: What a file can name: nothing else is ever made of one.
_CLASSES: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        *(RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell),
        *(Linear, Embedding, Dropout, Flatten, SelectOutput, LastStep, MeanOverTime),
        *(LayerNorm, BatchNorm1d, Conv1d, Conv2d, MaxPool1d),
        *(activations.ReLU, activations.LeakyReLU, activations.ELU, activations.GELU, activations.SiLU),
        *(activations.Sigmoid, activations.Tanh, activations.Softplus, activations.Hardtanh),
        *(softmax.Softmax, softmax.LogSoftmax),
    )
}


def description(model: Module) -> dict[str, Any]:
    """What a model is made of.

    Raises
    ------
    TypeError
        A class is none of fastrnn's, or a layer is there twice.
    """
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    if len({id(module) for module in modules}) < len(modules):
        raise TypeError("a model that has a layer twice cannot be saved so; save its state_dict()")
    return {"version": _VERSION, **_described(model)}


def _described(model: Module) -> dict[str, Any]:
    kind = type(model).__name__
    if type(model) is Sequential:
        return {"kind": kind, "parts": [[name, _described(part)] for name, part in model._modules.items()]}
    if _CLASSES.get(kind) is not type(model):
        raise TypeError(
            f"{kind} cannot be saved with what it is made of, only fastrnn's own layers and Sequential can: "
            "save its state_dict(), and load that into a model made by the same code"
        )
    arguments = {name: _plain(model, name) for name in _signature(type(model)) if hasattr(model, name)}
    described: dict[str, Any] = {"kind": kind, "arguments": arguments}
    return described | ({"dtype": str(model.dtype)} if isinstance(model, Layer) else {})


def _signature(cls: Any) -> list[str]:
    """The arguments that say what a layer is."""
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    return [name for name in names if name not in ("dtype", "device", "rng", "args", "kwargs")]


def _plain(model: Module, name: str) -> Any:
    value = getattr(model, name)
    if name == "bias" and not isinstance(value, bool):  # the array itself, or None
        return value is not None
    value = value.item() if isinstance(value, np.generic) else value
    return list(value) if isinstance(value, tuple) else value


def load_model(path_or_file_or_bytes: Any) -> Any:
    """Make the model that ``fastrnn.save(model, path)`` wrote.

    Nothing in the file is imported, called or run: it names layers of fastrnn only.

    Parameters
    ----------
    path_or_file_or_bytes : path-like, bytes-like or binary file object
        Read within the limits of `load`.

    Returns
    -------
    Sequential, or the layer that was saved
        In eval mode, on the CPU.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    CheckpointError
        It was not written so, or anything is wrong with its content.

    Examples
    --------
    >>> import fastrnn
    >>> import os, tempfile
    >>> net = fastrnn.Sequential(fastrnn.Embedding(50, 8), fastrnn.GRU(8, 16), fastrnn.Linear(16, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fastrnn.save(net, os.path.join(folder, "net.pt"))
    ...     again = fastrnn.load_model(os.path.join(folder, "net.pt"))
    >>> again
    Sequential(
      (0): Embedding(50, 8)
      (1): GRU(8, 16)
      (2): Linear(in_features=16, out_features=2, bias=True)
    )
    """
    name = name_of(path_or_file_or_bytes)
    content, metadata = load_with_metadata(path_or_file_or_bytes)
    try:
        described, state = _parts_of_file(content, metadata)
        if described.get("version") != _VERSION:
            raise CheckpointError(f"the model is of version {described.get('version')!r}, and 1 is known here")
        model = _made(described, state)
        _adopt(model, state)
    except (CheckpointError, BackendError, TypeError, ValueError, KeyError, IndexError, ArithmeticError) as error:
        raise CheckpointError(f"{name}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"{name}: the model is too large") from error
    return model


def _parts_of_file(content: Any, metadata: dict[str, str]) -> tuple[dict[str, Any], Mapping[str, Any]]:
    if MODEL in metadata:
        described, state = json.loads(metadata[MODEL]), content
    elif isinstance(content, dict) and MODEL in content:
        described, state = content[MODEL], content.get("state_dict")
    else:
        raise CheckpointError("the file does not say what the model is made of; fastrnn.load reads its arrays")
    if not isinstance(described, dict) or not isinstance(state, Mapping):
        raise CheckpointError("the model is not described as fastrnn does it")
    return described, state


def _made(described: Any, state: Mapping[str, Any]) -> Module:
    """The model without its arrays: no size costs memory."""
    if not isinstance(described, dict) or not isinstance(kind := described.get("kind"), str):
        raise CheckpointError("the model is not described as fastrnn does it")
    if kind == "Sequential":
        parts = described.get("parts")
        if not isinstance(parts, list) or not all(isinstance(p, list | tuple) and len(p) == 2 for p in parts):
            raise CheckpointError("the parts of a Sequential should be pairs of name and layer")
        return Sequential({name: _made(part, state) for name, part in parts})
    cls, arguments = _CLASSES.get(kind), described.get("arguments")
    if cls is None:
        raise CheckpointError(f"{kind[:80]!r} is no layer of fastrnn that a file can name")
    if not isinstance(arguments, dict) or not all(_is_plain(value) for value in arguments.values()):
        raise CheckpointError(f"the arguments of {kind} should be plain values")
    if unknown := [name for name in arguments if name not in _signature(cls)]:
        raise CheckpointError(f"{kind} has no argument {unknown[0]!r}")
    if isinstance(layers := arguments.get("num_layers"), int) and layers > len(state):
        raise CheckpointError(f"num_layers={layers} is more than there are arrays")
    more = {"dtype": described.get("dtype"), "rng": UNSET} if issubclass(cls, Layer) else {}
    made: Module = cls(**_tuples(arguments), **more)
    return made


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or (isinstance(value, list | tuple) and all(type(part) in _PLAIN for part in value))


def _tuples(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def _adopt(model: Module, state: Mapping[str, Any]) -> None:
    """Give the model its arrays."""
    arrays, _ = model._fitting_state(state, strict=True)
    for prefix, module in model._dotted(remove_duplicate=True):
        for kind in (module._params, module._buffers):
            kind.update({name: np.array(arrays[prefix + name], order="C") for name in kind})
