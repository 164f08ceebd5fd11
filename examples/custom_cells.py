"""Cells of one's own: four that torch does not have, trained for a while, and timed beside loops in NumPy and torch.

    python examples/custom_cells.py

The task is the adding problem: of 15 numbers two are marked, and their sum is wanted after the last. Each cell is a
function of one hidden unit; its gradients are derived from it. With Numba they are compiled, which takes a minute at
the first run. Without, everything runs on the `reference` backend. The loops are what one would write otherwise: the
same function on NumPy arrays and, where torch is installed, on tensors, step by step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np

import fastrnn
from fastrnn.jit import exp, select, sigmoid, tanh

STEPS, ROWS, HIDDEN, UPDATES = 15, 64, 32, 300
TIMED = 100  # steps


def indrnn(gx, gh, s, u):
    """A unit sees itself alone, by a weight of its own (Li et al., 2018)."""
    a = gx[0] + u[0] * s[0]
    return (select(a > 0.0, a, 0.0),)


def peephole_lstm(gx, gh, s, u):
    """Gates see the unit's c (Gers and Schmidhuber, 2000)."""
    _, c = s
    i = sigmoid(gx[0] + gh[0] + u[0] * c)
    f = sigmoid(gx[1] + gh[1] + u[1] * c)
    c = f * c + i * tanh(gx[2] + gh[2])
    o = sigmoid(gx[3] + gh[3] + u[2] * c)
    return o * tanh(c), c


def coupled_lstm(gx, gh, s):
    """The forget gate is 1 - i."""
    _, c = s
    i, o = sigmoid(gx[0] + gh[0]), sigmoid(gx[2] + gh[2])
    c = c + i * (tanh(gx[1] + gh[1]) - c)
    return o * tanh(c), c


def slstm(gx, gh, s):
    """Exponential gates: n is the sum of all weights in c, m the largest exponent so far (Beck et al., 2024)."""
    _, c, n, m = s
    log_i, log_f = gx[0] + gh[0], gx[1] + gh[1] + m
    m = select(log_f > log_i, log_f, log_i)
    i, f = exp(log_i - m), exp(log_f - m)
    c = f * c + i * tanh(gx[2] + gh[2])
    n = f * n + i
    return sigmoid(gx[3] + gh[3]) * c / n, c, n, m


CELLS = (
    fastrnn.Cell(indrnn, gates=1, unit_weights=1, recurrent=False, name="IndRNN"),
    fastrnn.Cell(peephole_lstm, gates=4, states=2, unit_weights=3, name="peephole LSTM"),
    fastrnn.Cell(coupled_lstm, gates=3, states=2, name="coupled LSTM"),
    fastrnn.Cell(slstm, gates=4, states=4, name="sLSTM"),
)


