"""The reference's gradients, which everything else is held to: values by hand, and finite differences of every one."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
from layer_tools import (
    CELLS,
    arrays_in,
    differences,
    gradients,
    make,
    normal_like,
    parts_of,
    random_state,
    scalar,
)
from sampler import configurations

import fastrnn

LN2, LN3 = math.log(2), math.log(3)  # sigmoid(ln 3) = 3/4, sigmoid(ln 4) = 4/5, tanh(ln 2) = 3/5, tanh(ln 3) = 4/5


@pytest.fixture(autouse=True)
def _reference():
    with fastrnn.use_backend("reference"):
        yield


# --- by hand ----------------------------------------------------------------------------------------------------------


def one_step(kind, params, x, states, d_states, **options):
    """The gradients of one step of one row, from the layer and from the cell; parameters without `_l0`.

    x (I,), states and d_states lists of vectors; half of the output's gradient comes with d_output.
    """
    params = {name: np.asarray(values, float) for name, values in params.items()}
    H, I = len(params["weight_ih"]) // {"RNN": 1, "LSTM": 4, "GRU": 3}[kind], len(x)
    x, states, d_states = np.array(x, float), tuple(map(np.array, states)), tuple(map(np.array, d_states))
    proj_size = {"proj_size": len(params["weight_hr"])} if "weight_hr" in params else {}
    layer = getattr(fastrnn, kind)(I, H, bias="bias_ih" in params, dtype="float64", **options, **proj_size)
    layer.load_state_dict({f"{name}_l0": values for name, values in params.items()})

    def given(arrays):
        return tuple(arrays) if kind == "LSTM" else arrays[0]

    _, backward = layer.vjp(x[None], given([s[None] for s in states]))
    ends = [d_states[0] / 2, *d_states[1:]]
    grads = backward(d_states[0][None] / 2, given([d[None] for d in ends]))
    found = [{name.removesuffix("_l0"): np.squeeze(array) for name, array in arrays_in(grads).items()}]
    if not proj_size:
        cell = getattr(fastrnn, f"{kind}Cell")(I, H, "bias_ih" in params, dtype="float64", **options)
        cell.load_state_dict(params)
        _, backward = cell.vjp(x, given(states))
        found.append({name: np.squeeze(a) for name, a in arrays_in(backward(given(d_states))).items()})
    return found


def assert_equal(found, **expected):
    for grads in found:
        assert sorted(grads) == sorted(expected)
        for name, values in expected.items():
            assert grads[name].ravel() == pytest.approx(np.ravel(values), abs=1e-14), name


def test_rnn_tanh():
    # a = 1 * 0.5 + 2 * (ln 2 - 1) / 4 + 3 * 0.5 - 1.5 = ln 2 / 2: too odd; biases bring it to ln 2, so h = 3/5.
    x, h_0 = [0.5, -2.0], [0.25]
    bias = LN2 - (1 * 0.5 + 3 * -2.0 + 2 * 0.25)
    found = one_step(
        "RNN",
        {"weight_ih": [[1, 3]], "weight_hh": [[2]], "bias_ih": [bias - 7], "bias_hh": [7]},
        x,
        [h_0],
        [[25.0]],
    )
    da = 16.0  # 25 * (1 - 9/25)
    assert_equal(
        found, x=[da, 3 * da], h_0=2 * da, weight_ih=[8.0, -32.0], weight_hh=4.0, bias_ih=da, bias_hh=da
    )  # weight_ih: 16 * [0.5, -2]; weight_hh: 16 * 0.25


def test_rnn_tanh_two_steps():
    """h_1 = 3/5 and h_2 = 4/5: what comes back from the second step adds to the first output's gradient."""
    layer = fastrnn.RNN(1, 1, bias=False, dtype="float64")
    layer.load_state_dict({"weight_ih_l0": [[1.0]], "weight_hh_l0": [[2.0]]})
    x = np.array([[LN2 - 1], [LN3 - 1.2]])  # a_1 = x_1 + 2 * 0.5, a_2 = x_2 + 2 * 0.6
    (y, _), backward = layer.vjp(x, [[0.5]])
    assert y[:, 0] == pytest.approx([0.6, 0.8], abs=1e-15)
    grads = backward([[1.0], [10.0]], [[15.0]])
    # da_2 = (10 + 15) (1 - 16/25) = 9; dh_1 = 1 + 9 * 2 = 19; da_1 = 19 (1 - 9/25) = 12.16; dh_0 = 2 * 12.16
    assert grads.x[:, 0] == pytest.approx([12.16, 9], abs=1e-14)
    assert grads.hx[0, 0] == pytest.approx(24.32, abs=1e-14)
    # 12.16 x_1 + 9 x_2; 12.16 * 0.5 + 9 * 0.6
    assert grads.params["weight_ih_l0"][0, 0] == pytest.approx(12.16 * x[0, 0] + 9 * x[1, 0], abs=1e-14)
    assert grads.params["weight_hh_l0"][0, 0] == pytest.approx(11.48, abs=1e-14)


