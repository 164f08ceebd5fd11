"""Recurrent layers inside other compiled code: functions that users call from their own ``@njit`` functions.

`pack` makes of a layer what they take. `sigmoid`, `tanh`, `exp` and `select` are what bodies of users' cells are made
of (see `fastrnn.Cell`): they work on NumPy arrays too, and are there without Numba.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..elementary import exp, select, sigmoid, tanh
from ..errors import BackendError

if TYPE_CHECKING:
    from .calls import backward as backward
    from .calls import forward as forward
    from .packed import Gradients as Gradients
    from .packed import Packed as Packed
    from .packed import PackedForTraining as PackedForTraining
    from .packed import PackedLinear as PackedLinear
    from .packed import pack as pack
    from .packed import pack_linear as pack_linear

_CALLS = (
    *("Gradients", "Packed", "PackedForTraining", "PackedLinear", "pack", "pack_linear", "linear"),
    *("step", "rnn_step", "lstm_step", "gru_step", "forward", "rnn_forward", "lstm_forward", "gru_forward"),
    *("backward", "rnn_backward", "lstm_backward", "gru_backward"),
)
__all__ = ["exp", "select", "sigmoid", "tanh", *_CALLS]

with suppress(ImportError):
    import_module(f"{__name__}.choice")  # so that Numba knows exp, select, sigmoid and tanh


def __getattr__(name: str) -> Any:
    if name not in _CALLS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        if why := import_module(f"{__name__}.choice").WHY_NO_LANES:
            raise BackendError(f"fastrnn.jit.{name} cannot run here: {why}")
        calls = import_module(f"{__name__}.calls")
    except ImportError as error:
        raise BackendError(
            f'fastrnn.jit.{name} cannot run here: {error}. To have it, pip install "fastrnn[numba]"'
        ) from error
    globals().update({each: getattr(calls, each) for each in _CALLS})
    return getattr(calls, name)


def __dir__() -> list[str]:
    return __all__
