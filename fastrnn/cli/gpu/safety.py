"""What must not work is an error that says so, and what comes after it works."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastrnn

from ...errors import BackendError
from .paths import Path

PERSISTENT = ("A", "B", "C")  # A0's blocks wait for nobody
ROWS = {"A": 1, "B": 16, "C": 1}


def errors(alone: Callable[[], None]) -> dict[str, Any]:
    """A GPU that is not there, more memory than there is."""
    layer, x = fastrnn.LSTM(4, 4096, rng=0).to("cuda"), np.zeros((3, 1, 4), np.float32)
    long = np.zeros((1 << 18, 64, 4), np.float32)  # an output of 275 GB
    wrong = []
    for what, expected, action in (
        ("a GPU that is not there", "cuda:99", lambda: layer.astype("float32").to("cuda:99")),
        ("more than there is", "out of memory", lambda: layer.vjp(long)),
    ):
        wrong += _told(what, expected, action)
        layer(x)
    return {"verdict": "WRONG", "why": "; ".join(wrong)} if wrong else {}


def gives_up(name: str, alone: Callable[[], None], H: int = 256, T: int = 65) -> dict[str, Any]:
    """A kernel whose blocks may not wait: an error once, then right numbers of other kernels."""
    from ...cuda import persistent, runtime

    N = ROWS[name]
    plain = fastrnn.LSTM(12, H, rng=0)
    layer, x = fastrnn.LSTM(12, H, rng=0).to("cuda"), np.random.default_rng(0).standard_normal((T, N, 12), np.float32)
    path = Path(name, layer, N)
    d_y = np.ones((T, N, H), np.float32)

    def call() -> Any:
        with path.forth():
            (y, _), backward = layer.vjp(x)
        with path.back():
            return y, backward(d_y).x

    before, persistent.SPINS = persistent.SPINS, 0
    try:
        wrong = _told("a kernel that gives up", "gave up", call)
    finally:
        persistent.SPINS = before
    (y, _), backward = layer.vjp(x)
    with fastrnn.use_backend("reference"):
        (right, _), right_backward = plain.vjp(x)
        right_dx = right_backward(d_y).x
    for what, a, b in (("y", y, right), ("dx", backward(d_y).x, right_dx)):
        if not np.abs(a - b).max() < 1e-5 * max(1.0, np.abs(b).max()):
            wrong.append(f"after it {what} is wrong")
    if not runtime.device(0).gave_up:
        wrong.append("it would be used again")
    runtime.device(0).gave_up.clear()  # other items of this process want it
    return {"verdict": "WRONG", "why": "; ".join(wrong)} if wrong else {}


def _told(what: str, expected: str, action: Callable[[], Any]) -> list[str]:
    """What is wrong about the error."""
    try:
        action()
    except BackendError as error:
        return [] if expected in str(error) else [f"{what}: {error}"]
    return [f"{what}: no error"]
