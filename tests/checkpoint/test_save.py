"""What is saved: read back by us here, by torch in parity/; the same bytes each time; whole or not at all."""

from __future__ import annotations

import collections
import json
import os
import re
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from crafted import CHECKPOINTS, named, pickled, strict_load, torch_zip
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from fastrnn.checkpoint import Name, Opaque
from fastrnn.checkpoint.archive import Archive
from fastrnn.checkpoint.limits import Limits
from fastrnn.checkpoint.source import Source
from fastrnn.checkpoint.zip_writer import ZipWriter

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def roundtrip(value, tmp_path, suffix=".pt"):
    path = tmp_path / f"file{suffix}"
    fastrnn.save(value, path)
    return strict_load(path)


NESTED = {
    "epoch": 3,
    "huge": 1 << 70,
    "loss": 0.5,
    "name": "ü",
    "list": [None, True, False, (1, (2, "x"), ())],
    "bytes": b"\x00\xff",
    "complex": 1 - 2j,
    1: {"int": "key"},
    (1, "a"): "tuple key",
    None: [],
    "empty": {},
}


def test_nesting_is_kept(tmp_path):
    assert roundtrip(NESTED, tmp_path) == NESTED
    assert list(roundtrip({"z": 1, "a": 2}, tmp_path)) == ["z", "a"]
    for value in (None, 3, "text", [1, 2], ()):
        assert roundtrip(value, tmp_path, ".pth") == value
    assert roundtrip(collections.OrderedDict(b=1, a=2), tmp_path) == {"b": 1, "a": 2}
    assert roundtrip({"a": bytearray(b"x")}, tmp_path) == {"a": b"x"}


def test_many_containers_and_one_in_several_places(tmp_path):
    shared = {"a": [1]}
    value = [shared, [shared], *({"i": (i,)} for i in range(1000))]
    assert roundtrip(value, tmp_path) == value


def test_deep_nesting(tmp_path):
    value = "x"
    for i in range(85):
        value = {"a": [(value, i)]}
    assert roundtrip(value, tmp_path) == value
    value = np.ones(1)
    for _ in range(250):
        value = {"a": value}
    for suffix in (".npz", ".safetensors"):
        assert list(roundtrip(value, tmp_path, suffix)) == [".".join("a" * 250)]


def test_numpy_scalars_become_numbers(tmp_path):
    read = roundtrip([np.float32(0.5), np.int8(-3), np.bool_(True), np.float64(1.5), np.str_("x")], tmp_path)
    assert read == [0.5, -3, True, 1.5, "x"]
    assert [type(value) for value in read] == [float, int, bool, float, str]


KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "c8", "c16")
ARRAYS = {
    **{kind: np.arange(6).astype(kind).reshape(2, 3) for kind in KINDS},
    "bfloat16": np.arange(6).astype(BFLOAT16),
    "float8": np.arange(6).astype(ml_dtypes.float8_e5m2),
    "bool": np.array([True, False]),
    "scalar": np.array(2.5),
    "empty": np.empty((0, 3), np.float32),
    "transposed": np.arange(6.0).reshape(2, 3).T,
    "reversed": np.arange(6.0)[::-1],
    "other order": np.arange(6, dtype=">f4"),
    "expanded": np.broadcast_to(np.float32(3), (2, 2)),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_arrays_come_back(tmp_path, suffix):
    missing = {".pt": (), ".safetensors": ("c16",), ".npz": ("bfloat16", "float8")}[suffix]
    arrays = {name: array for name, array in ARRAYS.items() if name not in missing}
    read = roundtrip(arrays, tmp_path, suffix)
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype.newbyteorder("="), array.shape), name
        np.testing.assert_array_equal(read[name], array)
        assert read[name].flags.aligned


@pytest.mark.parametrize("path", sorted(CHECKPOINTS.glob("*.pt")), ids=lambda path: path.stem)
def test_what_is_loaded_can_be_saved(tmp_path, path):
    """The files that torch wrote, but for objects of other classes."""
    value = strict_load(path)
    if isinstance(value, Opaque):
        with pytest.raises(TypeError, match=rf"^obj: an object of the unknown class {re.escape(value.module)}\."):
            fastrnn.save(value, tmp_path / "a.pt")
        return
    if isinstance(value, dict) and "namespace" in value:
        with pytest.raises(TypeError, match=r"^obj\['namespace'\]: an object of the unknown class argparse"):
            fastrnn.save(value, tmp_path / "a.pt")
        del value["namespace"]
        value["numpy_scalars"] = [scalar.item() for scalar in value["numpy_scalars"]]
    assert repr(roundtrip(value, tmp_path)) == repr(value)


