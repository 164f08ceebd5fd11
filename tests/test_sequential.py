"""Sequential and ModuleList, and the layers that choose: calls, gradients, names, wrong input."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from layer_tools import assert_same_bits
from model_tools import assert_gradients

import fastrnn

F64 = {"dtype": "float64", "rng": 0}
TOKENS = np.array([[1, 2, 3, 4], [4, 5, 0, 0], [6, 6, 6, 0]])
LENGTHS = [4, 0, 3]


class Residual(fastrnn.Module):
    """A model of one's own among the layers."""

    def __init__(self, layer):
        self.layer = layer
        self.scale = fastrnn.Parameter(2.0, dtype="float64")

    def forward(self, x):
        return x + self.scale * self.layer(x)

    def vjp(self, x):
        y, backward = self.layer.vjp(x)

        def back(dy):
            grads = backward(self.scale * dy)
            params = {"scale": np.array((dy * y).sum())}
            params |= {f"layer.{name}": gradient for name, gradient in grads.params.items()}
            return fastrnn.Gradients(dy + grads.x, params)

        return x + self.scale * y, back


def tied():
    layer = fastrnn.Linear(3, 3, **F64)
    return fastrnn.Sequential(layer, fastrnn.Tanh(), layer, fastrnn.Sequential(fastrnn.Sigmoid(), layer))


def net_of(*middle, rnn=fastrnn.LSTM, **options):
    """Indices, a recurrent layer, something, a head."""
    width = 4 * (2 if options.get("bidirectional") else 1)
    return fastrnn.Sequential(
        fastrnn.Embedding(7, 3, **F64), rnn(3, 4, batch_first=True, **options, **F64), *middle,
        fastrnn.Linear(width, 2, **F64))  # fmt: skip


X = np.random.default_rng(5).normal(size=(3, 5, 3))
NETS = {
    "nothing chosen": (net_of(), TOKENS, {"lengths": LENGTHS}),
    "last step": (net_of(fastrnn.LastStep(batch_first=True)), TOKENS, {"lengths": LENGTHS}),
    "last step of all": (net_of(fastrnn.LastStep(batch_first=True), bidirectional=True), TOKENS, {}),
    "mean": (net_of(fastrnn.MeanOverTime(batch_first=True), bidirectional=True), TOKENS, {"lengths": LENGTHS}),
    "mean of all": (net_of(fastrnn.MeanOverTime(batch_first=True), rnn=fastrnn.GRU), TOKENS, {}),
    "output": (net_of(fastrnn.SelectOutput()), TOKENS, {"lengths": LENGTHS}),
    "h_n": (net_of(fastrnn.SelectOutput((1, 0))), TOKENS, {"lengths": LENGTHS}),
    "c_n of one layer": (net_of(fastrnn.SelectOutput((1, 1, -2)), num_layers=2), TOKENS, {"lengths": LENGTHS}),
    "h_n of a GRU": (net_of(fastrnn.SelectOutput((1, -1)), rnn=fastrnn.GRU), TOKENS, {"lengths": LENGTHS}),
    "resets": (net_of(rnn=fastrnn.GRU), TOKENS, {"reset": np.eye(3, 4, 1, dtype=bool), "lengths": LENGTHS}),
    "nested": (
        fastrnn.Sequential(
            fastrnn.Sequential(fastrnn.GRU(3, 4, **F64), fastrnn.Tanh()),
            fastrnn.Sequential(fastrnn.RNN(4, 3, **F64), fastrnn.LastStep())),
        X, {"lengths": [3, 1, 2, 0, 3]},
    ),
    "unbatched": (fastrnn.Sequential(fastrnn.GRU(3, 4, **F64), fastrnn.LastStep(), fastrnn.Softmax(-1)), X[0], {}),
    "recurrent at the end": (fastrnn.Sequential(fastrnn.Linear(3, 2, **F64), fastrnn.LSTM(2, 4, **F64)), X, {}),
    "cells": (fastrnn.Sequential(fastrnn.GRUCell(3, 4, **F64), fastrnn.LSTMCell(4, 2, **F64), fastrnn.SelectOutput(1)),
              X[0], {}),
    "h of a cell": (fastrnn.Sequential(fastrnn.LSTMCell(3, 4, **F64), fastrnn.LSTMCell(4, 2, **F64)), X[0], {}),
    "of one's own": (fastrnn.Sequential(Residual(fastrnn.Linear(3, 3, **F64)), fastrnn.Tanh()), X, {}),
    "tied": (tied(), X, {}),
    "empty": (fastrnn.Sequential(), X, {}),
}  # fmt: skip


