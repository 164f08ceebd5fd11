"""Weights that are kept as something else: weight norm and weight drop are undone, anything else is named."""

from __future__ import annotations

from collections.abc import KeysView
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .groups import Group
from .inert import shorten
from .layer_info import common_dtype

Array = NDArray[Any]


class WeightNorm:
    """A weight that torch's weight norm keeps as magnitudes g and directions v: ``g * v / norm(v)``.

    The norm is over all axes along which g has one element, as torch's argument `dim` has it. It stands for the weight
    until `numpy.asarray` asks for it.
    """

    def __init__(self, g: Array, v: Array) -> None:
        self.g, self.v = g, v

    @property
    def shape(self) -> tuple[int, ...]:
        return self.v.shape

    @property
    def ndim(self) -> int:
        return self.v.ndim

    @property
    def size(self) -> int:
        return self.v.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the weight, which would be rounded once more in a smaller type than float32."""
        return np.dtype(np.float64 if self.v.dtype.itemsize == 8 else np.float32)

    def problem(self) -> str:
        """Why this cannot be a weight; empty if it can."""
        whole = self.g.size == 1
        axes = [axis for axis, n in enumerate(self.g.shape) if n != 1]
        fits = self.g.ndim == self.v.ndim and all(self.g.shape[axis] == self.v.shape[axis] for axis in axes)
        if not whole and not (fits and len(axes) == 1):
            return f"is kept by weight norm as shapes {self.g.shape} and {self.v.shape}, which do not fit together"
        if common_dtype([self.g, self.v]) is None:
            return f"is kept by weight norm in {self.g.dtype} and {self.v.dtype}; expected floating-point numbers"
        return ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        g, v = self.g.astype(np.float64), self.v.astype(np.float64)
        g = g.reshape(()) if g.size == 1 else g
        over = tuple(axis for axis, n in enumerate(g.shape) if n == 1) if g.ndim else None
        with np.errstate(all="ignore"):  # as in torch, zeros give NaN
            weight = v * (g / np.sqrt(np.sum(v * v, axis=over, keepdims=True)))
            return weight.astype(self.dtype if dtype is None else dtype)


class Hidden:
    """A weight that cannot be had from what is kept of it."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def folded(group: Group) -> dict[str, Any]:
    """The group's arrays by the parameters' own names; a `WeightNorm` or `Hidden` where there is no array as such."""
    return {name: kept[""] if kept.keys() == {""} else _fold(kept) for name, kept in group.parts.items()}


def _fold(kept: dict[str, Array]) -> Any:
    """The weight. An array of the weight's own name beside is what the last forward pass left: it counts last."""
    if "raw" in kept:  # weight drop, which drops nothing in eval mode
        return kept["raw"]
    for g, v in (("g", "v"), ("original0", "original1")):
        if g in kept and v in kept:
            pair = WeightNorm(kept[g], kept[v])
            return Hidden(problem) if (problem := pair.problem()) else pair
    if "" in kept and not kept.keys() & {"orig", "original"}:
        return kept[""]
    return Hidden(_reason(kept.keys()))


def _reason(how: KeysView[str]) -> str:
    remove = "call torch.nn.utils.parametrize.remove_parametrizations before saving"
    if "mask" in how:
        return "is pruned; call torch.nn.utils.prune.remove before saving"
    if "u" in how:
        return (
            "is kept by spectral norm, which is not supported; call torch.nn.utils.remove_spectral_norm before saving"
        )
    if "0._u" in how:
        return f"is kept by spectral norm, which is not supported; {remove}"
    if how & {"g", "v"}:
        return f"is kept by weight norm, of which there is only {', '.join(how)}"
    return f"is kept by a parametrization that is not supported ({shorten(', '.join(how))}); {remove}"
