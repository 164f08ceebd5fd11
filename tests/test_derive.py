"""Derived gradients against finite differences: many cells, and bodies drawn at random; what a body may not do."""

from __future__ import annotations

import math
import operator
from collections import Counter
from types import FunctionType

import numpy as np
import pytest
from body_tools import OTHERS, TORCH, Cell, assert_gradients, draw, minimal_gated_unit
from hypothesis import assume
from hypothesis import given as drawn
from hypothesis import strategies as st

from fastrnn import bodies
from fastrnn.derive import backward_of, operations, sums_only
from fastrnn.elementary import exp, select, sigmoid, tanh
from fastrnn.symbols import python_function

CELLS = TORCH | OTHERS

#: Operations forward and backward: a derived gradient that costs more is a step back.
COSTS = {
    "rnn_tanh": (2, 5),
    "rnn_relu": (3, 3),
    "lstm": (13, 34),
    "gru": (10, 22),
    "minimal_gated_unit": (9, 19),
    "independent_rnn": (4, 6),
    "peephole_lstm": (19, 49),
    "coupled_lstm": (12, 31),
    "exponential_lstm": (20, 47),
    "integrator": (0, 0),
    "softsign_highway": (18, 32),
}


@pytest.mark.parametrize("name", CELLS)
def test_derived_gradients(name):
    cell, rng = CELLS[name], np.random.default_rng(0)
    given, ds = draw(cell, rng)
    assert_gradients(cell.body, backward_of(*cell), given, ds)


@pytest.mark.parametrize("name", CELLS)
def test_costs(name):
    forward, backward = operations(*CELLS[name])
    assert (forward.total(), backward.total()) == COSTS[name]
    assert backward.total() <= 3 * forward.total()
    if name in TORCH:
        by_hand = operations(*CELLS[name], getattr(bodies, f"{name}_backward")).backward
        assert backward.total() <= by_hand.total()


def test_operations_are_told_apart():
    forward, backward = operations(*CELLS["minimal_gated_unit"])
    assert forward == {"+": 3, "-": 2, "*": 2, "sigmoid": 1, "tanh": 1}
    assert backward == {"+": 2, "-": 6, "*": 9, "sigmoid": 1, "tanh": 1}


def test_source_can_be_read():
    assert backward_of(minimal_gated_unit, 2, 1).source == (
        "def backward(gx, gh, s, ds):\n"
        "    sigmoid1 = sigmoid(gx[0] + gh[0])\n"
        "    tanh1 = tanh(gx[1] + sigmoid1 * gh[1])\n"
        "    ds_prev0 = ds[0] * (1.0 - sigmoid1)\n"
        "    dgx1 = (ds[0] - ds_prev0) * (1.0 - tanh1 * tanh1)\n"
        "    dgh1 = dgx1 * sigmoid1\n"
        "    dgx0 = (dgx1 * gh[1] - ds[0] * (s[0] - tanh1)) * (sigmoid1 - sigmoid1 * sigmoid1)\n"
        "    return (dgx0, dgx1), (dgx0, dgh1), (ds_prev0,)\n"
    )

    def long(gx, gh, s):
        a = gx[0]
        for _ in range(40):
            a = (a + gh[0]) * s[0]
        return (tanh(a),)

    for cell in (*CELLS.values(), Cell(long, 1)):
        assert max(map(len, backward_of(*cell).source.splitlines())) <= 120


def test_nothing_is_computed_twice():
    def twice(gx, gh, s):
        return tanh(gx[0] + gh[0]) * s[0], tanh(gh[0] + gx[0]) * s[0]

    def differently(gx, gh, s):
        return tanh(gx[0] - gh[0]), tanh(gh[0] - gx[0])

    assert operations(twice, 1, 2).forward == {"+": 1, "tanh": 1, "*": 1}
    assert operations(differently, 1, 2).forward == {"-": 2, "tanh": 2}


def test_zero_gradients_are_zeros_of_the_right_type():
    """Also beside NaN and infinity."""
    given, ds = draw(OTHERS["integrator"], np.random.default_rng(0))
    given = [tuple(np.full_like(a, [np.nan, np.inf][i % 2], "float32") for a in part) for i, part in enumerate(given)]
    ds = tuple(a.astype("float32") for a in ds)
    (dgx,), (dgh,), (dh, ds_1, ds_2) = backward_of(*OTHERS["integrator"])(*given, ds)
    assert np.array_equal(dgx, ds[0])
    assert np.array_equal(ds_1, ds[1])
    for zero in (dgh, dh, ds_2):
        assert zero.dtype == np.float32
        assert zero.shape == ds[0].shape
        assert not zero.any()


def test_gradients_keep_float32():
    for cell in CELLS.values():
        given, ds = draw(cell, np.random.default_rng(0))
        given = [tuple(a.astype("float32") for a in part) for part in given]
        gradients = backward_of(*cell)(*given, tuple(a.astype("float32") for a in ds))
        assert {a.dtype for part in gradients for a in part} == {np.dtype("float32")}


