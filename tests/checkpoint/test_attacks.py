"""Hostile files: each is refused, or read as the inert data that it is, quickly and in little memory."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from crafted import (
    CHECKPOINTS,
    FOUR_FLOATS,
    archive,
    call,
    name,
    number,
    numbers,
    pickled,
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

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import Opaque


def refuse(content, match="", **limits):
    """The strict reader and the public one both refuse; the public one names the file."""
    with pytest.raises(CheckpointError, match=match):
        strict_load(content, **limits)
    with pytest.raises(CheckpointError, match="^<bytes>: "):
        fastrnn.load(content, **limits)


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
    for bomb in (Bomb(open, str(canary), "w"), Bomb(exec, f"open({str(canary)!r}, 'w')"), Bomb(getattr, canary, "touch")):
        read = strict_load(torch_zip(pickle.dumps({"a": bomb}, protocol)))
        assert type(read["a"]) is Opaque


def test_newobj_and_build_run_nothing(canary):
    new = name("subprocess", "Popen") + tup(tup(text("touch"), text(str(canary)))) + b"\x81"
    build = b"}" + text("__setstate__") + name("os", "system") + b"s" + b"b" + text(str(canary)) + b"b"
    read = strict_load(torch_zip(pickled(new + build)))
    assert (type(read), read.module, read.name) == (Opaque, "subprocess", "Popen")


def test_rebuild_from_type_v2_runs_nothing(canary):
    """torch calls the function that is its first argument."""
    typed = name("torch._tensor", "_rebuild_from_type_v2")
    args = tup(text(f"touch {canary}"))
    read = strict_load(torch_zip(pickled(call(typed, name("os", "system"), name("torch", "Tensor"), args, b"N"))))
    assert type(read) is Opaque
    nested = tup(name("os", "system"), name("torch", "Tensor"), args, b"N")
    read = strict_load(torch_zip(pickled(call(typed, typed, name("torch", "Tensor"), nested, b"N"))))
    assert type(read) is Opaque


def test_load_from_bytes_stays_bytes(canary):
    inner = pickle.dumps(Bomb(open, str(canary), "w"), 2)
    function = name("torch.storage", "_load_from_bytes")
    read = strict_load(torch_zip(b"\x80\x04" + call(function, b"C" + bytes([len(inner)]) + inner) + b"."))
    assert type(read) is Opaque
    assert read.args == (inner,)


def test_what_a_call_gave_is_not_called(canary):
    system = call(name("builtins", "getattr"), name("os", "path"), text("system"))
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
    "tensor of a name": torch_zip(pickled(call(name("torch._utils", "_rebuild_tensor_v2"), name("a", "b")))),
    "tensor of nothing": torch_zip(pickled(call(name("torch._utils", "_rebuild_tensor_v2")))),
    "v2 without a type": with_tensor(storage(kind="UntypedStorage", module="torch.storage", numel=16)),
    "v3 without a type": with_tensor(version="_rebuild_tensor_v3"),
    "v3 of a foreign type": with_tensor(version="_rebuild_tensor_v3", rest=name("os", "float32")),
    "v3 of an unknown type": with_tensor(version="_rebuild_tensor_v3", rest=name("torch", "float128")),
    "v3 of a larger type": with_tensor(version="_rebuild_tensor_v3", rest=name("torch", "float64")),
    "metadata that is an array": with_tensor(rest=tensor()),
    "metadata of another kind": with_tensor(rest=b"}" + text("other") + b"\x88s"),
    "conjugate of integers": with_tensor(storage(kind="IntStorage"), rest=b"}" + text("conj") + b"\x88s"),
    "parameter of nothing": torch_zip(pickled(call(name("torch._utils", "_rebuild_parameter"), b"N"))),
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
    "storage by a number": torch_zip(pickled(tup(text("storage"), name("torch", "FloatStorage"), number(0)), b"Q")),
    "storage by an array": torch_zip(pickled(tup(*[tensor()] * 5), b"Q")),
    "bare storage": torch_zip(pickled(storage())),
    "storage in a list": torch_zip(pickled(b"]", storage(), b"a")),
    "storage in a record": torch_zip(pickled(call(name("a", "b"), storage()))),
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


def bomb(size, declared=None):
    content = torch_zip(pickled(tensor()), {"0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    return content if declared is None else content.replace(struct.pack("<I", size), struct.pack("<I", declared))


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
    "something before": (b"PK\3\4" + bytes(60) + GOOD, ""),
    "something behind": (GOOD + b"\0", ""),
    "two archives": (GOOD + GOOD, ""),
    "a comment": (GOOD[:-2] + b"\x03\x00abc", ""),
    "overlap": (overlapping(), "overlap"),
    "encrypted": (flagged(1), "encrypted"),
    "strongly encrypted": (flagged(1 << 6), "encrypted"),
    "hidden headers": (flagged(1 << 13), "encrypted"),
    "damaged data": (patched(GOOD, FOUR_FLOATS, FOUR_FLOATS[:-1] + b"\x41"), "checksum"),
    "damaged pickle": (patched(GOOD, b"_rebuild_tensor_v2", b"_rebuild_tensor_v1"), "checksum"),
    "bzip2": (torch_zip(pickled(tensor()), compression=zipfile.ZIP_BZIP2), "method 12"),
    "bomb": (bomb(200 << 20), "max_bytes"),
    "more than declared": (bomb(100_000, 50_000), "does not unpack"),
    "less than declared": (bomb(100_000, 100_001), "does not unpack"),
    "far less than declared": (bomb(100_000, 3 << 30), "cannot unpack"),
    "junk byte order": (torch_zip(pickled(tensor()), more=[("archive/byteorder", b"middle")]), "byte order"),
    "long byte order": (torch_zip(pickled(tensor()), more=[("archive/byteorder", b"little" * 1000)]), "byte order"),
    "storage outside": (
        torch_zip(pickled(tensor(storage("../../x"))), {"0": b""}, more=[("archive/data/../../x", FOUR_FLOATS)]),
        "key",
    ),
    "200,000 entries": (archive([(f"archive/data/{i}", b"") for i in range(200_000)]), "entries"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_hostile_archives_are_refused(case):
    content, reason = ARCHIVES[case]
    refuse(content, reason)


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


# 5. Resources

MANY = 2_000_000


def repeated(function, argument, times):
    """One large argument that many calls of a few bytes share."""
    put = function + b"q\x00" + b"0" + argument + b"\x85" + b"q\x01" + b"0"
    return pickled(put + b"(" + b"h\x00h\x01R" * times + b"t")


def records(depth):
    return pickled(name("a", "b") + b"q\x000" + b"h\x00" * depth + b"N" + b"\x85\x81" * depth)


def doubling(levels):
    level = b"".join(b"0]\x94(h" + bytes([i, ord("h"), i]) + b"e" for i in range(levels))
    return pickled(b"]\x94" + level, protocol=4)


def colliding_keys(n):
    """Pairs of integers with one hash: the last step of CPython's hash of tuples, undone."""
    prime_1, prime_2, prime_5 = 11400714785074694791, 14029467366897019727, 2870177450012600261
    mask, inverse = (1 << 64) - 1, pow(14029467366897019727, -1, 1 << 64)
    pairs, first = [], 0
    while len(pairs) < n:
        first += 1
        lane = (prime_5 + first * prime_2) & mask
        lane = (lane << 31 | lane >> 33) * prime_1 & mask
        second = -lane * inverse & mask
        if second < 1 << 60:
            pairs.append((first, second))
    assert len({hash(pair) for pair in pairs}) == 1
    return pairs


