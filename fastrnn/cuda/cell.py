"""Bodies of cells as device functions: the very functions of `bodies`, or a user's, with numbers of the array's type.

A literal is float64 to Numba and would make float64 of all that it meets, so the body is run on symbols and written out
again with every literal in the type of the arrays (see `derive.with_literals`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from math import inf, nan
from typing import Any, NamedTuple

import numpy as np
from numba import config, cuda
from numba import float32 as _float32
from numba import float64 as _float64

from ..cells import CellSpec
from ..derive import sums_only, with_literals

if not config.ENABLE_CUDASIM:  # which has no PTX
    from . import ptx

# The simulator runs functions as they are.
device: Any = cuda.jit(device=True, inline="always") if not config.ENABLE_CUDASIM else lambda function: function


class DeviceCell(NamedTuple):
    """A cell for kernels.

    Attributes
    ----------
    body : device function
        ``body(gx, gh, s)``, or ``body(gx, gh, s, u)`` with unit weights, on tuples of numbers.
    backward : device function
        ``backward(gx, gh, s, ds)``, or ``backward(gx, gh, s, u, ds)``.
    G, S, U : int
        Gates, states, unit weights.
    recurrent : bool
    sums_only : bool
        Whether only ``gx + gh`` matters, so that their gradients are the same.
    number : type
        The elements' type: `numba.float32` or `numba.float64`.
    """

    body: Any
    backward: Any
    G: int
    S: int
    U: int
    recurrent: bool
    sums_only: bool
    number: Any


@cache
def device_cell(spec: CellSpec, dtype: np.dtype[Any]) -> DeviceCell:
    """The cell in numbers of `dtype`."""
    number = {"f": _float32, "d": _float64}[dtype.char]
    sizes = (spec.n_gates, spec.n_states, spec.unit_weights, spec.recurrent)
    assert spec.body is not None
    forth, back = with_literals("number({})", spec.body, spec.chain_rule(), *sizes)
    scope: dict[str, Any] = {"number": number, "inf": inf, "nan": nan, **_functions(number)}
    exec(forth, scope)
    exec(back, scope)
    sums = spec.recurrent and sums_only(spec.body, *sizes[:3])
    return DeviceCell(device(scope["body"]), device(scope["backward"]), *sizes, sums, number)


@cache
def step_in_place(cell: DeviceCell) -> Any:
    """``step(gx, gh, s)``: the body on arrays of a thread's own, the new states in place of the old ones in `s`.

    Of cells without unit weights.
    """
    gx, gh, s = _items("gx", cell.G), _items("gh", cell.G), _items("s", cell.S)
    scope: dict[str, Any] = {"body": cell.body}
    exec(f"def step(gx, gh, s):\n    {s} = body({gx}, {gh}, {s})\n", scope)
    return device(scope["step"])


@cache
def backward_in_place(cell: DeviceCell) -> Any:
    """``backward(gx, gh, s, ds, dgx, dgh)``: the chain rule on a thread's own arrays; `ds` is what it takes and gives.

    Of cells without unit weights.
    """
    gx, gh, dgx, dgh = (_items(name, cell.G) for name in ("gx", "gh", "dgx", "dgh"))
    s, ds = _items("s", cell.S), _items("ds", cell.S)
    text = f"def in_place(gx, gh, s, ds, dgx, dgh):\n    {dgx}, {dgh}, {ds} = backward({gx}, {gh}, {s}, {ds})\n"
    scope: dict[str, Any] = {"backward": cell.backward}
    exec(text, scope)
    return device(scope["in_place"])


def _items(name: str, count: int) -> str:
    """A tuple of an array's elements; its length is part of its type, so it is written out."""
    return "(" + "".join(f"{name}[{i}], " for i in range(count)) + ")"


@cache
def _functions(number: Any) -> dict[str, Callable[..., Any]]:
    """What stands for the functions of `elementary`."""
    exp, tanh = (_simulated_exp(number), _tanh) if config.ENABLE_CUDASIM else (_exp, _tanh)

    @device
    def sigmoid(a: Any) -> Any:
        # exp may overflow: 1 / inf is the 0 that is wanted.
        return number(1.0) / (number(1.0) + exp(-a))

    @device
    def select(condition: Any, a: Any, b: Any) -> Any:
        return a if condition else b

    @device
    def zero_like(a: Any) -> Any:
        return number(0.0)

    if number is _float32 and not config.ENABLE_CUDASIM:
        sigmoid, tanh = _short_sigmoid, _short_tanh
    return {"exp": exp, "sigmoid": sigmoid, "tanh": tanh, "select": select, "zero_like": zero_like}


@device
def _exp(a: Any) -> Any:
    return math.exp(a)


@device
def _tanh(a: Any) -> Any:
    return math.tanh(a)


def _simulated_exp(number: Any) -> Callable[..., Any]:
    """A function that overflows to inf, as on a GPU, and not to an error."""

    def exp(a: Any) -> Any:
        try:
            return number(math.exp(a))
        except OverflowError:
            return number(inf)

    return exp


# In float32, math.exp and / branch off to slow code for rare arguments, and past branches the compiler does not
# interleave the gates. Two instructions do without. sigmoid and tanh are off by about 1e-7, as CUDA's own are.


@device
def _short_sigmoid(a: Any) -> Any:
    return ptx.reciprocal(_float32(1.0) + ptx.exp2(a * _float32(-1.4426950408889634)))


@device
def _short_tanh(a: Any) -> Any:
    e = ptx.exp2(a * _float32(2.8853900817779268))
    large = ptx.fma(_float32(-2.0), ptx.reciprocal(_float32(1.0) + e), _float32(1.0))
    # Near 0, where that loses digits, a polynomial: to 2 ulp.
    b = a * a
    p = ptx.fma(_float32(0.015739683), b, _float32(-0.052303962))
    p = ptx.fma(ptx.fma(p, b, _float32(0.13315298)), b, _float32(-0.33332768))
    return ptx.fma(a, b * p, a) if abs(a) < _float32(0.6) else large
