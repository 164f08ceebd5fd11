"""Every path of the GPU engine beside the float64 reference, forward and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

import fastrnn

from ...elementary import sigmoid, tanh
from ..compare import largest
from ..files import Array
from .paths import Path

# Allowed errors in machine epsilons times max(1, largest value). tf32 has 10 bits after the point in each factor.
EPS = {"float32": 16 * 2.0**-23, "float64": 4096 * 2.0**-52, "tf32": 8 * 2.0**-10}
GRADIENTS = 4.0  # gradients are sums over steps and rows: so many times as much
SHORT = 4  # steps of the first run of a kernel: what goes wrong is over soon
STEPS = 33


class Case(NamedTuple):
    """A layer and how it is called."""

    path: str  # as in `paths`
    cell: str
    N: int
    H: int
    D: int = 1
    dtype: str = "float32"
    options: tuple[str, ...] = ()  # ragged, reset, projection, no bias, no state, two layers, per sample, wide, long
    T: int = STEPS

    @property
    def precision(self) -> str:
        return "tf32" if self.path.endswith("tf32") else "ieee"


def about(case: Case) -> dict[str, Any]:
    """A row's first columns."""
    found = {"path": case.path, "cell": case.cell, "dtype": case.dtype, "N": case.N, "H": case.H, "D": case.D}
    return found | {"options": case.options}


def mgu(gx: Any, gh: Any, s: Any) -> Any:
    f = sigmoid(gx[0] + gh[0])
    return (s[0] + f * (tanh(gx[1] + f * gh[1]) - s[0]),)


def two_states(gx: Any, gh: Any, s: Any, u: Any) -> Any:
    """With a second state and weights of each unit."""
    f = sigmoid(gx[0] + gh[0] + u[0] * s[1])
    c = f * s[1] + (1 - f) * tanh(gx[1] + gh[1])
    return tanh(c) * u[1], c


def leaky(gx: Any, gh: Any, s: Any) -> Any:
    """Without a recurrent matrix."""
    f = sigmoid(gx[0])
    return (f * s[0] + (1 - f) * gx[1],)


CUSTOM: dict[str, Callable[[], Any]] = {
    "MGU": lambda: fastrnn.Cell(mgu, 2, name="MGU"),
    "two states": lambda: fastrnn.Cell(two_states, 2, 2, name="two states", unit_weights=2),
    "leaky": lambda: fastrnn.Cell(leaky, 2, name="leaky", recurrent=False),
}


def layer_of(case: Case) -> Any:
    """On the CPU."""
    options: dict[str, Any] = {
        "num_layers": 2 if "two layers" in case.options else 1,
        "bias": "no bias" not in case.options,
        "bidirectional": case.D == 2,
        "dtype": case.dtype,
        "rng": 0,
    }
    features = 2 * case.H + 3 if "wide" in case.options else 12
    if case.cell in CUSTOM:
        return fastrnn.Recurrent(CUSTOM[case.cell](), features, case.H, **options)
    if "projection" in case.options:
        options["proj_size"] = max(1, case.H // 3)
    kind, _, nonlinearity = case.cell.partition(" ")
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    return getattr(fastrnn, kind)(features, case.H, **options)


class Call(NamedTuple):
    """What a layer is called with, and the gradients that come back to it."""

    x: Array
    hx: Any
    options: dict[str, Array]
    d_output: Array
    d_state: Any


def call_of(case: Case, layer: Any, T: int) -> Call:
    rng = np.random.default_rng(T)

    def normal(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(case.dtype)

    rows = layer.num_layers * case.D
    widths = [getattr(layer, "proj_size", 0) or case.H] + [case.H] * (layer._spec.n_states - 1)
    x, d_output = normal(T, case.N, layer.input_size), normal(T, case.N, case.D * widths[0])
    states, d_states = (tuple(normal(rows, case.N, width) for width in widths) for _ in "01")
    options: dict[str, Array] = {}
    if "ragged" in case.options:
        options["lengths"] = rng.permutation(np.linspace(T, 0 if case.N > 1 else T - 1, case.N).astype(np.intp))
    if "reset" in case.options:
        options["reset"] = rng.random((T, case.N)) < 0.2
    hx, d_state = (s if len(s) > 1 else s[0] for s in (states, d_states))
    return Call(x, None if "no state" in case.options else hx, options, d_output, d_state)


def arrays(layer: Any, call: Call, case: Case, forth: Any = nullcontext, back: Any = nullcontext) -> dict[str, Array]:
    """All that comes of a call, one without gradients and one with them."""
    with forth():
        results = {"": layer(call.x, call.hx, **call.options)}
        results["vjp "], backward = layer.vjp(call.x, call.hx, **call.options)
    with back():
        gradients = backward(call.d_output, call.d_state, per_sample="per sample" in case.options)
    return dict(_named(layer, results, gradients))


def _named(layer: Any, results: dict[str, Any], gradients: Any) -> Iterator[tuple[str, Array]]:
    for name, (output, ends) in results.items():
        yield f"{name}output", output
        for state, end in zip(layer._spec.states, ends if isinstance(ends, tuple) else (ends,), strict=True):
            yield f"{name}{state}_n", end
    yield "d x", gradients.x
    of_states = gradients.hx if isinstance(gradients.hx, tuple) else (gradients.hx,)
    for state, gradient in zip(layer._spec.states, of_states, strict=True):
        yield f"d {state}_0", gradient
    for name, gradient in gradients.params.items():
        yield f"d {name}", gradient


def run(case: Case, alone: Callable[[], None]) -> dict[str, Any]:
    """A short run first, then a longer one, twice: the bits have to be the same.

    Returns
    -------
    dict
        "error", the largest of all arrays; "of_allowed", its part of what is allowed, and "array", whose it is.
    """
    layer = layer_of(case)
    device = layer_of(case).to("cuda")
    allowed = EPS["tf32" if case.precision == "tf32" else case.dtype]
    path = Path(case.path, device, case.N)
    found: dict[str, Any] = {"of_allowed": 0.0, "error": 0.0, "array": "", "T": SHORT, "ran": path.ran}
    for T in (SHORT, case.T):
        call = call_of(case, layer, T)
        with fastrnn.use_backend("reference"):
            right = arrays(layer.astype("float64"), call, case)
        actual = arrays(device, call, case, path.forth, path.back)
        for name, expected in right.items():
            error = off_by(actual[name], expected)
            limit = allowed * max(1.0, largest(expected)) * (GRADIENTS if name.startswith("d ") else 1.0)
            if not error / limit <= found["of_allowed"]:
                found |= {"of_allowed": error / limit, "error": error, "array": name, "T": T}
        if not found["of_allowed"] <= 1:
            return found | {"verdict": "WRONG", "why": f"{found['array']} at T={T}: off by {found['error']:.1e}"}
    again = arrays(device, call, case, path.forth, path.back)
    other = [name for name in right if not np.array_equal(again[name], actual[name])]
    if other:
        return found | {"verdict": "WRONG", "why": f"other bits in a second run: {', '.join(other)}"}
    return found


def off_by(actual: Any, expected: Array) -> float:
    """The largest difference; infinite where shapes differ or something is not finite."""
    a = np.asarray(actual)
    if a.shape != expected.shape or not np.isfinite(a).all():
        return float("inf")
    return float(np.abs(a.astype(np.float64) - expected).max(initial=0.0))
