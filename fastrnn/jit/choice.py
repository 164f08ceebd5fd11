"""Which loops there are: on SIMD lanes, or plain ones, two to three times slower.

Lanes need parts of Numba that are not public. So FASTRNN_LANES=0 in the environment asks for the others, and they are
taken where these parts are not as expected, and where Numba is told to compile nothing.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module

import numba

from . import options as _options  # noqa: F401  no loops fit a Numba that is too old


def _why_no_lanes() -> str:
    if os.environ.get("FASTRNN_LANES") == "0":
        return "FASTRNN_LANES is 0"
    if numba.config.DISABLE_JIT:
        return "NUMBA_DISABLE_JIT is set"
    try:
        import_module("fastrnn.jit.engine")
    except (ImportError, AttributeError) as error:
        why = f"parts of Numba {numba.__version__} are not as expected: {error}"
        warnings.warn(f"fastrnn is slower here, as {why}", RuntimeWarning, stacklevel=2)
        return why
    return ""


WHY_NO_LANES = _why_no_lanes()
LANES = not WHY_NO_LANES
engine = import_module("fastrnn.jit.engine" if LANES else "fastrnn.jit.plain")
