"""Batches of data, in torch's manner: datasets, a loader that shuffles them, and ragged sequences padded on the way.

>>> import numpy as np
>>> from fastrnn.data import DataLoader, RaggedDataset
>>> sequences = [np.full((length, 2), length) for length in (3, 1, 2)]
>>> for (x, lengths), labels in DataLoader(RaggedDataset(sequences, [0, 1, 1]), batch_size=2):
...     print(x.shape, lengths, labels)
(3, 2, 2) [3 1] [0 1]
(2, 1, 2) [2] [1]
"""

from __future__ import annotations

import contextvars
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import validate
from .packing import pad_sequence

__all__ = ["ArrayDataset", "DataLoader", "Dataset", "Ragged", "RaggedDataset", "default_collate"]

Array = NDArray[Any]


class Dataset:
    """Base class of datasets: something that has ``dataset[i]`` for i from 0 to ``len(dataset) - 1``.

    `DataLoader` takes whatever has both, of this class or not. ``dataset[i]`` is an array, a number, or tuples and
    dicts of them.

    Examples
    --------
    >>> from fastrnn.data import DataLoader, Dataset
    >>> class Squares(Dataset):
    ...     def __len__(self):
    ...         return 5
    ...     def __getitem__(self, i):
    ...         return i, i * i
    >>> list(DataLoader(Squares(), batch_size=2, drop_last=True))
    [(array([0, 1]), array([0, 1])), (array([2, 3]), array([4, 9]))]
    """

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError("Subclasses of Dataset should implement __getitem__.")

    def __len__(self) -> int:
        raise NotImplementedError("Subclasses of Dataset should implement __len__.")


class ArrayDataset(Dataset):
    """Arrays of the same length: ``dataset[i]`` is the tuple of their items i, as of torch's ``TensorDataset``.

    Parameters
    ----------
    *arrays : array_like (N, ...)
        Not copied: a memory-mapped file is read as it is needed.

    Raises
    ------
    ValueError
        No arrays, or such of different length.

    Examples
    --------
    >>> from fastrnn.data import ArrayDataset
    >>> ArrayDataset([[1, 2], [3, 4]], [0, 1])[1]
    (array([3, 4]), np.int64(1))
    """

    def __init__(self, *arrays: Any) -> None:
        self.arrays = tuple(np.asanyarray(array) for array in arrays)
        _check_sizes(self.arrays)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(array[index] for array in self.arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])


class Ragged(np.ndarray[Any, Any]):
    """A sequence (L, ...) whose L differs from item to item: `default_collate` pads it.

    An array like any other. ``dataset[i]`` may hold some, as those of `RaggedDataset` do:
    ``np.asarray(sequence).view(Ragged)``.
    """


class RaggedDataset(Dataset):
    """Sequences of different length, and what belongs to each: ``dataset[i]`` is the tuple of items i.

    Parameters
    ----------
    *columns : array_like (N, ...), or list of N array_like (L, ...)
        A list or tuple of sequences is ragged: its items are `Ragged`. Others are as in `ArrayDataset`.

    Raises
    ------
    ValueError, TypeError
        No columns, or such of different length; a sequence that is no array of numbers with an axis of time.

    Examples
    --------
    >>> from fastrnn.data import DataLoader, RaggedDataset
    >>> [((x, lengths), labels)] = DataLoader(RaggedDataset([[1, 2], [3]], [0, 1]), batch_size=2, batch_first=True)
    >>> x, lengths, labels
    (array([[1, 2],
           [3, 0]]), array([2, 1]), array([0, 1]))
    """

    def __init__(self, *columns: Any) -> None:
        self.columns = tuple(_column(column) for column in columns)
        _check_sizes(self.columns)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        return tuple(column[index] for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns[0])


def default_collate(items: Sequence[Any], *, batch_first: bool = False) -> Any:
    """A batch made of items: what `DataLoader` does with those of a dataset.

    Parameters
    ----------
    items : sequence
        All alike: the first one says what they are.
    batch_first : bool
        For `Ragged` items: whether the batch comes before time.

    Returns
    -------
    batch
        Of arrays of one shape the array (N, ...); of numbers an array (N,); of `Ragged` items the pair of the padded
        array, (T, N, ...) or with `batch_first` (N, T, ...), and the lengths (N,); of strings and bytes a list; of
        tuples, named ones too, lists and dicts one of batches.

    Raises
    ------
    ValueError, TypeError
        Items that are not alike, or of another type.

    Examples
    --------
    >>> from fastrnn.data import default_collate
    >>> default_collate([(0.5, 1), (1.5, 0)])
    (array([0.5, 1.5]), array([1, 0]))
    """
    if not items:
        raise ValueError("items should be at least one, got: none")
    first = items[0]
    if isinstance(first, Ragged):
        return pad_sequence(items, batch_first), np.array([len(item) for item in items])
    if isinstance(first, np.ndarray | np.generic):
        return _stacked([np.asarray(item) for item in items])
    if isinstance(first, bool | int | float | complex):
        return np.array(items)
    if isinstance(first, str | bytes):
        return list(items)
    if isinstance(first, Mapping):
        return {key: default_collate([item[key] for item in items], batch_first=batch_first) for key in first}
    if isinstance(first, tuple | list):
        if any(len(item) != len(first) for item in items):
            raise ValueError("each element in list of batch should be of equal size")
        columns = [default_collate(column, batch_first=batch_first) for column in zip(*items, strict=True)]
        return type(first)(*columns) if hasattr(first, "_fields") else type(first)(columns)
    raise TypeError(
        f"default_collate: batch must contain arrays, numbers, dicts, tuples or lists; found {type(first).__name__}"
    )


