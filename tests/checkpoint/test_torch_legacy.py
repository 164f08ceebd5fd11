"""Torch's old formats: the stream of before 1.6 and the tar archive of before 0.1.10.

Some files are torch's own. The others are put together by hand; tests/parity/test_old_formats.py shows that torch reads
the good ones as they are read here.
"""

from __future__ import annotations

import io
import mmap
import pickle
import tarfile
from contextlib import suppress

import numpy as np
import pytest
from crafted import (
    CHECKPOINTS,
    FOUR_FLOATS,
    call,
    machine,
    named,
    number,
    numbers,
    old_storage,
    pickled,
    refuse,
    stream,
    strict_load,
    tar,
    tensor,
    text,
    torch_tar,
    tup,
)
from test_torch_zip import arrays_in, assert_same_arrays, expected_arrays

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import Name, Opaque
from fastrnn.checkpoint.state_dict import describe

# What torch wrote


@pytest.mark.parametrize("name", ["dtypes", "views", "objects", "protocol_5", "small"])
def test_arrays_are_exactly_torchs(name):
    state = strict_load(CHECKPOINTS / f"stream_{name}.pt")
    assert_same_arrays(arrays_in(state), expected_arrays(name))


def test_every_dtype_comes_back_as_itself():
    state = strict_load(CHECKPOINTS / "stream_dtypes.pt")
    names = {name: array.dtype.name for name, array in state.items()}
    assert names.pop("complex32") == "complex64"
    assert names == {name: name for name in names}


def test_views_share_memory_and_are_read_only():
    state = strict_load(CHECKPOINTS / "stream_views.pt")
    for name in ("transposed", "slice", "steps", "scalar", "expanded", "diagonal"):
        assert np.shares_memory(state["base"], state[name]), name
    first, second, _ = state["tied"]
    assert np.shares_memory(first, second)
    assert state["transposed"].strides == state["base"].strides[::-1]
    for name, array in arrays_in(state).items():
        assert not array.flags.writeable, name
        assert array.flags.aligned, name


def test_objects_are_those_of_the_new_format():
    new = strict_load(CHECKPOINTS / "objects.pt")
    for name in ("stream_objects", "stream_protocol_5"):
        assert repr(strict_load(CHECKPOINTS / f"{name}.pt")) == repr(new)


def test_a_whole_module_is_an_inert_record():
    """Its classes are persistent ids, with their source."""
    module = strict_load(CHECKPOINTS / "stream_module.pt")
    assert type(module) is Opaque
    assert module.name == "Parts"
    (info,) = (info for info in fastrnn.find_layers(module) if info.kind == "RNNCell")
    _, arrays = describe(module, info.prefix)
    expected = expected_arrays("stream_module")
    assert_same_arrays(
        {f"cell.{name}": array for name, array in arrays.items()}, {k: expected[k] for k in expected if "cell" in k}
    )


# The stream, by hand


def one_tensor(**options):
    return pickled(tensor(old_storage(**options)))


def test_the_good_stream_is_good():
    np.testing.assert_array_equal(strict_load(stream(one_tensor())), [0, 1, 2, 3])


@pytest.mark.parametrize(
    ("kind", "dtype"), [("FloatStorage", "f4"), ("ComplexDoubleStorage", "c16"), ("CharStorage", "i1")]
)
def test_streams_of_big_endian_machines(kind, dtype):
    """Torch writes little-endian numbers everywhere; where a machine has used its own order, the counts tell."""
    values = np.arange(4).astype(dtype)
    for byteorder, code in (("little", "<"), ("big", ">")):
        data = {"0": (4, values.astype(code + dtype).tobytes()), "1": (0, b"")}
        both = pickled(tup(tensor(old_storage(kind=kind)), tensor(old_storage("1", 0), size=numbers(0))))
        content = stream(both, data, little=False, byteorder=byteorder)
        read, empty = strict_load(content)
        np.testing.assert_array_equal(read, values)
        assert empty.shape == (0,)
        assert read.dtype == values.dtype
    refuse(stream(one_tensor(), little=True, byteorder="big"), "size")


def part(key="1", offset=1, numel=2):
    return tup(text(key), number(offset), number(numel))


