"""How far a backend's results are from what they should be, and how far they may be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

import fastrnn

from .files import Array

# Errors are counted in machine epsilons times max(1, largest value). A tame layer has 1 to 4 after some hundred steps,
# in any float32 implementation, and a wrong gate or bias thousands.
TOLERANCE = 16.0
# Trained and scaled-up layers amplify rounding: their errors were 0.3 to 3 times the change that one epsilon in
# weights and input makes (RNN, LSTM and GRU, H 16 to 256, weights times 1, 2, 4); two results differ by twice that.
GROWTH = 8.0
# However chaotic a layer is, this part of the largest value is no rounding error.
LOOSEST = 1e-3


class Difference(NamedTuple):
    """The largest difference between two arrays.

    Attributes
    ----------
    absolute : float
    relative : float
        To the largest expected value: an element near 0 is a small difference of large terms, and says little.
    ulp : float
        In units in the last place of the largest expected value, of the dtype that was computed in.
    allowed : float
        What `absolute` may be.
    """

    absolute: float
    relative: float
    ulp: float
    allowed: float

    @property
    def ok(self) -> bool:
        return self.absolute <= self.allowed


class Check(NamedTuple):
    backend: str
    against: str
    value: str  # output, h_n, c_n
    difference: Difference


@np.errstate(invalid="ignore")
def difference(actual: Array, expected: Array, allowed: float) -> Difference:
    """Compare `actual`, float32 or float64, with `expected`, which may be more precise; two NaNs are equal.

    Raises
    ------
    ValueError
        The shapes differ.
    """
    if actual.shape != expected.shape:
        raise ValueError(f"the result has shape {actual.shape}, the one expected {expected.shape}")
    a, b = actual.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    apart = np.where(same, 0.0, np.abs(a - b))
    absolute = float(np.where(np.isnan(apart), math.inf, apart).max(initial=0.0))
    scale = largest(expected)
    relative = absolute / scale if scale else math.inf if absolute else 0.0
    return Difference(absolute, relative, absolute / float(np.spacing(actual.dtype.type(scale))), allowed)


def largest(a: Array) -> float:
    """The largest finite magnitude."""
    size = np.abs(a)
    return float(size.max(initial=0.0, where=np.isfinite(size)))


class Inputs(NamedTuple):
    """What a layer is called with."""

    x: Array
    states: Sequence[Array] = ()  # h_0, and c_0 for an LSTM; or none
    options: Mapping[str, Array] = MappingProxyType({})  # lengths, reset


def results(layer: Any, inputs: Inputs) -> dict[str, Array]:
    """What a call gives, under the names of golden files."""
    hx = None if not inputs.states else tuple(inputs.states) if len(inputs.states) > 1 else inputs.states[0]
    output, ends = layer(inputs.x, hx, **inputs.options)
    h_n, c_n = ends if isinstance(ends, tuple) else (ends, None)
    return {"output": output, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})


def truth(layer: Any, inputs: Inputs) -> dict[str, Array]:
    """The same from the reference, in float64 throughout."""
    with fastrnn.use_backend("reference"):
        return results(layer.astype("float64"), inputs)


def allowed_errors(
    layer: Any, inputs: Inputs, right: Mapping[str, Array], tolerance: float | None = None
) -> dict[str, float]:
    """How far each result of `layer` may be from the truth.

    `tolerance` epsilons times max(1, largest value). Without a `tolerance` 16 of them or, where the layer amplifies
    rounding more than that, 8 times what one epsilon in weights and input makes of the result.
    """
    eps = float(np.finfo(layer.dtype).eps)
    scale = {name: max(1.0, largest(array)) for name, array in right.items()}
    if tolerance is not None:
        return {name: tolerance * eps * size for name, size in scale.items()}
    rng = np.random.default_rng(0)
    shaken = layer.astype("float64")
    for array in shaken.parameters().values():
        array *= rng.uniform(1 - eps, 1 + eps, array.shape)
    shaken.parameters().changed()
    x = inputs.x * rng.uniform(1 - eps, 1 + eps, np.shape(inputs.x))
    moved = truth(shaken, inputs._replace(x=x))
    return {
        name: max(TOLERANCE * eps * size, min(GROWTH * largest(moved[name] - right[name]), LOOSEST * size))
        for name, size in scale.items()
    }


@np.errstate(all="ignore")  # layers may overflow
def check(
    layer: Any,
    inputs: Inputs,
    backends: Sequence[str],
    *,
    recorded: Mapping[str, Array] | None = None,
    against: str = "float64",
    tolerance: float | None = None,
) -> list[Check]:
    """Each backend's results beside the truth, or beside those of them that were `recorded`."""
    right = truth(layer, inputs)
    allowed = allowed_errors(layer, inputs, right, tolerance)
    expected = right if recorded is None else recorded
    checks = []
    for backend in backends:
        with fastrnn.use_backend(backend):
            found = results(layer, inputs)
        for name, actual in found.items():
            if name in expected:
                checks.append(Check(backend, against, name, difference(actual, expected[name], allowed[name])))
    return checks


def recorded_inputs(golden: Mapping[str, Array]) -> Inputs:
    states = [golden[name] for name in ("h_0", "c_0") if name in golden]
    return Inputs(golden["x"], states, {name: golden[name] for name in ("lengths", "reset") if name in golden})


def available_backends() -> list[str]:
    return [backend.name for backend in fastrnn.backends() if backend.available]