@pytest.fixture(params=NETS)
def net(request):
    layers, x, options = NETS[request.param]
    return copy.deepcopy(layers), x.copy(), options


def test_finite_differences(net):
    layers, x, options = net
    assert_gradients(layers, x, **options)


def test_layer_by_layer():
    net = net_of(fastrnn.LastStep(batch_first=True))
    embed, rnn, last, head = net
    y, _ = rnn(embed(TOKENS), lengths=LENGTHS)
    np.testing.assert_array_equal(net(TOKENS, lengths=LENGTHS), head(last(y, lengths=LENGTHS)))
    final = fastrnn.Sequential(embed, rnn, fastrnn.SelectOutput((1, 0, -1)), head)
    _, (h_n, _) = rnn(embed(TOKENS), lengths=LENGTHS)
    np.testing.assert_array_equal(final(TOKENS, lengths=LENGTHS), head(h_n[-1]))
    np.testing.assert_array_equal(final(TOKENS, lengths=LENGTHS), net(TOKENS, lengths=LENGTHS))


def test_gradients_of_ones_own_of_another_type():
    class Twice(fastrnn.Module):
        def vjp(self, x):
            return 2 * x, lambda d: (2 * d, {})

    y, backward = fastrnn.Sequential(fastrnn.Tanh(), Twice()).vjp(X)
    with pytest.raises(TypeError, match=r"the part '1' should return fastrnn.Gradients\(x, params\), got: tuple"):
        backward(y)


def test_cells_pass_on_h():
    cell, head = fastrnn.LSTMCell(3, 4, **F64), fastrnn.Linear(4, 2, **F64)
    h, c = cell(X[0])
    assert_same_bits(fastrnn.Sequential(cell, head)(X[0]), head(h))
    assert_same_bits(fastrnn.Sequential(cell)(X[0]), h)
    assert_same_bits(fastrnn.Sequential(cell, fastrnn.SelectOutput(1), head)(X[0]), head(c))


def test_backward_is_pure(net):
    layers, x, options = net
    given = x.copy()
    y, backward = layers.vjp(x, **options)
    dy = np.random.default_rng(0).normal(size=y.shape)
    first = backward(dy)
    kept = copy.deepcopy((first.x, *first.params.values()))
    for array in (x, y, *([] if first.x is None else [first.x]), *first.params.values()):
        if array is not dy:
            array[...] = 0
    second = backward(np.random.default_rng(0).normal(size=y.shape))
    assert_same_bits((second.x, *second.params.values()), kept)
    assert_same_bits(layers.vjp(given, **options)[1](np.ones(y.shape)).x, backward(np.ones(y.shape)).x)


def test_wrt(net):
    layers, x, options = net
    y, backward = layers.vjp(x, **options)
    both = backward(np.ones(y.shape))
    only_x = layers.vjp(x, wrt="x", **options)[1](np.ones(y.shape))
    only_params = layers.vjp(x, wrt=("params",), **options)[1](np.ones(y.shape))
    assert_same_bits(only_x.x, both.x)
    assert only_x.params is None
    assert only_params.x is None
    assert_same_bits(tuple(only_params.params.values()), tuple(both.params.values()))
    with pytest.raises(ValueError, match="wrt should name some of 'x', 'params'"):
        layers.vjp(x, wrt="hx")
    assert repr(backward) == "<backward through Sequential with respect to x, params>"


