"""Tests in this folder need a GPU, and are skipped where there is none."""

from __future__ import annotations

import os

import pytest

import fastrnn


def _why_not():
    if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
        return "Numba's simulator has no GPU"
    try:
        fastrnn.GRU(1, 1, device="cuda")
    except fastrnn.BackendError as error:
        return str(error)
    return ""


WHY_NOT = _why_not()


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if WHY_NOT:
        pytest.skip(WHY_NOT)
