"""With which options functions are compiled."""

from __future__ import annotations

from typing import Any

#: Of all compiled functions. They are said, since a callee takes what it does not say from its caller, and a user's
#: caller may have fastmath=True.
STRICT: Any = {"fastmath": False, "error_model": "numpy", "nogil": True}
#: Of callees. Few functions are: Numba compiles each down to machine code, and once more as a part of its caller.
INNER: Any = {**STRICT, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}


#: Of parts of one long function: put into it before anything is compiled.
PART: Any = {**STRICT, "inline": "always"}