def test_a_storage_may_be_part_of_another():
    """Until torch 0.4."""
    both = tup(tensor(old_storage()), tensor(old_storage(part=part()), size=numbers(2)))
    whole, some = strict_load(stream(pickled(both)))
    np.testing.assert_array_equal(some, [1, 2])
    assert np.shares_memory(whole, some)
    refuse(stream(pickled(tensor(old_storage(part=part()), size=numbers(3)))), "beyond")
    for wrong in (
        part(offset=3),
        part(offset=-1),
        part(numel=-1),
        part(numel=1 << 62),
        tup(),
        b"K\1",
        tup(b"N", b"N", b"N"),
    ):
        refuse(stream(one_tensor(part=wrong)), "part of a storage")


@pytest.mark.parametrize("name", [("torch.nn.parameter", "Parameter"), ("torch.autograd.variable", "Variable")])
def test_parameters_of_old_torch_are_arrays(name):
    """Until torch 0.4 they are called with the tensor; the first ones have it in their state."""
    flags = tup(b"\x88", b"\x89", call(named("collections", "OrderedDict")))
    data = tensor(old_storage())
    called = named(*name) + data + b"\x85R" + b"q\x01" + flags + b"b"
    first, again = strict_load(stream(pickled(b"(" + called + b"h\x01" + b"t")))
    np.testing.assert_array_equal(first, [0, 1, 2, 3])
    assert first is again
    new = named(*name) + b")\x81" + b"q\x01" + tup(data, b"N", b"}", b"\x88", b"\x89") + b"b"
    first, again = strict_load(stream(pickled(b"(" + new + b"h\x01" + b"t")))
    np.testing.assert_array_equal(first, [0, 1, 2, 3])
    assert first is again
    refuse(stream(pickled(b"(" + data + named(*name) + b")\x81" + tup(b"N", b"N") + b"bt")), "parameter")
    refuse(stream(pickled(b"(" + data + named(*name) + b")\x81" + b"t")), "bare parameter")


def test_the_class_of_a_module_is_a_name():
    module = tup(text("module"), named("models", "Net"), text("net.py"), text("class Net")) + b"Q"
    read = strict_load(stream(pickled(module + b")\x81}" + text("w") + tensor(old_storage()) + b"sb")))
    assert (type(read), read.module, read.name) == (Opaque, "models", "Net")
    np.testing.assert_array_equal(read.state["w"], [0, 1, 2, 3])
    assert type(strict_load(stream(pickled(module), {}))) is Name


def test_the_type_met_first_says_what_is_counted():
    untyped = (
        tup(text("storage"), named("torch.storage", "UntypedStorage"), text("0"), text("cpu"), number(16), b"N") + b"Q"
    )
    bytes_ = named("torch._utils", "_rebuild_tensor_v3") + tup(
        untyped, number(0), numbers(8), numbers(1), b"\x89", b"}", named("torch", "uint16")
    )
    both = pickled(tup(bytes_ + b"R", tensor(old_storage())))
    first, second = strict_load(stream(both, {"0": (16, FOUR_FLOATS)}))
    assert first.dtype == np.uint16
    assert np.shares_memory(first, second)
    refuse(stream(both), "size")


def test_what_is_read_twice_counts_twice():
    many = pickled(b"(" + b"N" * 1000 + b"t")
    assert len(strict_load(stream(many, {}), max_ops=2300)) == 1000
    refuse(stream(many, {}), "max_ops", max_ops=2000)


BROKEN_STREAMS = {
    "count that is not the pickle's": (stream(one_tensor(), {"0": (5, FOUR_FLOATS)}), "size"),
    "larger in the pickle": (stream(one_tensor(numel=5)), "size"),
    "cut off": (stream(one_tensor())[:-1], "cut off"),
    "something behind": (stream(one_tensor()) + b"\0", "follows"),
    "two streams": (stream(one_tensor()) * 2, "follows"),
    "another version": (stream(one_tensor()).replace(b"M\xe9\x03", b"M\xea\x03", 1), "version"),
    "no machine": (stream(one_tensor()).replace(machine(), pickle.dumps([], 2)), "machine"),
    "machine of neither order": (stream(one_tensor()).replace(b"little_endian", b"little_endiam"), "machine"),
    "no keys": (stream(one_tensor(), keys=[]), "list of storages"),
    "other keys": (stream(one_tensor(), keys=["1"]), "list of storages"),
    "a key twice": (stream(one_tensor(), keys=["0", "0"]), "list of storages"),
    "numbers as keys": (stream(one_tensor(), keys=[0]), "list of storages"),
    "a dict of keys": (stream(one_tensor(), keys={"0": 1}), "list of storages"),
    "five items": (stream(pickled(tensor())), "not a storage"),
    "negative size": (stream(one_tensor(numel=-1)), "size"),
    "size of 2^62": (stream(one_tensor(numel=1 << 62), {"0": (1 << 62, FOUR_FLOATS)}), "cut off"),
    "quantised": (stream(one_tensor(kind="QInt8Storage")), "quantised"),
    "unknown type": (stream(one_tensor(kind="EvilStorage")), "EvilStorage"),
    "class that is text": (stream(pickled(tup(text("module"), text("os"), b"N", b"N"), b"Q"), {}), "not a storage"),
    "tensor beyond": (stream(pickled(tensor(old_storage(), size=numbers(5)))), "beyond"),
    "bare storage": (stream(pickled(old_storage())), "bare storage"),
}


