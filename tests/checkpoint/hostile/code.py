"""Group 1: files that would have something run."""

from __future__ import annotations

import pickle
import tarfile

from crafted import (
    archive,
    call,
    crafted_safetensors,
    entry,
    named,
    npy,
    npz,
    number,
    numbers,
    pickled,
    script_archive,
    storage,
    tensor,
    text,
    torch_zip,
    tup,
)

from .old import special, stream_of, tar_of, tar_storages

READ = None
CANARY = "attacked"
COMMAND, PYTHON = f"touch {CANARY}", f"open({CANARY!r}, 'w')"
OPEN = call(named("builtins", "open"), text(CANARY), text("w"))
EXEC = call(named("builtins", "exec"), text(PYTHON))

#: Functions that ran something in one reader or another, or slipped past a list of forbidden names.
FUNCTIONS = {
    "os.system": COMMAND,
    "posix.system": COMMAND,
    "nt.system": COMMAND,
    "os.popen": COMMAND,
    "subprocess.getoutput": COMMAND,
    "commands.getoutput": COMMAND,
    "builtins.eval": PYTHON,
    "__builtin__.eval": PYTHON,
    "builtins.exec": PYTHON,
    "builtins.__import__": "antigravity",
    "importlib.import_module": "antigravity",
    "runpy.run_path": CANARY,
    "pydoc.pipepager": COMMAND,
    "timeit.timeit": PYTHON,
    "cProfile.run": PYTHON,
    "code.InteractiveInterpreter.runsource": PYTHON,
    "pip.main": COMMAND,
    "pickle.loads": COMMAND,
    "torch.load": CANARY,
    "torch.hub.load": CANARY,
    "torch.serialization.load": CANARY,
    "torch.utils._config_module.load_config": CANARY,
    "torch.utils.bottleneck.__main__.run_cprofile": PYTHON,
    "torch.testing._internal.common_utils.run_tests": PYTHON,
    "torch._inductor.codecache.compile_file": PYTHON,
    "torch.fx.graph_module.reduce_graph_module": PYTHON,
    "torch.classes.load_library": CANARY,
    "numpy.load": CANARY,
    "numpy.testing._private.utils.runstring": PYTHON,
    "numpy.f2py.crackfortran.getlincoef": PYTHON,
    "joblib.load": CANARY,
    "collections.namedtuple": PYTHON,
    "functools.partial": COMMAND,
    "operator.methodcaller": COMMAND,
    "codecs.lookup": "antigravity",
}


