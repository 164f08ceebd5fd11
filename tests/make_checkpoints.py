"""Writes the files in data/checkpoints/, and what torch says that they hold. Needs torch.

    python tests/make_checkpoints.py

For each NAME.pt there is a NAME.npz with the arrays in it by the way to them ("a.0.b"), as torch has them: bfloat16
and float8 widened to float32, complex32 to complex64. Beside lstm.onnx, lstm_onnx.npz has an input and what torch
computes. The files are the same at every run.
"""

from __future__ import annotations

import argparse
import collections
import io
import json
import warnings
import zipfile
from pathlib import Path
from unittest import mock

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


class Parts(torch.nn.Module):
    """Without layers: the order of strings in them differs from run to run in the old format."""

    def __init__(self):
        super().__init__()
        self.cell = torch.nn.RNNCell(2, 3)
        self.head = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())


class ScriptedCell(torch.nn.Module):
    """The parameters of a GRUCell; torch's own scripts differ from run to run."""

    def __init__(self):
        super().__init__()
        self.weight_ih = torch.nn.Parameter(torch.randn(12, 3))
        self.weight_hh = torch.nn.Parameter(torch.randn(12, 4))
        self.bias_ih = torch.nn.Parameter(torch.randn(12))
        self.bias_hh = torch.nn.Parameter(torch.randn(12))

    def forward(self, x):
        return x @ self.weight_ih.T + self.bias_ih