def test_changed_weights(net):
    layers, x, options = net
    if not layers.parameters():
        return
    y, backward = layers.vjp(x, **options)
    name, array = next(iter(layers.parameters().items()))
    layers.parameters()[name] = array + 1
    with pytest.raises(RuntimeError, match="have changed since vjp was called"):
        backward(np.ones(y.shape))


def test_tied_weights_are_trained_once():
    net = tied()
    assert list(net.parameters()) == ["0.weight", "0.bias"]
    assert list(net.state_dict()) == [f"{i}.{name}" for i in ("0", "2", "3.1") for name in ("weight", "bias")]
    assert list(net.vjp(X)[1](np.ones(X.shape)).params) == ["0.weight", "0.bias"]


def test_dropout_gradients_are_of_the_mask_that_was_drawn():
    net = fastrnn.Sequential(fastrnn.Linear(3, 40, **F64), fastrnn.Dropout(0.5, rng=0), fastrnn.Linear(40, 2, **F64))
    net.train()
    y, backward = net.vjp(X)
    grads = backward(np.ones(y.shape))
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(net(X), y)
    twin = copy.deepcopy(net)
    assert_same_bits(twin(X), net(X))
    assert_same_bits(backward(np.ones(y.shape)).x, grads.x)


def test_select_output():
    y, h, c = np.ones((2, 3)), np.arange(12.0).reshape(2, 2, 3), np.zeros((2, 2, 3))
    for item, expected in ((0, y), (-2, y), ((1, 0), h), ((1, -1), c), ((-1, 0, -1), h[1]), ((0, 1, 2), y[1, 2])):
        got, backward = fastrnn.SelectOutput(item).vjp((y, (h, c)))
        np.testing.assert_array_equal(got, expected)
        assert not any(np.may_share_memory(got, a) for a in (y, h, c))
        dy = np.full(got.shape, 2.0)
        d_output, d_state = backward(dy).x
        (found,) = (d for d in (d_output, *(d_state or ())) if d is not None)  # the others are zeros
        assert found.sum() == dy.sum()
        assert not np.may_share_memory(found, dy)
        at = fastrnn.SelectOutput(item)((d_output, d_state if d_state is not None else (None, None)))
        np.testing.assert_array_equal(at, dy)


def test_later_changes_of_lengths_do_not_count():
    lengths = np.array([2, 4, 1])
    for layer in (fastrnn.LastStep(batch_first=True), fastrnn.MeanOverTime(batch_first=True)):
        given = lengths.copy()
        y, backward = layer.vjp(X, lengths=given)
        given[:] = 3
        assert_same_bits(backward(y).x, layer.vjp(X, lengths=lengths)[1](y).x)


# --- LastStep, MeanOverTime -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [fastrnn.LastStep, fastrnn.MeanOverTime])
@pytest.mark.parametrize("wrap", [lambda layer: layer, fastrnn.Sequential, Residual])
def test_batch_first_is_that_of_the_layer_before(kind, wrap):
    gru = fastrnn.GRU(3, 3, batch_first=True, **F64)
    x, lengths = np.random.default_rng(0).normal(size=(2, 5, 3)), [4, 2]
    if wrap is Residual:  # a model of one's own, with a recurrent layer somewhere inside
        gru, lengths = fastrnn.Sequential(gru), None
    following, said = (fastrnn.Sequential(wrap(gru), layer) for layer in (kind(), kind(batch_first=True)))
    y, backward = following.vjp(x, lengths=lengths)
    expected, expected_backward = said.vjp(x, lengths=lengths)
    assert_same_bits(y, expected)
    assert_same_bits(following(x, lengths=lengths), expected)
    assert_same_bits(backward(y).x, expected_backward(y).x)
    assert following[1].batch_first is None
    wrong = fastrnn.Sequential(wrap(gru), kind(batch_first=False))  # what a layer says counts
    assert wrong(x).shape == (5, 3)


