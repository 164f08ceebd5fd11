"""The inert interpreter: what it reads, what stays inert, what it refuses."""

from __future__ import annotations

import argparse
import collections
import decimal
import enum
import math
import pickle
import pickletools
import struct
import time
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from crafted import archive, call, named, number, numbers, pickled, strict_load, text, torch_zip, tup
from hypothesis import given
from hypothesis import strategies as st

from fastrnn import CheckpointError
from fastrnn.checkpoint import Name, Opaque
from fastrnn.checkpoint.pickle_reader import _OPCODES

PROTOCOLS = (2, 3, 4, 5)


def load_pickle(content, **limits):
    return strict_load(torch_zip(content, {}), **limits)


def test_what_pickle_writes_is_read():
    value = {
        "ints": [0, 1, -1, 255, 256, 65535, 65536, -(1 << 31), 1 << 31, 1 << 63, -(1 << 200)],
        "floats": [0.0, -0.0, 1.5, math.inf, 1e-310],
        "text": ["", "abc", "ü€😀", "x" * 300, "\ud800"],
        "bytes": [b"", b"\x00\xff", b"y" * 300, bytearray(b"z")],
        "containers": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [], [[]], {}, {"a": {}}, set(), {1, 2}, {"x"}],
        "frozen": frozenset({(1, 2), "a"}),
        "constants": [None, True, False, 1 + 2j],
        "keys": {1: 0, "a": 1, 2.5: 2, None: 3, b"b": 5, (1, ("a", None)): 6},
        "ordered": collections.OrderedDict([("z", 1), ("a", 2)]),
        "default": collections.defaultdict(list, {"a": [1]}),
        "counter": collections.Counter("aab"),
        "many": list(range(3000)),
    }
    for protocol in PROTOCOLS:
        assert load_pickle(pickle.dumps(value, protocol)) == value


def test_what_is_shared_stays_shared():
    shared = [1]
    first, second = load_pickle(pickle.dumps([shared, shared], 4))
    assert first is second
    loop = []
    loop.append(loop)
    read = load_pickle(pickle.dumps(loop, 2))
    assert read[0] is read


keys = st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.binary())
plain = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.binary(), st.complex_numbers()),
    lambda inner: st.one_of(
        st.lists(inner),
        st.tuples(inner, inner),
        st.dictionaries(keys, inner),
        st.sets(st.one_of(st.text(), st.integers(0, 1 << 63))),
    ),
    max_leaves=30,
)


@given(plain, st.sampled_from(PROTOCOLS))
def test_plain_data_comes_back(value, protocol):
    content = pickle.dumps(value, protocol)
    # By repr and not by ==, for NaN, -0.0 and the types; Python's own reader gives sets the same order.
    assert repr(load_pickle(content)) == repr(pickle.loads(content))


class Colour(enum.Enum):
    RED = 1


class Keywords:
    def __new__(cls, *, size=0):
        return super().__new__(cls)

    def __getnewargs_ex__(self):
        return (), {"size": 3}


class ListWithState(list):
    pass


class DictWithState(dict):
    pass


def opaque(value, protocol):
    read = load_pickle(pickle.dumps(value, protocol))
    assert type(read) is Opaque
    return read


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unknown_classes_are_inert_records(protocol):
    module = __name__
    read = opaque(argparse.Namespace(lr=0.1, layers=[1, 2]), protocol)
    assert (read.module, read.name, read.args) == ("argparse", "Namespace", ())
    assert read.state == {"lr": 0.1, "layers": [1, 2]}
    assert "argparse.Namespace" in repr(read)
    assert "lr, layers" in repr(read)

    assert opaque(Colour.RED, protocol).args == (1,)
    assert opaque(decimal.Decimal("1.5"), protocol).args == ("1.5",)
    if protocol >= 4:
        read = opaque(Keywords(), protocol)
        assert (read.module, read.name, read.args) == (module, "Keywords", ({"size": 3},))

    items = ListWithState([1, 2])
    items.note = "x"
    read = opaque(items, protocol)
    assert (read.items, read.state) == ([1, 2], {"note": "x"})
    read = opaque(DictWithState(a=1, b=2), protocol)
    assert (read.name, read.items) == ("DictWithState", {"a": 1, "b": 2})

    read = load_pickle(pickle.dumps(argparse.Namespace, protocol))
    assert type(read) is Name
    assert str(read) == "argparse.Namespace"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
        np.arange(6, dtype=">f4").reshape(3, 2),
        np.array(3, dtype=np.uint64),
        np.empty((0, 3), np.float16),
        np.array([True, False]),
        np.array([1 + 2j, 3], dtype=np.complex64),
        np.arange(12.0)[::3],
        np.array(["a", "bcü"]),
        np.array([["a"], ["bc"]], ">U2", order="F"),
        np.array([b"x\x00y", b"z"]),
        np.array(["2020-02-29", "NaT"], "M8[D]"),
        np.array([1, -2], ">m8[25us]"),
        np.zeros(2, "m8"),
        np.array([1.5, -2], ml_dtypes.bfloat16),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_numpy_arrays(array, protocol):
    first, second = load_pickle(pickle.dumps([array, array], protocol))
    assert first is second
    np.testing.assert_array_equal(first, array)
    assert first.shape == array.shape
    assert first.dtype == array.dtype.newbyteorder("=")
    assert not first.flags.writeable


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars(protocol):
    values = [np.float32(0.5), np.int64(-3), np.bool_(True), np.complex64(1 + 2j), np.uint8(255)]
    read = load_pickle(pickle.dumps([values, {np.int64(3): "key"}], protocol))
    assert read == [values, {3: "key"}]
    assert [type(value) for value in read[0]] == [type(value) for value in values]
    others = {np.str_("text"): np.str_("ü"), np.bytes_(b"x"): np.datetime64("2020-02-29", "s")}
    assert load_pickle(pickle.dumps(others, protocol)) == others
    assert load_pickle(pickle.dumps(np.void(b"ab"), protocol)).name == "scalar"  # a record


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [np.array([[{}, "a"]]), np.zeros(2, "i4,f4"), np.zeros(3, np.longdouble)], ids=str)
def test_numpy_arrays_of_other_things_are_inert_records(value, protocol):
    first, second = load_pickle(pickle.dumps([value, value], protocol))
    assert type(first) is Opaque
    assert first is second
    if value.dtype.hasobject or protocol < 5:
        assert (first.module, first.name) == ("numpy", "ndarray")
        assert first.state[1] == value.shape
        assert first.state[4] == ([{}, "a"] if value.dtype.hasobject else value.tobytes())


