"""Which Numba there has to be, and with which options it compiles."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import njit

OLDEST = (0, 62)
if tuple(int(part) for part in numba.__version__.split(".")[:2]) < OLDEST:
    raise ImportError(f"Numba {numba.__version__} is too old, {'.'.join(map(str, OLDEST))} is the oldest that fits")

#: Of all compiled functions. They are said, since a callee takes what it does not say from its caller, and a user's
#: caller may have fastmath=True.
STRICT: dict[str, Any] = {"fastmath": False, "error_model": "numpy", "nogil": True}
#: Of callees. Few functions are: Numba compiles each down to machine code, and once more as a part of its caller.
INNER: dict[str, Any] = {**STRICT, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


#: Of parts of one long function: put into it before anything is compiled.
PART: dict[str, Any] = {**STRICT, "inline": "always"}


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that is called from outside; it is kept on disk where there is a place for it."""
    try:
        return njit(cache=True, **STRICT)(function)
    except RuntimeError:  # no folder can be written to
        return njit(**STRICT)(function)
