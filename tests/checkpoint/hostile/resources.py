"""Group 5: files that ask for time or memory."""

from __future__ import annotations

import struct
import zipfile

from crafted import (
    FOUR_FLOATS,
    archive,
    bomb,
    call,
    crafted_safetensors,
    named,
    npy,
    npz,
    number,
    numbers,
    old_storage,
    pickled,
    script_archive,
    storage,
    tensor,
    text,
    torch_zip,
    tup,
)

from fastrnn.checkpoint.archive import CENTRAL, END, FULL, LOCAL

from .old import INFO, stream_of, tar_of, tar_storages, tar_tensors

READ = None
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


def headers_within_headers(*, wide):
    """Each entry's header lies in the extra field of the one before it, and all extra fields reach to the same end."""
    n, tail = 800, struct.pack("<2H", 2, 0) * 5000
    names = [f"{i:03}".encode() for i in range(n)]
    each = LOCAL.size + 3
    body, directory = b"", b""
    for i, entry in enumerate(names):
        extra = each * (n - 1 - i) + len(tail)
        body += LOCAL.pack(b"PK\3\4", 45, 0, 0, 0, 0, 0, FULL, FULL, 3, extra) + entry
        more = struct.pack("<2H2Q", 1, 16, 0, 0)
        fields = (45, 45, 0, 0, 0, 0, 0, FULL, FULL, 3, len(more), 0, 0, 0, 0, each * i)
        directory += CENTRAL.pack(b"PK\1\2", *fields) + entry + more
    body += tail
    end = END.pack(b"PK\5\6", 0, 0, n, n, len(directory), len(body), 0)
    if not wide:
        body = body.replace(struct.pack("<2I", FULL, FULL), bytes(8))
    return body + directory + end


