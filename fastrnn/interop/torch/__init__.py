"""fastrnn in torch, and torch's layers in fastrnn. torch is imported in this package only.

`from_torch` and `to_torch` convert layers, `record` writes what torch computes to a file that ``fastrnn verify`` reads,
and `RNN`, `LSTM` and `GRU` are torch modules whose forward and backward run on fastrnn's kernels.
"""

from __future__ import annotations

try:
    import torch  # noqa: F401
except ImportError as error:
    raise ImportError("fastrnn.interop.torch needs torch: pip install torch") from error

from .convert import from_torch, record, to_torch
from .modules import GRU, LSTM, RNN

__all__ = ["GRU", "LSTM", "RNN", "from_torch", "record", "to_torch"]
