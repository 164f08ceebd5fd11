"""Torch's old formats, of which each part can be something else."""

from __future__ import annotations

import struct
import tarfile

from crafted import (
    FOUR_FLOATS,
    machine,
    named,
    number,
    pickled,
    stream,
    tar,
    text,
    tup,
)

MAGIC, VERSION, INFO = number(0x1950A86A20F9469CFC6C), number(1001), machine()[2:-1]


def stream_of(obj, storages=None, *, magic=MAGIC, version=VERSION, info=INFO, keys=None):
    """A stream of one object, by its opcodes as everything else."""
    head = b"".join(map(pickled, (magic, version, info)))
    return stream(pickled(obj), storages, keys=None if keys is None else pickled(keys), head=head)


def special(name, kind, target="pickle"):
    """What is no file: a link, a device, a folder."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def tar_storages(data=FOUR_FLOATS, *, count=None, kind="FloatStorage", module="torch", views=b"]"):
    """One storage, with the number 1, and views of it."""
    count = len(data) // 4 if count is None else count
    head = pickled(number(1)) + pickled(tup(number(1), text("cpu"), named(module, kind)))
    return head + struct.pack("<q", count) + data + pickled(views)


def tar_tensors(size=(4,), stride=(1,), offset=0, *, key=2, root=1, ndim=None, n=1):
    """One tensor, with the number 2."""
    head = pickled(number(n)) + pickled(tup(number(key), number(root), named("torch", "FloatTensor")))
    rank = len(size) if ndim is None else ndim
    return head + struct.pack(f"<i4x{len(size) + len(stride) + 1}q", rank, *size, *stride, offset)


PARTS = {
    "sys_info": machine(),
    "pickle": pickled(text("2") + b"Q"),
    "tensors": tar_tensors(),
    "storages": tar_storages(),
}


def tar_of(**parts):
    """`PARTS`, or others in their place."""
    return tar((PARTS | parts).items())
