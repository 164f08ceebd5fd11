"""`load` of ONNX files: initializers of every type, and broken and hostile files."""

from __future__ import annotations

import io
import struct
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from crafted import refuse, strict_load
from hostile.onnx import one
from onnx_tools import field, model, node, tensor, varint

import fastrnn
from fastrnn import CheckpointError

INT32S, FLOATS, INT64S, DOUBLES, UINT64S = 5, 4, 7, 10, 11
#: NumPy's or ml_dtypes' name: ONNX's number of the type, numbers, and the field for them where they are not raw.
NUMBERS = {
    "float32": (1, [1.5, -2, 3], FLOATS),
    "uint8": (2, [0, 200, 255], INT32S),
    "int8": (3, [-128, -1, 127], INT32S),
    "uint16": (4, [0, 300, 65535], INT32S),
    "int16": (5, [-300, 0, 300], INT32S),
    "int32": (6, [-(1 << 31), -1, 1 << 30], INT32S),
    "int64": (7, [-(1 << 63), -1, 1 << 62], INT64S),
    "bool": (9, [0, 1, 1], INT32S),
    "float16": (10, [1.5, -2, 3], INT32S),
    "float64": (11, [1.1, -2, 3], DOUBLES),
    "uint32": (12, [0, 1, (1 << 32) - 1], UINT64S),
    "uint64": (13, [0, 1, (1 << 64) - 1], UINT64S),
    "complex64": (14, [1 + 2j, -1j, 3], FLOATS),
    "complex128": (15, [1.1 + 2j, -1j, 3], DOUBLES),
    "bfloat16": (16, [1.5, -2, 3], INT32S),
    "float8_e4m3fn": (17, [1.5, -2, 3], INT32S),
    "float8_e4m3fnuz": (18, [1.5, -2, 3], INT32S),
    "float8_e5m2": (19, [1.5, -2, 3], INT32S),
    "float8_e5m2fnuz": (20, [1.5, -2, 3], INT32S),
    "uint4": (21, [0, 7, 15], INT32S),
    "int4": (22, [-8, -1, 7], INT32S),
    "float4_e2m1fn": (23, [1.5, -2, 3], INT32S),
    "float8_e8m0fnu": (24, [0.5, 2, 4], INT32S),
    "uint2": (25, [0, 1, 3], INT32S),
    "int2": (26, [-2, -1, 1], INT32S),
    "float6_e2m3fn": (27, [1.5, -2, 3], INT32S),
    "float6_e3m2fn": (28, [1.5, -2, 3], INT32S),
}
BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2, "float6_e2m3fn": 6, "float6_e3m2fn": 6}


def array_of(name):
    return np.array(NUMBERS[name][1], getattr(ml_dtypes, name, None) or np.dtype(name))


