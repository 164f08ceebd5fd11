"""What holds for every layer and every input, tried on whatever hypothesis comes up with."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from layer_tools import arrays_in, as_float64, assert_same_bits, each, gradients, near_a_kink, normal_like

import fastrnn

BACKENDS = [info.name for info in fastrnn.backends() if info.available]


@st.composite
def layers(draw, max_H=40, bidirectional=None):
    """A layer of any kind."""
    kind = draw(st.sampled_from(["RNN", "LSTM", "GRU"]))
    H = draw(st.integers(1, max_H))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "bidirectional": draw(st.booleans()) if bidirectional is None else bidirectional,
        "dtype": draw(st.sampled_from(["float32", "float64"])),
        "rng": draw(st.integers(0, 2**32)),
    }
    if kind == "RNN":
        options["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        options["proj_size"] = draw(st.integers(0, H - 1))
    return getattr(fastrnn, kind)(draw(st.integers(1, 6)), H, **options)


@st.composite
def calls(draw, **limits):
    """A layer and the arguments of a call, time first: layer, x, hx, lengths, reset."""
    layer = draw(layers(**limits))
    T, N = draw(st.integers(0, 12)), draw(st.integers(0, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = rng.normal(size=(T, N, layer.input_size)).astype(layer.dtype)
    hx = None
    if draw(st.booleans()):
        rows = layer.num_layers * (1 + layer.bidirectional)
        h_0 = rng.uniform(-1, 1, (rows, N, layer.proj_size or layer.hidden_size)).astype(layer.dtype)
        c_0 = rng.uniform(-2, 2, (rows, N, layer.hidden_size)).astype(layer.dtype)
        hx = (h_0, c_0) if isinstance(layer, fastrnn.LSTM) else h_0
    lengths = draw(st.none() | arrays(np.int64, N, elements=st.integers(0, T)))
    reset = draw(st.none() | arrays(bool, (T, N)))
    return layer, x, hx, lengths, reset


def run(layer, x, hx=None, lengths=None, reset=None):
    """The call with time first, whatever the layer wants: y, h_n (, c_n), states.h (, states.c)."""
    if layer.batch_first:
        x, reset = x.swapaxes(0, 1), None if reset is None else reset.T
    y, end, states = layer(x, hx, lengths=lengths, reset=reset, return_states=True)
    return y.swapaxes(0, 1) if layer.batch_first else y, end, tuple(states)


def pick(hx, index):
    """Some rows of the batch."""
    if isinstance(hx, tuple):
        return tuple(pick(part, index) for part in hx)
    return None if hx is None else hx[:, index]


@given(calls())
def test_backends_agree_with_the_reference(disagreement, call):
    layer, x, hx, lengths, reset = call
    double = layer.astype("float64")
    hx_double = tuple(part.astype(float) for part in hx) if isinstance(hx, tuple) else hx
    with fastrnn.use_backend("reference"):
        truth = run(double, x, hx_double, lengths, reset)
    for name in BACKENDS:
        with fastrnn.use_backend(name):
            assert not disagreement(run(layer, x, hx, lengths, reset), truth, layer.dtype), name


@given(calls(max_H=12), st.randoms(use_true_random=False))
def test_rows_do_not_know_of_each_other(assert_close, call, random):
    """A batch of some of the rows in any order gives what those rows gave."""
    layer, x, hx, lengths, reset = call
    order = random.sample(range(x.shape[1]), random.randint(0, x.shape[1]))
    y, end, states = run(layer, x, hx, lengths, reset)
    some = run(
        layer,
        x[:, order],
        pick(hx, order),
        None if lengths is None else lengths[order],
        None if reset is None else reset[:, order],
    )
    recorded = tuple(None if part is None else part[:, :, order] for part in states)
    assert_close(some, (y[:, order], pick(end, order), recorded), layer.dtype)


@given(calls(max_H=12, bidirectional=False), st.data())
def test_time_may_be_cut_anywhere(assert_close, call, data):
    """Up to a cut and on from the state there is the whole; for ragged rows too."""
    layer, x, hx, lengths, reset = call
    cut = data.draw(st.integers(0, len(x)))
    y, end, _ = run(layer, x, hx, lengths, reset)
    first, second = (None, None) if lengths is None else (np.minimum(lengths, cut), np.maximum(lengths - cut, 0))
    resets = (None, None) if reset is None else (reset[:cut], reset[cut:])
    y_1, state, _ = run(layer, x[:cut], hx, first, resets[0])
    y_2, state, _ = run(layer, x[cut:], state, second, resets[1])
    assert_close((np.concatenate([y_1, y_2]), state), (y, end), layer.dtype)


def gradients_of(layer, x, hx, lengths, reset, seeds, **options):
    """With time first, whatever the layer wants."""
    d_output, d_state = seeds
    if layer.batch_first:
        x, reset, d_output = x.swapaxes(0, 1), None if reset is None else reset.T, d_output.swapaxes(0, 1)
    grads = gradients(layer, x, hx, (d_output, d_state), lengths=lengths, reset=reset, **options)
    return grads._replace(x=grads.x.swapaxes(0, 1)) if layer.batch_first else grads


@given(calls(), st.integers(0, 2**32))
def test_gradients_agree_with_the_reference(disagreement, call, seed):
    layer, x, hx, lengths, reset = call
    assume(not near_a_kink(layer, lambda: run(layer, x, hx, lengths, reset)))
    seeds = normal_like(np.random.default_rng(seed), run(layer, x, hx, lengths, reset)[:2])
    with fastrnn.use_backend("reference"):
        truth = gradients_of(layer.astype("float64"), *as_float64((x, hx)), lengths, reset, as_float64(seeds))
    for name in BACKENDS:
        with fastrnn.use_backend(name):
            got = gradients_of(layer, x, hx, lengths, reset, seeds)
        assert not disagreement(got, truth, layer.dtype, gradient=True), name


@given(calls(max_H=12), st.integers(0, 2**32), st.data())
def test_ways_to_the_same_gradients(assert_close, call, seed, data):
    """Checkpoints change no bit, a scalar twice as large has gradients twice as large, rows may come in any order."""
    layer, x, hx, lengths, reset = call
    seeds = normal_like(np.random.default_rng(seed), run(layer, x, hx, lengths, reset)[:2])
    plain = gradients_of(layer, x, hx, lengths, reset, seeds)
    every = data.draw(st.integers(1, 15))
    assert_same_bits(gradients_of(layer, x, hx, lengths, reset, seeds, checkpoint_every=every), plain)

    doubled = gradients_of(layer, x, hx, lengths, reset, (2 * seeds[0], each(lambda s: 2 * s, seeds[1])))
    for a, b in zip(arrays_in(doubled).values(), arrays_in(plain).values(), strict=True):
        np.testing.assert_array_equal(a, 2 * b)

    samples = gradients_of(layer, x, hx, lengths, reset, seeds, per_sample=True)
    order = data.draw(st.permutations(range(x.shape[1])))
    some = gradients_of(
        layer,
        x[:, order],
        pick(hx, order),
        None if lengths is None else lengths[order],
        None if reset is None else reset[:, order],
        (seeds[0][:, order], pick(seeds[1], order)),
        per_sample=True,
    )
    expected = samples._replace(
        x=samples.x[:, order], hx=pick(samples.hx, order), params={k: a[order] for k, a in samples.params.items()}
    )
    assert_close(some, expected, layer.dtype, gradient=True)
    sums = {name: a.sum(0) for name, a in samples.params.items()}
    assert_close((sums, samples.x, samples.hx), (plain.params, plain.x, plain.hx), layer.dtype, gradient=True)


@given(calls(max_H=12))
def test_arguments_are_left_alone(call):
    layer, x, hx, lengths, reset = call
    given_arrays = [a for a in (x, lengths, reset, *(hx if isinstance(hx, tuple) else (hx,))) if a is not None]
    given_arrays += layer.parameters().values()
    before = [a.copy() for a in given_arrays]
    for a in given_arrays:
        a.flags.writeable = False
    y, end, states = run(layer, x, hx, lengths, reset)
    for a, old in zip(given_arrays, before, strict=True):
        np.testing.assert_array_equal(a, old)
    results = [y, *(end if isinstance(end, tuple) else (end,)), *(part for part in states if part is not None)]
    for i, result in enumerate(results):
        assert result.flags.writeable
        for other in (*given_arrays, *results[:i]):
            assert not np.shares_memory(result, other)


@given(calls())
def test_outputs_keep_their_range(call):
    """tanh and gates keep |h| at 1, the |h_0| given included; past a length everything is 0."""
    layer, x, hx, lengths, reset = call
    y, end, states = run(layer, x, hx, lengths, reset)
    if lengths is not None:
        past = np.arange(len(x))[:, None] >= lengths
        assert not y[past].any()
        assert all(not part[:, 1:][:, past].any() for part in states if part is not None)
    if getattr(layer, "nonlinearity", "tanh") == "relu":
        assert (y >= 0).all()
    elif not layer.proj_size:
        assert (np.abs(y) <= 1).all()
        assert (np.abs(end[0] if isinstance(end, tuple) else end) <= 1).all()


@given(layers())
def test_state_dicts_round_trip(layer):
    state = layer.state_dict()
    twin = type(layer)(
        layer.input_size,
        layer.hidden_size,
        **{name: getattr(layer, name) for name in ("num_layers", "bias", "bidirectional", "dtype")},
        **({"proj_size": layer.proj_size} if isinstance(layer, fastrnn.LSTM) else {}),
    )
    twin.load_state_dict(state)
    for key, array in twin.state_dict().items():
        np.testing.assert_array_equal(array, state[key])


SEQUENCE_LISTS = st.tuples(st.integers(0, 3), st.lists(st.integers(0, 6), min_size=1, max_size=8)).flatmap(
    lambda drawn: st.tuples(
        *(arrays(np.float32, (n,) + (2,) * drawn[0], elements=st.floats(-9, 9, width=32)) for n in drawn[1])
    )
)


@given(SEQUENCE_LISTS, st.booleans(), st.sampled_from(["left", "right"]))
@example(([np.zeros((0, 2))]), False, "right")
def test_padding_round_trips(sequences, batch_first, side):
    padded = fastrnn.pad_sequence(sequences, batch_first, np.nan, side)
    lengths = [len(s) for s in sequences]
    if side == "left":
        padded = padded[:, ::-1] if batch_first else padded[::-1]
        sequences = [s[::-1] for s in sequences]
    for got, sequence in zip(fastrnn.unpad_sequence(padded, lengths, batch_first), sequences, strict=True):
        np.testing.assert_array_equal(got, sequence)


@given(SEQUENCE_LISTS)
def test_packing_round_trips(sequences):
    if min(map(len, sequences)) == 0:
        with pytest.raises(ValueError, match=r"Length of all samples has to be greater than 0|Cannot pack empty"):
            fastrnn.pack_sequence(sequences, enforce_sorted=False)
        return
    packed = fastrnn.pack_sequence(sequences, enforce_sorted=False)
    assert len(packed.data) == sum(map(len, sequences))
    assert packed.lengths.tolist() == [len(s) for s in sequences]
    assert (packed.batch_sizes[:-1] >= packed.batch_sizes[1:]).all()
    for got, sequence in zip(fastrnn.unpack_sequence(packed), sequences, strict=True):
        np.testing.assert_array_equal(got, sequence)
    padded, lengths = fastrnn.pad_packed_sequence(packed)
    again = fastrnn.pack_padded_sequence(padded, lengths, enforce_sorted=False)
    for part, other in zip(again, packed, strict=True):
        np.testing.assert_array_equal(part, other)
