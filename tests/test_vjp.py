"""What `vjp` and `backward` promise beside the numbers: purity, `wrt`, `consume`, changed weights, forms of input."""

from __future__ import annotations

import copy
import pickle
import threading
from importlib import import_module
from itertools import combinations

import numpy as np
import pytest
from layer_tools import CELLS, Case, arrays_in, assert_same_bits, each, gradients, normal_like, parts_of

import fastrnn

WRT = ("x", "hx", "params")
LENGTHS = [4, 9, 0, 7]  # of four rows and nine steps


@pytest.fixture(params=CELLS)
def cell(request):
    return request.param


@pytest.fixture
def case(cell):
    """Two layers, two directions, ragged rows, resets, initial states."""
    return Case(cell, 9, 4, 3, 5, ragged=LENGTHS, resets=0.15, num_layers=2, bidirectional=True)


# --- pure, re-entrant -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}, {"consume": True}])
def test_the_result_is_that_of_the_call(case, options, backend):
    assert_same_bits(case.vjp(**options)[0], case.call())


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 3}])
@pytest.mark.parametrize("per_sample", [False, True])
def test_backward_may_be_called_again(case, options, per_sample, backend):
    """With the same bits, whatever else was asked of it and done to its results in between."""
    _, backward = case.vjp(**options)
    first = backward(*case.seeds, per_sample=per_sample)
    kept = copy.deepcopy(first)
    for array in arrays_in(first).values():
        assert array.flags.writeable
        array[...] = np.nan
    backward(2 * case.seeds[0], per_sample=not per_sample)
    case.vjp()[1](*case.seeds)
    assert_same_bits(backward(*case.seeds, per_sample=per_sample), kept)


def in_threads(work, n):
    """What `work` gives for 0 to n-1, all begun at once."""
    barrier, found = threading.Barrier(n), [None] * n

    def begin(i):
        barrier.wait()
        found[i] = work(i)

    threads = [threading.Thread(target=begin, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 3}])
def test_backward_in_several_threads(case, options, backend):
    rng = np.random.default_rng(1)
    seeds = [normal_like(rng, case.seeds) for _ in range(4)]
    _, backward = case.vjp(**options)
    expected = [backward(*s) for s in seeds]
    for found, one in zip(in_threads(lambda i: [backward(*seeds[i]) for _ in range(8)], 4), expected, strict=True):
        assert len(found) == 8
        for grads in found:
            assert_same_bits(grads, one)


def test_the_backend_of_the_forward_pass_is_kept(case, backend):
    expected = case.gradients()
    _, backward = case.vjp()
    for other in ("cython", "reference"):
        with fastrnn.use_backend(other):
            assert_same_bits(backward(*case.seeds), expected)


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}])
@pytest.mark.parametrize("form", ["plain", "ragged", "sorted", "batch_first", "unbatched"])
def test_later_changes_do_not_count(cell, form, options, backend):
    """Of the arguments and of what was returned: in place, after the forward pass."""
    ragged = {"ragged": LENGTHS, "sorted": [9, 9, 4, 0]}.get(form, False)
    case = Case(cell, 9, 4, 3, 5, ragged=ragged, resets=0.15)
    if form == "batch_first":
        case.layer.batch_first = True
        case.x, case.seeds = case.x.swapaxes(0, 1).copy(), (case.seeds[0].swapaxes(0, 1), case.seeds[1])
        case.options["reset"] = case.options["reset"].T.copy()
    if form == "unbatched":
        case.x, case.options["reset"] = case.x[:, 0].copy(), case.options["reset"][:, 0].copy()
        case.hx, case.seeds = (each(lambda a: a[:, 0].copy(), arrays) for arrays in (case.hx, case.seeds))
    expected = case.gradients()
    (y, end), backward = case.vjp(**options)
    for array in (y, *parts_of(end), case.x, *parts_of(case.hx)):
        array[...] = np.nan
    for array in case.options.values():
        array[...] = ~array if array.dtype == bool else 0
    assert_same_bits(backward(*case.seeds), expected)


