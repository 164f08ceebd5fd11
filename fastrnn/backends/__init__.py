"""Which code runs the recurrence: the contract that every backend keeps, and the choice among them.

A backend computes one layer in one direction over all time steps. It knows nothing of stacking, batch_first, sorting
or files: `sequence.py` does that for all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NamedTuple, Protocol

from numpy.typing import NDArray

from .. import validate
from ..cells import CellSpec, Weights
from ..errors import BackendError

Array = NDArray[Any]

#: The first is the default. Where it cannot run, that is an error and not a reason to take the next one, which may be a
#: hundred times slower.
NAMES = ("cython", "numba", "cuda", "reference")
_INSTALL = {
    "cuda": 'pip install "fastrnn[cuda]"',
    "cython": "build fastrnn with a C compiler: pip install --force-reinstall fastrnn",
    "numba": 'pip install "fastrnn[numba]"',
}


class Record(NamedTuple):
    """What `Backend.backward` needs of a forward pass over one layer in one direction."""

    x: Array  # (T, N, I)
    y: Array  # (T, N, H_out): the output, which is the state after each step
    h_0: Array  # (N, H_out)
    c_0: Array | None  # (N, C)
    c_all: Array | None  # (T, N, C)
    gates: Array | None  # (T, N, gates_width), as the backend's own `forward` wrote them
    lengths: Array | None
    reset: Array | None
    reverse: bool


class Backend(Protocol):
    """What a backend offers. Modules are backends: they define these functions.

    A cell of S states has h and, side by side in one array c, the others: C = (S - 1) * H columns.
    """

    __name__: str
    CHUNK_STEPS: int
    """Gradients are the same to the last bit where a sequence is cut at multiples of so many steps."""

    def prepare(self, spec: CellSpec, weights: Weights) -> Any:
        """Whatever `forward` wants to have of the weights (packed, say): made once, read by any number of threads."""

    def forward(
        self,
        prepared: Any,
        x: Array,
        y: Array,
        h: Array,
        c: Array | None,
        *,
        lengths: Array | None = None,
        reset: Array | None = None,
        reverse: bool = False,
        c_all: Array | None = None,
        gates: Array | None = None,
    ) -> None:
        """Run one layer in one direction over all steps.

        Parameters
        ----------
        prepared : object
            What `prepare` returned.
        x : (T, N, I) IN
            Of the weights' dtype; unit stride in the last axis, any in the others.
        y : (T, N, H_out) OUT
            Likewise strided. Steps past a row's length are not written.
        h : (N, H_out) INOUT, contiguous
            Initial state; holds the final state afterwards (of a row of length 0: unchanged).
        c : (N, C) INOUT, contiguous, or None
            The same for all other states.
        lengths : (N,) intp, decreasing, or None
        reset : (T, N) bool, contiguous, or None
            True zeroes the state before that step; in the reverse direction after it.
        reverse : bool
            From each row's last step to its first.
        c_all : (T, N, C) OUT or None
            They after each step.
        gates : (T, N, gates_width) OUT or None
            What `backward` wants to know of each step besides.
        """

    def prepare_backward(self, spec: CellSpec, weights: Weights) -> Any:
        """Whatever `backward` wants to have of the weights."""

    def gates_width(self, prepared: Any) -> int:
        """Numbers for each step and row that `forward` keeps for `backward`; `prepared` is `prepare_backward`'s."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Memory for what is kept from the way forth to the way back: as `np.empty`, and perhaps faster."""

    def new_sums(self, prepared: Any) -> Any:
        """Zeros to which `backward` adds the gradients of the weights."""

    def weight_gradients(self, sums: Any) -> Weights:
        """The gradients in torch's layout, as new arrays of the weights' dtype."""

    def backward(
        self, prepared: Any, record: Record, dy: Array | None, dh: Array, dc: Array | None, dx: Array | None, sums: Any
    ) -> None:
        """Backprop through time of one layer in one direction.

        Parameters
        ----------
        prepared : object
            What `prepare_backward` returned.
        record : Record IN
            Of the forward pass.
        dy : (T, N, H_out) IN or None
            Gradient with respect to the output, zero where None; any strides, unit in the last axis. Not read past a
            row's length.
        dh : (N, H_out) INOUT
            Gradient with respect to the final state; holds that of the initial state afterwards.
        dc : (N, C) INOUT or None
            The same for all other states.
        dx : (T, N, I) OUT or None
            Gradient with respect to the input. Not written past a row's length.
        sums : object INOUT or None
            What `new_sums` returned.
        """


