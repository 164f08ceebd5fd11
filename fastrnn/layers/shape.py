"""Layers that choose or reshape: Flatten, SelectOutput, LastStep, MeanOverTime."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate
from .leaf import WRT, Backward, Leaf, Traced, vjp
from .module import Module

Array = NDArray[Any]


class Flatten(Leaf):
    """Several axes made one [1]_.

    Parameters
    ----------
    start_dim, end_dim : int
        The first and the last of them.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Flatten.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> fastrnn.Flatten()(np.ones((2, 3, 4))).shape
    (2, 12)
    """

    _fixed = ("start_dim", "end_dim")

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim, self.end_dim = validate.integer("start_dim", start_dim), validate.integer("end_dim", end_dim)

    def forward(self, x: ArrayLike) -> Array:
        """Join the axes.

        Parameters
        ----------
        x : array_like

        Returns
        -------
        array
            A copy.

        Raises
        ------
        IndexError
            There is no such axis.
        TypeError, ValueError
            `end_dim` comes before `start_dim`, or `x` is no array of real numbers.
        """
        return self._trace(x).y

    def _trace(self, x: ArrayLike) -> Traced:
        x = validate.floating("x", x)
        first, last = (validate.axis(dim, x.ndim) for dim in (self.start_dim, self.end_dim))
        if first > last:
            raise ValueError(f"flatten() has invalid args: start_dim cannot come after end_dim, got: {self!r}")
        shape = x.shape
        joined = int(np.prod(shape[first : last + 1], dtype=np.intp))
        y = np.array(x, order="C").reshape(*shape[:first], joined, *shape[last + 1 :])
        return Traced(y, lambda dy: np.array(dy, order="C").reshape(shape))

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class SelectOutput(Leaf):
    """One part of what a recurrent layer returns, in a `Sequential`.

    torch has no such layer; models define one. Here too it has no parameters, so that the layers behind it keep their
    numbers.

    Parameters
    ----------
    item : int or tuple of int
        0 for the output, 1 for the final state. A tuple is a way: ``(1, 0)`` is h_n of an LSTM, ``(1, 0, -1)`` the last
        of its rows: the final state of the last layer (in its last direction).

    Raises
    ------
    TypeError
        `item` is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> net = fastrnn.Sequential(fastrnn.LSTM(3, 4), fastrnn.SelectOutput((1, 0, -1)), fastrnn.Linear(4, 2))
    >>> net(np.ones((5, 2, 3))).shape                    # of h_n of the last layer
    (2, 2)
    """

    _fixed = ("item",)

    def __init__(self, item: int | tuple[int, ...] = 0) -> None:
        if isinstance(item, tuple | list):
            self.item: int | tuple[int, ...] = tuple(validate.integer("item", i) for i in item)
        else:
            self.item = validate.integer("item", item)

    def forward(self, x: Any) -> Array:
        """Choose.

        Parameters
        ----------
        x : tuple
            Of arrays and tuples, as a recurrent layer returns it.

        Returns
        -------
        array
            A copy.

        Raises
        ------
        IndexError
            There is no such part.
        TypeError
            The way ends before an array, or goes on behind a number.
        """
        return self._trace(x).y

    def _trace(self, x: Any) -> Traced:
        """The gradient is nested as `x` is, with None for zeros: what a recurrent layer takes."""
        levels: list[tuple[int, Any]] = []
        for i in self.item if isinstance(self.item, tuple) else (self.item,):
            if not (isinstance(x, tuple) or (isinstance(x, np.ndarray) and x.ndim)):
                raise TypeError(f"x should be nested as deep as item={self.item} says, got: {type(x).__name__}")
            if not -len(x) <= i < len(x):
                raise IndexError(f"item={self.item} is out of range, got: a part of length {len(x)}")
            levels.append((i, len(x) if isinstance(x, tuple) else x.shape))
            x = x[i]
        if isinstance(x, tuple):
            raise TypeError(f"item={self.item} should lead to an array, got: a tuple of {len(x)}")
        return Traced(np.array(x), lambda dy: _nested(dy, levels))

    def extra_repr(self) -> str:
        return f"{self.item}"


def _nested(dy: Array, levels: list[tuple[int, Any]]) -> Any:
    d: Any = dy.copy()
    for i, size in reversed(levels):
        if isinstance(size, int):
            d = tuple(d if k == i % size else None for k in range(size))
        else:
            part, d = d, np.zeros(size, dy.dtype)
            d[i] = part
    return d


def _said(batch_first: Any) -> bool | None:
    return None if batch_first is None else validate.flag("batch_first", batch_first)


class OverTime(Leaf):
    """Steps of each row brought down to one. Not constructed by users; a subclass has `_chosen` and `_spread`."""

    _checks: ClassVar = {**Module._checks, "batch_first": _said}

    def __init__(self, batch_first: bool | None = None) -> None:
        self.batch_first = batch_first

    def _behind(self, batch_first: bool) -> Self:
        """The layer behind a recurrent one whose `batch_first` is so: itself, where it says its own."""
        if self.batch_first is not None:
            return self
        layer = copy.copy(self)
        layer.batch_first = batch_first
        return layer

    def forward(self, x: ArrayLike, *, lengths: ArrayLike | None = None) -> Array:
        """Bring the steps down to one.

        Parameters
        ----------
        x : (T, N, F), (N, T, F) with `batch_first`, (T, F) unbatched
            What a recurrent layer puts out.
        lengths : (N,) integers in 0..T, optional
            Steps of each row; what lies past them is not read. For rows without steps the result is 0.

        Returns
        -------
        (N, F) or (F,)

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.
        """
        return self._trace(x, lengths).y

    def vjp(
        self, x: ArrayLike, *, lengths: ArrayLike | None = None, wrt: str | Iterable[str] = WRT
    ) -> tuple[Array, Backward]:
        """As that of other layers, with `lengths` as in a call."""
        return vjp(self, wrt, lambda: self._trace(x, lengths))

    def _trace(self, x: ArrayLike, lengths: ArrayLike | None = None) -> Traced:
        x = validate.floating("x", x)
        validate.rank(type(self).__name__, x)
        batched, swap = x.ndim == 3, x.ndim == 3 and self.batch_first
        steps = x.swapaxes(0, 1) if swap else x if batched else x[:, None]
        T, N, F = steps.shape
        ends = np.full(N, T) if lengths is None else validate.lengths(lengths, T, N)
        y = self._chosen(steps, ends) if T else np.zeros((N, F), x.dtype)

        def d_x(dy: Array) -> Array:
            dx = np.zeros((N, T, F) if swap else (T, N, F), dy.dtype)
            if T:
                self._spread(dy if batched else dy[None], ends, dx.swapaxes(0, 1) if swap else dx)
            return dx if batched else dx[:, 0]

        return Traced(y if batched else y[0], d_x)

    def _chosen(self, steps: Array, lengths: NDArray[np.intp]) -> Array:
        """(N, F) of (T, N, F)."""
        raise NotImplementedError

    def _spread(self, dy: Array, lengths: NDArray[np.intp], dx: Array) -> None:
        """Write the gradient (T, N, F), zeros so far."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return "" if self.batch_first is None else f"batch_first={self.batch_first}"