def test_rnn_relu():
    """Units: [1 + 2 + 3 * 1, -1 + 1 + 10 * 1 - 1] = [6, 9], both above zero; then a third below and one at zero."""
    found = one_step(
        "RNN",
        {
            "weight_ih": [[1, 2], [-1, 1], [-1, -1], [1, -1]],
            "weight_hh": [[0, 3, 0, 0], [1, -1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]],
        },
        [1.0, 1.0],
        [[10.0, 1.0, 5.0, 5.0]],
        [[2.0, 3.0, 100.0, 100.0]],
        nonlinearity="relu",
    )
    da = [2.0, 3.0, 0.0, 0.0]  # at zero the derivative is 0, as in torch
    assert_equal(
        found,
        x=[2 - 3, 4 + 3],
        h_0=[3, 6 - 3, 0, 0],
        weight_ih=[[2, 2], [3, 3], [0, 0], [0, 0]],
        weight_hh=np.outer(da, [10, 1, 5, 5]),
    )


def test_lstm():
    """Biases bring the gates to i = 3/4, f = 1/4, g = 3/5, o = 4/5, and c_0 brings c to ln 2."""
    w_ih, w_hh, x, h_0 = np.array([0.5, 0.25, -0.5, 1]), np.array([0.1, 0.2, 0.3, 0.4]), 2.0, -1.0
    c_0 = 4 * LN2 - 1.8  # c = c_0 / 4 + 3/4 * 3/5 = ln 2, so tanh(c) = 3/5
    bias = np.array([LN3, -LN3, LN2, math.log(4)]) - w_ih * x - w_hh * h_0
    found = one_step(
        "LSTM",
        {"weight_ih": w_ih[:, None], "weight_hh": w_hh[:, None], "bias_ih": bias + 1, "bias_hh": [-1] * 4},
        [x],
        [[h_0], [c_0]],
        [[5.0], [1.0]],
    )
    # dc = 1 + 5 * 4/5 * (1 - 9/25) = 3.56
    da = np.array(
        [
            0.4005,  # 3.56 * 3/5 * 3/4 * 1/4
            0.6675 * c_0,  # 3.56 * c_0 * 1/4 * 3/4
            1.7088,  # 3.56 * 3/4 * (1 - 9/25)
            0.48,  # 5 * 3/5 * 4/5 * 1/5
        ]
    )
    assert_equal(
        found,
        x=w_ih @ da,
        h_0=w_hh @ da,
        c_0=0.89,  # 3.56 / 4
        weight_ih=2 * da,
        weight_hh=-da,
        bias_ih=da,
        bias_hh=da,
    )


def test_projected_lstm():
    """Zero weights but for w_hh of the o gate: i = f = 1/2, g = 0, o = [3/4, 1/4], tanh(c) = [3/5, 4/5]."""
    c_0 = np.array([2 * LN2, 2 * LN3])
    found = one_step(
        "LSTM",
        {"weight_ih": np.zeros((8, 1)), "weight_hh": [[0.0]] * 6 + [[1], [-1]], "weight_hr": [[2, 3]]},
        [4.0],
        [[LN3], c_0],
        [[10.0], [1.0, 2.0]],
    )
    # du = 10 * [2, 3]; dc = [1, 2] + [20 * 3/4 * 16/25, 30 * 1/4 * 9/25] = [10.6, 4.7]
    da_f = [10.6 * c_0[0] / 4, 4.7 * c_0[1] / 4]
    da = np.array([0, 0, *da_f, 5.3, 2.35, 2.25, 4.5])  # da_g = dc / 2; da_o = [20 * 3/5 * 3/16, 30 * 4/5 * 3/16]
    assert_equal(
        found,
        x=0,
        h_0=-2.25,  # 2.25 - 4.5
        c_0=[5.3, 2.35],
        weight_ih=4 * da,
        weight_hh=LN3 * da,
        weight_hr=[4.5, 2],  # 10 * [3/4 * 3/5, 1/4 * 4/5]
    )


