"""fastrnn's calls and gradients as a function of torch's autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ... import packing
from ...call import Options, call
from ...vjp import vjp
from .packed import PackedWeights


class Call(NamedTuple):
    """A call of a module, its tensors aside: these are x, the initial states, and all weights.

    Attributes
    ----------
    n_states : int
        How many initial states are given.
    pack : PackedSequence or None
        The input, where it is one.
    ragged : dict
        `lengths` and `reset`.
    """

    module: torch.nn.RNNBase
    weights: PackedWeights
    options: Options
    n_states: int
    pack: PackedSequence | None
    ragged: dict[str, Any]

    def run(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Output and final states."""
        packed = self.weights.of(self.module, tensors[1 + self.n_states :], gradients=False)
        x, hx = self._inputs(tensors)
        return _tensors(call(packed.stack, self.options, x, hx, **self.ragged, return_states=False, out=None))

    def vjp(self, tensors: Sequence[Tensor], wrt: list[str]) -> tuple[tuple[Tensor, ...], Any]:
        """The same, and what brings gradients back."""
        packed = self.weights.of(self.module, tensors[1 + self.n_states :], gradients=True)
        x, hx = self._inputs(tensors)
        result, backward = vjp(
            packed.stack,
            packed.backward,
            self.module._all_weights,
            self.options,
            x,
            hx,
            **self.ragged,
            wrt=wrt,
            consume=False,
            checkpoint_every=None,
            check=_unchanged,
            share=True,
        )
        return _tensors(result), backward

    def _inputs(self, tensors: Sequence[Tensor]) -> tuple[Any, Any]:
        """`x` and `hx` as fastrnn takes them, in the tensors' memory."""
        x, *states = map(plain, tensors[: 1 + self.n_states])
        if self.pack is not None:
            x = packing.PackedSequence(x, *map(plain, self.pack[1:]))
        return x, tuple(states) if len(states) > 1 else states[0] if states else None


def plain(value: Any) -> Any:
    """A tensor's memory as an array; whatever else as it is."""
    return value.numpy(force=True) if isinstance(value, Tensor) else value


def _tensors(result: Any) -> tuple[Tensor, ...]:
    """Output and final states, in the arrays' memory."""
    output, end = result
    data = output.data if isinstance(output, packing.PackedSequence) else output
    return tuple(torch.from_numpy(array) for array in (data, *(end if isinstance(end, tuple) else (end,))))


def _unchanged() -> None:
    """Packed weights do not change, and for changes of the parameters torch has an error."""


class Recurrence(torch.autograd.Function):
    """``apply(call, x, *states, *weights)``: output and final states."""

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        needed, n = ctx.needs_input_grad[1:], 1 + call.n_states
        wanted = {"x": needed[0], "hx": any(needed[1:n]), "params": any(needed[n:])}
        found, backward = call.vjp(tensors, [name for name, is_wanted in wanted.items() if is_wanted])
        # torch frees saved tensors as soon as the graph has been used, and with this one what hangs on it.
        tape = torch.empty(0)
        tape.fastrnn = backward  # type: ignore[attr-defined]
        ctx.save_for_backward(tape, found[0], *tensors)  # not the final states: the tape does not hold their memory
        ctx.set_materialize_grads(False)
        ctx.n_states, ctx.end_shapes = call.n_states, [end.shape for end in found[1:]]
        return found

    @staticmethod
    def backward(ctx: Any, d_output: Tensor | None, *d_end: Tensor | None) -> Any:
        tape, *saved = ctx.saved_tensors  # an error where one of them was changed in place
        if not hasattr(tape, "fastrnn"):
            raise RuntimeError("fastrnn's modules cannot use saved_tensors_hooks that put copies in tensors' place")
        d_state: Any = None
        if any(d is not None for d in d_end):
            zeros = map(saved[0].new_zeros, ctx.end_shapes)
            d_state = [plain(zero if d is None else d) for d, zero in zip(d_end, zeros, strict=True)]
            d_state = d_state if len(d_end) > 1 else d_state[0]
        grads = tape.fastrnn(plain(d_output), d_state)

        needed, n = ctx.needs_input_grad[1:], ctx.n_states
        d_x = grads.x.data if isinstance(grads.x, packing.PackedSequence) else grads.x
        d_states = grads.hx if isinstance(grads.hx, tuple) else [grads.hx] * n
        d_weights = [None] * (len(needed) - 1 - n) if grads.params is None else grads.params.values()
        arrays = (d_x, *d_states[:n], *d_weights)
        found = [torch.from_numpy(array) if need else None for array, need in zip(arrays, needed, strict=True)]
        if torch.is_grad_enabled():  # with create_graph=True
            found = [None if gradient is None else Once.apply(gradient, *saved) for gradient in found]
        return None, *found


class Once(torch.autograd.Function):
    """``apply(gradient, *saved)``: the gradient, whose own gradient is an error.

    torch's `once_differentiable` takes it for a constant where the gradient of the output is one, as that of
    ``y.sum()``: a penalty on gradients would have no effect, and nobody would be told.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *saved: Tensor) -> Tensor:
        return gradient

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("fastrnn's modules can be differentiated once: they have no double backward")
