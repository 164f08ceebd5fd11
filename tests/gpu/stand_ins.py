"""`numba`, `numba.cuda` and `fastrnn.cuda.ptx` for the executor, and modules of `fastrnn.cuda` that run on them.

Numbers are Python floats, which hold float32's NaN with all its bits: the word 0xFFFFFFFF that stands for "not written
yet" is a NaN, the one that a GPU makes, 0x7FFFFFFF, is another.
"""

from __future__ import annotations

import ast
import builtins
import math
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import device_memory
import simt
from simt import ALL_LANES, barrier, collective, getcurrent

import fastrnn

SOURCES = Path(fastrnn.__file__).parent / "cuda"

_float32, _uint32, _float64, _uint64 = (struct.Struct(letter) for letter in "fIdQ")


def _module(name: str, contents: dict[str, Any]) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(contents)
    return module


# ---- numba ----------------------------------------------------------------------------------------------------------


def _floating(name: str) -> Callable[[Any], float]:
    def number(value: Any) -> float:
        return float(value)

    number.__name__ = name
    return number


def _whole(name: str, width: int, signed: bool) -> Callable[[Any], int]:
    lowest = -(1 << width - 1) if signed else 0
    highest = lowest + (1 << width) - 1

    def number(value: Any) -> int:
        value = int(value)
        if signed and not lowest <= value <= highest:
            raise device_memory.BadAccess(f"{getcurrent()} makes {value} an {name}")
        return value & highest if not signed else value

    number.__name__ = name
    return number


TYPES = {name: _floating(name) for name in ("float32", "float64")} | {
    f"{'' if signed else 'u'}int{width}": _whole(f"{'' if signed else 'u'}int{width}", width, signed)
    for width in (8, 32, 64)
    for signed in (True, False)
}

