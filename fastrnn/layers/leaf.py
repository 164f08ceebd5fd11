"""Gradients through a layer: what the layers around the recurrence share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .module import Module

Array = NDArray[Any]
WRT = ("x", "params")


class Gradients(NamedTuple):
    """The gradients of a scalar; None for what ``wrt`` did not name.

    Attributes
    ----------
    x : array of the shape of the input
        None where the input is integers, as of `Embedding`.
    params : dict of str to array
        Under torch's names, in torch's order, in the parameters' shapes; empty where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> linear = fastrnn.Linear(3, 2)
    >>> y, backward = linear.vjp(np.ones((5, 3)))
    >>> grads = backward(np.ones_like(y))
    >>> grads.x.shape, sorted(grads.params)
    ((5, 3), ['bias', 'weight'])
    """

    x: Any
    params: dict[str, Array] | None


class Traced(NamedTuple):
    """A call of a layer, and its derivatives.

    Attributes
    ----------
    y : array
        The result.
    d_x : function of dy, or None
        Gives the gradient with respect to the input; None where there is none.
    d_params : function of dy, optional
        Gives those with respect to the parameters, by name.
    """

    y: Array
    d_x: Callable[[Array], Any] | None
    d_params: Callable[[Array], dict[str, Array]] | None = None


class Backward:
    """What `vjp` returns beside the result: call it with the gradient of a scalar with respect to that result.

    It is pure: it adds to nothing, so it may be called any number of times, from several threads too.
    """

    def __init__(self, layer: Module, wanted: Iterable[str], run: Callable[[Any], Gradients]) -> None:
        self._name, self._wanted, self._run = type(layer).__name__, wanted, run

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a backward function cannot be copied or pickled; call vjp again")

    def __repr__(self) -> str:
        return f"<backward through {self._name} with respect to {', '.join(w for w in WRT if w in self._wanted)}>"

    def __call__(self, dy: ArrayLike) -> Gradients:
        """Gradients with respect to what ``wrt`` named.

        Parameters
        ----------
        dy : array of the result's shape
            The scalar's gradient with respect to the result.

        Returns
        -------
        Gradients

        Raises
        ------
        RuntimeError
            The weights have changed since the forward pass.
        TypeError, ValueError
            An argument is not as described.
        """
        return self._run(dy)


class Leaf(Module):
    """A layer of an array to an array. Not constructed by users.

    A subclass has ``forward(x)`` and ``_trace(x)``; the latter keeps copies of what it needs of its input and output,
    both of which are the caller's.
    """

    def vjp(self, x: ArrayLike, *, wrt: str | Iterable[str] = WRT) -> tuple[Array, Backward]:
        """Run the layer, and return what brings gradients back through it: a vector-Jacobian product.

        Parameters
        ----------
        x
            As in a call of the layer.
        wrt : some of "x", "params"
            What gradients are wanted for; others are not computed.

        Returns
        -------
        result : array
            As a call of the layer gives it.
        backward : Backward
            ``grads = backward(dy)``: ``grads.x``, ``grads.params``. After a change of the weights it raises
            RuntimeError.

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.
        """
        return vjp(self, wrt, lambda: self._trace(x))

    def _trace(self, x: ArrayLike) -> Traced:
        """A call, and functions that give the gradients."""
        raise NotImplementedError


def vjp(layer: Module, wrt: str | Iterable[str], trace: Callable[[], Traced]) -> tuple[Array, Backward]:
    """The result of ``trace()``, and what brings gradients back through it."""
    wanted = validate.wrt(wrt, WRT)
    check = layer._unchanged()  # first, so that a change of the weights meanwhile is seen
    y, d_x, d_params = trace()
    shape, dtype = y.shape, y.dtype

    def run(given: ArrayLike) -> Gradients:
        check()
        dy = validate.shaped("dy", given, shape, dtype)
        return Gradients(
            d_x(dy) if d_x and "x" in wanted else None,
            (d_params(dy) if d_params else {}) if "params" in wanted else None,
        )

    return y, Backward(layer, wanted, run)


def kept(x: Array) -> Array:
    """A copy, for the way back, of an array that is the caller's."""
    return np.array(x, order="C")
