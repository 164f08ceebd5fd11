"""What torch saves is read exactly, what is saved here torch reads exactly: any dtype, layout and nesting."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastrnn

torch = pytest.importorskip("torch")

from checkpoint_tools import (  # noqa: E402
    DTYPES,
    assert_same_layout,
    bits,
    bits_of_array,
    files_of,
    many_tensors,
    nestings,
    plain,
    same_nesting,
    saved,
    storages,
    windows,
)

large = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("properties") / "model.pt"


@large
@given(nestings(), st.integers(2, 5), st.booleans(), st.booleans())
def test_any_tensors_are_read_exactly(path, drawn, protocol, checksums, zipped):
    value, tensors = drawn
    options = {"checksums": checksums, "pickle_protocol": protocol, "_use_new_zipfile_serialization": zipped}
    for file in files_of(saved(value, **options), path):
        read = fastrnn.load(file)
        assert same_nesting(read, value)
        assert_same_layout(read["all"], tensors)


@pytest.mark.parametrize("name", DTYPES)
@settings(max_examples=20)
@given(data=st.data())
def test_every_dtype_is_read_exactly(name, data):
    tensors = data.draw(storages(name).flatmap(lambda storage: st.lists(windows(storage), min_size=1, max_size=3)))
    tensors = [tensor for tensor in tensors if tensor.dtype == tensors[0].dtype]
    for zipped in (True, False):
        read = fastrnn.load(saved(tensors, _use_new_zipfile_serialization=zipped))
        assert same_nesting(read, tensors)
        assert_same_layout(read, tensors)


@given(plain, st.integers(2, 5), st.booleans())
def test_any_plain_data_is_read_exactly(value, protocol, zipped):
    content = saved(value, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    assert same_nesting(fastrnn.load(content), value)


@large
@given(plain, nestings())
def test_torch_reads_exactly_what_is_saved(path, value, drawn):
    """Also after torch has saved it again and fastrnn has read that."""
    original = fastrnn.load(saved(drawn[0])) | {"value": value}
    fastrnn.save(original, path)
    for options in ({}, {"mmap": True}):
        read = torch.load(path, weights_only=True, **options)
        assert same_nesting(read, original)
    assert same_nesting(fastrnn.load(saved(read)), original)


@large
@given(many_tensors())
def test_arrays_over_the_same_memory_share_it_in_torch(path, tensors):
    arrays = fastrnn.load(saved(tensors))
    fastrnn.save({"once": arrays, "again": arrays[::-1]}, path)
    read = torch.load(path, weights_only=True)
    for once, again, array in zip(read["once"], read["again"][::-1], arrays, strict=True):
        assert bits(once) == bits_of_array(array)
        if array.size:
            assert once.data_ptr() == again.data_ptr()


@large
@given(nestings())
def test_the_same_content_gives_the_same_bytes(path, drawn):
    """Wherever in memory it is: in a file's bytes, in a map, in a copy of them."""
    written = []
    for file in files_of(saved(drawn[0]), path.with_name("torch.pt")):
        fastrnn.save(fastrnn.load(file), path)
        written.append(path.read_bytes())
    assert written == written[:1] * len(written)


@large
@given(many_tensors())
def test_arrays_of_any_layout_are_saved(path, tensors):
    """Also those that torch cannot have: of negative strides or the other byte order."""
    arrays = [np.asarray(array) for array in fastrnn.load(saved(tensors))]
    arrays += [array[::-1] for array in arrays if array.ndim]
    arrays += [array.T for array in arrays]
    arrays += [array.astype(array.dtype.newbyteorder(">")) for array in arrays if array.dtype.kind in "iufc"]
    fastrnn.save(arrays, path)
    for tensor, array in zip(torch.load(path, weights_only=True), arrays, strict=True):
        assert bits(tensor) == bits_of_array(array.astype(array.dtype.newbyteorder("=")))


def test_complex32_is_widened_exactly():
    """Every half there is, in both parts and both formats."""
    halves = torch.arange(1 << 16).to(torch.int32).to(torch.uint16).view(torch.float16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls complex32 experimental
        tensor = torch.stack([halves, halves.flip(0)], 1).view(torch.complex32)[:, 0]
    parts = torch.view_as_real(tensor).to(torch.float32).numpy()
    for zipped in (True, False):
        array = fastrnn.load(saved(tensor, _use_new_zipfile_serialization=zipped))
        assert array.dtype == np.complex64
        np.testing.assert_array_equal(array.view(np.float32).reshape(-1, 2), parts)


def test_every_other_dtype_of_torch_is_refused_by_name():
    """What torch can save in a dtype that is not read exactly is a CheckpointError that says so."""
    names = {str(getattr(torch, name)).removeprefix("torch.") for name in dir(torch) if is_dtype(name)}
    for name in sorted(names - {*DTYPES, "complex32"}):
        out = io.BytesIO()
        try:
            tensor = torch.zeros(16, dtype=torch.uint8).view(getattr(torch, name))
            torch.save(tensor, out)
        except (RuntimeError, KeyError, TypeError, ZeroDivisionError):
            continue  # torch itself cannot
        with pytest.raises(fastrnn.CheckpointError, match=f"(?i)not supported.*(quantised|{name})"):
            fastrnn.load(out.getvalue())


def is_dtype(name):
    return isinstance(getattr(torch, name), torch.dtype)