def many_tensors_and_a_wrong_one():
    header = b",".join(b'"%05x":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(270_000))
    return crafted_safetensors(b"{" + header + b',"x":{"dtype":"F32","shape":[1],"data_offsets":[0,0]}}')


def _with_field(value):
    info = '{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":' + value + "}}"
    return crafted_safetensors(info.encode(), bytes(4))


def key_that_doubles(levels):
    """A tuple that holds the one before it twice."""
    level = b"".join(b"h" + bytes([i, ord("h"), i]) + b"\x86\x94" for i in range(levels))
    return pickled(b"}N\x94", level, b"Ns", protocol=4)


def many_pickles(n, ops):
    """A tar whose storages are read one pickle after another, each within max_ops."""
    record = tup(number(1), text("cpu"), named("torch", "FloatStorage"))
    one = pickled(b"N0" * (ops // 2), record) + struct.pack("<q", 0)
    return tar_of(storages=pickled(number(n)) + one * n)


LAYOUT = tup(storage(), number(0), numbers(4), numbers(1), b"\x89", b"N")
NUMPY_TYPE = call(named("numpy", "dtype"), text("f4"), b"\x89", b"\x88")
NUMPY_SCALAR = tup(NUMPY_TYPE, b"C\x04" + bytes(4))
UNFINISHED = call(named("numpy._core.multiarray", "_reconstruct"), named("numpy", "ndarray"), numbers(0), text("b"))
FINISH = tup(number(1), numbers(1), NUMPY_TYPE, b"\x89", b"C\x04" + bytes(4))

PICKLES = {
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
    "colliding keys": (pickled(b"}(", *(pair + b"N" for pair in COLLIDING), b"u"), "collide"),
    "colliding integers": (
        pickled(b"}(", *(number(i * ((1 << 61) - 1)) + b"N" for i in range(20_000)), b"u"),
        "collide",
    ),
    "colliding items": (pickled(b"\x8f(", *COLLIDING, b"\x90", protocol=4), "collide"),
    "key that doubles": (key_that_doubles(60), "."),
    "names": (pickled(text("a") + b"\x94" + b"(" + b"h\x00h\x00\x93" * 320_000 + b"t", protocol=4), "."),
    "records": (pickled(named("a", "b") + b"\x94(" + b"h\x00)\x81" * 320_000 + b"t", protocol=4), "."),
    "records with items": (pickled(named("a", "b") + b"\x94(" + b"h\x00)\x81NNs" * 160_000 + b"t", protocol=4), "."),
    "dictionaries": (pickled(b"(" + b"}NNs" * 240_000 + b"tN", protocol=4), "."),
    "lists of one": (pickled(b"(" + b"]Na" * 320_000 + b"tN", protocol=4), "."),
    "texts": (pickled(b"(" + text("a") * MANY + b"t"), "max_ops"),
    "globals": (pickled(b"(" + named("a", "b") * 900_000 + b"t"), "max_ops"),
    "tuples as keys": (pickled(numbers(*range(60)) + b"q\x00(" + b"}h\x00Ns" * 240_000 + b"t"), "max_ops"),
    "ordered dicts": (many_calls(named("collections", "OrderedDict"), b")"), READ),
    "tensors": (many_calls(named("torch._utils", "_rebuild_tensor_v2"), LAYOUT), "max_ops"),
    "numpy scalars": (many_calls(named("numpy._core.multiarray", "scalar"), NUMPY_SCALAR), "max_ops"),
    "numpy arrays finished again": (
        pickled(
            b"(" + UNFINISHED + b"q\x00" * 300_000 + b"0" + FINISH + b"q\x010" + b"h\x00" * 300_000,
            b"h\x01b0" * 100_000,
        ),
        ".",
    ),
    "storages of one key": (pickled(storage()[:-1] + b"\x940(" + b"h\x00Q" * 450_000 + b"t", protocol=4), "."),
    "sizes of storages": (pickled(b"(" + storage(numel=5) + b"t"), "size"),
    "a long name": (pickled(b"c" + b"a" * 500_000 + b"\nb\n"), "name"),
    "a long global": (pickled(LONG + LONG + b"\x93", protocol=4), "name"),
    "a long key": (torch_zip(pickled(tensor(storage("1" * 100_000)))), "key"),
    "operations before the end": (pickled(b"N0" * 499_000 + b"0"), "empty stack"),
    "a number of 255 bytes, many times": (pickled(b"(" + (b"\x8a\xff" + bytes(254) + b"\x7f") * 4000 + b"tN"), "."),
}
RESOURCES = {
    **{
        name: (content if content[:2] == b"PK" else torch_zip(content), reason)
        for name, (content, reason) in PICKLES.items()
    },
    "conjugates of one storage": (
        torch_zip(many_calls(named("torch._utils", "_rebuild_tensor_v2"), CONJUGATE), {"0": bytes(800_000)}),
        "max_bytes",
    ),
    "swapped storages": (
        torch_zip(
            pickled(b"(", *(tensor(storage(str(i), 1 << 20)) for i in range(40)), b"t"),
            {str(i): bytes(4 << 20) if i == 0 else FOUR_FLOATS for i in range(40)},
            more=[("archive/byteorder", b"big")],
            compression=zipfile.ZIP_DEFLATED,
        ),
        ".",
    ),
    "bomb": (lambda: bomb(200 << 20), "max_bytes"),
    "bomb in the pickle": (
        lambda: torch_zip(pickled(b"N0" * (50 << 20)), compression=zipfile.ZIP_DEFLATED),
        "max_bytes",
    ),
    "headers within headers": (headers_within_headers(wide=True), "zip64 sizes are missing"),
    "headers within headers of no size": (headers_within_headers(wide=False), "overlaps"),
    "stream: declared string": (stream_of(b"X\xff\xff\xff\xff", {}), "."),
    "stream: operations": (stream_of(b"N0" * MANY + b"N", {}), "."),
    "stream: operations in every pickle": (
        stream_of(b"N0" * 499_000 + b"N", {}, version=b"N0" * 499_000 + number(1001), info=b"N0" * 499_000 + INFO),
        ".",
    ),
    "stream: keys": (stream_of(tensor(old_storage()), keys=b"](" + text("0") * 400_000 + b"e"), "."),
    "stream: storages": (stream_of(b"(" + old_storage() * 90_000 + b"t"), "."),
    "tar: operations": (tar_of(pickle=pickled(b"N0" * MANY + b"N")), "."),
    "tar: pickles": (many_pickles(40, 100_000), "."),
    "tar: number of storages": (tar_of(storages=pickled(number(1 << 62)) + tar_storages()[5:]), "."),
    "tar: number of tensors": (tar_of(tensors=tar_tensors(n=1 << 62)), "."),
    "tar: members": (lambda: tar_of(**{f"x{i}": b"" for i in range(20_000)}), "entries"),
    "torchscript: operations": (script_archive(pickled(b"N0" * MANY + b"N")), "max_ops"),
    "npz: deep header": (npz(npy(header="(" * 9000)), "."),
    "npz: header of 60 kB": (npz(npy(header=" " * 60_000)), "."),
    "npz: header of spaces": (npz(npy(header="{" + " " * 9000)), "."),
    "npz: header of keys": (npz(npy(header="{" + "'descr': '<f4', " * 600)), "."),
    "npz: shape of digits": (npz(npy(shape="(" + "1" * 9000 + ",)")), "."),
    "npz: shape of spaces": (npz(npy(shape="(" + "1 " * 4500 + ",)")), "."),
    "npz: bomb": (
        lambda: archive([("a.npy", npy(shape="(20000000,)", data=bytes(80_000_000)))], zipfile.ZIP_DEFLATED),
        "max_bytes",
    ),
    "safetensors: deep JSON": (crafted_safetensors(b'{"a":' * 100_000, bytes(4)), "."),
    "safetensors: deep field of another name": (_with_field("[" * 100_000 + "]" * 100_000), "."),
    "safetensors: long number of another name": (_with_field("1" * 100_000), "."),
    "safetensors: header of 50 MB": (lambda: crafted_safetensors(b"{" + b" " * 50_000_000), "."),
    "safetensors: 270,000 tensors": (many_tensors_and_a_wrong_one, "."),
}
