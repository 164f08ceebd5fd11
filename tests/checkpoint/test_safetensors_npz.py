"""The other two formats: what the libraries wrote is read exactly; what breaks their rules is refused."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from crafted import CHECKPOINTS, archive, contents, npy, strict_load
from hostile import READ, cases, content_of

import fastrnn
from fastrnn import CheckpointError

# safetensors


def test_bfloat16_is_exact():
    state = strict_load(CHECKPOINTS / "gru_bf16.safetensors")
    with np.load(CHECKPOINTS / "gru_bf16.npz") as expected:
        assert state.keys() == set(expected)
        for name, array in expected.items():
            if name != "step":
                assert state[name].dtype.name == "bfloat16"
            np.testing.assert_array_equal(state[name].astype(array.dtype), array)
    layer = fastrnn.from_state_dict(state)
    assert repr(layer) == "GRU(2, 3)"


def numpy_arrays():
    rng = np.random.default_rng(0)
    kinds = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
    arrays = {kind: rng.integers(0, 100, (2, 3)).astype(kind) for kind in kinds}
    return arrays | {"bool": np.array([True, False]), "scalar": np.array(1.5), "empty": np.empty((0, 3), np.float32)}


@pytest.mark.parametrize("source", ["path", "bytes"])
def test_what_the_library_wrote_is_read(tmp_path, source):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file(numpy_arrays(), path)
    read = strict_load(path if source == "path" else path.read_bytes())
    for name, array in numpy_arrays().items():
        assert (read[name].dtype, read[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(read[name], array)
        assert not read[name].flags.writeable
    assert list(read) == sorted(read)


def test_a_large_file_is_mapped(tmp_path):
    path = tmp_path / "a.safetensors"
    safetensors.numpy.save_file({"a": np.arange(1 << 20, dtype=np.float32), "b": np.ones(3, np.int8)}, path)
    state = fastrnn.load(path, max_bytes=4 << 20)
    np.testing.assert_array_equal(state["a"], np.arange(1 << 20))
    np.testing.assert_array_equal(state["b"], 1)


@pytest.mark.parametrize("name", [name for name in cases() if "safetensors" in name])
def test_hostile_files_are_mapped_no_better(name, tmp_path):
    """A path is read by another way than bytes are."""
    content, reason = content_of(cases()[name]), cases()[name][1]
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    if reason is READ:
        assert contents(strict_load(path)) == contents(strict_load(content))
        return
    with pytest.raises(CheckpointError, match=reason):
        strict_load(path)


# npz


def saved_npz(save=np.savez, **arrays):
    out = io.BytesIO()
    save(out, **arrays)
    return out.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_wrote_is_read(save):
    arrays = numpy_arrays() | {
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "complex": np.array([1 + 2j]),
        "text": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
    }
    read = strict_load(saved_npz(save, **arrays))
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert (read[name].dtype, read[name].shape) == (array.dtype.newbyteorder("="), array.shape)
        np.testing.assert_array_equal(read[name], array)
        assert not read[name].flags.writeable


def test_an_empty_npz():
    assert strict_load(saved_npz()) == {}


def test_headers_of_other_writers_are_read():
    for header in (
        "{'shape':(4,),'fortran_order':False,'descr':'<f4'}",
        "{ 'fortran_order' : False, 'descr': '<f4', 'shape': (4,) }   \n",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}\n",
    ):
        assert strict_load(archive([("a.npy", npy(header=header))]))["a"].size == 4
    for version in (2, 3):
        assert strict_load(archive([("a.npy", npy(version=version))]))["a"].shape == (4,)


def test_packed_zeros_are_read_within_the_limit_that_is_asked_for():
    zeros = npy(shape="(20000000,)", data=bytes(80_000_000))
    content = archive([("a.npy", zeros)], zipfile.ZIP_DEFLATED)
    assert strict_load(content, max_bytes=100_000_000)["a"].size == 20_000_000