def test_nothing_is_written_to_and_nothing_is_shared(case, backend):
    given = [case.x, *parts_of(case.hx), *case.options.values(), case.seeds[0], *parts_of(case.seeds[1])]
    given += case.layer.parameters().values()
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    (y, end), backward = case.vjp()
    first, second = backward(*case.seeds), backward(*case.seeds, per_sample=True)
    for array, old in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, old)
    results = [y, *parts_of(end), *arrays_in(first).values(), *arrays_in(second).values()]
    for i, result in enumerate(results):
        for other in (*given, *results[:i]):
            assert not np.shares_memory(result, other)


def test_what_is_not_given_is_zero(case, backend):
    d_output, d_state = case.seeds
    case.hx = each(np.zeros_like, case.hx)
    _, backward = case.vjp()
    _, without = case.layer.vjp(case.x, **case.options)
    assert_same_bits(without(*case.seeds), backward(*case.seeds))
    assert_same_bits(backward(d_output), backward(d_output, each(np.zeros_like, d_state)))
    for a, b in zip(*(arrays_in(backward(d, d_state)).values() for d in (None, 0 * d_output)), strict=True):
        np.testing.assert_array_equal(a, b)  # but for the sign of zeros
    assert not any(array.any() for array in arrays_in(backward(None)).values())


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickle.dumps])
def test_backward_functions_are_not_copied(clone):
    _, backward = Case("gru", 2, 1, 3, 4).vjp(wrt=("params", "x"))
    assert repr(backward) == "<backward through GRU with respect to x, params>"
    with pytest.raises(TypeError, match="a backward function cannot be copied or pickled; call vjp again"):
        clone(backward)


# --- wrt --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [c for n in (1, 2, 3) for c in combinations(WRT, n)], ids="-".join)
def test_wrt(case, names, backend):
    """The same bits for what is asked for, None for the rest."""
    expected = case.gradients()._replace(**{name: None for name in WRT if name not in names})
    for wrt in (names, [*reversed(names)], {*names}, iter(names), *(names if len(names) == 1 else ())):
        grads = case.gradients(wrt=wrt)
        assert tuple(name for name in WRT if getattr(grads, name) is not None) == names
        assert_same_bits(grads, expected)


@pytest.mark.parametrize("wrt", WRT)
def test_what_is_not_wanted_is_not_computed(wrt, backend, monkeypatch):
    """But the upper layer's input, which is the way to the lower one."""
    module, asked = import_module(f"fastrnn.backends.{backend}"), []
    original = module.backward

    def spy(prepared, record, dy, dh, dc, dx, sums):
        asked.append((dx is not None, sums is not None))
        original(prepared, record, dy, dh, dc, dx, sums)

    monkeypatch.setattr(module, "backward", spy)
    Case("gru", 3, 2, 3, 5, num_layers=2).gradients(wrt=wrt)
    assert asked == [(True, wrt == "params"), (wrt == "x", wrt == "params")]


# --- consume, changed weights -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}])
def test_consume(case, options, backend):
    """Once, with the same bits; a call with a wrong argument is none."""
    expected = case.gradients()
    _, backward = case.vjp(consume=True, **options)
    with pytest.raises(ValueError, match="d_output"):
        backward(case.seeds[0][1:])
    with pytest.raises((TypeError, ValueError), match="d_state"):
        backward(case.seeds[0], "state")
    with pytest.raises(TypeError, match="per_sample"):
        backward(*case.seeds, per_sample=1)
    assert_same_bits(backward(*case.seeds), expected)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"a second time after vjp\(\.\.\., consume=True\)"):
            backward(*case.seeds)


def test_consume_in_several_threads(case, backend):
    """One gets the gradients, the others the error."""
    expected = case.gradients()
    _, backward = case.vjp(consume=True)

    def work(i):
        try:
            return backward(*case.seeds)
        except RuntimeError as error:
            return str(error)

    found = in_threads(work, 4)
    assert sum(isinstance(result, str) and "a second time" in result for result in found) == 3
    assert_same_bits(next(result for result in found if not isinstance(result, str)), expected)


