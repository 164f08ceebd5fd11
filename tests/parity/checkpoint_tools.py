"""What the tests of checkpoints against torch share: files of torch, tensors of any layout, exact comparison."""

from __future__ import annotations

import io

import numpy as np
import torch  # the files that import this one have skipped where there is none
from hypothesis import strategies as st

NUMBERS = ("float16", "float32", "float64", "complex64", "complex128")
NUMBERS += ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
SMALL_FLOATS = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu")
DTYPES = (*NUMBERS, *SMALL_FLOATS, "bool")


def saved(value, *, checksums=True, **options):
    """The bytes that torch.save writes."""
    out = io.BytesIO()
    torch.serialization.set_crc32_options(checksums)
    try:
        torch.save(value, out, **options)
    finally:
        torch.serialization.set_crc32_options(True)
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


def same_nesting(read, value):
    """Whether `read`, of fastrnn or of torch, is `value` exactly: arrays and tensors by their bits, NaN as itself.

    Subclasses of dict count as dicts.
    """
    if isinstance(value, torch.Tensor):
        return (bits(read) if isinstance(read, torch.Tensor) else bits_of_array(read)) == bits(value)
    if isinstance(value, np.ndarray):
        return (bits(read) if isinstance(read, torch.Tensor) else bits_of_array(read)) == bits_of_array(value)
    if isinstance(value, dict):
        same = isinstance(read, dict) and [*map(repr, read)] == [*map(repr, value)]
        return same and all(same_nesting(a, b) for a, b in zip(read.values(), value.values(), strict=True))
    if isinstance(value, list | tuple):
        same = type(read) is type(value) and len(read) == len(value)
        return same and all(same_nesting(a, b) for a, b in zip(read, value, strict=True))
    return type(read) is type(value) and repr(read) == repr(value)


def assert_same_layout(arrays, tensors):
    """Each array steps through memory as its tensor does, and any two share memory where the tensors do, as far apart.

    Of what torch only marks (conjugation, negation) the result is an array of its own, which is left out.
    """
    pairs = [(a, t) for a, t in zip(arrays, tensors, strict=True) if a.size and not (t.is_conj() or t.is_neg())]
    for array, tensor in pairs:
        steps = [s * tensor.element_size() for s, n in zip(tensor.stride(), tensor.shape, strict=True) if n > 1]
        assert [s for s, n in zip(array.strides, array.shape, strict=True) if n > 1] == steps
    for array, tensor in pairs:
        for other_array, other in pairs:
            if tensor.untyped_storage().data_ptr() == other.untyped_storage().data_ptr():
                assert address(array) - address(other_array) == tensor.data_ptr() - other.data_ptr()
            else:
                assert not np.may_share_memory(array, other_array)


def address(array):
    return array.__array_interface__["data"][0]


# Strategies


@st.composite
def storages(draw, name):
    """A flat tensor of any bits; one in eight is large enough for its file to be mapped."""
    dtype = getattr(torch, name)
    n = (1 << 20) // dtype.itemsize + 5 if draw(st.integers(0, 7)) == 7 else draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    raw = rng.integers(0, 2 if name == "bool" else 256, n * dtype.itemsize).astype(np.uint8)
    return torch.from_numpy(raw).view(dtype)


@st.composite
def windows(draw, storage):
    """Any window into `storage`: sizes, strides (0 and overlapping ones too) and an offset that fit in it, then marks.

    Strides of sizes 0 and 1 are free, as torch leaves them.
    """
    n = storage.numel()
    offset = draw(st.integers(0, n - 1))
    room, shape, strides = n - 1 - offset, [], []
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(0, 5))
        stride = draw(st.integers(0, room // (size - 1) if size > 1 else 1 << 20))
        room -= stride * (size - 1) if size > 1 else 0
        shape.append(size)
        strides.append(stride)
    window = storage.as_strided(shape, strides, offset)
    if window.is_complex() and draw(st.booleans()):
        window = draw(st.sampled_from([torch.conj, torch.real, lambda t: torch.conj(t).imag]))(window)
    elif window.dtype in (torch.float32, torch.float64) and draw(st.integers(0, 3)) == 0:
        window = torch._neg_view(window)  # not halves: there torch, which goes through float32, changes NaNs
    return window


@st.composite
def many_tensors(draw, max_size=4):
    """Tensors over few storages, each storage of one dtype: what torch.save takes."""
    pool = draw(st.lists(st.sampled_from(DTYPES).flatmap(storages), min_size=1, max_size=3))
    if not max_size:
        return []
    # One type for each storage: torch.save refuses two.
    views = [draw(windows(draw(st.sampled_from(pool)))) for _ in range(draw(st.integers(1, max_size)))]
    kept, types = [], {}
    for tensor in views:
        if types.setdefault(tensor.untyped_storage().data_ptr(), tensor.dtype) == tensor.dtype:
            kept.append(tensor)
    return kept


#: What a pickle holds beside tensors.
plain = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(1 << 200), 1 << 200), st.floats(), st.text(), st.complex_numbers()
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(
            st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.tuples(st.text(), st.integers())),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@st.composite
def nestings(draw):
    """(value, its tensors): tensors anywhere among dicts, lists, tuples and plain data."""
    tensors = draw(many_tensors())
    leaves = st.one_of(st.sampled_from(tensors), st.integers(), st.text(max_size=5), st.none())
    value = draw(
        st.recursive(
            leaves,
            lambda inner: st.one_of(
                st.lists(inner, max_size=3), st.tuples(inner), st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
            max_leaves=8,
        )
    )
    return {"nested": value, "all": tensors}, tensors


def files_of(content, path):
    """The ways to hand a file to `fastrnn.load`; `content` is written to `path`."""
    path.write_bytes(content)
    yield content
    yield path
    yield io.BytesIO(content)
    with open(path, "rb") as stream:
        yield stream
