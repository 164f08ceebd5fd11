"""Batches of sequences of different length: torch's packed layout and its helpers, on NumPy arrays.

A packed batch holds its sequences longest first and step by step: ``abc`` and ``x`` become ``axbc`` with
``batch_sizes`` (2, 1, 1), the number of sequences that are still running at each step.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]


class _Fields(NamedTuple):
    data: Array
    batch_sizes: IntArray
    sorted_indices: IntArray | None
    unsorted_indices: IntArray | None


class PackedSequence(_Fields):
    """A packed batch, as :func:`pack_padded_sequence` and :func:`pack_sequence` make it; layers take and return it.

    Parameters
    ----------
    data : array_like (sum of lengths, ...)
        All steps, time by time, longest sequence first within a time.
    batch_sizes : array_like of int (T,), optional
        Sequences running at each step: positive, never growing, adding up to ``len(data)``. Left out when `data` is
        the pair ``(data, batch_sizes)``.
    sorted_indices, unsorted_indices : array_like of int (N,), optional
        ``sorted_indices[k]`` is the place in the caller's batch of the sequence that stands k-th in the packed one;
        `unsorted_indices` is its inverse. None (both): the caller's batch was in order. One is enough.

    Raises
    ------
    ValueError, TypeError
        If the parts do not fit together.

    Examples
    --------
    >>> import fastrnn
    >>> pack = fastrnn.pack_sequence([[1.0, 2.0], [3.0]])
    >>> pack.data, pack.batch_sizes
    (array([1., 3., 2.]), array([2, 1]))
    >>> pack.lengths
    array([2, 1])
    """

    __slots__ = ()

    def __new__(
        cls,
        data: npt.ArrayLike,
        batch_sizes: npt.ArrayLike | None = None,
        sorted_indices: npt.ArrayLike | None = None,
        unsorted_indices: npt.ArrayLike | None = None,
    ) -> Self:
        if batch_sizes is None:
            if not isinstance(data, (list, tuple)) or len(data) != 2:
                raise TypeError("Expected data to be a list or tuple of length 2, since batch_sizes is not given")
            data, batch_sizes = data
        values = _array(data, "data", min_ndim=1)
        sizes = _integers(batch_sizes, "batch_sizes")
        if not sizes.size:
            raise ValueError("batch_sizes can not be empty")
        if sizes[-1] <= 0 or np.any(sizes[1:] > sizes[:-1]):
            raise ValueError(f"batch_sizes should be positive and never grow, got {sizes}")
        if sizes.sum() != len(values):
            raise ValueError(f"batch_sizes should add up to len(data) = {len(values)}, got the sum {sizes.sum()}")
        order, back = _permutation(sorted_indices, "sorted_indices"), _permutation(unsorted_indices, "unsorted_indices")
        if order is None and back is not None:
            order = _inverse(back)
        if order is not None:
            if len(order) != sizes[0]:
                raise ValueError(f"sorted_indices should have batch_sizes[0] = {sizes[0]} entries, got {len(order)}")
            if back is not None and not np.array_equal(back, _inverse(order)):
                raise ValueError("unsorted_indices should be the inverse of sorted_indices, got another permutation")
            back = _inverse(order)
        return super().__new__(cls, values, sizes, order, back)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]  # mypy wants the generated signature
        # The inherited one, which _replace uses too, goes past the checks above.
        return cls(*iterable)

    @property
    def lengths(self) -> IntArray:
        """Length of each sequence (N,), in the order of the caller's batch."""
        # Sequence k of the packed order runs at every step whose batch size exceeds k.
        lengths = np.searchsorted(-self.batch_sizes, -np.arange(self.batch_sizes[0]))
        return lengths if self.unsorted_indices is None else lengths[self.unsorted_indices]

    def astype(self, dtype: npt.DTypeLike) -> Self:
        """The same batch with `data` cast to `dtype`; itself where it has that dtype already."""
        return self if self.data.dtype == dtype else self._replace(data=self.data.astype(dtype))


def invert_permutation(permutation: npt.ArrayLike | None) -> IntArray | None:
    """The inverse of `permutation` (N,); None stays None.

    Examples
    --------
    >>> invert_permutation([2, 0, 1])
    array([1, 2, 0])
    """
    indices = _permutation(permutation, "permutation")
    return None if indices is None else _inverse(indices)


