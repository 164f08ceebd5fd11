"""Fixtures, and the one table of tolerances."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

import fastrnn

# Modules that tests share (sampler.py and the like) are in folders that --import-mode=importlib leaves out of the path.
sys.path[:0] = [str(Path(__file__).parent / folder) for folder in (".", "parity", "gpu")]

# A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Processes that tests start import what is installed, and not the package's source in the working folder.
os.environ["PYTHONSAFEPATH"] = "1"

settings.register_profile("fastrnn", deadline=None, derandomize=True, database=None)
settings.load_profile("fastrnn")

#: Largest error against float64 truth that is allowed: (times torch's own error, where torch is at hand;
#: times max(1, largest value)). The larger of the two counts. Gradients are sums over steps and rows, on top of what
#: they inherit from the forward pass.
TOLERANCES = {
    "float32": (1.5, 4 * np.finfo(np.float32).eps),
    "float64": (0.0, 1e-12),
    "float32 gradient": (2.0, 16 * np.finfo(np.float32).eps),
    "float64 gradient": (0.0, 1e-10),
}

#: The backends that must run everywhere (one that cannot is a failure), and those that happen to run here.
REQUIRED = ("reference", "cython")
BACKENDS = [*REQUIRED, *(b.name for b in fastrnn.backends() if b.available and b.name not in REQUIRED)]


def arrays_of(result):
    """The arrays in nested tuples and dicts, in order."""
    if isinstance(result, dict):
        result = tuple(result.values())
    if isinstance(result, tuple):
        return [array for part in result for array in arrays_of(part)]
    return [] if result is None else [np.asarray(result)]


def largest(a):
    finite = np.abs(a[np.isfinite(a)])
    return finite.max() if finite.size else 0.0


def _tolerance(dtype, *, largest, peer=None, gradient=False):
    times_peer, floor = TOLERANCES[str(np.dtype(dtype)) + " gradient" * gradient]
    return max(floor * max(1.0, largest), 0.0 if peer is None else times_peer * peer)


def _disagreement(got, truth, dtype, peer=None, times=1, gradient=False):
    got, truth = arrays_of(got), arrays_of(truth)
    peer = [None] * len(truth) if peer is None else arrays_of(peer)
    if len(got) != len(truth):
        return f"{len(got)} arrays instead of {len(truth)}"
    for i, (a, b, p) in enumerate(zip(got, truth, peer, strict=True)):
        if a.shape != b.shape or a.dtype != dtype:
            return f"array {i} is {a.dtype}{a.shape} instead of {np.dtype(dtype)}{b.shape}"
        a, b = a.astype(np.float64), b.astype(np.float64)
        odd = ~np.isfinite(b) | ~np.isfinite(a)
        if not np.array_equal(a[odd], b[odd], equal_nan=True):
            return f"array {i} has other NaN or inf"
        peer_error = None if p is None else largest(p.astype(np.float64) - b)
        allowed = times * _tolerance(dtype, largest=largest(b), peer=peer_error, gradient=gradient)
        if (error := largest(np.where(odd, 0.0, a) - np.where(odd, 0.0, b))) > allowed:
            return f"array {i} is off by {error:.3g}, allowed {allowed:.3g}"
    return ""


@pytest.fixture(scope="session")
def tolerance():
    """``tolerance(dtype, largest=, peer=None, gradient=False)``: the error allowed where the largest value and torch's
    error are so.
    """
    return _tolerance


@pytest.fixture(scope="session")
def disagreement():
    """``disagreement(got, truth, dtype, peer=None, times=1, gradient=False)``: "" or what is wrong with `got`.

    got, truth: nested tuples and dicts of arrays, truth in float64. peer: the same from torch, in `dtype`.
    times: multiplies the tolerance, to tell a near miss from a mistake. gradient: the tolerance is that of gradients.
    """
    return _disagreement


@pytest.fixture(scope="session")
def assert_close():
    """``assert_close(got, truth, dtype, peer=None, gradient=False)``: the same as an assertion."""

    def check(got, truth, dtype, peer=None, gradient=False):
        problem = _disagreement(got, truth, dtype, peer, gradient=gradient)
        assert not problem, problem

    return check


@pytest.fixture(params=BACKENDS)
def backend(request):
    """Runs the test on each backend; its name."""
    with fastrnn.use_backend(request.param):
        yield request.param


@pytest.fixture(scope="session")
def full():
    """Whether every case is asked for: FASTRNN_FULL=1."""
    return os.environ.get("FASTRNN_FULL") == "1"
