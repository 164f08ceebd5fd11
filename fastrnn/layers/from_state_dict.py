"""Layers from the arrays of a checkpoint."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import validate
from ..checkpoint.state_dict import describe
from .base import ZEROS
from .cell import GRUCell, LSTMCell, RNNCell
from .recurrent import GRU, LSTM, RNN

_CLASSES: dict[str, Any] = {cls.__name__: cls for cls in (RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell)}
_LAYER_ONLY = ("num_layers", "bidirectional", "proj_size", "batch_first")


def from_state_dict(
    state: Any,
    prefix: str | None = None,
    *,
    batch_first: bool | None = None,
    nonlinearity: str | None = None,
    cell: bool | None = None,
    dtype: DTypeLike | None = None,
) -> Any:
    """Make the recurrent layer that a checkpoint holds.

    Its kind, sizes, layers, directions, bias and projection are read off the arrays' names and shapes; a cell comes
    of names without ``_l0``. Weights behind weight norm or weight drop are what they are in eval mode.

    Parameters
    ----------
    state : dict
        What `fastrnn.load` gives, or any nesting of dicts and lists with arrays under torch's names.
    prefix : str, optional
        Which layer, as `fastrnn.find_layers` reports it; the last "." may be left out, and so may wrappers
        (``state_dict.``, ``module.``) while that leaves no choice. Without it there must be exactly one recurrent
        layer.
    batch_first : bool, optional
        As in the constructor, not for cells. Without it what the module says that was saved whole; a state dict does
        not say it: False.
    nonlinearity : {"tanh", "relu"}, optional
        For RNN and RNNCell. Without it what the module says that was saved whole; a state dict does not say it: "tanh".
    cell : bool, optional
        True: make the cell of a layer of one direction, as it does one step; False: make the layer of a cell. Without
        it what the names say.
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

    Examples
    --------
    >>> import fastrnn
    >>> state = {"model": {f"encoder.{name}": w for name, w in fastrnn.GRU(3, 4).state_dict().items()}}
    >>> fastrnn.from_state_dict(state, "encoder.", batch_first=True)
    GRU(3, 4, batch_first=True)
    """
    info, arrays = describe(state, prefix)
    is_cell = info.is_cell if cell is None else validate.flag("cell", cell)
    kind = info.kind.removesuffix("Cell") + "Cell" * is_cell
    options = info.arguments
    if is_cell and not info.is_cell:
        if info.num_layers > 1 or info.bidirectional or info.proj_size:
            raise ValueError(f"cell=True: no single cell does what {info.text} does")
        options = {name: value for name, value in options.items() if name not in _LAYER_ONLY}
        arrays = {name.removesuffix("_l0"): array for name, array in arrays.items()}
    elif info.is_cell and not is_cell:
        arrays = {f"{name}_l0": array for name, array in arrays.items()}
    if batch_first is not None and not is_cell:
        options = options | {"batch_first": batch_first}
    elif batch_first:
        raise ValueError(f"batch_first=True does not apply to {kind}")
    if nonlinearity is not None and kind.startswith("RNN"):
        options = options | {"nonlinearity": nonlinearity}
    elif nonlinearity not in (None, "tanh"):
        raise ValueError(f"nonlinearity={nonlinearity!r} does not apply to {kind}")
    if dtype is None:
        dtype = np.float64 if info.dtype == np.float64 else np.float32
    layer = _CLASSES[kind](**options, dtype=dtype, rng=ZEROS)
    layer.load_state_dict({name: array.astype(dtype, copy=False) for name, array in arrays.items()})
    return layer
