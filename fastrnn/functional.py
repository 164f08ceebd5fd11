"""RNN, LSTM and GRU as pure functions of arrays: the layers' calls and gradients without the layers.

Parameters are a mapping from torch's names to arrays, as ``layer.state_dict()`` or `fastrnn.load` gives it. How many
layers and directions there are, and whether there are biases and a projection, is read off the names. They are packed
in every call; who calls often with the same parameters makes a layer.

>>> import fastrnn, numpy as np
>>> params = fastrnn.GRU(3, 4, rng=0).state_dict()
>>> (y, h_n), backward = fastrnn.functional.gru_vjp(np.ones((5, 2, 3)), None, params)
>>> grads = backward(np.ones_like(y))
>>> grads.x.shape, sorted(grads.params)
((5, 2, 3), ['bias_hh_l0', 'bias_ih_l0', 'weight_hh_l0', 'weight_ih_l0'])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import validate
from .backends import current
from .call import Options, call
from .cells import GRU, LSTM, NONLINEARITIES, CellSpec, Sizes, Weights
from .sequence import Stack
from .vjp import Backward, vjp

if TYPE_CHECKING:
    from .packing import PackedSequence

__all__ = ["gru", "gru_vjp", "lstm", "lstm_vjp", "rnn", "rnn_vjp"]

Array = NDArray[Any]
Params = Mapping[str, ArrayLike]


def rnn(
    x: ArrayLike | PackedSequence,
    hx: ArrayLike | None,
    params: Params,
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    rng: Any = None,
    return_states: bool = False,
    out: Array | None = None,
) -> Any:
    """The call of an `RNN` layer.

    Parameters
    ----------
    x, hx, lengths, reset, return_states, out
        As in the call of a layer; `hx` may be None, for zeros.
    params : mapping of str to array
        Under torch's names, all of one network and no others; float64 where one of them is, else float32.
    nonlinearity : "tanh" or "relu"
    batch_first : bool
        `x` and the output are (N, T, ...).
    dropout : float
        Applied between layers.
    rng : int, numpy.random.Generator or None
        Draws the dropout.

    Returns
    -------
    output : (T, N, D*H_out), (N, T, D*H_out), (T, D*H_out) or PackedSequence
    h_n : (L*D, N, H_out)
    states : sequence.States
        With `return_states`.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> params = fastrnn.RNN(3, 4, rng=0).state_dict()
    >>> y, h_n = fastrnn.functional.rnn(np.ones((5, 2, 3)), None, params)
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """
    spec = NONLINEARITIES[validate.nonlinearity(nonlinearity, NONLINEARITIES)]
    network = _network(spec, params)
    options = _options(network, batch_first, dropout, rng)
    return call(network.stack(), options, x, hx, lengths=lengths, reset=reset, return_states=return_states, out=out)


def lstm(
    x: ArrayLike | PackedSequence,
    hx: Any,
    params: Params,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    rng: Any = None,
    return_states: bool = False,
    out: Array | None = None,
) -> Any:
    """The call of an `LSTM` layer; arguments as in `rnn`, `hx` a pair (h_0, c_0) or None.

    Returns
    -------
    output : (T, N, D*H_out), (N, T, D*H_out), (T, D*H_out) or PackedSequence
    (h_n, c_n) : (L*D, N, H_out), (L*D, N, H)
    states : sequence.States
        With `return_states`.
    """
    network = _network(LSTM, params)
    options = _options(network, batch_first, dropout, rng)
    return call(network.stack(), options, x, hx, lengths=lengths, reset=reset, return_states=return_states, out=out)


def gru(
    x: ArrayLike | PackedSequence,
    hx: ArrayLike | None,
    params: Params,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    rng: Any = None,
    return_states: bool = False,
    out: Array | None = None,
) -> Any:
    """The call of a `GRU` layer; arguments and results as in `rnn`."""
    network = _network(GRU, params)
    options = _options(network, batch_first, dropout, rng)
    return call(network.stack(), options, x, hx, lengths=lengths, reset=reset, return_states=return_states, out=out)


def rnn_vjp(
    x: ArrayLike | PackedSequence,
    hx: ArrayLike | None,
    params: Params,
    *,
    nonlinearity: str = "tanh",
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    rng: Any = None,
    wrt: str | Iterable[str] = ("x", "hx", "params"),
    consume: bool = False,
    checkpoint_every: int | None = None,
) -> tuple[Any, Backward]:
    """`rnn`, and what brings gradients back through it.

    Parameters
    ----------
    x, hx, params, nonlinearity, batch_first, dropout, lengths, reset, rng
        As in `rnn`.
    wrt, consume, checkpoint_every
        As in ``layer.vjp``.

    Returns
    -------
    result : tuple
        ``(output, h_n)``.
    backward : vjp.Backward
        ``grads = backward(d_output, d_state=None, *, per_sample=False)``. It keeps to the parameters as they were.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> params = fastrnn.RNN(3, 4, rng=0).state_dict()
    >>> (y, h_n), backward = fastrnn.functional.rnn_vjp(np.ones((5, 2, 3)), None, params)
    >>> backward(np.ones_like(y)).params["bias_hh_l0"].shape
    (4,)
    """
    spec = NONLINEARITIES[validate.nonlinearity(nonlinearity, NONLINEARITIES)]
    network = _network(spec, params)
    options = _options(network, batch_first, dropout, rng)
    return network.vjp(options, x, hx, lengths, reset, wrt, consume, checkpoint_every)


def lstm_vjp(
    x: ArrayLike | PackedSequence,
    hx: Any,
    params: Params,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    rng: Any = None,
    wrt: str | Iterable[str] = ("x", "hx", "params"),
    consume: bool = False,
    checkpoint_every: int | None = None,
) -> tuple[Any, Backward]:
    """`lstm`, and what brings gradients back through it; arguments as in `lstm` and `rnn_vjp`."""
    network = _network(LSTM, params)
    options = _options(network, batch_first, dropout, rng)
    return network.vjp(options, x, hx, lengths, reset, wrt, consume, checkpoint_every)


def gru_vjp(
    x: ArrayLike | PackedSequence,
    hx: ArrayLike | None,
    params: Params,
    *,
    batch_first: bool = False,
    dropout: float = 0.0,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    rng: Any = None,
    wrt: str | Iterable[str] = ("x", "hx", "params"),
    consume: bool = False,
    checkpoint_every: int | None = None,
) -> tuple[Any, Backward]:
    """`gru`, and what brings gradients back through it; arguments as in `gru` and `rnn_vjp`."""
    network = _network(GRU, params)
    options = _options(network, batch_first, dropout, rng)
    return network.vjp(options, x, hx, lengths, reset, wrt, consume, checkpoint_every)


class _Network(NamedTuple):
    sizes: Sizes
    names: list[list[str]]
    weights: list[Weights]
    dtype: np.dtype[Any]

    def stack(self) -> Stack:
        backend = current()
        prepared = [backend.prepare(self.sizes.spec, weights) for weights in self.weights]
        return Stack(self.sizes, self.dtype, prepared, backend)

    def vjp(
        self, options: Options, x: Any, hx: Any, lengths: Any, reset: Any, wrt: Any, consume: Any, every: Any
    ) -> tuple[Any, Backward]:
        stack = self.stack()
        return vjp(
            stack,
            [stack.backend.prepare_backward(self.sizes.spec, weights) for weights in self.weights],
            self.names,
            options,
            x,
            hx,
            lengths=lengths,
            reset=reset,
            wrt=wrt,
            consume=consume,
            checkpoint_every=every,
            check=lambda: None,  # packed copies do not change
        )


def _options(network: _Network, batch_first: Any, dropout: Any, rng: Any) -> Options:
    if rng is not None:  # then numpy.random is imported, which takes a while
        rng = validate.generator(rng)
    return Options(
        network.sizes.spec.kind,
        validate.flag("batch_first", batch_first),
        validate.dropout(dropout),
        lambda: validate.generator(rng),
    )


def _network(spec: CellSpec, params: Any) -> _Network:
    """Read sizes off names and shapes; every name and shape is checked."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params should be a mapping of names to arrays, got: {type(params).__name__}")
    for name in ("weight_ih_l0", "weight_hh_l0"):
        if name not in params:
            raise ValueError(f"params should have {name}, got: {', '.join(map(str, list(params)[:8])) or 'none'}")
    exact = any(getattr(value, "dtype", None) == np.float64 for value in params.values())
    dtype = np.dtype(np.float64 if exact else np.float32)
    arrays = {name: validate.real_array(f"params[{name!r}]", value, dtype) for name, value in params.items()}
    w_ih, w_hh = arrays["weight_ih_l0"], arrays["weight_hh_l0"]
    projected = spec.has_c and "weight_hr_l0" in arrays
    for name in ("weight_ih_l0", "weight_hh_l0", *["weight_hr_l0"] * projected):
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            raise ValueError(f"params[{name!r}] should have two sizes, none of them 0, got: {arrays[name].shape}")
    hidden_size = arrays["weight_hr_l0"].shape[-1] if projected else w_hh.shape[1]
    if w_ih.shape[0] != spec.n_gates * hidden_size:
        raise ValueError(
            f"params['weight_ih_l0'] should have {spec.n_gates} x {hidden_size} rows, as {spec.kind} with "
            f"{hidden_size} hidden units has, got: {w_ih.shape[0]}"
        )
    num_layers = next(k for k in range(1, len(arrays) + 1) if f"weight_ih_l{k}" not in arrays)
    sizes = Sizes(
        spec,
        w_ih.shape[1],
        hidden_size,
        num_layers,
        2 if "weight_ih_l0_reverse" in arrays else 1,
        "bias_ih_l0" in arrays,
        w_hh.shape[1] if projected else 0,
    )
    expected = sizes.shapes()
    shapes = {name: shape for part in expected for name, shape in part.items()}
    if missing := [name for name in shapes if name not in arrays]:
        raise ValueError(f"params lacks {', '.join(missing[:8])} of {spec.kind}")
    if unexpected := [name for name in arrays if name not in shapes]:
        names = ", ".join(map(str, unexpected[:8]))
        raise ValueError(f"params has {names}, which {spec.kind} with these parameters has not")
    for name, shape in shapes.items():
        validate.shaped(f"params[{name!r}]", arrays[name], shape, dtype)
    weights = [Weights(**{f: arrays[name] for f, name in zip(sizes.fields, part, strict=True)}) for part in expected]
    return _Network(sizes, [list(part) for part in expected], weights, dtype)
