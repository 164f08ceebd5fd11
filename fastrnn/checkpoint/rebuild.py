"""What torch's names in a pickle mean: arrays over storages."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import CheckpointError
from . import dtypes
from .dtypes import DType
from .inert import Intermediate, Name, Opaque, Unfinished, shorten
from .limits import Limits
from .numpy_values import NumpyValues
from .views import Array as Array
from .views import ints, usable, view

_QUANTISED = {"QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"}
_CALL_OPS = 10  # an array takes as long as ten common operations of a pickle
_NO_DATA = {
    "_rebuild_meta_tensor_no_storage": "a meta tensor, which has a shape but no data",
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
}


@dataclass(slots=True, eq=False)
class Storage(Intermediate):
    """The data that tensors show; `dtype` is None where each tensor says its own.

    `start` and `stop` say which bytes: in files from before torch 0.4 a storage may be part of another one.
    """

    key: str
    dtype: DType | None
    start: int = 0
    stop: int | None = None
    what = "storage"

    @property
    def unit(self) -> int:
        """Bytes that its size counts."""
        return 1 if self.dtype is None else dtypes.numpy_dtype(self.dtype).itemsize


def storage(kind: Name, key: str) -> Storage:
    """The storage of a class that torch's files name.

    Raises
    ------
    CheckpointError
        There is no such class, or it is one of quantised data.
    """
    if kind.name == "UntypedStorage" and kind.module in ("torch", "torch.storage"):
        return Storage(key, None)
    row = dtypes.BY_STORAGE.get(kind.name) if kind.module == "torch" else None
    if row is None:
        what = "a quantised tensor" if kind.module == "torch" and kind.name in _QUANTISED else "storage"
        raise CheckpointError(f"not supported: {what} of type {shorten(str(kind))}")
    return Storage(key, row)


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
        self._functions: dict[str, Callable[[tuple[Any, ...]], Any]] = {
            "torch._utils._rebuild_tensor": self.tensor,
            "torch._utils._rebuild_tensor_v2": self.tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_v3,
            "torch._utils._rebuild_parameter": self._parameter,
            "torch._utils._rebuild_parameter_with_state": self._parameter,
            "torch._utils._rebuild_device_tensor_from_numpy": self._from_device,
            "torch._utils._rebuild_device_tensor_from_cpu_tensor": self._from_device,
            "torch._utils._rebuild_xla_tensor": self._from_device,
            "torch._tensor._rebuild_from_type_v2": self._typed,
            "torch._tensor._rebuild_from_type": self._typed,
            "torch.tensor._rebuild_from_type": self._typed,
            "torch.Size": self._size,
            "torch.nn.parameter.Parameter": self._variable,
            "torch.autograd.variable.Variable": self._variable,
            "torch.jit._pickle.restore_type_tag": self._unwrapped,
            **NumpyValues(limits).functions,
        }
        for kind in ("int", "double", "bool", "tensor"):
            self._functions[f"torch.jit._pickle.build_{kind}list"] = self._unwrapped

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        if name.module == "torch._utils" and name.name in _NO_DATA:
            raise CheckpointError(f"not supported: {_NO_DATA[name.name]}")
        function = self._functions.get(str(name))
        if function is not None:
            self._limits.spend(_CALL_OPS)
        value = NotImplemented if function is None else function(args)
        return Opaque(name.module, name.name, args) if value is NotImplemented else value

    def persistent(self, key: Any) -> Any:
        """``("storage", class, key, device, number of elements)``, as torch.save writes it."""
        if type(key) is not tuple or [*map(type, key[:3]), len(key)] != [str, Name, str, 5] or key[0] != "storage":
            raise CheckpointError("the pickle refers to something outside that is not a storage")
        return self.storage(storage(key[1], key[2]), key[4])

    def storage(self, part: Storage, numel: Any) -> Storage:
        """`part` itself; it is checked that there are `numel` elements, as the pickle says."""
        if type(numel) is not int or numel < 0:
            raise CheckpointError("a storage has a size that is none")
        if part.key not in self._raw:
            self._raw[part.key] = self._read_storage(part.key)
        if len(self._raw[part.key]) // part.unit != numel:
            raise CheckpointError(f"storage {shorten(part.key)} has not the size that the pickle says")
        return part

    # Tensors

    def tensor(self, args: tuple[Any, ...]) -> Array:
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
        data = self._usable[slot][storage.start : storage.stop]
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
                array = np.asarray(function(array))  # of no dimensions it is a scalar otherwise
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
        return function(args[2]) if function in (self.tensor, self._tensor_v3) else NotImplemented

    def _size(self, args: tuple[Any, ...]) -> tuple[int, ...]:
        return ints(args[0] if len(args) == 1 else None, "torch.Size")

    # Older torch

    def _variable(self, args: tuple[Any, ...]) -> Any:
        """(tensor): a parameter in torch 0.1 to 0.3; the very first ones have the tensor in the state that follows."""
        if not args:
            return Unfinished(self._variable_from_state, "parameter")
        return args[0] if isinstance(args[0], np.ndarray) else NotImplemented

    def _variable_from_state(self, state: Any) -> Array:
        """(tensor, gradient, hooks, requires_grad, volatile)"""
        if type(state) is not tuple or len(state) != 5 or not isinstance(state[0], np.ndarray):
            raise CheckpointError("a parameter is not a tensor")
        return state[0]

    def build(self, value: Any, state: Any) -> bool:
        """(requires_grad, volatile, hooks) of a parameter: nothing that an array has."""
        is_flags = type(state) is tuple and [*map(type, state[:2]), len(state)] == [bool, bool, 3]
        return isinstance(value, np.ndarray) and is_flags

    # Other devices, and TorchScript

    def _from_device(self, args: tuple[Any, ...]) -> Any:
        """(array, dtype, device, requires_grad): a tensor of XLA and the like, widened where NumPy lacks its type."""
        return args[0] if len(args) == 4 and isinstance(args[0], np.ndarray) else NotImplemented

    def _unwrapped(self, args: tuple[Any, ...]) -> Any:
        """(value[, type]): what TorchScript says of the types of lists and dicts is left out."""
        return args[0] if args and type(args[0]) in (list, dict) else NotImplemented
