"""Writes the files in data/checkpoints/, and what torch says that they hold. Needs torch.

    python tests/make_checkpoints.py

For each NAME.pt there is a NAME.npz with the arrays in it by the way to them ("a.0.b"), as torch has them: bfloat16
and float8 widened to float32, complex32 to complex64. The files are the same at every run.
"""

from __future__ import annotations

import argparse
import collections
import io
import warnings
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

DATA = Path(__file__).parent / "data" / "checkpoints"
DTYPES = ("float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64")
DTYPES += ("uint8", "uint16", "uint32", "uint64", "bool", "complex32", "complex64", "complex128")
DTYPES += ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


def dtypes():
    bits = torch.arange(0, 96, dtype=torch.uint8)
    arrays = {name: bits.view(getattr(torch, name))[:6].clone() for name in DTYPES if name != "bool"}
    return arrays | {"bool": torch.tensor([True, False, True])}


def views():
    """Whatever a tensor may be of its storage."""
    base = torch.arange(60, dtype=torch.float32).reshape(3, 4, 5)
    tied = torch.full((4,), 7.0)
    return {
        "base": base,
        "transposed": base.transpose(0, 2),
        "slice": base[1, ::2, 1:4],
        "steps": base.flatten()[3::7],
        "scalar": base[2, 3, 4],
        "expanded": base[0, 0, :2].reshape(2, 1).expand(2, 3),
        "diagonal": torch.diagonal(base[:, :, 0]),
        "empty": torch.empty(0, 3),
        "none_of_many": base[3:],
        "tied": [tied, tied, torch.nn.Parameter(tied)],
        "conjugate": torch.tensor([1 + 2j, 3 - 4j]).conj(),
        "negative": torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
        "alone": torch.arange(1000.0)[990:].clone(),
    }


def objects():
    """What trainers save beside tensors."""
    return {
        "epoch": 3,
        "huge": -(1 << 70),
        "loss": 0.125,
        "name": "gru ü",
        "nothing": None,
        "flags": [True, False],
        "shape": torch.Size([2, 3]),
        "tuple": (1, (2.5, "x"), ()),
        "bytes": b"\x00\xff",
        "complex": 1 + 2j,
        "set": {1, 2},
        "counts": collections.defaultdict(int, {"a": 1}),
        "counter": collections.Counter("aab"),
        "ordered": collections.OrderedDict([("z", 1), ("a", torch.zeros(2))]),
        "keys": {1: "int", (2, "b"): "tuple", None: "none", 2.5: "float"},
        "numpy": [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3))],
        "numpy_scalars": [np.float32(0.5), np.int64(-3), np.bool_(True)],
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
    }


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 3)
        self.encoder = torch.nn.Module()
        self.encoder.rnn = torch.nn.GRU(3, 4, num_layers=2, bidirectional=True)
        self.decoder = torch.nn.LSTM(8, 5, proj_size=2, bias=False)
        self.cell = torch.nn.RNNCell(2, 3)
        self.head = torch.nn.Linear(2, 7)


def nested():
    """As a trainer wraps it, compiled and in parallel."""
    state = {f"module._orig_mod.{name}": value for name, value in Model().state_dict().items()}
    return {"epoch": 9, "model_state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}


def arrays_in(value, path=()):
    if isinstance(value, torch.nn.Module):
        value = dict(value.state_dict())
    if isinstance(value, dict):
        value = [(key, item) for key, item in value.items() if isinstance(key, str | int)]
    elif isinstance(value, list | tuple):
        value = list(enumerate(value))
    elif isinstance(value, torch.Tensor):
        value = value.detach().resolve_conj().resolve_neg()
        if value.dtype == torch.complex32:
            value = value.to(torch.complex64)
        elif value.dtype == torch.bfloat16 or "float8" in str(value.dtype):
            value = value.to(torch.float32)
        return {".".join(path): value.numpy()}
    elif isinstance(value, np.ndarray):
        return {".".join(path): value}
    else:
        return {}
    found = {}
    for key, item in value:
        found |= arrays_in(item, (*path, str(key)))
    return found


def write(name, value, **options):
    torch.save(value, DATA / f"{name}.pt", **options)
    np.savez_compressed(DATA / f"{name}.npz", **arrays_in(value))


def swapped(content):
    """The same checkpoint as a big-endian machine writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            if info.filename.endswith("/byteorder"):
                data = b"big"
            elif "/data/" in info.filename:
                data = np.frombuffer(data, np.float32).byteswap().tobytes()
            new.writestr(zipfile.ZipInfo(info.filename), data)
    return out.getvalue()


def main():
    DATA.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", "ComplexHalf support is experimental")
    torch.manual_seed(0)
    write("dtypes", dtypes())
    write("views", views())
    write("objects", objects())
    for protocol in (3, 4, 5):
        write(f"protocol_{protocol}", objects(), pickle_protocol=protocol)
    write("module", Model())
    write("nested", nested())
    torch.serialization.set_crc32_options(False)
    write("no_checksums", {"a": torch.arange(5.0)})
    torch.serialization.set_crc32_options(True)
    write("small", {"a": torch.arange(6.0).reshape(2, 3).T, "b": [1, "x"]})

    content = (DATA / "small.pt").read_bytes()
    (DATA / "big_endian.pt").write_bytes(swapped(content))
    loaded = torch.load(DATA / "big_endian.pt", weights_only=True)
    assert torch.equal(loaded["a"], torch.arange(6.0).reshape(2, 3).T)
    np.savez_compressed(DATA / "big_endian.npz", **arrays_in(loaded))

    gru = torch.nn.GRU(2, 3).to(torch.bfloat16).state_dict()
    safetensors.torch.save_file(gru | {"step": torch.tensor(7)}, DATA / "gru_bf16.safetensors", {"format": "pt"})
    np.savez_compressed(DATA / "gru_bf16.npz", **arrays_in(gru | {"step": torch.tensor(7)}))


if __name__ == "__main__":
    main()