def function(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return named(module, attribute)


class Bomb:
    def __reduce__(self):
        return open, (CANARY, "w")


class KeywordBomb:
    def __reduce__(self):
        import copyreg
        import subprocess

        return copyreg.__newobj_ex__, (subprocess.Popen, (), {"args": COMMAND, "shell": True})


SYSTEM = named("os", "system")
TYPED = named("torch._tensor", "_rebuild_from_type_v2")
TENSOR = named("torch", "Tensor")
ARGS = tup(text(COMMAND))
INNER = pickle.dumps(Bomb(), 2)
NEW_BYTES = b"C" + bytes([len(INNER)]) + INNER
OBJECT_DTYPE = call(named("numpy", "dtype"), text("O8"), b"\x89", b"\x88")
EMPTY_ARRAY = call(named("numpy._core.multiarray", "_reconstruct"), named("numpy", "ndarray"), numbers(0), text("b"))

PICKLES: dict[str, tuple[bytes, str | None]] = {
    **{f"reduce {name}": (call(function(name), text(text_)), READ) for name, text_ in FUNCTIONS.items()},
    "reduce open": (OPEN, READ),
    "reduce in a key": (b"}" + OPEN + b"Ns", READ),
    "reduce in a tuple that is a key": (b"}" + OPEN + b"\x85Ns", READ),
    "reduce in a set": (b"\x8f(" + OPEN + b"\x90", READ),
    "reduce for its effect alone": (OPEN + b"0N", READ),
    "reduce of what a call gave": (
        call(call(named("builtins", "getattr"), named("os", "path"), text("system")), ARGS),
        "not a name",
    ),
    "reduce of text": (call(text("os.system"), ARGS), "not a name"),
    "reduce with a list": (SYSTEM + b"]" + text(COMMAND) + b"aR", "not a name"),
    "newobj": (named("subprocess", "Popen") + tup(tup(text("touch"), text(CANARY))) + b"\x81", READ),
    "newobj_ex": (pickle.dumps(KeywordBomb(), 4)[2:-1], READ),
    "newobj of what a call gave": (call(named("a", "b")) + b")\x81", "not a name"),
    "build with __setstate__": (
        call(named("a", "b")) + b"}" + text("__setstate__") + SYSTEM + b"sb" + text(COMMAND) + b"b",
        READ,
    ),
    "build with __class__": (b"}}" + text("__class__") + SYSTEM + b"sb", READ),
    "build with slots": (call(named("a", "b")) + b"N}" + text("__reduce__") + SYSTEM + b"s\x86b", READ),
    "build of an array": (tensor() + b"}" + text("__array_finalize__") + SYSTEM + b"sb", "state"),
    "append calls": (SYSTEM + b")\x81(" + text(COMMAND) + b"e", READ),
    "setitem calls": (SYSTEM + b")\x81" + text(COMMAND) + b"Ns", READ),
    "stack_global": (text("os") + text("system") + b"\x93" + ARGS + b"R", READ),
    "stack_global with dots": (text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93)R", READ),
    "stack_global without a module": (text("") + text("exec") + b"\x93" + tup(text(PYTHON)) + b"R", READ),
    "inst": (b"(" + text(COMMAND) + b"ios\nsystem\n", "opcode"),
    "obj": (b"(" + SYSTEM + text(COMMAND) + b"o", "opcode"),
    "ext1": (b"\x82\x01" + ARGS + b"R", "opcode"),
    "ext4": (b"\x84\x01\x00\x00\x00" + ARGS + b"R", "opcode"),
    "persid": (b"Pos.system\n", "opcode"),
    "next_buffer": (b"\x97", "opcode"),
    "persistent id that is a call": (OPEN + b"Q", "."),
    "storage class that is a function": (tup(text("storage"), SYSTEM, text("0"), text("cpu"), number(4)) + b"Q", "."),
    "storage location that is a call": (
        tensor(tup(text("storage"), named("torch", "FloatStorage"), text("0"), OPEN, number(4)) + b"Q"),
        READ,
    ),
    "_rebuild_from_type_v2": (call(TYPED, SYSTEM, TENSOR, ARGS, b"N"), READ),
    "_rebuild_from_type_v2 of itself": (call(TYPED, TYPED, TENSOR, tup(SYSTEM, TENSOR, ARGS, b"N"), b"N"), READ),
    "_rebuild_from_type_v2 of a class": (call(TYPED, TENSOR, named("subprocess", "Popen"), ARGS, b"N"), READ),
    "_load_from_bytes": (call(named("torch.storage", "_load_from_bytes"), NEW_BYTES), READ),
    "_rebuild_parameter_with_state": (
        call(named("torch._utils", "_rebuild_parameter_with_state"), tensor(), b"\x88", OPEN, OPEN),
        READ,
    ),
    "_rebuild_wrapper_subclass": (call(named("torch._utils", "_rebuild_wrapper_subclass"), SYSTEM, ARGS), READ),
    "backward hooks that are a call": (
        call(named("torch._utils", "_rebuild_tensor_v2"), storage(), number(0), numbers(4), numbers(1), b"\x88", OPEN),
        READ,
    ),
    "default factory": (call(named("collections", "defaultdict"), SYSTEM), READ),
    "copyreg._reconstructor": (call(named("copyreg", "_reconstructor"), SYSTEM, SYSTEM, text(COMMAND)), READ),
    "codec that is a module": (call(named("_codecs", "encode"), text("x"), text("antigravity")), READ),
    "codec that unescapes": (call(named("_codecs", "encode"), text("x"), text("unicode_escape")), READ),
    "module with source": (tup(text("module"), named("os", "system"), text(CANARY), text(PYTHON)) + b"Q", "."),
    "numpy subclass": (call(named("numpy._core.multiarray", "_reconstruct"), SYSTEM, numbers(0), text("b")), READ),
    "numpy scalar of objects": (call(named("numpy._core.multiarray", "scalar"), OBJECT_DTYPE, NEW_BYTES), READ),
    "numpy array of objects": (
        EMPTY_ARRAY + tup(number(1), numbers(1), OBJECT_DTYPE, b"\x89", b"](" + OPEN + b"e") + b"b",
        READ,
    ),
    "numpy array of objects as bytes": (
        EMPTY_ARRAY + tup(number(1), numbers(1), OBJECT_DTYPE, b"\x89", b"C\x08" + bytes(8)) + b"b",
        READ,
    ),
    "numpy dtype of a call": (call(named("numpy._core.multiarray", "scalar"), OPEN, b"C\x01x"), READ),
}

EVIL_CODE = b"import os\nos.system('" + COMMAND.encode() + b"')\n"


CODE = {
    **{name: (torch_zip(pickled(opcodes, protocol=4)), reason) for name, (opcodes, reason) in PICKLES.items()},
    **{
        f"protocol {protocol} as pickle writes it": (torch_zip(pickle.dumps({"a": Bomb()}, protocol)), READ)
        for protocol in (2, 3, 4, 5)
    },
    "stream: magic": (stream_of(tensor(), magic=OPEN), "."),
    "stream: version": (stream_of(tensor(), version=OPEN), "."),
    "stream: system": (stream_of(b"N", info=OPEN), "."),
    "stream: object": (stream_of(EXEC, {}), READ),
    "stream: keys": (stream_of(b"N", {}, keys=OPEN), "."),
    "stream: keys that are names": (stream_of(b"N", {}, keys=b"]" + SYSTEM + b"a"), "."),
    "stream: module with source": (
        stream_of(tup(text("module"), named("os", "system"), text(CANARY), text(PYTHON)) + b"Q" + ARGS + b"R", {}),
        READ,
    ),
    "tar: system": (tar_of(sys_info=pickled(OPEN)), "machine"),
    "tar: pickle": (tar_of(pickle=pickled(EXEC)), READ),
    "tar: storages": (tar_of(storages=pickled(OPEN)), "."),
    "tar: storage type": (tar_of(storages=tar_storages(kind="system", module="os")), "."),
    "tar: tensors": (tar_of(tensors=pickled(OPEN)), "."),
    "tar: links": (tar_of(storages=special("storages", tarfile.SYMTYPE, "/etc/passwd")), "no plain file"),
    "tar: names outside": (tar_of(**{f"../{CANARY}": b"x", f"/tmp/{CANARY}": b"x"}), READ),
    "torchscript: code": (script_archive(pickled(b"N"), [("m/code/os.py", EVIL_CODE)]), READ),
    "torchscript: constants": (
        archive([("m/data.pkl", pickled(b"N")), ("m/constants.pkl", pickled(OPEN)), ("m/version", b"3\n")]),
        READ,
    ),
    "torchscript: state": (
        script_archive(pickled(named("__torch__", "M") + b")\x81}" + text("__setstate__") + OPEN + b"sb")),
        READ,
    ),
    "zip in zip": (archive([("policy.pth", torch_zip(pickled(EXEC))), ("data", b"{}")]), READ),
    "zip: more files": (torch_zip(pickled(b"N"), more=[("archive/__init__.py", EVIL_CODE)]), READ),
    "npz: objects": (npz(npy("'|O'", shape="(1,)", data=INNER)), "not supported"),
    "npz: expression as a type": (npz(npy("__import__('os').system('" + COMMAND + "')")), "."),
    "npz: expression as a shape": (npz(npy(shape=f"({PYTHON},)")), "."),
    "npz: pickle as a member": (npz(INNER), "."),
    "safetensors: metadata": (crafted_safetensors({"__metadata__": {"x": PYTHON}, "a": entry()}, bytes(4)), READ),
    "safetensors: expression as a type": (crafted_safetensors({"a": entry(PYTHON)}, bytes(4)), "."),
    "safetensors: pickle as a header": (crafted_safetensors(INNER, bytes(4)), "."),
}
