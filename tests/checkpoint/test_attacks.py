"""Hostile files: each is refused, or read as the inert data that it is. One test for each group of the attack list.

The fifth, what asks for time or memory, is in test_greedy_files.py.
"""

from __future__ import annotations

import inspect
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from crafted import (
    CHECKPOINTS,
    contents,
    number,
    numbers,
    pickled,
    refuse,
    storage,
    strict_load,
    tensor,
    torch_zip,
    with_tensor,
)
from hostile import CANARY, GROUPS, READ, cases, content_of
from hostile.code import INNER
from hypothesis import given
from hypothesis import strategies as st

import fastrnn


def attacks(group):
    """The test is for this group of the list."""
    return pytest.mark.parametrize("attack", GROUPS[group].values(), ids=GROUPS[group])


@pytest.fixture(autouse=True)
def no_traces(tmp_path, monkeypatch):
    """Whatever is run would leave something in the working folder."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.iterdir())


def meet(attack):
    """Read plain data, to the last byte; or be refused for the right reason."""
    content, reason = content_of(attack), attack[1]
    if reason is READ:
        contents(strict_load(content))
    else:
        refuse(content, reason)


@attacks("1 code execution")
def test_code_execution(attack):
    meet(attack)


@attacks("2 layouts")
def test_layouts(attack):
    meet(attack)


@attacks("3 giants")
def test_zero_stride_giants(attack):
    meet(attack)


@attacks("4 archives")
def test_archives(attack):
    meet(attack)


@attacks("6 broken")
def test_truncation_and_misuse(attack):
    meet(attack)


@attacks("7 odd")
def test_byte_orders_bools_nans_and_polyglots(attack):
    meet(attack)


@attacks("8 no way around")
def test_what_others_read_without_a_guard(attack):
    meet(attack)


# 1. Code execution


def test_the_attacks_work():
    """On Python's own pickle: otherwise the empty folder would prove nothing."""
    pickle.loads(INNER).close()
    os.unlink(CANARY)


def test_python_itself_sees_no_import_no_call_and_no_file(tmp_path_factory):
    """It reports to audit hooks whatever could run something; while hostile files are read, there is no such report."""
    folder = tmp_path_factory.mktemp("hostile")
    for i, (name, case) in enumerate(cases().items()):
        if not name.startswith("5"):
            (folder / str(i)).write_bytes(content_of(case))
    script = """
import sys, fastrnn
from pathlib import Path
ordinary, hostile = ([path.read_bytes() for path in Path(folder).iterdir()] for folder in sys.argv[1:])
def load_all(files):
    for content in files:
        try:
            fastrnn.load(content)
        except fastrnn.CheckpointError:
            pass
load_all(ordinary)  # imports what fastrnn itself needs for one format or another
seen = set()
sys.addaudithook(lambda event, args: seen.add(event))
load_all(hostile)
assert len(hostile) > 400
print(sorted(seen - {"builtins.id"}))
"""
    command = [sys.executable, "-c", script, str(CHECKPOINTS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# 2. Layouts


def test_harmless_oddities_are_read():
    """A stride that is never used may be anything."""
    read = strict_load(with_tensor(size=numbers(1, 4), stride=numbers(1 << 100, 1)))
    np.testing.assert_array_equal(read, [[0, 1, 2, 3]])
    assert strict_load(with_tensor(size=numbers(0, 3), stride=numbers(1 << 100, 1), offset=number(9))).shape == (0, 3)


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=5),
    st.integers(0, 45),
)
def test_views_show_what_arithmetic_says(dims, offset):
    """Any sizes and strides: the elements are those of the storage, or the file is refused."""
    shape, strides = [n for n, _ in dims], [stride for _, stride in dims]
    indices = offset + sum(
        (np.arange(n).reshape(-1, *[1] * (len(dims) - i - 1)) * stride for i, (n, stride) in enumerate(dims)),
        start=np.zeros(shape, int),
    )
    data = np.arange(40, dtype=np.int16)
    layout = {"offset": number(offset), "size": numbers(*shape), "stride": numbers(*strides)}
    content = torch_zip(pickled(tensor(storage(numel=40, kind="ShortStorage"), **layout)), {"0": data.tobytes()})
    if indices.size and indices.max() >= 40:
        refuse(content)
    else:
        read = strict_load(content)
        np.testing.assert_array_equal(read, data[indices])
        assert read.shape == tuple(shape)
        assert not read.flags.writeable


# 3. Zero-stride giants


def test_max_bytes_is_the_logical_size_of_an_array():
    content = with_tensor(size=numbers(1000, 100), stride=numbers(0, 0))
    assert strict_load(content, max_bytes=400_000).shape == (1000, 100)
    refuse(content, "max_bytes", max_bytes=399_999)


def test_half_a_giant_is_read():
    """Of the three that are refused together."""
    half = tensor(size=numbers(1 << 31), stride=numbers(0))
    assert strict_load(torch_zip(pickled(half))).nbytes == 1 << 33


# 8. No way around


def test_there_is_no_unsafe_mode():
    for argument in ("weights_only", "allow_pickle", "unsafe", "trusted", "pickle_module"):
        with pytest.raises(TypeError, match=argument):
            fastrnn.load(with_tensor(), **{argument: False})
    assert [*inspect.signature(fastrnn.load).parameters][1:] == ["max_bytes", "max_ops", "max_depth", "check_crc"]
    with pytest.raises(TypeError, match="check_crc should be of type bool, got: str"):
        fastrnn.load(with_tensor(), check_crc="no")


@pytest.mark.parametrize("variable", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD"])
def test_no_variable_of_the_environment_switches_it_off(variable, monkeypatch):
    monkeypatch.setenv(variable, "1")
    for attack in GROUPS["8 no way around"].values():
        meet(attack)