class Scripted(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = ScriptedCell()
        self.names = torch.jit.Attribute({"a": 1}, dict[str, int])
        self.sizes = torch.jit.Attribute([2, 3], list[int])
        self.register_buffer("steps", torch.tensor(5))

    def forward(self, x):
        return self.cell(x)


def nested():
    """As a trainer wraps it, compiled and in parallel."""
    state = {f"module._orig_mod.{name}": value for name, value in Model().state_dict().items()}
    return {"epoch": 9, "model_state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}}


def parametrized():
    """Averaged, with weights behind weight norm in both spellings and weight drop; and the weights that torch uses."""
    old, new = torch.nn.utils.weight_norm, torch.nn.utils.parametrizations.weight_norm
    layers = {
        "old": old(old(torch.nn.LSTM(3, 4), "weight_ih_l0"), "weight_hh_l0", dim=1),
        "new": new(new(torch.nn.GRU(3, 4, bidirectional=True), "weight_hh_l0"), "weight_ih_l0_reverse", dim=None),
        "conv": old(torch.nn.Conv1d(3, 4, 5)),
    }
    weights = {key: [p.detach() for p in layers[key]._flat_weights] for key in ("old", "new")}
    state = {f"{key}.{name}": value for key, layer in layers.items() for name, value in layer.state_dict().items()}
    dropped = torch.nn.RNN(3, 4).state_dict()
    weights["fastai"] = list(dropped.values())
    for name, value in dropped.items():
        state[f"fastai.module.{name}"] = torch.zeros(4, 4) if name == "weight_hh_l0" else value
    state["fastai.weight_hh_l0_raw"] = dropped["weight_hh_l0"]
    averaged = {"n_averaged": torch.tensor(3)} | {f"module.{name}": value for name, value in state.items()}
    return {"model": averaged, "weights": weights}


class Options(torch.nn.Module):
    """Layers that have more to say than the shapes of their parameters."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(5, 3, padding_idx=0)
        self.conv = torch.nn.Conv1d(3, 4, 2, stride=2)
        self.up = torch.nn.ConvTranspose1d(4, 3, 2)
        self.norm = torch.nn.GroupNorm(2, 4)
        self.rnn = torch.nn.RNN(3, 4, nonlinearity="relu", batch_first=True)
        self.cell = torch.nn.RNNCell(3, 4, nonlinearity="relu")


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


def write_stream(name, value, **options):
    """In torch's old format, without what differs from run to run: addresses as keys, and the source of classes."""
    address = torch._C.StorageBase._cdata.__get__
    numbers = {}
    keys = property(lambda storage: 10_000_000 + numbers.setdefault(address(storage), len(numbers)))
    source = mock.Mock(return_value=(["class ...\n"], 1, "model.py"))
    with (
        mock.patch.object(torch.UntypedStorage, "_cdata", keys),
        mock.patch.object(torch.serialization, "get_source_lines_and_file", source),
    ):
        torch.save(value, DATA / f"stream_{name}.pt", _use_new_zipfile_serialization=False, **options)


def write_scripted():
    """TorchScript, without the places in source files that it came from, and a number that differs from run to run."""
    module, out = Scripted(), io.BytesIO()
    torch.jit.save(torch.jit.script(module), out)
    with zipfile.ZipFile(out) as old, zipfile.ZipFile(DATA / "scripted.pt", "w") as new:
        for info in old.infolist():
            if not info.filename.endswith((".debug_pkl", "serialization_id")):
                new.writestr(zipfile.ZipInfo(info.filename), old.read(info), info.compress_type)
    assert torch.equal(torch.jit.load(DATA / "scripted.pt").cell.weight_ih, module.cell.weight_ih)
    np.savez_compressed(DATA / "scripted.npz", **arrays_in(module))


def write_policy():
    """As stable-baselines3 does: archives of torch within an archive, and other files."""
    policy = {"lstm_actor." + name: value for name, value in torch.nn.LSTM(3, 4).state_dict().items()}
    optimizer = {"state": {0: {"exp_avg": torch.arange(3.0)}}, "param_groups": [{"lr": 0.1}]}
    with zipfile.ZipFile(DATA / "policy.zip", "w") as file:
        file.writestr(zipfile.ZipInfo("data"), json.dumps({"n_steps": 8}))
        for name, value in (("pytorch_variables", {}), ("policy", policy), ("policy.optimizer", optimizer)):
            with file.open(zipfile.ZipInfo(f"{name}.pth"), "w", force_zip64=True) as member:
                torch.save(value, member)
        file.writestr(zipfile.ZipInfo("_stable_baselines3_version"), "2.3.0")
        file.writestr(zipfile.ZipInfo("picture.png"), b"\x89PNG\xff")
    np.savez_compressed(DATA / "policy.npz", **arrays_in({"policy.pth": policy, "policy.optimizer.pth": optimizer}))


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


def write_onnx():
    """A network of two layers as torch writes it: two nodes, with Transpose and Reshape between them."""
    torch.manual_seed(0)
    lstm = torch.nn.LSTM(2, 3, num_layers=2, bidirectional=True, batch_first=True).eval()
    x, out = torch.randn(2, 4, 2), io.BytesIO()
    torch.onnx.export(lstm, (x,), out, dynamo=False, input_names=["x"], output_names=["output", "h_n", "c_n"])
    (DATA / "lstm.onnx").write_bytes(out.getvalue())
    with torch.no_grad():
        output, (h_n, c_n) = lstm(x)
    arrays = {"x": x, "output": output, "h_n": h_n, "c_n": c_n}
    np.savez_compressed(DATA / "lstm_onnx.npz", **{name: array.numpy() for name, array in arrays.items()})


def main():
    DATA.mkdir(parents=True, exist_ok=True)
    warnings.filterwarnings("ignore", "ComplexHalf support is experimental")
    warnings.filterwarnings("ignore", "(?s).*ONNX")
    warnings.filterwarnings("ignore", category=FutureWarning)  # weight_norm
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
    write("parametrized", parametrized())
    write("options", Options())
    write_onnx()

    torch.manual_seed(0)
    write_stream("dtypes", dtypes())
    write_stream("views", views())
    write_stream("objects", objects())
    write_stream("protocol_5", objects(), pickle_protocol=5)
    parts = Parts()
    write_stream("module", parts)
    np.savez_compressed(DATA / "stream_module.npz", **arrays_in(parts))
    write_stream("small", {"a": torch.arange(6.0).reshape(2, 3).T, "b": [1, "x"]})
    torch.manual_seed(0)
    write_scripted()
    write_policy()


if __name__ == "__main__":
    main()
