"""Layers to and from torch, and files of what torch computes."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

import fastrnn

from ...layers.base import ZEROS

_NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")  # of the classes, in fastrnn and in torch.nn


def from_torch(module: torch.nn.Module) -> Any:
    """The layer that computes what a torch module computes.

    Parameters
    ----------
    module : torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, or of a subclass
        On any device. Parametrized weights are taken as they are computed.

    Returns
    -------
    RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell
        With the module's options, its mode and copies of its weights: float64 where they are, else float32.

    Raises
    ------
    TypeError
        `module` is something else.

    Examples
    --------
    >>> import torch
    >>> from fastrnn.interop.torch import from_torch
    >>> from_torch(torch.nn.GRU(3, 4, num_layers=2, batch_first=True))
    GRU(3, 4, num_layers=2, batch_first=True)
    """
    name = _name("module", module, torch.nn)
    dtype = "float64" if next(module.parameters()).dtype == torch.float64 else "float32"
    layer = getattr(fastrnn, name)(**_options(name, module), dtype=dtype, rng=ZEROS)
    tensors = {key: getattr(module, key).detach() for key in layer.parameters()}
    layer.load_state_dict({key: tensor.to("cpu", getattr(torch, dtype)).numpy() for key, tensor in tensors.items()})
    return _in_the_mode_of(module, layer)


def to_torch(layer: Any) -> torch.nn.Module:
    """The plain torch module that computes what a layer computes.

    Parameters
    ----------
    layer : RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell
        Of fastrnn.

    Returns
    -------
    torch.nn.Module
        Of the same name, with the layer's options, mode and dtype, and copies of its weights.

    Raises
    ------
    TypeError
        `layer` is something else.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn.interop.torch import to_torch
    >>> to_torch(fastrnn.LSTM(3, 4, bidirectional=True))
    LSTM(3, 4, bidirectional=True)
    """
    name = _name("layer", layer, fastrnn)
    dtype = getattr(torch, str(layer.dtype))
    # By way of "meta": no weights are drawn from torch's generator.
    module = getattr(torch.nn, name)(**_options(name, layer), dtype=dtype, device="meta").to_empty(device="cpu")
    module.load_state_dict({key: torch.from_numpy(array) for key, array in layer.state_dict().items()})
    converted: torch.nn.Module = _in_the_mode_of(layer, module)
    return converted


def _name(argument: str, value: Any, framework: Any) -> str:
    for name in _NAMES:
        if isinstance(value, getattr(framework, name)):
            return name
    raise TypeError(
        f"{argument} should be one of {', '.join(_NAMES)} of {framework.__name__}, got: "
        f"{type(value).__module__}.{type(value).__qualname__}"
    )


def _options(name: str, layer: Any) -> dict[str, Any]:
    """Arguments of the constructor, dropout aside."""
    names = ["input_size", "hidden_size"]
    names += [] if name.endswith("Cell") else ["num_layers", "batch_first", "bidirectional"]
    names += ["nonlinearity"] if name.startswith("RNN") else ["proj_size"] if name == "LSTM" else []
    return {option: getattr(layer, option) for option in names} | {"bias": bool(layer.bias)}


def _in_the_mode_of(layer: Any, other: Any) -> Any:
    """`other` with the dropout of `layer`, for which a constructor would warn once more, in the same mode."""
    if hasattr(layer, "dropout"):
        other.dropout = layer.dropout
    return other.train(layer.training)


def record(module: torch.nn.Module, *inputs: Any, path: str | os.PathLike[str]) -> Any:
    """Call a torch module; write inputs and results to a golden file, which ``fastrnn verify --golden`` reads.

    Parameters
    ----------
    module : torch.nn.RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell, or of a subclass
        In float32 or float64, on any device. It is called as it is; where it has dropout, in eval mode.
    *inputs : Tensor or PackedSequence, and initial states
        The module's arguments. Of a PackedSequence the padded batch and its lengths are recorded.
    path : path-like
        Ends in ``.npz``; written whole or not at all.

    Returns
    -------
    object
        What the module returned.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import fastrnn
    >>> import os, tempfile, torch
    >>> from fastrnn.interop.torch import record
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "golden.npz")
    ...     y, h_n = record(torch.nn.GRU(3, 4).eval(), torch.ones(5, 2, 3), path=path)
    ...     sorted(fastrnn.load(path))
    ['batch_first', 'h_n', 'output', 'x']
    """
    is_cell = _name("module", module, torch.nn).endswith("Cell")
    dtype = next(module.parameters()).dtype
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"module should be in float32 or float64, to whose precision fastrnn verifies, got: {dtype}")
    options: Any = module
    if module.training and not is_cell and options.num_layers > 1 and options.dropout:
        raise ValueError("module should be in eval mode, since it has dropout: call module.eval() first")
    if not os.fspath(path).endswith(".npz"):
        raise ValueError(f"path should end in .npz, got: {os.fspath(path)!r}")
    result = module(*inputs)
    x, hx = (*inputs, None)[:2]
    output: Any
    output, end = (None, result) if is_cell else result
    found: dict[str, Any] = {} if is_cell else {"batch_first": np.array(options.batch_first)}
    if isinstance(x, PackedSequence):
        output, _ = pad_packed_sequence(output, options.batch_first)
        x, found["lengths"] = pad_packed_sequence(x, options.batch_first)
    found |= {"x": x, "output": output}
    for when, state in (("0", hx), ("n", end)):
        states = state if isinstance(state, tuple | list) else (state,)
        found |= {f"{letter}_{when}": part for letter, part in zip("hc", states, strict=False)}
    arrays = {key: a.numpy(force=True) if isinstance(a, torch.Tensor) else a for key, a in found.items()}
    fastrnn.save({key: array for key, array in arrays.items() if array is not None}, path)
    return result
