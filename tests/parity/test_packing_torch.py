"""The packed layout, held to torch.nn.utils.rnn itself: results, and the first words of refusals."""

from __future__ import annotations

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now

DTYPES = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64", "complex64"]


def random_batch(rng):
    """Padded (T, N, *), lengths, and whether the lengths are sorted; any dtype that torch has too."""
    shape = (int(rng.integers(1, 9)), int(rng.integers(1, 8)), *rng.integers(1, 4, rng.integers(0, 3)).tolist())
    padded = (10 * rng.normal(size=shape)).astype(rng.choice(DTYPES[:-1]))
    lengths = rng.integers(1, shape[0] + 1, shape[1])
    if ordered := bool(rng.integers(2)):
        lengths = np.sort(lengths)[::-1]
    return padded, lengths.copy(), ordered


def same(ours, theirs):
    """Whether nested tuples and lists of arrays hold equal values of equal dtype."""
    if theirs is None or ours is None:
        return ours is theirs
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours.dtype == theirs.numpy().dtype and np.array_equal(ours, theirs.numpy())


def test_random_batches():
    wrong = []
    rng = np.random.default_rng(0)
    for case in range(400):
        padded, lengths, ordered = random_batch(rng)
        batch_first, left, value = bool(rng.integers(2)), bool(rng.integers(2)), [0, 1, 3.5][rng.integers(3)]
        total = int(padded.shape[0] + rng.integers(3)) if rng.integers(2) else None
        x = padded.swapaxes(0, 1) if batch_first else padded
        p_ours = fastrnn.pack_padded_sequence(x, lengths, batch_first, ordered)
        p_theirs = rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths), batch_first, ordered)
        sequences = fastrnn.unpack_sequence(p_ours)
        tensors = [torch.tensor(s) for s in sequences]
        side = "left" if left else "right"
        pairs = {
            "pack_padded_sequence": (p_ours, p_theirs),
            "pad_packed_sequence": (
                fastrnn.pad_packed_sequence(p_ours, batch_first, value, total),
                rnn.pad_packed_sequence(p_theirs, batch_first, value, total),
            ),
            "unpack_sequence": (sequences, rnn.unpack_sequence(p_theirs)),
            "pad_sequence": (
                fastrnn.pad_sequence(sequences, batch_first, value, side),
                rnn.pad_sequence(tensors, batch_first, value, side),
            ),
            "pack_sequence": (fastrnn.pack_sequence(sequences, ordered), rnn.pack_sequence(tensors, ordered)),
            "unpad_sequence": (
                fastrnn.unpad_sequence(x, lengths, batch_first),
                rnn.unpad_sequence(torch.tensor(x), torch.tensor(lengths), batch_first),
            ),
            "lengths": (p_ours.lengths, torch.tensor(lengths)),
        }
        wrong += [(case, name, padded.shape, lengths.tolist()) for name, pair in pairs.items() if not same(*pair)]
    assert not wrong, f"{len(wrong)} disagree:\n" + "\n".join(map(str, wrong))


def test_large_batches_up_to_the_order_of_equal_lengths():
    # torch's sort is not stable for long inputs; ours is. What is unpacked and padded must agree all the same.
    rng = np.random.default_rng(1)
    x, lengths = rng.normal(size=(6, 500, 2)), rng.integers(1, 7, 500)
    ours = fastrnn.pack_padded_sequence(x, lengths, enforce_sorted=False)
    theirs = rnn.pack_padded_sequence(torch.tensor(x), torch.tensor(lengths), enforce_sorted=False)
    assert same(ours.batch_sizes, theirs.batch_sizes)
    assert same(fastrnn.pad_packed_sequence(ours), rnn.pad_packed_sequence(theirs))
    assert same(fastrnn.unpack_sequence(ours), rnn.unpack_sequence(theirs))


def test_a_torch_pack_can_be_rebuilt():
    theirs = rnn.pack_sequence([torch.ones(2), torch.ones(3)], enforce_sorted=False)
    ours = fastrnn.PackedSequence(*(part.numpy() for part in theirs))
    assert same(ours, theirs)
    assert same(fastrnn.unpack_sequence(ours), rnn.unpack_sequence(theirs))
    assert ours._fields == theirs._fields


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0, 1, -1, -1.5, 300, 2.0**31, 2**62, 1e20, 1e300, np.inf, -np.inf, np.nan])
def test_padding_values(dtype, value):
    sequences = [np.ones(2, dtype), np.ones(1, dtype)]
    try:
        theirs = rnn.pad_sequence([torch.tensor(s) for s in sequences], padding_value=value)
    except RuntimeError:
        with pytest.raises(ValueError, match=r"^value cannot be converted to type"):
            fastrnn.pad_sequence(sequences, padding_value=value)
    else:
        np.testing.assert_array_equal(fastrnn.pad_sequence(sequences, padding_value=value), theirs.numpy())


