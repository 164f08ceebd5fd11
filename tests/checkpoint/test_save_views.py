"""Arrays that show parts of others: what is stored of them, and what comes back."""

from __future__ import annotations

import struct
import zipfile

import numpy as np
import pytest
from crafted import strict_load
from hypothesis import given
from hypothesis import strategies as st

import fastrnn


def roundtrip(value, tmp_path, suffix=".pt"):
    path = tmp_path / f"file{suffix}"
    fastrnn.save(value, path)
    return strict_load(path)


def test_arrays_over_one_memory_share_a_storage(tmp_path):
    weight = np.arange(1000.0).reshape(10, 100)
    views = [weight, weight, weight[3], weight[:, 5], weight.T, weight[2:5, 7:50], weight[4, 9:10].reshape(())]
    views.append(weight[::-1][:1])  # the stride of a single row has no meaning
    read = roundtrip(views, tmp_path)
    assert (tmp_path / "file.pt").stat().st_size < 12_000
    for array, view in zip(read, views, strict=True):
        np.testing.assert_array_equal(array, view)
        assert np.shares_memory(array, read[0])
    assert not np.shares_memory(read[2], read[5][:1])
    first, second = roundtrip([weight[0], weight[1]], tmp_path)
    assert not np.may_share_memory(first, second)


def test_no_more_is_stored_than_the_arrays_have(tmp_path):
    weight = np.zeros(100_000)
    weight[1] = 7  # in a gap of every view below
    backwards = weight[1000::-100]
    views = [weight[::1000], weight[::1000], weight[1000:1000:-1], backwards, backwards, weight[50_000:50_010]]
    read = roundtrip(views, tmp_path)
    content = (tmp_path / "file.pt").read_bytes()
    assert len(content) < 4000
    assert struct.pack("<d", 7) not in content
    for array, view in zip(read, views, strict=True):
        np.testing.assert_array_equal(array, view)
    assert np.shares_memory(read[0], read[1])
    assert np.shares_memory(read[3], read[4])
    roundtrip(np.broadcast_to(np.float32(3), (10_000, 10_000)), tmp_path)
    assert len((tmp_path / "file.pt").read_bytes()) < 1000


def test_types_share_no_storage(tmp_path):
    """torch gives a storage one type."""
    weight = np.arange(4, dtype=np.float32)
    odd = weight.view(np.uint8)[2:14].view(np.float32)  # of the same type, but between its elements
    views = [weight, weight.view(np.int32), weight.view(np.uint8), odd, weight.astype(">f4")]
    read = roundtrip(views, tmp_path)
    for i, (array, view) in enumerate(zip(read, views, strict=True)):
        np.testing.assert_array_equal(array, view)
        assert not any(np.may_share_memory(array, other) for other in read[:i])


def test_storages_are_numbered_as_arrays_appear(tmp_path):
    """Not as they lie in memory, which is another way in each run."""
    base = np.arange(20.0)
    contents = []
    for value in (
        [base[10:], base[:10], base[:0], base[:0]],
        [*(base[10:].copy(), base[:10].copy()), *np.ones((2, 0))],
    ):
        roundtrip(value, tmp_path)
        contents.append((tmp_path / "file.pt").read_bytes())
    assert contents[0] == contents[1]
    assert entries(tmp_path / "file.pt")["archive/data/0"] == base[10:].tobytes()


@st.composite
def views_of_one(draw):
    base = np.arange(draw(st.sampled_from([40, 41]))).astype(draw(st.sampled_from(["i1", "<f4", ">f4", "c16"])))
    views = []
    for _ in range(draw(st.integers(1, 4))):
        start, step = draw(st.integers(0, 20)), draw(st.integers(-3, 3).filter(bool))
        view = base[start : start + 20][::step]
        if view.size % 2 == 0 and draw(st.booleans()):
            view = view.reshape(2, -1).T
        if draw(st.booleans()):
            view = np.broadcast_to(view[..., None], (*view.shape, 2))
        if view.dtype == np.int8 and view.flags.c_contiguous and draw(st.booleans()):
            view = view.view(np.uint16) if view.shape[-1] % 2 == 0 else view.view(np.uint8)
        views.append(view)
        if draw(st.booleans()):
            views += [view[::-1], view[::-1].T, view[..., ::-1]]
    return views


@given(views_of_one())
def test_any_views_of_one_array_come_back(tmp_path_factory, views):
    path = tmp_path_factory.getbasetemp()
    for array, view in zip(roundtrip(views, path), views, strict=True):
        np.testing.assert_array_equal(array, view)
        assert array.dtype == view.dtype.newbyteorder("=")
    stored = sum(len(data) for name, data in entries(path / "file.pt").items() if "/data/" in name)
    distinct = {(v.__array_interface__["data"][0], v.shape, v.strides, v.dtype.str): v.nbytes for v in views}
    assert stored <= sum(distinct.values())


def entries(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors", ".npz"])
def test_a_mapped_file_can_be_replaced_by_what_it_holds(tmp_path, suffix):
    value = {"w": np.arange(1 << 19, dtype=np.float32), "v": np.arange(6, dtype=np.int16)}
    before = roundtrip(value, tmp_path, suffix)  # 2 MiB are mapped
    content = (tmp_path / f"file{suffix}").read_bytes()
    before["w"], before["v"] = before["w"][::-1], before["v"]
    after = roundtrip(before, tmp_path, suffix)
    np.testing.assert_array_equal(after["w"], value["w"][::-1])
    np.testing.assert_array_equal(before["w"], value["w"][::-1])
    roundtrip({"w": after["w"][::-1], "v": after["v"]}, tmp_path, suffix)
    assert (tmp_path / f"file{suffix}").read_bytes() == content


def test_views_that_differ_in_negative_strides_alone(tmp_path):
    """They start and end at the same addresses."""
    array = np.arange(4.0).reshape(2, 2)[::-1]
    fastrnn.save([array, array.T], tmp_path / "a.pt")
    read = fastrnn.load(tmp_path / "a.pt")
    np.testing.assert_array_equal(read[0], array)
    np.testing.assert_array_equal(read[1], array.T)
