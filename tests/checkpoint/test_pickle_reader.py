"""The inert interpreter: what it reads, what stays inert, what it refuses."""

from __future__ import annotations

import argparse
import ast
import collections
import decimal
import enum
import inspect
import math
import pickle
import pickletools
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from crafted import archive, call, named, number, numbers, pickled, strict_load, text, torch_zip, tup
from hypothesis import given
from hypothesis import strategies as st

import fastrnn.checkpoint
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
    assert load_pickle(pickle.dumps(np.str_("text"), protocol)).name == "scalar"  # not a number: a record


@pytest.mark.parametrize("value", [np.array([{}]), np.zeros(2, "i4,f4"), np.array(["x"]), np.zeros(1, "M8[s]")])
def test_numpy_arrays_of_other_things_are_refused(value):
    with pytest.raises(CheckpointError, match="plain numbers"):
        load_pickle(pickle.dumps(value, 2))


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


MISUSES = {
    "no protocol": b"N.",
    "protocol 0": pickled(b"N", protocol=0),
    "protocol 6": pickled(b"N", protocol=6),
    "no stop": b"\x80\x02N",
    "empty": b"",
    "nothing to return": pickled(b""),
    "two objects": pickled(b"NN"),
    "open mark": pickled(b"(N"),
    "trailing bytes": pickled(b"N") + b"x",
    "no mark": pickled(b"t"),
    "pop from nothing": pickled(b"0"),
    "tuple of nothing": pickled(b"N\x87"),
    "memo of nothing": pickled(b"q\x00"),
    "get what was never put": pickled(b"h\x07"),
    "append to a number": pickled(b"K\x01Na"),
    "set items of a list": pickled(b"](NNu"),
    "odd items": pickled(b"}(Nu"),
    "items to a list": pickled(b"](N\x90"),
    "state for a number": pickled(b"K\x01}b"),
    "state for a name": pickled(named("a", "b"), b"}b"),
    "list of a dict record": pickled(named("a", "b"), b")\x81NNsNa"),
    "dict of a list record": pickled(named("a", "b"), b")\x81NaNNs"),
    "call of a number": pickled(b"K\x01)R"),
    "call with a list": pickled(named("a", "b"), b"]R"),
    "call of what a call gave": pickled(call(named("a", "b")), b")R"),
    "object of a number": pickled(b"K\x01)\x81"),
    "stack global of numbers": pickled(b"K\x01K\x01\x93"),
    "global without an end": pickled(b"cabc"),
    "string longer than the file": b"\x80\x02X\xff\xff\xff\xffabc.",
    "string that is not UTF-8": pickled(b"X\x01\x00\x00\x00\xff"),
    "bytes of 2^63": b"\x80\x04\x8e" + (1 << 63).to_bytes(8, "little") + b".",
    "name that is not UTF-8": pickled(b"c\xff\nb\n"),
    "integer of 256 bytes": pickled(b"\x8b\x00\x01\x00\x00" + bytes(256)),
    "list as key": pickled(b"}]Ns"),
    "dict as key": pickled(b"}}Ns"),
    "set as key": b"\x80\x04}\x8fNs.",
    "array as key": pickled(b"}", pickle.dumps(np.zeros(1), 2)[2:-1], b"Ns"),
    "complex as key": pickled(b"}", pickle.dumps(1j, 2)[2:-1], b"Ns"),
    "tuple with a list as key": pickled(b"}]\x85Ns"),
    "tuple of 100 as key": pickled(b"}", numbers(*range(100)), b"Ns"),
    "list in a set": b"\x80\x04\x8f(]\x90.",
    "ordered dict of a list": pickled(call(named("collections", "OrderedDict"), b"]Na")),
    "bytes that are none": pickled(call(named("_codecs", "encode"), text("€"), text("latin1"))),
    "persistent id that is text": pickled(text("0"), b"Q"),
}


@pytest.mark.parametrize("case", MISUSES)
def test_broken_pickles_are_refused(case):
    with pytest.raises(CheckpointError):
        load_pickle(MISUSES[case])


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


# Names from a file are never looked up


def sources():
    package = Path(inspect.getfile(fastrnn.checkpoint)).parent
    return [ast.parse(path.read_text("utf-8")) for path in package.glob("*.py")]


def test_the_reader_never_imports_by_name_nor_calls_what_a_file_names():
    assert len(sources()) > 10
    forbidden_modules = {"pickle", "importlib", "marshal", "shelve", "runpy", "pkgutil", "code", "dill", "joblib"}
    forbidden_names = {"__import__", "eval", "exec", "compile", "globals", "locals", "vars", "setattr", "delattr"}
    for node in (node for tree in sources() for node in ast.walk(tree)):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & forbidden_modules
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module.partition(".")[0] not in forbidden_modules
        elif isinstance(node, ast.Name):
            assert node.id not in forbidden_names
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            assert isinstance(node.args[1], ast.Constant)  # a name of ours, not the file's
        elif isinstance(node, ast.Attribute):
            assert node.attr not in {"modules", "import_module", "__globals__", "__subclasses__", "loads", "as_strided"}


def test_archives_of_something_else_are_refused():
    with pytest.raises(CheckpointError, match="neither torch nor NumPy"):
        strict_load(archive([("readme.txt", b"x")]))
