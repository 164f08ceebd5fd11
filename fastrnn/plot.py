"""Pictures of states, gates, losses and weights. Needs matplotlib: the extra ``plot``.

Each function draws and returns what it drew on, for titles of your own and ``figure.savefig``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

try:
    from matplotlib.figure import Figure as _Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    raise ImportError(f'fastrnn.plot needs matplotlib ({error}); to have it, pip install "fastrnn[plot]"') from error

__all__ = ["gates", "loss", "states", "weights"]

Array = NDArray[Any]
_SIGMOID, _SIGNED = "viridis", "RdBu_r"  # for 0 to 1; for values of both signs, white at 0
_TITLES = {
    "i": "input gate i",
    "f": "forget gate f",
    "g": "candidate g",
    "o": "output gate o",
    "r": "reset gate r",
    "z": "update gate z",
    "n": "new state n",
    "c": "cell state c",
    "h": "hidden state h",
}


def states(h: ArrayLike, *, row: int = 0, ax: Axes | None = None) -> Axes:
    """States, or an output, over time: a picture with time to the right and units downwards.

    Parameters
    ----------
    h : (T, H) or (T, N, H)
    row : int
        Of the batch.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError, IndexError
        `h` has another number of axes; there is no such row.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> from fastrnn import plot
    >>> y, h_n = fastrnn.GRU(3, 4, rng=0)(np.ones((5, 3)))
    >>> ax = plot.states(y)
    >>> title = ax.set_title("GRU")                      # and ax.figure.savefig("states.png")
    """
    a = np.asarray(h)
    if a.ndim not in (2, 3):
        raise ValueError(f"h should be (T, H) or (T, N, H), got: {a.shape}")
    picked = a if a.ndim == 2 else a[:, row]
    ax = _Figure(figsize=(8, 3), layout="constrained").add_subplot() if ax is None else ax
    _heat(ax, picked.T, signed=True)
    ax.set(xlabel="step", ylabel="unit")
    return ax


def gates(
    layer: Any, x: ArrayLike, hx: Any = None, *, layer_index: int = 0, reverse: bool = False, row: int = 0
) -> Figure:
    """All gates and states of one layer and direction over time, one picture below the other.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    x, hx
        As in a call of the layer.
    layer_index : int
        Which of stacked layers.
    reverse : bool
        The second direction of a bidirectional layer.
    row : int
        Of the batch.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    IndexError
        There is no such layer, direction or row.
    TypeError, ValueError
        As of `fastrnn.gate_activations`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> from fastrnn import plot
    >>> figure = plot.gates(fastrnn.GRU(3, 4, rng=0), np.ones((5, 3)))
    """
    from .gates import gate_activations

    found = gate_activations(layer, x, hx)
    D = 1 + layer.bidirectional
    if not 0 <= layer_index < len(found) // D or reverse > layer.bidirectional:
        raise IndexError(f"{layer!r} has no layer {layer_index}{', reverse' if reverse else ''}")
    arrays = found[layer_index * D + reverse]
    time_axis = 1 if layer.batch_first and next(iter(arrays.values())).ndim == 3 else 0
    picked = {name: a if a.ndim == 2 else np.take(a, row, axis=1 - time_axis) for name, a in arrays.items()}
    figure = _Figure(figsize=(8, 0.6 + 1.5 * len(picked)), layout="constrained")
    axes = figure.subplots(len(picked), sharex=True, squeeze=False)[:, 0]
    for ax, (name, a) in zip(axes, picked.items(), strict=True):
        _heat(ax, a.T, signed=name not in "iforz")
        ax.set(ylabel="unit")
        ax.set_title(_TITLES[name], loc="left", fontsize="medium")
    axes[-1].set(xlabel="step")
    return figure


def loss(train: ArrayLike, validation: ArrayLike | None = None, *, log: bool = False, ax: Axes | None = None) -> Axes:
    """Losses of a training run.

    Parameters
    ----------
    train, validation : (steps,)
        In the order in which they came. Fewer validation losses are spread evenly over the steps.
    log : bool
        A logarithmic axis.
    ax : matplotlib Axes, optional
        Where to draw; a new figure without it.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        They are no series of numbers.

    Examples
    --------
    >>> from fastrnn import plot
    >>> ax = plot.loss([2.0, 1.2, 0.9, 0.7], [1.5, 1.1])
    """
    ax = _Figure(figsize=(6, 4), layout="constrained").add_subplot() if ax is None else ax
    n = len(_series("train", train))
    ax.plot(np.arange(1, n + 1), _series("train", train), label="train", linewidth=1)
    if validation is not None:
        v = _series("validation", validation)
        ax.plot(np.arange(1, len(v) + 1) * n / max(len(v), 1), v, label="validation", marker=".")
        ax.legend(frameon=False)
    if log:
        ax.set_yscale("log")
    ax.set(xlabel="step", ylabel="loss")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def weights(layer: Any, *, most: int = 24) -> Figure:
    """Every parameter as a picture: matrices as they are, vectors as one row.

    Parameters
    ----------
    layer : layer, or dict of str to array
    most : int
        Parameters that are shown, the first ones.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    TypeError
        `layer` has no parameters, or is no dict of arrays.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn import plot
    >>> figure = plot.weights(fastrnn.GRU(3, 4, rng=0))
    """
    if not isinstance(layer, Mapping) and not hasattr(layer, "parameters"):
        raise TypeError(f"layer should be a layer or a dict of arrays, got: {type(layer).__name__}")
    given = layer if isinstance(layer, Mapping) else layer.parameters()
    arrays = {str(name): np.asarray(a, np.float64) for name, a in list(given.items())[:most] if np.size(a)}
    if not arrays:
        raise TypeError("layer should have parameters, got: none")
    columns = min(4, len(arrays))
    rows = -(-len(arrays) // columns)
    figure = _Figure(figsize=(3 * columns, 2.4 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for ax, (name, a) in zip(axes, arrays.items(), strict=False):
        _heat(ax, a.reshape(len(a), -1) if a.ndim > 1 else a.reshape(1, -1), signed=True)
        ax.set_title(f"{name} {a.shape}", fontsize="small")
        if a.ndim < 2:
            ax.set_yticks([])
    for ax in axes[len(arrays) :]:
        ax.axis("off")
    return figure


def _heat(ax: Axes, a: Array, *, signed: bool) -> None:
    """A picture of a matrix, and what its colours mean."""
    most = float(np.max(np.abs(a), initial=0, where=np.isfinite(a))) or 1.0
    low, high, colours = (-most, most, _SIGNED) if signed else (0.0, 1.0, _SIGMOID)
    image = ax.imshow(a, aspect="auto", interpolation="nearest", cmap=colours, vmin=low, vmax=high)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))  # there is no half a step
    ax.figure.colorbar(image, ax=ax, pad=0.01)


def _series(name: str, values: ArrayLike) -> Array:
    a = np.asarray(values, np.float64)
    if a.ndim != 1:
        raise ValueError(f"{name} should be a series of numbers, got shape: {a.shape}")
    return a
