"""Layers that the engine runs: recurrent layers and cells, on their device."""

from __future__ import annotations

from typing import Any

from ..backends import current as current_backend
from ..backends import for_cell
from ..cells import CellSpec, Sizes, Weights
from ..sequence import Stack
from .base import Layer
from .device import checked_device, gpu


class EngineLayer(Layer):
    """A recurrent layer or cell. Not constructed by users."""

    _spec: CellSpec
    _sizes: Sizes

    def _place(self, device: str) -> None:
        if device != "cpu":
            self._device = checked_device(device)

    def _converted(self, dtype: Any, device: str | None) -> dict[str, Any]:
        new = super()._converted(dtype, device)
        return new if device in (None, self._device) else new | {"_device": device}

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith(("weight_", "bias_")) and name not in self._params:
            from difflib import get_close_matches  # here, since hardly anyone needs it

            nearest = get_close_matches(name, self._params, 1, 0)
            raise AttributeError(f"{self!r} has no parameter {name!r}; the nearest name is {', '.join(nearest)}")
        super().__setattr__(name, value)

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw new parameters, uniform in ±1/sqrt(hidden_size), in parameter order.

        Parameters
        ----------
        rng : int, numpy.random.Generator or None
            Where to draw from; None: the layer's own generator.
        """
        super().reset_parameters(rng)

    def flatten_parameters(self) -> None:
        """Does nothing: for code written for torch that calls it."""

    def _weights(self) -> list[Weights]:
        """By layer, then direction."""
        raise NotImplementedError

    def _stack(self) -> Stack:
        """What runs the layer on its device: made once, and again when the weights have changed."""
        cache = self._prepared
        key = current_backend() if self._device == "cpu" else self._device
        if key not in cache:
            if self._device == "cpu":
                backend = for_cell(self._spec, current_backend())
                prepared = [backend.prepare(self._spec, weights) for weights in self._weights()]
                cache[key] = Stack(self._sizes, self._dtype, prepared, backend)
            else:
                cache[key] = gpu().stack(self._device, self._sizes, self._dtype, self._weights())
        stack: Stack = cache[key]
        return stack

    def _backward_weights(self, stack: Stack) -> list[Any]:
        """What a backend wants of the weights for gradients; on a GPU the stack has it all."""
        if self._device != "cpu":
            return []
        cache, key = self._prepared, (stack.backend, "backward")
        if key not in cache:
            cache[key] = [stack.backend.prepare_backward(self._spec, weights) for weights in self._weights()]
        found: list[Any] = cache[key]
        return found