CHANGES = {
    "assignment": lambda layer: setattr(layer, "weight_ih_l0", np.array(layer.weight_ih_l0)),
    "an item": lambda layer: layer.parameters().__setitem__("weight_hh_l0", np.array(layer.weight_hh_l0)),
    "update": lambda layer: layer.parameters().update(layer.state_dict()),
    "load_state_dict": lambda layer: layer.load_state_dict(layer.state_dict()),
    "changed": lambda layer: layer.parameters().changed(),
    "reset_parameters": lambda layer: layer.reset_parameters(),
    "to": lambda layer: layer.to("float64"),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("options", [{}, {"consume": True}, {"checkpoint_every": 2}])
def test_changed_weights(change, options, backend):
    """A gradient at the old weights would be of no use to who has new ones."""
    case = Case("lstm", 5, 2, 3, 4)
    twin = copy.deepcopy(case.layer)
    (_, backward), (_, of_twin) = case.vjp(**options), twin.vjp(case.x, case.hx)
    expected = case.gradients()
    CHANGES[change](case.layer)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"the weights of LSTM\(3, 4\) have changed since vjp was called"):
            backward(*case.seeds)
    assert_same_bits(of_twin(*case.seeds), expected)


def test_changed_weights_of_cells(backend):
    cell, x = fastrnn.GRUCell(3, 4, rng=0), np.ones((2, 3))
    h, backward = cell.vjp(x)
    backward(h)
    cell.weight_ih = np.zeros((12, 3))
    with pytest.raises(RuntimeError, match=r"the weights of GRUCell\(3, 4\) have changed"):
        backward(h)


def test_what_changes_no_weights(backend):
    case = Case("gru", 5, 2, 3, 4, num_layers=2, dropout=0.5)
    _, backward = case.vjp()
    expected = backward(*case.seeds)
    copy.deepcopy(case.layer)
    case.layer.train()
    case.layer.to("cpu")
    case.layer.dropout = 0.1
    case.layer.batch_first = True
    case.layer.parameters()
    assert_same_bits(backward(*case.seeds), expected)


# --- forms of input ---------------------------------------------------------------------------------------------------


def test_batch_first_is_the_transpose(case, backend):
    expected = [case.gradients(per_sample=per_sample) for per_sample in (False, True)]
    case.layer.batch_first = True
    case.options["reset"] = case.options["reset"].T
    case.x, case.seeds = case.x.swapaxes(0, 1), (case.seeds[0].swapaxes(0, 1), case.seeds[1])
    for per_sample in (False, True):
        got = case.gradients(per_sample=per_sample)
        assert_same_bits(got._replace(x=got.x.swapaxes(0, 1)), expected[per_sample])


def test_unbatched_is_a_batch_of_one(case, backend):
    row = {"lengths": [7], "reset": case.options["reset"][:, 3:]}
    x, hx, seeds = case.x[:, 3:], each(lambda a: a[:, 3:], case.hx), each(lambda a: a[:, 3:], case.seeds)
    for per_sample in (False, True):
        expected = gradients(case.layer, x, hx, seeds, per_sample=per_sample, **row)
        alone = {"lengths": 7, "reset": row["reset"][:, 0], "per_sample": per_sample}
        got = gradients(case.layer, x[:, 0], *(each(lambda a: a[:, 0], a) for a in (hx, seeds)), **alone)
        assert_same_bits(got, expected._replace(x=expected.x[:, 0], hx=each(lambda a: a[:, 0], expected.hx)))


@pytest.mark.parametrize("lengths", [[9, 7, 4, 1], [4, 9, 1, 7]])
@pytest.mark.parametrize("per_sample", [False, True])
def test_packed_is_ragged(cell, lengths, per_sample, backend):
    case = Case(cell, 9, 4, 3, 5, ragged=lengths, num_layers=2, bidirectional=True)
    expected = case.gradients(per_sample=per_sample)
    in_order = lengths == sorted(lengths, reverse=True)

    def pack(a):
        return fastrnn.pack_padded_sequence(a, lengths, enforce_sorted=in_order)

    (y, end), backward = case.layer.vjp(pack(case.x), case.hx)
    call = case.layer(pack(case.x), case.hx)
    assert type(y) is fastrnn.PackedSequence
    assert_same_bits((y.data, end), (call[0].data, call[1]))
    for array in (y.data, *parts_of(end)):
        array[...] = np.nan
    grads = backward(pack(case.seeds[0]), case.seeds[1], per_sample=per_sample)
    assert type(grads.x) is fastrnn.PackedSequence
    for part, given in zip(grads.x[1:], pack(case.x)[1:], strict=True):
        assert (part is None) == (given is None)
        np.testing.assert_array_equal(part, given)
    x, _ = fastrnn.pad_packed_sequence(grads.x)
    assert_same_bits(grads._replace(x=x), expected)
    alone = case.layer.vjp(pack(case.x), case.hx)[1](None, case.seeds[1])
    none = case.layer.vjp(case.x, case.hx, **case.options)[1](None, case.seeds[1])
    assert_same_bits(alone._replace(x=fastrnn.pad_packed_sequence(alone.x)[0]), none)