def pack_padded_sequence(
    input: npt.ArrayLike, lengths: npt.ArrayLike, batch_first: bool = False, enforce_sorted: bool = True
) -> PackedSequence:
    """Pack a padded batch.

    Parameters
    ----------
    input : array_like (T, N, ...) or, with `batch_first`, (N, T, ...)
    lengths : array_like of int (N,)
        Between 1 and T; the steps past a row's length are left out.
    batch_first : bool
    enforce_sorted : bool
        True: `lengths` must not grow. False: the rows are sorted here, those of one length kept in order.

    Returns
    -------
    PackedSequence

    Raises
    ------
    ValueError, TypeError
        If the lengths are unsorted (with `enforce_sorted`), zero, negative, longer than T or not one per row, or the
        batch is empty.

    Examples
    --------
    >>> packed = pack_padded_sequence([[1, 2, 0], [4, 5, 6]], [2, 3], batch_first=True, enforce_sorted=False)
    >>> packed.data, packed.batch_sizes, packed.sorted_indices
    (array([4, 1, 5, 2, 6]), array([2, 2, 1]), array([1, 0]))
    """
    steps = _time_major(_array(input, "input", min_ndim=2), batch_first)  # (T, N, *)
    row_lengths = _row_lengths(lengths, steps)
    if not steps.size:
        raise ValueError(f"Cannot pack empty tensors. Got input of shape {np.shape(input)}")
    sorted_indices = None if enforce_sorted else np.argsort(-row_lengths, kind="stable")
    if sorted_indices is not None:
        row_lengths = row_lengths[sorted_indices]
    if row_lengths[-1] <= 0:
        raise ValueError(
            "Length of all samples has to be greater than 0, but found an element in 'lengths' that is <= 0"
        )
    if np.any(row_lengths[1:] > row_lengths[:-1]):
        raise ValueError(
            "`lengths` array must be sorted in decreasing order when `enforce_sorted` is True. "
            "You can pass `enforce_sorted=False` to pack_padded_sequence and/or pack_sequence."
        )
    if row_lengths[0] > len(steps):
        raise ValueError(f"lengths should be at most T = {len(steps)}, got {row_lengths[0]}")
    running = np.arange(row_lengths[0])[:, None] < row_lengths  # (longest, N)
    time, row = np.nonzero(running)
    data = steps[time, row if sorted_indices is None else sorted_indices[row]]
    return PackedSequence(data, np.count_nonzero(running, axis=1), sorted_indices)


def pad_packed_sequence(
    sequence: PackedSequence, batch_first: bool = False, padding_value: float = 0.0, total_length: int | None = None
) -> tuple[Array, IntArray]:
    """Undo :func:`pack_padded_sequence`.

    Parameters
    ----------
    sequence : PackedSequence
    batch_first : bool
    padding_value : float
        What stands past each row's length.
    total_length : int, optional
        T of the result; by default the longest length.

    Returns
    -------
    padded : ndarray (T, N, ...) or, with `batch_first`, (N, T, ...)
    lengths : ndarray of int64 (N,)
        Both in the order of the batch that was packed.

    Raises
    ------
    ValueError, TypeError
        If `sequence` is no PackedSequence, `total_length` is too small, or the dtype cannot hold `padding_value`.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.pad_packed_sequence(fastrnn.pack_sequence([[1.0, 2.0], [3.0]]), batch_first=True)
    (array([[1., 2.],
           [3., 0.]]), array([2, 1]))
    """
    packed = _packed(sequence, "sequence")
    n_steps = len(packed.batch_sizes)
    if total_length is not None:
        try:
            total = operator.index(total_length)
        except TypeError:
            raise TypeError(f"total_length should be of type int, got: {type(total_length).__name__}") from None
        if total < n_steps:
            raise ValueError(
                "Expected total_length to be at least the length of the longest sequence in input, but got "
                f"total_length={total} and max sequence length being {n_steps}"
            )
        n_steps = total
    padded, steps = _padded(n_steps, int(packed.batch_sizes[0]), packed.data, batch_first, padding_value)
    time, row = np.nonzero(np.arange(packed.batch_sizes[0]) < packed.batch_sizes[:, None])
    steps[time, row if packed.sorted_indices is None else packed.sorted_indices[row]] = packed.data
    return padded, packed.lengths


