"""The other two formats: what the libraries wrote is read exactly; what breaks their rules is refused."""

from __future__ import annotations

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from crafted import CHECKPOINTS, archive, refuse, strict_load

import fastrnn
from fastrnn import CheckpointError

# safetensors


def crafted_safetensors(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_bfloat16_is_exact():
    state = strict_load(CHECKPOINTS / "gru_bf16.safetensors")
    with np.load(CHECKPOINTS / "gru_bf16.npz") as expected:
        assert state.keys() == set(expected)
        for name, array in expected.items():
            if name != "step":
                assert state[name].dtype.name == "bfloat16"
            np.testing.assert_array_equal(state[name].astype(array.dtype), array)
    layer = fastrnn.from_state_dict(state)
    assert repr(layer) == "GRU(2, 3)"


def numpy_arrays():
    rng = np.random.default_rng(0)
    kinds = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
    arrays = {kind: rng.integers(0, 100, (2, 3)).astype(kind) for kind in kinds}
    return arrays | {"bool": np.array([True, False]), "scalar": np.array(1.5), "empty": np.empty((0, 3), np.float32)}


@pytest.mark.parametrize("source", ["path", "bytes"])
def test_what_the_library_wrote_is_read(tmp_path, source):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(numpy_arrays(), path)
    read = strict_load(path if source == "path" else path.read_bytes())
    for name, array in numpy_arrays().items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)
        assert not read[name].flags.writeable
    assert list(read) == sorted(read)


def test_a_large_file_is_mapped(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.arange(1 << 20, dtype=np.float32), "b": np.ones(3, np.int8)}, path)
    state = fastrnn.load(path, max_bytes=4 << 20)
    np.testing.assert_array_equal(state["a"], np.arange(1 << 20))
    np.testing.assert_array_equal(state["b"], 1)


BAD_SAFETENSORS = {
    "overlap": crafted_safetensors({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
    "hole": crafted_safetensors({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "trailing bytes": crafted_safetensors({"a": entry()}, bytes(5)),
    "missing bytes": crafted_safetensors({"a": entry()}, bytes(3)),
    "shape and size differ": crafted_safetensors({"a": entry(shape=(2,))}, bytes(4)),
    "shape that overflows": crafted_safetensors({"a": entry(shape=(1 << 62, 8))}, bytes(4)),
    "negative shape": crafted_safetensors({"a": entry(shape=(-1,))}, bytes(4)),
    "65 dimensions": crafted_safetensors({"a": entry(shape=[1] * 65)}, bytes(4)),
    "empty with a huge side": crafted_safetensors({"a": entry(shape=(0, 1 << 62), offsets=(0, 0))}),
    "unknown type": crafted_safetensors({"a": entry("F128")}, bytes(4)),
    "type of half a byte": crafted_safetensors({"a": entry("F4", (8,))}, bytes(4)),
    "bool of 2": crafted_safetensors({"a": entry("BOOL", (4,))}, b"\0\1\2\0"),
    "not JSON": crafted_safetensors(b"{abc", bytes(4)),
    "deep JSON": crafted_safetensors(b'{"a":' * 100_000, bytes(4)),
    "not UTF-8": crafted_safetensors(b'{"\xff":1}', bytes(4)),
    "header longer than the file": crafted_safetensors({"a": entry()}, bytes(4), length=1000),
    "header of 50 MB": crafted_safetensors(b"{" + b" " * 50_000_000),
    "header of 2^63": crafted_safetensors({"a": entry()}, bytes(4), length=1 << 63),
    "no header": struct.pack("<Q", 0) + b"{",
}


@pytest.mark.parametrize("case", BAD_SAFETENSORS)
@pytest.mark.parametrize("source", ["path", "bytes"])
def test_broken_safetensors_are_refused(case, source, tmp_path):
    content = BAD_SAFETENSORS[case]
    if source == "bytes":
        refuse(content)
    else:
        path = tmp_path / "a.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            strict_load(path)


# npz


def saved_npz(save=np.savez, **arrays):
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read(save):
    arrays = numpy_arrays() | {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "complex": np.array([1 + 2j]),
        "text": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
    }
    read = strict_load(saved_npz(save, **arrays))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        np.testing.assert_array_equal(read[name], array)
        assert not read[name].flags.writeable
        assert read[name].flags.aligned


def test_an_empty_npz():
    assert strict_load(saved_npz()) == {}


def npy(descr="'<f4'", fortran="False", shape="(4,)", data=bytes(16), version=1, header=None, magic=b"\x93NUMPY"):
    text = (header or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}").encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"  # the elements on natural addresses, as NumPy does it
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return magic + bytes([version, 0]) + length + text + data


def test_headers_of_other_writers_are_read():
    for header in (
        "{'shape':(4,),'fortran_order':False,'descr':'<f4'}",
        "{ 'fortran_order' : False, 'descr': '<f4', 'shape': (4,) }   \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}\n",
    ):
        assert strict_load(archive([("a.npy", npy(header=header))]))["a"].size == 4
    for version in (2, 3):
        assert strict_load(archive([("a.npy", npy(version=version))]))["a"].shape == (4,)


BAD_NPY = {
    "objects": npy("'|O'"),
    "structure": npy("[('a', '<f4')]"),
    "void": npy("'|V4'"),
    "dates": npy("'<M8[s]'"),
    "unknown letter": npy("'<q4'"),
    "float of 3 bytes": npy("'<f3'"),
    "long double": npy("'<f16'"),
    "text of 10^9": npy("'<U1000000000'"),
    "expression as a type": npy("__import__('os').system('true')"),
    "expression as a shape": npy(shape="(2**2,)"),
    "header that is longer than the data": npy(shape="(5,)"),
    "header that is shorter than the data": npy(shape="(3,)"),
    "giant": npy(shape="(1000000000000,)"),
    "shape that overflows": npy(shape=f"({1 << 62}, 4)"),
    "shape of 10^100": npy(shape=f"({10**100},)"),
    "empty with a huge side": npy(shape=f"(0, {1 << 62})", data=b""),
    "negative shape": npy(shape="(-4,)"),
    "65 dimensions": npy(shape=str((1,) * 65), data=bytes(4)),
    "no shape": npy(header="{'descr': '<f4', 'fortran_order': False, 'descr': '<f4', }"),
    "other key": npy(header="{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}"),
    "deep header": npy(header="(" * 9000),
    "header of 60 kB": npy(header=" " * 60_000),
    "version 4": npy(version=4),
    "no magic": npy(magic=b"NUMPY\x93"),
    "bools of 2": npy("'|b1'", shape="(1,)", data=b"\2"),
    "cut header": npy()[:20],
    "nothing": b"",
}


@pytest.mark.parametrize("case", BAD_NPY)
def test_broken_npy_are_refused(case):
    refuse(archive([("a.npy", BAD_NPY[case])]))


def test_an_npz_with_something_else_is_refused():
    refuse(archive([("a.npy", npy()), ("readme.txt", b"x")]), "readme")


def test_a_packed_giant_is_refused():
    zeros = npy(shape="(20000000,)", data=bytes(80_000_000))
    content = archive([("a.npy", zeros)], zipfile.ZIP_DEFLATED)
    refuse(content, "max_bytes")
    assert strict_load(content, max_bytes=100_000_000)["a"].size == 20_000_000