def test_an_array_within_itself_is_refused():
    array = np.empty(1, object)
    array[0] = array
    with pytest.raises(CheckpointError, match="bare NumPy array"):
        load_pickle(pickle.dumps(array, 2))


def test_a_dtype_of_an_odd_byte_order_is_inert():
    order = pickle.dumps(np.zeros(2), 2)[2:-1]
    dtype = call(named("numpy", "dtype"), text("f8")) + tup(number(3), order) + b"b"
    read = load_pickle(pickled(call(named("numpy._core.multiarray", "scalar"), dtype, b"N")))
    assert (type(read), read.name) == (Opaque, "scalar")


def test_arrays_that_are_made_again_and_again_take_no_time():
    """Of one that is unfinished, and often in the memo, copies are finished."""
    n = 30_000
    empty = call(named("numpy._core.multiarray", "_reconstruct"), named("numpy", "ndarray"), numbers(0), b"N")
    dtype = call(named("numpy", "dtype"), text("u1")) + tup(number(3), text("|")) + b"b"
    state = b"C\x00" + b"q\x00" + b"0" + tup(number(1), numbers(0), dtype, b"\x89", b"h\x00") + b"q\x010"
    puts = b"".join(b"r" + struct.pack("<I", i) for i in range(2, n))
    content = pickled(state, b"(", empty, puts, b"h\x02" * n, b"h\x01b0" * n, b"h\x01bt")
    start = time.perf_counter()
    assert len(load_pickle(content)) == 1
    assert time.perf_counter() - start < 5


def test_text_that_is_none_is_refused():
    content = pickle.dumps(np.array(["\x41"]), 4)
    with pytest.raises(CheckpointError, match="characters"):
        load_pickle(content.replace(b"A\0\0\0", b"A\0\x11\0"))


def test_a_file_cannot_write_to_an_array_that_is_finished():
    state = tup(number(1), numbers(1), b"N", b"\x89", text("x"))
    array = b"(" + pickle.dumps(np.zeros(3), 2)[2:-1] + b"q\x63h\x63" + state + b"b" + b"t"
    with pytest.raises(CheckpointError, match="state to a ndarray"):
        load_pickle(pickled(array))


# What is refused


ALLOWED = {
    "PROTO FRAME NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT SHORT_BINUNICODE BINUNICODE "
    "BINUNICODE8 SHORT_BINSTRING BINSTRING SHORT_BINBYTES BINBYTES BINBYTES8 BYTEARRAY8 MARK EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET POP POP_MARK "
    "BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE NEWOBJ NEWOBJ_EX BUILD BINPERSID"
}


def test_the_opcodes_are_those_of_the_list():
    names = {info.code.encode("latin-1")[0]: info.name for info in pickletools.opcodes}
    assert {names[code] for code in _OPCODES} == set(*map(str.split, ALLOWED))


@pytest.mark.parametrize("code", [c for c in range(256) if c not in _OPCODES and c != ord(".")])
def test_other_opcodes_are_refused(code):
    with pytest.raises(CheckpointError, match="opcode"):
        load_pickle(pickled(b"N" + bytes([code]) + b"1\n1\n"))


def test_every_cut_is_refused():
    content = pickle.dumps({"a": [1, 2.5, "x", (None, b"y")], "n": np.arange(3.0)}, 4)
    for n in range(len(content)):
        with pytest.raises(CheckpointError):
            load_pickle(content[:n])


@given(st.binary(max_size=60), st.sampled_from(PROTOCOLS))
def test_noise_is_read_or_refused(noise, protocol):
    with suppress(CheckpointError):
        load_pickle(pickled(noise, protocol=protocol))


@given(plain, st.data())
def test_damaged_pickles_are_read_or_refused(value, data):
    content = bytearray(pickle.dumps(value, 4))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] = data.draw(st.integers(0, 255))
    with suppress(CheckpointError):
        load_pickle(bytes(content))


def test_archives_of_something_else_are_refused():
    with pytest.raises(CheckpointError, match="neither torch nor NumPy"):
        strict_load(archive([("readme.txt", b"x")]))
