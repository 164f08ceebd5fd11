"""Pickles and zip archives put together by hand, right and wrong ones, and the reader without its last safety net."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import fastrnn
import fastrnn.checkpoint
from fastrnn import CheckpointError
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


def torch_zip(pickle, storages=None, *, more=(), compression=zipfile.ZIP_STORED):
    storages = {"0": FOUR_FLOATS} if storages is None else storages
    entries = [("archive/data.pkl", pickle), *((f"archive/data/{key}", data) for key, data in storages.items())]
    return archive([*entries, *more, ("archive/version", b"3\n")], compression)


def with_tensor(*args, **options):
    """A checkpoint of one tensor as `tensor` describes it."""
    return torch_zip(pickled(tensor(*args, **options)))


def bomb(size, declared=None):
    """A storage of zeros, deflated; its size may be said to be another."""
    content = torch_zip(pickled(tensor()), {"0": bytes(size)}, compression=zipfile.ZIP_DEFLATED)
    return content if declared is None else content.replace(struct.pack("<I", size), struct.pack("<I", declared))


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