class LastStep(OverTime):
    """The output at the last step of each row, in a `Sequential`.

    Of a layer with two directions, both halves are those that stand at that step, where the reverse direction has seen
    no other; its final state, which has seen all, is ``SelectOutput(1)``'s.

    Parameters
    ----------
    batch_first : bool, optional
        Input is (N, T, F) and not (T, N, F). Where not given, as the last recurrent layer before it in the `Sequential`
        has it, and False without one.

    Raises
    ------
    TypeError
        An argument is not as described.

    Examples
    --------
    >>> import fastrnn
    >>> y = [[[1], [2], [3]], [[4], [5], [0]]]           # (N, T, F)
    >>> fastrnn.LastStep(batch_first=True)(y, lengths=[3, 2])
    array([[3.],
           [5.]], dtype=float32)
    """

    def _chosen(self, steps: Array, lengths: NDArray[np.intp]) -> Array:
        last = steps[lengths - 1, np.arange(len(lengths))]
        last[lengths == 0] = 0
        return np.asarray(last)

    def _spread(self, dy: Array, lengths: NDArray[np.intp], dx: Array) -> None:
        rows = np.flatnonzero(lengths)
        dx[lengths[rows] - 1, rows] = dy[rows]


class MeanOverTime(OverTime):
    """The mean over the steps of each row, in a `Sequential`.

    Steps are added up one after the other in float64, so that a row's result does not depend on how far others go on.

    Parameters
    ----------
    batch_first : bool, optional
        Input is (N, T, F) and not (T, N, F). Where not given, as the last recurrent layer before it in the `Sequential`
        has it, and False without one.

    Raises
    ------
    TypeError
        An argument is not as described.

    Examples
    --------
    >>> import fastrnn
    >>> y = [[[1], [2], [3]], [[4], [5], [0]]]           # (N, T, F)
    >>> fastrnn.MeanOverTime(batch_first=True)(y, lengths=[3, 2])
    array([[2. ],
           [4.5]], dtype=float32)
    """

    def _chosen(self, steps: Array, lengths: NDArray[np.intp]) -> Array:
        with np.errstate(all="ignore"):  # what lies past the lengths may be anything
            sums = np.cumsum(steps, axis=0, dtype=np.float64)[lengths - 1, np.arange(len(lengths))]
            mean = sums / np.maximum(lengths, 1)[:, None]
        mean[lengths == 0] = 0
        return np.asarray(mean.astype(steps.dtype))

    def _spread(self, dy: Array, lengths: NDArray[np.intp], dx: Array) -> None:
        running = np.arange(len(dx))[:, None] < lengths
        share = dy / np.maximum(lengths, 1)[:, None].astype(dy.dtype)
        np.copyto(dx, share, where=running[:, :, None])