def test_gru():
    """r = 3/4, z = 1/4, n = 3/5; the recurrent part of n, with its bias, is 2/5 before r multiplies it."""
    w_ih, w_hh, x, h_0 = np.array([0.5, -0.3, 0.7]), np.array([0.2, 0.4, -0.6]), 2.0, -1.0
    b_hh = np.array([0.1, 0.2, 0.4 - w_hh[2] * h_0])
    gx = np.array([LN3 - w_hh[0] * h_0 - 0.1, -LN3 - w_hh[1] * h_0 - 0.2, LN2 - 0.3])  # n: ln 2 - 3/4 * 2/5
    found = one_step(
        "GRU",
        {"weight_ih": w_ih[:, None], "weight_hh": w_hh[:, None], "bias_ih": gx - w_ih * x, "bias_hh": b_hh},
        [x],
        [[h_0]],
        [[8.0]],
    )
    # da_n = 8 * 3/4 * (1 - 9/25) = 3.84; da_z = 8 (-1 - 3/5) * 3/16 = -2.4; da_r = 3.84 * 2/5 * 3/16 = 0.288
    dgx, dgh = np.array([0.288, -2.4, 3.84]), np.array([0.288, -2.4, 2.88])  # 2.88 = 3.84 r
    assert_equal(
        found,
        x=w_ih @ dgx,
        h_0=2 + w_hh @ dgh,  # 8 z
        weight_ih=2 * dgx,
        weight_hh=-dgh,
        bias_ih=dgx,
        bias_hh=dgh,
    )


# --- finite differences -----------------------------------------------------------------------------------------------

#: Of fourth-order differences at a step of 1e-3, relative to max(1, largest). What such a step leaves out, and the
#: rounding of a sum of size 10 divided by it, were seen to come to 1e-12 for most, and to 2e-10 at worst.
DIFFERENCES = 1e-9


def compare(value, arrays, grads, directions):
    """arrays: those that `value` depends on, under the names of `grads`; directions: of an array, a stack of them."""
    wrong = []
    assert list(arrays) == list(grads)
    for name, array in arrays.items():
        assert grads[name].shape == array.shape
        along = directions(array)
        expected = differences(value, array, along)
        got = np.tensordot(along, grads[name], array.ndim) if array.size else np.zeros(len(along))
        error, scale = np.abs(got - expected).max(initial=0), max(1, np.abs(expected).max(initial=0))
        if not error <= DIFFERENCES * scale:
            wrong.append(f"{name} is off by {error:.3g} of {scale:.3g}")
    return "; ".join(wrong)


def compare_layer(layer, x, hx, seed, directions, pack=None, **options):
    """Every gradient of a layer with differences of its output: "" or what is wrong.

    pack: makes a pack of x, and back: (pack, unpack).
    """
    rng = np.random.default_rng(seed)
    states = [s.copy() for s in parts_of(random_state(rng, layer, _rows(layer, x)) if hx is None else hx)]
    x = x.astype(np.float64)
    relu = getattr(layer, "nonlinearity", "") == "relu"
    packed, unpacked = pack or (lambda x: x, lambda y: y)

    def given():
        return tuple(states) if isinstance(layer, fastrnn.LSTM) else states[0]

    (y, end), backward = layer.vjp(packed(x), given(), **options)
    seeds = normal_like(rng, (y.data if pack else y, end))

    def value():
        layer.parameters().changed()
        y, end, all_states = layer(packed(x), given(), return_states=True, **options)
        return scalar((y.data if pack else y, end), seeds), (all_states.h > 0).tobytes() if relu else None

    grads = backward(y._replace(data=seeds[0]) if pack else seeds[0], seeds[1])
    grads = arrays_in(grads._replace(x=unpacked(grads.x)))
    arrays = {"x": x} | dict(zip(("h_0", "c_0"), states, strict=False)) | layer.parameters()
    return compare(value, arrays, grads, directions)


