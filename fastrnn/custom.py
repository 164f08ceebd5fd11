"""Cells of users."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import validate
from .cells import CellSpec
from .derive import operations
from .symbols import python_function

_LETTERS = "abcdefghijklmnop"


class Cell:
    """A recurrent cell of one's own: what a hidden unit does in a step.

    `Recurrent` makes layers of it.

    Parameters
    ----------
    body : function
        ``body(gx, gh, s) -> new s``, from tuples of G input parts ``x @ w_ih.T + b_ih``, of G recurrent parts
        ``h @ w_hh.T + b_hh`` and of S states to a tuple of S new states; ``body(gx, gh, s, u)`` with unit weights.
        ``s[0]`` is h, which is put out and fed back. Everything is element by element: written with ``+ - * /``,
        comparisons, and `sigmoid`, `tanh`, `exp`, `select` of ``fastrnn.jit``; `select` stands for ``if``.
    gates : int
        Parts (G) into which the rows of ``weight_ih`` and ``weight_hh`` are divided, 1 to 16.
    states : int
        How many states there are (S).
    name : str, optional
        That of `body` where not given.
    backward : function, optional
        The chain rule: ``backward(gx, gh, s, ds) -> (dgx, dgh, ds_prev)``, all tuples, from the gradients `ds` of the
        new states; ``ds_prev[0]`` is what reaches h past the recurrent parts. With unit weights
        ``backward(gx, gh, s, u, ds) -> (dgx, dgh, ds_prev, du)``. Derived from `body` where not given.
    unit_weights : int
        Weights (U) that a hidden unit has for itself, as for peepholes: `u` is a tuple of U, of ``weight_unit`` (U, H).
    recurrent : bool
        Whether there are ``weight_hh`` and ``bias_hh``. Without them `gh` and `dgh` are ``()``.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described. The body is tried out.

    Examples
    --------
    >>> import fastrnn
    >>> from fastrnn.jit import sigmoid, tanh
    >>> def mgu(gx, gh, s):
    ...     f = sigmoid(gx[0] + gh[0])
    ...     return (s[0] + f * (tanh(gx[1] + f * gh[1]) - s[0]),)
    >>> cell = fastrnn.Cell(mgu, gates=2, name="MGU")
    >>> fastrnn.Recurrent(cell, 3, 4)
    Recurrent(MGU, 3, 4)
    """

    __slots__ = ("_spec",)

    def __init__(
        self,
        body: Callable[..., Any],
        gates: int,
        states: int = 1,
        name: str | None = None,
        *,
        backward: Callable[..., Any] | None = None,
        unit_weights: int = 0,
        recurrent: bool = True,
    ) -> None:
        for what, function in (("body", body), ("backward", backward)):
            if not callable(function) and not (function is None and what == "backward"):
                raise TypeError(f"{what} should be a function, got: {type(function).__name__}")
        if validate.size("gates", gates) > len(_LETTERS):
            raise ValueError(f"gates should be at most {len(_LETTERS)}, got: {gates}")
        if name is None:
            name = _name(body)
        if not isinstance(name, str):
            raise TypeError(f"name should be of type str, got: {type(name).__name__}")
        if not name:
            raise ValueError("name should not be empty, got: ''")
        if validate.integer("unit_weights", unit_weights) < 0:
            raise ValueError(f"unit_weights should not be negative, got: {unit_weights}")
        n = validate.size("states", states)
        others = ("c",) if n == 2 else tuple(f"c{i}" for i in range(1, n))
        self._spec = CellSpec(
            name,
            _LETTERS[:gates],
            ("h", *others),
            body,
            backward,
            int(unit_weights),
            validate.flag("recurrent", recurrent),
        )
        _try(self._spec)

    @property
    def spec(self) -> CellSpec:
        """What backends know of it."""
        return self._spec

    @property
    def body(self) -> Any:
        return self._spec.body

    @property
    def gates(self) -> int:
        return self._spec.n_gates

    @property
    def states(self) -> int:
        return self._spec.n_states

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def backward(self) -> Any:
        """The chain rule: the given one, else what is derived from the body."""
        return self._spec.chain_rule()

    @property
    def unit_weights(self) -> int:
        return self._spec.unit_weights

    @property
    def recurrent(self) -> bool:
        return self._spec.recurrent

    def __eq__(self, other: object) -> bool:
        return self._spec == other._spec if isinstance(other, Cell) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._spec)

    def __repr__(self) -> str:
        spec = self._spec
        text = f"Cell({_name(spec.body)}, gates={self.gates}"
        if self.states != 1:
            text += f", states={self.states}"
        if self.name != _name(spec.body):
            text += f", name={self.name!r}"
        if spec.backward is not None:
            text += f", backward={_name(spec.backward)}"
        if self.unit_weights:
            text += f", unit_weights={self.unit_weights}"
        if not self.recurrent:
            text += ", recurrent=False"
        return text + ")"


def _name(function: Any) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def _try(spec: CellSpec) -> None:
    """Raises TypeError where the body or the given chain rule is not as `Cell` describes it."""
    assert spec.body is not None
    if spec.backward is None:
        spec.chain_rule()  # runs the body on symbols
        return
    sizes = {"gx": spec.n_gates, "gh": spec.n_gates * spec.recurrent, "s": spec.n_states}
    sizes |= {"u": spec.unit_weights} if spec.unit_weights else {}
    given = [tuple(np.full(1, 0.5) for _ in range(n)) for n in sizes.values()]
    with np.errstate(all="ignore"):
        results = python_function(spec.backward)(*given, given[2])
    if _lengths(results) != [*sizes.values()]:
        expected = ", ".join(f"{'ds_prev' if name == 's' else f'd{name}'} of {n}" for name, n in sizes.items())
        raise TypeError(f"{_name(spec.backward)} should return tuples {expected}, got: {_lengths(results)}")
    operations(spec.body, spec.n_gates, spec.n_states, spec.unit_weights, spec.recurrent, spec.backward)  # on symbols


def _lengths(results: Any) -> Any:
    """Of tuples in a tuple; of anything else its type."""
    if not isinstance(results, tuple):
        return type(results).__name__
    return [len(part) if isinstance(part, tuple) else type(part).__name__ for part in results]
