"""What torch saved is read exactly; the files in data/checkpoints are torch's own, and so is what they should hold."""

from __future__ import annotations

import io
import mmap
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from crafted import (
    CHECKPOINTS,
    FOUR_FLOATS,
    archive,
    numbers,
    peak_growth,
    pickled,
    storage,
    strict_load,
    tensor,
    torch_zip,
)

import fastrnn
from fastrnn import CheckpointError
from fastrnn.checkpoint import Name, Opaque
from fastrnn.checkpoint.state_dict import describe

GOLDEN = ("dtypes", "views", "objects", "protocol_3", "protocol_4", "protocol_5", "nested", "no_checksums", "small")


def arrays_in(value, path=()):
    if isinstance(value, np.ndarray):
        return {".".join(path): value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {name: array for key, item in items for name, array in arrays_in(item, (*path, str(key))).items()}


def widened(array):
    return array.astype(np.float32) if array.dtype.kind == "V" or "float8" in array.dtype.name else array


def assert_same_arrays(read, expected):
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        got = widened(read[name])
        assert (got.dtype, got.shape) == (array.dtype, array.shape), name
        assert got.tobytes() == array.tobytes(), name  # NaN and -0.0 too


def expected_arrays(name):
    with np.load(CHECKPOINTS / f"{name}.npz") as file:
        return dict(file)


@pytest.mark.parametrize("name", [*GOLDEN, "big_endian"])
def test_arrays_are_exactly_torchs(name):
    state = strict_load(CHECKPOINTS / f"{name}.pt")
    assert_same_arrays(arrays_in(state), expected_arrays(name))


def test_every_dtype_comes_back_as_itself():
    state = strict_load(CHECKPOINTS / "dtypes.pt")
    names = {name: array.dtype.name for name, array in state.items()}
    assert names.pop("complex32") == "complex64"  # NumPy has none
    assert names == {name: name for name in names}
    assert len(names) == 20


def test_views_share_memory_and_are_read_only():
    state = strict_load(CHECKPOINTS / "views.pt")
    for name in ("transposed", "slice", "steps", "scalar", "expanded", "diagonal"):
        assert np.shares_memory(state["base"], state[name]), name
    first, second, third = state["tied"]
    assert np.shares_memory(first, second)
    assert np.shares_memory(first, third)
    assert not np.shares_memory(first, state["base"])
    assert state["expanded"].strides[1] == 0
    assert state["transposed"].strides == state["base"].strides[::-1]
    for name, array in arrays_in(state).items():
        assert not array.flags.writeable, name
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("name", ["objects", "protocol_3", "protocol_4", "protocol_5"])
def test_objects_come_back_as_plain_data(name):
    state = strict_load(CHECKPOINTS / f"{name}.pt")
    plain = {key: value for key, value in state.items() if key not in ("ordered", "numpy", "dtype", "device")}
    namespace = plain.pop("namespace")
    assert plain == {
        "epoch": 3,
        "huge": -(1 << 70),
        "loss": 0.125,
        "name": "gru ü",
        "nothing": None,
        "flags": [True, False],
        "shape": (2, 3),
        "tuple": (1, (2.5, "x"), ()),
        "bytes": b"\x00\xff",
        "complex": 1 + 2j,
        "set": {1, 2},
        "counts": {"a": 1},
        "counter": {"a": 2, "b": 1},
        "keys": {1: "int", (2, "b"): "tuple", None: "none", 2.5: "float"},
        "numpy_scalars": [0.5, -3, True],
    }
    assert list(state["ordered"]) == ["z", "a"]
    assert type(state["dtype"]) is Name
    assert str(state["dtype"]) == "torch.float16"
    assert type(state["device"]) is Opaque
    assert state["device"].args == ("cpu",)
    assert namespace.state == {"lr": 0.1, "layers": [1, 2]}


def test_a_whole_module_is_an_inert_record():
    module = strict_load(CHECKPOINTS / "module.pt")
    assert type(module) is Opaque
    assert module.name == "Model"
    expected = expected_arrays("module")
    for info in filter(lambda info: info.is_recurrent, fastrnn.find_layers(module)):
        _, arrays = describe(module, info.prefix)
        assert_same_arrays(
            {info.prefix + name: array for name, array in arrays.items()},
            {name: array for name, array in expected.items() if name.startswith(info.prefix)},
        )


def test_the_ways_to_say_where():
    path = CHECKPOINTS / "small.pt"
    content = path.read_bytes()
    with open(path, "rb") as file:
        sources = [str(path), path, content, bytearray(content), memoryview(content), io.BytesIO(content), file]
        for source in sources:
            np.testing.assert_array_equal(fastrnn.load(source)["a"], [[0, 3], [1, 4], [2, 5]])


def test_the_content_and_not_the_suffix_tells_the_format(tmp_path):
    for name in ("small.pt", "gru_bf16.safetensors", "small.npz"):
        other = tmp_path / f"{name}.txt"
        other.write_bytes((CHECKPOINTS / name).read_bytes())
        assert repr(strict_load(other)) == repr(strict_load(CHECKPOINTS / name))


def test_files_that_cannot_be_opened_are_oserrors(tmp_path):
    with pytest.raises(FileNotFoundError):
        fastrnn.load(tmp_path / "missing.pt")
    with pytest.raises(IsADirectoryError if os.name == "posix" else PermissionError):
        fastrnn.load(tmp_path)


def test_wrong_arguments():
    for wrong in (None, 3, ["a.pt"], np.zeros(3)):
        with pytest.raises(TypeError, match="path, bytes or a binary file object"):
            fastrnn.load(wrong)
    with pytest.raises(TypeError, match="binary mode"):
        fastrnn.load(io.StringIO("text"))


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "broken.pt"
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(CheckpointError, match=r"broken\.pt: the zip archive"):
        fastrnn.load(path)
    with open(path, "rb") as file, pytest.raises(CheckpointError, match=r"broken\.pt: the zip archive"):
        fastrnn.load(file)


def test_an_unforeseen_exception_is_a_checkpoint_error(monkeypatch):
    for error, reason in ((ZeroDivisionError, "cannot be read: ZeroDivisionError"), (MemoryError, "more memory")):

        def fails(*_, error=error):
            raise error

        monkeypatch.setattr(fastrnn.checkpoint, "load_torch", fails)
        with pytest.raises(CheckpointError, match=rf"small\.pt: .*{reason}") as caught:
            fastrnn.load(CHECKPOINTS / "small.pt")
        assert type(caught.value.__cause__) is error


# Archives that torch does not write, but that are in order


def test_a_file_packed_anew_is_read():
    with zipfile.ZipFile(CHECKPOINTS / "views.pt") as file:
        entries = [(name, file.read(name)) for name in file.namelist()]
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        content = archive(entries, compression)
        state = strict_load(content)
        assert_same_arrays(arrays_in(state), expected_arrays("views"))
        assert np.shares_memory(state["base"], state["transposed"])


def test_data_off_its_natural_addresses_is_not_copied():
    for name in ("x/data.pkl", "xy/data.pkl", "xyz/data.pkl", "xyzw/data.pkl"):
        prefix = name.removesuffix("data.pkl")
        entries = [(name, pickled(tensor())), (prefix + "data/0", FOUR_FLOATS), (prefix + "version", b"3\n")]
        content = archive(entries)
        read = strict_load(content)
        np.testing.assert_array_equal(read, [0, 1, 2, 3])
        assert np.shares_memory(read, np.frombuffer(content, np.uint8))


def test_a_streamed_archive_is_read():
    """Sizes and checksums behind the data, which is what a writer does that cannot go back."""

    class Pipe(io.RawIOBase):
        def __init__(self):
            self.content = b""

        def writable(self):
            return True

        def write(self, data):
            self.content += bytes(data)
            return len(data)

    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        pipe = Pipe()
        with zipfile.ZipFile(pipe, "w", compression) as file:
            file.writestr("a/data.pkl", pickled(tensor()))
            with file.open("a/data/0", "w", force_zip64=True) as entry:
                entry.write(FOUR_FLOATS)
        np.testing.assert_array_equal(strict_load(pipe.content), [0, 1, 2, 3])


def test_zip64_records_are_read():
    """All that would be needed for more than 4 GiB, in a small file."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, data in (("a/data.pkl", pickled(tensor())), ("a/data/0", FOUR_FLOATS)):
            with file.open(name, "w", force_zip64=True) as entry:
                entry.write(data)
    np.testing.assert_array_equal(strict_load(out.getvalue()), [0, 1, 2, 3])


def test_big_endian_half_floats_and_complex_numbers_are_swapped():
    for kind, dtype in (
        ("HalfStorage", "f2"),
        ("ComplexFloatStorage", "c8"),
        ("ShortStorage", "i2"),
        ("ByteStorage", "u1"),
    ):
        values = np.arange(6).astype(dtype)
        layout = {"size": numbers(2, 3), "stride": numbers(1, 2)}
        content = torch_zip(
            pickled(tensor(storage(numel=6, kind=kind), **layout)),
            {"0": values.astype(">" + dtype).tobytes()},
            more=[("archive/byteorder", b"big")],
        )
        read = strict_load(content)
        assert read.dtype == values.dtype
        np.testing.assert_array_equal(read, values.reshape(3, 2).T)


def test_a_storage_may_end_in_part_of_an_element():
    content = torch_zip(pickled(tensor()), {"0": FOUR_FLOATS + b"\0\0"})
    np.testing.assert_array_equal(strict_load(content), [0, 1, 2, 3])


# Maps


@pytest.fixture
def large(tmp_path):
    path = tmp_path / "large.pt"
    fastrnn.save({"a": np.arange(1 << 20, dtype=np.float32), "b": np.ones(3)}, path)
    return path


def test_large_files_are_mapped_and_outlive_the_call(large):
    state = fastrnn.load(large, max_bytes=4 << 20)
    base = state["a"]
    while isinstance(base, np.ndarray):
        base = base.base
    assert type(base) is mmap.mmap
    large.unlink()
    np.testing.assert_array_equal(state["a"], np.arange(1 << 20))


def test_damage_in_a_mapped_file_is_found(large):
    with open(large, "r+b") as file:
        file.seek(3 << 20)
        file.write(b"\xff")
    with pytest.raises(CheckpointError, match="checksum"):
        fastrnn.load(large)
    assert fastrnn.load(large, check_crc=False)["a"].shape == (1 << 20,)


def test_a_mapped_file_stays_out_of_memory(tmp_path):
    """Checksums included: the peak of a fresh process grows by far less than the file is large."""
    path = tmp_path / "large.pt"
    fastrnn.save({f"w{i}": np.full(1 << 20, i, np.float32) for i in range(16)}, path)
    script = """
import sys, fastrnn
fastrnn.load(sys.argv[1])
---
state = fastrnn.load(sys.argv[2])
"""
    assert peak_growth(script, str(CHECKPOINTS / "small.pt"), str(path)) < 16_000  # of 64 MB


def test_a_large_stream_is_bounded(large):
    with open(large, "rb") as file, pytest.raises(CheckpointError, match="max_bytes"):
        fastrnn.load(file, max_bytes=1 << 20)


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="Unix only")
def test_a_stream_without_an_end_is_refused():
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        fastrnn.load("/dev/zero")


def test_nothing_heavy_is_imported():
    script = """
import sys, fastrnn.checkpoint
state = fastrnn.load(sys.argv[1])
print(sorted({"safetensors", "ml_dtypes", "torch", "pickle", "zipfile"} & set(sys.modules)))
"""
    before = "import sys, numpy; print(sorted({'pickle', 'zipfile'} & set(sys.modules)))"
    path = str(CHECKPOINTS / "small.pt")
    outputs = [
        subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout
        for code in (before, script)
    ]
    assert outputs[0] == outputs[1]