def adding_problem(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and marks (T, N, 2), and the sum of the two marked numbers (N,)."""
    x = np.zeros((STEPS, ROWS, 2), np.float32)
    x[..., 0] = rng.random((STEPS, ROWS))
    first, second = rng.integers(0, STEPS // 2, ROWS), rng.integers(STEPS // 2, STEPS, ROWS)
    x[first, np.arange(ROWS), 1] = x[second, np.arange(ROWS), 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(0)


class Adam:
    """Changes arrays in place."""

    def __init__(self, params: dict[str, np.ndarray], lr: float = 0.01) -> None:
        self.params, self.lr, self.t = params, lr, 0
        self.mean = {name: np.zeros_like(array) for name, array in params.items()}
        self.square = {name: np.zeros_like(array) for name, array in params.items()}

    def step(self, grads: dict[str, np.ndarray]) -> None:
        self.t += 1
        for name, array in self.params.items():
            mean, square, grad = self.mean[name], self.square[name], np.clip(grads[name], -1, 1)
            mean += 0.1 * (grad - mean)
            square += 0.001 * (grad**2 - square)
            array -= self.lr * (mean / (1 - 0.9**self.t)) / (np.sqrt(square / (1 - 0.999**self.t)) + 1e-8)


def layer_of(cell: fastrnn.Cell, num_layers: int = 1) -> fastrnn.Recurrent:
    layer = fastrnn.Recurrent(cell, 2, HIDDEN, num_layers, rng=0)
    for i in range(num_layers):
        if cell.name == "IndRNN":  # memory: what a unit has, it keeps
            setattr(layer, f"weight_unit_l{i}", np.random.default_rng(i).uniform(0.5, 1.0, (1, HIDDEN)))
        elif cell.name == "peephole LSTM":  # the same: forget gates begin open
            bias = layer.parameters()[f"bias_ih_l{i}"].copy()
            bias[HIDDEN : 2 * HIDDEN] = 1
            setattr(layer, f"bias_ih_l{i}", bias)
    return layer


def begin(layer: fastrnn.Recurrent, N: int) -> Any:
    """Initial states: zeros, but sLSTM's m, so that nothing from before the first step counts."""
    zeros = np.zeros((layer.num_layers, N, HIDDEN), np.float32)
    return (zeros, zeros, zeros, zeros - 1e30) if layer.cell.name == "sLSTM" else None


def trained(cell: fastrnn.Cell) -> tuple[float, float]:
    """The mean squared error of two layers at first and over the last ten updates."""
    rng, layer = np.random.default_rng(1), layer_of(cell, num_layers=2)
    head = rng.uniform(-1, 1, HIDDEN).astype(np.float32) / HIDDEN**0.5
    params = {**layer.parameters(), "head": head, "bias": np.zeros((), np.float32)}
    adam, losses = Adam(params), []
    for _ in range(UPDATES):
        x, target = adding_problem(rng)
        (y, _), backward = layer.vjp(x, begin(layer, ROWS), wrt="params", consume=True)
        off = y[-1] @ head + params["bias"] - target
        losses.append(float((off**2).mean()))
        d_y, d_off = np.zeros_like(y), 2 * off / ROWS
        d_y[-1] = d_off[:, None] * head
        adam.step({**backward(d_y).params, "head": d_off @ y[-1], "bias": d_off.sum()})
        layer.parameters().changed()
    return losses[0], float(np.mean(losses[-10:]))


# --- the same in loops ------------------------------------------------------------------------------------------------


def loop(body: Callable[..., Any], p: dict[str, Any], x: Any, states: tuple[Any, ...], split: Any, stack: Any) -> Any:
    """The body step by step on (T, N, ...), with the products of all gates; NumPy and torch alike."""
    G = len(p["weight_ih_l0"]) // HIDDEN
    u = tuple(p["weight_unit_l0"]) if "weight_unit_l0" in p else None
    outputs = []
    for x_t in x:
        gx, gh = split(x_t @ p["weight_ih_l0"].T + p["bias_ih_l0"], G), ()
        if "weight_hh_l0" in p:
            gh = split(states[0] @ p["weight_hh_l0"].T + p["bias_hh_l0"], G)
        states = body(gx, gh, states) if u is None else body(gx, gh, states, u)
        outputs.append(states[0])
    return stack(outputs)


def start(layer: fastrnn.Recurrent, N: int) -> tuple[np.ndarray, ...]:
    given = begin(layer, N) or (np.zeros((1, N, HIDDEN), np.float32),) * layer.cell.states
    return tuple(part[0] for part in given)


def numpy_loop(layer: fastrnn.Recurrent, x: np.ndarray) -> np.ndarray:
    states = start(layer, x.shape[1])
    y: np.ndarray = loop(layer.cell.body, layer.parameters(), x, states, lambda z, G: np.split(z, G, axis=-1), np.stack)
    return y


def torch_loop(layer: fastrnn.Recurrent, x: np.ndarray) -> Callable[[], Any] | None:
    """A call of it with autograd, and back; None without torch."""
    try:
        import torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    functions = {"exp": torch.exp, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "select": torch.where}
    body = FunctionType(layer.cell.body.__code__, {**globals(), **functions})  # the same code on these
    p = {name: torch.tensor(array, requires_grad=True) for name, array in layer.state_dict().items()}
    given, states = torch.tensor(x), tuple(map(torch.tensor, start(layer, x.shape[1])))

    def call() -> Any:
        y = loop(body, p, given, states, lambda z, G: z.chunk(G, -1), torch.stack)
        y.sum().backward()
        return y.detach()

    return call


def microseconds(call: Callable[[], Any]) -> float:
    """Per step: the fastest of as many calls as go into a third of a second."""
    end, best = time.perf_counter() + 1 / 3, float("inf")
    while time.perf_counter() < end:
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best / TIMED * 1e6


def timed(cell: fastrnn.Cell) -> tuple[float, float, float, float | None]:
    """A step of one row, forward: fastrnn and the NumPy loop; forward and backward: fastrnn and the torch loop."""
    layer, x = layer_of(cell), np.random.default_rng(2).normal(size=(TIMED, 1, 2)).astype(np.float32)
    given = begin(layer, 1)
    y, _ = layer(x, given)
    if not np.allclose(numpy_loop(layer, x), y, atol=1e-4):
        raise AssertionError(f"{cell.name}: the loop gives something else")

    def forward_and_backward() -> None:
        (y, _), backward = layer.vjp(x, given)
        backward(np.ones_like(y))

    torch_call = torch_loop(layer, x)
    if torch_call and not np.allclose(torch_call(), y, atol=1e-4):
        raise AssertionError(f"{cell.name}: the loop in torch gives something else")
    return (
        microseconds(lambda: layer(x, given)),
        microseconds(lambda: numpy_loop(layer, x)),
        microseconds(forward_and_backward),
        microseconds(torch_call) if torch_call else None,
    )


def main() -> None:
    fastrnn.set_num_threads(1)
    if not {info.name: info.available for info in fastrnn.backends()}["numba"]:
        print("Numba is not installed: on the reference backend")
        fastrnn.set_backend("reference")
    print("                 loss, first and last      forward, us/step      forward + backward")
    print("cell                 300 updates           fastrnn  NumPy loop   fastrnn  torch loop")
    for cell in CELLS:
        first, last = trained(cell)
        forward, by_numpy, both, by_torch = timed(cell)
        torch = "        --" if by_torch is None else f"{by_torch:10.1f}"
        print(
            f"{cell.name:16}  {first:6.4f} -> {last:6.4f}      {forward:10.2f}  {by_numpy:10.1f}{both:10.2f}  {torch}"
        )


if __name__ == "__main__":
    main()
