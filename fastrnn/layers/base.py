"""Layers with parameters of their own: made in one dtype, drawn from one generator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .. import validate
from .module import Module

Array = NDArray[Any]

# In place of `rng`, for those who load parameters right away:
ZEROS = object()  # parameters of zeros
UNSET = object()  # parameters without memory of their own, until `_adopt` gives them some


class Layer(Module):
    """A layer with parameters. Not constructed by users."""

    _dtype: np.dtype[Any]
    _device: str = "cpu"

    def __init__(self, shapes: dict[str, tuple[int, ...]], *, dtype: DTypeLike, device: str, rng: Any) -> None:
        self._dtype = validate.dtype(dtype)
        self._place(device)
        if rng is UNSET:
            zero = np.zeros((), self._dtype)
            self._params.update({name: np.broadcast_to(zero, shape) for name, shape in shapes.items()})
            return
        self._params.update({name: np.zeros(shape, self._dtype) for name, shape in shapes.items()})
        if rng is not ZEROS:
            self._rng = validate.generator(rng)
            self.reset_parameters()

    def _place(self, device: str) -> None:
        if device != "cpu":
            raise ValueError(f"device should be 'cpu', where {type(self).__name__} runs, got: {device!r}")

    def _init_bound(self) -> float:
        raise NotImplementedError

    def _draw(self, generator: np.random.Generator) -> None:
        """Draw new parameters: uniform in ±_init_bound(), in parameter order."""
        bound = self._init_bound()
        for array in self._params.values():
            array[...] = generator.uniform(-bound, bound, array.shape)

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw new parameters, as when the layer was made.

        Parameters
        ----------
        rng : int, numpy.random.Generator or None
            Where to draw from; None: the layer's own generator.
        """
        self._draw(self._rng if rng is None else validate.generator(rng))
        self._changed()

    def _once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` makes of the weights: once, and again when they have changed."""
        cache = self._prepared  # read before the weights are: those of a later change go into another one
        if key not in cache:
            cache[key] = make()
        return cache[key]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def device(self) -> str:
        """``"cpu"``, or ``"cuda:0"`` and so on."""
        return self._device

    def _converted(self, dtype: np.dtype[Any] | None, device: str | None) -> dict[str, Any]:
        new = super()._converted(dtype, device)
        return new if dtype is None else new | {"_dtype": dtype}
