"""A cell as a Numba type: so that one loop serves every cell, inlined, and is found again in Numba's cache on disk.

A `Tag` is an empty value whose *type* says which cell it is. Numba's cache knows compiled code by the types of the
arguments, so it tells cells apart and hits in the next process; a loop that closes over a compiled body never does.

The cache looks at the date of one file only, that of the outermost function, and a user's cached loop has our code
inlined. So the type's name holds a digest of everything that is compiled in: these files, the body, what the body
calls, and the values of the constants that it uses.
"""

from __future__ import annotations

import hashlib
import types as python_types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import njit, types
from numba.core.errors import NumbaTypeError, NumbaValueError
from numba.core.imputils import lower_constant, lower_getattr_generic
from numba.core.typing.templates import AttributeTemplate, infer_getattr
from numba.extending import NativeValue, box, models, register_model, unbox

from .. import cells, derive, elementary
from ..symbols import global_names
from .options import INNER


class CellType(types.Opaque):
    """The type of a `Tag`: a cell, the dtype that it computes in, and how many numbers of it at a time."""

    def __init__(self, name: str, dtype: Any, VL: int) -> None:
        self.dtype, self.VL = dtype, VL
        super().__init__(name=name)

    @property
    def spec(self) -> cells.CellSpec:
        return _SPECS[self.name]

    @property
    def width(self) -> int:
        """Registers of a panel of gates."""
        return compiled(self).width


register_model(CellType)(models.OpaqueModel)


@infer_getattr
class _Constants(AttributeTemplate):
    """``cell.G`` and the like in compiled code: constants."""

    key = CellType

    def generic_resolve(self, cell: CellType, name: str) -> Any:
        return types.intp if name in CONSTANTS else None


@lower_getattr_generic(CellType)
def _constant(context: Any, builder: Any, cell: CellType, value: Any, name: str) -> Any:
    return context.get_constant(types.intp, cell.VL if name == "VL" else getattr(compiled(cell), name))


CONSTANTS = ("G", "S", "U", "recurrent", "sums_only", "width", "VL")


class Compiled(NamedTuple):
    """What the loops are made of for one cell and dtype."""

    G: int  # gates
    S: int  # states
    U: int  # unit weights
    recurrent: int  # whether there is a recurrent part gh
    sums_only: int  # whether gx and gh matter as gx + gh only
    width: int  # registers of a panel of gates
    VL: int  # numbers in a register
    body: Any  # compiled
    backward: Any


class Tag:
    """What the compiled loops get as their first argument."""

    def __init__(self, cell: CellType) -> None:
        self.type = self._numba_type_ = cell  # the second is for Numba: an attribute is found in a third of the time
        self.dtype = numba.np.numpy_support.as_dtype(cell.dtype)
        self.of_pack: Any = None  # the type of the pack that it is in (see `packed.py`), whose own it is


@unbox(CellType)
def _unbox(typ: Any, obj: Any, c: Any) -> Any:
    return NativeValue(c.context.get_dummy_value())


@lower_constant(CellType)
def _no_constant(context: Any, builder: Any, typ: Any, value: Any) -> Any:
    # Addresses in memory would be compiled in, and written into Numba's cache.
    raise NumbaValueError("what fastrnn.jit.pack returns should be an argument of compiled functions, got: a global")


@box(CellType)
def _no_box(typ: Any, value: Any, c: Any) -> Any:
    raise NumbaTypeError("what fastrnn.jit.pack returns cannot be returned from compiled functions")


_SPECS: dict[str, cells.CellSpec] = {}  # not attributes of the type, which is pickled into Numba's cache


@cache
def cell_tag(spec: cells.CellSpec, dtype: np.dtype[Any], VL: int) -> Tag:
    """The tag of a cell in float32 or float64, VL numbers at a time; its type's name has the digest in it."""
    digest = hashlib.sha256(_own_sources())
    for piece in _pieces(spec.body, set()):
        digest.update(piece)
    for piece in _pieces(spec.chain_rule(), set()):
        digest.update(piece)
    sizes = spec.n_gates, spec.n_states, spec.unit_weights, spec.recurrent, _sums_only(spec)
    digest.update(repr(sizes).encode())
    name = f"Cell({spec.name}, {dtype}, {VL}, {digest.hexdigest()[:16]})"
    _SPECS[name] = spec
    return Tag(CellType(name, numba.from_dtype(dtype), VL))


