"""Layers from the weights of Keras' SimpleRNN, LSTM and GRU, given as arrays; Keras itself is not needed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

import fastrnn

from .. import validate
from ..layers.base import ZEROS

Array = NDArray[Any]

_KINDS = {"SimpleRNN": "RNN", "RNN": "RNN", "LSTM": "LSTM", "GRU": "GRU"}
#: Places in Keras' order of the gates, by torch's order: Keras has i f c o in LSTM, as torch, and z r h in GRU.
_GATES = {"RNN": (0,), "LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2)}


def from_keras_weights(
    kind: str,
    weights: Sequence[Any],
    *,
    batch_first: bool = True,
    nonlinearity: str = "tanh",
    dtype: DTypeLike | None = None,
) -> Any:
    """Make the layer that computes what a recurrent layer of Keras computes, or a stack of them.

    Parameters
    ----------
    kind : "SimpleRNN" (or "RNN"), "LSTM" or "GRU"
    weights : list of arrays, or list of such lists
        What `get_weights` of the Keras layer gives: kernel (I, G*H), recurrent kernel (H, G*H) and, with ``use_bias``,
        bias: (G*H,), for GRU (2, 3*H). Of a ``Bidirectional`` layer twice as many, forward first. A list of such lists
        is a stack of layers of the same H, each of which passes on its whole sequence.
    batch_first : bool
        As in the constructor; true without it, as Keras has it.
    nonlinearity : "tanh" or "relu"
        The ``activation`` of a SimpleRNN, which its weights do not say.
    dtype : dtype-like, optional
        Of the layer; without it float64 for float64 weights, otherwise float32.

    Returns
    -------
    RNN, LSTM or GRU

    Raises
    ------
    TypeError, ValueError
        An argument is not as described; or a GRU has ``reset_after=False``, which its bias (3*H,) shows.

    Notes
    -----
    Weights do not say everything. The layer computes what Keras does with ``activation`` tanh (SimpleRNN also relu),
    ``recurrent_activation`` sigmoid, ``go_backwards=False``, ``merge_mode="concat"`` and, for a GRU without bias,
    ``reset_after=True``: Keras' defaults.

    Examples
    --------
    >>> import fastrnn, numpy as np
    >>> kernel, recurrent, bias = np.ones((3, 16)), np.ones((4, 16)), np.zeros(16)
    >>> fastrnn.from_keras_weights("LSTM", [kernel, recurrent, bias], dtype="float32")
    LSTM(3, 4, batch_first=True)
    """
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"kind should be one of {', '.join(_KINDS)}, got: {kind!r}")
    kind = _KINDS[kind]
    options: dict[str, Any] = {"batch_first": batch_first}
    if kind == "RNN":
        options["nonlinearity"] = nonlinearity
    elif nonlinearity != "tanh":
        raise ValueError(f"nonlinearity={nonlinearity!r} does not apply to {kind}")
    layers = _listed(weights)
    if dtype is None:
        is_double = all(getattr(array, "dtype", None) == np.float64 for arrays in layers.values() for array in arrays)
        dtype = np.float64 if is_double else np.float32
    counts = {len(arrays) for arrays in layers.values()}
    if len(counts) != 1 or not counts <= {2, 3, 4, 6}:
        raise ValueError(
            "weights should be kernel, recurrent kernel and perhaps bias, or twice these, of each layer alike, got: "
            + " and ".join(map(str, sorted(counts)))
            + " arrays"
        )
    n = counts.pop()
    directions, bias = (2 if n > 3 else 1), n in (3, 6)
    state: dict[str, Array] = {}
    for layer, (name, arrays) in enumerate(layers.items()):
        for d in range(directions):
            first = d * (n // directions)
            part = {f"{name}[{first + i}]": arrays[first + i] for i in range(n // directions)}
            suffix = f"_l{layer}" + "_reverse" * d
            state |= {key + suffix: value for key, value in _converted(kind, part, validate.dtype(dtype)).items()}
    I, H = state["weight_ih_l0"].shape[1], state["weight_hh_l0"].shape[1]
    _check_stack(state, list(layers), directions, n // directions)
    made = getattr(fastrnn, kind)(
        I, H, len(layers), bias=bias, bidirectional=directions == 2, **options, dtype=dtype, rng=ZEROS
    )
    made.load_state_dict(state)
    return made


def _check_stack(state: dict[str, Array], names: list[str], directions: int, per_direction: int) -> None:
    """Refuse layers and directions that do not fit together; `names` are the layers', of so many arrays a direction."""
    I, H = state["weight_ih_l0"].shape[1], state["weight_hh_l0"].shape[1]
    sizes = {array.shape[1] for key, array in state.items() if key.startswith("weight_hh")}
    if len(sizes) > 1:
        raise ValueError(
            f"weights should be of one H in all layers and directions, got: {sorted(sizes)}; make one by one"
        )
    for layer, name in enumerate(names):
        for d in range(directions):
            inputs = state[f"weight_ih_l{layer}" + "_reverse" * d].shape[1]
            if inputs != (expected := directions * H if layer else I):
                first = d * per_direction
                raise ValueError(f"{name}[{first}] should be a kernel of {expected} inputs, got: {inputs}")


def _listed(weights: Any) -> dict[str, list[Any]]:
    """The arrays of each layer by what messages call the list."""
    if not isinstance(weights, list | tuple) or not weights:
        raise TypeError(f"weights should be a list of arrays, or of such lists, got: {type(weights).__name__}")
    if not all(isinstance(part, list | tuple) for part in weights):
        return {"weights": list(weights)}
    return {f"weights[{i}]": list(part) for i, part in enumerate(weights)}


def _converted(kind: str, arrays: dict[str, ArrayLike], dtype: np.dtype[Any]) -> dict[str, Array]:
    """Weights of one layer in one direction, without suffix."""
    kernel, recurrent, *biases = (validate.real_array(name, array, dtype) for name, array in arrays.items())
    names = list(arrays)
    n_gates = len(_GATES[kind])
    H = recurrent.shape[0] if recurrent.ndim == 2 else 0
    if H == 0 or recurrent.shape != (H, n_gates * H):
        raise ValueError(f"{names[1]} should be a recurrent kernel (H, {n_gates}*H), got: {recurrent.shape}")
    if kernel.ndim != 2 or kernel.shape[0] == 0 or kernel.shape[1] != n_gates * H:
        raise ValueError(f"{names[0]} should be a kernel (I, {n_gates * H}), got: {kernel.shape}")
    found = {"weight_ih": kernel.T, "weight_hh": recurrent.T}
    for bias in biases:
        if kind == "GRU" and bias.shape == (3 * H,):
            raise ValueError(
                f"{names[2]} has shape {bias.shape}, that of a GRU with reset_after=False, which is not supported: "
                "here, as in torch and by Keras' default, the reset gate acts on the state's product with its weights"
            )
        expected = (2, 3 * H) if kind == "GRU" else (n_gates * H,)
        if bias.shape != expected:
            raise ValueError(f"{names[2]} should be a bias {expected}, got: {bias.shape}")
        found["bias_ih"], found["bias_hh"] = bias if kind == "GRU" else (bias, np.zeros_like(bias))
    return {name: _in_torchs_order(kind, array) for name, array in found.items()}


def _in_torchs_order(kind: str, array: Array) -> Array:
    gates = np.split(array, len(_GATES[kind]))
    return np.concatenate([gates[i] for i in _GATES[kind]])