@pytest.mark.parametrize(
    "options", [{}, {"checkpoint_every": 1}, {"lengths": [0, 0]}, {"reset": np.zeros((0, 2), bool)}]
)
def test_no_steps(cell, options, backend):
    """The final state is the initial one, and so are their gradients."""
    case = Case(cell, 0, 2, 3, 5, num_layers=2, bidirectional=True)
    T = 0
    if "lengths" in options:
        case = Case(cell, 4, 2, 3, 5, num_layers=2, bidirectional=True)
        T = 4
    for per_sample in (False, True):
        grads = case.gradients(**options, per_sample=per_sample)
        assert grads.x.shape == (T, 2, 3)
        assert not grads.x.any()
        assert_same_bits(grads.hx, case.seeds[1])
        for name, array in case.layer.parameters().items():
            assert grads.params[name].shape == (2,) * per_sample + array.shape
            assert not grads.params[name].any()


@pytest.mark.parametrize("options", [{}, {"checkpoint_every": 2}, {"lengths": []}, {"reset": np.zeros((5, 0), bool)}])
def test_no_rows(cell, options, backend):
    case = Case(cell, 5, 0, 3, 5, num_layers=2, bidirectional=True)
    for per_sample in (False, True):
        grads = case.gradients(**options, per_sample=per_sample)
        assert grads.x.shape == (5, 0, 3)
        assert [a.shape for a in parts_of(grads.hx)] == [a.shape for a in parts_of(case.hx)]
        for name, array in case.layer.parameters().items():
            assert grads.params[name].shape == (0,) * per_sample + array.shape
            assert grads.params[name].dtype == np.float32
            assert not grads.params[name].any()


def test_names_and_order(cell, backend):
    for options in ({}, {"bias": False}, {"num_layers": 3, "bidirectional": True}):
        case = Case(cell, 2, 1, 3, 4, "float64", **options)
        grads = case.gradients()
        assert list(grads.params) == list(case.layer.state_dict())
        assert {a.dtype for a in arrays_in(grads).values()} == {np.dtype(np.float64)}
        assert grads._fields == WRT


# --- cells ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("batch", [(), (4,)])
def test_cells(name, batch, backend):
    """The result of the call; later changes of anything do not count; `wrt`; what is not given is zero."""
    rng = np.random.default_rng(0)
    cell = getattr(fastrnn, name)(3, 5, rng=0)
    x, h, c = (rng.normal(size=(*batch, n)).astype(np.float32) for n in (3, 5, 5))
    hx = (h, c) if name == "LSTMCell" else h
    result, backward = cell.vjp(x, hx)
    assert_same_bits(result, cell(x, hx))
    seeds = normal_like(rng, result)
    expected = copy.deepcopy(backward(seeds))
    assert [a.shape for a in arrays_in(expected).values()] == [
        a.shape for a in (x, *parts_of(hx), *cell.parameters().values())
    ]
    for wrt in WRT:
        grads = cell.vjp(x, hx, wrt=wrt)[1](seeds)
        assert_same_bits(grads, expected._replace(**{name: None for name in WRT if name != wrt}))
    zeros = each(np.zeros_like, hx)
    assert_same_bits(cell.vjp(x)[1](seeds), cell.vjp(x, zeros)[1](seeds))
    if name == "LSTMCell":
        assert_same_bits(backward((seeds[0], None)), backward((seeds[0], zeros[1])))
        assert_same_bits(backward((None, seeds[1])), backward((zeros[0], seeds[1])))
    for array in (x, *parts_of(hx), *parts_of(result)):
        array[...] = np.nan
    for _ in range(2):
        grads = backward(seeds)
        assert_same_bits(grads, expected)
        for array in arrays_in(grads).values():
            array[...] = np.nan
