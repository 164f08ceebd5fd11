"""Long loops over registers, in pieces.

An array of a thread's own is in registers if all its indices are constants: if compilers unroll the loops over it. They
do so up to a length that varies from version to version and from GPU to GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .cell import device


def in_pieces(make: Callable[[int, int], Any], count: int, size: int) -> Any:
    """A device function that does what ``make(first, end)``, for stretches of at most `size` up to `count`, do in turn.

    These are device functions, all of the same parameters.
    """
    size = max(size, 1)
    first, *others = [make(i, min(i + size, count)) for i in range(0, count, size)]
    for other in others:
        first = _both(first, other)
    return first


def _both(one: Any, other: Any) -> Any:
    code = one.py_func.__code__ if hasattr(one, "py_func") else one.__code__
    names = ", ".join(code.co_varnames[: code.co_argcount])
    scope = {"one": one, "other": other}
    exec(f"def both({names}):\n    one({names})\n    other({names})\n", scope)
    return device(scope["both"])