def stored_bytes(name):
    """The raw data: numbers of less than a byte one after another, from the lowest bit upwards."""
    if name not in BITS:
        return array_of(name).tobytes()
    codes = [int(code) & ((1 << BITS[name]) - 1) for code in array_of(name).view(np.uint8)]
    joined = sum(code << (BITS[name] * i) for i, code in enumerate(codes))
    return joined.to_bytes(-(-BITS[name] * len(codes) // 8), "little")


def typed_numbers(name):
    """What the field for the type holds: floats as they are, integers as varints."""
    if NUMBERS[name][2] in (FLOATS, DOUBLES):
        return array_of(name).tobytes()
    if BITS.get(name) == 6:
        return b"".join(varint(int(code) | 0xC0) for code in array_of(name).view(np.uint8))
    if name in BITS:
        return b"".join(map(varint, stored_bytes(name)))
    if name in ("int8", "int16", "int32", "int64", "uint64", "uint32"):
        return b"".join(map(varint, NUMBERS[name][1]))
    bits = array_of(name).view(f"u{array_of(name).dtype.itemsize}")
    return b"".join(map(varint, map(int, bits)))


@pytest.mark.parametrize("how", ["raw", "typed"])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_type(name, how):
    code, _, number = NUMBERS[name]
    data = field(9, stored_bytes(name)) if how == "raw" else field(number, typed_numbers(name))
    got = strict_load(model(tensors=[tensor("a", dims=(1, 3), code=code, data=data)]))["a"]
    expected = array_of(name).reshape(1, 3)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.astype(object).tolist() == expected.astype(object).tolist()
    assert not got.flags.writeable


def test_numbers_may_come_one_by_one_and_in_pieces():
    pieces = field(INT64S, -3) + field(INT64S, varint(1 << 40) + varint(5)) + field(INT64S, 7)
    floats = field(FLOATS, 1.0) + field(FLOATS, struct.pack("<2f", 2, 3))
    tensors = [tensor("i", dims=(4,), code=7, data=pieces), tensor("f", dims=(3,), code=1, data=floats)]
    got = strict_load(model(tensors=tensors))
    assert got["i"].tolist() == [-3, 1 << 40, 5, 7]
    assert got["f"].tolist() == [1, 2, 3]


def test_more_integers_than_are_decoded_at_once():
    values = np.random.default_rng(0).integers(-(1 << 40), 1 << 40, 30_000)
    data = field(INT64S, b"".join(map(varint, values.tolist())))
    got = strict_load(model(tensors=[tensor("a", dims=(30_000,), code=7, data=data)]))
    np.testing.assert_array_equal(got["a"], values)


def test_text_scalars_and_empty_arrays():
    words = b"".join(field(6, word) for word in ("a", "", "üb", "bcd"))
    tensors = [tensor("s", dims=(2, 2), code=8, data=words), tensor("n", np.array(2.5)), tensor("e", np.zeros((0, 3)))]
    got = strict_load(model(tensors=tensors))
    assert got["s"].tolist() == [["a", ""], ["üb", "bcd"]]
    assert got["n"].shape == ()
    assert got["n"] == 2.5
    assert got["e"].shape == (0, 3)
    assert list(got) == ["s", "n", "e"]


def test_paths_files_and_maps(tmp_path):
    array = np.random.default_rng(0).standard_normal(400_000).astype(np.float32)
    content = model(tensors=[tensor("a", array)])
    (tmp_path / "model.bin").write_bytes(content)  # the content tells, not the suffix
    for source in (tmp_path / "model.bin", content, io.BytesIO(content)):
        np.testing.assert_array_equal(fastrnn.load(source)["a"], array)


def test_the_onnx_package_is_not_imported():
    code = f"""
import sys, fastrnn
assert fastrnn.load({model(tensors=[tensor("a", np.ones(3, np.float32))])!r})["a"].sum() == 3
assert not {{"onnx", "google.protobuf", "torch"}} & set(sys.modules)"""
    subprocess.run([sys.executable, "-c", code], check=True)


# Refusals


def test_no_file_beside_it_is_opened(tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(4))
    data = field(13, field(1, "location") + field(2, "weights.bin")) + field(14, 1)
    (tmp_path / "model.onnx").write_bytes(one(data=data))
    with pytest.raises(CheckpointError, match=r"model\.onnx: tensor 'a': its data is in another file"):
        fastrnn.load(tmp_path / "model.onnx")


def test_limits():
    refuse(one(dims=(100,), data=field(9, bytes(400))), "max_bytes", max_bytes=300)
    refuse(model(nodes=[node("Relu", ["a"], ["b"])] * 50), "max_ops", max_ops=40)
    words = field(6, "x" * 10_000) + field(6, "") * 60_000  # each would have room for the longest
    refuse(one(code=8, dims=(60_001,), data=words), "max_bytes")
    numbers = field(INT64S, b"\1" * 100_000)
    refuse(one(code=7, dims=(100_000,), data=numbers), "max_bytes", max_bytes=700_000)
