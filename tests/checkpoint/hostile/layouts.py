"""Groups 2 and 3: tensors that are not where they say, and giants over a few bytes."""

from __future__ import annotations

from crafted import (
    FOUR_FLOATS,
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
    storage,
    tensor,
    text,
    torch_zip,
    tup,
    with_tensor,
)

from .old import stream_of, tar_of, tar_storages, tar_tensors


def stream_view(key="1", offset=1, size=2, n=2):
    """A stream's tensor over a part of a storage."""
    return stream_of(tensor(old_storage(part=tup(text(key), number(offset), number(size))), size=numbers(n)))


_TORCH = {
    "size beyond the storage": with_tensor(size=numbers(5)),
    "stride beyond the storage": with_tensor(size=numbers(2, 2), stride=numbers(3, 1)),
    "offset beyond the storage": with_tensor(offset=number(4)),
    "last element beyond the storage": with_tensor(offset=number(1)),
    "negative size": with_tensor(size=numbers(-1)),
    "negative stride": with_tensor(stride=numbers(-1), offset=number(3)),
    "negative offset": with_tensor(offset=number(-1)),
    "two sizes, one stride": with_tensor(size=numbers(2, 2)),
    "one size, two strides": with_tensor(stride=numbers(1, 1)),
    "65 dimensions": with_tensor(size=numbers(*[1] * 65), stride=numbers(*[1] * 65)),
    "size that wraps 64 bits": with_tensor(size=numbers(1 << 62, 4), stride=numbers(0, 1)),
    "size of 2^63": with_tensor(size=numbers(1 << 63), stride=numbers(0)),
    "size of 2^1000": with_tensor(size=numbers(1 << 1000), stride=numbers(0)),
    "stride that wraps 64 bits": with_tensor(size=numbers(2), stride=numbers(1 << 62)),
    "offset that wraps 64 bits": with_tensor(offset=number((1 << 64) - 4)),
    "empty with a size of 2^62": with_tensor(size=numbers(0, 1 << 62), stride=numbers(1, 1)),
    "bool as a size": with_tensor(size=tup(b"\x88")),
    "float as an offset": with_tensor(offset=b"G" + bytes(8)),
    "list as a size": with_tensor(size=b"]"),
    "None as a stride": with_tensor(stride=b"N"),
    "tensor without a storage": with_tensor(b"N"),
    "tensor over a tensor": with_tensor(tensor()),
    "tensor of a name": torch_zip(pickled(call(named("torch._utils", "_rebuild_tensor_v2"), named("a", "b")))),
    "tensor of nothing": torch_zip(pickled(call(named("torch._utils", "_rebuild_tensor_v2")))),
    "v2 without a type": with_tensor(storage(kind="UntypedStorage", module="torch.storage", numel=16)),
    "v3 without a type": with_tensor(version="_rebuild_tensor_v3"),
    "v3 of a foreign type": with_tensor(version="_rebuild_tensor_v3", rest=named("os", "float32")),
    "v3 of an unknown type": with_tensor(version="_rebuild_tensor_v3", rest=named("torch", "float128")),
    "v3 of a larger type": with_tensor(version="_rebuild_tensor_v3", rest=named("torch", "float64")),
    "metadata that is an array": with_tensor(rest=tensor()),
    "metadata of another kind": with_tensor(rest=b"}" + text("other") + b"\x88s"),
    "conjugate of integers": with_tensor(storage(kind="IntStorage"), rest=b"}" + text("conj") + b"\x88s"),
    "parameter of nothing": torch_zip(pickled(call(named("torch._utils", "_rebuild_parameter"), b"N"))),
    "storage that is larger than said": with_tensor(storage(numel=3), size=numbers(3)),
    "storage that is smaller than said": with_tensor(storage(numel=5)),
    "storage of negative size": with_tensor(storage(numel=-4)),
    "storage of 2^62": with_tensor(storage(numel=1 << 62)),
    "storage of another type's size": with_tensor(storage(kind="DoubleStorage")),
    "storage of an unknown type": with_tensor(storage(kind="QInt8Storage")),
    "storage of a foreign type": with_tensor(storage(module="os")),
    "storage that is missing": with_tensor(storage("1")),
    "storage outside": with_tensor(storage("../../x")),
    "storage by another digit": with_tensor(storage("٠")),
    "storage by a number": torch_zip(pickled(tup(text("storage"), named("torch", "FloatStorage"), number(0)), b"Q")),
    "storage by an array": torch_zip(pickled(tup(*[tensor()] * 5), b"Q")),
    "bare storage": torch_zip(pickled(storage())),
    "storage in a list": torch_zip(pickled(b"]", storage(), b"a")),
    "storage in a record": torch_zip(pickled(call(named("a", "b"), storage()))),
}

