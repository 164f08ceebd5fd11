"""Kernels compiled for real GPUs, and that none becomes worse than it was: tests/gpu/sass.json."""

from __future__ import annotations

import pytest
import sass
from sass import Measured

#: Registers vary with the version of Numba, which is free.
REGISTERS = 8


def worse(got: Measured, before: Measured) -> list[str]:
    """What is."""
    found = []
    for field in ("registers", "spilled", "local", "generic"):
        now, then = getattr(got, field), getattr(before, field)
        if now > then + REGISTERS * (field == "registers"):
            found.append(f"{field}: {now}, not {then}")
    for field in ("wide", "tensor"):
        now, then = getattr(got, field), getattr(before, field)
        if now < then:
            found.append(f"{field}: {now}, not {then}")
    return found


@pytest.fixture(scope="module")
def table():
    if sass.tools() is None:
        pytest.skip("compiling kernels for GPUs takes " + "; ".join(sass.INSTALL))
    return sass.measure_all(sass.ROWS)


def test_the_table_has_all_rows():
    assert [*sass.expected()] == [sass.row_name(*row) for row in sass.ROWS], "python tests/gpu/sass.py --write"


@pytest.mark.parametrize("name", [sass.row_name(*row) for row in sass.ROWS])
def test_kernels_are_no_worse(table, name):
    got, before = table[name], sass.expected()[name]
    assert isinstance(got, Measured), got
    assert got.kernel == before.kernel
    assert not worse(got, before)


@pytest.mark.parametrize("name", [sass.row_name(*row) for row in sass.ROWS])
def test_what_is_expected_is_good(name):
    """What kernels are for: no memory where registers should be, and no doubt which memory is meant."""
    m = sass.expected()[name]
    assert m.generic == 0
    if not name.startswith("sm_80"):  # for which ptxas takes more registers than there are
        assert m.spilled == m.local == 0
    assert (m.wide > 0) == (m.kernel in ("one_block", "small_batch", "tensor_cores", "bptt"))
    assert (m.tensor > 0) == (m.kernel == "tensor_cores")


def test_what_is_worse_is_found():
    before = Measured("bptt", 100, 0, 0, 8, 0, 4)
    assert not worse(before, before)
    for field, value in {"registers": 109, "spilled": 4, "local": 1, "generic": 1, "wide": 7, "tensor": 3}.items():
        assert len(worse(before._replace(**{field: value}), before)) == 1
