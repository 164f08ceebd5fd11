"""The chain rule of a body, derived: reverse mode over what the body does with symbols in place of numbers.

A run on symbols gives the trace of a body (see `symbols`). Walked backwards it gives the gradients, which go to the
same trace and are then written out as the source of a Python function.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from math import inf, nan
from typing import Any, NamedTuple

from . import elementary
from .symbols import COMPARISONS, FUNCTIONS, Expression, Function, Node, Trace, inputs, python_function, run

__all__ = ["Operations", "backward_of", "operations", "sums_only", "with_literals"]


def backward_of(
    body: Function, gates: int, states: int, unit_weights: int = 0, recurrent: bool = True
) -> Callable[..., Any]:
    """Derive the chain rule of a body.

    Parameters
    ----------
    body : callable
        ``body(gx, gh, s) -> new s``, or ``body(gx, gh, s, u)`` where there are weights of the unit.
    gates, states : int
        Length of gx and gh, and that of s.
    unit_weights : int
        Length of u.
    recurrent : bool
        False where the cell has no recurrent parts: then gh is ``()``.

    Returns
    -------
    backward : function
        ``backward(gx, gh, s, ds) -> (dgx, dgh, ds_prev)``, with weights of the unit
        ``backward(gx, gh, s, u, ds) -> (dgx, dgh, ds_prev, du)``. ``backward.source`` is its source.

    Raises
    ------
    TypeError
        The body does something else than a body may, or does not return a tuple of as many states.

    Notes
    -----
    The gradient of ``select(condition, a, b)`` goes to `a` where the condition is true, else to `b`, and 0 goes to the
    other one. Where that one has an infinite derivative, what comes of it is NaN: 0 times infinity.
    """
    trace, given, new = _traced(body, gates, states, unit_weights, recurrent)
    ds = trace.inputs("ds", states)
    adjoints = _adjoints(trace, zip(new, ds, strict=True))
    zero = trace.write("zero_like", ds[0].number)
    results = {f"d{name}": [adjoints.get(a.number, zero) for a in parts] for name, parts in given.items()}
    source = _source("backward", trace, [*given, "ds"], results, _names(trace, new, adjoints, zero))
    scope: dict[str, Any] = {name: getattr(elementary, name) for name in FUNCTIONS} | {"inf": inf, "nan": nan}
    exec(source, scope)
    backward: Any = scope["backward"]
    backward.source = source
    return backward  # type: ignore[no-any-return]


def with_literals(
    literal: str,
    body: Function,
    backward: Function,
    gates: int,
    states: int,
    unit_weights: int = 0,
    recurrent: bool = True,
) -> tuple[str, str]:
    """Sources of ``body`` and ``backward`` that do the same as these functions, with every number as in `literal`.

    For compilers that give a literal a type of its own, which would become that of what it meets: ``"float32({})"``.
    """
    trace, given, new = _traced(body, gates, states, unit_weights, recurrent)
    forth = _source("body", trace, given, {"new": new}, {}, literal)
    trace = Trace()
    given = inputs(trace, gates, states, unit_weights, recurrent) | {"ds": trace.inputs("ds", states)}
    parts = [[trace.expression(a) for a in part] for part in python_function(backward)(*given.values())]
    results = dict(zip(("dgx", "dgh", "ds", "du"), parts, strict=False))
    return forth, _source("backward", trace, given, results, {}, literal)


def _traced(
    body: Function, gates: int, states: int, unit_weights: int, recurrent: bool
) -> tuple[Trace, dict[str, tuple[Expression, ...]], list[Expression]]:
    """A trace of the body, what it was given, and the new states."""
    trace = Trace()
    given = inputs(trace, gates, states, unit_weights, recurrent)
    return trace, given, run(body, trace, given, states)


def sums_only(body: Function, gates: int, states: int, unit_weights: int = 0) -> bool:
    """Whether the body takes ``gx[i]`` and ``gh[i]`` as ``gx[i] + gh[i]`` only, for all gates.

    Then one product that adds both up is enough, and their gradients are the same.
    """
    trace = Trace()
    given = inputs(trace, gates, states, unit_weights, recurrent=True)
    new = [a.number for a in run(body, trace, given, states)]
    pairs = [{x.number, h.number} for x, h in zip(given["gx"], given["gh"], strict=True)]
    parts = set().union(*pairs)
    used = [node for node in map(trace.nodes.__getitem__, trace.needed(new)) if parts & set(node.arguments)]
    return not parts & set(new) and all(node.op == "+" and set(node.arguments) in pairs for node in used)


class Operations(NamedTuple):
    """How often each operation is done for one unit in one step; an exp, sigmoid or tanh counts as one.

    Attributes
    ----------
    forward, backward : collections.Counter
        From ``"+"``, ``"tanh"`` and so on to how many; ``.total()`` is all of them.
    """

    forward: Counter[str]
    backward: Counter[str]


def operations(
    body: Function,
    gates: int,
    states: int,
    unit_weights: int = 0,
    recurrent: bool = True,
    backward: Function | None = None,
) -> Operations:
    """Count the operations of a body and of its chain rule, the derived one where none is given.

    What is written more than once counts once, as a compiler does it once.
    """
    forth, back = Trace(), Trace()
    given = inputs(forth, gates, states, unit_weights, recurrent)
    new = run(body, forth, given, states)
    backward = backward or backward_of(body, gates, states, unit_weights, recurrent)
    given = inputs(back, gates, states, unit_weights, recurrent) | {"ds": back.inputs("ds", states)}
    grads = [back.expression(a) for part in python_function(backward)(*given.values()) for a in part]
    return Operations(_count(forth, new), _count(back, grads))


def _count(trace: Trace, results: list[Expression]) -> Counter[str]:
    ops = (trace.nodes[n].op for n in trace.needed(a.number for a in results))
    return Counter(op for op in ops if op not in _FREE)


# --- backwards --------------------------------------------------------------------------------------------------------

#: Of y = op(a, b, ...) with dy = d: what reaches each argument. Literals only where there is no way without.
_CHAIN_RULE: dict[str, Callable[..., tuple[Any, ...]]] = {
    "+": lambda d, y, a, b: (d, d),
    "-": lambda d, y, a, b: (d, -d),
    "*": lambda d, y, a, b: (d * b, d * a),
    "/": lambda d, y, a, b: (d / b, -(d / b * y)),
    "neg": lambda d, y, a: (-d,),
    "exp": lambda d, y, a: (d * y,),
    "sigmoid": lambda d, y, a: (d * (y - y * y),),
    "tanh": lambda d, y, a: (d * (1.0 - y * y),),
    "select": lambda d, y, c, a, b: (None, elementary.select(c, d, 0.0), elementary.select(c, 0.0, d)),
}


def _adjoints(trace: Trace, ends: Iterable[tuple[Expression, Expression]]) -> dict[int, Expression]:
    """The gradients of all values in the trace on which the ends depend, by number. ends: value, gradient."""
    adjoints: dict[int, Expression] = {}

    def add(number: int, d: Expression) -> None:
        adjoints[number] = adjoints[number] + d if number in adjoints else d

    for value, d in ends:
        add(value.number, d)
    for number in reversed(range(len(trace.nodes))):
        op, arguments, _ = trace.nodes[number]
        if number in adjoints and op in _CHAIN_RULE:
            parts = _CHAIN_RULE[op](adjoints[number], trace.value(number), *map(trace.value, arguments))
            for a, part in zip(arguments, parts, strict=True):
                if part is not None:
                    add(a, part)
    return adjoints


# --- written out ------------------------------------------------------------------------------------------------------

_FREE = ("input", "constant", "zero_like")
_PRECEDENCE = dict.fromkeys(COMPARISONS, 0) | {"+": 1, "-": 1, "*": 2, "/": 2, "neg": 3}
_ATOM = 4
_WIDTH = 50  # what is longer gets a line of its own


def _names(trace: Trace, new: list[Expression], adjoints: dict[int, Expression], zero: Expression) -> dict[int, str]:
    """Telling names for values that may want one: tanh1, new0 for a new state, and d_tanh1 and d_new0 for gradients."""
    names, counts = {zero.number: "zero"}, Counter[str]()
    for number, node in enumerate(trace.nodes):
        if node.op in FUNCTIONS and number not in names:
            counts[node.op] += 1
            names[number] = f"{node.op}{counts[node.op]}"
    for i, a in enumerate(new):
        names.setdefault(a.number, f"new{i}")
    for number, d in adjoints.items():
        if number in names:
            names.setdefault(d.number, f"d_{names[number]}")
    return names


def _source(
    function: str,
    trace: Trace,
    parameters: Iterable[str],
    results: dict[str, list[Expression]],
    names: dict[int, str],
    literal: str = "{}",
) -> str:
    """The source of a function. What is used once stands where it is used, all else has a line and a name.

    literal: how a number is written, as a format.
    """
    returned: dict[int, str] = {}
    for part, values in results.items():
        for i, a in enumerate(values):
            if trace.nodes[a.number].op not in _FREE:
                returned.setdefault(a.number, f"{part}{'_prev' * (part == 'ds')}{i}")
    needed = trace.needed(a.number for values in results.values() for a in values)
    uses = Counter(a for n in needed for a in trace.nodes[n].arguments)
    lines, written = [], dict[int, tuple[str, int]]()
    for n in needed:
        text, precedence = _text(trace.nodes[n], [written[a] for a in trace.nodes[n].arguments])
        if trace.nodes[n].op == "constant":
            text = literal.format(text)
        worth_a_name = uses[n] > 1 or len(text) > _WIDTH or trace.nodes[n].op == "zero_like"
        if n in returned or (worth_a_name and trace.nodes[n].op not in ("input", "constant")):
            name = returned.get(n) or names.get(n) or f"v{n}"
            lines.append(f"{name} = {text}")
            text, precedence = name, _ATOM
        written[n] = text, precedence
    tuples = [[written[a.number][0] for a in values] for values in results.values()]
    lines.append("return " + ", ".join(_tuple(texts) for texts in tuples))
    return f"def {function}({', '.join(parameters)}):\n" + "".join(f"    {line}\n" for line in lines)


def _text(node: Node, arguments: list[tuple[str, int]]) -> tuple[str, int]:
    """A value as Python, and how firmly that holds together. arguments: the same of each."""
    if node.op in ("input", "constant"):
        return node.text, _PRECEDENCE["neg"] if node.text.startswith("-") else _ATOM
    if node.op in FUNCTIONS:
        return f"{node.op}({', '.join(text for text, _ in arguments)})", _ATOM
    own = _PRECEDENCE[node.op]
    # Also a + (b + c) keeps its brackets: another order of sums has other bits.
    sides = [f"({text})" if held < own + i else text for i, (text, held) in enumerate(arguments)]
    return (f"-{sides[0]}" if node.op == "neg" else f" {node.op} ".join(sides)), own


def _tuple(texts: list[str]) -> str:
    return f"({', '.join(texts)}{',' * (len(texts) == 1)})"
