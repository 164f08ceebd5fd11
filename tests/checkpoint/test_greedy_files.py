"""Hostile files, group 5: those that ask for time or memory. Each is refused before it gets much of either."""

from __future__ import annotations

import struct
import zipfile

import pytest
from crafted import (
    bomb,
    call,
    named,
    number,
    numbers,
    peak_growth,
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

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint.archive import CENTRAL, END, FULL, LOCAL

MANY = 2_000_000


def records(depth):
    return pickled(named("a", "b") + b"q\x000" + b"h\x00" * depth + b"N" + b"\x85\x81" * depth)


def many_calls(function, args):
    """Calls that share the tuple of their arguments."""
    return pickled(function, b"q\x000", args, b"q\x010(", b"h\x00h\x01R" * 200_000, b"t")


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
    call(named("numpy", "dtype"), text("b1"), b"\x89", b"\x88"),
    numbers(200_000),
    text("C"),
)
COLLIDING = [numbers(*pair) for pair in colliding_keys(20_000)]
CONJUGATE = tup(
    storage(numel=50_000, kind="ComplexDoubleStorage"), number(0), numbers(50_000), numbers(1), b"\x89", b"N",
    b"}" + text("conj") + b"\x88s",
)  # fmt: skip
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
    "sets of one list": (many_calls(named("builtins", "set"), tup(NUMBERS)), "max_bytes"),
    "dicts of one list": (many_calls(named("collections", "OrderedDict"), tup(PAIRS)), "max_bytes"),
    "bytes of one text": (many_calls(named("_codecs", "encode"), tup(LONG, text("latin1"))), "max_bytes"),
    "sizes of one tuple": (many_calls(named("torch", "Size"), tup(b"(" + b"K\x01" * 60_000 + b"t")), "Size"),
    "records of one tuple": (many_calls(named("a", "b"), b"(" + b"K\x01" * 60_000 + b"t"), "max_ops"),
    "arrays of one text": (many_calls(named("numpy._core.numeric", "_frombuffer"), NUMPY_BOOLS), "max_bytes"),
    "conjugates of one storage": (
        many_calls(named("torch._utils", "_rebuild_tensor_v2"), CONJUGATE),
        "max_bytes",
    ),
    "colliding keys": (pickled(b"}(", *(pair + b"N" for pair in COLLIDING), b"u"), "collide"),
    "colliding integers": (
        pickled(b"}(", *(number(i * ((1 << 61) - 1)) + b"N" for i in range(20_000)), b"u"),
        "collide",
    ),
    "colliding items": (pickled(b"\x8f(", *COLLIDING, b"\x90", protocol=4), "collide"),
}


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
    (resource_files / "bomb.pt").write_bytes(bomb(200 << 20))
    (resource_files / "giant.pt").write_bytes(with_tensor(size=numbers(10**6, 10**6), stride=numbers(0, 0)))
    script = """
import sys, fastrnn
def refuse(path):
    try:
        fastrnn.load(path)
    except fastrnn.CheckpointError:
        return
    raise SystemExit(path)
refuse(sys.argv[1])
---
for path in sys.argv[1:]:
    refuse(path)
"""
    paths = sorted(map(str, resource_files.iterdir()))
    assert peak_growth(script, str(resource_files / "giant.pt"), *paths) < 150_000


def test_headers_within_headers_are_not_looked_through_again_and_again():
    """Each entry's header lies in the extra field of the one before it, and all extra fields reach to the same end."""
    n, tail = 800, struct.pack("<2H", 2, 0) * 5000
    names = [f"{i:03}".encode() for i in range(n)]
    each = LOCAL.size + 3
    body, directory = b"", b""
    for i, entry in enumerate(names):
        extra = each * (n - 1 - i) + len(tail)
        body += LOCAL.pack(b"PK\3\4", 45, 0, 0, 0, 0, 0, FULL, FULL, 3, extra) + entry
        wide = struct.pack("<2H2Q", 1, 16, 0, 0)
        fields = (45, 45, 0, 0, 0, 0, 0, FULL, FULL, 3, len(wide), 0, 0, 0, 0, each * i)
        directory += CENTRAL.pack(b"PK\1\2", *fields) + entry + wide
    body += tail
    end = END.pack(b"PK\5\6", 0, 0, n, n, len(directory), len(body), 0)
    refuse(body + directory + end, "zip64 sizes are missing")
    sizes = body.replace(struct.pack("<2I", FULL, FULL), bytes(8))
    refuse(sizes + directory + end, "overlaps")


def test_a_huge_memo_index_costs_nothing():
    assert strict_load(torch_zip(pickled(b"Nr\xff\xff\xff\xff"))) is None


def test_the_limits_are_arguments():
    deep = pickled(b"]" * 300 + b"a" * 299)
    refuse(torch_zip(deep), "max_depth=256")
    assert strict_load(torch_zip(deep), max_depth=299)
    refuse(torch_zip(deep), "max_depth", max_depth=298)  # the innermost is empty
    refuse(torch_zip(deep), "max_ops", max_ops=500)
    refuse(torch_zip(pickled(LONG)), "max_bytes", max_bytes=100_000)
    content = bomb(200 << 20)
    refuse(content, "max_bytes")
    refuse(content, "max_bytes", max_bytes=100 << 20)


@pytest.mark.parametrize("limit", ["max_bytes", "max_ops", "max_depth"])
def test_limits_are_checked(limit):
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("1", TypeError)):
        with pytest.raises(error, match=limit):
            fastrnn.load(with_tensor(), **{limit: wrong})


def test_packed_zeros_are_no_bomb_within_the_limit_that_is_asked_for():
    size = 80 << 20
    layout = {"size": numbers(size // 4), "stride": numbers(1)}
    one = pickled(tensor(storage(numel=size // 4), **layout))
    content = torch_zip(one, {"0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    refuse(content, "max_bytes")
    assert strict_load(content, max_bytes=size).nbytes == size