@pytest.mark.parametrize("case", BROKEN_STREAMS)
def test_broken_streams_are_refused(case):
    refuse(*BROKEN_STREAMS[case])


def test_a_stream_runs_nothing(tmp_path):
    canary = tmp_path / "canary"
    attack = call(named("os", "system"), text(f"touch {canary}"))
    read = strict_load(stream(pickled(attack), {}))
    assert type(read) is Opaque
    head = stream(pickled(b"N"), {})
    for where in (machine(), pickle.dumps(1001, 2)):  # pickles that only describe the file
        refuse(head.replace(where, pickled(attack)))
    assert not canary.exists()


def test_large_streams_are_mapped(tmp_path):
    """Also where the data lies off its natural address, as it does by chance."""
    values = np.arange(1 << 19, dtype=np.float32)
    owners = []
    for n in range(4):
        made = pickled(text("x" * n) + b"0" + tensor(old_storage(numel=1 << 19), size=numbers(1 << 19)))
        path = tmp_path / f"{n}.pt"
        path.write_bytes(stream(made, {"0": (1 << 19, values.tobytes())}))
        array = fastrnn.load(path, max_bytes=values.nbytes)
        np.testing.assert_array_equal(array, values)
        owner = array
        while isinstance(owner, np.ndarray | memoryview):
            owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
        owners.append(owner)
    assert all(isinstance(owner, mmap.mmap) for owner in owners)


# The tar archive


def reference(number_):
    return text(str(number_)) + b"Q"


def test_the_first_format():
    content = torch_tar(pickled(b"}", text("w"), reference(9), b"s"), padding=10_240)
    np.testing.assert_array_equal(strict_load(content)["w"], [[0, 2], [1, 3]])