class DataLoader:
    """Batches of a dataset, to be iterated over, as often as there are epochs.

    Each loop is an epoch of its own; several may run at the same time, in several threads too.

    Parameters
    ----------
    dataset : Dataset
        Or a list, or whatever has ``dataset[i]`` and ``len(dataset)``.
    batch_size : int
    shuffle : bool
        Whether each epoch has an order of its own.
    drop_last : bool
        Whether a last batch that is not full is left out.
    collate_fn : function, optional
        Makes a batch of a list of items; `default_collate` where not given.
    rng : int, numpy.random.Generator or None
        Draws the orders: an int gives the same ones, epoch by epoch, in every run.
    prefetch : int
        How many batches are made ahead, by one thread, while the loop's body runs; 0: none. It pays where the dataset
        waits for files, or computes in NumPy or fastrnn, which let other threads run.
    batch_first : bool
        For `Ragged` items and the default `collate_fn`: whether the batch comes before time.

    Raises
    ------
    TypeError, ValueError
        A wrong argument. What the dataset or `collate_fn` raises comes where the batch would have come, whatever
        `prefetch` is, and ends the loop.

    Examples
    --------
    >>> loader = DataLoader(range(6), batch_size=4)
    >>> [batch.tolist() for batch in loader], len(loader)
    ([[0, 1, 2, 3], [4, 5]], 2)
    >>> shuffled = DataLoader(range(6), batch_size=6, shuffle=True, rng=0)
    >>> sorted(next(iter(shuffled)).tolist())
    [0, 1, 2, 3, 4, 5]
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        collate_fn: Callable[[list[Any]], Any] | None = None,
        rng: Any = None,
        prefetch: int = 0,
        batch_first: bool = False,
    ) -> None:
        if not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
            raise TypeError(f"dataset should have items and a length, got: {type(dataset).__name__}")
        if validate.integer("batch_size", batch_size) <= 0:
            raise ValueError(f"batch_size should be a positive integer value, but got batch_size={batch_size}")
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(f"collate_fn should be a function, got: {type(collate_fn).__name__}")
        if validate.integer("prefetch", prefetch) < 0:
            raise ValueError(f"prefetch should be at least 0, got: {prefetch}")
        self.dataset, self.batch_size = dataset, int(batch_size)
        self.shuffle, self.drop_last = validate.flag("shuffle", shuffle), validate.flag("drop_last", drop_last)
        self.collate_fn, self.prefetch = collate_fn, int(prefetch)
        self.batch_first = validate.flag("batch_first", batch_first)
        self._rng = validate.generator(rng)

    def __len__(self) -> int:
        """How many batches there are."""
        n = len(self.dataset)
        return n // self.batch_size if self.drop_last else -(-n // self.batch_size)

    def __iter__(self) -> Iterator[Any]:
        n, size = len(self.dataset), self.batch_size
        order = self._rng.permutation(n) if self.shuffle else np.arange(n)
        places = (order[i : i + size].tolist() for i in range(0, len(self) * size, size))
        return self._ahead(places) if self.prefetch else (self._batch(p) for p in places)

    def _batch(self, places: list[int]) -> Any:
        items = [self.dataset[i] for i in places]
        return self.collate_fn(items) if self.collate_fn else default_collate(items, batch_first=self.batch_first)

    def _ahead(self, places: Iterator[list[int]]) -> Iterator[Any]:
        process = os.getpid()
        context = contextvars.copy_context()  # `use_backend` and the like are in force for the dataset too
        with ThreadPoolExecutor(1, "fastrnn.data") as thread:

            def submit(p: list[int]) -> Future[Any]:
                return thread.submit(context.run, self._batch, p)

            try:
                made = deque(map(submit, islice(places, self.prefetch)))
                while made:
                    if os.getpid() != process:
                        raise RuntimeError("this loop was begun before a fork, and its thread is not in this process")
                    batch = made.popleft()
                    made.extend(map(submit, islice(places, 1)))
                    yield batch.result()
            finally:
                thread.shutdown(wait=False, cancel_futures=True)  # leaving the block waits for the batch in the making


def _check_sizes(columns: tuple[Any, ...]) -> None:
    if not columns:
        raise ValueError("a dataset should have at least one array, got: none")
    if any(np.ndim(column) == 0 for column in columns if isinstance(column, np.ndarray)):
        raise ValueError("Size mismatch between arrays: a number has no length")
    if len({len(column) for column in columns}) > 1:
        raise ValueError(f"Size mismatch between arrays: their lengths are {[len(column) for column in columns]}")


def _column(column: Any) -> Any:
    """An array of one item for each, or a list of `Ragged`."""
    if not isinstance(column, list | tuple) or all(np.ndim(item) == 0 for item in column):
        return np.asanyarray(column)
    sequences = [np.asarray(item) for item in column]
    for i, sequence in enumerate(sequences):
        if sequence.ndim == 0 or sequence.dtype.kind not in "biufV":
            raise TypeError(
                f"sequence {i} should be an array of numbers (L, ...), got: {sequence.dtype}, {sequence.ndim}D"
            )
    return [sequence.view(Ragged) for sequence in sequences]


def _stacked(arrays: list[Array]) -> Array:
    for i, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise ValueError(
                f"stack expects each tensor to be equal size, but got {list(arrays[0].shape)} at entry 0 and "
                f"{list(array.shape)} at entry {i}; sequences to be padded are marked by fastrnn.data.Ragged"
            )
    return np.stack(arrays)
