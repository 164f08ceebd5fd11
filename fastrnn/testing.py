"""Checks that users can run on layers of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import validate

__all__ = ["GradientError", "GradientReport", "check_gradients"]

Array = NDArray[Any]

# Fourth-order differences at a step of 1e-3 are off by some 1e-12 of a smooth function. Smaller steps are for relu:
# the step must not reach across a kink.
_STEPS = (1e-3, 1e-4, 1e-5)


class GradientError(AssertionError):
    """A gradient that is not the derivative."""


class GradientReport(NamedTuple):
    """What `check_gradients` compared.

    Attributes
    ----------
    errors : dict of str to float
        Of each gradient (``"x"``, ``"h_0"``, ``"c_0"``, other states, and parameters under their names) the largest
        difference from the derivative, relative to max(1, largest derivative).
    n_checked : int
        How many derivatives were taken.
    """

    errors: dict[str, float]
    n_checked: int


def check_gradients(
    layer: Any,
    x: ArrayLike | None = None,
    hx: Any = None,
    *,
    lengths: ArrayLike | None = None,
    reset: ArrayLike | None = None,
    max_elements: int = 50,
    tolerance: float = 1e-7,
    rng: Any = 0,
) -> GradientReport:
    """Compare every gradient that ``layer.vjp`` gives with finite differences of the layer's own output, in float64.

    Parameters
    ----------
    layer : RNN, LSTM, GRU, Recurrent or a cell
        It is not changed: a copy in float64 is checked, in evaluation mode, on the backend in force.
    x : array, optional
        Input as in a call of the layer, but no PackedSequence; without it (4, 3, I), for cells (3, I), is drawn.
    hx : array, pair or tuple, optional
        Initial states; drawn where not given.
    lengths, reset : optional
        As in a call; not for cells.
    max_elements : int
        Of each array at most so many elements, drawn at random, are varied.
    tolerance : float
        Largest error, relative to max(1, largest derivative).
    rng : int, numpy.random.Generator or None
        Draws inputs, elements and the scalar that is differentiated.

    Returns
    -------
    GradientReport

    Raises
    ------
    GradientError
        A gradient is off by more than `tolerance`; the message lists which, and where.
    TypeError, ValueError
        An argument is not as described.

    Notes
    -----
    The scalar is the sum of output and final states, each multiplied with random weights. Derivatives are central
    differences of fourth order [1]_, ``(8 (f(a+s) - f(a-s)) - (f(a+2s) - f(a-2s))) / 12 s``. Where an argument of relu
    is exactly 0, there is no derivative and the gradient is reported as wrong.

    References
    ----------
    .. [1] Abramowitz and Stegun, Handbook of Mathematical Functions, 25.3.21.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn.testing import check_gradients
    >>> report = check_gradients(fastrnn.GRU(3, 4, rng=0))
    >>> max(report.errors.values()) < 1e-9
    True
    """
    if isinstance(layer, type) or not hasattr(layer, "hidden_size"):
        raise TypeError(f"layer should be a recurrent layer or cell of fastrnn, got: {type(layer).__name__}")
    if _is_cell(layer) and not (lengths is None and reset is None):
        raise TypeError("lengths and reset should be None for a cell")
    if hasattr(x, "batch_sizes"):
        raise TypeError(f"x should be an array, got: {type(x).__name__}")
    if not isinstance(tolerance, Real) or not tolerance > 0:
        raise ValueError(f"tolerance should be a positive number, got: {tolerance!r}")
    generator = validate.generator(rng)
    n = validate.size("max_elements", max_elements)
    exact = layer.astype("float64").eval()
    options = {k: v for k, v in {"lengths": lengths, "reset": reset}.items() if v is not None}
    if x is None:
        x = generator.normal(size=(3, exact.input_size) if _is_cell(exact) else (4, 3, exact.input_size))
    exact(x, hx, **options)  # where they are wrong, the layer says so
    x, states = _inputs(exact, x, hx, generator)
    pair = exact._spec.has_c

    def joined() -> Any:
        return tuple(states) if pair else states[0]

    result, backward = exact.vjp(x, joined(), **options)
    seeds = [generator.normal(size=a.shape) for a in _flat(result)]

    def value() -> float:
        return float(sum((a * s).sum() for a, s in zip(_flat(exact(x, joined(), **options)), seeds, strict=True)))

    seeded = _seeded(result, iter(seeds))
    grads = backward(seeded) if _is_cell(exact) else backward(*seeded)
    params = exact.parameters()
    of_states = grads.hx if pair else (grads.hx,)
    pairs = {"x": (x, grads.x)}
    names = [f"{name}_0" for name in exact._spec.states]
    pairs |= {name: both for name, *both in zip(names, states, of_states, strict=True)}
    pairs |= {name: (array, grads.params[name]) for name, array in params.items()}
    errors, wrong, checked = {}, [], 0
    for name, (array, gradient) in pairs.items():
        chosen = list(_chosen(array, n, generator))
        found = [_nearest(value, array, index, gradient[index], params.changed, tolerance) for index in chosen]
        scale = max([1.0, *(abs(derivative) for _, derivative in found)])  # not of the gradients, which may be wrong
        for index, (error, derivative) in zip(chosen, found, strict=True):
            if not error <= tolerance * scale:
                at = f"{name}[{', '.join(map(str, index))}]"
                wrong.append(
                    f"{at} is {gradient[index]:.9g}, not {derivative:.9g}: off by {error:.2g}, "
                    f"allowed {tolerance * scale:.2g}"
                )
        errors[name] = max([0.0, *(float(error) / scale for error, _ in found)])
        checked += len(chosen)
    if wrong:
        more = f"\n  and {len(wrong) - 10} more" if len(wrong) > 10 else ""
        raise GradientError(f"{len(wrong)} of {checked} gradients are wrong:\n  " + "\n  ".join(wrong[:10]) + more)
    return GradientReport(errors, checked)


def _inputs(layer: Any, x: ArrayLike, hx: Any, rng: np.random.Generator) -> tuple[Array, list[Array]]:
    """Fresh float64 arrays: the input, and the initial states."""
    x = np.array(x, np.float64)
    if hx is not None:
        return x, [np.array(s, np.float64) for s in (hx if layer._spec.has_c else (hx,))]
    sizes = layer._sizes
    batch: tuple[int, ...]
    if _is_cell(layer):
        batch = x.shape[:-1]
    else:
        rows = () if x.ndim == 2 else (x.shape[0 if layer.batch_first else 1],)
        batch = (sizes.num_layers * sizes.directions, *rows)
    widths = [sizes.out_size] + [sizes.hidden_size] * (layer._spec.n_states - 1)
    return x, [rng.uniform(-1, 1, (*batch, width)) for width in widths]


def _flat(result: Any) -> list[Array]:
    return [a for part in result for a in _flat(part)] if isinstance(result, tuple) else [result]


def _seeded(result: Any, seeds: Iterator[Array]) -> Any:
    """The seeds in the form of the result."""
    return tuple(_seeded(part, seeds) for part in result) if isinstance(result, tuple) else next(seeds)


def _is_cell(layer: Any) -> bool:
    return not hasattr(layer, "num_layers")


def _chosen(array: Array, n: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    at = np.arange(array.size) if array.size <= n else rng.choice(array.size, n, replace=False)
    for i in at:
        yield tuple(int(k) for k in np.unravel_index(i, array.shape))


def _nearest(
    value: Callable[[], float],
    array: Array,
    index: tuple[int, ...],
    gradient: float,
    changed: Callable[[], None],
    enough: float,
) -> tuple[float, float]:
    """Error of the gradient against the derivative, and the derivative, at the step that fits best."""
    best = np.inf, np.nan
    for step in _STEPS:
        derivative = _derivative(value, array, index, step, changed)
        error = abs(derivative - gradient)
        if np.isnan(best[1]) or error < best[0]:
            best = error, derivative
        if best[0] <= enough:
            break
    return best


def _derivative(
    value: Callable[[], float], array: Array, index: tuple[int, ...], step: float, changed: Callable[[], None]
) -> float:
    before = array[index]
    found = {}
    for k in (1, -1, 2, -2):
        array[index] = before + k * step
        changed()
        found[k] = value()
    array[index] = before
    changed()
    return (8 * (found[1] - found[-1]) - (found[2] - found[-2])) / (12 * step)
