"""Which memory is stored for arrays: once where several show the same."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from .rebuild import Array


class Place(NamedTuple):
    """Where an array's elements are: offset and strides count elements of the storage."""

    storage: int
    offset: int
    strides: tuple[int, ...]


class _View(NamedTuple):
    """What an array shows; arrays that show the same are equal here."""

    dtype: np.dtype[Any]
    start: int  # address of the first element
    end: int  # where the last one ends, in memory
    shape: tuple[int, ...]
    steps: tuple[int, ...]  # strides in bytes
    strides: tuple[int, ...] | None  # as torch has them, in elements; None if torch cannot have them


class _Memory:
    """Gives NumPy the bytes from `start` to `end` of the memory that `owner` shows a part of.

    Not as_strided, which does not know the one-byte floats of ml_dtypes.
    """

    def __init__(self, owner: Array, start: int, end: int) -> None:
        self.__array_interface__ = {"data": (start, True), "shape": (end - start,), "typestr": "|u1", "version": 3}
        self._owner = owner


def lay_out(arrays: Sequence[Array]) -> tuple[list[Array], list[Place]]:
    """The storages to write, whose elements count in C order, and the place of each array in them.

    As with torch.save, arrays that show the same memory share a storage, and what is transposed or expanded keeps its
    strides. Unlike there, no more is stored than the elements of these arrays: where a view leaves out most of a large
    array, a copy of what it shows is stored.
    """
    views = [_view(array, i) for i, array in enumerate(arrays)]
    shown = dict(zip(views, arrays, strict=True))  # each once
    rank = {view: i for i, view in enumerate(shown)}  # addresses differ from run to run, this does not
    storages: list[Array] = []
    places: dict[_View, Place] = {}
    for group in sorted(_overlapping(shown), key=lambda group: min(rank[view] for view in group)):
        dtype, start, end = group[0].dtype, group[0].start, max(view.end for view in group)
        if group[0].strides is not None and end - start <= sum(shown[view].nbytes for view in group):
            storages.append(np.asarray(_Memory(shown[group[0]], start, end)).view(dtype))
            for view in group:
                places[view] = Place(len(storages) - 1, (view.start - start) // dtype.itemsize, view.strides or ())
            continue
        for view in sorted(group, key=rank.__getitem__):
            places[view] = Place(len(storages), 0, _c_order(view.shape))
            storages.append(shown[view])
    return storages, [places[view] for view in views]


def _view(array: Array, i: int) -> _View:
    start: int = array.__array_interface__["data"][0]
    unit, shape = array.itemsize, array.shape
    if not array.size:
        return _View(array.dtype, -i, -i, shape, (), None)  # of no memory: each for itself
    usual = _c_order(shape)
    # The stride of a single element has no meaning.
    steps = tuple(s if n > 1 else u * unit for s, n, u in zip(array.strides, shape, usual, strict=True))
    end = start + sum((n - 1) * step for n, step in zip(shape, steps, strict=True)) + unit
    fits = all(step >= 0 and step % unit == 0 for step in steps)
    return _View(array.dtype, start, end, shape, steps, tuple(step // unit for step in steps) if fits else None)


def _c_order(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _overlapping(views: Iterable[_View]) -> Iterator[list[_View]]:
    """The views, in groups that reach into the same memory with the same type, the lowest address first."""
    groups: dict[Any, list[_View]] = {}
    for view in views:
        if view.strides is None:
            yield [view]
        else:
            groups.setdefault((view.dtype, view.start % view.dtype.itemsize), []).append(view)
    for alike in groups.values():
        group: list[_View] = []
        end = 0
        for view in sorted(alike, key=lambda view: view.start):
            if group and view.start >= end:
                yield group
                group = []
            group.append(view)
            end = max(end, view.end)
        yield group