class BackendInfo(NamedTuple):
    name: str
    available: bool
    why_not: str


def load(name: str) -> Backend:
    """The backend of that name.

    Raises
    ------
    ValueError
        No backend has that name.
    BackendError
        It cannot run here.
    """
    if name not in NAMES:
        raise ValueError(f"backend should be one of {', '.join(NAMES)}, got: {name!r}")
    try:
        return import_module(f"{__name__}.{name}")
    except ImportError as error:
        raise BackendError(f"backend {name!r} cannot run here: {error}. To have it, {_INSTALL[name]}") from error


def backends() -> list[BackendInfo]:
    """Every backend: its name, whether it can run here, and why not.

    Returns
    -------
    list of BackendInfo
    """
    table = []
    for name in NAMES:
        try:
            load(name)
            table.append(BackendInfo(name, True, ""))
        except BackendError as error:
            table.append(BackendInfo(name, False, str(error)))
    return table


_flush_denormals = True


def set_flush_denormals(flush: bool) -> None:
    """Whether compiled kernels treat denormal numbers (below 1.2e-38 in float32) as zero; they do by default.

    Decaying states get there, and processors handle such numbers up to a hundred times slower. The processor's mode
    is set within kernels only and put back.

    Parameters
    ----------
    flush : bool
    """
    global _flush_denormals
    _flush_denormals = validate.flag("flush", flush)


def flush_denormals() -> bool:
    return _flush_denormals


_cuda_precision = "ieee"


def set_cuda_precision(precision: str) -> None:
    """How the matrix products of float32 layers on a GPU are computed, in the whole process.

    Parameters
    ----------
    precision : str
        ``"ieee"``: in float32 throughout, the default. ``"tf32"``: on tensor cores, faster, with factors that are
        rounded to 10 bits after the point; torch's default for its recurrent layers.
    """
    global _cuda_precision
    if precision not in ("ieee", "tf32"):
        raise ValueError(f"precision should be 'ieee' or 'tf32', got: {precision!r}")
    _cuda_precision = precision


def cuda_precision() -> str:
    return _cuda_precision


_process: Backend | None = None
_context: ContextVar[Backend | None] = ContextVar("fastrnn_backend", default=None)


def current() -> Backend:
    """The backend in force: of the context, else of the process, else FASTRNN_BACKEND, else the default."""
    global _process
    chosen = _context.get() or _process
    if chosen is None:
        name = os.environ.get("FASTRNN_BACKEND") or NAMES[0]
        if name not in NAMES:
            raise ValueError(f"FASTRNN_BACKEND should be one of {', '.join(NAMES)}, got: {name!r}")
        chosen = _process = load(name)
    return chosen


def for_cell(spec: CellSpec, backend: Backend) -> Backend:
    """The backend that runs a cell where `backend` is in force: ``numba`` for users' cells in place of ``cython``."""
    if not spec.custom or backend.__name__ != f"{__name__}.cython":
        return backend
    try:
        return load("numba")
    except BackendError as error:
        raise BackendError(
            f"{spec.name} is not one of torch's cells, which alone have kernels in backend 'cython'; {error}. "
            'fastrnn.set_backend("reference") runs it too, slowly'
        ) from error


def set_backend(name: str) -> None:
    """Choose the backend for the whole process.

    Parameters
    ----------
    name : str
        ``"cython"``, ``"numba"``, ``"cuda"`` or ``"reference"``. Users' cells run on ``"numba"`` where ``"cython"`` is
        chosen.

    Raises
    ------
    ValueError
        No backend has that name.
    BackendError
        It cannot run here.
    """
    global _process
    _process = load(name)


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend for a ``with`` block: in this thread (or asynchronous task) alone.

    Parameters
    ----------
    name : str
        As in `set_backend`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> gru, x = fastrnn.GRU(3, 4, rng=0), np.ones((5, 2, 3))
    >>> with fastrnn.use_backend("reference"):
    ...     y, h_n = gru(x)
    >>> np.allclose(gru(x)[0], y, atol=1e-6)
    True
    """
    token = _context.set(load(name))
    try:
        yield
    finally:
        _context.reset(token)
