"""Groups 7 and 8: byte orders, bools, NaNs, files that are two at once; what others read only without a guard."""

from __future__ import annotations

import gzip
import io
import pickle

import numpy as np
from crafted import (
    FOUR_FLOATS,
    archive,
    call,
    crafted_safetensors,
    entry,
    machine,
    named,
    npy,
    npz,
    old_storage,
    pickled,
    script_archive,
    storage,
    tensor,
    text,
    torch_zip,
    with_tensor,
)

from .code import EXEC, OPEN, Bomb
from .old import INFO, MAGIC, stream_of, tar_of

READ = None
GOOD = with_tensor()
MODULE = named("evil", "Model") + b")\x81}" + text("training") + OPEN + b"sb"
BOOLS = tensor(storage(kind="BoolStorage"))
UNTYPED = storage(kind="UntypedStorage", module="torch.storage")
NANS = b"\x01\x02\x03\x04\x05\x06\xf0\x7f" + b"\x07\xfe\x81\x7f\x81\xff\xf1\xff"


def order(content):
    return torch_zip(pickled(tensor()), more=[("archive/byteorder", content)])


def tar_and_zip():
    """A tar archive, by its first 512 bytes, and a zip archive, by its last."""
    return tar_of() + GOOD


def zip_and_tar():
    """A zip archive whose first entry's name has tar's magic where tar has it."""
    name = "a/" + "x" * (257 - 30 - 2) + "ustar"
    return archive([(name, FOUR_FLOATS), ("a/data.pkl", pickled(b"N"))])


def zip_and_stream():
    """A stream with a zip archive behind it: by Python's zipfile it is one."""
    return stream_of(tensor(old_storage())) + GOOD


ODD = {
    "byte order that is junk": (order(b"middle"), "byte order"),
    "byte order that is empty": (order(b""), "byte order"),
    "byte order in capitals": (order(b"LITTLE"), "byte order"),
    "byte order with a line's end": (order(b"little\n"), "byte order"),
    "byte order that is long": (order(b"little" * 1000), "byte order"),
    "byte order big": (order(b"big"), READ),
    "byte order twice": (
        torch_zip(pickled(tensor()), more=[("archive/byteorder", b"big"), ("archive/byteordex", b"little")]).replace(
            b"byteordex", b"byteorder"
        ),
        "twice",
    ),
    "bool of 2": (torch_zip(pickled(BOOLS), {"0": b"\0\1\2\0"}), "bool"),
    "bool of 255 without a type": (
        torch_zip(
            pickled(tensor(UNTYPED, version="_rebuild_tensor_v3", rest=named("torch", "bool"))), {"0": b"\0\1\xff\0"}
        ),
        "bool",
    ),
    "stream: bool of 2": (stream_of(tensor(old_storage(kind="BoolStorage")), {"0": (4, b"\0\1\2\0")}), "."),
    "npz: bool of 2": (npz(npy("'|b1'", shape="(1,)", data=b"\2")), "bool"),
    "safetensors: bool of 2": (crafted_safetensors({"a": entry("BOOL", (4,))}, b"\0\1\2\0"), "bool"),
    "payload of NaN": (torch_zip(pickled(tensor()), {"0": NANS}), READ),
    "stream: system that is big-endian": (
        stream_of(tensor(old_storage()), info=machine(little=False)[2:-1]),
        READ,
    ),
    "stream: byte order that is text": (stream_of(tensor(old_storage()), info=INFO.replace(b"\x88", text("x"))), "."),
    "zip behind a program": (b"#!/bin/sh\n" + GOOD, "."),
    "zip behind an ELF header": (b"\x7fELF" + bytes(60) + GOOD, "."),
    "zip behind a picture": (b"\x89PNG\r\n\x1a\n" + GOOD, "."),
    "zip behind a PDF": (b"%PDF-1.7\n" + GOOD, "."),
    "zip behind a local header": (b"PK\3\4" + bytes(60) + GOOD, "."),
    "zip behind safetensors": (crafted_safetensors({"a": entry()}, bytes(4) + GOOD), "."),
    "zip in the safetensors header": (crafted_safetensors(b"{" + GOOD, bytes(4)), "."),
    "zip behind a tar": (tar_and_zip(), "."),
    "zip behind a stream": (zip_and_stream(), "."),
    "zip with the magic of tar": (zip_and_tar(), READ),
    "zip of npz and torch": (archive([("archive/data.pkl", pickled(b"N")), ("a.npy", npy())]), "."),
    "zip of torch and TorchScript": (script_archive(pickled(b"N"), [("n/data.pkl", pickled(b"N"))]), "2 pickles"),
    "zip before safetensors": (GOOD + crafted_safetensors({"a": entry()}, bytes(4)), "."),
    "web page": (b"<!DOCTYPE html><html><body>Not Found</body></html>", "not supported: a web page in place"),
    "pointer of Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    "one letter": (b"P", "not a checkpoint"),
    "zeros": (bytes(4096), "."),
    "ones": (b"\xff" * 4096, "."),
}


def saved_npy():
    out = io.BytesIO()
    np.save(out, np.array([Bomb()], object))
    return out.getvalue()


#: For these, readers have a mode without a guard, and tell their users to switch to it.
NO_WAY_AROUND = {
    "bare pickle": (pickle.dumps(Bomb(), 2), "bare pickle"),
    "bare pickle of protocol 0": (pickle.dumps(Bomb(), 0), "."),
    "bare pickle of protocol 5": (pickle.dumps(Bomb(), 5), "bare pickle"),
    "bare pickle with a magic number": (pickled(MAGIC) + pickle.dumps(Bomb(), 2), "."),
    "array of objects (.npy)": (saved_npy(), "single array"),
    "packed pickle": (gzip.compress(pickle.dumps(Bomb(), 2), mtime=0), "gzip"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5"),
    "whole module": (torch_zip(pickled(MODULE)), READ),
    "whole module in a stream": (stream_of(MODULE, {}), READ),
    "request for an unsafe mode": (torch_zip(pickled(b"}(" + text("weights_only") + b"\x89" + EXEC + b"Nu")), READ),
    "TorchScript": (script_archive(pickled(MODULE.replace(b"evil", b"__torch__"))), READ),
    "pickle of protocol 0 in a zip": (torch_zip(pickle.dumps(Bomb(), 0)), "protocol"),
    "pickle of protocol 1 in a zip": (torch_zip(pickle.dumps(Bomb(), 1)), "protocol"),
    "pickle of joblib in a zip": (torch_zip(pickled(call(named("joblib.numpy_pickle", "read"), EXEC))), READ),
    "keras in a zip": (archive([("config.json", b"{}"), ("model.weights.h5", b"\x89HDF\r\n\x1a\n")]), "."),
}
