"""Recurrent layers one number at a time, in plain Python: slow, obvious, and built unlike the package.

Rows are run one by one and units one by one; nothing here is vectorised, sorted or stacked.
"""

from __future__ import annotations

import math

import numpy as np


def sigmoid(a):
    return 1 / (1 + math.exp(-a)) if a >= 0 else math.exp(a) / (1 + math.exp(a))


def affine(w, v, b, unit):
    """Row `unit` of w v + b."""
    return sum(float(w[unit, k]) * v[k] for k in range(len(v))) + (0.0 if b is None else float(b[unit]))


def step(layer, weights, x, h, c):
    """One step of one row: lists of floats in, the new (h, c) out."""
    w_ih, w_hh, b_ih, b_hh, w_hr, _ = weights
    H = layer.hidden_size
    if hasattr(layer, "cell"):
        return users_step(layer.cell, H, weights, x, h, c)

    def gate(number, unit):
        row = number * H + unit
        return affine(w_ih, x, b_ih, row) + affine(w_hh, h, b_hh, row)

    kind = type(layer).__name__.removesuffix("Cell")
    if kind == "RNN":
        activate = math.tanh if layer.nonlinearity == "tanh" else lambda a: max(a, 0.0)
        return [activate(gate(0, j)) for j in range(H)], c
    if kind == "LSTM":
        c = [sigmoid(gate(1, j)) * c[j] + sigmoid(gate(0, j)) * math.tanh(gate(2, j)) for j in range(H)]
        h = [sigmoid(gate(3, j)) * math.tanh(c[j]) for j in range(H)]
        return (h if w_hr is None else [affine(w_hr, h, None, p) for p in range(len(w_hr))]), c
    new = []
    for j in range(H):
        r, z = sigmoid(gate(0, j)), sigmoid(gate(1, j))
        n = math.tanh(affine(w_ih, x, b_ih, 2 * H + j) + r * affine(w_hh, h, b_hh, 2 * H + j))
        new.append((1 - z) * n + z * h[j])
    return new, c


def users_step(cell, H, weights, x, h, c):
    """The same for a cell with a body; c holds all states but h, side by side."""
    w_ih, w_hh, b_ih, b_hh, _, unit = weights
    new = []
    for j in range(H):
        rows = range(j, cell.gates * H, H)
        gx = tuple(affine(w_ih, x, b_ih, row) for row in rows)
        gh = tuple(affine(w_hh, h, b_hh, row) for row in rows) if cell.recurrent else ()
        u = [tuple(float(w[j]) for w in unit)] if cell.unit_weights else []
        new.append(cell.body(gx, gh, (h[j], *c[j::H]), *u))
    h, *others = ([float(s) for s in state] for state in zip(*new, strict=True))
    return h, [s for state in others for s in state]


def layer_weights(layer, number, suffix=""):
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr", "weight_unit")
    return [layer.state_dict().get(f"{name}_l{number}{suffix}") for name in names]


def run(layer, x, hx=None, lengths=None, reset=None):
    """The result with return_states of x (T, N, I): y, h_n, c_n, states h, states c, as float64 arrays.

    Of a cell of S states c has all but h, side by side.
    """
    T, N, _ = x.shape
    H, P = layer.hidden_size, getattr(layer, "proj_size", 0) or layer.hidden_size
    H = H * (layer.cell.states - 1) if hasattr(layer, "cell") else H
    D = 1 + layer.bidirectional
    rows = layer.num_layers * D
    h_0, *others = hx if isinstance(hx, tuple) else (hx,)
    c_0 = np.concatenate(others, axis=-1) if others else None
    h_0 = np.zeros((rows, N, P)) if h_0 is None else h_0
    c_0 = np.zeros((rows, N, H)) if c_0 is None else c_0
    h_n, c_n = np.zeros((rows, N, P)), np.zeros((rows, N, H))
    h_all, c_all = np.zeros((rows, T + 1, N, P)), np.zeros((rows, T + 1, N, H))
    y = np.zeros((T, N, D * P))
    for n in range(N):
        length = T if lengths is None else int(lengths[n])
        sequence = [[float(v) for v in x[t, n]] for t in range(length)]
        for number in range(layer.num_layers):
            outputs = [[] for _ in range(length)]
            for direction in range(D):
                row = number * D + direction
                weights = layer_weights(layer, number, "_reverse" if direction else "")
                h, c = [float(v) for v in h_0[row, n]], [float(v) for v in c_0[row, n]]
                h_all[row, 0, n], c_all[row, 0, n] = h, c
                for t in range(length)[::-1] if direction else range(length):
                    first = reset is not None and bool(reset[t, n])
                    if first and not direction:
                        h, c = [0.0] * P, [0.0] * H
                    h, c = step(layer, weights, sequence[t], h, c)
                    h_all[row, t + 1, n], c_all[row, t + 1, n] = h, c
                    outputs[t] += h
                    if first and direction:
                        h, c = [0.0] * P, [0.0] * H
                h_n[row, n], c_n[row, n] = h, c
            sequence = outputs
        for t in range(length):
            y[t, n] = sequence[t]
    return y, h_n, c_n, h_all, c_all
