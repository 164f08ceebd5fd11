"""Datasets and the loader: what batches are, orders, and the thread that makes them ahead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections import namedtuple
from itertools import chain

import numpy as np
import pytest

import fastrnn
from fastrnn.backends import current
from fastrnn.data import ArrayDataset, DataLoader, Dataset, Ragged, RaggedDataset, default_collate

LENGTHS = [3, 1, 0, 4, 2]
Pair = namedtuple("Pair", ["first", "second"])


def sequences(*features):
    return [np.full((length, *features), i + 1.0, np.float32) for i, length in enumerate(LENGTHS)]


def numbers(loader):
    return [batch.tolist() for batch in loader]


def threads_of_loaders():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fastrnn.data")]


@pytest.fixture(params=[0, 1, 3], ids=lambda n: f"prefetch={n}")
def prefetch(request):
    yield request.param
    assert not threads_of_loaders()


# -- datasets ---------------------------------------------------------------------------------------------------------


def test_array_dataset():
    x, y = np.arange(12.0).reshape(4, 3), [5, 6, 7, 8]
    dataset = ArrayDataset(x, y)
    assert len(dataset) == 4
    item = dataset[2]
    assert isinstance(item, tuple)
    np.testing.assert_array_equal(item[0], [6, 7, 8])
    assert item[1] == 7
    assert np.shares_memory(dataset[0][0], x)


def test_array_dataset_of_a_memory_mapped_file(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(12.0).reshape(4, 3))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    dataset = ArrayDataset(x)
    assert dataset.arrays[0] is x
    ((batch,),) = DataLoader(dataset, 4)
    np.testing.assert_array_equal(batch, x)
    assert type(batch) is np.ndarray


def test_ragged_dataset():
    dataset = RaggedDataset(sequences(2), np.arange(5), [[1], [1, 2], [], [3], [4]], ["a", "b", "c", "d", "e"])
    assert len(dataset) == 5
    x, number, more, name = dataset[1]
    assert isinstance(x, Ragged)
    assert isinstance(more, Ragged)
    np.testing.assert_array_equal(x, [[2, 2]])
    np.testing.assert_array_equal(more, [1, 2])
    assert (number, name) == (1, "b")


def test_base_class():
    with pytest.raises(NotImplementedError, match=r"^Subclasses of Dataset should implement __getitem__"):
        Dataset()[0]
    with pytest.raises(NotImplementedError, match=r"^Subclasses of Dataset should implement __len__"):
        len(Dataset())


# -- batches ----------------------------------------------------------------------------------------------------------


def test_collate_arrays_and_numbers():
    batch = default_collate([np.ones((2, 3), np.float32), np.zeros((2, 3), np.float32)])
    assert batch.shape == (2, 2, 3)
    assert batch.dtype == np.float32
    for items, dtype in (([1, 2], "int64"), ([1.0, 2.0], "float64"), ([True, False], "bool"), ([1j, 2], "complex128")):
        assert default_collate(items).dtype == dtype
    batch = default_collate([np.float32(1), np.float32(2)])
    assert batch.dtype == np.float32
    assert batch.shape == (2,)


def test_collate_nested():
    items = [{"x": np.ones(3) * i, "more": (i, [i, "n"]), "pair": Pair(i, b"b")} for i in range(2)]
    batch = default_collate(items)
    assert list(batch) == ["x", "more", "pair"]
    np.testing.assert_array_equal(batch["x"], [[0, 0, 0], [1, 1, 1]])
    number, inner = batch["more"]
    np.testing.assert_array_equal(number, [0, 1])
    assert inner[1] == ["n", "n"]
    assert isinstance(inner, list)
    assert isinstance(batch["pair"], Pair)
    np.testing.assert_array_equal(batch["pair"].first, [0, 1])
    assert batch["pair"].second == [b"b", b"b"]


@pytest.mark.parametrize("batch_first", [False, True])
def test_collate_ragged(batch_first):
    items = [sequence.view(Ragged) for sequence in sequences(2)]
    padded, lengths = default_collate(items, batch_first=batch_first)
    assert type(padded) is np.ndarray
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(lengths, LENGTHS)
    expected = np.zeros((5, 4, 2), np.float32)
    for i, length in enumerate(LENGTHS):
        expected[i, :length] = i + 1
    np.testing.assert_array_equal(padded, expected if batch_first else expected.swapaxes(0, 1))
    # also where all are as long by chance
    padded, lengths = default_collate(items[:1] * 2, batch_first=batch_first)
    assert padded.shape == ((2, 3, 2) if batch_first else (3, 2, 2))
    np.testing.assert_array_equal(lengths, [3, 3])


WRONG_ITEMS = [
    ([], ValueError, "items should be at least one"),
    ([np.ones(3), np.ones(4)], ValueError, r"stack expects each tensor to be equal size, but got \[3\] at entry 0 and"),
    ([(1, 2), (1, 2, 3)], ValueError, "each element in list of batch should be of equal size"),
    (
        [object()],
        TypeError,
        "default_collate: batch must contain arrays, numbers, dicts, tuples or lists; found object",
    ),
    ([None], TypeError, "default_collate: batch must contain arrays"),
]


@pytest.mark.parametrize(("items", "error", "message"), WRONG_ITEMS)
def test_wrong_items(items, error, message):
    with pytest.raises(error, match=f"^{message}"):
        default_collate(items)


def test_batches_go_into_a_layer():
    dataset = RaggedDataset(sequences(3), [0, 1, 0, 1, 1])
    gru = fastrnn.GRU(3, 4, batch_first=True, rng=0)
    for (x, lengths), labels in DataLoader(dataset, 2, batch_first=True):
        y, h_n = gru(x, lengths=lengths)
        assert y.shape[0] == h_n.shape[1] == len(labels)


# -- the loader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size", "drop_last", "expected"), [
    (5, 2, False, [[0, 1], [2, 3], [4]]),
    (5, 2, True, [[0, 1], [2, 3]]),
    (4, 2, True, [[0, 1], [2, 3]]),
    (4, 8, False, [[0, 1, 2, 3]]),
    (4, 8, True, []),
    (0, 2, False, []),
])  # fmt: skip
def test_sizes(n, size, drop_last, expected, prefetch):
    loader = DataLoader(range(n), size, drop_last=drop_last, prefetch=prefetch)
    assert numbers(loader) == expected == numbers(loader)
    assert len(loader) == len(expected)


def test_one_item_a_batch_by_default():
    assert numbers(DataLoader([7, 8])) == [[7], [8]]


def test_shuffled_epochs(prefetch):
    loader = DataLoader(range(50), 8, shuffle=True, rng=0, prefetch=prefetch)
    again = DataLoader(range(50), 8, shuffle=True, rng=0)
    epochs = [numbers(loader) for _ in range(3)]
    assert epochs == [numbers(again) for _ in range(3)]
    assert len({str(epoch) for epoch in epochs}) == 3
    for epoch in epochs:
        assert sorted(chain(*epoch)) == list(range(50))
    assert numbers(DataLoader(range(50), 8, shuffle=True, rng=1)) != epochs[0]


def test_orders_are_drawn_when_loops_begin():
    loader, again = (DataLoader(range(20), 4, shuffle=True, rng=0) for _ in range(2))
    first, second = iter(loader), iter(loader)
    late = numbers(second)
    assert [numbers(first), late] == [numbers(again), numbers(again)]


def test_a_generator_is_shared():
    rng = np.random.default_rng(0)
    loader = DataLoader(range(20), 20, shuffle=True, rng=rng)
    order = np.random.default_rng(0).permutation(20).tolist()
    assert numbers(loader) == [order]


def test_collate_fn(prefetch):
    assert list(DataLoader(range(5), 2, collate_fn=sum, prefetch=prefetch)) == [1, 5, 4]


WRONG = [
    ((1,), {}, TypeError, "dataset should have items and a length, got: int"),
    ((iter([]),), {}, TypeError, "dataset should have items and a length"),
    (([1], 0), {}, ValueError, "batch_size should be a positive integer value, but got batch_size=0"),
    (([1], 1.5), {}, TypeError, "batch_size should be of type int"),
    (([1],), {"shuffle": 1}, TypeError, "shuffle should be of type bool"),
    (([1],), {"drop_last": None}, TypeError, "drop_last should be of type bool"),
    (([1],), {"batch_first": 0}, TypeError, "batch_first should be of type bool"),
    (([1],), {"collate_fn": 1}, TypeError, "collate_fn should be a function"),
    (([1],), {"rng": "a"}, TypeError, "rng should be an int, a numpy Generator or None"),
    (([1],), {"prefetch": -1}, ValueError, "prefetch should be at least 0"),
    (([1],), {"prefetch": True}, TypeError, "prefetch should be of type int"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), WRONG)
def test_wrong_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        DataLoader(*arguments, **options)


WRONG_COLUMNS = [
    (ArrayDataset, (), ValueError, "a dataset should have at least one array"),
    (RaggedDataset, (), ValueError, "a dataset should have at least one array"),
    (ArrayDataset, ([1, 2], [1]), ValueError, r"Size mismatch between arrays: their lengths are \[2, 1\]"),
    (RaggedDataset, ([[1], [1, 2]], [1]), ValueError, r"Size mismatch between arrays: their lengths are \[2, 1\]"),
    (ArrayDataset, (1.0,), ValueError, "Size mismatch between arrays: a number has no length"),
    (RaggedDataset, ([[1], 2],), TypeError, "sequence 1 should be an array of numbers"),
    (RaggedDataset, ([["a"]],), TypeError, "sequence 0 should be an array of numbers"),
]


@pytest.mark.parametrize(("dataset", "columns", "error", "message"), WRONG_COLUMNS)
def test_wrong_columns(dataset, columns, error, message):
    with pytest.raises(error, match=f"^{message}"):
        dataset(*columns)


# -- the thread -------------------------------------------------------------------------------------------------------


class Failing(Dataset):
    """Raises at item 5."""

    def __init__(self, error=ZeroDivisionError):
        self.error = error

    def __getitem__(self, index):
        return self.find(index)

    def find(self, index):
        if index == 5:
            raise self.error("item 5")
        return index

    def __len__(self):
        return 10


def test_errors_come_where_the_batch_would(prefetch):
    batches = iter(DataLoader(Failing(), 2, prefetch=prefetch))
    assert [next(batches).tolist(), next(batches).tolist()] == [[0, 1], [2, 3]]
    with pytest.raises(ZeroDivisionError, match=r"^item 5$") as caught:
        next(batches)
    assert next(batches, "the end") == "the end"
    assert "find" in [frame.name for frame in traceback.extract_tb(caught.tb)]


def test_stop_iteration_of_a_dataset_does_not_end_the_loop_in_silence(prefetch):
    with pytest.raises(RuntimeError, match=r"StopIteration"):
        list(DataLoader(Failing(StopIteration), 2, prefetch=prefetch))


class Slow(Dataset):
    """Notes which items were asked for, and by which thread."""

    def __init__(self, seconds=0.0):
        self.seconds, self.asked, self.threads = seconds, [], set()

    def __getitem__(self, index):
        time.sleep(self.seconds)
        self.asked.append(index)
        self.threads.add(threading.get_ident())
        return index

    def __len__(self):
        return 20


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_so_many_batches_are_made_ahead():
    dataset = Slow()
    batches = iter(DataLoader(dataset, 2, prefetch=3))
    assert not dataset.asked
    next(batches)
    wait_until(lambda: len(dataset.asked) == 8)  # the one that came, and three more
    time.sleep(0.01)
    assert dataset.asked == list(range(8))
    assert len(dataset.threads) == 1
    assert threading.get_ident() not in dataset.threads
    batches.close()


def test_without_prefetch_nothing_is_made_ahead():
    dataset = Slow()
    batches = iter(DataLoader(dataset, 2))
    next(batches)
    assert dataset.asked == [0, 1]
    assert dataset.threads == {threading.get_ident()}


def test_breaking_off_ends_the_thread():
    dataset = Slow(0.002)
    for _ in DataLoader(dataset, 2, prefetch=4):
        break
    asked = len(dataset.asked)
    assert not threads_of_loaders()
    time.sleep(0.02)
    assert len(dataset.asked) == asked <= 6


def test_an_error_in_the_loop_ends_the_thread():
    def loop():
        for _ in DataLoader(Slow(), 2, prefetch=2):
            raise ValueError("of the body")

    with pytest.raises(ValueError, match=r"^of the body$"):
        loop()
    wait_until(lambda: not threads_of_loaders())


def test_a_loop_that_never_began_has_no_thread():
    iter(DataLoader(Slow(), prefetch=2))
    assert not threads_of_loaders()


def test_the_thread_runs_on_the_backend_in_force():
    used = []

    class Asking(Slow):
        def __getitem__(self, index):
            used.append(current())
            return index

    with fastrnn.use_backend("reference"):
        list(DataLoader(Asking(), 10, prefetch=1))
    assert len(set(used)) == 1
    with fastrnn.use_backend("reference"):
        assert used[0] is current()


def test_several_loops_over_one_loader():
    loader = DataLoader(range(200), 7, shuffle=True, rng=0, prefetch=2)
    found, errors = [], []

    def loop():
        try:
            found.append(sorted(chain(*numbers(loader))))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=loop) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert found == [list(range(200))] * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork")
def test_fork():
    """A loop that has begun does not go on in a child, and says so; a new one runs."""
    loader = DataLoader(range(10), 2, prefetch=2)
    batches = iter(loader)
    next(batches)
    child = os.fork()
    if not child:
        status = 1
        try:
            try:
                next(batches)
            except RuntimeError as error:
                status = 0 if "begun before a fork" in str(error) and len(numbers(loader)) == 5 else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(numbers(batches)) == 4


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "del batches"])
def test_a_process_ends_in_the_middle_of_a_loop(end):
    code = f"import fastrnn\nbatches = iter(fastrnn.data.DataLoader(range(100), prefetch=3))\nnext(batches)\n{end}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
