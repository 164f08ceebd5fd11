"""What torch's and NumPy's names in a pickle mean: arrays over storages, checked by arithmetic of our own."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from . import dtypes
from .dtypes import DType
from .limits import Limits
from .pickle_reader import Intermediate, Name, Opaque, shorten

Array = NDArray[Any]
_ARRAY_BYTES = 128  # without shape and strides
_MAX_RANK = 64  # NumPy's
_NUMPY_TYPES = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}
_NO_DATA = {
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has a shape but no data",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
}


@dataclass(frozen=True, slots=True)
class Storage(Intermediate):
    """The data that tensors show; `dtype` is None where each tensor says its own."""

    key: str
    dtype: DType | None
    what = "storage"


def ints(value: Any, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > _MAX_RANK or not all(type(n) is int and n >= 0 for n in value):
        raise CheckpointError(f"a {what} is not a tuple of up to {_MAX_RANK} numbers from 0 upwards")
    return value


def check_size(shape: tuple[int, ...], dtype: np.dtype[Any], stored: int, limits: Limits) -> None:
    """Refuse an array that NumPy cannot make or the limits forbid; `stored` bytes are there for it."""
    if len(shape) > _MAX_RANK:
        raise CheckpointError(f"an array has {len(shape)} dimensions; {_MAX_RANK} are allowed")
    limits.allocate(_ARRAY_BYTES + 16 * len(shape), "an array")
    # Zeros count as ones: NumPy refuses an empty array whose other sizes are beyond its reach.
    limits.show(math.prod(max(n, 1) for n in shape) * dtype.itemsize, stored, "an array")


def view(
    data: memoryview,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    limits: Limits,
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
) -> Array:
    """A read-only array over `data`; it is checked that every element lies inside.

    Parameters
    ----------
    data : memoryview
        Bytes.
    dtype : numpy.dtype
        Of the elements.
    shape, strides : tuple of int
        Not negative; strides count elements, None means C order.
    offset : int
        Of the first element, in elements.

    Raises
    ------
    CheckpointError
        The array reaches beyond the data, or is larger than the limits allow.
    """
    check_size(shape, dtype, len(data), limits)
    if strides is None:
        strides = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if 0 in shape:
        array = np.empty(shape, dtype)
    else:
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if (last + 1) * dtype.itemsize > len(data):
            raise CheckpointError("a tensor reaches beyond the data that is there")
        # The stride of a single element is never used, and may be beyond 64 bits.
        steps = tuple(stride * dtype.itemsize if n > 1 else 0 for n, stride in zip(shape, strides, strict=True))
        array = np.ndarray(shape, dtype, data, offset * dtype.itemsize, steps)
    array.flags.writeable = False
    return array


def usable(data: memoryview, row: DType, limits: Limits, *, swap: bool = False) -> memoryview:
    """`data` itself, or a counted copy where its bytes are in the other order or off their natural addresses.

    Raises
    ------
    CheckpointError
        Bools are not 0 or 1, or a copy is larger than the limits allow.
    """
    unit = dtypes.swap_unit(row)
    data = data[: len(data) // unit * unit]
    if not data:
        return data
    bytes_ = np.frombuffer(data, np.uint8)
    if row.numpy == "bool" and bytes_.max() > 1:
        raise CheckpointError("bools are stored as bytes other than 0 and 1")
    off = bytes_.__array_interface__["data"][0] % unit
    swap = swap and unit > 1
    if swap or off:
        limits.allocate(len(data), "data in the other byte order" if swap else "data off its natural addresses")
        copy = bytes_.copy()
        if swap:
            copy.view(f"u{unit}").byteswap(inplace=True)
        data = copy.data.toreadonly()
    return data


class TorchMeanings:
    """Gives torch's and NumPy's names their meaning.

    Parameters
    ----------
    read_storage : callable
        Gives the bytes of a storage by its key.
    byteorder : str
        "little" or "big": of the data in storages.
    limits : Limits
        For what is allocated, and for each array.
    """

    def __init__(self, read_storage: Callable[[str], memoryview], byteorder: str, limits: Limits) -> None:
        self._read_storage, self._limits = read_storage, limits
        self._swap = byteorder != sys.byteorder
        self._raw: dict[str, memoryview] = {}
        self._usable: dict[tuple[str, str], memoryview] = {}  # by key and dtype
        self._unfinished: dict[int, Array] = {}  # NumPy arrays that wait for their state
        self._functions: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._tensor._rebuild_from_type_v2": self._typed,
            "torch.Size": self._size,
        }
        for core in ("numpy.core", "numpy._core"):
            self._functions |= {
                f"{core}.multiarray._reconstruct": self._numpy_empty,
                f"{core}.multiarray.scalar": self._numpy_scalar,
                f"{core}.numeric._frombuffer": self._numpy_from_buffer,
            }

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        if name.module == "torch._utils" and name.name in _NO_DATA:
            raise CheckpointError(f"not supported: {_NO_DATA[name.name]}")
        function = self._functions.get(str(name))
        value = NotImplemented if function is None else function(args)
        return Opaque(name.module, name.name, args) if value is NotImplemented else value

    def persistent(self, key: Any) -> Storage:
        """``("storage", class, key, device, number of elements)``, as torch.save writes it."""
        if type(key) is not tuple or [*map(type, key[:3]), len(key)] != [str, Name, str, 5] or key[0] != "storage":
            raise CheckpointError("the pickle refers to something outside that is not a storage")
        _, kind, name, _, numel = key
        if type(numel) is not int or numel < 0:
            raise CheckpointError("a storage has a size that is none")
        row, unit = None, 1
        if str(kind) not in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
            row = dtypes.BY_STORAGE.get(kind.name) if kind.module == "torch" else None
            if row is None:
                raise CheckpointError(f"not supported: storage of type {shorten(str(kind))}")
            unit = dtypes.numpy_dtype(row).itemsize
        if name not in self._raw:
            self._raw[name] = self._read_storage(name)
        if len(self._raw[name]) // unit != numel:
            raise CheckpointError(f"storage {shorten(name)} has not the size that the pickle says")
        return Storage(name, row)

    # Tensors

    def _tensor(self, args: tuple[Any, ...]) -> Array:
        """(storage, offset, size, stride[, requires_grad, hooks[, metadata]])"""
        if len(args) not in (4, 6, 7) or not isinstance(args[0], Storage) or args[0].dtype is None:
            raise CheckpointError("a tensor's description is not what torch writes")
        array = self._view(args[0].dtype, *args[:4])
        return self._marked(array, args[6]) if len(args) == 7 else array

    def _tensor_v3(self, args: tuple[Any, ...]) -> Array:
        """(storage, offset, size, stride, requires_grad, hooks, dtype[, metadata])"""
        if len(args) not in (7, 8) or not isinstance(args[0], Storage) or not isinstance(args[6], Name):
            raise CheckpointError("a tensor's description is not what torch writes")
        row = dtypes.BY_TORCH.get(args[6].name) if args[6].module == "torch" else None
        if row is None:
            raise CheckpointError(f"not supported: tensor of type {shorten(str(args[6]))}")
        array = self._view(row, *args[:4])
        return self._marked(array, args[7]) if len(args) == 8 else array

    def _view(self, row: DType, storage: Storage, offset: Any, size: Any, stride: Any) -> Array:
        shape, strides = ints(size, "tensor's size"), ints(stride, "tensor's stride")
        if len(shape) != len(strides) or type(offset) is not int or offset < 0:
            raise CheckpointError("a tensor's size, stride and offset do not fit together")
        slot = (storage.key, row.torch)
        if slot not in self._usable:
            self._usable[slot] = usable(self._raw[storage.key], row, self._limits, swap=self._swap)
        data = self._usable[slot]
        if row.torch != dtypes.COMPLEX32:
            return view(data, dtypes.numpy_dtype(row), shape, self._limits, offset, strides)
        pairs = (*(2 * stride for stride in strides), 1)  # in halves
        halves = view(data, np.dtype(np.float16), (*shape, 2), self._limits, 2 * offset, pairs)
        self._limits.allocate(4 * halves.nbytes, "complex32")  # the result and what is needed on the way
        array = halves.astype(np.float32, order="C").view(np.complex64)[..., 0]
        array.flags.writeable = False
        return array

    def _marked(self, array: Array, metadata: Any) -> Array:
        """Carry out what torch only marks: conjugation and negation."""
        marks = {} if metadata is None else metadata
        if type(marks) is not dict or not marks.keys() <= {"conj", "neg"}:
            raise CheckpointError("a tensor has metadata of an unknown kind")
        for mark, function in (("conj", np.conjugate), ("neg", np.negative)):
            if marks.get(mark) is True:
                if array.dtype.kind not in "fc":
                    raise CheckpointError(f"a tensor of {array.dtype} is marked {mark}")
                self._limits.allocate(array.nbytes, "a tensor")
                array = function(array)
                array.flags.writeable = False
        return array

    def _parameter(self, args: tuple[Any, ...]) -> Array:
        if not args or not isinstance(args[0], np.ndarray):
            raise CheckpointError("a parameter is not a tensor")
        return args[0]

    def _typed(self, args: tuple[Any, ...]) -> Any:
        """(function, class, its args, state): a tensor with attributes or of a subclass; the array is taken."""
        if len(args) != 4 or not isinstance(args[0], Name) or type(args[2]) is not tuple:
            return NotImplemented
        function = self._functions.get(str(args[0]))
        return function(args[2]) if function in (self._tensor, self._tensor_v3) else NotImplemented

    def _size(self, args: tuple[Any, ...]) -> tuple[int, ...]:
        return ints(args[0] if len(args) == 1 else None, "torch.Size")

    # NumPy's

    def _numpy_dtype(self, record: Any) -> np.dtype[Any] | None:
        """The dtype that a pickle describes; None if it is no plain number."""
        if not isinstance(record, Opaque) or (record.module, record.name) != ("numpy", "dtype"):
            return None
        name = record.args[0] if record.args else None
        state = record.state if type(record.state) is tuple else ()
        order = state[1] if len(state) > 1 else "="
        if type(name) is not str or name not in _NUMPY_TYPES or type(order) is not str or order not in "<>|=":
            return None
        return np.dtype(order + name)

    def _numpy_data(self, raw: Any, dtype: np.dtype[Any] | None, shape: tuple[int, ...]) -> Array:
        """A flat array in the machine's byte order."""
        if dtype is None:
            raise CheckpointError("not supported: a NumPy array of other than plain numbers")
        if type(raw) is not bytes or len(raw) != math.prod(shape) * dtype.itemsize:
            raise CheckpointError("a NumPy array has not the size that its shape says")
        self._limits.allocate(len(raw), "a NumPy array")  # so that no bytes are looked through too often
        row = dtypes.BY_NUMPY[dtype.newbyteorder("=").name]
        data = usable(memoryview(raw), row, self._limits, swap=not dtype.isnative)
        return view(data, dtypes.numpy_dtype(row), (math.prod(shape),), self._limits)

    def _numpy_empty(self, args: tuple[Any, ...]) -> Any:
        """An array that NumPy makes empty first and gives its content by `build`."""
        if not args or not isinstance(args[0], Name) or str(args[0]) != "numpy.ndarray":
            return NotImplemented
        array: Array = np.empty(0, np.uint8)
        self._unfinished[id(array)] = array
        return array

    def build(self, value: Any, state: Any) -> bool:
        """(version, shape, dtype, is Fortran order, bytes)"""
        array = self._unfinished.pop(id(value), None)
        if array is None:
            return False
        if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
            raise CheckpointError("a NumPy array's description is not what NumPy writes")
        _, size, record, fortran, raw = state
        shape = ints(size, "NumPy array's shape")
        flat = self._numpy_data(raw, self._numpy_dtype(record), shape)
        check_size(shape, flat.dtype, flat.nbytes, self._limits)
        self._limits.allocate(2 * flat.nbytes, "a NumPy array")
        # In place: other parts of the pickle may already refer to this very array.
        array.__setstate__((1, shape, flat.dtype, fortran, flat.tobytes()))
        array.flags.writeable = False
        return True

    def _numpy_from_buffer(self, args: tuple[Any, ...]) -> Any:
        """(bytes, dtype, shape, order)"""
        if len(args) != 4 or type(args[3]) is not str or args[3] not in ("C", "F"):
            return NotImplemented
        shape = ints(args[2], "NumPy array's shape")
        flat = self._numpy_data(args[0], self._numpy_dtype(args[1]), shape)
        check_size(shape, flat.dtype, flat.nbytes, self._limits)
        return flat.reshape(shape[::-1]).T if args[3] == "F" else flat.reshape(shape)

    def _numpy_scalar(self, args: tuple[Any, ...]) -> Any:
        dtype = self._numpy_dtype(args[0]) if len(args) == 2 else None
        return NotImplemented if dtype is None else self._numpy_data(args[1], dtype, ())[0]
