"""Kernels compiled to PTX by Numba, and kept on disk. No GPU is needed, nor a driver.

The folder is FASTRNN_CUDA_CACHE in the environment, else ``fastrnn/cuda`` in the user's folder for caches; where it
cannot be written to, nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from numba.core.errors import NumbaError
from numba.cuda import compile as _compile
from numba.cuda import dispatcher, types
from numba.cuda.core.compiler_lock import global_compiler_lock

from ..atomic import atomic_path
from ..errors import BackendError
from .runtime import Kernel

Capability = tuple[int, int]


def ptx(kernel: Kernel, capability: Capability) -> tuple[str, bytes]:
    """The kernel's name in its PTX, and that.

    Raises
    ------
    BackendError
        Numba cannot compile it.
    """
    path = _path(kernel, capability)
    code = None
    if path is not None:
        with suppress(OSError):
            code = path.read_bytes()
    if code is None or b"\n// end" not in code[-8:]:
        code = _compiled(kernel, capability).encode() + b"\n// end\n"
        if path is not None:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(path) as temporary:
                    temporary.write_bytes(code)
    found = re.search(rb"\.entry\s+([\w$]+)", code)
    assert found is not None
    return found.group(1).decode(), code


def signature(kernel: Kernel) -> Any:
    """Of its parameters."""
    letters = {
        "f": types.CPointer(kernel.number),
        "b": types.CPointer(types.uint8),
        "i": types.CPointer(types.int32),
        "n": types.int64,
    }
    return types.void(*(letters[letter] for letter in kernel.parameters))


def _compiled(kernel: Kernel, capability: Capability) -> str:
    try:
        with _for_capability(capability):
            code, _ = _compile(
                kernel.function,
                signature(kernel),
                cc=capability,
                device=False,
                abi="numba",
                fastmath=kernel.fastmath,
                launch_bounds=(kernel.threads, 1),
            )
    except NumbaError as error:
        text = "\n".join(str(error).strip().splitlines()[:8])
        raise BackendError(f"Numba cannot compile {kernel.function.__qualname__} for a GPU: {text}") from error
    return str(code)


@contextmanager
def _for_capability(capability: Capability) -> Iterator[None]:
    """Numba asks the current GPU what to compile device functions for, even where the kernel's compiler was told."""
    with global_compiler_lock:
        asked = dispatcher.get_current_device
        dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)
        try:
            yield
        finally:
            dispatcher.get_current_device = asked


# ---- on disk --------------------------------------------------------------------------------------------------------


@lru_cache
def _folder() -> Path | None:
    given = os.environ.get("FASTRNN_CUDA_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "fastrnn" / "cuda"
    except RuntimeError:  # no home
        return None


def _path(kernel: Kernel, capability: Capability) -> Path | None:
    folder = _folder()
    if folder is None:
        return None
    try:
        parts = [*_common(), capability, kernel.parameters, kernel.threads, str(kernel.number), kernel.fastmath]
        parts += list(_described(kernel.function, {}))
    except TypeError:
        return None
    digest = hashlib.sha256(repr(parts).encode()).hexdigest()
    return folder / f"{kernel.function.__name__}-{digest[:40]}.ptx"


@lru_cache
def _common() -> tuple[Any, ...]:
    """What all kernels depend on: versions, and the sources of this package."""
    versions = [str(sys.implementation.cache_tag)]
    for package in ("numba-cuda", "numba", "llvmlite", "nvidia-nvvm"):
        try:
            versions.append(version(package))
        except PackageNotFoundError:
            versions.append("")
    sources = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        sources.update(file.read_bytes())
    return (*versions, sources.hexdigest())


def _described(value: Any, done: dict[int, int]) -> Iterator[Any]:
    """What distinguishes a function from others of the same source: the constants in its closure, functions too.

    Raises
    ------
    TypeError
        There is something that cannot be told from others for sure.
    """
    value = getattr(value, "py_func", value)
    if value is None or isinstance(value, str | int | float | bool | np.generic | np.dtype | types.Type):
        yield f"{type(value).__name__} {value!r}"
    elif isinstance(value, FunctionType):
        if id(value) in done:
            yield done[id(value)]
            return
        done[id(value)] = len(done)
        yield from _code(value.__code__)
        for cell in value.__closure__ or ():
            yield from _described(cell.cell_contents, done)
        for name in value.__code__.co_names:
            # Of other modules the source is known by its module; what `exec` made has only its globals.
            if name in value.__globals__ and "__file__" not in value.__globals__:
                yield name
                yield from _described(value.__globals__[name], done)
    elif isinstance(value, tuple | list):
        yield len(value)
        for part in value:
            yield from _described(part, done)
    elif isinstance(value, ModuleType):
        yield value.__name__
    elif isinstance(value, type) or callable(value):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    else:
        raise TypeError(type(value).__name__)


def _code(code: CodeType) -> Iterator[Any]:
    yield from (code.co_name, code.co_code.hex(), code.co_names, code.co_varnames, code.co_freevars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant)
        else:
            yield repr(constant)
