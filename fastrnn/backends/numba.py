"""The loops of `fastrnn.jit`, compiled by Numba: for torch's cells and for users' own."""

from __future__ import annotations

from ..jit.plain import *  # noqa: F403