def test_numbers_of_all_kinds():
    def body(gx, gh, s):
        return np.float32(0.5) * gx[0] + np.float64(2) - np.int64(3) / gh[0], gx[0] / 0.0, gh[0] / -0.0, s[0] * math.inf

    given = (np.ones(1),), (np.full(1, 2.0),), (np.ones(1),) * 4
    one = np.ones(1)
    with np.errstate(divide="ignore"):
        (dgx,), (dgh,), (ds_prev, *_) = backward_of(body, 1, 4)(*given, (one, one, one * 0.5, one))
    assert (dgx, dgh, ds_prev) == (math.inf, -math.inf, math.inf)  # 0.0 and -0.0 are not the same


def test_unit_weights_are_broadcast():
    """They are (H,) where all else is (N, H): what comes back is (N, H), to be summed up."""
    cell, rng = OTHERS["peephole_lstm"], np.random.default_rng(0)
    given, ds = draw(cell, rng)
    given[3] = tuple(u[0] for u in given[3])
    assert_gradients(cell.body, backward_of(*cell), given, ds)


# --- bodies drawn at random -------------------------------------------------------------------------------------------


def far_apart(a, b):
    """Gives up a draw that compares what is nearly the same: there, rounding decides, or there is no derivative."""
    if isinstance(a, np.ndarray):
        assume(np.all(np.abs(a - b) > 1e-4))
    return a, b


def chosen(compare):
    return lambda a, b, c, d: select(compare(*far_apart(a, b)), c, d)


OPERATORS = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda a, b: a / (b * b + 1.5),
    "neg": operator.neg,
    "exp": lambda a: exp(tanh(a)),
    "sigmoid": sigmoid,
    "tanh": tanh,
    "<": chosen(operator.lt),
    "<=": chosen(operator.le),
    ">": chosen(operator.gt),
    ">=": chosen(operator.ge),
    "2 -": lambda a: 2 - a,
    "* -0.5": lambda a: a * -0.5,
    "1.0 /": lambda a: 1.0 / (2.0 + tanh(a)),
    "select number": lambda a, b: select(operator.gt(*far_apart(a, 0)), b, 0.25),
}
ARITY = {
    name: function.__code__.co_argcount if isinstance(function, FunctionType) else 2
    for name, function in OPERATORS.items()
}
ARITY |= {"neg": 1}

#: Operators, each with how far back its operands are among the values so far.
PROGRAMS = st.lists(
    st.tuples(st.sampled_from(list(OPERATORS)), st.tuples(*[st.integers(1, 8)] * 4)), min_size=8, max_size=20
)


def body_of(program):
    def body(gx, gh, s, u):
        values = [*gx, *gh, *s, *u, gx[0]]
        for op, back in program:
            values.append(OPERATORS[op](*(values[-k] for k in back[: ARITY[op]])))
        return values[-1], values[-2] * values[-3]

    return body


@drawn(PROGRAMS, st.integers(0, 99))
def test_random_bodies(program, seed):
    body = body_of(program)
    cell = Cell(body, 2, 2, 1)
    given, ds = draw(cell, np.random.default_rng(seed), (20,), scale=0.7)
    size = max(1.0, *(np.abs(new).max() for new in body(*given)))
    assume(size < 100)
    assert_gradients(body, backward_of(*cell), given, ds, tolerance=1e-8 * size)


# --- sums ------------------------------------------------------------------------------------------------------------


def test_sums_only():
    def sums(body, gates=2, states=1):
        return sums_only(body, gates, states)

    verdicts = {name: sums_only(*cell[:4]) for name, cell in CELLS.items() if cell.recurrent}
    assert [name for name, verdict in verdicts.items() if verdict] == [
        "rnn_tanh",
        "rnn_relu",
        "lstm",
        "peephole_lstm",
        "coupled_lstm",
        "exponential_lstm",
    ]
    assert sums(lambda gx, gh, s: (gh[0] + gx[0] + s[0] * (gx[1] + gh[1]),))
    assert sums(lambda gx, gh, s: (tanh(gx[0] + gh[0]),))
    assert not sums(lambda gx, gh, s: (gx[0] + gh[1],))
    assert not sums(lambda gx, gh, s: (gx[0] - gh[0],))
    assert not sums(lambda gx, gh, s: (gx[0] + gx[0],))
    assert not sums(lambda gx, gh, s: (tanh(gx[0]) + gh[0],))
    assert not sums(lambda gx, gh, s: ((gx[0] + gh[0]) * gh[0],))
    assert not sums(lambda gx, gh, s: (gx[0] + gh[0], gh[0]), states=2)


# --- what a body may not do -------------------------------------------------------------------------------------------


def decides(gx, gh, s):
    return (gx[0],) if gx[0] > 0 else (gh[0],)


def is_no_condition(gx, gh, s):
    return (select(gx[0], gx[0], gh[0]),)


