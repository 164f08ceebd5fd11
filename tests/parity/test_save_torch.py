"""What is saved here, as torch 2.13 reads it: sharing, strides, containers, and its other ways to read."""

from __future__ import annotations

import collections
import io

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")

READERS = [{"weights_only": True}, {"weights_only": True, "mmap": True}, {"weights_only": False}]


@pytest.mark.parametrize("options", READERS, ids=str)
def test_views_share_storages_as_torch_saves_them(tmp_path, options):
    base = torch.arange(60.0).reshape(3, 4, 5)
    tensors = {
        "base": base,
        "transposed": base.transpose(0, 2),
        "part": base[1, ::2, 1:4],
        "scalar": base[2, 3, 4],
        "expanded": base[0, 0, :2].reshape(2, 1).expand(2, 3),
        "diagonal": torch.diagonal(base[:, :, 0]),
        "other": torch.ones(3, dtype=torch.uint16),
        "empty": base[3:],
    }
    content = io.BytesIO()
    torch.save(tensors, content)
    fastrnn.save(fastrnn.load(content.getvalue()), tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", **options)
    storage = read["base"].untyped_storage().data_ptr()
    for name, tensor in tensors.items():
        assert (read[name].shape, read[name].dtype) == (tensor.shape, tensor.dtype)
        assert torch.equal(read[name], tensor)
        if name not in ("other", "empty"):
            assert read[name].untyped_storage().data_ptr() == storage
            assert (read[name].stride(), read[name].storage_offset()) == (tensor.stride(), tensor.storage_offset())
    assert read["base"].untyped_storage().nbytes() == 240
    read["base"][0, 0, 0] = 7
    assert read["expanded"][0, 0] == 7


@pytest.mark.parametrize("options", READERS, ids=str)
def test_containers(tmp_path, options):
    value = {
        "ordered": collections.OrderedDict(b=1, a=[2]),
        "default": collections.defaultdict(list, {"x": (1, 2)}),
        "counter": collections.Counter("aab"),
        "set": {1, "a", (2, 3)},
        True: "bool",
        2.5: "float",
        (1, "a"): "tuple",
        b"x": "bytes",
        np.int64(3): "NumPy's",
    }
    fastrnn.save(value, tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", **options)
    assert read == {**value, "default": {"x": (1, 2)}, "counter": {"a": 2, "b": 1}}
    assert type(read["ordered"]) is collections.OrderedDict
    assert list(read["ordered"]) == ["b", "a"]


def test_dtypes_and_devices_of_a_file_are_saved_again(tmp_path):
    value = {"dtype": [torch.bfloat16, torch.uint32, torch.bool], "device": torch.device("cuda", 1), "w": torch.ones(2)}
    content = io.BytesIO()
    torch.save(value, content)
    fastrnn.save(fastrnn.load(content.getvalue()), tmp_path / "a.pt")
    read = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(read.pop("w"), value.pop("w"))
    assert read == value


def test_other_ways_to_read(tmp_path):
    path = tmp_path / "a.pt"
    arrays = {f"w{i}": np.arange(i, dtype=np.float32) for i in range(20)}
    fastrnn.save(arrays, path)
    config = torch.utils.serialization.config.load
    try:
        config.calculate_storage_offsets = True  # from the sizes of what torch's own writer writes
        contents = [torch.load(path, weights_only=True, mmap=mapped) for mapped in (True, False)]
    finally:
        config.calculate_storage_offsets = False
    contents.append(torch.load(io.BytesIO(path.read_bytes()), weights_only=True))
    contents.append(torch.load(path, weights_only=True, map_location="cpu"))
    for read in contents:
        assert all(np.array_equal(read[name].numpy(), array) for name, array in arrays.items())
    meta = torch.load(path, weights_only=True, map_location="meta")
    assert [tuple(tensor.shape) for tensor in meta.values()] == [(i,) for i in range(20)]


def test_safetensors_with_metadata(tmp_path):
    torch_file = pytest.importorskip("safetensors.torch")
    path = tmp_path / "a.safetensors"
    weight = np.arange(6.0).reshape(2, 3)
    fastrnn.save({"a": {"w": weight.T, "tied": weight}, "step": 3}, path, metadata={"format": "pt", "note": "ü"})
    read = torch_file.load_file(path)
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        "a.w": weight.T.tolist(),
        "a.tied": weight.tolist(),
        "step": 3,
    }
    torch_file.save_file(read, tmp_path / "b.safetensors", metadata={"note": "ü", "format": "pt"})
    assert torch_file.load_file(tmp_path / "b.safetensors").keys() == read.keys()
    # The same content, whoever wrote it; the library writes metadata in an order of its own.
    assert len(path.read_bytes()) == len((tmp_path / "b.safetensors").read_bytes())