def _rows(layer, x):
    return None if x.ndim == 2 else x.shape[0 if layer.batch_first else 1]


def unit_vectors(array):
    """A direction for each element."""
    return np.eye(array.size).reshape(array.size, *array.shape)


def random_vectors(array, rng):
    """Three directions."""
    vectors = rng.normal(size=(3, *array.shape))
    return vectors / max(1, np.sqrt(array.size))


@pytest.mark.parametrize("cell", CELLS)
def test_every_element_by_differences(cell):
    """Two layers, two directions, ragged rows, resets, initial states."""
    rng = np.random.default_rng(2)
    layer = make(cell, 2, 3 if cell == "lstm_proj" else 2, "float64", 1, num_layers=2, bidirectional=True)
    x, reset = rng.normal(size=(4, 4, 2)), np.zeros((4, 4), bool)
    reset[[1, 3, 0, 2, 1], [0, 0, 1, 3, 3]] = True  # the second of row 3 lies past its end
    problem = compare_layer(layer, x, None, 0, unit_vectors, lengths=[4, 3, 0, 2], reset=reset)
    assert not problem


@pytest.mark.parametrize("cell", CELLS)
def test_sampled_layers_by_differences(cell):
    """Three random directions for each array: layers, biases, batch_first, unbatched, packed, ragged, resets."""
    grid = {"dtype": "float64", "T": [1, 2, 5], "N": [None, 1, 3], "I": [1, 3], "H": [2, 3, 5], "num_layers": [1, 2]}
    wrong = []
    for config in configurations(24, seed=5, cell=cell, **grid):
        rng = np.random.default_rng(config.seed)
        layer, (x, hx, lengths) = config.layer(), config.inputs()
        options, pack = {}, None
        if config.form.startswith("packed"):
            pack = (
                lambda x, c=config, n=lengths: fastrnn.pack_padded_sequence(x, n, c.batch_first, c.form == "packed"),
                lambda y, c=config: fastrnn.pad_packed_sequence(y, c.batch_first, total_length=c.T)[0],
            )
        else:
            options = {"lengths": lengths} if config.N else {}
            options["reset"] = rng.random(x.shape[:-1]) < (0, 0.3)[config.seed % 2]
        problem = compare_layer(layer, x, hx, config.seed, partial(random_vectors, rng=rng), pack, **options)
        if problem:
            wrong.append(f"{config}: {problem}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("name", "options"), [("RNNCell", {}), ("RNNCell", {"nonlinearity": "relu"}), ("LSTMCell", {}), ("GRUCell", {})]
)
@pytest.mark.parametrize("batch", [(), (3,)])
@pytest.mark.parametrize("bias", [True, False])
def test_cells_by_differences(name, options, batch, bias):
    rng = np.random.default_rng(3)
    cell = getattr(fastrnn, name)(3, 4, bias, **options, dtype="float64", rng=0)
    x, states = rng.normal(size=(*batch, 3)), [rng.normal(size=(*batch, 4)) for _ in range(1 + (name == "LSTMCell"))]

    def given():
        return tuple(states) if name == "LSTMCell" else states[0]

    h, backward = cell.vjp(x, given())
    seeds = normal_like(rng, h)

    def value():
        cell.parameters().changed()
        result = cell(x, given())
        return scalar(result, seeds), (result > 0).tobytes() if "relu" in options.values() else None

    arrays = {"x": x} | dict(zip(("h_0", "c_0"), states, strict=False)) | cell.parameters()
    problem = compare(value, arrays, arrays_in(backward(seeds)), unit_vectors)
    assert not problem


# --- exact statements -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_float32_is_rounded_once_per_layer(cell):
    """The gradients are computed in float64 too: those of one layer in float32 are those in float64, rounded."""
    rng = np.random.default_rng(0)
    layer = make(cell, 3, 33)
    x, hx = rng.normal(size=(17, 5, 3)).astype(np.float32), random_state(rng, layer, 5)
    seeds = normal_like(rng, layer(x, hx))
    got = gradients(layer, x, hx, seeds)
    exact = gradients(layer.astype("float64"), x, hx, seeds)
    for (name, a), b in zip(arrays_in(got).items(), arrays_in(exact).values(), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_array_equal(a, b.astype(np.float32), err_msg=name)
