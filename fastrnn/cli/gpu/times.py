"""Times of every path, and of torch, on arrays that are on the GPU already.

A figure is the median of the time of a call with a wait for its end, and so has what Python takes in it; "queued" is
that of calls in a row with one wait. Each result is held to that of the general path first, which `parity` holds to the
float64 reference.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Any, NamedTuple

import numpy as np

import fastrnn

from ..compare import largest
from ..engines import Problem, imported
from ..files import Array
from .libraries import Library
from .paths import Path
from .worker import NotHere

PASSES = {False: "forward", True: "forward + backward"}
TORCH = ("torch", "torch tf32")
SHORT = 4  # steps of the calls that compile: a kernel is the same for any number
WARM = 0.05  # seconds before a time is taken: clocks come up
TAKE = 0.1, 0.5  # seconds of samples: at least, where there are ten of them by then; at most
ENDS = 8  # steps that are compared: the last ones of the output, the first ones of the input's gradient
AGREE = {"ieee": 1e-4, "tf32": 2e-2}  # times max(1, largest): what is further off is another layer, and no rounding

Call = Callable[[], Sequence[Any]]  # runs a layer; gives y or, with gradients, y, dx and those of the parameters


class Timed(NamedTuple):
    """One engine on one layer."""

    problem: Problem
    backward: bool
    engine: str  # as in `paths`, or one of `TORCH`


def about(timed: Timed) -> dict[str, Any]:
    """A row's first columns."""
    problem = timed.problem
    sizes = {"N": problem.N, "H": problem.H, "T": problem.T}
    return {"engine": timed.engine, "cell": problem.cell, "pass": PASSES[timed.backward], **sizes}


def run(timed: Timed, alone: Callable[[], None]) -> dict[str, Any]:
    """Milliseconds of a call, and more.

    Raises
    ------
    NotHere
        torch is not there, or the path is not for this layer.
    """
    library = at_hand()
    try:
        return _run(timed, library, alone)
    finally:
        library.release()


def _run(timed: Timed, library: Library, alone: Callable[[], None]) -> dict[str, Any]:
    short = timed._replace(problem=replace(timed.problem, T=SHORT))
    call, _ = call_of(short, library)
    call()  # compiles, which is done without the GPU
    call, _ = call_of(short._replace(engine="general"), library)
    call()
    library.wait()
    timed.problem.x, timed.problem.weights  # noqa: B018 -- made here and now
    alone()
    call, _ = call_of(timed._replace(engine="general"), library)
    right = compared(call(), library)
    call, ran = call_of(timed, library)
    got = compared(call(), library)
    error = max(float(np.abs(a - b).max() / max(1.0, largest(b))) for a, b in zip(got, right, strict=True))
    found = {"error": error, **measured(call, library.wait), "ran": ran}
    found["us_per_step"] = found["ms"] / timed.problem.T * 1e3
    if not error <= AGREE["tf32" if timed.engine.endswith("tf32") else "ieee"]:
        found |= {"verdict": "WRONG", "why": f"off by {error:.1e} from the general path"}
    return found


def compared(results: Sequence[Any], library: Library) -> list[Array]:
    """The ends of sequences, and all of the gradients of parameters."""
    y, *gradients = results
    return [library.host(a) for a in (y[-ENDS:], *(d[:ENDS] if d.ndim == 3 else d for d in gradients))]


def measured(call: Callable[[], Any], wait: Callable[[], None]) -> dict[str, Any]:
    def seconds(n: int) -> float:
        began = time.perf_counter()
        for _ in range(n):
            call()
        wait()
        return (time.perf_counter() - began) / n

    until = time.perf_counter() + WARM
    while seconds(1) and time.perf_counter() < until:
        pass
    samples: list[float] = []
    while (taken := sum(samples)) < TAKE[0] or (len(samples) < 10 and taken < TAKE[1]):
        samples.append(seconds(1))
    once = median(samples)
    queued = seconds(max(2, min(20, int(WARM / once))))
    return {"ms": once * 1e3, "queued_ms": queued * 1e3, "least_ms": min(samples) * 1e3, "samples": len(samples)}


# -- engines ----------------------------------------------------------------------------------------------------------


def at_hand() -> Library:
    """torch where it is there, so that all engines run on the same arrays."""
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return Library("numpy")
    try:
        return Library("torch")
    except NotHere:
        return Library("numba")


def call_of(timed: Timed, library: Library) -> tuple[Call, str]:
    """What runs it, and the kernels that do."""
    return (_torch if timed.engine in TORCH else _ours)(timed, library)


def _ours(timed: Timed, library: Library) -> tuple[Call, str]:
    problem = timed.problem
    layer = fastrnn.from_state_dict(problem.weights).to("cuda")
    x = library.device(problem.x)
    path = Path(timed.engine, layer, problem.N)

    def forward() -> Sequence[Any]:
        with path.forth():
            return (layer(x)[0],)

    def both() -> Sequence[Any]:
        with path.forth():
            (y, _), backward = layer.vjp(x)
        with path.back():
            gradients = backward(x)  # of the output's shape, since I = H, and as good as any
        return (y, gradients.x, *gradients.params.values())

    if timed.backward:
        return both, path.ran
    return forward, path.ran.partition(" + ")[0]


def _torch(timed: Timed, library: Library) -> tuple[Call, str]:
    if library.name != "torch":
        raise NotHere("torch with CUDA is not there")
    torch = imported("torch")
    problem = timed.problem
    module = getattr(torch.nn, problem.cell)(problem.I, problem.H).cuda()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in problem.weights.items()})
    x = library.device(problem.x).requires_grad_(timed.backward)
    d_y = library.device(problem.x)
    allow = timed.engine == "torch tf32"
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allow

    def forward() -> Sequence[Any]:
        with torch.inference_mode():
            return (module(x)[0],)

    def both() -> Sequence[Any]:
        y, _ = module(x)
        return (y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], d_y))

    return both if timed.backward else forward, ""
