"""Hostile files, groups 6 to 8: damaged, cut off, odd; and that there is no way around the checks."""

from __future__ import annotations

import pickle
import struct
from contextlib import suppress

import pytest
from crafted import (
    CHECKPOINTS,
    named,
    numbers,
    pickled,
    refuse,
    storage,
    strict_load,
    tensor,
    torch_zip,
    with_tensor,
)
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from fastrnn import CheckpointError

# 6. Broken files


SMALL_FILES = ("small.pt", "no_checksums.pt", "gru_bf16.safetensors", "small.npz", "big_endian.pt")


@pytest.mark.parametrize("path", SMALL_FILES)
def test_every_truncation_is_refused(path):
    content = (CHECKPOINTS / path).read_bytes()
    for n in range(len(content)):
        with pytest.raises(CheckpointError):
            strict_load(content[:n])


def flips(content):
    """Every byte, with each single bit and all bits the other way."""
    for position in range(len(content)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(content)
            damaged[position] ^= change
            yield bytes(damaged)


@pytest.mark.parametrize("path", ["small.pt", "small.npz"])
def test_every_damaged_byte_gives_the_right_data_or_is_refused(path):
    content = (CHECKPOINTS / path).read_bytes()
    right = repr(strict_load(content))
    outcomes = set()
    for damaged in flips(content):
        try:
            assert repr(strict_load(damaged)) == right
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


@pytest.mark.parametrize("path", ["no_checksums.pt", "gru_bf16.safetensors"])
def test_without_checksums_a_damaged_byte_gives_data_or_is_refused(path):
    for damaged in flips((CHECKPOINTS / path).read_bytes()):
        with suppress(CheckpointError):
            strict_load(damaged)


@given(st.data())
def test_random_damage_is_read_or_refused(data):
    content = bytearray((CHECKPOINTS / data.draw(st.sampled_from([*SMALL_FILES, "objects.pt"]))).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    check_crc = data.draw(st.booleans())
    with suppress(CheckpointError):
        strict_load(bytes(content), check_crc=check_crc)


# 7. Odd but honest, and not honest


def test_bools_are_0_or_1():
    bools = tensor(storage(kind="BoolStorage", numel=4))
    assert strict_load(torch_zip(pickled(bools), {"0": b"\0\1\1\0"})).tolist() == [False, True, True, False]
    refuse(torch_zip(pickled(bools), {"0": b"\0\1\2\0"}), "bool")
    untyped = storage(kind="UntypedStorage", module="torch.storage")
    byte = tensor(untyped, version="_rebuild_tensor_v3", rest=named("torch", "bool"))
    refuse(torch_zip(pickled(byte), {"0": b"\0\1\xff\0"}), "bool")


@pytest.mark.parametrize("kind", ["FloatStorage", "HalfStorage", "BFloat16Storage", "DoubleStorage"])
def test_the_payload_of_nan_is_kept(kind):
    data = b"\x01\x02\x03\x04\x05\x06\xf0\x7f" + b"\x07\xfe\x81\x7f\x81\xff\xf1\xff"
    numel = {"FloatStorage": 4, "DoubleStorage": 2}.get(kind, 8)
    read = strict_load(torch_zip(pickled(tensor(storage(kind=kind, numel=numel), size=numbers(numel))), {"0": data}))
    assert read.tobytes() == data


def test_files_of_other_kinds_are_named():
    for content, reason in (
        (b"", "empty"),
        (b"\x80\x02}.", "bare pickle"),
        (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"x" * 600, "before 1.6"),
        (b"\x93NUMPY\x01\x00", "single array"),
        (b"\x1f\x8b" + bytes(30), "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (bytes(257) + b"ustar" + bytes(300), "tar"),
        (b"<html>", "not a checkpoint"),
        (b"P", "not a checkpoint"),
    ):
        refuse(content, reason)


def test_a_polyglot_is_refused():
    """A safetensors file with an archive at its end is read as neither of the two."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    refuse(struct.pack("<Q", len(header)) + header + bytes(4) + with_tensor())


# 8. No way around


def test_there_is_no_unsafe_mode():
    for argument in ("weights_only", "allow_pickle", "unsafe", "trusted", "pickle_module"):
        with pytest.raises(TypeError, match=argument):
            fastrnn.load(with_tensor(), **{argument: False})
