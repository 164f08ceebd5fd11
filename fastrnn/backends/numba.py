"""The loops of `fastrnn.jit`, compiled by Numba: for torch's cells and for users' own."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core.errors import NumbaError

from ..cells import CellSpec, Weights
from ..errors import BackendError
from ..jit.choice import LANES
from ..jit.choice import engine as _engine
from . import Record

CHUNK_STEPS = _engine.CHUNK_STEPS
forward, backward = _engine.forward, _engine.backward
gates_width, empty = _engine.gates_width, _engine.empty
new_sums, weight_gradients = _engine.new_sums, _engine.weight_gradients
if LANES:
    stepper = _engine.stepper


def prepare(spec: CellSpec, weights: Weights) -> Any:
    """See `backends.Backend.prepare`."""
    prepared = _engine.prepare(spec, weights)
    _compile(spec, prepared, weights, None)
    return prepared


def prepare_backward(spec: CellSpec, weights: Weights) -> Any:
    """See `backends.Backend.prepare_backward`."""
    prepared = _engine.prepare_backward(spec, weights)
    _compile(spec, prepared, weights, gates_width(prepared))
    return prepared


_compiled: set[Any] = set()


def _compile(spec: CellSpec, prepared: Any, weights: Weights, width: int | None) -> None:
    """Have the loops compiled by a run of no steps: here, where it is known which cell that is for.

    width: of the gates, for the way back.
    """
    if (key := (prepared.tag.type, width is None)) in _compiled:
        return
    G, dtype = spec.n_gates, weights.w_ih.dtype
    H, I = len(weights.w_ih) // G, weights.w_ih.shape[1]

    def zeros(*shape: int) -> Any:
        return np.zeros(shape, dtype)

    H_out, C = H if weights.w_hr is None else len(weights.w_hr), H * (spec.n_states - 1)
    x, y, h = zeros(0, 1, I), zeros(0, 1, H_out), zeros(1, H_out)
    c, c_all = (zeros(1, C), zeros(0, 1, C)) if C else (None, None)
    try:
        if width is None:
            forward(prepared, x, y, h, c)
        else:
            record = Record(x, y, h, c, c_all, zeros(0, 1, width), None, None, False)
            backward(prepared, record, None, h.copy(), None if c is None else c.copy(), None, None)
    except (NumbaError, RuntimeError) as error:  # LLVM's are RuntimeErrors
        raise _explained(spec, prepared, error) from error
    _compiled.add(key)


def _explained(spec: CellSpec, prepared: Any, error: Exception) -> BackendError:
    """Whether the cell cannot be compiled, or the lanes cannot."""
    c, number = prepared.c, prepared.tag.dtype.type(0)
    sizes = [c.G, c.G * c.recurrent, c.S, *([c.U] if c.U else [])]
    given = tuple(numba.typeof((number,) * size) for size in sizes)
    try:
        c.body.compile(given)
        c.backward.compile((*given, given[2]))
    except NumbaError as of_cell:
        return BackendError(
            f"Numba cannot compile {spec.name}: {_first_lines(of_cell)}\n"
            'fastrnn.set_backend("reference") runs it without, slowly'
        )
    advice = "; FASTRNN_LANES=0 in the environment chooses simpler loops" if LANES else ""
    return BackendError(f"Numba cannot compile the loops for {spec.name} here{advice}: {_first_lines(error)}")


def _first_lines(error: Exception) -> str:
    return "\n".join(str(error).strip().splitlines()[:6])
