"""Hostile files: each is refused, or read as the inert data that it is, quickly and in little memory."""

from __future__ import annotations

import pickle
import struct
import zipfile

import numpy as np
import pytest
from crafted import (
    FOUR_FLOATS,
    archive,
    bomb,
    call,
    named,
    number,
    numbers,
    pickled,
    refuse,
    storage,
    strict_load,
    tensor,
    text,
    torch_zip,
    tup,
    with_tensor,
)
from hypothesis import given
from hypothesis import strategies as st

from fastrnn.checkpoint import Opaque

# 1. Code execution


class Bomb:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def canary(tmp_path):
    """A file that the attacks make; it must not be there at the end."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reduce_runs_nothing(canary, protocol):
    for call_ in ((open, str(canary), "w"), (exec, f"open({str(canary)!r}, 'w')"), (getattr, canary, "touch")):
        read = strict_load(torch_zip(pickle.dumps({"a": Bomb(*call_)}, protocol)))
        assert type(read["a"]) is Opaque


def test_newobj_and_build_run_nothing(canary):
    new = named("subprocess", "Popen") + tup(tup(text("touch"), text(str(canary)))) + b"\x81"
    build = b"}" + text("__setstate__") + named("os", "system") + b"s" + b"b" + text(str(canary)) + b"b"
    read = strict_load(torch_zip(pickled(new + build)))
    assert (type(read), read.module, read.name) == (Opaque, "subprocess", "Popen")


def test_rebuild_from_type_v2_runs_nothing(canary):
    """torch calls the function that is its first argument."""
    typed = named("torch._tensor", "_rebuild_from_type_v2")
    args = tup(text(f"touch {canary}"))
    read = strict_load(torch_zip(pickled(call(typed, named("os", "system"), named("torch", "Tensor"), args, b"N"))))
    assert type(read) is Opaque
    nested = tup(named("os", "system"), named("torch", "Tensor"), args, b"N")
    read = strict_load(torch_zip(pickled(call(typed, typed, named("torch", "Tensor"), nested, b"N"))))
    assert type(read) is Opaque


def test_load_from_bytes_stays_bytes(canary):
    inner = pickle.dumps(Bomb(open, str(canary), "w"), 2)
    function = named("torch.storage", "_load_from_bytes")
    read = strict_load(torch_zip(b"\x80\x04" + call(function, b"C" + bytes([len(inner)]) + inner) + b"."))
    assert type(read) is Opaque
    assert read.args == (inner,)


def test_what_a_call_gave_is_not_called(canary):
    system = call(named("builtins", "getattr"), named("os", "path"), text("system"))
    refuse(torch_zip(pickled(call(system, text(f"touch {canary}")))), "not a name")


def test_numpy_objects_are_not_unpickled(canary):
    array = np.empty(1, object)
    array[0] = Bomb(open, str(canary), "w")
    refuse(torch_zip(pickle.dumps(array, 2)), "plain numbers")
    np.savez(canary.with_suffix(".npz"), a=array)
    refuse(canary.with_suffix(".npz").read_bytes(), "not supported")


# 2. Layouts


LAYOUTS = {
    "size beyond the storage": with_tensor(size=numbers(5)),
    "stride beyond the storage": with_tensor(size=numbers(2, 2), stride=numbers(3, 1)),
    "offset beyond the storage": with_tensor(offset=number(4)),
    "last element beyond the storage": with_tensor(offset=number(1)),
    "negative size": with_tensor(size=numbers(-1)),
    "negative stride": with_tensor(stride=numbers(-1), offset=number(3)),
    "negative offset": with_tensor(offset=number(-1)),
    "two sizes, one stride": with_tensor(size=numbers(2, 2)),
    "one size, two strides": with_tensor(stride=numbers(1, 1)),
    "65 dimensions": with_tensor(size=numbers(*[1] * 65), stride=numbers(*[1] * 65)),
    "size that wraps 64 bits": with_tensor(size=numbers(1 << 62, 4), stride=numbers(0, 1)),
    "size of 2^63": with_tensor(size=numbers(1 << 63), stride=numbers(0)),
    "size of 2^1000": with_tensor(size=numbers(1 << 1000), stride=numbers(0)),
    "stride that wraps 64 bits": with_tensor(size=numbers(2), stride=numbers(1 << 62)),
    "offset that wraps 64 bits": with_tensor(offset=number((1 << 64) - 4)),
    "empty with a size of 2^62": with_tensor(size=numbers(0, 1 << 62), stride=numbers(1, 1)),
    "bool as a size": with_tensor(size=tup(b"\x88")),
    "float as an offset": with_tensor(offset=b"G" + bytes(8)),
    "list as a size": with_tensor(size=b"]"),
    "None as a stride": with_tensor(stride=b"N"),
    "tensor without a storage": with_tensor(b"N"),
    "tensor over a tensor": with_tensor(tensor()),
    "tensor of a name": torch_zip(pickled(call(named("torch._utils", "_rebuild_tensor_v2"), named("a", "b")))),
    "tensor of nothing": torch_zip(pickled(call(named("torch._utils", "_rebuild_tensor_v2")))),
    "v2 without a type": with_tensor(storage(kind="UntypedStorage", module="torch.storage", numel=16)),
    "v3 without a type": with_tensor(version="_rebuild_tensor_v3"),
    "v3 of a foreign type": with_tensor(version="_rebuild_tensor_v3", rest=named("os", "float32")),
    "v3 of an unknown type": with_tensor(version="_rebuild_tensor_v3", rest=named("torch", "float128")),
    "v3 of a larger type": with_tensor(version="_rebuild_tensor_v3", rest=named("torch", "float64")),
    "metadata that is an array": with_tensor(rest=tensor()),
    "metadata of another kind": with_tensor(rest=b"}" + text("other") + b"\x88s"),
    "conjugate of integers": with_tensor(storage(kind="IntStorage"), rest=b"}" + text("conj") + b"\x88s"),
    "parameter of nothing": torch_zip(pickled(call(named("torch._utils", "_rebuild_parameter"), b"N"))),
    "storage that is larger than said": with_tensor(storage(numel=3), size=numbers(3)),
    "storage that is smaller than said": with_tensor(storage(numel=5)),
    "storage of negative size": with_tensor(storage(numel=-4)),
    "storage of 2^62": with_tensor(storage(numel=1 << 62)),
    "storage of another type's size": with_tensor(storage(kind="DoubleStorage")),
    "storage of an unknown type": with_tensor(storage(kind="QInt8Storage")),
    "storage of a foreign type": with_tensor(storage(module="os")),
    "storage that is missing": with_tensor(storage("1")),
    "storage outside": with_tensor(storage("../../x")),
    "storage by another digit": with_tensor(storage("٠")),
    "storage by a number": torch_zip(pickled(tup(text("storage"), named("torch", "FloatStorage"), number(0)), b"Q")),
    "storage by an array": torch_zip(pickled(tup(*[tensor()] * 5), b"Q")),
    "bare storage": torch_zip(pickled(storage())),
    "storage in a list": torch_zip(pickled(b"]", storage(), b"a")),
    "storage in a record": torch_zip(pickled(call(named("a", "b"), storage()))),
}


@pytest.mark.parametrize("case", LAYOUTS)
def test_wrong_layouts_are_refused(case):
    refuse(LAYOUTS[case])


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


def test_giants_over_four_floats_are_refused():
    refuse(with_tensor(size=numbers(10**6, 10**6), stride=numbers(0, 0)), "max_bytes")
    refuse(with_tensor(size=numbers(*[10] * 30), stride=numbers(*[0] * 30)), "max_bytes")


def test_max_bytes_is_the_logical_size_of_an_array():
    content = with_tensor(size=numbers(1000, 100), stride=numbers(0, 0))
    assert strict_load(content, max_bytes=400_000).shape == (1000, 100)
    refuse(content, "max_bytes", max_bytes=399_999)


def test_many_half_giants_are_refused_together():
    half = tensor(size=numbers(1 << 31), stride=numbers(0))  # 8 GiB
    assert strict_load(torch_zip(pickled(half))).nbytes == 1 << 33
    refuse(torch_zip(pickled(tup(half, half, half))), "max_bytes")


# 4. Archives

GOOD = with_tensor()


def patched(content, old, new, count=1):
    assert content.count(old) >= count
    return content.replace(old, new, count)


def local_only(change):
    """Change the first entry's local header, not the directory's."""
    header = bytearray(GOOD)
    change(header)
    return bytes(header)


def duplicated():
    pickles = [("archive/data.pkl", pickled(tensor())), ("archive/data.pkk", pickled(b"N"))]
    content = archive([*pickles, ("archive/data/0", FOUR_FLOATS)])
    return content.replace(b"data.pkk", b"data.pkl")


def overlapping():
    """The second entry's data is the first one's: both headers are there, the directory points into the data."""
    inner = archive([("archive/data/0", FOUR_FLOATS)])
    inner = inner[: inner.index(b"PK\1\2")]
    outer = archive([("archive/data.pkl", pickled(tensor()) + inner), ("archive/data/0", FOUR_FLOATS)])
    start, directory = outer.index(inner), outer.rindex(b"PK\1\2")
    return outer[: directory + 42] + struct.pack("<I", start) + outer[directory + 46 :]


def flagged(flag):
    """A flag in both headers of the first entry."""
    content = bytearray(GOOD)
    content[6] |= flag & 0xFF
    content[7] |= flag >> 8
    directory = content.index(b"PK\1\2")
    content[directory + 8] |= flag & 0xFF
    content[directory + 9] |= flag >> 8
    return bytes(content)


ARCHIVES = {
    "one name twice": (duplicated(), "twice"),
    "two prefixes": (torch_zip(pickled(tensor()), more=[("other/data/0", FOUR_FLOATS)]), "beside it"),
    "two pickles": (torch_zip(pickled(tensor()), more=[("other/data.pkl", pickled(b"N"))]), "2 pickles"),
    "no pickle at the top": (archive([("a/b/data.pkl", pickled(b"N"))]), "0 pickles"),
    "other name in the directory": (local_only(lambda h: h.__setitem__(slice(30, 31), b"A")), "differ"),
    "other size in the directory": (local_only(lambda h: h.__setitem__(22, h[22] + 1)), "differ"),
    "other checksum in the directory": (local_only(lambda h: h.__setitem__(14, h[14] ^ 1)), "differ"),
    "other method in the directory": (local_only(lambda h: h.__setitem__(8, 8)), "differ"),
    "something before": (b"PK\3\4" + bytes(60) + GOOD, "."),
    "something behind": (GOOD + b"\0", "."),
    "two archives": (GOOD + GOOD, "."),
    "a comment that is not there": (GOOD[:-2] + b"\x03\x00", "comment"),
    "a comment": (GOOD[:-2] + b"\x03\x00abc", "."),
    "overlap": (overlapping(), "overlap"),
    "encrypted": (flagged(1), "encrypted"),
    "strongly encrypted": (flagged(1 << 6), "encrypted"),
    "hidden headers": (flagged(1 << 13), "encrypted"),
    "damaged data": (patched(GOOD, FOUR_FLOATS, FOUR_FLOATS[:-1] + b"\x41"), "checksum"),
    "damaged pickle": (patched(GOOD, b"_rebuild_tensor_v2", b"_rebuild_tensor_v1"), "checksum"),
    "bzip2": (torch_zip(pickled(tensor()), compression=zipfile.ZIP_BZIP2), "method 12"),
    "more than declared": (bomb(100_000, 50_000), "does not unpack"),
    "less than declared": (bomb(100_000, 100_001), "does not unpack"),
    "far less than declared": (bomb(100_000, 3 << 30), "cannot unpack"),
    "junk byte order": (torch_zip(pickled(tensor()), more=[("archive/byteorder", b"middle")]), "byte order"),
    "long byte order": (torch_zip(pickled(tensor()), more=[("archive/byteorder", b"little" * 1000)]), "byte order"),
    "storage outside": (
        torch_zip(pickled(tensor(storage("../../x"))), {"0": b""}, more=[("archive/data/../../x", FOUR_FLOATS)]),
        "key",
    ),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_hostile_archives_are_refused(case):
    content, reason = ARCHIVES[case]
    refuse(content, reason)


def test_bombs_are_refused():
    refuse(bomb(80 << 20), "max_bytes")
    refuse(archive([(f"archive/data/{i}", b"") for i in range(100_001)]), "entries")


def test_the_good_archive_is_good():
    """What the cases above are made of."""
    np.testing.assert_array_equal(strict_load(GOOD), [0, 1, 2, 3])
    np.testing.assert_array_equal(strict_load(flagged(1 << 1)), [0, 1, 2, 3])


def test_a_wrong_checksum_is_read_only_when_asked():
    content, _ = ARCHIVES["damaged data"]
    np.testing.assert_array_equal(strict_load(content, check_crc=False), [0, 1, 2, 12])


def test_names_in_the_archive_never_touch_the_file_system(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path / "folder")
    content = torch_zip(pickled(tensor()), more=[("archive/../../planted", b"x"), ("archive//etc/planted", b"x")])
    strict_load(content)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]
