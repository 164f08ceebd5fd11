"""What torch saves is read exactly, and what is saved here torch reads exactly."""

from __future__ import annotations

import argparse
import collections
import io
import warnings
import zipfile

import ml_dtypes
import numpy as np
import pytest

import fastrnn
from fastrnn.checkpoint import Opaque

torch = pytest.importorskip("torch")

from checkpoint_tools import NUMBERS, SMALL_FLOATS, assert_same, bits, saved  # noqa: E402


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_torch_loads_our_state_dict(tmp_path, kind):
    layer = getattr(fastrnn, kind)(3, 4, num_layers=2, bidirectional=True, rng=0)
    module = getattr(torch.nn, kind)(3, 4, num_layers=2, bidirectional=True)
    for suffix in (".pt", ".pth"):
        fastrnn.save(layer.state_dict(), tmp_path / f"a{suffix}")
        module.load_state_dict(torch.load(tmp_path / f"a{suffix}", weights_only=True))
        for name, array in layer.state_dict().items():
            assert_same(array, getattr(module, name))


def test_torch_reads_numpy_scalars_and_bytes(tmp_path):
    fastrnn.save({"a": np.float32(0.5), "b": b"\x00\xff", "c": bytearray(b"")}, tmp_path / "a.pt")
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"a": 0.5, "b": b"\x00\xff", "c": b""}


def test_safetensors_of_torch_both_ways(tmp_path):
    torch_file = pytest.importorskip("safetensors.torch")
    names = [
        name for name in [*NUMBERS, *SMALL_FLOATS] if name not in ("complex128", "float8_e4m3fnuz", "float8_e5m2fnuz")
    ]
    originals = {name: torch.arange(96, dtype=torch.uint8).view(getattr(torch, name)).clone() for name in names}
    torch_file.save_file(originals, tmp_path / "a.safetensors")
    arrays = fastrnn.load(tmp_path / "a.safetensors")
    fastrnn.save(arrays, tmp_path / "b.safetensors")
    again = torch_file.load_file(tmp_path / "b.safetensors")
    for name, tensor in originals.items():
        assert_same(arrays[name], tensor)
        assert bits(again[name]) == bits(tensor)


# What torch writes beside plain tensors


class Module(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = torch.nn.LSTM(3, 4, proj_size=2)
        self.list = torch.nn.ModuleList([torch.nn.GRUCell(3, 4)])

    def forward(self, x):
        return self.rnn(x)[0]


def test_whole_modules_and_torchscript():
    module = Module()
    script = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.LSTM(3, 4, proj_size=2)), script)
    for content, prefixes in ((saved(module), ["rnn.", "list.0."]), (script.getvalue(), [""])):
        read = fastrnn.load(content)
        assert type(read) is Opaque
        assert [info.prefix for info in fastrnn.find_layers(read)] == prefixes
    layer = fastrnn.from_state_dict(fastrnn.load(saved(module)), "list.0")
    for name, array in layer.state_dict().items():
        assert_same(array, getattr(module.list[0], name))


def test_what_trainers_put_beside_the_model():
    """The optimizer's state, random numbers' state, arguments, the best so far."""
    module = torch.nn.GRU(2, 3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    module(torch.zeros(2, 1, 2))[0].sum().backward()
    optimizer.step()
    state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    read = fastrnn.load(saved(state | {"args": argparse.Namespace(lr=0.01), "best": collections.OrderedDict(a=1)}))
    assert read["optimizer"]["param_groups"][0]["lr"] == 0.01
    assert_same(read["rng"], state["rng"])
    assert read["args"].state == {"lr": 0.01}
    assert read["best"] == {"a": 1}
    assert "model." in [info.prefix for info in fastrnn.find_layers(read)]


def test_what_has_no_data_or_no_array_is_refused_by_name():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
        sparse = torch.eye(3).to_sparse()
        contents = {
            "meta tensor": saved(torch.empty(3, device="meta")),
            "quantised|QInt8": saved(quantised),
            "sparse": saved(sparse),
        }
    for reason, content in contents.items():
        with pytest.raises(fastrnn.CheckpointError, match=f"not supported.*({reason})"):
            fastrnn.load(content)


def test_values_agree_with_ml_dtypes_names():
    for name in SMALL_FLOATS:
        tensor = torch.arange(1, 9, dtype=torch.float32).to(getattr(torch, name))
        array = fastrnn.load(saved(tensor))
        assert array.dtype == getattr(ml_dtypes, name)
        np.testing.assert_array_equal(array.astype(np.float32), tensor.to(torch.float32).numpy())


def test_big_endian_files_are_read_as_torch_reads_them(tmp_path):
    for name in ("float16", "float32", "int64", "complex64", "bfloat16", "bool"):
        tensor = torch.arange(6).to(getattr(torch, name))
        path = tmp_path / f"{name}.pt"
        with zipfile.ZipFile(io.BytesIO(saved(tensor))) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.namelist():
                new.writestr(entry, b"big" if entry.endswith("byteorder") else old.read(entry))
        assert_same(fastrnn.load(path), torch.load(path, weights_only=True))
