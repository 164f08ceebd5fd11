"""Pickles and zip archives put together by hand, right and wrong ones, and the reader without its last safety net."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastrnn
import fastrnn.checkpoint
from fastrnn import CheckpointError
from fastrnn.checkpoint import Name, Opaque
from fastrnn.checkpoint.limits import Limits
from fastrnn.checkpoint.source import open_source

DATA = Path(__file__).parent.parent / "data"
CHECKPOINTS = DATA / "checkpoints"
FOUR_FLOATS = np.arange(4, dtype="<f4").tobytes()


def strict_load(file, *, max_bytes=None, max_ops=1_000_000, max_depth=256, check_crc=True):
    """`fastrnn.load` without what turns an unforeseen exception into a CheckpointError: here there must be none."""
    limits = Limits(max_bytes, max_ops, max_depth, check_crc)
    with open_source(file, limits.max_bytes) as source:
        limits.start(len(source.data), source.owned)
        return fastrnn.checkpoint._read(source, limits)


# Pickles: each function gives the opcodes that push one object


def text(value):
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value):
    n = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([n]) + value.to_bytes(n, "little", signed=True)


def named(module, attribute):
    return b"c" + f"{module}\n{attribute}\n".encode()


def tup(*items):
    return b"(" + b"".join(items) + b"t"


def numbers(*values):
    return tup(*map(number, values))


def call(function, *args):
    return function + tup(*args) + b"R"


def storage(key="0", numel=4, kind="FloatStorage", module="torch"):
    return tup(text("storage"), named(module, kind), text(key), text("cpu"), number(numel)) + b"Q"


def tensor(data=None, *, offset=None, size=None, stride=None, version="_rebuild_tensor_v2", rest=b""):
    """Four floats, if nothing else is said."""
    data = storage() if data is None else data
    offset = number(0) if offset is None else offset
    size = numbers(4) if size is None else size
    stride = numbers(1) if stride is None else stride
    ordered = call(named("collections", "OrderedDict"))
    return named("torch._utils", version) + tup(data, offset, size, stride, b"\x89", ordered, rest) + b"R"


def pickled(*opcodes, protocol=2):
    return b"\x80" + bytes([protocol]) + b"".join(opcodes) + b"."


# Archives


def archive(entries, compression=zipfile.ZIP_STORED):
    """Python's own writer: what it makes of a list of names and contents, valid or not."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as file:
        for entry, content in entries:
            file.writestr(zipfile.ZipInfo(entry), content, compression)
    return out.getvalue()


def torch_zip(content, storages=None, *, more=(), compression=zipfile.ZIP_STORED):
    storages = {"0": FOUR_FLOATS} if storages is None else storages
    entries = [("archive/data.pkl", content), *((f"archive/data/{key}", data) for key, data in storages.items())]
    return archive([*entries, *more, ("archive/version", b"3\n")], compression)


def old_storage(key="0", numel=4, kind="FloatStorage", part=b"N"):
    """As the stream names it."""
    return tup(text("storage"), named("torch", kind), text(key), text("cpu"), number(numel), part) + b"Q"


def machine(*, little=True):
    sizes = {"short": 2, "int": 4, "long": 4}
    return pickle.dumps({"protocol_version": 1001, "little_endian": little, "type_sizes": sizes}, 2)


def stream(content, storages=None, *, little=True, byteorder="little", keys=None, head=None):
    """Torch's old format; `storages` has for each key the number of elements and the data. `head` stands for the first
    three pickles; `keys` may be a pickle too.
    """
    storages = {"0": (4, FOUR_FLOATS)} if storages is None else storages
    keys = keys if isinstance(keys, bytes) else pickle.dumps(sorted(storages) if keys is None else keys, 2)
    if head is None:
        head = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + machine(little=little)
    data = [storages[key][0].to_bytes(8, byteorder, signed=True) + storages[key][1] for key in sorted(storages)]
    return head + content + keys + b"".join(data)


