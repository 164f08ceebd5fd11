"""Writes data/keras.npz: weights of Keras layers, an input, and what Keras computes. Needs Keras 3 and a backend of it.

    KERAS_BACKEND=jax python tests/make_keras.py

For each case one flat array: those of `get_weights` of each layer, the output, and the final states of the last layer,
forward first, h before c. "x" is the input of all, "lengths" the steps that "masked" sees.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path

import keras
import numpy as np

DATA = Path(__file__).parent / "data"
T, N, I, H = 4, 2, 2, 3
LENGTHS = np.array([2, 4])


def make(kind, rng, x, *, bidirectional=False, use_bias=True, layers=1, activation="tanh", mask=None):
    y, weights = keras.ops.convert_to_tensor(x), []
    for _ in range(layers):
        layer = getattr(keras.layers, kind)(
            H, activation=activation, use_bias=use_bias, return_sequences=True, return_state=True
        )
        layer = keras.layers.Bidirectional(layer) if bidirectional else layer
        layer(y)  # builds it
        layer.set_weights([rng.uniform(-0.8, 0.8, w.shape).astype(np.float32) for w in layer.get_weights()])
        y, *states = layer(y, mask=mask)
        weights += layer.get_weights()
    return np.concatenate([np.ravel(a) for a in (*weights, y, *states)])


def main():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (N, T, I)).astype(np.float32)
    cases = {
        f"{kind}{' bidirectional' * two}{' without bias' * (not bias)}": make(
            kind, rng, x, bidirectional=two, use_bias=bias
        )
        for kind, two, bias in product(("SimpleRNN", "LSTM", "GRU"), (False, True), (True, False))
    }
    cases["SimpleRNN relu"] = make("SimpleRNN", rng, x, activation="relu")
    cases["LSTM bidirectional stacked"] = make("LSTM", rng, x, bidirectional=True, layers=2)
    cases["GRU stacked"] = make("GRU", rng, x, layers=2)
    cases["GRU bidirectional masked"] = make("GRU", rng, x, bidirectional=True, mask=np.arange(T) < LENGTHS[:, None])
    np.savez_compressed(DATA / "keras.npz", x=x, lengths=LENGTHS, **cases)


if __name__ == "__main__":
    main()
