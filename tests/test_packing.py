"""The packed layout, held to examples written out by hand and to plain Python loops."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

from fastrnn import (
    PackedSequence,
    invert_permutation,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    pad_sequence,
    unpack_sequence,
    unpad_sequence,
)

SEQUENCES = [np.array([1, 2]), np.array([3, 4, 5]), np.array([6])]  # lengths 2, 3, 1


def naive_pack(sequences):
    """Data, batch sizes and order, one element at a time."""
    order = sorted(range(len(sequences)), key=lambda row: -len(sequences[row]))
    data, batch_sizes = [], []
    for t in range(max(map(len, sequences))):
        running = [sequences[row][t] for row in order if len(sequences[row]) > t]
        data += running
        batch_sizes.append(len(running))
    return np.array(data), batch_sizes, order


def random_sequences(rng, trailing):
    lengths = rng.integers(1, 9, rng.integers(1, 8))
    return [rng.normal(size=(length, *trailing)) for length in lengths]


def test_pack_padded_by_hand():
    padded = [[1, 3, 6], [2, 4, 0], [0, 5, 0]]
    packed = pack_padded_sequence(padded, [2, 3, 1], enforce_sorted=False)
    assert packed.data.tolist() == [3, 1, 6, 4, 2, 5]
    assert packed.batch_sizes.tolist() == [3, 2, 1]
    assert packed.sorted_indices.tolist() == [1, 0, 2]
    assert packed.unsorted_indices.tolist() == [1, 0, 2]
    assert packed.lengths.tolist() == [2, 3, 1]
    assert {a.dtype for a in packed[1:]} == {np.dtype(np.int64)}


def test_pack_sorted_by_hand():
    packed = pack_padded_sequence([[1, 2, 3], [4, 5, 0], [6, 0, 0]], [3, 2, 1], batch_first=True)
    assert packed.data.tolist() == [1, 4, 6, 2, 5, 3]
    assert packed.batch_sizes.tolist() == [3, 2, 1]
    assert packed.sorted_indices is None
    assert packed.unsorted_indices is None


def test_steps_after_the_longest_are_cut():
    padded, lengths = pad_packed_sequence(pack_padded_sequence(np.ones((9, 2)), [3, 1]))
    assert padded.tolist() == [[1, 1], [1, 0], [1, 0]]
    assert lengths.tolist() == [3, 1]


def test_pad_sequence_by_hand():
    assert pad_sequence(SEQUENCES).tolist() == [[1, 3, 6], [2, 4, 0], [0, 5, 0]]
    assert pad_sequence(SEQUENCES, True, -1).tolist() == [[1, 2, -1], [3, 4, 5], [6, -1, -1]]
    assert pad_sequence(SEQUENCES, True, 7.9, "left").tolist() == [[7, 1, 2], [3, 4, 5], [7, 7, 6]]


def test_zero_length_sequences_pad_but_do_not_pack():
    sequences = [[1.0, 2.0], []]
    padded = pad_sequence(sequences)
    assert padded.tolist() == [[1, 0], [2, 0]]
    assert [s.tolist() for s in unpad_sequence(padded, [2, 0])] == sequences
    with pytest.raises(ValueError, match=r"^Length of all samples has to be greater than 0"):
        pack_sequence(sequences)


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("trailing", [(), (3,), (2, 3)])
def test_random_batches_against_loops(seed, trailing):
    rng = np.random.default_rng(seed)
    sequences = random_sequences(rng, trailing)
    lengths = [len(s) for s in sequences]
    data, batch_sizes, order = naive_pack(sequences)

    packed = pack_sequence(sequences, enforce_sorted=False)
    np.testing.assert_array_equal(packed.data, data)
    assert packed.batch_sizes.tolist() == batch_sizes
    assert packed.sorted_indices.tolist() == order
    assert packed.lengths.tolist() == lengths
    for got, expected in zip(unpack_sequence(packed), sequences, strict=True):
        np.testing.assert_array_equal(got, expected)

    for batch_first in (False, True):
        extra = int(rng.integers(0, 3))
        padded, back = pad_packed_sequence(packed, batch_first, -9.5, max(lengths) + extra)
        assert back.tolist() == lengths
        rows = padded if batch_first else padded.swapaxes(0, 1)
        assert rows.shape == (len(sequences), max(lengths) + extra, *trailing)
        for row, sequence in zip(rows, sequences, strict=True):
            np.testing.assert_array_equal(row[: len(sequence)], sequence)
            assert (row[len(sequence) :] == -9.5).all()
        cut = padded[:, : max(lengths)] if batch_first else padded[: max(lengths)]
        np.testing.assert_array_equal(pad_sequence(sequences, batch_first), np.where(cut == -9.5, 0, cut))
        for got, expected in zip(unpad_sequence(padded, lengths, batch_first), sequences, strict=True):
            np.testing.assert_array_equal(got, expected)
        again = pack_padded_sequence(padded, lengths, batch_first, enforce_sorted=False)
        np.testing.assert_array_equal(again.data, data)


def test_rows_of_one_length_keep_their_order():
    packed = pack_padded_sequence(np.zeros((2, 300)), [1, 2] * 150, enforce_sorted=False)
    assert packed.sorted_indices.tolist() == [*range(1, 300, 2), *range(0, 300, 2)]


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64"])
def test_dtype_is_kept(dtype):
    sequences = [np.ones(n, dtype) for n in (3, 1)]
    packed = pack_sequence(sequences)
    assert packed.data.dtype == dtype
    assert pad_packed_sequence(packed)[0].dtype == dtype
    assert pad_sequence(sequences).dtype == dtype
    assert {s.dtype for s in unpack_sequence(packed)} == {np.dtype(dtype)}


def test_first_sequence_rules_the_dtype():
    assert pad_sequence([np.ones(2, np.float32), np.ones(1)]).dtype == np.float32


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")  # a dependency: there wherever fastrnn is
    packed = pack_sequence([np.ones(2, ml_dtypes.bfloat16), np.ones(1, ml_dtypes.bfloat16)])
    padded, _ = pad_packed_sequence(packed, padding_value=-2)
    assert padded.dtype == ml_dtypes.bfloat16
    assert padded.astype(float).tolist() == [[1, 1], [1, -2]]
    with pytest.raises(ValueError, match="padding_value"):
        pad_packed_sequence(packed, padding_value=1e300)


@pytest.mark.parametrize(
    "x",
    [
        np.arange(24.0).reshape(4, 3, 2),
        np.asfortranarray(np.arange(24.0).reshape(4, 3, 2)),
        np.arange(48.0).reshape(4, 3, 4)[..., ::2],
        np.arange(24.0).reshape(4, 3, 2)[::-1, :, ::-1],
        np.arange(24.0).reshape(4, 3, 2).tolist(),
    ],
    ids=["contiguous", "fortran", "strided", "negative strides", "lists"],
)
def test_any_memory_layout(x):
    expected = [np.array(x)[:length, row] for row, length in enumerate((2, 4, 1))]
    for sequences in (
        unpad_sequence(x, [2, 4, 1]),
        unpack_sequence(pack_padded_sequence(x, [2, 4, 1], enforce_sorted=False)),
    ):
        for got, want in zip(sequences, expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_arguments_are_neither_written_to_nor_shared():
    x, lengths = np.arange(24.0).reshape(4, 3, 2), np.array([2, 4, 1])
    x.flags.writeable = lengths.flags.writeable = False
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    results = [packed.data, pad_packed_sequence(packed)[0], *unpad_sequence(x, lengths), *unpack_sequence(packed)]
    assert x.shape == (4, 3, 2)
    for result in results:
        assert result.flags.writeable
        assert not np.shares_memory(result, x)
        assert result is packed.data or not np.shares_memory(result, packed.data)
    assert not np.shares_memory(pack_padded_sequence(x, [4, 4, 4]).data, x)


def test_lengths_may_be_any_whole_numbers():
    x = np.arange(12.0).reshape(4, 3)
    for lengths in ((3, 2, 1), np.array([3, 2, 1], np.uint8), np.array([3.0, 2.0, 1.0]), np.arange(1, 4)[::-1]):
        assert pack_padded_sequence(x, lengths).batch_sizes.tolist() == [3, 2, 1]


# --- PackedSequence ---------------------------------------------------------------------------------------------------


def test_constructor_forms():
    data = np.arange(3.0)
    for packed in (PackedSequence(data, [2, 1]), PackedSequence((data, [2, 1])), PackedSequence([data, [2, 1]])):
        assert packed.data is data
        assert packed.batch_sizes.tolist() == [2, 1]
        assert packed.sorted_indices is packed.unsorted_indices is None
    for packed in (PackedSequence(data, [2, 1], [1, 0]), PackedSequence(data, [2, 1], None, [1, 0])):
        assert packed.sorted_indices.tolist() == packed.unsorted_indices.tolist() == [1, 0]
    data, batch_sizes, sorted_indices, unsorted_indices = pack_sequence(SEQUENCES, enforce_sorted=False)
    rebuilt = PackedSequence(data, batch_sizes, sorted_indices, unsorted_indices)
    assert [s.tolist() for s in unpack_sequence(rebuilt)] == [s.tolist() for s in SEQUENCES]


def test_replace_astype_pickle_deepcopy():
    packed = pack_sequence(SEQUENCES, enforce_sorted=False)
    squared = packed._replace(data=packed.data**2)
    assert [s.tolist() for s in unpack_sequence(squared)] == [[1, 4], [9, 16, 25], [36]]
    assert packed.astype("float32").data.dtype == np.float32
    assert packed.astype(packed.data.dtype) is packed
    for clone in (pickle.loads(pickle.dumps(packed)), copy.deepcopy(packed)):
        assert type(clone) is PackedSequence
        for a, b in zip(clone, packed, strict=True):
            np.testing.assert_array_equal(a, b)
            assert not np.shares_memory(a, b)


def test_repr_names_the_parts():
    assert repr(pack_sequence([[1, 2], [3]])) == (
        "PackedSequence(data=array([1, 3, 2]), batch_sizes=array([2, 1]), sorted_indices=None, unsorted_indices=None)"
    )


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((np.ones(3),), TypeError, "Expected data to be a list or tuple of length 2"),
        ((np.ones(3), []), ValueError, "batch_sizes can not be empty"),
        ((np.ones(3), [1, 2]), ValueError, "batch_sizes should be positive and never grow"),
        ((np.ones(3), [3, 0]), ValueError, "batch_sizes should be positive and never grow"),
        ((np.ones(3), [2, 2]), ValueError, "batch_sizes should add up to len.data. = 3, got the sum 4"),
        ((np.ones(3), [[2, 1]]), ValueError, "'batch_sizes' argument should be a 1D array of integers, but got 2D"),
        ((np.ones(3), [2.5, 0.5]), ValueError, "'batch_sizes' argument should be a 1D array of integers"),
        ((np.ones(3), ["a"]), TypeError, "batch_sizes should be an array of numbers"),
        ((np.float64(3), [1]), ValueError, "data should have at least 1 dimensions, got 0"),
        ((np.array([None] * 3), [2, 1]), TypeError, "data should be an array of numbers"),
        ((np.ones(3), [2, 1], [0, 2]), ValueError, "sorted_indices should hold each of 0 to 1 once"),
        ((np.ones(3), [2, 1], [0, 1, 2]), ValueError, "sorted_indices should have batch_sizes.0. = 2 entries, got 3"),
        ((np.ones(3), [2, 1], None, [0, 0]), ValueError, "unsorted_indices should hold each of 0 to 1 once"),
        ((np.ones(3), [2, 1], [0, 1], [1, 0]), ValueError, "unsorted_indices should be the inverse of sorted_indices"),
    ],
)
def test_parts_that_do_not_fit(arguments, error, words):
    with pytest.raises(error, match="^" + words):
        PackedSequence(*arguments)


def test_replace_checks_too():
    with pytest.raises(ValueError, match="batch_sizes should add up"):
        pack_sequence(SEQUENCES, enforce_sorted=False)._replace(data=np.ones(2))


# --- permutations -----------------------------------------------------------------------------------------------------


def test_invert_permutation():
    assert invert_permutation(None) is None
    assert invert_permutation([]).tolist() == []
    permutation = np.random.default_rng(0).permutation(50)
    inverse = invert_permutation(permutation.astype(np.int32))
    assert inverse.dtype == np.int64
    np.testing.assert_array_equal(permutation[inverse], np.arange(50))


@pytest.mark.parametrize("permutation", [[0, 0], [0, 2], [-1, 0], [0.5, 1], [[0, 1], [1, 0]]])
def test_not_a_permutation(permutation):
    with pytest.raises(ValueError, match="permutation"):
        invert_permutation(permutation)


# --- wrong arguments --------------------------------------------------------------------------------------------------

X = np.ones((4, 3, 2))
PACKED = pack_sequence(SEQUENCES, enforce_sorted=False)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pack_padded_sequence(X, [1, 2, 3]), ValueError, "`lengths` array must be sorted in decreasing order"),
        (lambda: pack_padded_sequence(X, [3, 2, 0]), ValueError, "Length of all samples has to be greater than 0"),
        (lambda: pack_padded_sequence(X, [3, 2, -1]), ValueError, "Length of all samples has to be greater than 0"),
        (
            lambda: pack_padded_sequence(X, [3, 0, 2], enforce_sorted=False),
            ValueError,
            "Length of all samples has to be greater than 0",
        ),
        (
            lambda: pack_padded_sequence(X, [1]),
            ValueError,
            "Expected `len.lengths.` to be equal to batch_size, but got 1",
        ),
        (
            lambda: pack_padded_sequence(X, [1, 1], enforce_sorted=False),
            ValueError,
            r"Expected `len.lengths.` to be equal to batch_size, but got 2 \(batch_size=3\)",
        ),
        (
            lambda: pack_padded_sequence(X, [1, 1, 1], batch_first=True),
            ValueError,
            r"Expected `len.lengths.` to be equal to batch_size, but got 3 \(batch_size=4\)",
        ),
        (lambda: pack_padded_sequence(X, [5, 1, 1]), ValueError, "lengths should be at most T = 4, got 5"),
        (lambda: pack_padded_sequence(X[:, :0], []), ValueError, "Cannot pack empty tensors"),
        (lambda: pack_padded_sequence(X[:0], [0, 0, 0]), ValueError, "Cannot pack empty tensors"),
        (lambda: pack_padded_sequence(X[:, 0, 0], [1]), ValueError, "input should have at least 2 dimensions, got 1"),
        (lambda: pack_padded_sequence([[1], [1, 2]], [1]), ValueError, "input should be an array"),
        (lambda: pack_padded_sequence([["a"]], [1]), TypeError, "input should be an array of numbers, got list"),
        (lambda: pack_padded_sequence(X, [[3], [2], [1]]), ValueError, "'lengths' argument should be a 1D"),
        (lambda: pack_padded_sequence(X, 3), ValueError, "'lengths' argument should be a 1D .* but got 0D"),
        (
            lambda: pack_padded_sequence(X, [2.5, 2, 1]),
            ValueError,
            "'lengths' argument should be a 1D array of integers",
        ),
        (lambda: pack_padded_sequence(X, [np.nan, 2, 1]), ValueError, "'lengths' argument should be"),
        (lambda: pack_padded_sequence(X, ["3", "2", "1"]), TypeError, "lengths should be an array of numbers"),
        (lambda: pack_padded_sequence(X, [1j, 1, 1]), TypeError, "'lengths' argument should be a 1D array of integers"),
        (lambda: pack_padded_sequence(X, None), TypeError, "lengths should be an array of numbers, got NoneType"),
        (lambda: pad_packed_sequence(X), TypeError, "sequence should be a PackedSequence, got: ndarray"),
        (lambda: pad_packed_sequence(PACKED, total_length=2), ValueError, "Expected total_length to be at least"),
        (lambda: pad_packed_sequence(PACKED, total_length=4.0), TypeError, "total_length should be of type int"),
        (
            lambda: pad_packed_sequence(PACKED, padding_value=np.inf),
            ValueError,
            "value cannot be converted to type int64",
        ),
        (
            lambda: pad_packed_sequence(PACKED, padding_value=2**63),
            ValueError,
            "value cannot be converted to type int64",
        ),
        (lambda: pad_packed_sequence(PACKED, padding_value="0"), TypeError, "padding_value should be a real number"),
        (lambda: pad_packed_sequence(PACKED, padding_value=1j), TypeError, "padding_value should be a real number"),
        (lambda: pad_packed_sequence(PACKED, padding_value=[0]), TypeError, "padding_value should be a real number"),
        (lambda: pad_sequence([]), ValueError, "received an empty list of sequences"),
        (lambda: pad_sequence(3), TypeError, "Expected iterable for input sequences, but got arg of type"),
        (lambda: pad_sequence([1.0, 2.0]), ValueError, r"sequences\[0\] should have at least 1 dimensions, got 0"),
        (lambda: pad_sequence([[1.0], ["ab"]]), TypeError, r"sequences\[1\] should be an array of numbers, got list"),
        (
            lambda: pad_sequence([X, X[:, :2]]),
            ValueError,
            r"The size of tensor a \(3, 2\) must match .* sequences\[1\]",
        ),
        (lambda: pad_sequence([X, X[:, :, 0]]), ValueError, r"The size of tensor a \(3, 2\) must match the size"),
        (
            lambda: pad_sequence(SEQUENCES, padding_side="up"),
            ValueError,
            "Expected padding_side to be one of left or right",
        ),
        (lambda: unpad_sequence(X, [1, 2]), ValueError, "Expected `len.lengths.` to be equal to batch_size, but got 2"),
        (lambda: unpad_sequence(X, [1, 5, 1]), ValueError, "lengths should be between 0 and T = 4"),
        (lambda: unpad_sequence(X, [1, -1, 1]), ValueError, "lengths should be between 0 and T = 4"),
        (lambda: unpad_sequence(X[:, 0, 0], [1]), ValueError, "padded_sequences should have at least 2 dimensions"),
        (lambda: pack_sequence(SEQUENCES), ValueError, "`lengths` array must be sorted in decreasing order"),
        (lambda: pack_sequence([]), ValueError, "received an empty list of sequences"),
        (lambda: unpack_sequence(X), TypeError, "packed_sequences should be a PackedSequence, got: ndarray"),
    ],
)
def test_wrong_arguments(call, error, words):
    with pytest.raises(error, match=words):
        call()
