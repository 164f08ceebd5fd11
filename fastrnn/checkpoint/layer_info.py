"""What is known of a layer in a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .dtypes import BY_NUMPY

#: Arguments that torch prints without their name, at the start.
_LEADING = {"input_size", "hidden_size", "num_embeddings", "embedding_dim", "in_channels", "out_channels"}
_LEADING |= {"num_features", "num_groups", "normalized_shape"}
#: Values at which torch does not print an argument, whatever the layer.
_USUAL = {
    "proj_size": 0,
    "num_layers": 1,
    "batch_first": False,
    "bidirectional": False,
    "nonlinearity": "tanh",
    "padding": 0,
    "dilation": 1,
    "output_padding": 0,
    "groups": 1,
    "padding_mode": "zeros",
    "padding_idx": None,
    "max_norm": None,
    "norm_type": 2.0,
    "scale_grad_by_freq": False,
    "sparse": False,
}
_PRINTS_BIAS = ("Linear", "BatchNorm", "LayerNorm", "GroupNorm")


@dataclass(frozen=True, repr=False)
class LayerInfo:
    """A layer in a checkpoint.

    Attributes
    ----------
    prefix : str
        What stands before its parameters' names, the way through nested containers included:
        ``"model_state_dict.encoder.rnn."``; empty or with a "." at the end.
    kind : str
        The name of its class in torch; "BatchNorm" where nothing tells the number of dimensions.
    arguments : dict
        What is known of the arguments that make it in torch, by their names.
    dtype : numpy.dtype
        The type that holds all its parameters.
    n_parameters : int
        The number of weights and biases.
    """

    prefix: str
    kind: str
    arguments: dict[str, Any]
    dtype: np.dtype[Any]
    n_parameters: int

    @property
    def is_recurrent(self) -> bool:
        """Whether it is an RNN, LSTM or GRU, or a cell of one."""
        return isinstance(self, RecurrentInfo)

    @property
    def text(self) -> str:
        """The layer as torch prints it, without what is not known: ``GRU(3, 4, num_layers=2)``."""
        shown = {name: value for name, value in self.arguments.items() if not self._is_usual(name, value)}
        bare = _LEADING | {"num_channels"} if "num_groups" in shown else _LEADING
        texts = [str(value) if name in bare else f"{name}={value}" for name, value in shown.items()]
        return f"{self.kind}({', '.join(texts)})"

    def _is_usual(self, name: str, value: Any) -> bool:
        if name == "bias":
            return value is True and not self.kind.startswith(_PRINTS_BIAS)
        if name not in _USUAL:
            return False
        usual = _USUAL[name]
        return all(item == usual for item in value) if isinstance(value, tuple) else value == usual

    def __repr__(self) -> str:
        return f"<LayerInfo {self.prefix!r}: {self.text}, {self.dtype}, {self.n_parameters:,} parameters>"


def _argument(name: str, otherwise: Any = None) -> Any:
    return property(lambda info: info.arguments.get(name, otherwise))


class RecurrentInfo(LayerInfo):
    """A recurrent layer or cell in a checkpoint: its arguments are attributes too.

    Attributes
    ----------
    prefix, kind, arguments, dtype, n_parameters
        As for every layer; `kind` is "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell" or "GRUCell".
    input_size, hidden_size, num_layers, proj_size : int
        Sizes; ``num_layers`` is 1 for cells and ``proj_size`` 0 without a projection.
    bias, bidirectional : bool
        As in torch.
    batch_first : bool or None
    nonlinearity : {"tanh", "relu"} or None
        As in torch where the checkpoint holds the module itself. A state dict does not say them: None.
    """

    input_size = _argument("input_size")
    hidden_size = _argument("hidden_size")
    num_layers = _argument("num_layers", 1)
    bias = _argument("bias")
    bidirectional = _argument("bidirectional", False)
    proj_size = _argument("proj_size", 0)
    batch_first = _argument("batch_first")
    nonlinearity = _argument("nonlinearity")

    @property
    def is_cell(self) -> bool:
        return self.kind.endswith("Cell")


def common_dtype(arrays: Iterable[Any]) -> np.dtype[Any] | None:
    """The floating-point type that holds all of them; None where one holds something else."""
    kinds: set[np.dtype[Any]] = {array.dtype.newbyteorder("=") for array in arrays}
    if not all("float" in dtype.name and dtype.name in BY_NUMPY for dtype in kinds):
        return None
    if len(kinds) == 1:
        return kinds.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in kinds else np.float32)