NUMBERS = b"](" + b"".join(b"M" + struct.pack("<H", i % 60000) for i in range(60_000)) + b"e"
PAIRS = b"](" + b"".join(b"M" + struct.pack("<H", i % 60000) + b"N\x86" for i in range(60_000)) + b"e"
LONG = text("x" * 200_000)
NUMPY_BOOLS = tup(
    b"B" + struct.pack("<I", 200_000) + bytes(200_000),
    call(name("numpy", "dtype"), text("b1"), b"\x89", b"\x88"),
    numbers(200_000),
    text("C"),
)
RESOURCES = {
    "declared string": (b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b".", "cut off"),
    "declared bytes": (b"\x80\x03B\xff\xff\xff\xff.", "cut off"),
    "declared integer": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "integer"),
    "operations": (pickled(b"N0" * MANY), "max_ops"),
    "lists": (pickled(b"]" * MANY), "max_ops"),
    "sets": (pickled(b"\x8f" * MANY, protocol=4), "max_bytes"),
    "memo": (pickled(b"N" + b"\x94" * MANY, protocol=4), "max_ops"),
    "marks": (pickled(b"(" * MANY), "max_depth"),
    "tuples in tuples": (pickled(b"N" + b"\x85" * 900_000), "max_depth"),
    "lists in lists": (pickled(b"]" * 400_000 + b"a" * 399_999), "max_depth"),
    "records in records": (records(200_000), "max_depth"),
    "doubling": (doubling(100), "max_ops"),
    "sets of one list": (repeated(name("builtins", "set"), NUMBERS, 200_000), "max_bytes"),
    "dicts of one list": (repeated(name("collections", "OrderedDict"), PAIRS, 200_000), "max_bytes"),
    "bytes of one text": (
        pickled(name("_codecs", "encode"), b"q\x000", tup(LONG, text("latin1")), b"q\x010(", b"h\x00h\x01R" * 200_000, b"t"),
        "max_bytes",
    ),
    "sizes of one tuple": (repeated(name("torch", "Size"), b"(" + b"K\x01" * 60_000 + b"t", 200_000), "Size"),
    "arrays of one text": (
        pickled(name("numpy._core.numeric", "_frombuffer"), b"q\x000", NUMPY_BOOLS, b"q\x010(", b"h\x00h\x01R" * 200_000, b"t"),
        "max_bytes",
    ),
    "conjugates of one storage": (
        pickled(
            name("torch._utils", "_rebuild_tensor_v2"), b"q\x000",
            tup(storage(numel=50_000, kind="ComplexDoubleStorage"), b"K\x00", numbers(50_000), numbers(1), b"\x89NN"),
            b"q\x010(", b"h\x00h\x01R" * 200_000, b"t",
        ),
        "",
    ),
    "colliding keys": (
        pickled(b"}(", *(numbers(*pair) + b"N" for pair in colliding_keys(20_000)), b"u"), "collide"
    ),
    "colliding items": (
        pickled(b"\x8f(", *(numbers(*pair) for pair in colliding_keys(20_000)), b"\x90", protocol=4), "collide"
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def resource_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resources")
    for case, (content, _) in RESOURCES.items():
        (folder / f"{case}.pt").write_bytes(torch_zip(content, {"0": bytes(800_000)}))
    return folder


@pytest.mark.parametrize("case", RESOURCES)
def test_greedy_pickles_are_refused(case, resource_files):
    with pytest.raises(CheckpointError, match=RESOURCES[case][1]):
        strict_load(resource_files / f"{case}.pt")


def test_greedy_files_stay_small(resource_files):
    """All of them in a fresh process; what it needs at its peak is compared with what it needs without them."""
    pytest.importorskip("resource")
    (resource_files / "bomb.pt").write_bytes(bomb(200 << 20))
    (resource_files / "giant.pt").write_bytes(with_tensor(size=numbers(10**6, 10**6), stride=numbers(0, 0)))
    script = """
import resource, sys, fastrnn
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    fastrnn.load(sys.argv[1])
except fastrnn.CheckpointError:
    pass
before = peak()
for path in sys.argv[1:]:
    try:
        fastrnn.load(path)
        raise SystemExit(path)
    except fastrnn.CheckpointError:
        pass
print(peak() - before)
"""
    paths = sorted(map(str, resource_files.iterdir()))
    arguments = [sys.executable, "-c", script, str(resource_files / "giant.pt"), *paths]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stdout) // (1024 if sys.platform == "darwin" else 1)
    assert kilobytes < 150_000