_SAFETENSORS = {
    "overlap": crafted_safetensors({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6)),
    "hole": crafted_safetensors({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "trailing bytes": crafted_safetensors({"a": entry()}, bytes(5)),
    "missing bytes": crafted_safetensors({"a": entry()}, bytes(3)),
    "shape and size differ": crafted_safetensors({"a": entry(shape=(2,))}, bytes(4)),
    "shape that overflows": crafted_safetensors({"a": entry(shape=(1 << 62, 8))}, bytes(4)),
    "negative shape": crafted_safetensors({"a": entry(shape=(-1,))}, bytes(4)),
    "65 dimensions": crafted_safetensors({"a": entry(shape=[1] * 65)}, bytes(4)),
    "empty with a huge side": crafted_safetensors({"a": entry(shape=(0, 1 << 62), offsets=(0, 0))}),
    "unknown type": crafted_safetensors({"a": entry("F128")}, bytes(4)),
    "type of half a byte": crafted_safetensors({"a": entry("F4", (8,))}, bytes(4)),
}

_NPY = {
    "structure": npy("[('a', '<f4')]"),
    "void": npy("'|V4'"),
    "dates": npy("'<M8[s]'"),
    "unknown letter": npy("'<q4'"),
    "float of 3 bytes": npy("'<f3'"),
    "long double": npy("'<f16'"),
    "text of 10^9": npy("'<U1000000000'"),
    "header that is longer than the data": npy(shape="(5,)"),
    "header that is shorter than the data": npy(shape="(3,)"),
    "shape that overflows": npy(shape=f"({1 << 62}, 4)"),
    "shape of 10^100": npy(shape=f"({10**100},)"),
    "empty with a huge side": npy(shape=f"(0, {1 << 62})", data=b""),
    "negative shape": npy(shape="(-4,)"),
    "65 dimensions": npy(shape=str((1,) * 65), data=bytes(4)),
}

_STREAM = {
    "size beyond the storage": stream_of(tensor(old_storage(), size=numbers(5))),
    "negative stride": stream_of(tensor(old_storage(), stride=numbers(-1), offset=number(3))),
    "count beyond the file": stream_of(tensor(old_storage()), {"0": (5, FOUR_FLOATS)}),
    "count below what is said": stream_of(tensor(old_storage()), {"0": (3, FOUR_FLOATS)}),
    "count that is negative": stream_of(tensor(old_storage()), {"0": (-4, FOUR_FLOATS)}),
    "count of 2^62": stream_of(tensor(old_storage(numel=1 << 62)), {"0": (1 << 62, FOUR_FLOATS)}),
    "count that wraps 64 bits": stream_of(
        tensor(old_storage(numel=1 << 62, kind="DoubleStorage")), {"0": (1 << 62, b"")}
    ),
    "storage of negative size": stream_of(tensor(old_storage(numel=-4))),
    "storage of an unknown type": stream_of(tensor(old_storage(kind="SystemStorage"))),
    "storage of two sizes of element": stream_of(tup(tensor(old_storage()), tensor(old_storage(kind="DoubleStorage")))),
    "storage of two sizes": stream_of(tup(tensor(old_storage()), tensor(old_storage(numel=3), size=numbers(3)))),
    "storage without data": stream_of(tensor(old_storage()), {}),
    "data without a storage": stream_of(b"N"),
    "key twice": stream_of(tensor(old_storage()), keys=b"](" + text("0") * 2 + b"e"),
    "keys that are numbers": stream_of(tensor(old_storage()), keys=b"]" + number(0) + b"a"),
    "keys that are no list": stream_of(tensor(old_storage()), keys=text("0")),
    "view beyond the storage": stream_view(offset=3),
    "view of negative size": stream_view(size=-2),
    "view at a negative offset": stream_view(offset=-1),
    "view that wraps 64 bits": stream_view(offset=(1 << 64) - 4),
    "view that is too small": stream_view(n=3),
    "view by a number": stream_of(tensor(old_storage(part=tup(number(1), number(1), number(2))), size=numbers(2))),
    "view of two numbers": stream_of(tensor(old_storage(part=tup(text("1"), number(1))), size=numbers(2))),
    "view that is text": stream_of(tensor(old_storage(part=text("1")))),
    "bare storage": stream_of(old_storage()),
}

_TAR = {
    "size beyond the storage": tar_of(tensors=tar_tensors((5,))),
    "stride beyond the storage": tar_of(tensors=tar_tensors((2, 2), (3, 1))),
    "offset beyond the storage": tar_of(tensors=tar_tensors(offset=1)),
    "negative size": tar_of(tensors=tar_tensors((-1,))),
    "negative stride": tar_of(tensors=tar_tensors((4,), (-1,), 3)),
    "negative offset": tar_of(tensors=tar_tensors(offset=-1)),
    "negative rank": tar_of(tensors=tar_tensors(ndim=-1)),
    "rank of 2^31": tar_of(tensors=tar_tensors(ndim=(1 << 31) - 1)),
    "65 dimensions": tar_of(tensors=tar_tensors((1,) * 65, (1,) * 65)),
    "size that wraps 64 bits": tar_of(tensors=tar_tensors((1 << 62, 4), (0, 1))),
    "more tensors than there are": tar_of(tensors=tar_tensors(n=2)),
    "negative number of tensors": tar_of(tensors=tar_tensors(n=-1)),
    "tensor of a storage that is missing": tar_of(tensors=tar_tensors(root=7)),
    "tensor that is missing": tar_of(tensors=tar_tensors(key=3)),
    "storage beyond the file": tar_of(storages=tar_storages(count=5)),
    "storage of negative size": tar_of(storages=tar_storages(count=-1)),
    "storage of 2^62": tar_of(storages=tar_storages(count=1 << 62)),
    "storage of an unknown type": tar_of(storages=tar_storages(kind="SystemStorage")),
    "view beyond the storage": tar_of(
        storages=tar_storages(views=b"]" + numbers(5, 1, 2, 3) + b"a"), tensors=tar_tensors((3,), root=5)
    ),
    "view at a negative offset": tar_of(
        storages=tar_storages(views=b"]" + numbers(5, 1, -1, 3) + b"a"), tensors=tar_tensors((3,), root=5)
    ),
    "view of negative size": tar_of(
        storages=tar_storages(views=b"]" + numbers(5, 1, 3, -2) + b"a"), tensors=tar_tensors((0,), root=5)
    ),
    "view of a view that is missing": tar_of(
        storages=tar_storages(views=b"]" + numbers(5, 6, 0, 3) + b"a"), tensors=tar_tensors((3,), root=5)
    ),
    "views that are no list": tar_of(storages=tar_storages(views=b"N")),
}

_MEMBER = named("__torch__", "M") + b")\x81}" + text("w")
LAYOUTS = {
    **{name: (content, ".") for name, content in _TORCH.items()},
    **{f"stream: {name}": (content, ".") for name, content in _STREAM.items()},
    **{f"tar: {name}": (content, ".") for name, content in _TAR.items()},
    **{f"safetensors: {name}": (content, ".") for name, content in _SAFETENSORS.items()},
    **{f"npz: {name}": (npz(content), ".") for name, content in _NPY.items()},
    "torchscript: size beyond the storage": (script_archive(pickled(_MEMBER + tensor(size=numbers(5)) + b"sb")), "."),
    "torchscript: storage that is missing": (script_archive(pickled(_MEMBER + tensor(storage("1")) + b"sb")), "."),
}

HALF = tensor(size=numbers(1 << 31), stride=numbers(0))  # 8 GiB
GIANTS = {
    "10^6 by 10^6": (with_tensor(size=numbers(10**6, 10**6), stride=numbers(0, 0)), "max_bytes"),
    "30 dimensions": (with_tensor(size=numbers(*[10] * 30), stride=numbers(*[0] * 30)), "max_bytes"),
    "three halves": (torch_zip(pickled(tup(HALF, HALF, HALF))), "max_bytes"),
    "10^6 by 10^6 with stride 1": (with_tensor(size=numbers(1, 10**12), stride=numbers(1, 0)), "max_bytes"),
    "parameter": (
        torch_zip(
            pickled(
                call(
                    named("torch._utils", "_rebuild_parameter"),
                    tensor(size=numbers(10**12), stride=numbers(0)),
                    b"\x88",
                    call(named("collections", "OrderedDict")),
                )
            )
        ),
        "max_bytes",
    ),
    "conjugate": (
        with_tensor(
            storage(kind="ComplexFloatStorage", numel=2),
            size=numbers(1 << 26),
            stride=numbers(0),
            rest=b"}" + text("conj") + b"\x88s",
        ),
        "max_bytes",
    ),
    "complex32": (
        with_tensor(
            storage(kind="UntypedStorage", module="torch.storage", numel=16),
            size=numbers(1 << 26),
            stride=numbers(0),
            version="_rebuild_tensor_v3",
            rest=named("torch", "complex32"),
        ),
        "max_bytes",
    ),
    "stream": (stream_of(tensor(old_storage(), size=numbers(10**6, 10**6), stride=numbers(0, 0))), "."),
    "tar": (tar_of(tensors=tar_tensors((10**6, 10**6), (0, 0))), "."),
    "torchscript": (
        script_archive(pickled(_MEMBER + tensor(size=numbers(10**6, 10**6), stride=numbers(0, 0)) + b"sb")),
        "max_bytes",
    ),
    "npz": (npz(npy(shape="(1000000000000,)")), "max_bytes"),
    "safetensors": (crafted_safetensors({"a": entry(shape=(10**6, 10**6))}, bytes(4)), "."),
}