WIDTHS = {name: int(name.strip("aflotuin")) // 8 for name in TYPES}


def _jit(function: Any = None, **options: Any) -> Any:
    return function if callable(function) else lambda f: f


class _Index:
    """``cuda.threadIdx`` and the like, of the thread that asks."""

    def __init__(self, of: Callable[[Any], tuple[int, int, int]]) -> None:
        self._of = of

    @property
    def x(self) -> int:
        return self._of(getcurrent())[0]

    @property
    def y(self) -> int:
        return self._of(getcurrent())[1]

    @property
    def z(self) -> int:
        return self._of(getcurrent())[2]


class _Cuda(ModuleType):
    threadIdx = _Index(lambda t: (t.index, 0, 0))
    blockIdx = _Index(lambda t: t.block.index)
    blockDim = _Index(lambda t: (t.launch.threads, 1, 1))
    gridDim = _Index(lambda t: t.launch.grid)
    warpsize = simt.LANES
    types = SimpleNamespace(**TYPES)
    jit = staticmethod(_jit)
    local = SimpleNamespace(array=lambda size, number, alignment=1: [None] * size)
    shared = SimpleNamespace(array=lambda size, number, alignment=1: simt.shared_array(size, WIDTHS[number.__name__]))

    @property
    def laneid(self) -> int:
        return getcurrent().lane

    @staticmethod
    def grid(dimensions: int) -> int:
        assert dimensions == 1
        thread = getcurrent()
        return thread.block.index[0] * thread.launch.threads + thread.index

    @staticmethod
    def gridsize(dimensions: int) -> int:
        assert dimensions == 1
        launch = getcurrent().launch
        return launch.grid[0] * launch.threads

    @staticmethod
    def syncthreads() -> None:
        barrier("syncthreads")

    @staticmethod
    def syncthreads_and(vote: Any) -> int:
        return barrier("syncthreads_and", vote)

    @staticmethod
    def syncthreads_or(vote: Any) -> int:
        return barrier("syncthreads_or", vote)

    @staticmethod
    def syncthreads_count(vote: Any) -> int:
        return barrier("syncthreads_count", vote)

    @staticmethod
    def syncwarp(mask: int = ALL_LANES) -> None:
        collective("syncwarp", mask)

    @staticmethod
    def shfl_sync(mask: int, value: Any, source: int) -> Any:
        return collective("shfl_sync", mask, value, source)

    @staticmethod
    def shfl_xor_sync(mask: int, value: Any, lanes: int) -> Any:
        return collective("shfl_xor_sync", mask, value, lanes)

    @staticmethod
    def shfl_up_sync(mask: int, value: Any, delta: int) -> Any:
        return collective("shfl_up_sync", mask, value, delta)

    @staticmethod
    def shfl_down_sync(mask: int, value: Any, delta: int) -> Any:
        return collective("shfl_down_sync", mask, value, delta)

    @staticmethod
    def all_sync(mask: int, vote: Any) -> bool:
        return collective("all_sync", mask, vote)

    @staticmethod
    def any_sync(mask: int, vote: Any) -> bool:
        return collective("any_sync", mask, vote)

    @staticmethod
    def ballot_sync(mask: int, vote: Any) -> int:
        return collective("ballot_sync", mask, vote)


CUDA = _Cuda("numba.cuda")
_CONFIG = SimpleNamespace(ENABLE_CUDASIM=False)
NUMBA = _module("numba", {"cuda": CUDA, "types": CUDA.types, "config": _CONFIG, **TYPES})

# ---- ptx ------------------------------------------------------------------------------------------------------------


def _bits(value: float) -> int:
    try:
        return _uint32.unpack(_float32.pack(value))[0]
    except OverflowError:  # of a float64 that is too large
        return 0x7F800000 if value > 0 else 0xFF800000


def _from_bits(word: Any) -> float:
    return word if isinstance(word, float) else _float32.unpack(_uint32.pack(word))[0]


SENTINEL = _from_bits(0xFFFFFFFF)


def _to_tf32(value: float) -> float:
    """The number itself in place of its bits, which the tensor core and `from_bits` take as well."""
    if not getcurrent().launch.round_to_tf32 or not math.isfinite(value):
        return value
    return _cut_tf32(_float64.unpack(_uint64.pack(_uint64.unpack(_float64.pack(value))[0] + (1 << 41)))[0])


def _cut_tf32(value: float) -> float:
    if not getcurrent().launch.round_to_tf32 or not math.isfinite(value):
        return value
    return _float64.unpack(_uint64.pack(_uint64.unpack(_float64.pack(value))[0] & ~((1 << 42) - 1)))[0]


def _pause(pointer: Any, index: Any, count: int) -> None:
    """A polling loop has to let others run, now and then."""
    thread = getcurrent()
    thread.loads += 1
    if thread.loads == 8 or (pointer.waits(index, thread, count) and thread.launch.random.random() < 0.7):
        thread.pause()


def _load_relaxed(pointer: Any, index: Any) -> Any:
    _pause(pointer, index, 1)
    return pointer.load(index)


def _load_relaxed4(pointer: Any, index: Any) -> tuple[Any, ...]:
    _pause(pointer, index, 4)
    return pointer.load4(index)


def _load_acquire(pointer: Any, index: Any) -> Any:
    getcurrent().pause()
    return pointer.load(index, acquire=True)


def _exp2(a: float) -> float:
    try:
        return 2.0**a
    except OverflowError:
        return math.inf


def _exp(a: float) -> float:
    try:
        return math.exp(a)
    except OverflowError:
        return math.inf


def _reciprocal(a: float) -> float:
    return 1.0 / a if a else math.copysign(math.inf, a)


PTX = _module(
    "fastrnn.cuda.ptx",
    {
        "load_relaxed": _load_relaxed,
        "load_relaxed4": _load_relaxed4,
        "store_relaxed": lambda pointer, index, value: pointer.store(index, value),
        "prefetch": lambda pointer, index: pointer._index(index),
        "load_acquire": _load_acquire,
        "store_release": lambda pointer, index, value: pointer.store(index, value, release=True),
        "add_release": lambda pointer, index, value: pointer.add(index, value),
        "bits": _bits,
        "from_bits": _from_bits,
        "fma": lambda a, b, c: a * b + c,
        "exp2": _exp2,
        "reciprocal": _reciprocal,
        "to_tf32": _to_tf32,
        "round_tf32": _to_tf32,
        "as_tf32": _cut_tf32,  # tensor cores cut
        "cut_tf32": _cut_tf32,
        "anew": lambda a: a,
        "mma_tf32": lambda *values: collective("mma_tf32", ALL_LANES, values),
        "global_nanoseconds": lambda: getcurrent().launch.time,
    },
)

_MATH = _module("math", {**vars(math), "exp": _exp})  # C's does not raise

# What modules approximate for float32, and what it approximates: in its place, as with `ptx`, numbers are exact.
EXACT: dict[str, Callable[..., Any]] = {
    "_short_sigmoid": lambda a: 1.0 / (1.0 + _exp(-a)),
    "_short_tanh": math.tanh,
}

# ---- modules of fastrnn.cuda ----------------------------------------------------------------------------------------


@lru_cache
def load(name: str, edits: tuple[tuple[str, str], ...] = (), exact: bool = True) -> ModuleType:
    """The module of `fastrnn.cuda` of that name, its source run with what stands here for Numba's modules.

    `edits` are pairs of fragments of its source, each of which must occur once, and what to put in their place. Edits
    reach this module alone, not those that it imports. Where not `exact`, functions that approximate others remain.
    """
    path = SOURCES / f"{name}.py"
    source = path.read_text()
    for old, new in edits:
        if (times := source.count(old)) != 1:
            raise LookupError(f"{path} has this fragment {times} times, not once:\n{old}")
        source = source.replace(old, new)
    module = ModuleType(f"fastrnn.cuda.{name}")
    module.__package__ = "fastrnn.cuda"
    module.__file__ = str(path)
    vars(module)["__builtins__"] = {**vars(builtins), "__import__": _import}
    exec(compile(source, str(path), "exec"), vars(module))
    for replaced in set(EXACT) & set(vars(module)) if exact else ():
        setattr(module, replaced, EXACT[replaced])
    return module


def _import(name: str, scope: Any = None, locals: Any = None, fromlist: Sequence[str] = (), level: int = 0) -> Any:
    if level == 0:
        if name == "math":
            return _MATH
        if name.partition(".")[0] == "numba":
            return {"numba": NUMBA, "numba.cuda": CUDA if fromlist else NUMBA}[name]
        return builtins.__import__(name, scope, locals, fromlist)
    if level == 1 and not name:  # from . import ptx
        return SimpleNamespace(**{item: _own(item) for item in fromlist})
    if level == 1:
        return _own(name)
    return import_module("." * level + name, "fastrnn.cuda")


def _own(name: str) -> Any:
    if name == "ptx":
        return PTX
    if name == "runtime":
        return _named_tuples(name)
    return load(name)


@lru_cache
def _named_tuples(name: str) -> ModuleType:
    """A module's named tuples alone: the rest of it wants a GPU. Other names in it are there, for annotations."""
    path = SOURCES / f"{name}.py"
    tree = ast.parse(path.read_text())
    tree.body = [
        node
        for node in tree.body
        if (isinstance(node, ast.ImportFrom) and node.module in {"__future__", "typing", "collections.abc"})
        or (isinstance(node, ast.ClassDef) and any(getattr(b, "id", "") == "NamedTuple" for b in node.bases))
    ]
    module: Any = ModuleType(f"fastrnn.cuda.{name}")
    module.__getattr__ = lambda name: type(name, (), {})
    exec(compile(tree, str(path), "exec"), vars(module))
    return module
