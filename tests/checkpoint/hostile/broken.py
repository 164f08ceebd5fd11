"""Group 6: pickles and files that are cut off, or that use what is not there."""

from __future__ import annotations

import json
import pickle

import numpy as np
from crafted import (
    call,
    crafted_safetensors,
    entry,
    named,
    npy,
    npz,
    number,
    numbers,
    old_storage,
    pickled,
    script_archive,
    tensor,
    text,
    torch_zip,
)

from .old import stream_of, tar_of

MISUSES = {
    "no protocol": b"N.",
    "protocol 0": pickled(b"N", protocol=0),
    "protocol 6": pickled(b"N", protocol=6),
    "no stop": b"\x80\x02N",
    "empty": b"",
    "nothing to return": pickled(b""),
    "two objects": pickled(b"NN"),
    "open mark": pickled(b"(N"),
    "trailing bytes": pickled(b"N") + b"x",
    "no mark": pickled(b"t"),
    "pop from nothing": pickled(b"0"),
    "tuple of nothing": pickled(b"N\x87"),
    "memo of nothing": pickled(b"q\x00"),
    "get what was never put": pickled(b"h\x07"),
    "append to a number": pickled(b"K\x01Na"),
    "set items of a list": pickled(b"](NNu"),
    "odd items": pickled(b"}(Nu"),
    "items to a list": pickled(b"](N\x90"),
    "state for a number": pickled(b"K\x01}b"),
    "state for a name": pickled(named("a", "b"), b"}b"),
    "list of a dict record": pickled(named("a", "b"), b")\x81NNsNa"),
    "dict of a list record": pickled(named("a", "b"), b")\x81NaNNs"),
    "call of a number": pickled(b"K\x01)R"),
    "call with a list": pickled(named("a", "b"), b"]R"),
    "call of what a call gave": pickled(call(named("a", "b")), b")R"),
    "object of a number": pickled(b"K\x01)\x81"),
    "stack global of numbers": pickled(b"K\x01K\x01\x93"),
    "global without an end": pickled(b"cabc"),
    "string longer than the file": b"\x80\x02X\xff\xff\xff\xffabc.",
    "string that is not UTF-8": pickled(b"X\x01\x00\x00\x00\xff"),
    "bytes of 2^63": b"\x80\x04\x8e" + (1 << 63).to_bytes(8, "little") + b".",
    "name that is not UTF-8": pickled(b"c\xff\nb\n"),
    "integer of 256 bytes": pickled(b"\x8b\x00\x01\x00\x00" + bytes(256)),
    "list as key": pickled(b"}]Ns"),
    "dict as key": pickled(b"}}Ns"),
    "set as key": b"\x80\x04}\x8fNs.",
    "array as key": pickled(b"}", pickle.dumps(np.zeros(1), 2)[2:-1], b"Ns"),
    "complex as key": pickled(b"}", pickle.dumps(1j, 2)[2:-1], b"Ns"),
    "tuple with a list as key": pickled(b"}]\x85Ns"),
    "tuple of 100 as key": pickled(b"}", numbers(*range(100)), b"Ns"),
    "list in a set": b"\x80\x04\x8f(]\x90.",
    "ordered dict of a list": pickled(call(named("collections", "OrderedDict"), b"]Na")),
    "bytes that are none": pickled(call(named("_codecs", "encode"), text("€"), text("latin1"))),
    "persistent id that is text": pickled(text("0"), b"Q"),
}

_IN_STREAMS = ("nothing to return", "open mark", "get what was never put", "call of a number", "list as key")
_ENTRY = json.dumps(entry()).encode()
_WHOLE = {
    "zip": torch_zip(pickled(tensor())),
    "stream": stream_of(tensor(old_storage())),
    "tar": tar_of().rstrip(b"\0"),  # without what fills it up
    "torchscript": script_archive(pickled(tensor())),
    "safetensors": crafted_safetensors({"a": entry()}, bytes(4)),
    "npz": npz(npy()),
}

BROKEN = {
    **{name: (torch_zip(content, {}), ".") for name, content in MISUSES.items()},
    **{f"stream: {name}": (stream_of(MISUSES[name][2:-1], {}), ".") for name in _IN_STREAMS},
    **{
        f"{kind}: {part}": (content[:n], ".")
        for kind, content in _WHOLE.items()
        for part, n in (("three bytes", 3), ("half", len(content) // 2), ("all but a byte", len(content) - 1))
    },
    "nothing": (b"", "empty"),
    "stream: magic alone": (stream_of(b"N")[:15], "."),
    "stream: another magic": (stream_of(b"N", {}, magic=number(0x1950A86A20F9469CFC6D)), "."),
    "stream: another version": (stream_of(b"N", {}, version=number(1002)), "."),
    "stream: magic that is text": (stream_of(b"N", {}, magic=text("0")), "."),
    "stream: system that is none": (stream_of(tensor(old_storage()), info=b"N"), "."),
    "stream: something behind": (stream_of(tensor(old_storage())) + b"x", "."),
    "safetensors: not JSON": (crafted_safetensors(b"{abc", bytes(4)), "."),
    "safetensors: not UTF-8": (crafted_safetensors(b'{"\xff":1}', bytes(4)), "."),
    "safetensors: header longer than the file": (crafted_safetensors({"a": entry()}, bytes(4), length=1000), "."),
    "safetensors: header of 2^63": (crafted_safetensors({"a": entry()}, bytes(4), length=1 << 63), "."),
    "safetensors: no header": (bytes(8) + b"{", "."),
    "safetensors: one name twice": (crafted_safetensors(b'{"a":' + _ENTRY + b',"a":' + _ENTRY + b"}", bytes(4)), "."),
    "npz: no shape": (npz(npy(header="{'descr': '<f4', 'fortran_order': False, 'descr': '<f4', }")), "."),
    "npz: other key": (npz(npy(header="{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'x': 1}")), "."),
    "npz: version 4": (npz(npy(version=4)), "."),
    "npz: no magic": (npz(npy(magic=b"NUMPY\x93")), "."),
    "npz: cut header": (npz(npy()[:20]), "."),
    "npz: empty member": (npz(b""), "."),
}