def linear_tag(dtype: np.dtype[Any], VL: int) -> Tag:
    """Of no cell: for what has a matrix only."""
    digest = hashlib.sha256(_own_sources()).hexdigest()[:16]
    return Tag(CellType(f"Linear({dtype}, {VL}, {digest})", numba.from_dtype(dtype), VL))


def _sums_only(spec: cells.CellSpec) -> bool:
    """Whether the body uses gx and gh as gx + gh only, and the chain rule gives both the same gradients.

    A user's own chain rule may treat them apart where the body does not.
    """
    if not spec.recurrent:
        return True
    assert spec.body is not None
    known = spec.backward is None or not spec.custom
    return known and derive.sums_only(spec.body, spec.n_gates, spec.n_states, spec.unit_weights)


@cache
def compiled(cell: CellType) -> Compiled:
    """What `cell` is made of; called while Numba compiles."""
    spec = cell.spec
    G, S, U = spec.n_gates, spec.n_states, spec.unit_weights
    return Compiled(
        G,
        S,
        U,
        int(spec.recurrent),
        int(_sums_only(spec)),
        G if G > 2 else 4,
        cell.VL,
        _jitted(spec.body),
        _jitted(spec.chain_rule()),
    )


def _jitted(function: Any, _done: dict[Any, Any] | None = None) -> Any:
    """`function` compiled, and with it the plain functions that it calls by global or enclosed names."""
    done = {} if _done is None else _done
    if not isinstance(function, python_types.FunctionType) or function.__module__ == elementary.__name__:
        return function
    if function not in done:
        code, scope = function.__code__, dict(function.__globals__)
        enclosed = tuple(python_types.CellType() for _ in function.__closure__ or ())
        copy = python_types.FunctionType(code, scope, function.__name__, function.__defaults__, enclosed or None)
        done[function] = njit(**INNER)(copy)  # before what it calls, which may call it
        for name in global_names(code) & scope.keys():
            scope[name] = _jitted(scope[name], done)
        for new, old in zip(enclosed, function.__closure__ or (), strict=True):
            new.cell_contents = _jitted(old.cell_contents, done)
    return done[function]


@cache
def _own_sources() -> bytes:
    folder = Path(__file__).parent
    files = [*sorted(folder.glob("*.py")), Path(elementary.__file__)]
    return b"".join(file.read_bytes() for file in files)


def _pieces(value: Any, seen: set[int]) -> Iterator[bytes]:
    """Everything that compiled code of a function depends on: its bytecode, and the globals that it names."""
    if isinstance(value, tuple | list):
        for each in value:
            yield from _pieces(each, seen)
    if isinstance(value, dict):
        yield from _pieces(tuple(value.items()), seen)
    function = getattr(value, "py_func", value)  # of a Numba dispatcher
    if not isinstance(function, python_types.FunctionType):
        yield repr((value.dtype, value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value).encode()
        return
    if id(function) in seen or function.__module__ == elementary.__name__:
        yield function.__qualname__.encode()
        return
    seen.add(id(function))
    yield repr(getattr(value, "targetoptions", None)).encode()
    yield from _code_pieces(function.__code__)
    for cell in function.__closure__ or ():
        yield from _pieces(cell.cell_contents, seen)
    for found in _named(global_names(function.__code__), function.__globals__, set()):
        yield from _pieces(found, seen)
    yield from _pieces(function.__defaults__, seen)


def _named(names: set[str], there: dict[str, Any], modules: set[int]) -> Iterator[Any]:
    """All globals of these names, and those in modules among them: ``constants.K``."""
    for name in sorted(names & there.keys()):
        if not isinstance(there[name], python_types.ModuleType):
            yield there[name]
        elif id(there[name]) not in modules:
            modules.add(id(there[name]))
            yield from _named(names, vars(there[name]), modules)


def _code_pieces(code: python_types.CodeType) -> Iterator[bytes]:
    yield code.co_code
    for constant in code.co_consts:
        if isinstance(constant, python_types.CodeType):
            yield from _code_pieces(constant)
        else:
            yield repr(constant).encode()
    yield repr((code.co_names, code.co_varnames, code.co_freevars)).encode()
