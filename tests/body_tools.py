"""What tests of bodies share: cells that torch does not have, random numbers for bodies, finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastrnn import bodies
from fastrnn.elementary import exp, select, sigmoid, tanh


class Cell(NamedTuple):
    body: Callable
    gates: int
    states: int = 1
    unit_weights: int = 0
    recurrent: bool = True


def minimal_gated_unit(gx, gh, s):
    f = sigmoid(gx[0] + gh[0])
    n = tanh(gx[1] + f * gh[1])
    return (n + (1 - f) * (s[0] - n),)


def independent_rnn(gx, gh, s, u):
    a = gx[0] + u[0] * s[0]
    return (select(a <= 0.0, 0.0, a),)


def peephole_lstm(gx, gh, s, u):
    c = sigmoid(gx[1] + gh[1] + u[1] * s[1]) * s[1] + sigmoid(gx[0] + gh[0] + u[0] * s[1]) * tanh(gx[2] + gh[2])
    return sigmoid(gx[3] + gh[3] + u[2] * c) * tanh(c), c


def coupled_lstm(gx, gh, s):
    i = sigmoid(gx[0] + gh[0])
    c = (1.0 - i) * s[1] + i * tanh(gx[1] + gh[1])
    return sigmoid(gx[2] + gh[2]) * tanh(c), c


def maximum(a, b):
    return select(a > b, a, b)


def exponential_lstm(gx, gh, s):
    """Exponential gates with a normalizer and a stabilizer, as in sLSTM."""
    a_i, a_f = gx[0] + gh[0], gx[1] + gh[1] + s[3]
    m = maximum(a_f, a_i)
    i, f = exp(a_i - m), exp(a_f - m)
    c, n = f * s[1] + i * tanh(gx[2] + gh[2]), f * s[2] + i
    return sigmoid(gx[3] + gh[3]) * (c / n), c, n, m


def integrator(gx, gh, s):
    """A state that is an input, one that does not change, and a constant one."""
    return gx[0], s[1], 0.5


def softsign_highway(gx, gh, s):
    """Numbers on either side of everything, divisions, minus signs."""
    a = 2 * gx[0] - gh[0] / 3
    n = -a / (1 + select(a >= 0, a, -a))
    t = 1 / (1 + exp(-(gx[1] - -gh[1])))
    return (-(n * -t) + (1 - t) * s[0] - 0.25,)


TORCH = {
    "rnn_tanh": Cell(bodies.rnn_tanh, 1),
    "rnn_relu": Cell(bodies.rnn_relu, 1),
    "lstm": Cell(bodies.lstm, 4, 2),
    "gru": Cell(bodies.gru, 3),
}
OTHERS = {
    "minimal_gated_unit": Cell(minimal_gated_unit, 2),
    "independent_rnn": Cell(independent_rnn, 1, 1, 1, recurrent=False),
    "peephole_lstm": Cell(peephole_lstm, 4, 2, 3),
    "coupled_lstm": Cell(coupled_lstm, 3, 2),
    "exponential_lstm": Cell(exponential_lstm, 4, 4),
    "integrator": Cell(integrator, 1, 3),
    "softsign_highway": Cell(softsign_highway, 2),
}


def draw(cell, rng, shape=(5, 40), scale=1.5):
    """What the body is given, and ds; the third state of the cells here is a positive one."""
    sizes = [cell.gates, cell.gates * cell.recurrent, cell.states, cell.unit_weights][: 4 if cell.unit_weights else 3]
    given = [tuple(rng.normal(scale=scale, size=shape) for _ in range(size)) for size in sizes]
    given[2] = tuple(np.abs(s) + 0.5 if i == 2 else s for i, s in enumerate(given[2]))
    return given, tuple(rng.normal(size=shape) for _ in range(cell.states))


def differences(body, given, ds, gradients):
    """What the gradients should be: central differences of fourth order, at the step that comes closest.

    Smaller steps are for kinks, across which a step must not reach.
    """

    def total(part, i, shift):
        shifted = [list(arrays) for arrays in given]
        shifted[part][i] = shifted[part][i] + shift
        return sum(d * new for d, new in zip(ds, body(*map(tuple, shifted)), strict=True))

    def derivative(part, i, step):
        near, far = (total(part, i, k * step) - total(part, i, -k * step) for k in (1, 2))
        return (8 * near - far) / (12 * step)

    def closest(part, i):
        tried = np.array([derivative(part, i, step) + np.zeros_like(ds[0]) for step in (1e-3, 1e-4, 1e-5)])
        best = np.argmin(np.abs(tried - gradients[part][i]), axis=0)
        return np.take_along_axis(tried, best[None], axis=0)[0]

    return tuple(tuple(closest(part, i) for i in range(len(arrays))) for part, arrays in enumerate(given))


def assert_gradients(body, backward, given, ds, tolerance=1e-9):
    """The gradients are the derivatives; in the order in which the body takes what they are of."""
    gradients = backward(*given, ds)
    assert [len(part) for part in gradients] == [len(part) for part in given]
    for part, of_part in zip(gradients, differences(body, given, ds, gradients), strict=True):
        for got, expected in zip(part, of_part, strict=True):
            assert got.shape == ds[0].shape
            assert np.all(np.abs(got - expected) <= tolerance * np.maximum(1, np.abs(expected)))