def tar(files, padding=1024, mtime=1.5):
    """Of names and contents, as Python writes it; torch has 10240 for `padding`. What is no file comes as a TarInfo."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files:
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = mtime  # if not a whole number, in an entry of its own
            archive.addfile(info, io.BytesIO(content))
    content = out.getvalue().rstrip(b"\0")
    return content + bytes(-len(content) % 512 + padding)


def torch_tar(content, storages=None, tensors=None, parts=(), *, little=True, padding=1024):
    """Torch's first format: `storages` of (number, type, numel, data), `tensors` of (number, storage, size, stride,
    offset), `parts` of (number, storage, offset, numel).
    """
    order = "<" if little else ">"
    storages = [(7, "FloatStorage", 4, FOUR_FLOATS)] if storages is None else storages
    tensors = [(9, 7, (2, 2), (1, 2), 0)] if tensors is None else tensors
    first = pickled(number(len(storages)))
    for key, kind, numel, data in storages:
        first += pickled(tup(number(key), text("cpu"), named("torch", kind))) + struct.pack(order + "q", numel) + data
    first += pickle.dumps(list(parts), 2)
    second = pickled(number(len(tensors)))
    for key, root, size, stride, offset in tensors:
        second += pickled(tup(number(key), number(root), named("torch", "FloatTensor")))
        second += struct.pack(f"{order}i4x{len(size)}q{len(stride)}qq", len(size), *size, *stride, offset)
    files = {"sys_info": machine(little=little), "pickle": content, "tensors": second, "storages": first}
    return tar(files.items(), padding)


def with_tensor(*args, **options):
    """A checkpoint of one tensor as `tensor` describes it."""
    return torch_zip(pickled(tensor(*args, **options)))


def bomb(size, declared=None):
    """A storage of zeros, deflated; its size may be said to be another."""
    content = torch_zip(pickled(tensor()), {"0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    return content if declared is None else content.replace(struct.pack("<I", size), struct.pack("<I", declared))


def script_archive(pickle, more=()):
    """As torch.jit.save lays it out."""
    code = b"class Module(Module):\n  __parameters__ = []\n"
    entries = [("m/data.pkl", pickle), ("m/data/0", FOUR_FLOATS), ("m/code/__torch__.py", code)]
    return archive([*entries, ("m/constants.pkl", pickled(b")")), ("m/version", b"3\n"), *more])


# safetensors and npz


def crafted_safetensors(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def npy(descr="'<f4'", fortran="False", shape="(4,)", data=bytes(16), version=1, header=None, magic=b"\x93NUMPY"):
    line = (header or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}").encode("latin-1")
    line += b" " * (-(len(line) + 11) % 64) + b"\n"  # the elements on natural addresses, as NumPy does it
    length = struct.pack("<H" if version == 1 else "<I", len(line))
    return magic + bytes([version, 0]) + length + line + data


def npz(content):
    """An archive of one array, put together by `npy` or otherwise."""
    return archive([("a.npy", content)])


# Checks


def contents(value, inside=()):
    """All that is in what was read, comparable with ==: names, types, every byte of every array."""
    if isinstance(value, np.ndarray | np.generic):
        return type(value).__name__, str(value.dtype), value.shape, value.tobytes()
    if id(value) in inside:
        return "itself"

    def within(part):
        return contents(part, (*inside, id(value)))

    if isinstance(value, dict):
        return "dict", [(within(key), within(item)) for key, item in value.items()]
    if isinstance(value, list | tuple):
        return type(value).__name__, list(map(within, value))
    if isinstance(value, set | frozenset):
        return type(value).__name__, sorted(map(repr, value))
    if isinstance(value, Opaque):
        return value.module, value.name, within(value.args), within(value.state), within(value.items)
    if isinstance(value, Name):
        return value.module, value.name
    assert type(value) in (str, bytes, int, float, complex, bool, type(None)), type(value)
    return type(value).__name__, repr(value)


def refuse(content, match=".", **limits):
    """The strict reader and the public one both refuse; the public one names the file."""
    with pytest.raises(CheckpointError, match=match):
        strict_load(content, **limits)
    with pytest.raises(CheckpointError, match=r"^<bytes>: "):
        fastrnn.load(content, **limits)


# State dicts

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def layer_state(kind, I, H, *, prefix="", L=1, bias=True, bidirectional=False, P=0, dtype=np.float32):
    """A state dict as torch would have it."""
    rng = np.random.default_rng(0)
    rows, out = GATES[kind.removesuffix("Cell")] * H, P or H
    state = {}
    for layer in range(L):
        for reverse in ("", "_reverse")[: 1 + bidirectional]:
            end = "" if kind.endswith("Cell") else f"_l{layer}{reverse}"
            state["weight_ih" + end] = (rows, I if layer == 0 else out * (1 + bidirectional))
            state["weight_hh" + end] = (rows, out)
            if bias:
                state["bias_ih" + end] = state["bias_hh" + end] = (rows,)
            if P:
                state["weight_hr" + end] = (P, H)
    return {prefix + name: rng.uniform(-1, 1, shape).astype(dtype) for name, shape in state.items()}


# Memory


def peak_growth(script, *arguments):
    """By how many kB the peak memory of a fresh process grows in the second part of `script`, after a line "---".

    From /proc, as getrusage gives a child the peak of its parent.
    """
    if not Path("/proc/self/status").exists():
        pytest.skip("needs /proc")
    peak = "int(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    first, second = script.split("---")
    code = f"{first}\nbefore = {peak}\n{second}\nprint({peak} - before)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)