def test_invert_permutation():
    for seed in range(20):
        permutation = np.random.default_rng(seed).permutation(seed)
        assert same(fastrnn.invert_permutation(permutation), rnn.invert_permutation(torch.tensor(permutation)))
    assert rnn.invert_permutation(None) is None is fastrnn.invert_permutation(None)


X = np.ones((4, 3, 2), np.float32)
TENSOR = torch.ones(4, 3, 2)


@pytest.mark.parametrize(
    ("words", "call"),
    [
        # How much of torch's message ours begins with; the module is given, so that one line makes both calls.
        (9, lambda m, x, array: m.pack_padded_sequence(x, array([1, 2, 3]))),
        (9, lambda m, x, array: m.pack_padded_sequence(x, array([3, 0, 2]))),
        (17, lambda m, x, array: m.pack_padded_sequence(x, array([3, 2, 0]))),
        (17, lambda m, x, array: m.pack_padded_sequence(x, array([3, 2, -1]))),
        (17, lambda m, x, array: m.pack_padded_sequence(x, array([3, 0, 2]), enforce_sorted=False)),
        (11, lambda m, x, array: m.pack_padded_sequence(x, array([3, 2]))),
        (11, lambda m, x, array: m.pack_padded_sequence(x, array([3, 2]), batch_first=True)),
        (6, lambda m, x, array: m.pack_padded_sequence(x, array([[3], [2], [1]]))),
        (6, lambda m, x, array: m.pack_padded_sequence(x, array(3))),
        (3, lambda m, x, array: m.pack_padded_sequence(x[:, :0], array([3][:0]))),
        (3, lambda m, x, array: m.pack_padded_sequence(x[:0], array([1, 1, 1]))),
        (
            22,
            lambda m, x, array: m.pad_packed_sequence(m.pack_padded_sequence(x, array([4, 2, 1])), total_length=3),
        ),
        (6, lambda m, x, array: m.pad_sequence([])),
        (11, lambda m, x, array: m.pad_sequence([x], padding_side="up")),
        (5, lambda m, x, array: m.pad_sequence([x, x[:, :2]])),
        (9, lambda m, x, array: m.pack_sequence([x[:1], x[:2]])),
        (17, lambda m, x, array: m.pack_sequence([x[:1], x[:0]])),
        (6, lambda m, x, array: m.pack_sequence([])),
    ],
)
def test_refusals_begin_with_the_words_of_torch(words, call):
    with pytest.raises((RuntimeError, ValueError)) as theirs:
        call(rnn, TENSOR, torch.tensor)
    with pytest.raises(ValueError, match=r".") as ours:
        call(fastrnn, X, np.array)
    expected = str(theirs.value).split()[:words]
    assert str(ours.value).split()[:words] == expected


def test_what_we_refuse_on_purpose():
    """Deviations: torch answers these, with a broken pack, changed arguments or rows cut to fit."""
    assert len(rnn.pack_padded_sequence(TENSOR, [5, 2, 1]).batch_sizes) == 5
    with pytest.raises(ValueError, match="lengths should be at most T = 4"):
        fastrnn.pack_padded_sequence(X, [5, 2, 1])
    assert len(rnn.pack_padded_sequence(TENSOR, [1, 2], enforce_sorted=False).data) == 3  # one row of three is lost
    with pytest.raises(ValueError, match=r"^Expected `len"):
        fastrnn.pack_padded_sequence(X, [1, 2], enforce_sorted=False)
    tensor, array = TENSOR.clone(), X.copy()
    rnn.unpad_sequence(tensor, torch.tensor([1, 2, 3]))
    assert tensor.shape == (3, 4, 2)
    fastrnn.unpad_sequence(array, np.array([1, 2, 3]))
    assert array.shape == (4, 3, 2)
    assert rnn.pack_padded_sequence(TENSOR, [2.9, 2, 1]).batch_sizes.tolist() == [3, 2]
    with pytest.raises(ValueError, match="1D array of integers"):
        fastrnn.pack_padded_sequence(X, [2.9, 2, 1])
