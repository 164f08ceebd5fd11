"""Layers from the arrays of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..checkpoint.state_dict import describe
from .base import ZEROS
from .cell import GRUCell, LSTMCell, RNNCell
from .recurrent import GRU, LSTM, RNN

_CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)}


def from_state_dict(
    state: Any,
    prefix: str | None = None,
    *,
    batch_first: bool = False,
    nonlinearity: str = "tanh",
    dtype: DTypeLike | None = None,
) -> Any:
    """Make the recurrent layer that a checkpoint holds.

    Its kind, sizes, layers, directions, bias and projection are read off the arrays' names and shapes; a cell comes
    of names without ``_l0``.

    Parameters
    ----------
    state : dict
        What `fastrnn.load` gives, or any nesting of dicts and lists with arrays under torch's names.
    prefix : str, optional
        Which layer, as `fastrnn.find_layers` reports it; the last "." may be left out, and so may wrappers at its
        start (``state_dict.``, ``module.``) while that leaves no choice. Without it there must be exactly one layer.
    batch_first : bool
        As in the constructor, not for cells: a checkpoint does not say it.
    nonlinearity : str
        "tanh" or "relu", for RNN and RNNCell: a checkpoint does not say it.
    dtype : dtype-like, optional
        Of the layer; without it float64 for float64 weights, otherwise float32.

    Returns
    -------
    RNN, LSTM, GRU, RNNCell, LSTMCell or GRUCell
        In eval mode; the weights are copies.

    Raises
    ------
    ValueError
        No layer or more than one fits, which the message lists; or an option does not apply to its kind.
    CheckpointError
        The layer's arrays do not fit together.
    TypeError
        `state` is no dict: a path, say, or a layer.
    """
    info, arrays = describe(state, prefix)
    options: dict[str, Any] = {"bias": info.bias}
    if info.is_cell and batch_first:
        raise ValueError(f"batch_first=True does not apply to {info.kind}")
    if not info.is_cell:
        options |= {
            "num_layers": info.num_layers,
            "bidirectional": info.bidirectional,
            "batch_first": batch_first,
        }
    if info.proj_size:
        options["proj_size"] = info.proj_size
    if info.kind in ("RNN", "RNNCell"):
        options["nonlinearity"] = nonlinearity
    elif nonlinearity != "tanh":
        raise ValueError(f"nonlinearity={nonlinearity!r} does not apply to {info.kind}")
    if dtype is None:
        dtype = np.float64 if info.dtype == np.float64 else np.float32
    layer = _CLASSES[info.kind](info.input_size, info.hidden_size, **options, dtype=dtype, rng=ZEROS)
    layer.load_state_dict({name: array.astype(dtype, copy=False) for name, array in arrays.items()})
    return layer
