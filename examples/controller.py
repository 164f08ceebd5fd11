"""A cart and a pole under a GRU's control, simulated by one compiled function: millions of steps a second.

    python examples/controller.py            (needs Numba: pip install "fastrnn[numba]")

In each step the GRU sees where cart and pole are, not how fast they move, a linear layer makes a force of its state,
and Runge-Kutta moves both on. First the same is done by a loop in Python, for comparison. Then there is time for a
search that needs nothing but speed: the GRU's weights are changed at random, and a change that keeps the pole higher
up is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin
from time import perf_counter

import numpy as np
from numba import njit

import fastrnn
from fastrnn import jit

HIDDEN, STEPS, CANDIDATES = 16, 500, 1500
DT, FORCE, GRAVITY, CART, POLE, LENGTH = 0.02, 10.0, 9.81, 1.0, 0.1, 0.5


@njit
def slopes(s, force):
    """How the place of the cart, its speed, the pole's angle from upright, and its speed change."""
    _, v, angle, w = s
    pull = (force + POLE * LENGTH * w * w * sin(angle)) / (CART + POLE)
    share = POLE * cos(angle) / (CART + POLE)
    dw = (GRAVITY * sin(angle) - cos(angle) * pull) / (LENGTH * (4 / 3 - share * cos(angle)))
    return v, pull - share * LENGTH * dw, w, dw


@njit
def along(s, d, dt):
    return s[0] + dt * d[0], s[1] + dt * d[1], s[2] + dt * d[2], s[3] + dt * d[3]


@njit
def moved(s, force):
    """The state after one step of Runge-Kutta, and a wall at either end."""
    a = slopes(s, force)
    b = slopes(along(s, a, DT / 2), force)
    c = slopes(along(s, b, DT / 2), force)
    d = slopes(along(s, c, DT), force)
    s = along(along(along(along(s, a, DT / 6), b, DT / 3), c, DT / 3), d, DT / 6)
    return (min(max(s[0], -3.0), 3.0), 0.0 if abs(s[0]) > 3.0 else s[1], s[2], s[3])


@njit(cache=True, nogil=True)
def simulate(gru, head, steps):
    """The mean height of the pole's tip, from -1 to 1; it hangs at first."""
    seen, h, out = np.empty(3, np.float32), np.zeros(HIDDEN, np.float32), np.empty(1, np.float32)
    s, height = (0.0, 0.0, pi, 0.0), 0.0
    for _ in range(steps):
        seen[0], seen[1], seen[2] = s[0], cos(s[2]), sin(s[2])
        jit.gru_step(gru, seen, h)
        jit.linear(head, h, out)
        s = moved(s, FORCE * jit.tanh(out[0]))
        height += cos(s[2])
    return height / steps


def simulate_in_python(score: Callable[[np.ndarray], float], steps: int) -> float:
    """The same, calling a network from Python."""
    s, height = (0.0, 0.0, pi, 0.0), 0.0
    for _ in range(steps):
        out = score(np.array([s[0], cos(s[2]), sin(s[2])], np.float32))
        s = moved(s, FORCE * np.tanh(out))
        height += cos(s[2])
    return height / steps


class Network:
    """A GRUCell, and a linear layer on its state."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.cell = fastrnn.GRUCell(3, HIDDEN, rng=rng)
        bound = HIDDEN**-0.5
        self.head = rng.uniform(-bound, bound, (1, HIDDEN)).astype(np.float32)

    def packed(self) -> tuple[jit.Packed, jit.PackedLinear]:
        return jit.pack(self.cell), jit.pack_linear(self.head)

    def change(self, noise: list[np.ndarray], scale: float) -> None:
        params = self.cell.parameters()
        for array, change in zip([*params.values(), self.head], noise, strict=True):
            array += np.float32(scale) * change
        params.changed()

    def noise(self, rng: np.random.Generator) -> list[np.ndarray]:
        return [rng.normal(size=a.shape).astype(np.float32) for a in [*self.cell.parameters().values(), self.head]]


def in_python(network: Network) -> tuple[str, Callable[[np.ndarray], float]]:
    """What a network is called by, and a function that keeps its state: torch's, where there is torch."""
    h = np.zeros(HIDDEN, np.float32)

    def score(seen: np.ndarray) -> float:
        nonlocal h
        h = network.cell(seen, h)
        return (network.head @ h).item()

    try:
        import torch
    except ImportError:
        return "fastrnn.GRUCell", score

    torch.set_num_threads(1)  # more are slower here
    cell, head = torch.nn.GRUCell(3, HIDDEN), torch.from_numpy(network.head)
    cell.load_state_dict({name: torch.from_numpy(array) for name, array in network.cell.state_dict().items()})
    state = torch.zeros(HIDDEN)

    def score_of_torch(seen: np.ndarray) -> float:
        nonlocal state
        with torch.inference_mode():
            state = cell(torch.from_numpy(seen), state)
            return (head @ state).item()

    return "torch.nn.GRUCell", score_of_torch


def search(rng: np.random.Generator) -> tuple[float, float]:
    """The height at first and in the end."""
    network = Network(rng)
    first = best = simulate(*network.packed(), STEPS)
    for _ in range(CANDIDATES):
        noise = network.noise(rng)
        network.change(noise, 0.3)
        height = simulate(*network.packed(), STEPS)
        if height > best:
            best = height
        else:
            network.change(noise, -0.3)
    return first, best


def main() -> None:
    rng = np.random.default_rng(0)
    network = Network(rng)
    packs = network.packed()
    compiled = simulate(*packs, STEPS)  # compiles, or finds it in the cache
    start = perf_counter()
    simulate(*packs, 100 * STEPS)
    fast = (perf_counter() - start) / (100 * STEPS)

    for _ in range(2):  # the first is for warming up
        name, score = in_python(network)
        start = perf_counter()
        height = simulate_in_python(score, STEPS)
        slow = (perf_counter() - start) / STEPS
    print(f"compiled: {1e-3 / fast:6.0f} thousand steps a second")
    print(f"a loop around {name}: {1e-3 / slow:.0f}; the same height: {abs(height - compiled) < 1e-3}")
    print(f"that is {slow / fast:.0f} times as fast")

    start = perf_counter()
    first, best = search(rng)
    seconds = perf_counter() - start
    print(f"{CANDIDATES} networks tried in {seconds:.1f} s: the pole's tip went from {first:.2f} up to {best:.2f}")


if __name__ == "__main__":
    main()