WRONG = {
    "if": (decides, "decides .* use select"),
    "max": (lambda gx, gh, s: (max(gx[0], 0.0),), "use select"),
    "and": (lambda gx, gh, s: (select(gx[0] > 0 and gh[0] > 0, s[0], 0.0),), "use select"),
    "chained": (lambda gx, gh, s: (select(0 < gx[0] < 1, s[0], 0.0),), "use select"),
    "truth": (lambda gx, gh, s: (s[0] if gx[0] else gh[0],), "use select"),
    "==": (lambda gx, gh, s: (select(gx[0] == 0, s[0], 0.0),), "cannot use == and !="),
    "!=": (lambda gx, gh, s: (select(gx[0] != 0, s[0], 0.0),), "cannot use == and !="),
    "select": (is_no_condition, "is_no_condition .*should be a comparison, not Expression"),
    "select bool": (lambda gx, gh, s: (select(1 < 2, gx[0], 0.0),), "should be a comparison, not bool"),
    "mask": (lambda gx, gh, s: ((gx[0] > 0) * gx[0],), r"for \*: 'Condition' and 'Expression'; a body may use"),
    "function of mask": (lambda gx, gh, s: (exp(gx[0] > 0),), "was expected, not Condition"),
    "&": (lambda gx, gh, s: (select((gx[0] > 0) & (gh[0] > 0), s[0], 0.0),), "a body may use"),
    "**": (lambda gx, gh, s: (gx[0] ** 2,), r"\*\* .*a body may use"),
    "abs": (lambda gx, gh, s: (abs(gx[0]),), r"abs\(\).* and exp, sigmoid, tanh and select\(condition, a, b\)"),
    "np.sin": (lambda gx, gh, s: (np.sin(gx[0]),), "ufuncs.*a body may use"),
    "math.sin": (lambda gx, gh, s: (math.sin(gx[0]),), "a body may use"),
    "method": (lambda gx, gh, s: (gx[0].clip(0),), "clip.*a body may use"),
    "array": (lambda gx, gh, s: (np.ones(3) * gx[0],), "ndarray.*a body may use"),
    "text": (lambda gx, gh, s: (gx[0] + "1",), "str.*a body may use"),
    "gates": (lambda gx, gh, s: (gx[1],), "1 in gx, 1 in gh, 1 in s.*index out of range"),
    "parameters": (lambda gx, gh: (gx[0],), "takes 2 positional arguments"),
    "list": (lambda gx, gh, s: [gx[0]], "a tuple of 1 new states, got: list"),
    "no tuple": (lambda gx, gh, s: gx[0], "a tuple of 1 new states, got: Expression"),
    "too many": (lambda gx, gh, s: (gx[0], s[0]), "a tuple of 1 new states, got: a tuple of 2"),
    "returned mask": (lambda gx, gh, s: (gx[0] > 0,), "return new states: .*not Condition"),
    "returned None": (lambda gx, gh, s: (None,), "return new states: .*not NoneType"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_bodies(name):
    body, message = WRONG[name]
    for function in (backward_of, sums_only, operations):
        with pytest.raises(TypeError, match=message):
            function(body, 1, 1)


# --- compiled functions -----------------------------------------------------------------------------------------------


class Compiled:
    """What numba.njit returns, as far as it matters: no function, and not for symbols."""

    def __init__(self, py_func):
        self.py_func = py_func

    def __call__(self, *args):
        raise AssertionError("compiled functions want numbers")


@Compiled
def inner(a, b=1.0):
    return sigmoid(a * b)


@Compiled
def gate(x, h, *, twice=False):
    return inner(x + h) if not twice else gate(x + h, x + h)


def uncompiled(x, h):
    return gate(x, h, twice=True)


@Compiled
def compiled(gx, gh, s):
    (a,) = map(lambda x, h: uncompiled(x, h), gx, gh)  # a global name in a function within
    return (a * s[0],)


def enclosing(function):
    def body(gx, gh, s):
        parts = [function(x + x, h + h) for x, h in zip(gx, gh, strict=True)]
        return (parts[0] * s[0],)

    return body


@pytest.mark.parametrize("body", [compiled, enclosing(gate), Compiled(enclosing(gate))])
def test_compiled_functions_are_seen_through(body):
    def plain(gx, gh, s):
        a = gx[0] + gh[0]
        return (sigmoid(a + a) * s[0],)

    cell = Cell(plain, 1)
    given, ds = draw(cell, np.random.default_rng(0))
    assert_gradients(plain, backward_of(body, 1, 1), given, ds)


def test_originals_are_not_changed():
    before = dict(globals())
    copy = python_function(compiled)
    assert isinstance(copy, FunctionType)
    assert copy is not compiled.py_func
    assert Counter(map(id, globals().values())) == Counter(map(id, before.values()))
    assert isinstance(gate, Compiled)
    assert python_function(sigmoid) is sigmoid
    assert python_function(len) is len


def test_numba_itself():
    numba = pytest.importorskip("numba")
    helper = numba.njit(inner.py_func)
    body = numba.njit(enclosing(lambda x, h: x * h))

    def uses_helper(gx, gh, s):
        return (helper(gx[0], gh[0]),)

    assert backward_of(uses_helper, 1, 1).source == backward_of(numba.njit(uses_helper), 1, 1).source
    assert "sigmoid" in backward_of(uses_helper, 1, 1).source
    assert operations(body, 1, 1).forward == {"+": 2, "*": 2}
