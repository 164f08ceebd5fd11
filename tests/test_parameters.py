"""The parameters of a layer: assignment, state dicts, edits in place, copies, dtypes."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastrnn

LAYERS = {
    "RNN": lambda rng=0, **k: fastrnn.RNN(3, 5, rng=rng, **k),
    "LSTM": lambda rng=0, **k: fastrnn.LSTM(3, 5, rng=rng, **k),
    "LSTM projected": lambda rng=0, **k: fastrnn.LSTM(3, 5, proj_size=2, rng=rng, **k),
    "GRU": lambda rng=0, **k: fastrnn.GRU(3, 5, rng=rng, **k),
}


@pytest.fixture(params=LAYERS)
def make(request):
    return LAYERS[request.param]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_assignment(make, rng):
    layer, x = make(), rng.normal(size=(3, 2, 3))
    y = layer(x)[0]
    for dtype in (np.float64, np.float32):  # cast, or copied
        new = rng.normal(size=layer.weight_hh_l0.shape).astype(dtype)
        layer.weight_hh_l0 = new
        assert layer.weight_hh_l0.dtype == np.float32
        assert (layer(x)[0][1:] != y[1:]).any()
        np.testing.assert_array_equal(layer.state_dict()["weight_hh_l0"], new.astype(np.float32))
        new[:] = 0
        assert layer.weight_hh_l0.any()
    layer.bias_ih_l0 = layer.bias_ih_l0.tolist()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (np.ones((2, 2)), ValueError, "weight_hh_l0 should have shape .15, 5., got: .2, 2."),
        (np.ones((15, 5), complex), TypeError, "weight_hh_l0 should be an array of real numbers"),
        (np.full((15, 5), "a"), TypeError, "weight_hh_l0 should be an array of real numbers"),
        (None, TypeError, "weight_hh_l0 should be an array of real numbers"),
        ([[1, 2], [3]], ValueError, "weight_hh_l0 should be an array of real numbers"),
    ],
)
def test_wrong_assignment_changes_nothing(value, error, words):
    layer = fastrnn.GRU(3, 5, rng=0)
    before = layer.state_dict()
    with pytest.raises(error, match=words):
        layer.weight_hh_l0 = value
    for key, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


def test_changed_makes_edits_count(make, backend, rng):
    layer, x = make(num_layers=2), rng.normal(size=(3, 2, 3))
    layer(x)
    parameters = layer.parameters()
    for key in parameters:
        assert parameters[key] is getattr(layer, key)
        parameters[key][...] = rng.normal(size=parameters[key].shape)
        parameters.changed()
        twin = make(num_layers=2)
        twin.load_state_dict(layer.state_dict())
        np.testing.assert_array_equal(layer(x)[0], twin(x)[0], err_msg=key)


def test_state_dict_is_a_copy(make):
    layer = make()
    state = layer.state_dict()
    state["weight_ih_l0"][:] = 0
    assert layer.weight_ih_l0.any()
    layer.load_state_dict(state)
    state["weight_hh_l0"][:] = 0
    assert not layer.weight_ih_l0.any()
    assert layer.weight_hh_l0.any()


def test_load_state_dict_takes_any_real_dtype(make, rng):
    import ml_dtypes

    source, x = make(rng=3), rng.normal(size=(3, 2, 3))
    for dtype in (np.float16, np.float64, ml_dtypes.bfloat16, np.dtype(">f4")):
        layer = make()
        layer(x)
        layer.load_state_dict({key: array.astype(dtype) for key, array in source.state_dict().items()})
        for key, array in source.state_dict().items():
            assert getattr(layer, key).dtype == np.float32
            np.testing.assert_array_equal(getattr(layer, key), array.astype(dtype).astype(np.float32))
    layer.load_state_dict(source.state_dict())
    np.testing.assert_array_equal(layer(x)[0], source(x)[0])


def test_failed_load_changes_nothing(make, rng):
    layer, x = make(num_layers=2), rng.normal(size=(3, 2, 3))
    y, before = layer(x)[0], layer.state_dict()
    good = {key: np.zeros_like(array) for key, array in before.items()}
    last = list(good)[-1]
    for bad in (
        {key: array for key, array in good.items() if key != last},
        good | {"extra": np.ones(1)},
        good | {last: np.ones((7, 7))},
        good | {last: "text"},
        good | {last: None},
        good | {last: np.ones(good[last].shape, complex)},
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            layer.load_state_dict(bad)
        assert last in str(caught.value) or "extra" in str(caught.value)
        for key, array in layer.state_dict().items():
            np.testing.assert_array_equal(array, before[key])
        np.testing.assert_array_equal(layer(x)[0], y)
    with pytest.raises(TypeError, match="state_dict"):
        layer.load_state_dict([1, 2])


def test_reset_parameters():
    layer = fastrnn.LSTM(3, 5, rng=1)
    first = layer.state_dict()
    layer.reset_parameters()
    assert (layer.weight_ih_l0 != first["weight_ih_l0"]).any()
    layer.reset_parameters(rng=1)
    for key, array in first.items():
        np.testing.assert_array_equal(getattr(layer, key), array)
    generator = np.random.default_rng(1)
    np.testing.assert_array_equal(fastrnn.LSTM(3, 5, rng=generator).weight_ih_l0, first["weight_ih_l0"])
    layer.flatten_parameters()


# --- copies, dtypes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_are_equal_and_independent(make, clone, rng):
    layer, x = make(num_layers=2, bidirectional=True, dropout=0.5), rng.normal(size=(3, 2, 3))
    layer(x)
    twin = clone(layer)
    assert repr(twin) == repr(layer)
    np.testing.assert_array_equal(twin(x)[0], layer(x)[0])
    np.testing.assert_array_equal(twin.train()(x)[0], layer.train()(x)[0])  # the generator's state comes along
    twin.weight_ih_l0[:] = 0
    twin.parameters().changed()
    assert layer.weight_ih_l0.any()
    assert (twin(x)[0] != layer(x)[0]).any()


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_copy(name):
    cell, x = getattr(fastrnn, name)(3, 5), np.ones((2, 3))
    for twin in (copy.copy(cell), copy.deepcopy(cell), pickle.loads(pickle.dumps(cell))):
        np.testing.assert_array_equal(twin(x), cell(x))


def test_to_and_astype(make, rng, assert_close):
    layer, x = make(), rng.normal(size=(3, 2, 3))
    y = layer(x)[0]
    double = layer.astype("float64")
    assert (layer.dtype, double.dtype) == (np.float32, np.float64)
    assert double(x)[0].dtype == np.float64
    assert_close(y, double(x)[0], "float32")
    np.testing.assert_array_equal(layer(x)[0], y)
    assert layer.to("float64") is layer
    np.testing.assert_array_equal(layer(x)[0], double(x)[0])
    assert layer.to(dtype=np.float32).to("cpu").to(device="cpu").weight_ih_l0.dtype == np.float32
    np.testing.assert_array_equal(layer(x)[0], y)


def test_to_that_fails_changes_nothing(make, monkeypatch):
    class Full(np.ndarray):
        def astype(self, *args, **options):
            raise MemoryError

    layer, x = make(), np.ones((2, 1, 3))
    y, last = layer(x)[0], list(layer.parameters())[-1]
    monkeypatch.setitem(layer._params, last, layer._params[last].view(Full))
    with pytest.raises(MemoryError):
        layer.to("float64")
    assert layer.dtype == np.float32
    assert {array.dtype for array in layer.parameters().values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(layer(x)[0], y)


class Strange(np.ndarray):
    """A subclass that indexes in a way of its own, as matrix and masked arrays do."""

    def __getitem__(self, index):
        raise AssertionError("it should have been taken for the array that it is")


def test_subclasses_of_ndarray_are_arrays(make):
    layer, x = make(), np.ones((4, 3), np.float32)
    y, state = layer(x)
    strange = tuple(s.view(Strange) for s in state) if isinstance(state, tuple) else state.view(Strange)
    np.testing.assert_array_equal(layer(x.view(Strange))[0], y)
    np.testing.assert_array_equal(layer(x.view(Strange), strange)[0], layer(x, state)[0])
    np.testing.assert_array_equal(layer.stream().step(x[:1].view(Strange))[0], y[0])


def test_input_is_cast_to_the_dtype_of_the_layer(make):
    layer = make()
    x = np.arange(18).reshape(3, 2, 3) % 5
    y, _ = layer(x.astype(np.float32))
    for dtype in (bool, np.int8, np.uint64, np.float16, np.float64, np.longdouble, ">f8"):
        cast = x.astype(dtype)
        np.testing.assert_array_equal(layer(cast)[0], layer(cast.astype(np.float32))[0])
        assert layer(cast)[0].dtype == np.float32
    np.testing.assert_array_equal(layer(x)[0], y)


def test_arrays_stay_live_through_assignment_and_loading():
    layer = fastrnn.GRU(3, 4, rng=0)
    parameters = layer.parameters()
    layer.load_state_dict(fastrnn.GRU(3, 4, rng=1).state_dict())
    layer.weight_hh_l0 = np.ones((12, 4))
    for name, array in parameters.items():
        assert array is getattr(layer, name), name


def test_assigning_an_item_is_assigning_the_attribute():
    layer, x = fastrnn.GRU(3, 4, rng=0), np.ones((2, 1, 3))
    before = layer(x)[0]
    layer.parameters()["weight_ih_l0"] = np.zeros((12, 3))
    assert not layer.weight_ih_l0.any()
    assert not np.array_equal(layer(x)[0], before)
    with pytest.raises(KeyError, match="weight_ih_0"):
        layer.parameters()["weight_ih_0"] = np.zeros((12, 3))
    with pytest.raises(ValueError, match="weight_ih_l0"):
        layer.parameters()["weight_ih_l0"] = np.zeros((12, 4))


@pytest.mark.parametrize("name", ["input_size", "hidden_size", "num_layers", "bias", "bidirectional", "nonlinearity"])
def test_what_the_layer_is_cannot_be_changed_afterwards(name):
    layer = fastrnn.RNN(3, 4, rng=0)
    with pytest.raises(AttributeError, match=f"{name} is fixed"):
        setattr(layer, name, 9)
    assert repr(layer) == "RNN(3, 4)"


@pytest.mark.parametrize("how", ["update", "|=", "keywords", "pairs"])
def test_updating_is_assigning_every_item(how):
    layer, other, x = fastrnn.GRU(3, 4, rng=0), fastrnn.GRU(3, 4, rng=1), np.ones((2, 1, 3))
    layer(x)
    parameters, new = layer.parameters(), other.parameters()
    if how == "update":
        parameters.update(new)
    elif how == "keywords":
        parameters.update(**new)
    elif how == "pairs":
        parameters.update(new.items())
    else:
        parameters |= new
    np.testing.assert_array_equal(layer(x)[0], other(x)[0])
    for name, array in parameters.items():
        assert array is getattr(layer, name)
        assert array is not new[name]


def test_a_wrong_update_changes_nothing():
    layer = fastrnn.GRU(3, 4, rng=0)
    before, good = layer.state_dict(), np.zeros((12, 4))
    with pytest.raises(KeyError, match="weight_hh_0"):
        layer.parameters().update(weight_hh_l0=good, weight_hh_0=good)
    with pytest.raises(ValueError, match="weight_ih_l0"):
        layer.parameters().update(weight_hh_l0=good, weight_ih_l0=good)
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(layer, name), array)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p.pop("bias_hh_l0"),
        lambda p: p.pop("bias_hh_l0", None),
        lambda p: p.popitem(),
        lambda p: p.clear(),
        lambda p: p.__delitem__("bias_hh_l0"),
        lambda p: p.setdefault("more", np.zeros(3)),
    ],
)
def test_names_cannot_be_added_or_removed(change):
    layer = fastrnn.GRU(3, 4, rng=0)
    parameters = layer.parameters()
    with pytest.raises(TypeError, match="cannot be added or removed"):
        change(parameters)
    assert list(parameters) == list(layer.state_dict())


def test_loading_a_layers_own_arrays():
    layer = fastrnn.RNN(4, 4, rng=0)
    before = layer.state_dict()
    own = {"weight_ih_l0": layer.weight_hh_l0, "weight_hh_l0": layer.weight_ih_l0.T}
    layer.load_state_dict(own, strict=False)
    np.testing.assert_array_equal(layer.weight_ih_l0, before["weight_hh_l0"])
    np.testing.assert_array_equal(layer.weight_hh_l0, before["weight_ih_l0"].T)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("dropout", 5, ValueError, "dropout should be a number in range"),
        ("dropout", "0.5", ValueError, "dropout should be a number in range"),
        ("batch_first", 1, TypeError, "batch_first should be of type bool, got: int"),
        ("training", None, TypeError, "training should be of type bool, got: NoneType"),
        ("weight_ih_l00", np.zeros((12, 3)), AttributeError, "weight_ih_l00.*; the nearest name is weight_ih_l0$"),
        ("bias_hh_l2", np.zeros(12), AttributeError, "GRU.*no parameter 'bias_hh_l2'; the nearest name is bias_hh_l0"),
    ],
)
def test_wrong_attributes_change_nothing(name, value, error, words):
    layer = fastrnn.GRU(3, 4, rng=0)
    before = dict(layer.__dict__)
    with pytest.raises(error, match=words):
        setattr(layer, name, value)
    assert layer.__dict__ == before


def test_options_can_be_changed():
    layer, x = fastrnn.GRU(3, 4, num_layers=2, rng=0), np.ones((2, 5, 3))
    y = layer(x)[0]
    layer.batch_first, layer.dropout, layer.training = True, 1, np.True_
    assert (type(layer.dropout), layer.training) == (float, True)
    assert layer(x)[1].shape == (2, 2, 4)
    assert (layer(x.swapaxes(0, 1))[0].swapaxes(0, 1) != y).any()


def test_a_subset_is_live():
    layer = fastrnn.GRU(3, 4, rng=0)
    part = layer.parameters().subset(["bias_hh_l0", "weight_ih_l0"])
    assert list(part) == ["bias_hh_l0", "weight_ih_l0"]
    assert part["weight_ih_l0"] is layer.weight_ih_l0
    before = layer(np.ones((2, 1, 3)))[0]
    part["weight_ih_l0"][:] = 0
    part.changed()
    assert not np.array_equal(layer(np.ones((2, 1, 3)))[0], before)
    part["bias_hh_l0"] = np.ones(12)
    assert (layer.bias_hh_l0 == 1).all()
    with pytest.raises(TypeError, match=r"cannot be added or removed"):
        del part["bias_hh_l0"]
    with pytest.raises(KeyError, match=r"weight_hh_l0"):
        part.subset(["weight_hh_l0"])