def test_sets_ordered_dicts_and_dtypes(tmp_path):
    words = {f"word {i}" for i in range(20)}
    value = {"set": words, "none": set(), "ordered": collections.OrderedDict(b=1, a=2), "dtype": Name("torch", "int8")}
    read = roundtrip(value, tmp_path)
    assert (read["set"], read["none"], list(read["ordered"])) == (words, set(), ["b", "a"])
    assert str(read["dtype"]) == "torch.int8"
    contents = []
    for numbers in ([0, 8], [8, 0]):  # sets of other orders
        roundtrip(set(numbers), tmp_path)
        contents.append((tmp_path / "file.pt").read_bytes())
    assert contents[0] == contents[1]


@given(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()),
        lambda inner: st.one_of(
            st.lists(inner), st.tuples(inner, inner), st.dictionaries(st.one_of(st.text(), st.integers(0, 9)), inner)
        ),
        max_leaves=20,
    )
)
def test_any_plain_data_comes_back(tmp_path_factory, value):
    assert repr(roundtrip(value, tmp_path_factory.getbasetemp())) == repr(value)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_the_same_content_gives_the_same_bytes(tmp_path, suffix):
    for name in ("a", "other"):
        fastrnn.save({"w": np.arange(6.0), "v": {"x": np.ones(2, np.int8)}}, tmp_path / (name + suffix))
    first, second = ((tmp_path / (name + suffix)).read_bytes() for name in ("a", "other"))
    assert first == second


def test_data_lies_on_64_bytes(tmp_path):
    for suffix in (".pt", ".npz"):
        path = tmp_path / f"a{suffix}"
        fastrnn.save({f"w{i}": np.arange(i, dtype=np.int8) for i in range(10)}, path)
        with zipfile.ZipFile(path) as file, open(path, "rb") as raw:
            assert file.testzip() is None
            for info in file.infolist():
                raw.seek(info.header_offset + 26)
                assert (info.header_offset + 30 + sum(struct.unpack("<2H", raw.read(4)))) % 64 == 0


# Flat formats


def test_nested_keys_are_joined(tmp_path):
    value = {"model": {"rnn": {"weight": np.ones(2)}, "bias": np.zeros(1)}, "step": 3, "lr": np.float32(0.5)}
    for suffix in (".safetensors", ".npz"):
        read = roundtrip(value, tmp_path, suffix)
        assert read.keys() == {"model.rnn.weight", "model.bias", "step", "lr"}
        assert read["step"] == 3
        assert read["lr"].dtype == np.float32
    with np.load(tmp_path / "file.npz") as file:
        assert set(file) == read.keys()
    assert safetensors.numpy.load_file(tmp_path / "file.safetensors").keys() == read.keys()


