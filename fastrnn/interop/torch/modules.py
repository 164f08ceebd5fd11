"""torch's recurrent modules on fastrnn's kernels."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ...call import Options
from ...errors import BackendError
from .autograd import Call, Recurrence, plain
from .packed import PackedWeights


class _Module(torch.nn.RNNBase):
    """torch's module in everything but `forward`."""

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Any = None,
        *,
        lengths: ArrayLike | Tensor | None = None,
        reset: ArrayLike | Tensor | None = None,
    ) -> Any:
        """Run the module over whole sequences.

        Parameters
        ----------
        input : (T, N, I), (N, T, I) with `batch_first`, (T, I) unbatched, or PackedSequence
            In the parameters' dtype, like `hx`.
        hx : (L*D, N, H_out), for LSTM a pair of that and (L*D, N, H), optional
        lengths, reset : Tensor or array_like, optional
            What torch's modules do not have: as in a call of fastrnn's layers.

        Returns
        -------
        output : (T, N, D*H_out), (N, T, D*H_out), (T, D*H_out) or PackedSequence
        h_n : (L*D, N, H_out)
            LSTM: the pair (h_n, c_n).

        Raises
        ------
        TypeError, ValueError, RuntimeError
            An argument is not as described; the error is torch's own where torch has one.
        BackendError
            Tensors are not in the CPU's memory.
        """
        return _uncompiled()(self, input, hx, lengths, reset)

    def _run(self, input: Tensor | PackedSequence, hx: Any, lengths: Any, reset: Any) -> Any:
        self._update_flat_weights()
        weights = cast("list[Tensor]", self._flat_weights)
        x, pack = (input.data, input) if isinstance(input, PackedSequence) else (input, None)
        states = _checked(self, x, pack, hx, weights)
        tensors = (x, *states, *weights)
        differentiated = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        packed = self.__dict__.setdefault("_packed", PackedWeights())  # there is no __init__ of ours
        dropout = self.dropout if self.training and self.num_layers > 1 else 0.0
        options = Options(_kind(self), self.batch_first, dropout, _generator)
        ragged = {"lengths": plain(lengths), "reset": plain(reset)}
        call = Call(self, packed, options, len(states), pack, ragged)
        output, *end = Recurrence.apply(call, *tensors) if differentiated else call.run(tensors)
        if pack is not None:
            output = PackedSequence(output, *pack[1:])
        return output, tuple(end) if len(end) > 1 else end[0]


_disabled: Any = None


def _uncompiled() -> Any:
    """`_Module._run`, in a form that torch.compile leaves alone.

    What it takes for that is two seconds of imports, which are spared those who have not loaded the compiler.
    """
    global _disabled
    if _disabled is None and "torch._dynamo" in sys.modules:
        _disabled = torch.compiler.disable(_Module._run)
    return _disabled or _Module._run


class RNN(_Module, torch.nn.RNN):
    """`torch.nn.RNN` on fastrnn's kernels: the same arguments, the same state dict."""


class LSTM(_Module, torch.nn.LSTM):
    """`torch.nn.LSTM` on fastrnn's kernels: the same arguments, the same state dict."""


class GRU(_Module, torch.nn.GRU):
    """`torch.nn.GRU` on fastrnn's kernels: the same arguments, the same state dict."""


def _kind(module: torch.nn.RNNBase) -> str:
    return str(module.mode.partition("_")[0])


def _generator() -> np.random.Generator:
    """What dropout draws from; `torch.manual_seed` makes it reproducible."""
    return np.random.default_rng(int(torch.empty((), dtype=torch.int64).random_()))


# ---- checks -------------------------------------------------------------------------------------------------------


def _checked(
    module: torch.nn.RNNBase, x: Any, pack: PackedSequence | None, hx: Any, weights: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The tensors of `hx`, after all checks."""
    if not isinstance(x, Tensor):
        raise TypeError(f"input should be a Tensor or a PackedSequence, got: {type(x).__name__}")
    is_pair = module.mode == "LSTM"
    states = () if hx is None else tuple(hx) if is_pair and isinstance(hx, tuple | list) else (hx,)
    if hx is not None and (len(states) != 1 + is_pair or not all(isinstance(state, Tensor) for state in states)):
        wanted = "a pair (h_0, c_0) of Tensors" if is_pair else "a Tensor"
        got = f"{type(hx).__name__} of {len(hx)}" if isinstance(hx, tuple | list) else type(hx).__name__
        raise TypeError(f"hx should be {wanted}, got: {got}")
    _check_shapes(module, x, pack, states)
    _check_types(x, states, weights)
    return states


def _check_shapes(module: torch.nn.RNNBase, x: Tensor, pack: PackedSequence | None, states: tuple[Tensor, ...]) -> None:
    """torch's checks, with torch's errors; among them the dtype of `x`."""
    sizes = None if pack is None else pack.batch_sizes
    if pack is None:
        rank = x.dim()
        if rank not in (2, 3):
            got = f"{rank}D tensor" if _kind(module) == "RNN" else f"{rank}D"
            raise ValueError(f"{_kind(module)}: Expected input to be 2D or 3D, got {got} instead")
        if any(state.dim() != rank for state in states):
            case = "batched 3-D" if rank == 3 else "unbatched 2-D"
            ranks = [f"{state.dim()}-D" for state in states]
            which, got = ("hx and cx", f"({', '.join(ranks)}) tensors") if ranks[1:] else ("hx", f"{ranks[0]} tensor")
            raise RuntimeError(f"For {case} input, {which} should also be {rank}-D but got {got}")
        if rank == 2:
            x, states = x.unsqueeze(0 if module.batch_first else 1), tuple(state.unsqueeze(1) for state in states)
    if states:
        module.check_forward_args(x, cast(Tensor, states if len(states) > 1 else states[0]), sizes)
    else:
        module.check_input(x, cast(Tensor, sizes))


def _check_types(x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    if torch.is_autocast_enabled("cpu"):
        raise RuntimeError("fastrnn's modules take no part in autocast: call them where it is not enabled")
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"fastrnn's modules compute in torch.float32 or torch.float64, got: {x.dtype}")
    for kind, tensors in (("hidden", states), ("parameter", weights)):
        for tensor in tensors:
            if tensor.device != x.device:
                raise RuntimeError(
                    f"Input and {kind} tensors are not at the same device, found input tensor at {x.device} "
                    f"and {kind} tensor at {tensor.device}"
                )
            if tensor.dtype != x.dtype:
                raise RuntimeError(
                    f"Input and {kind} tensors are not the same dtype, found input tensor with {x.dtype} "
                    f"and {kind} tensor with {tensor.dtype}"
                )
    if not x.is_cpu:
        raise BackendError(f"fastrnn's modules run on the CPU, got tensors on {x.device}: use torch's own there")