def test_batch_first_of_the_last_layer_before():
    net = fastrnn.Sequential(
        fastrnn.GRU(3, 3, **F64), fastrnn.GRU(3, 3, batch_first=True, **F64), fastrnn.Tanh(), fastrnn.LastStep(),
        fastrnn.Linear(3, 2, **F64))  # fmt: skip
    assert net(np.zeros((4, 5, 3))).shape == (4, 2)
    assert fastrnn.Sequential(fastrnn.LastStep(), fastrnn.Tanh())(np.zeros((4, 5, 3))).shape == (5, 3)
    assert [repr(fastrnn.LastStep(*given)) for given in ((), (True,), (False,))] == [
        "LastStep()", "LastStep(batch_first=True)", "LastStep(batch_first=False)"]  # fmt: skip


@pytest.mark.parametrize("batch_first", [False, True])
def test_last_step_and_mean_by_hand(batch_first):
    x = np.arange(24.0).reshape(4, 3, 2)
    given = x.swapaxes(0, 1) if batch_first else x
    last, mean = fastrnn.LastStep(batch_first), fastrnn.MeanOverTime(batch_first)
    np.testing.assert_array_equal(last(given), x[3])
    np.testing.assert_array_equal(mean(given), x.mean(0))
    np.testing.assert_array_equal(last(given, lengths=[1, 0, 3]), [x[0, 0], [0, 0], x[2, 2]])
    np.testing.assert_array_equal(mean(given, lengths=[1, 0, 3]), [x[0, 0], [0, 0], x[:3, 2].mean(0)])
    np.testing.assert_array_equal(last(x[:, 0]), x[3, 0])
    np.testing.assert_array_equal(mean(x[:, 0], lengths=[2]), x[:2, 0].mean(0))
    np.testing.assert_array_equal(last(x[:0] if not batch_first else given[:, :0]), np.zeros((3, 2)))
    assert mean(given[:0] if batch_first else given[:, :0]).shape == (0, 2)


@pytest.mark.parametrize("layer", [fastrnn.LastStep(), fastrnn.MeanOverTime()])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_padding_is_never_read(layer, dtype):
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(50, 4, 1)).astype(dtype), np.array([50, 3, 0, 17])
    padded = x.copy()
    for n, length in enumerate(lengths):
        padded[length:, n] = np.nan
    y, backward = layer.vjp(padded, lengths=lengths)
    assert y.dtype == dtype
    for n, length in enumerate(lengths):
        np.testing.assert_array_equal(y[n], layer(x[:length, n]))  # to the last bit, whatever the neighbours are
        assert not backward(np.ones((4, 1))).x[length:, n].any()


def test_mean_of_a_long_row_is_exact():
    x = np.full((100_000, 1), 0.1, np.float32)
    np.testing.assert_array_equal(fastrnn.MeanOverTime()(x), np.float32([0.1]))


# --- a list of layers -------------------------------------------------------------------------------------------------


