"""Files that are damaged, one of each format: cut off at every byte, and with every byte changed."""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import numpy as np
import pytest
from crafted import (
    CHECKPOINTS,
    FOUR_FLOATS,
    archive,
    contents,
    named,
    numbers,
    pickled,
    refuse,
    storage,
    strict_load,
    tensor,
    text,
    torch_tar,
    torch_zip,
)
from hostile.onnx import SMALL
from hypothesis import given
from hypothesis import strategies as st
from onnx_tools import field

from fastrnn import CheckpointError


class File(NamedTuple):
    content: bytes
    checksums: bool
    #: Some of the elements, which stand in the file as they are.
    elements: bytes = b""


def golden(name):
    return (CHECKPOINTS / name).read_bytes()


#: One small file of each format.
FILES = {
    "torch": File(golden("small.pt"), True),
    "torch, without checksums": File(golden("no_checksums.pt"), False, np.arange(5, dtype="<f4").tobytes()),
    "torch, big-endian": File(golden("big_endian.pt"), True),
    "torch, in an archive": File(archive([("policy.pth", golden("small.pt")), ("data", b"{}")]), True),
    "stream": File(golden("stream_small.pt"), False, np.arange(6, dtype="<f4").tobytes()),
    "tar": File(torch_tar(pickled(text("9"), b"Q"), padding=512), False, FOUR_FLOATS),
    "TorchScript": File(golden("scripted.pt"), True),
    "safetensors": File(golden("gru_bf16.safetensors"), False, golden("gru_bf16.safetensors")[-100:]),
    "npz": File(golden("small.npz"), True),
    "ONNX": File(SMALL, False, np.arange(6, dtype="<f4").tobytes()),
}


@pytest.mark.parametrize("kind", FILES)
def test_every_truncation_is_refused(kind):
    content = FILES[kind].content
    right = contents(strict_load(content))
    whole = [content]
    if kind == "tar":  # it ends in zeros of no meaning
        whole = [content[:n] for n in range(len(content.rstrip(b"\0")), len(content))]
    elif kind == "ONNX":  # what comes after the graph may be missing: the file does not say that it is there
        whole = [content[: content.rindex(field(8, field(2, 14)))]]
    for n in range(len(content)):
        if content[:n] in whole:
            with suppress(CheckpointError):
                assert contents(strict_load(content[:n])) == right
            continue
        with pytest.raises(CheckpointError):
            strict_load(content[:n])


def changed(content, full):
    """Every byte by itself: each single bit and all bits the other way (of zeros, which mostly fill up, the last, the
    first and all); in full, every other value.
    """
    for position, byte in enumerate(content):
        for change in range(1, 256) if full else (1, 2, 4, 8, 16, 32, 64, 128, 255) if byte else (1, 128, 255):
            damaged = bytearray(content)
            damaged[position] ^= change
            yield position, bytes(damaged)


@pytest.mark.parametrize("kind", [kind for kind, file in FILES.items() if file.checksums])
def test_every_damaged_byte_gives_the_right_data_or_is_refused(kind, full):
    content = FILES[kind].content
    right = contents(strict_load(content))
    outcomes = set()
    for _, damaged in changed(content, full):
        try:
            assert contents(strict_load(damaged)) == right
            outcomes.add("read")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"read", "refused"}


def bytes_of(value):
    """All arrays' bytes."""
    if isinstance(value, np.ndarray):
        return value.tobytes()
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return b"".join(map(bytes_of, parts))


@pytest.mark.parametrize("kind", [kind for kind, file in FILES.items() if not file.checksums])
def test_without_checksums_every_damaged_byte_gives_what_the_bytes_say_or_is_refused(kind, full):
    """Where it is an element's, the array has it and nothing else is different. (What else the bytes may say, torch
    tells in parity/test_hostile_torch.py.)
    """
    content, _, elements = FILES[kind]
    right = bytes_of(strict_load(content))
    start = content.index(elements)
    for position, damaged in changed(content, full):
        if start <= position < start + len(elements):
            pairs = zip(right, bytes_of(strict_load(damaged)), strict=True)
            assert [new for old, new in pairs if old != new] == [damaged[position]]
            continue
        with suppress(CheckpointError):
            contents(strict_load(damaged))


@given(st.data())
def test_random_damage_is_read_or_refused(data):
    content = bytearray(FILES[data.draw(st.sampled_from([*FILES]))].content)
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    check_crc = data.draw(st.booleans())
    with suppress(CheckpointError):
        strict_load(bytes(content), check_crc=check_crc)


# Odd but honest, and not honest


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