def test_a_huge_memo_index_costs_nothing():
    assert strict_load(torch_zip(pickled(b"Nr\xff\xff\xff\xff"))) is None


def test_the_limits_are_arguments():
    deep = pickled(b"]" * 300 + b"a" * 299)
    refuse(torch_zip(deep), "max_depth=256")
    assert strict_load(torch_zip(deep), max_depth=300)
    refuse(torch_zip(deep), "max_depth", max_depth=299)
    refuse(torch_zip(deep), "max_ops", max_ops=500)
    refuse(torch_zip(pickled(LONG)), "max_bytes", max_bytes=100_000)
    content = bomb(200 << 20)
    refuse(content, "max_bytes")
    refuse(content, "max_bytes", max_bytes=100 << 20)


@pytest.mark.parametrize("limit", ["max_bytes", "max_ops", "max_depth"])
def test_limits_are_checked(limit):
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)):
        with pytest.raises(error, match=limit):
            fastrnn.load(GOOD, **{limit: wrong})


def test_packed_zeros_are_no_bomb_within_the_limit_that_is_asked_for():
    size = 80 << 20
    layout = {"size": numbers(size // 4), "stride": numbers(1)}
    pickle_ = pickled(tensor(storage(numel=size // 4), **layout))
    content = torch_zip(pickle_, {"0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    refuse(content, "max_bytes")
    assert strict_load(content, max_bytes=size).nbytes == size


# 6. Broken files


def small_files():
    for path in ("small.pt", "no_checksums.pt", "gru_bf16.safetensors", "small.npz", "big_endian.pt"):
        yield path


@pytest.mark.parametrize("path", small_files())
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
        try:
            strict_load(damaged)
        except CheckpointError:
            pass


@given(st.data())
def test_random_damage_is_read_or_refused(data):
    content = bytearray((CHECKPOINTS / data.draw(st.sampled_from([*small_files(), "objects.pt"]))).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        start = data.draw(st.integers(0, len(content) - 1))
        content[start : start + data.draw(st.integers(0, 6))] = data.draw(st.binary(max_size=6))
    try:
        strict_load(bytes(content), check_crc=data.draw(st.booleans()))
    except CheckpointError:
        pass


# 7. Odd but honest, and not honest


def test_bools_are_0_or_1():
    bools = tensor(storage(kind="BoolStorage", numel=4))
    assert strict_load(torch_zip(pickled(bools), {"0": b"\0\1\1\0"})).tolist() == [False, True, True, False]
    refuse(torch_zip(pickled(bools), {"0": b"\0\1\2\0"}), "bool")
    byte = tensor(storage(kind="UntypedStorage", module="torch.storage"), version="_rebuild_tensor_v3", rest=name("torch", "bool"))
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
    refuse(struct.pack("<Q", len(header)) + header + bytes(4) + GOOD)


# 8. No way around


def test_there_is_no_unsafe_mode():
    for argument in ("weights_only", "allow_pickle", "unsafe", "trusted", "pickle_module"):
        with pytest.raises(TypeError, match=argument):
            fastrnn.load(GOOD, **{argument: False})
