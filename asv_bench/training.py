"""Forward and backward in one call: the gradients of x and of all weights for a given gradient of the output.

Weights change with every step of an optimizer, so what an engine packs of them it packs in every call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import cycle
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from peers import jax_cell

import fastrnn
from fastrnn.cli.engines import Problem, imported

Array = NDArray[Any]
Training = Callable[[], Iterable[Any]]  # -> the gradients of x and of the weights, in the order of a state dict
MODULES = "fastrnn module"  # of fastrnn.interop.torch: to be compared with torch's own
OURS = ("fastrnn", MODULES)
FLOOR = 16 * float(np.finfo("float32").eps)  # a smaller error is right, whatever torch's is


class Target(NamedTuple):
    """How many times torch's own time over ours is to be, at sizes from the first to the second of each pair."""

    ours: str
    cells: tuple[str, ...]
    B: tuple[int, int]
    H: tuple[int, int]
    ratio: float

    def includes(self, row: Mapping[str, Any]) -> bool:
        B, H = self.B, self.H
        return row["cell"] in self.cells and B[0] <= row["B"] <= B[1] and H[0] <= row["H"] <= H[1]


TARGETS = (
    Target("fastrnn", ("GRU", "RNN"), B=(1, 1), H=(1, 128), ratio=10.0),
    Target("fastrnn", ("LSTM",), B=(1, 1), H=(32, 32), ratio=3.0),
    Target("fastrnn", ("LSTM",), B=(32, 32), H=(128, 512), ratio=1.15),
    Target("fastrnn", ("GRU",), B=(32, 32), H=(128, 512), ratio=1.5),
    Target(MODULES, ("GRU", "RNN"), B=(1, 32), H=(1, 256), ratio=1.0),
)


def d_output(problem: Problem) -> Array:
    """(T, N, H)"""
    return np.random.default_rng(2).standard_normal((problem.T, problem.N, problem.H), np.float32)


def truth(problem: Problem) -> dict[str, Array]:
    """The gradients in float64."""
    with fastrnn.use_backend("reference"):
        _, backward = problem.layer.astype("float64").vjp(problem.x, wrt=("x", "params"))
        grads = backward(d_output(problem))
    return {"x": grads.x, **grads.params}


def errors(gradients: Iterable[Any], true: Mapping[str, Array]) -> dict[str, float]:
    """How far each gradient is from the truth, in units of max(1, its largest value).

    Raises
    ------
    ValueError
        One has another shape, or there are more or fewer of them.
    """
    found = {}
    for (name, expected), gradient in zip(true.items(), gradients, strict=True):
        if (shape := np.shape(gradient)) != expected.shape:
            raise ValueError(f"the gradient of {name} should have shape {expected.shape}, got: {shape}")
        found[name] = float(np.abs(np.asarray(gradient) - expected).max() / max(1.0, np.abs(expected).max()))
    return found


def recording(engines: Iterable[str]) -> AbstractContextManager[Any]:
    """Lets torch record what it does; for all else in this process it is told not to."""
    return imported("torch").inference_mode(False) if "torch" in engines else nullcontext()


def fastrnn_vjp(problem: Problem) -> Training:
    layer, x, dy = fastrnn.from_state_dict(problem.weights), problem.x, d_output(problem)

    def run() -> Iterable[Any]:
        layer.parameters().changed()
        _, backward = layer.vjp(x, wrt=("x", "params"))
        grads = backward(dy)
        return grads.x, *grads.params.values()

    return run


def torch_autograd(problem: Problem) -> Training:
    return _torch(imported("torch.nn"), problem)


def torch_modules(problem: Problem) -> Training:
    return _torch(imported("fastrnn.interop.torch"), problem, changed=True)


def _torch(package: Any, problem: Problem, *, changed: bool = False) -> Training:
    """With `changed` one weight moves by its last bit before each call: what was packed of the weights is packed anew.

    By way of NumPy, in 0.1 us: an optimizer's step is not what is timed.
    """
    torch = imported("torch")
    module = getattr(package, problem.cell)(problem.I, problem.H)
    module.load_state_dict({name: torch.from_numpy(array) for name, array in problem.weights.items()})
    x, dy = torch.from_numpy(problem.x.copy()).requires_grad_(), torch.from_numpy(d_output(problem))
    leaves = (x, *module.parameters())
    weight = module.weight_ih_l0.detach().numpy()
    values = cycle([np.nextafter(weight[0, 0], np.float32(np.inf)), weight[0, 0].copy()])

    def run() -> Iterable[Any]:
        for leaf in leaves:
            leaf.grad = None
        if changed:
            weight[0, 0] = next(values)
        module(x)[0].backward(dy)
        return [leaf.grad for leaf in leaves]

    return run


def jax_vjp(problem: Problem) -> Training:
    """The gradient of the scan, compiled as a whole; weights are arguments, so that nothing is known of them before."""
    jax = imported("jax")
    x, dy, *weights = map(jax.numpy.asarray, (problem.x, d_output(problem), *problem.weights.values()))

    def forward(x: Any, weights: Any) -> Any:
        cell, state, project = jax_cell(problem, weights)
        return jax.lax.scan(cell, state, project(x))[1]

    @jax.jit
    def forward_backward(x: Any, weights: Any, dy: Any) -> Any:
        y, backward = jax.vjp(forward, x, weights)
        return y, backward(dy)

    def run() -> Iterable[Any]:
        _, (dx, d_weights) = jax.block_until_ready(forward_backward(x, weights, dy))
        return dx, *d_weights

    return run


#: By what is printed: the engines that are needed, and what makes the function.
TRAININGS: dict[str, tuple[set[str], Callable[[Problem], Training]]] = {
    "fastrnn": ({"fastrnn"}, fastrnn_vjp),
    MODULES: ({"fastrnn", "torch"}, torch_modules),
    "torch": ({"torch"}, torch_autograd),
    "jax": ({"jax"}, jax_vjp),
}


def trainings(problem: Problem, engines: Iterable[str]) -> dict[str, Training]:
    found = set(engines)
    return {name: make(problem) for name, (needed, make) in TRAININGS.items() if needed <= found}
