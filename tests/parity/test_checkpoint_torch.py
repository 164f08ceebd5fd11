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
from hypothesis import given
from hypothesis import strategies as st

import fastrnn
from fastrnn.checkpoint import Opaque

torch = pytest.importorskip("torch")

NUMBERS = ("float16", "float32", "float64", "complex64", "complex128")
NUMBERS += ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SMALL_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")


def saved(value, **options):
    out = io.BytesIO()
    torch.save(value, out, **options)
    return out.getvalue()


def bits(tensor):
    """shape, torch's name of the dtype, and the elements' bytes."""
    tensor = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), raw


def bits_of_array(array):
    return array.shape, array.dtype.name, np.ascontiguousarray(array).tobytes()


def assert_same(array, tensor):
    assert bits_of_array(array) == bits(tensor)


@st.composite
def tensors(draw):
    """Any bits in any dtype, seen through any chain of views."""
    dtype = getattr(torch, draw(st.sampled_from([*NUMBERS, *SMALL_FLOATS, "bool"])))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    size = int(np.prod(shape))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    raw = torch.from_numpy(rng.integers(0, 2 if dtype is torch.bool else 256, size * dtype.itemsize).astype(np.uint8))
    tensor = raw.view(dtype).reshape(shape) if size else torch.empty(shape, dtype=dtype)
    for _ in range(draw(st.integers(0, 3))):
        if not tensor.ndim:
            break
        axis = draw(st.integers(0, tensor.ndim - 1))
        n = tensor.shape[axis]
        kind = draw(st.sampled_from(["transpose", "narrow", "step", "select", "expand"]))
        if kind == "transpose":
            tensor = tensor.transpose(axis, draw(st.integers(0, tensor.ndim - 1)))
        elif kind == "narrow":
            start = draw(st.integers(0, n))
            tensor = tensor.narrow(axis, start, draw(st.integers(0, n - start)))
        elif kind == "step":
            tensor = tensor[(slice(None),) * axis + (slice(None, None, draw(st.integers(1, 3))),)]
        elif kind == "select" and n:
            tensor = tensor.select(axis, draw(st.integers(0, n - 1)))
        elif kind == "expand":
            tensor = tensor.unsqueeze(axis)
            tensor = tensor.expand(*tensor.shape[:axis], draw(st.integers(1, 3)), *tensor.shape[axis + 1 :])
    return tensor


@given(st.lists(tensors(), min_size=1, max_size=3), st.integers(2, 5), st.booleans())
def test_any_tensor_is_read_exactly(originals, protocol, checksums):
    torch.serialization.set_crc32_options(checksums)
    try:
        content = saved({"list": originals, "again": originals[0]}, pickle_protocol=protocol)
    finally:
        torch.serialization.set_crc32_options(True)
    read = fastrnn.load(content)
    for array, tensor in zip(read["list"], originals, strict=True):
        assert_same(array, tensor)
        if array.size:
            kept = [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1]
            steps = [s * tensor.element_size() for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]
            assert kept == steps
    if originals[0].numel():
        assert np.shares_memory(read["again"], read["list"][0])


plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 200), 1 << 200), st.floats(), st.text(), st.complex_numbers()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False)), inner, max_size=4),
    ),
    max_leaves=12,
)


@given(plain, st.integers(2, 5))
def test_any_nesting_is_read(value, protocol):
    assert repr(fastrnn.load(saved(value, pickle_protocol=protocol))) == repr(value)


@given(plain, st.lists(tensors(), max_size=3))
def test_torch_reads_what_is_saved(tmp_path_factory, value, originals):
    arrays = fastrnn.load(saved(originals))
    path = tmp_path_factory.getbasetemp() / "saved.pt"
    fastrnn.save({"value": value, "arrays": arrays, "again": arrays[:1]}, path)
    for options in ({}, {"mmap": True}):
        read = torch.load(path, weights_only=True, **options)
        assert repr(read["value"]) == repr(value)
        for tensor, array in zip(read["arrays"], arrays, strict=True):
            assert bits(tensor) == bits_of_array(array)
        if arrays and arrays[0].size:
            assert read["again"][0].data_ptr() == read["arrays"][0].data_ptr()


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


def test_parameters_attributes_and_subclasses():
    parameter = torch.nn.Parameter(torch.arange(3.0))
    with_attribute = torch.arange(3.0)
    with_attribute.note = "x"
    parameter_with_attribute = torch.nn.Parameter(torch.arange(3.0))
    parameter_with_attribute.note = "x"
    buffer = torch.nn.Buffer(torch.arange(3.0))
    values = [parameter, with_attribute, parameter_with_attribute, buffer, torch.arange(3.0).requires_grad_()]
    for array in fastrnn.load(saved(values)):
        np.testing.assert_array_equal(array, [0, 1, 2])


def test_optimizers_and_schedulers():
    module = torch.nn.GRU(2, 3)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    module(torch.zeros(2, 1, 2))[0].sum().backward()
    optimizer.step()
    state = {"model": module.state_dict(), "optimizer": optimizer.state_dict(), "rng": torch.get_rng_state()}
    read = fastrnn.load(saved(state | {"args": argparse.Namespace(lr=0.01), "best": collections.OrderedDict(a=1)}))
    assert read["optimizer"]["param_groups"][0]["lr"] == 0.01
    for key, tensor in state["optimizer"]["state"][0].items():
        assert_same(read["optimizer"]["state"][0][key], tensor)
    assert_same(read["rng"], state["rng"])
    assert read["args"].state == {"lr": 0.01}
    assert [info.prefix for info in fastrnn.find_layers(read)] == ["model."]


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


def test_the_old_format_is_refused_by_name():
    with pytest.raises(fastrnn.CheckpointError, match=r"before 1\.6"):
        fastrnn.load(saved({"a": torch.ones(3)}, _use_new_zipfile_serialization=False))


def test_complex32_is_widened():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensor = torch.tensor([[1 + 2j, 3 - 4j, 0.5j]], dtype=torch.complex32).T.conj()
        array = fastrnn.load(saved(tensor))
        assert_same(array, tensor.to(torch.complex64))


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
