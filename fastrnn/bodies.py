"""torch's cells as bodies: one step of one hidden unit, elementwise, and its chain rule.

A body is ``body(gx, gh, s) -> new s``, with tuples of the input parts ``x @ w_ih.T + b_ih`` and of the recurrent parts
``h @ w_hh.T + b_hh``, a part for each gate, and of the states, h first. Its chain rule is
``backward(gx, gh, s, ds) -> (dgx, dgh, ds_prev)``: from the gradients of the new states those of all that the body is
given; ``ds_prev[0]`` is what reaches h past the recurrent part. It computes the gates again.

The same functions run on NumPy arrays, on SIMD lanes and on a GPU. Hence no ``if``, and literals only where there is no
way without: a literal is float64 in compiled code for single numbers, and makes float64 of what it meets.
"""

from __future__ import annotations

from typing import Any

from .elementary import select, sigmoid, tanh, zero_like

Tuple = tuple[Any, ...]


def rnn_tanh(gx: Tuple, gh: Tuple, s: Tuple) -> Tuple:
    """``h' = tanh(gx + gh)``: torch.nn.RNN."""
    return (tanh(gx[0] + gh[0]),)


def rnn_tanh_backward(gx: Tuple, gh: Tuple, s: Tuple, ds: Tuple) -> tuple[Tuple, Tuple, Tuple]:
    h = tanh(gx[0] + gh[0])
    da = ds[0] * (1.0 - h * h)
    return (da,), (da,), (zero_like(da),)


def rnn_relu(gx: Tuple, gh: Tuple, s: Tuple) -> Tuple:
    """``h' = relu(gx + gh)``: torch.nn.RNN with ``nonlinearity="relu"``. NaN passes."""
    a = gx[0] + gh[0]
    return (select(a <= 0.0, 0.0, a),)


def rnn_relu_backward(gx: Tuple, gh: Tuple, s: Tuple, ds: Tuple) -> tuple[Tuple, Tuple, Tuple]:
    """At 0 the gradient is 0, and where ``gx + gh`` is NaN it passes, as in torch."""
    da = select(gx[0] + gh[0] <= 0.0, 0.0, ds[0])
    return (da,), (da,), (zero_like(da),)


def lstm(gx: Tuple, gh: Tuple, s: Tuple) -> Tuple:
    """torch.nn.LSTM, its gates i, f, g, o:

    ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``.
    """
    c = sigmoid(gx[1] + gh[1]) * s[1] + sigmoid(gx[0] + gh[0]) * tanh(gx[2] + gh[2])
    return sigmoid(gx[3] + gh[3]) * tanh(c), c


def lstm_backward(gx: Tuple, gh: Tuple, s: Tuple, ds: Tuple) -> tuple[Tuple, Tuple, Tuple]:
    i, f = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
    g, o = tanh(gx[2] + gh[2]), sigmoid(gx[3] + gh[3])
    tanh_c = tanh(f * s[1] + i * g)
    dc = ds[1] + ds[0] * o * (1.0 - tanh_c * tanh_c)
    da_i = dc * g * (i - i * i)
    da_f = dc * s[1] * (f - f * f)
    da_g = dc * i * (1.0 - g * g)
    da_o = ds[0] * tanh_c * (o - o * o)
    da = da_i, da_f, da_g, da_o
    return da, da, (zero_like(dc), dc * f)


def gru(gx: Tuple, gh: Tuple, s: Tuple) -> Tuple:
    """torch.nn.GRU, its gates r, z, n:

    ``n = tanh(gx_n + sigmoid(r) gh_n)``, ``h' = n + sigmoid(z) (h - n)``, which is torch's ``(1 - z) n + z h``.
    """
    n = tanh(gx[2] + sigmoid(gx[0] + gh[0]) * gh[2])
    return (n + sigmoid(gx[1] + gh[1]) * (s[0] - n),)


def gru_backward(gx: Tuple, gh: Tuple, s: Tuple, ds: Tuple) -> tuple[Tuple, Tuple, Tuple]:
    r, z = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
    n = tanh(gx[2] + r * gh[2])
    da_n = ds[0] * (1.0 - z) * (1.0 - n * n)
    da_z = ds[0] * (s[0] - n) * (z - z * z)
    da_r = da_n * gh[2] * (r - r * r)
    return (da_r, da_z, da_n), (da_r, da_z, da_n * r), (ds[0] * z,)
