"""Bodies run on symbols: what a body computes, written down operation by operation.

A body (see `bodies`) has no ``if``, so that one run with an `Expression` in place of every part, state and weight shows
all that it ever computes. Each operation goes to a `Trace`, once: one that is there already is not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from numbers import Real
from types import CellType, FunctionType
from typing import Any, NamedTuple

from . import elementary

Function = Callable[..., Any]

FUNCTIONS = tuple(elementary.__all__)
COMPARISONS = ("<", "<=", ">", ">=")

_HELP = (
    "a body may use + - * / and unary minus, the comparisons < <= > >=, numbers, and exp, sigmoid, tanh and "
    "select(condition, a, b)"
)


class Node(NamedTuple):
    """One value: an operation and the numbers of its arguments, or the text of an input or a constant."""

    op: str
    arguments: tuple[int, ...] = ()
    text: str = ""


class Trace:
    """All values so far, each once, in an order in which they can be computed."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._numbers: dict[Node, int] = {}

    def number(self, node: Node) -> int:
        """The place of a value among `nodes`, to which it is added if it is new."""
        if node.op in ("+", "*") and (swapped := node._replace(arguments=node.arguments[::-1])) in self._numbers:
            return self._numbers[swapped]
        if node not in self._numbers:
            self._numbers[node] = len(self.nodes)
            self.nodes.append(node)
        return self._numbers[node]

    def inputs(self, name: str, count: int) -> tuple[Expression, ...]:
        return tuple(Expression(self, self.number(Node("input", (), f"{name}[{i}]"))) for i in range(count))

    def write(self, op: str, *arguments: int) -> Any:
        """The result of an operation. Minus signs move outwards, to sums where they vanish; that changes no bit."""
        negated = [self.nodes[a].arguments[0] if self.nodes[a].op == "neg" else None for a in arguments]
        match op, arguments, negated:
            case "neg", _, [int(a)]:
                return self.value(a)
            case "+" | "-", (a, _), [_, int(b)]:
                return self.write("-" if op == "+" else "+", a, b)
            case "+", (_, b), [int(a), _]:
                return self.write("-", b, a)
            case "*" | "/", (_, b), [int(a), _]:
                return -self.write(op, a, b)
            case "*" | "/", (a, _), [_, int(b)]:
                return -self.write(op, a, b)
        return self.value(self.number(Node(op, arguments)))

    def value(self, number: int) -> Any:
        """What stands for a value of the trace: a condition or an expression."""
        return (Condition if self.nodes[number].op in COMPARISONS else Expression)(self, number)

    def expression(self, a: Any) -> Expression:
        """An operand: an expression, or a number."""
        if isinstance(a, Expression):
            return a
        if isinstance(a, Real):
            return Expression(self, self.number(Node("constant", (), repr(float(a)))))
        raise TypeError(f"an expression or a number was expected, not {type(a).__name__}")

    def needed(self, results: Iterable[int]) -> list[int]:
        """The numbers of all values that the results are made of, in order."""
        found, todo = set(), list(results)
        while todo:
            if (n := todo.pop()) not in found:
                found.add(n)
                todo += self.nodes[n].arguments
        return sorted(found)


class _Traced:
    """A value in a trace."""

    __array_ufunc__ = None  # so that NumPy's numbers leave + - * / to us

    def __init__(self, trace: Trace, number: int) -> None:
        self.trace, self.number = trace, number

    def __bool__(self) -> bool:
        raise TypeError(
            "a body cannot decide with if, while, and, or, not, min, max or a < b < c, as each unit has values of its "
            "own: use select(condition, a, b)"
        )

    def __eq__(self, other: object) -> bool:
        raise TypeError("a body cannot use == and !=")

    def _elementary(self, name: str, *arguments: Any) -> Any:
        """What the functions of `elementary` call."""
        trace = self.trace
        if name != "select":
            return trace.write(name, *(trace.expression(a).number for a in arguments))
        condition, a, b = arguments
        if not isinstance(condition, Condition):
            raise TypeError(f"the condition of select should be a comparison, not {type(condition).__name__}")
        return trace.write(name, condition.number, trace.expression(a).number, trace.expression(b).number)


