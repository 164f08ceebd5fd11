"""Archives of checkpoints within an archive, as stable-baselines3 writes them, and TorchScript archives."""

from __future__ import annotations

import json
import mmap
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from crafted import (
    CHECKPOINTS,
    FOUR_FLOATS,
    archive,
    call,
    named,
    number,
    numbers,
    pickled,
    refuse,
    storage,
    stream,
    strict_load,
    tensor,
    text,
    torch_zip,
    with_tensor,
)
from test_torch_zip import arrays_in, assert_same_arrays, expected_arrays

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import Opaque
from fastrnn.checkpoint.state_dict import describe

GOOD = with_tensor()

# Bundles


def test_a_policy_is_read():
    state = strict_load(CHECKPOINTS / "policy.zip")
    assert list(state) == [
        "data",
        "pytorch_variables.pth",
        "policy.pth",
        "policy.optimizer.pth",
        "_stable_baselines3_version",
        "picture.png",
    ]
    assert_same_arrays(arrays_in(state), expected_arrays("policy"))
    assert json.loads(state["data"]) == {"n_steps": 8}
    assert state["pytorch_variables.pth"] == {}
    assert state["policy.optimizer.pth"]["param_groups"] == [{"lr": 0.1}]
    assert state["_stable_baselines3_version"] == "2.3.0"
    assert state["picture.png"] == b"\x89PNG\xff"
    (info,) = (info for info in fastrnn.find_layers(state) if info.kind == "LSTM")
    assert info.prefix == "policy.pth.lstm_actor."


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_format_may_be_in_an_archive(compression):
    numpy = (CHECKPOINTS / "small.npz").read_bytes()
    safe = (CHECKPOINTS / "gru_bf16.safetensors").read_bytes()
    old = (CHECKPOINTS / "stream_small.pt").read_bytes()
    files = [("folder/", b""), ("folder/a.pt", GOOD), ("b", numpy), ("c.x", safe), ("d", old), ("e", b"")]
    state = strict_load(archive(files, compression))
    assert list(state) == ["folder/a.pt", "b", "c.x", "d", "e"]
    np.testing.assert_array_equal(state["folder/a.pt"], [0, 1, 2, 3])
    for name, content in (("b", numpy), ("c.x", safe), ("d", old)):
        assert repr(state[name]) == repr(strict_load(content))
    assert state["e"] == ""


def test_an_archive_of_something_else_in_an_archive_is_bytes():
    """It is not looked into: archives nest no deeper."""
    inner = archive([("policy.pth", GOOD)])
    assert strict_load(archive([("inner.zip", inner), ("a.pt", GOOD)]))["inner.zip"] == inner


def test_a_file_that_is_not_a_checkpoint_is_not_read():
    files = [
        ("a.pt", GOOD),
        ("b.pkl", b"\x80\x02cos\nsystem\n."),
        ("c.npy", b"\x93NUMPY\1\0"),
        ("d.h5", b"\x89HDF\r\n\x1a\n"),
    ]
    state = strict_load(archive(files))
    for name, content in files[1:]:
        assert state[name] in (content, content.decode("latin-1"))


def test_a_large_bundle_is_mapped(tmp_path):
    values = np.arange(1 << 19, dtype=np.float32)
    fastrnn.save({"w": values}, tmp_path / "inner.pt")
    path = tmp_path / "bundle.zip"
    inner = (tmp_path / "inner.pt").read_bytes()
    mapped = []
    for n in range(4):  # an archive's data lies at any address
        path.write_bytes(archive([("x" * (n + 1), inner)]))
        array = fastrnn.load(path)["x" * (n + 1)]["w"]
        np.testing.assert_array_equal(array, values)
        owner = array
        while isinstance(owner, np.ndarray | memoryview):
            owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
        mapped.append(isinstance(owner, mmap.mmap))
    assert mapped == [True] * 4
    content = bytearray(path.read_bytes())
    content[1 << 20] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        fastrnn.load(path)


