"""Callers' arrays: NumPy's, which are copied in and out, and those that lie on the GPU, which are taken as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError
from .device_array import DeviceArray, base_address
from .libraries import Described, Library, library_of, plain_handle
from .runtime import Array, Device, Stream
from .views import contiguous_strides


class Kind(NamedTuple):
    """What arrays a call has, and the stream that it is done on."""

    library: Library | None
    stream: Stream


class Port:
    """The way in and out for the arrays of one call; `port` makes it.

    Attributes
    ----------
    library : Library or None
        None: NumPy.
    stream : Stream
        On which all of the call is done.
    keeps : bool
        What comes in is copied, where others might change it later.
    views : dict of str to Array
        The caller's arrays on the GPU, by their names.
    """

    def __init__(self, device: Device, dtype: np.dtype[Any], library: Library | None, like: Any) -> None:
        self.library, self.device, self._dtype = library, device, dtype
        handle, owner = library.stream(device.index, like) if library else (0, None)
        self._wait = handle is None
        self.stream = device.stream(plain_handle(handle or 0))
        # Memory that was used on a stream goes back in its order, however late: it must be there for good.
        if self.stream.extras.get("owner") is None:
            self.stream.extras["owner"] = owner
        self._since = self.stream.check()
        self.keeps = False
        self.views: dict[str, Array] = {}
        self._results: dict[int, Any] = {}

    @property
    def kind(self) -> Kind:
        return Kind(self.library, self.stream)

    def look(self, name: str, value: Any, *dtypes: Any) -> Any:
        """What the checks of arguments are to look at in place of the caller's `value`: NumPy arrays of its shape.

        Raises
        ------
        TypeError, ValueError
            An array on the GPU has another dtype than one of `dtypes`, by default the layer's, or is on another GPU.
        """
        if self.library is None or value is None:
            return value
        if _several(name, value):
            parts = [self.look(part_name, part, *dtypes) for part_name, part in _parts(name, value)]
            return tuple(parts) if isinstance(value, tuple) else parts
        if library_of(value) is None:
            return value
        self.library.refuse(name, value)
        found = self._described(name, value)
        if found.dtype not in (dtypes or (self._dtype,)):
            wanted = " or ".join(str(np.dtype(dtype)) for dtype in dtypes or (self._dtype,))
            raise TypeError(f"{name} should have dtype {wanted}, got: {found.dtype} (arrays on a GPU are not cast)")
        self.views[name] = _view(self.device, name, found)
        stand_in = np.zeros(found.shape, found.dtype)  # memory that nobody touches costs nothing
        stand_in.flags.writeable = found.writable and not self.library.immutable
        return stand_in

    def _described(self, name: str, value: Any) -> Described:
        assert self.library is not None
        try:
            found = self.library.described(self.stream, value)
        except BackendError:
            raise
        except Exception as error:  # whatever other libraries raise
            raise TypeError(f"{name} cannot be taken from {type(value).__name__}: {error}") from error
        if found.address and found.gpu != self.device.index:
            raise ValueError(f"{name} should be on cuda:{self.device.index}, as the layer is, got: cuda:{found.gpu}")
        return found

    def put(self, name: str, host: NDArray[Any] | None, arranged: Callable[[Array], Array]) -> Any:
        """An argument on the GPU: `arranged` of the caller's array where that is there, else a copy of `host`."""
        if host is None:
            return None
        if (view := self.views.get(name)) is None:
            return self.stream.to_device(host, wait=False)
        return self.plain(arranged(view))

    def plain(self, array: Array) -> Array:
        """The same numbers with a unit stride in the last axis; a copy where `keeps` asks for one."""
        if self.keeps and not (self.library is None or self.library.immutable):
            return self.copied(array)
        if array.size == 0 or array.shape[-1] == 1:
            return Array(array.memory, array.pointer, array.shape, array.dtype, (*array.strides[:-1], 1))
        return array if array.strides[-1] == 1 and min(array.strides) >= 0 else self.copied(array)

    def copied(self, array: Array) -> Array:
        """A contiguous copy."""
        copy = self.stream.empty(array.shape, array.dtype)
        self.stream.copy(copy, array)
        return copy

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Where a result goes."""
        if self.library is None:
            return self.stream.empty(shape, dtype)
        result = self.library.empty(self.stream, tuple(shape), dtype)
        own = isinstance(result, DeviceArray)
        view = result._array if own else _view(self.device, "out", self._described("out", result))
        self._results[base_address(view)] = result
        return view

    def leave(self, shaped: Callable[[Any], Any], results: Any) -> Any:
        """`shaped(results)` as the caller gets it.

        Parameters
        ----------
        shaped : function
            Puts arrays, NumPy's or `runtime.Array`s, into the caller's shapes.
        results : nested tuples, lists and dicts of Array
        """
        if self.library is None:
            found: list[Array] = []
            each(found.append, results)
            arrays = iter(self.stream.to_hosts(found, self._since))
            return shaped(each(lambda _: next(arrays), results))
        given = each(self._given, shaped(results))
        if self._wait:
            self.stream.synchronize(self._since)
        return each(self.library.finished, given)

    def _given(self, array: Array) -> Any:
        """An array of the caller's library with the numbers of `array`."""
        if array.contiguous and array.size and (mine := self._results.get(base_address(array))) is not None:
            if tuple(mine.shape) == array.shape:
                return mine
            if prod(mine.shape) == array.size:
                return mine.reshape(array.shape)
        view = self.empty(array.shape, array.dtype)
        self.stream.copy(view, array)
        return self._results[base_address(view)]


