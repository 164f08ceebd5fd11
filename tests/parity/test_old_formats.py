"""Torch's old formats: what the tests put together by hand torch reads as well."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "checkpoint"))

from crafted import (
    call,
    named,
    number,
    numbers,
    old_storage,
    pickled,
    stream,
    strict_load,
    tensor,
    text,
    torch_tar,
    tup,
)

torch = pytest.importorskip("torch")

PART = tup(text("1"), number(1), number(2))
FLAGS = tup(b"\x88", b"\x89", call(named("collections", "OrderedDict")))
REFERENCES = b"".join(text(str(n)) + b"Q" for n in (9, 10, 11))
STORAGES = [(7, "DoubleStorage", 6, np.arange(6.0).tobytes()), (8, "LongStorage", 2, np.arange(2).tobytes())]
TENSORS = [(9, 7, (2, 3), (1, 2), 0), (10, 6, (2,), (2,), 0), (11, 8, (), (), 1)]
FILES = {
    "stream": stream(pickled(tup(tensor(old_storage())))),
    "stream of another machine": stream(pickled(tup(tensor(old_storage()))), little=False),
    "part of a storage": stream(pickled(tup(tensor(old_storage()), tensor(old_storage(part=PART), size=numbers(2))))),
    "parameter": stream(
        pickled(tup(named("torch.nn.parameter", "Parameter") + tensor(old_storage()) + b"\x85R" + FLAGS + b"b"))
    ),
    "tar": torch_tar(pickled(b"(" + REFERENCES + b"t"), STORAGES, TENSORS, [(6, 7, 2, 3)]),
    "tar with padding": torch_tar(pickled(b"(" + REFERENCES + b"t"), STORAGES, TENSORS, [(6, 7, 2, 3)], padding=10_240),
}


@pytest.mark.parametrize("name", FILES)
def test_torch_reads_the_same(name, tmp_path):
    path = tmp_path / "file.pt"
    path.write_bytes(FILES[name])
    ours = strict_load(path)
    theirs = torch.load(path, weights_only=False)
    assert len(ours) == len(theirs) > 0
    for array, expected in zip(ours, theirs, strict=True):
        expected = expected.detach().numpy()
        assert (array.dtype, array.shape, array.strides) == (expected.dtype, expected.shape, expected.strides)
        assert array.tobytes() == expected.tobytes()
