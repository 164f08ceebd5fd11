"""Files of 2 GB: what is loaded of them stays on the disk until it is used. They are sparse, and small on the disk."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from crafted import CHECKPOINTS, layer_state, number, numbers, old_storage, peak_growth, pickled, stream, tensor, text

from fastrnn.checkpoint import find_layers, load
from fastrnn.checkpoint.save import _write_safetensors, _write_torch

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measured by /proc, with sparse files")


class Sparse:
    """A file in which long runs of zeros are only skipped."""

    def __init__(self, file):
        self.file = file

    def write(self, piece):
        if len(piece) < 1 << 20:
            self.file.write(piece)
        else:
            self.file.seek(len(piece), os.SEEK_CUR)


def state():
    """Zeros, of which NumPy's memory is not there either until it is written to, and a layer."""
    arrays = {f"weight.{i}": np.zeros((1 << 12, 1 << 11), np.float32) for i in range(60)}
    arrays |= {f"mask.{i}": np.zeros((1 << 12, 1 << 13), bool) for i in range(4)}
    return arrays | layer_state("GRU", 3, 4, prefix="rnn.")


def write_stream(arrays, file):
    """torch's old format."""
    kinds = {"float32": "FloatStorage", "bool": "BoolStorage"}
    items = []
    for name, array in arrays.items():
        data = old_storage(name, array.size, kinds[array.dtype.name])
        strides = (stride // array.itemsize for stride in array.strides)
        items += [text(name), tensor(data, offset=number(0), size=numbers(*array.shape), stride=numbers(*strides))]
    file.write(stream(pickled(b"}(", *items, b"u"), {}, keys=list(arrays)))
    for array in arrays.values():
        file.write(array.size.to_bytes(8, "little"))
        file.write(array.reshape(-1).view(np.uint8).data)


WRITERS = {
    "zip": _write_torch,
    "stream": write_stream,
    "safetensors": lambda arrays, file: _write_safetensors(arrays, file, {}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_loaded_stays_on_the_disk(kind, tmp_path):
    arrays, path = state(), tmp_path / "large"
    with open(path, "wb") as file:
        WRITERS[kind](arrays, Sparse(file))
        file.truncate()
    assert path.stat().st_size > 2 << 30
    read = load(path, check_crc=False)
    assert {name: (array.shape, array.dtype) for name, array in read.items()} == {
        name: (array.shape, array.dtype) for name, array in arrays.items()
    }
    for name in [name for name in arrays if name.startswith("rnn.")]:
        np.testing.assert_array_equal(read[name], arrays[name])
    assert "rnn." in [info.prefix for info in find_layers(read)]
    script = """
import sys, fastrnn
small = fastrnn.load(sys.argv[1])
---
state = fastrnn.load(sys.argv[2]), fastrnn.load(sys.argv[2], check_crc=False)
fastrnn.find_layers(state[0])
"""
    assert peak_growth(script, str(CHECKPOINTS / "small.pt"), str(path)) < 50_000  # of 2.1 million
