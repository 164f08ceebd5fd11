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
    from . import functional as functional
    from . import testing as testing
    from .checkpoint import find_layers, load
    from .checkpoint.save import save  # not from .checkpoint: mypy may take that for the module of the same name
    from .config import show_config
    from .custom import Cell
    from .layers.custom import Recurrent
    from .layers.from_state_dict import from_state_dict
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
    "GRU",
    "LSTM",
    "RNN",
    "BackendError",
    "Cell",
    "CheckpointError",
    "GRUCell",
    "LSTMCell",
    "PackedSequence",
    "RNNCell",
    "Recurrent",
    "backends",
    "find_layers",
    "from_state_dict",
    "get_num_threads",
    "invert_permutation",
    "load",
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
    "save": "checkpoint",
    "from_state_dict": "layers.from_state_dict",
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


_MODULES = ("functional", "jit", "testing")


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
