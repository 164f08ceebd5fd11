"""Arrays on the GPU of the libraries that have them, and whether a layer takes and gives them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn

from ..compare import largest
from ..engines import imported
from ..files import Array
from .worker import NotHere

LIBRARIES = ("torch", "cupy", "jax", "numba")
STEPS = 65
AGREE = 1e-5  # times max(1, largest): other strides may have other sums


class Library:
    """One of them; "numpy" is there for Numba's simulator, which has no GPU.

    Raises
    ------
    NotHere
        It is not installed, or has no GPU.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take nearly all memory
        try:
            self._module = imported({"numba": "numba.cuda"}.get(name, name))
            asks: dict[str, Callable[[], Any]] = {
                "torch": lambda: self._module.cuda.is_available(),
                "cupy": lambda: self._module.cuda.runtime.getDeviceCount() > 0,
                "jax": lambda: bool(self._module.devices("cuda")),
                "numba": lambda: self._module.is_available(),
                "numpy": lambda: True,
            }
            there = asks[name]()
        except Exception as error:  # of their own kinds
            raise NotHere(f"{name}: {error}") from error
        if not there:
            raise NotHere(f"{name} has no GPU here")

    def device(self, a: Array) -> Any:
        put: dict[str, Callable[[], Any]] = {
            "torch": lambda: self._module.from_numpy(a).cuda(),
            "cupy": lambda: self._module.asarray(a),
            "jax": lambda: self._module.device_put(a, self._module.devices("cuda")[0]),
            "numba": lambda: self._module.to_device(a),
        }
        return put.get(self.name, lambda: a)()

    def host(self, a: Any) -> Array:
        get: dict[str, Callable[[], Any]] = {
            "torch": lambda: a.detach().cpu(),
            "cupy": lambda: self._module.asnumpy(a),
            "numba": lambda: a.copy_to_host(),
        }
        return np.asarray(get.get(self.name, lambda: a)())

    def wait(self) -> None:
        """For all that the GPU was given."""
        if self.name == "torch":
            self._module.cuda.synchronize()
        elif self.name != "numpy":
            imported("numba.cuda").synchronize()

    def release(self) -> None:
        """Give back memory that is kept for later: the processes beside this one have the same GPU."""
        if self.name == "numpy":
            return
        if self.name == "torch":
            self._module.cuda.empty_cache()
        driver = imported("cuda.bindings.driver")
        _, device = driver.cuDeviceGet(0)
        _, pool = driver.cuDeviceGetMemPool(device)
        driver.cuMemPoolTrimTo(pool, 0)

    def other_stream(self) -> Any:
        """A context in which the library works on a stream of its own; None where it has none."""
        if self.name == "torch":
            return self._module.cuda.stream(self._module.cuda.Stream())
        if self.name == "cupy":
            return self._module.cuda.Stream(non_blocking=True)
        return None


def run(name: str, alone: Callable[[], None]) -> dict[str, Any]:
    """Calls and gradients on arrays of a library give arrays of that library, and the same numbers as on NumPy's."""
    library = Library(name)
    layer = fastrnn.GRU(12, 48, num_layers=2, bidirectional=True, batch_first=True, rng=0).to("cuda")
    rng = np.random.default_rng(0)
    shapes = (3, STEPS, 12), (4, 3, 48), (3, STEPS, 96)
    plain = [rng.standard_normal(shape, np.float32) for shape in shapes]
    lengths = np.array([STEPS, 7, 40])

    def all_of(x: Any, hx: Any, d_output: Any) -> dict[str, Any]:
        y, h_n = layer(x, hx)
        _, backward = layer.vjp(x, hx, lengths=lengths)
        gradients = backward(d_output)
        return {"y": y, "h_n": h_n, "dx": gradients.x, "dhx": gradients.hx, **dict(gradients.params or {})}

    expected = all_of(*plain)
    given = [library.device(a) for a in plain]
    problems = _differences(library, all_of(*given), expected, type(given[0]), "")
    if (other := library.other_stream()) is not None:
        zeros = library.device(np.zeros((4096, 4096), np.float32))
        library.wait()
        with other:
            for _ in range(20):  # some 50 ms: whoever does not wait for this stream comes too early
                zeros = zeros @ zeros
            late = [a + zeros[0, 0] for a in given]
            found = all_of(*late)
            problems += _differences(library, found, expected, type(given[0]), " on another stream")
    return {"verdict": "WRONG", "why": "; ".join(problems)} if problems else {}


def _differences(
    library: Library, found: dict[str, Any], expected: dict[str, Array], kind: type, where: str
) -> list[str]:
    problems = []
    for name, array in found.items():
        if type(array) is not kind:
            problems.append(f"{name}{where} is a {type(array).__name__}")
        elif not np.abs(library.host(array) - expected[name]).max() <= AGREE * max(1.0, largest(expected[name])):
            problems.append(f"{name}{where} has other numbers")
    return problems
