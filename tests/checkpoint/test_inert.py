"""No file chooses what is imported or called: shown on the reader's source and bytecode, and that it would be found."""

from __future__ import annotations

from pathlib import Path

import pytest
from allowed import in_bytecode, in_source

import fastrnn.checkpoint
from fastrnn.checkpoint import Name, Opaque
from fastrnn.checkpoint.limits import Limits
from fastrnn.checkpoint.numpy_values import NumpyValues
from fastrnn.checkpoint.pickle_reader import _OPCODES
from fastrnn.checkpoint.rebuild import TorchMeanings

FOLDER = Path(fastrnn.checkpoint.__file__).parent
SOURCES = {path.stem: path.read_text("utf-8") for path in sorted(FOLDER.glob("*.py"))}


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_imported_by_name_and_nothing_called_that_a_file_names(module):
    assert in_source(SOURCES[module]) == set()
    assert in_bytecode(SOURCES[module]) == set()


def test_all_of_the_reader_is_looked_at():
    assert {"__init__", "archive", "npz", "pickle_reader", "rebuild", "safetensors", "torch_zip"} < SOURCES.keys()


def test_what_tables_call_is_the_packages_own():
    """The variables that the reader calls get their values from these."""
    limits = Limits(None, 1, 1, True)
    meanings = TorchMeanings(lambda key: memoryview(b""), "little", limits)
    functions = [*_OPCODES.values(), *meanings._functions.values(), *NumpyValues(limits).functions.values()]
    assert len(functions) > 60
    assert {function.__module__.rpartition(".")[0] for function in functions} == {"fastrnn.checkpoint"}


def test_names_and_records_cannot_be_called():
    for inert in (Name("os", "system"), Opaque("os", "system", ("true",))):
        assert not callable(inert)
        with pytest.raises(TypeError, match="not callable"):
            inert("true")


# Faults, each planted in the text of the reader's own modules

NAME = "self._push(Name(module, name))"
CALL = "value = self._python_object(name, args) if len(args) <= 2 else None"
BOTH = {
    "__import__": ("pickle_reader", NAME, "self._push(__import__(module))"),
    "__import__ in a lambda": ("pickle_reader", NAME, "self._push((lambda n: __import__(n))(module))"),
    "__import__ in a comprehension": ("pickle_reader", NAME, "self._push([__import__(n) for n in (module,)])"),
    "importlib": ("pickle_reader", NAME, "import importlib; self._push(importlib.import_module(module))"),
    "from importlib": ("pickle_reader", NAME, "from importlib import import_module as f; self._push(f(module))"),
    "pydoc.locate": ("pickle_reader", NAME, "from pydoc import locate; self._push(locate(name))"),
    "operator": ("pickle_reader", NAME, "import operator; self._push(operator.attrgetter(name)(struct))"),
    "pickle": ("pickle_reader", CALL, "import pickle; value = pickle.loads(args[0])"),
    "C pickle": ("pickle_reader", CALL, "import _pickle; value = _pickle.Unpickler(self)"),
    "marshal": ("pickle_reader", CALL, "import marshal; value = marshal.loads(args[0])"),
    "eval": ("pickle_reader", CALL, "value = eval(str(name))"),
    "exec": ("pickle_reader", CALL, "value = exec(str(name))"),
    "compile": ("pickle_reader", CALL, "value = compile(str(name), '', 'eval')"),
    "globals": ("pickle_reader", CALL, "value = globals()[name.name]"),
    "vars": ("pickle_reader", CALL, "value = vars(struct)[name.name]"),
    "setattr": ("pickle_reader", "value.state = state", "setattr(value, state, state)"),
    "delattr": ("pickle_reader", "value.state = state", "delattr(value, state)"),
    "subclasses": ("pickle_reader", CALL, "value = object.__subclasses__()"),
    "class of an object": ("pickle_reader", "value.state = state", "value.__class__ = state"),
    "dictionary of an object": ("pickle_reader", "value.state = state", "value.__dict__.update(state)"),
    "builtins": ("pickle_reader", CALL, "import builtins; value = builtins"),
    "ctypes": ("torch_zip", "byteorder = \"little\"", "import ctypes; byteorder = ctypes"),
    "subprocess": ("source", "content, known = bytearray(), False", "import subprocess; content = bytearray()"),
}  # fmt: skip
SOURCE_ALONE = {
    "getattr": ("pickle_reader", NAME, "self._push(getattr(module, name))"),
    "getattr in a comprehension": ("pickle_reader", NAME, "self._push([getattr(struct, n) for n in (name,)])"),
    "getattr by another name": ("pickle_reader", "def _reduce(self)", "def _reduce(self, getattr=getattr)"),
    "hasattr": ("pickle_reader", NAME, "self._push(hasattr(module, name))"),
    "loaded modules": ("rebuild", "sys.byteorder", "sys.modules"),
    "call of a name": ("pickle_reader", CALL, "value = name(*args)"),
    "call of an argument": ("pickle_reader", CALL, "value = args[0](*args[1:])"),
    "call of a table's entry": ("pickle_reader", CALL, "value = {}[name](*args)"),
    "call of what was called": ("pickle_reader", CALL, "value = self._pop()(*args)"),
    "call of the stack": ("pickle_reader", 'ord("R"): PickleReader._reduce', 'ord("R"): lambda r: r._pop()(*r._pop())'),
    "call of a choice": ("pickle_reader", CALL, "value = (name or args)(*args)"),
    "call of a state": ("pickle_reader", "value.state = state", "value.state(state)"),
    "call of a name's name": ("pickle_reader", CALL, "value = name.name(*args)"),
    "call through map": ("pickle_reader", CALL, "value = list(map(name, args))"),
    "call through a key": ("pickle_reader", CALL, "value = sorted(args, key=name)"),
    "call through partial": ("__init__", "partial(_read, within=True)", "(lambda name: partial(name))"),
    "call of a function's name that is a variable": (
        "rebuild",
        "return self.storage(storage(key[1], key[2]), key[4])",
        "storage = key[1]; return storage(key[2])",
    ),
    "a class made": ("pickle_reader", CALL, "value = type(name.name, (), {})"),
    "numpy.load": ("npz", "flat = view(", "flat = np.load("),
    "numpy.memmap": ("npz", "flat = view(", "flat = np.memmap("),
    "strides of NumPy's": ("views", "array = np.ndarray(", "array = np.lib.stride_tricks.as_strided("),
    "os.system": ("source", "os.fsdecode(file)", "os.system(file)"),
    "from os": ("source", "import os\n", "from os import system\nimport os\n"),
}


@pytest.mark.parametrize("fault", BOTH | SOURCE_ALONE)
def test_a_fault_that_is_planted_is_found(fault):
    module, old, new = (BOTH | SOURCE_ALONE)[fault]
    assert old in SOURCES[module]
    text = SOURCES[module].replace(old, new)
    assert in_source(text)
    if fault in BOTH:
        assert in_bytecode(text)