class Condition(_Traced):
    """The result of a comparison, which `select` takes."""


def _binary(op: str, swapped: bool = False) -> Callable[[Expression, Any], Any]:
    def method(self: Expression, other: Any) -> Any:
        if not isinstance(other, Expression | Real):
            return NotImplemented
        a, b = self.number, self.trace.expression(other).number
        return self.trace.write(op, b, a) if swapped else self.trace.write(op, a, b)

    return method


class Expression(_Traced):
    """What stands for a number while a body is traced."""

    __add__, __radd__ = _binary("+"), _binary("+", swapped=True)
    __sub__, __rsub__ = _binary("-"), _binary("-", swapped=True)
    __mul__, __rmul__ = _binary("*"), _binary("*", swapped=True)
    __truediv__, __rtruediv__ = _binary("/"), _binary("/", swapped=True)
    __lt__, __le__, __gt__, __ge__ = map(_binary, COMPARISONS)

    def __neg__(self) -> Expression:
        negative: Expression = self.trace.write("neg", self.number)
        return negative


def inputs(
    trace: Trace, gates: int, states: int, unit_weights: int, recurrent: bool
) -> dict[str, tuple[Expression, ...]]:
    """What a body is given, by the names of its parameters."""
    sizes = {"gx": gates, "gh": gates if recurrent else 0, "s": states}
    if unit_weights:
        sizes["u"] = unit_weights
    return {name: trace.inputs(name, size) for name, size in sizes.items()}


def run(body: Function, trace: Trace, given: dict[str, tuple[Expression, ...]], states: int) -> list[Expression]:
    """The new states."""
    name = getattr(body, "__name__", "body")
    sizes = ", ".join(f"{len(parts)} in {parameter}" for parameter, parts in given.items())
    try:
        new = python_function(body)(*given.values())
    except Exception as error:  # whatever the body may run into when it meets no numbers
        raise TypeError(f"{name} failed on symbols ({sizes}): {error}; {_HELP}") from error
    if not isinstance(new, tuple) or len(new) != states:
        got = f"a tuple of {len(new)}" if isinstance(new, tuple) else type(new).__name__
        raise TypeError(f"{name} should return a tuple of {states} new states, got: {got}")
    try:
        return [trace.expression(a) for a in new]
    except TypeError as error:
        raise TypeError(f"{name} should return new states: {error}") from None


def python_function(function: Any, _done: dict[Any, Any] | None = None) -> Any:
    """The plain Python function where Numba's ``@njit`` made something else of it, and of all that it calls.

    Parameters
    ----------
    function : callable
        Returned as it is where it is not of Python, like a method of a built-in type.

    Returns
    -------
    callable
        A copy whose global and enclosed names refer to plain functions too; the original is not changed. Functions that
        it finds elsewhere, in another module by ``module.function`` for one, stay as they are.
    """
    done = {} if _done is None else _done
    function = getattr(function, "py_func", function)
    if not isinstance(function, FunctionType) or function.__module__ == elementary.__name__:
        return function
    if function not in done:
        code, scope = function.__code__, dict(function.__globals__)
        cells = function.__closure__ and tuple(CellType() for _ in function.__closure__)
        copy = FunctionType(code, scope, function.__name__, function.__defaults__, cells)
        copy.__kwdefaults__ = function.__kwdefaults__
        done[function] = copy  # before what it calls, which may call it
        for name in global_names(code) & scope.keys():
            scope[name] = python_function(scope[name], done)
        for new, old in zip(cells or (), function.__closure__ or (), strict=True):
            new.cell_contents = python_function(old.cell_contents, done)
    return done[function]


def global_names(code: Any) -> set[str]:
    """Global names in a function's code and in that of functions within it (and names of attributes)."""
    return set(code.co_names).union(*(global_names(c) for c in code.co_consts if hasattr(c, "co_names")))