def test_the_safetensors_header_is_in_order(tmp_path):
    path = tmp_path / "a.safetensors"
    fastrnn.save({"a": np.ones(3, np.int8), "b": np.ones(3), "c": np.ones(1, np.int16)}, path)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert list(header) == ["b", "c", "a"]  # the largest elements first: all on their natural addresses
    assert length % 8 == 0


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_flat_formats_refuse_what_they_cannot_hold(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    one = np.ones(1)
    loop, deep = {}, {}
    loop["loop"] = loop
    for _ in range(300):
        deep = {"a": deep}
    for value, error, reason in (
        ({"a.b": one, "a": {"b": one}}, ValueError, r"a\.b: two values"),
        ({"a": {"b": one}, "a.b": one}, ValueError, r"a\.b: two values"),
        ({1: one}, TypeError, "keys are strings"),
        ({"a": {"b": "text"}}, TypeError, r"a\.b: str cannot"),
        ({"a": None}, TypeError, "a: NoneType cannot"),
        ({"a": [one]}, TypeError, "a: list cannot"),
        ([one], TypeError, "expected a dict"),
        (one, TypeError, "expected a dict"),
        ({"a": np.array([None])}, ValueError, "a: arrays of object"),
        ({"a": np.array([np.datetime64("2020-01-01")])}, ValueError, "a: arrays of datetime64"),
        ({"a": 1 << 70}, ValueError, "a: an integer of more than 64 bits"),
        ({"a": np.ma.masked_array([1.0], [True])}, TypeError, "a: a masked array"),
        ({"a": {"\ud800": one}}, ValueError, r"a\.\\ud800': a name of characters"),
        (loop, ValueError, "contains itself"),
        (deep, ValueError, "nested deeper than 256"),
    ):
        with pytest.raises(error, match=reason):
            fastrnn.save(value, path)
        assert os.listdir(tmp_path) == []


def test_npz_refuses_bfloat16_and_safetensors_complex128(tmp_path):
    with pytest.raises(ValueError, match="a: npz does not hold bfloat16"):
        fastrnn.save({"a": np.ones(1, BFLOAT16)}, tmp_path / "a.npz")
    with pytest.raises(ValueError, match="a: safetensors has no place"):
        fastrnn.save({"a": np.ones(1, complex)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="__metadata__"):
        fastrnn.save({"__metadata__": np.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="too long"):
        fastrnn.save({"a" * 70_000: np.ones(1)}, tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"'a\\x00b': a name in npz ends"):
        fastrnn.save({"a\0b": np.ones(1)}, tmp_path / "a.npz")
    assert os.listdir(tmp_path) == []


def test_text_arrays(tmp_path):
    value = {"u": np.array([["ä", "bc"]]), "big": np.array(["x"], ">U3"), "s": np.array([b"x\0y", b""])}
    read = roundtrip(value, tmp_path, ".npz")
    with np.load(tmp_path / "file.npz") as file:
        for name, array in value.items():
            np.testing.assert_array_equal(read[name], array)
            np.testing.assert_array_equal(file[name], array)
    for suffix in (".pt", ".safetensors"):
        with pytest.raises(ValueError, match="arrays of <U2 cannot be saved"):
            fastrnn.save({"u": value["u"]}, tmp_path / f"a{suffix}")


def test_safetensors_metadata(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"w": np.ones(3)}
    for metadata, expected in (
        (None, {"format": "pt"}),
        ({"b": "ü\n", "a": ""}, {"a": "", "b": "ü\n"}),
        (collections.OrderedDict(a="", b="ü\n"), {"a": "", "b": "ü\n"}),
        ({}, None),
    ):
        fastrnn.save(arrays, path, metadata=metadata)
        with safetensors.safe_open(path, "numpy") as file:
            assert file.metadata() == expected
        assert strict_load(path)["w"].shape == (3,)
    fastrnn.save(arrays, path, metadata={"b": "1", "a": "2"})
    content = path.read_bytes()
    fastrnn.save(arrays, path, metadata={"a": "2", "b": "1"})
    assert path.read_bytes() == content
    for metadata in ({"a": 1}, {1: "a"}, {"a": None}, "text"):
        with pytest.raises(TypeError, match=r"metadata.*strings"):
            fastrnn.save(arrays, path, metadata=metadata)
    for metadata in ({"a": "\ud800"}, {"\udfff": "a"}):
        with pytest.raises(ValueError, match=r"^metadata: characters that UTF-8 lacks"):
            fastrnn.save(arrays, path, metadata=metadata)
    assert path.read_bytes() == content
    for suffix in (".pt", ".npz"):
        with pytest.raises(ValueError, match=r"metadata: only a \.safetensors"):
            fastrnn.save(arrays, tmp_path / f"a{suffix}", metadata={})


# Refusals


def test_pt_refuses_what_it_cannot_hold(tmp_path):
    path = tmp_path / "a.pt"
    loop = []
    loop.append(loop)
    deep = []
    for _ in range(300):
        deep = [deep]
    opaque = fastrnn.load(_namespace_file(tmp_path))
    for value, error, reason in (
        ({"a": [frozenset()]}, TypeError, r"obj\['a'\]\[0\]: frozenset cannot"),
        ({"a": {(1, object)}}, TypeError, r"obj\['a'\]\[1\]: type cannot"),
        ([{"a": [1, 2], (1, 2): ()}, object()], TypeError, r"obj\[1\]: object cannot"),
        ({"a": object()}, TypeError, r"obj\['a'\]: object cannot"),
        ({"a": [0, opaque]}, TypeError, r"^obj\['a'\]\[1\]: an object of the unknown class argparse\.Namespace cannot"),
        ({"a": Name("torch", "save")}, TypeError, r"obj\['a'\]: the name torch\.save cannot"),
        ({"a": Name("os", "int8")}, TypeError, r"obj\['a'\]: the name os\.int8 cannot"),
        ({object: 1}, TypeError, "as a key"),
        ({"a": np.array([None])}, ValueError, r"obj\['a'\]: arrays of object"),
        ({"a": np.ma.masked_array([1.0], [True])}, TypeError, r"obj\['a'\]: a masked array"),
        ({"a": np.longdouble(1)}, TypeError, r"obj\['a'\]: longdouble cannot"),
        (1 << 2100, ValueError, "integer of"),
        (loop, ValueError, "contains itself"),
        (deep, ValueError, "nested deeper"),
    ):
        with pytest.raises(error, match=reason):
            fastrnn.save(value, path)
        assert not path.exists()


def _namespace_file(tmp_path):
    path = tmp_path / "namespace.pt"
    path.write_bytes(torch_zip(pickled(named("argparse", "Namespace"), b")\x81}b")))
    return path


def test_other_suffixes_are_refused(tmp_path):
    for name in ("a", "a.bin", "a.npy", "a.pt.gz"):
        with pytest.raises(ValueError, match=r"path: expected one of the suffixes \.pt"):
            fastrnn.save({}, tmp_path / name)
    fastrnn.save({}, tmp_path / "A.PT")
    fastrnn.save({}, str(tmp_path / "b.npz"))
    assert strict_load(tmp_path / "b.npz") == {}


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.pt"
    fastrnn.save({"old": 1}, path)
    with pytest.raises(TypeError):
        fastrnn.save({"w": np.ones(1000), "bad": object()}, path)
    assert strict_load(path) == {"old": 1}
    assert os.listdir(tmp_path) == ["a.pt"]


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    calls = []

    def interrupted(self, *pieces):
        calls.append(pieces)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(self, *pieces)

    write = ZipWriter._write
    monkeypatch.setattr(ZipWriter, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fastrnn.save({"w": np.ones(1000)}, tmp_path / "a.pt")
    assert len(calls) == 3
    assert os.listdir(tmp_path) == []


# More than 4 GiB and more than 65,535 entries, without writing that much


def test_zip64_records_are_written(tmp_path, monkeypatch):
    """With the bound for 64-bit fields at 100 bytes, all of them are used; Python's own reader checks them."""
    path = tmp_path / "a.zip"
    entries = {"a": b"x" * 99, "b": b"y" * 1000, "c": b"", "d": b"z" * 200}
    monkeypatch.setattr("fastrnn.checkpoint.zip_writer.FULL", 100)
    with open(path, "wb") as file:
        writer = ZipWriter(file)
        for name, data in entries.items():
            writer.add(name, data)
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(path)  # there is no directory yet
        writer.close()
    content = path.read_bytes()
    assert content.count(b"PK\6\6") == content.count(b"PK\6\7") == 1
    wide = struct.pack("<I", 100)
    assert content.count(wide * 2) == 5  # two entries in headers and directory, and the end record
    # What was written as "see the zip64 record" at 100 has to be 0xFFFFFFFF for a reader.
    content = content.replace(wide, b"\xff" * 4)
    source = Source(memoryview(content))
    archive = Archive(source, Limits(None, 1, 1, True))
    assert {name: bytes(archive.read(name)) for name in archive.entries} == entries
    path.write_bytes(content)
    with zipfile.ZipFile(path) as file:
        assert {name: file.read(name) for name in file.namelist()} == entries


def test_70_000_entries(tmp_path):
    path = tmp_path / "a.zip"
    with open(path, "wb") as file:
        writer = ZipWriter(file)
        for i in range(70_000):
            writer.add(str(i))
        writer.close()
    with zipfile.ZipFile(path) as file:
        assert len(file.namelist()) == 70_000
    assert len(Archive(Source(memoryview(path.read_bytes())), Limits(None, 1, 1, True)).entries) == 70_000