def test_as_a_list():
    layers = [fastrnn.Linear(2, 3), fastrnn.ReLU(), fastrnn.Linear(3, 2)]
    for whole in (fastrnn.Sequential(*layers), fastrnn.ModuleList(layers)):
        assert len(whole) == 3
        assert list(whole) == layers
        assert (whole[0], whole[-1], whole[np.int64(1)]) == (layers[0], layers[2], layers[1])
        assert list(whole[1:]) == layers[1:]
        assert type(whole[1:]) is type(whole)
        assert whole.append(fastrnn.Tanh()) is whole
        assert list(whole.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert isinstance(getattr(whole, "3"), fastrnn.Tanh)
        with pytest.raises(IndexError, match="index 4 is out of range"):
            whole[4]
        with pytest.raises(TypeError, match="index should be of type int"):
            whole["0"]
        with pytest.raises(TypeError, match="int is not a Module subclass"):
            whole.append(3)
        assert len(whole) == 4
    with pytest.raises(TypeError, match="int is not a Module subclass"):
        fastrnn.Sequential(3)
    assert len(fastrnn.ModuleList()) == 0
    with pytest.raises(NotImplementedError, match="ModuleList"):
        fastrnn.ModuleList()(1)


def test_names_of_ones_own():
    net = fastrnn.Sequential({"front": fastrnn.Linear(2, 3), "head": fastrnn.Linear(3, 1)})
    assert list(net.state_dict()) == ["front.weight", "front.bias", "head.weight", "head.bias"]
    assert net.head is net[1]
    assert list(net[1:].state_dict()) == ["head.weight", "head.bias"]
    y, backward = net.vjp(np.ones((4, 2)))
    assert list(backward(y).params) == list(net.parameters())
    for wrong in ("a.b", "", "forward"):
        with pytest.raises(KeyError):
            fastrnn.Sequential({wrong: fastrnn.ReLU()})


def test_pickle_keeps_what_is_shared():
    net = pickle.loads(pickle.dumps(tied()))
    assert net[0] is net[2]
    np.testing.assert_array_equal(net(X), tied()(X))


# --- wrong input ------------------------------------------------------------------------------------------------------


def test_lengths_that_nobody_takes():
    net = fastrnn.Sequential(fastrnn.Linear(3, 2), fastrnn.Sequential(fastrnn.ReLU()))
    for call in (net, net.vjp):
        with pytest.raises(ValueError, match="lengths is given, but no layer takes it"):
            call(X, lengths=[1, 2, 3])
        with pytest.raises(ValueError, match="reset is given, but no layer takes it"):
            call(X, reset=np.ones((3, 5), bool))


def test_a_part_without_a_vjp():
    class Double(fastrnn.Module):
        def forward(self, x):
            return 2 * x

    net = fastrnn.Sequential(fastrnn.Linear(3, 2), Double())
    assert net(X).shape == (3, 5, 2)
    with pytest.raises(NotImplementedError, match="Double has no vjp"):
        net.vjp(X)


def test_gradients_may_come_as_any_object():
    class Double(fastrnn.Module):
        def forward(self, x, lengths=None):
            return 2 * x

        def vjp(self, x, lengths=None, wrt=()):
            assert lengths == [1]
            return 2 * x, lambda dy: SimpleNamespace(x=2 * dy, params={})

    y, backward = fastrnn.Sequential(Double(), Double()).vjp(X, lengths=[1])
    np.testing.assert_array_equal(y, 4 * X)
    np.testing.assert_array_equal(backward(X).x, 4 * X)


def test_gradients_under_wrong_names():
    class Named(fastrnn.Module):
        def __init__(self):
            self.head = fastrnn.Linear(3, 3)

        def forward(self, x):
            return self.head(x)

        def vjp(self, x):
            return self.head.vjp(x)  # and not under "head."

    _, backward = fastrnn.Sequential({"first": fastrnn.Tanh(), "second": Named()}).vjp(X)
    with pytest.raises(ValueError, match=r"^vjp of the part 'second' has a gradient of 'weight', which is none of its "
                       r"parameters: head.weight, head.bias$"):  # fmt: skip
        backward(X)


def test_errors_are_those_of_the_layer():
    net = fastrnn.Sequential(fastrnn.Linear(3, 2), fastrnn.LSTM(3, 4))
    with pytest.raises(ValueError, match=r"input.size.-1. must be equal to input_size. Expected 3, got 2"):
        net(X)
    with pytest.raises(ValueError, match=r"input.size.-1. must be equal to input_size. Expected 3, got 2"):
        net.vjp(X)
    y, backward = fastrnn.Sequential(fastrnn.Linear(3, 2)).vjp(X)
    with pytest.raises(ValueError, match="dy should have shape"):
        backward(y[0])
