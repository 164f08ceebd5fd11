"""What the tests of fastrnn.interop.torch's modules share."""

from __future__ import annotations

import pytest
import torch  # the files that import this one have skipped where there is none

import fastrnn.interop.torch as bridge
from fastrnn.backends import current


@pytest.fixture(autouse=True)
def each_backend(backend):
    """Every test runs on every backend."""


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def small(name="GRU", *args, dtype=torch.float64, **options):
    """A module with an input of 4 steps and 3 rows."""
    module = getattr(bridge, name)(2, 5, *args, dtype=dtype, **options)
    return module, torch.randn(4, 3, 2, dtype=dtype, requires_grad=True)


def spied(monkeypatch, *names):
    """A list that grows with every call of these functions of the backend: name, arguments, result."""
    seen = []
    backend = current()

    def recording(name, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen.append((name, args, result))
            return result

        return call

    for name in names:
        monkeypatch.setattr(backend, name, recording(name, getattr(backend, name)))
    return seen


def total(result):
    """A scalar that depends on everything in a module's result."""
    output, end = result
    return output.square().sum() + sum(part.sin().sum() for part in (end if isinstance(end, tuple) else (end,)))