@pytest.mark.parametrize("little", [True, False])
def test_the_first_format_has_parts_views_and_modules(little):
    data = np.arange(6).astype("<f8" if little else ">f8").tobytes()
    storages = [(1, "DoubleStorage", 6, data), (2, "LongStorage", 0, b"")]
    tensors = [(11, 1, (2, 3), (3, 1), 0), (12, 3, (2,), (2,), 0), (13, 2, (0,), (1,), 0), (14, 1, (), (), 5)]
    module = tup(named("models", "Net"), text("net.py"), text("class Net")) + b"Q"
    made = module + b")\x81}(" + b"".join(text(f"w{n}") + reference(n) for n in (11, 12, 13, 14)) + b"ub"
    read = strict_load(torch_tar(pickled(made), storages, tensors, [(3, 1, 2, 3)], little=little))
    assert read.name == "Net"
    np.testing.assert_array_equal(read.state["w11"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(read.state["w12"], [2, 4])
    assert np.shares_memory(read.state["w11"], read.state["w12"])
    assert (read.state["w13"].shape, read.state["w13"].dtype) == ((0,), np.int64)
    assert read.state["w14"] == 5


def files_of(content):
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        return {member.name: archive.extractfile(member).read() for member in archive}


def with_file(**changed):
    return tar((files_of(GOOD_TAR) | changed).items())


GOOD_TAR = torch_tar(pickled(reference(9)))
STORAGES = files_of(GOOD_TAR)["storages"]
TENSORS = files_of(GOOD_TAR)["tensors"]
WITH_LINK = io.BytesIO()
with tarfile.open(fileobj=WITH_LINK, mode="w:") as _archive:
    _link = tarfile.TarInfo("pickle")
    _link.type, _link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    _archive.addfile(_link)

BROKEN_TARS = {
    "missing file": (tar([("pickle", b"")]), "no file 'sys_info'"),
    "a file twice": (tar([*files_of(GOOD_TAR).items(), ("pickle", b"")]), "twice"),
    "a link": (WITH_LINK.getvalue(), "no plain file"),
    "a long name": (tar([("x" * 300, b"")]), "attributes"),
    "wrong checksum": (GOOD_TAR.replace(b"sys_info", b"sys_infn"), "damaged"),
    "something behind": (GOOD_TAR + b"\1", "follows"),
    "zeros without an end": (GOOD_TAR + bytes(1 << 20), "follows"),
    "cut off": (GOOD_TAR[:700], "cut off"),
    "without an end": (GOOD_TAR[:-1024], "cut off"),
    "no reference": (torch_tar(pickled(reference(10))), "not there"),
    "reference by another digit": (torch_tar(pickled(reference("٩"))), "not there"),
    "reference to a storage": (torch_tar(pickled(reference(7))), "bare storage"),
    "number twice": (torch_tar(pickled(b"N"), tensors=[(7, 7, (), (), 0)]), "number"),
    "tensor beyond": (torch_tar(pickled(b"N"), tensors=[(9, 7, (5,), (1,), 0)]), "beyond"),
    "negative size": (torch_tar(pickled(b"N"), tensors=[(9, 7, (-1,), (1,), 0)]), "size"),
    "65 dimensions": (torch_tar(pickled(b"N"), tensors=[(9, 7, (1,) * 65, (1,) * 65, 0)]), "dimensions"),
    "tensor of a tensor": (torch_tar(pickled(b"N"), tensors=[(9, 7, (), (), 0), (10, 9, (), (), 0)]), "description"),
    "part beyond": (torch_tar(pickled(b"N"), parts=[(8, 7, 2, 3)]), "beyond"),
    "part of a part": (torch_tar(pickled(b"N"), parts=[(8, 7, 2, 1), (6, 8, 0, 1)]), "not there"),
    "part of five": (torch_tar(pickled(b"N"), parts=[(8, 7, 2, 1, 1)]), "description"),
    "size beyond the file": (torch_tar(pickled(b"N"), [(7, "FloatStorage", 1 << 60, FOUR_FLOATS)]), "cut off"),
    "negative size of a storage": (torch_tar(pickled(b"N"), [(7, "FloatStorage", -1, FOUR_FLOATS)]), "cut off"),
    "quantised": (torch_tar(pickled(b"N"), [(7, "QInt8Storage", 4, b"abcd")]), "quantised"),
    "text for a count": (with_file(tensors=pickled(text("a"))), "number of storages or tensors"),
    "more tensors": (with_file(tensors=TENSORS + b"\0"), "follows"),
    "more storages": (with_file(storages=STORAGES + b"\0"), "follows"),
    "more pickle": (with_file(pickle=files_of(GOOD_TAR)["pickle"] + b"\0"), "follows"),
    "no machine": (with_file(sys_info=pickled(b"N")), "machine"),
}


@pytest.mark.parametrize("case", BROKEN_TARS)
def test_broken_tars_are_refused(case):
    refuse(*BROKEN_TARS[case])


def test_many_small_pickles_are_bounded_together():
    """Each file of a tar archive may hold any number of pickles."""
    each = [pickled(tup(number(n), b"N", named("torch", "ByteStorage"))) + bytes(8) for n in range(5000)]
    rest = b"".join(each) + pickled(b"]")
    fits = with_file(storages=pickled(number(5000)) + rest, tensors=pickled(number(0)), pickle=pickled(b"N"))
    assert strict_load(fits) is None
    refuse(fits, "max_ops", max_ops=150_000)
    refuse(with_file(storages=pickled(number(1 << 60)) + rest), "description")


# Damage: these formats have no checksums, so it gives what the bytes say, or is refused


SMALL = {
    "stream": lambda: (CHECKPOINTS / "stream_small.pt").read_bytes(),
    "stream with more": lambda: stream(
        pickled(
            tup(
                tensor(old_storage(part=part()), size=numbers(2)),
                tup(text("module"), named("a", "B"), b"N", b"N") + b"Q",
            ),
        ),
        little=False,
    ),
    "tar": lambda: tar(
        files_of(torch_tar(pickled(b"}", text("w"), reference(9), b"s"), parts=[(8, 7, 1, 2)])).items(), 512, mtime=1
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_damage_gives_data_or_is_refused(name):
    content = SMALL[name]()
    for n in range(len(content)):
        with suppress(CheckpointError):
            strict_load(content[:n])
        for change in (1 << n % 8, 255):
            damaged = bytearray(content)
            damaged[n] ^= change
            with suppress(CheckpointError):
                strict_load(bytes(damaged))


def test_every_truncation_of_a_stream_is_refused():
    content = SMALL["stream"]()
    for n in range(len(content)):
        with pytest.raises(CheckpointError):
            strict_load(content[:n])