BROKEN = {
    "damaged member": (archive([("a.pth", GOOD.replace(b"FloatStorage", b"FloatStorafe"))]), r"a\.pth: .*checksum"),
    "cut member": (archive([("a.pth", GOOD[:-1])]), r"a\.pth: "),
    "layout within": (archive([("a.pth", with_tensor(size=numbers(5)))]), r"a\.pth: .*beyond"),
    "nothing but folders": (archive([("a/", b"")]), "neither torch nor NumPy"),
    "arrays and something else": (archive([("a.npy", b""), ("readme", b"x")]), "readme, and neither"),
    "stream within": (archive([("a", stream(pickled(b"N"))[:-1])]), "a: "),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_bundles_are_refused(case):
    refuse(*BROKEN[case])


def test_the_pickles_of_a_bundle_are_bounded_together():
    many = pickled(b"(" + b"N" * 1000 + b"t")
    content = archive([(f"{n}.pt", torch_zip(many, {})) for n in range(20)])
    assert len(strict_load(content, max_ops=25_000)) == 20
    refuse(content, "max_ops", max_ops=20_000)


def test_copies_of_a_bundle_are_bounded_together():
    content = archive([("a.pt", GOOD), *((f"{n}.txt", b"x" * 100_000) for n in range(10))])
    refuse(content, "max_bytes", max_bytes=1_500_000)
    assert len(strict_load(content, max_bytes=2_000_000)) == 11


def test_damage_is_found():
    content = archive([("a", torch_zip(pickled(tensor()))), ("b", b"\xffx")])
    right = repr(strict_load(content))
    for n in range(len(content)):
        with pytest.raises(CheckpointError):
            strict_load(content[:n])
        for change in (1 << n % 8, 255):
            damaged = bytearray(content)
            damaged[n] ^= change
            with suppress(CheckpointError):
                assert repr(strict_load(bytes(damaged))) == right
            with suppress(CheckpointError):
                strict_load(bytes(damaged), check_crc=False)


# TorchScript


def test_torchscript_is_read_by_the_names_of_attributes():
    module = strict_load(CHECKPOINTS / "scripted.pt")
    assert (type(module), module.name) == (Opaque, "Scripted")
    assert module.state["names"] == {"a": 1}
    assert module.state["sizes"] == [2, 3]
    assert module.state["steps"] == 5
    (info,) = (info for info in fastrnn.find_layers(module) if info.kind == "GRUCell")
    assert info.prefix == "cell."
    _, arrays = describe(module, "cell")
    expected = expected_arrays("scripted")
    expected.pop("steps")
    assert_same_arrays({f"cell.{name}": array for name, array in arrays.items()}, expected)


def test_old_torchscript_is_refused_by_name():
    refuse(
        archive([("m/model.json", b"{}"), ("m/tensors/0", FOUR_FLOATS), ("m/version", b"1")]),
        "TorchScript from before torch 1.4",
    )
    refuse(b"PYTORCH1" + bytes(600), "TorchScript of torch 1.0")


# What other devices and layouts leave in a pickle


def test_tensors_of_other_devices_are_their_arrays():
    for function in ("numpy", "cpu_tensor"):
        made = call(
            named("torch._utils", f"_rebuild_device_tensor_from_{function}"),
            tensor(),
            named("torch", "float32"),
            text("xla:0"),
            b"\x89",
        )
        np.testing.assert_array_equal(strict_load(torch_zip(pickled(made))), [0, 1, 2, 3])


REFUSED = {
    "a quantised tensor": pickled(storage(kind="QInt8Storage", numel=16)),
    "a quantised tensor of": pickled(storage(kind="QUInt8Storage", numel=16)),
    "a sparse tensor": pickled(call(named("torch._utils", "_rebuild_sparse_tensor"), b"N", b"N")),
    "a sparse": pickled(call(named("torch._utils", "_rebuild_sparse_csr_tensor"), b"N", b"N")),
    "a meta tensor": pickled(
        call(named("torch._utils", "_rebuild_meta_tensor_no_storage"), b"N", number(0), b"N", b"N")
    ),
    "a nested tensor": pickled(call(named("torch._utils", "_rebuild_nested_tensor"), b"N", b"N", b"N", b"N")),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_has_no_array_is_refused_by_name(reason):
    refuse(torch_zip(REFUSED[reason]), f"not supported: {reason}")


def test_an_archive_of_torch_export_is_named():
    """Its weights are bytes whose types stand in JSON files beside them."""
    weights = ("m/data/weights/weight_0", bytes(16))
    refuse(archive([weights, ("m/archive_format", b"pt2"), ("m/data/sample_inputs/model.pt", GOOD)]), r"torch\.export")