def overlap(a: Array, b: Array) -> bool:
    """Whether two arrays may share memory."""

    def bounds(array: Array) -> tuple[int, int]:
        steps = [(n - 1) * s * array.dtype.itemsize for n, s in zip(array.shape, array.strides, strict=True)]
        begin = base_address(array)
        return begin + sum(s for s in steps if s < 0), begin + sum(s for s in steps if s > 0) + array.dtype.itemsize

    (a_begin, a_end), (b_begin, b_end) = bounds(a), bounds(b)
    return bool(a.size and b.size) and a_begin < b_end and b_begin < a_end


def port(device: Device, dtype: np.dtype[Any], like: Kind | None = None, **given: Any) -> Port:
    """The way in and out for a call's arrays.

    Parameters
    ----------
    like : Kind, optional
        Of an earlier call to whose arrays those of this one belong; else the first array decides.
    **given : object
        Arguments by name; those that are None do not count.

    Raises
    ------
    TypeError
        Arrays are of more than one kind.
    """
    named = [pair for name, value in given.items() for pair in _parts(name, value)]
    kinds = [(name, value, library_of(value)) for name, value in named if value is not None]
    first, array, library = kinds[0] if kinds else ("x", None, None)
    if like is not None:
        first, library = "x", like.library
    for name, value, found in kinds:
        if found is not None and name.endswith(".data"):
            raise TypeError(f"{name} should be a NumPy array: on the GPU, give a padded array and lengths in its place")
        if found is not library and not (found is None and name in _OF_EITHER_KIND):
            expected = "a NumPy array" if library is None else library.what
            raise TypeError(f"{name} should be {expected}, as {first} is, got: {type(value).__name__}")
    return Port(device, dtype, library, array)


_OF_EITHER_KIND = ("lengths", "reset", "mask")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The arrays in a tuple or list of states, or the one array."""
    if hasattr(value, "batch_sizes"):
        yield f"{name}.data", value.data
    elif _several(name, value):
        yield from ((f"{name}[{i}]", part) for i, part in enumerate(value))
    else:
        yield name, value


def _several(name: str, value: Any) -> bool:
    """Whether it is a tuple or list of states, and no array written as a list."""
    return isinstance(value, tuple | list) and name not in ("x", "x_t", "chunk", *_OF_EITHER_KIND)


def each(function: Callable[[Any], Any], value: Any) -> Any:
    """`function` of every array in nested tuples, lists and dicts; None stays None."""
    if value is None:
        return None
    if isinstance(value, dict):
        return {key: each(function, part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [each(function, part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return function(value)


def _view(device: Device, name: str, found: Described) -> Array:
    """As the engine has it: bool as bytes, and of int64 the lower halves."""
    element = np.dtype({"b": np.uint8, "i": np.int32}.get(found.dtype.kind, found.dtype))
    if found.address % element.itemsize or any(s % element.itemsize for s in found.strides):
        raise TypeError(f"{name} should be aligned to its elements, got: address {found.address:#x}")
    strides = [s // element.itemsize for s in found.strides]
    if not device.simulated:
        return Array(found.memory, found.address, found.shape, element, strides)
    if 0 in found.shape or min(strides, default=0) < 0:
        described = {
            "data": (found.address, False), "shape": found.shape, "strides": found.strides,
            "typestr": found.dtype.str, "version": 3,
        }  # fmt: skip
        copy = np.array(SimpleNamespace(__array_interface__=described), order="C")
        wide = found.dtype.itemsize // element.itemsize
        strides = [s * wide for s in contiguous_strides(found.shape)]
        return Array(copy, np.append(copy.ravel(), copy.dtype.type(0)).view(element), found.shape, element, strides)
    last = sum((n - 1) * s for n, s in zip(found.shape, strides, strict=True))
    span = {"data": (found.address, False), "shape": (last + 1,), "typestr": element.str, "version": 3}
    return Array(found.memory, np.asarray(SimpleNamespace(__array_interface__=span)), found.shape, element, strides)