def pad_sequence(
    sequences: Iterable[npt.ArrayLike],
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Array:
    """Stack sequences of different length into one padded batch.

    Parameters
    ----------
    sequences : iterable of array_like (L, ...)
        Trailing dimensions are the same; the result has the first one's dtype, as in torch.
    batch_first : bool
    padding_value : float
    padding_side : {"right", "left"}

    Returns
    -------
    ndarray (T, N, ...) or, with `batch_first`, (N, T, ...)
        T is the longest L.

    Raises
    ------
    ValueError, TypeError
        If there is no sequence, one has no length, or their trailing dimensions differ.

    Examples
    --------
    >>> pad_sequence([[1, 2, 3], [4]], batch_first=True, padding_side="left")
    array([[1, 2, 3],
           [0, 0, 4]])
    """
    arrays = _sequence_arrays(sequences)
    if padding_side not in ("left", "right"):
        raise ValueError(f"Expected padding_side to be one of left or right, but got {padding_side}.")
    longest = max(len(array) for array in arrays)
    padded, steps = _padded(longest, len(arrays), arrays[0], batch_first, padding_value)
    for row, array in enumerate(arrays):
        start = longest - len(array) if padding_side == "left" else 0
        steps[start : start + len(array), row] = array
    return padded


def unpad_sequence(padded_sequences: npt.ArrayLike, lengths: npt.ArrayLike, batch_first: bool = False) -> list[Array]:
    """Undo :func:`pad_sequence` (padded on the right).

    Parameters
    ----------
    padded_sequences : array_like (T, N, ...) or, with `batch_first`, (N, T, ...)
    lengths : array_like of int (N,)
        Between 0 and T.
    batch_first : bool

    Returns
    -------
    list of ndarray (L, ...)
        Copies, one per row.

    Raises
    ------
    ValueError, TypeError
        If the lengths are not one per row or not between 0 and T.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.unpad_sequence([[1.0, 2.0], [3.0, 0.0]], [2, 1], batch_first=True)
    [array([1., 2.]), array([3.])]
    """
    steps = _time_major(_array(padded_sequences, "padded_sequences", min_ndim=2), batch_first)
    row_lengths = _row_lengths(lengths, steps)
    if np.any((row_lengths < 0) | (row_lengths > len(steps))):
        raise ValueError(f"lengths should be between 0 and T = {len(steps)}, got {row_lengths}")
    return [steps[:length, row].copy() for row, length in enumerate(row_lengths)]


def pack_sequence(sequences: Iterable[npt.ArrayLike], enforce_sorted: bool = True) -> PackedSequence:
    """Pack sequences: :func:`pad_sequence`, then :func:`pack_padded_sequence`.

    Parameters
    ----------
    sequences : iterable of array_like (L, ...)
        Trailing dimensions are the same; no L is 0.
    enforce_sorted : bool
        True: the lengths must not grow. False: the sequences are sorted here.

    Examples
    --------
    >>> pack_sequence([[1, 2, 3], [4, 5], [6]]).data
    array([1, 4, 6, 2, 5, 3])
    """
    arrays = _sequence_arrays(sequences)
    return pack_padded_sequence(pad_sequence(arrays), [len(array) for array in arrays], enforce_sorted=enforce_sorted)


def unpack_sequence(packed_sequences: PackedSequence) -> list[Array]:
    """Undo :func:`pack_sequence`.

    Returns
    -------
    list of ndarray (L, ...)
        In the order of the batch that was packed.

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.unpack_sequence(fastrnn.pack_sequence([[1.0, 2.0], [3.0]]))
    [array([1., 2.]), array([3.])]
    """
    packed = _packed(packed_sequences, "packed_sequences")
    starts = np.cumsum(packed.batch_sizes) - packed.batch_sizes  # of each step in data
    places = np.arange(packed.batch_sizes[0]) if packed.unsorted_indices is None else packed.unsorted_indices
    return [packed.data[starts[:length] + k] for k, length in zip(places, packed.lengths, strict=True)]


def _array(value: npt.ArrayLike, name: str, min_ndim: int) -> Array:
    try:
        array = np.asarray(value)
    except ValueError as error:  # nested lists of different lengths
        raise ValueError(f"{name} should be an array: {error}") from None
    if array.dtype.kind in "OSUMm":
        raise TypeError(f"{name} should be an array of numbers, got {type(value).__name__} of dtype {array.dtype}")
    if array.ndim < min_ndim:
        raise ValueError(f"{name} should have at least {min_ndim} dimensions, got {array.ndim}")
    return array


def _integers(value: npt.ArrayLike, name: str) -> IntArray:
    """A 1-D int64 array; whole numbers of another real dtype (an empty list is float64) are taken as they are."""
    array = _array(value, name, min_ndim=0)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"'{name}' argument should be a 1D array of integers, but got dtype {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"'{name}' argument should be a 1D array of integers, but got {array.ndim}D")
    with np.errstate(invalid="ignore"):
        integers = array.astype(np.int64)
    if not np.array_equal(integers, array):
        raise ValueError(f"'{name}' argument should be a 1D array of integers, but got {array}")
    return integers


def _permutation(value: npt.ArrayLike | None, name: str) -> IntArray | None:
    if value is None:
        return None
    indices = _integers(value, name)
    if not np.array_equal(np.sort(indices), np.arange(len(indices))):
        raise ValueError(f"{name} should hold each of 0 to {len(indices) - 1} once, got {indices}")
    return indices


def _inverse(permutation: IntArray) -> IntArray:
    inverse = np.empty_like(permutation)
    inverse[permutation] = np.arange(len(permutation))
    return inverse


def _time_major(padded: Array, batch_first: bool) -> Array:
    return padded.swapaxes(0, 1) if batch_first else padded


def _row_lengths(lengths: npt.ArrayLike, steps: Array) -> IntArray:
    row_lengths = _integers(lengths, "lengths")
    if len(row_lengths) != steps.shape[1]:
        raise ValueError(
            f"Expected `len(lengths)` to be equal to batch_size, but got {len(row_lengths)} "
            f"(batch_size={steps.shape[1]})"
        )
    return row_lengths


def _packed(value: PackedSequence, name: str) -> PackedSequence:
    if not isinstance(value, PackedSequence):
        raise TypeError(f"{name} should be a PackedSequence, got: {type(value).__name__}")
    return value


def _sequence_arrays(sequences: Iterable[npt.ArrayLike]) -> list[Array]:
    if not isinstance(sequences, Iterable):
        raise TypeError(f"Expected iterable for input sequences, but got arg of type: {type(sequences)}")
    arrays = [_array(sequence, f"sequences[{i}]", min_ndim=1) for i, sequence in enumerate(sequences)]
    if not arrays:
        raise ValueError("received an empty list of sequences")
    for i, array in enumerate(arrays):
        if array.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"The size of tensor a {arrays[0].shape[1:]} must match the size of tensor b {array.shape[1:]}: "
                f"trailing dimensions of sequences[0] and sequences[{i}]"
            )
    return arrays


def _padded(n_steps: int, n_rows: int, like: Array, batch_first: bool, padding_value: float) -> tuple[Array, Array]:
    """An array of padding for rows shaped like those of `like`, and a view of it that is time first."""
    value = np.asarray(padding_value)
    if value.ndim or value.dtype.kind not in "biuf":
        raise TypeError(f"padding_value should be a real number, got: {type(padding_value).__name__}")
    shape = (n_rows, n_steps) if batch_first else (n_steps, n_rows)
    padded = np.full(shape + like.shape[1:], _cast_padding(value, like.dtype), dtype=like.dtype)
    return padded, _time_major(padded, batch_first)


def _cast_padding(value: Array, dtype: np.dtype[Any]) -> Array:
    """torch's rule: fractions are cut off for integers, a number that the dtype cannot hold is refused."""
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        fits = bool(np.isfinite(value)) and info.min <= int(value) <= info.max
    else:
        with np.errstate(over="ignore"):
            fits = not np.isfinite(value) or bool(np.isfinite(value.astype(dtype)))
    if not fits:
        raise ValueError(f"value cannot be converted to type {dtype} without overflow: padding_value={value}")
    return value.astype(dtype)
