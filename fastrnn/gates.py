"""What the gates of a layer do, step by step: for looking at it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backends.reference import sigmoid
from .cells import GRU, LSTM, CellSpec, Weights
from .layers.recurrent_base import RecurrentBase

Array = NDArray[Any]


def gate_activations(
    layer: RecurrentBase, x: ArrayLike, hx: Any = None, *, lengths: ArrayLike | None = None
) -> list[dict[str, Array]]:
    """The gates and states of every layer and direction at every step.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x : (T, N, I), (N, T, I) with ``batch_first``, or (T, I)
    hx, lengths
        As in a call of the layer.

    Returns
    -------
    list of dict of str to array
        One for each layer, then direction, as torch orders states. Names in torch's order of the gates, then states:
        ``i, f, g, o, c, h`` of an LSTM; ``r, z, n, h`` of a GRU; ``h`` of an RNN. The gates after sigmoid or tanh, as
        the documentation of torch.nn.LSTM and torch.nn.GRU has them. Arrays (T, N, H), the first two axes as those of
        `x`; 0 past a row's length. An LSTM's h is what is put out, (T, N, P) with a projection.

    Raises
    ------
    TypeError
        `layer` is none of the three.
    ValueError
        The layer would apply dropout, so that no two calls are the same; or an argument is not as a call takes it.

    Examples
    --------
    >>> import fastrnn, numpy as np
    >>> [of_layer] = fastrnn.gate_activations(fastrnn.GRU(3, 4, rng=0), np.ones((5, 2, 3)))
    >>> {name: a.shape for name, a in of_layer.items()}
    {'r': (5, 2, 4), 'z': (5, 2, 4), 'n': (5, 2, 4), 'h': (5, 2, 4)}
    """
    if not isinstance(layer, RecurrentBase) or layer._spec.custom:
        raise TypeError(f"layer should be an RNN, LSTM or GRU, got: {layer!r}")
    if layer.training and layer.dropout:
        raise ValueError("layer should be in eval mode: dropout differs from call to call")
    x = np.asarray(x)
    _, _, states = layer(x, hx, lengths=lengths, return_states=True)
    batched = x.ndim == 3
    h_all, c_all = states.h, getattr(states, "c", None)
    if not batched:
        h_all, c_all = h_all[:, :, None], None if c_all is None else c_all[:, :, None]
    below = x.swapaxes(0, 1) if layer.batch_first and batched else x if batched else x[:, None]
    T, N, _ = below.shape
    last = np.full(N, T) if lengths is None else np.asarray(lengths)
    running = np.arange(T)[:, None] < last
    D = 1 + layer.bidirectional
    found = []
    for index, weights in enumerate(layer._weights()):
        before = (np.arange(T)[:, None] + np.zeros(N, int)) if index % D == 0 else _next_step(T, last)
        h, h_prev = h_all[index, 1:], np.take_along_axis(h_all[index], before[:, :, None], 0)
        gates = _gates(layer._spec, weights, below.astype(layer.dtype), h_prev)
        if c_all is not None:
            gates["c"] = c_all[index, 1:]
        gates["h"] = h
        shown = {name: np.where(running[:, :, None], a, 0) for name, a in gates.items()}
        found.append({name: _as_given(a, layer.batch_first, batched) for name, a in shown.items()})
        if index % D == D - 1:
            below = np.concatenate([h_all[i, 1:] for i in range(index - D + 1, index + 1)], axis=-1)
    return found


def _next_step(T: int, lengths: Array) -> Array:
    """For the reverse direction: where in `states` the state before step t is, (T, N)."""
    t = np.arange(T)[:, None]
    return np.where(t + 1 < lengths, t + 2, 0)


def _gates(spec: CellSpec, w: Weights, x: Array, h_prev: Array) -> dict[str, Array]:
    gx, gh = x @ w.w_ih.T, h_prev @ w.w_hh.T  # type: ignore[union-attr]
    if w.b_ih is not None:
        gx, gh = gx + w.b_ih, gh + w.b_hh
    if spec == LSTM:
        i, f, g, o = np.split(gx + gh, 4, axis=-1)
        return {"i": sigmoid(i), "f": sigmoid(f), "g": np.tanh(g), "o": sigmoid(o)}
    if spec == GRU:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(gx, 3, axis=-1), np.split(gh, 3, axis=-1)
        r = sigmoid(x_r + h_r)
        return {"r": r, "z": sigmoid(x_z + h_z), "n": np.tanh(x_n + r * h_n)}
    return {}


def _as_given(a: Array, batch_first: bool, batched: bool) -> Array:
    return a[:, 0] if not batched else a.swapaxes(0, 1) if batch_first else a
