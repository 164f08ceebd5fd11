"""What layers promise beside the numbers: shapes, ragged rows, episodes, time in pieces, streams."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastrnn

LAYERS = {
    "RNN": lambda rng=0, **k: fastrnn.RNN(3, 5, rng=rng, **k),
    "RNN relu": lambda rng=0, **k: fastrnn.RNN(3, 5, nonlinearity="relu", rng=rng, **k),
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


def states_of(state):
    """The parts of a state: h, or h and c."""
    return state if isinstance(state, tuple) else (state,)


def like(state, parts):
    return tuple(parts) if isinstance(state, tuple) else parts[0]


def rows(state, index):
    """The same rows of the batch of each part of a state."""
    return like(state, [part[:, index] for part in states_of(state)])


def random_state(layer, N, rng):
    """Initial states for N rows."""
    _, state = layer(np.zeros((0, N, 3)) if not layer.batch_first else np.zeros((N, 0, 3)))
    return like(state, [rng.uniform(-1, 1, part.shape).astype(part.dtype) for part in states_of(state)])


# --- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
def test_shapes(make, bidirectional, batch_first):
    layer = make(num_layers=2, bidirectional=bidirectional, batch_first=batch_first)
    D, P = 1 + bidirectional, layer.proj_size or 5
    y, state, states = layer(np.ones((4, 6, 3)), return_states=True)
    T, N = (6, 4) if batch_first else (4, 6)
    assert y.shape == (4, 6, D * P)
    assert [part.shape for part in states_of(state)] == [(2 * D, N, P), (2 * D, N, 5)][: len(states_of(state))]
    assert states.h.shape == (2 * D, T + 1, N, P)
    assert (states.c is None) if not isinstance(state, tuple) else states.c.shape == (2 * D, T + 1, N, 5)
    assert {a.dtype for a in (y, states.h, *states_of(state))} == {np.dtype(np.float32)}

    y, state, states = layer(np.ones((4, 3)), return_states=True)  # unbatched: batch_first says nothing
    assert y.shape == (4, D * P)
    assert [part.shape for part in states_of(state)] == [(2 * D, P), (2 * D, 5)][: len(states_of(state))]
    assert states.h.shape == (2 * D, 5, P)


def test_batch_first_is_the_transpose(make, rng):
    a, b = make(rng=1, bidirectional=True), make(rng=1, bidirectional=True, batch_first=True)
    x, lengths, reset = rng.normal(size=(6, 4, 3)), [6, 0, 3, 5], rng.random((6, 4)) < 0.3
    hx = random_state(a, 4, rng)
    y_a, state_a = a(x, hx, lengths=lengths, reset=reset)
    y_b, state_b = b(x.swapaxes(0, 1), hx, lengths=lengths, reset=reset.T)
    np.testing.assert_array_equal(y_b.swapaxes(0, 1), y_a)
    np.testing.assert_array_equal(states_of(state_b)[0], states_of(state_a)[0])


def test_unbatched_is_a_batch_of_one(make, rng, assert_close):
    layer = make(num_layers=2, bidirectional=True, dtype="float64")
    x, hx = rng.normal(size=(6, 1, 3)), random_state(layer, 1, rng)
    reset = rng.random((6, 1)) < 0.4
    y, state, states = layer(x, hx, reset=reset, lengths=[4], return_states=True)
    alone = layer(x[:, 0], rows(hx, 0), reset=reset[:, 0], lengths=[4], return_states=True)
    expected = (y[:, 0], rows(state, 0), tuple(None if s is None else s[:, :, 0] for s in states))
    assert_close((alone[0], alone[1], tuple(alone[2])), expected, "float64")


def test_directions_share_the_output(make, rng):
    """The reverse half is the forward layer with the reverse weights on the reversed sequence."""
    both, one = make(bidirectional=True, dtype="float64"), make(dtype="float64")
    one.load_state_dict({k.removesuffix("_reverse"): v for k, v in both.state_dict().items() if "reverse" in k})
    x = rng.normal(size=(6, 2, 3))
    P = one.proj_size or 5
    np.testing.assert_array_equal(both(x)[0][..., P:], one(x[::-1])[0][::-1])
    np.testing.assert_array_equal(states_of(both(x)[1])[0][1], states_of(one(x[::-1])[1])[0][0])


def test_stacked_layers_are_layers_one_after_the_other(make, rng):
    deep = make(num_layers=2, dtype="float64")
    first = make(dtype="float64")
    first.load_state_dict({k: v for k, v in deep.state_dict().items() if k.endswith("l0")})
    second = type(deep)(first.proj_size or 5, 5, **{k: getattr(deep, k) for k in ("nonlinearity", "proj_size")
                        if getattr(deep, k, 0)}, dtype="float64")  # fmt: skip
    second.load_state_dict({k.replace("l1", "l0"): v for k, v in deep.state_dict().items() if k.endswith("l1")})
    x = rng.normal(size=(6, 2, 3))
    np.testing.assert_array_equal(deep(x)[0], second(first(x)[0])[0])


# --- ragged rows, episodes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_layers", [1, 3])
def test_ragged_is_each_row_alone(make, num_layers, rng, backend, assert_close):
    layer = make(num_layers=num_layers, bidirectional=True, dtype="float64")
    x, lengths = rng.normal(size=(9, 6, 3)), np.array([3, 9, 0, 9, 1, 5])
    hx = random_state(layer, 6, rng)
    y, state, states = layer(x, hx, lengths=lengths, return_states=True)
    for n, length in enumerate(lengths):
        alone = layer(x[:length, n], rows(hx, n), return_states=True)
        assert_close((y[:length, n], rows(state, n)), alone[:2], "float64")
        assert_close((states.h[:, : length + 1, n],), (alone[2].h,), "float64")
        assert not y[length:, n].any()
        assert not states.h[:, length + 1 :, n].any()
    for part, given in zip(states_of(state), states_of(hx), strict=True):
        np.testing.assert_array_equal(part[:, 2], given[:, 2])  # length 0: the initial state


def test_lengths_in_other_guises(make, rng):
    layer, x = make(), rng.normal(size=(4, 3, 3))
    y, _ = layer(x, lengths=[2, 4, 0])
    for lengths in ((2, 4, 0), np.array([2, 4, 0], np.uint8), np.array([2, 9, 4, 9, 0, 9])[::2]):
        np.testing.assert_array_equal(layer(x, lengths=lengths)[0], y)
    full, plain = layer(x, lengths=[4, 4, 4])[0], layer(x)[0]
    np.testing.assert_array_equal(full, plain)


def test_padding_is_never_read(make, rng):
    layer, x = make(bidirectional=True), rng.normal(size=(5, 3, 3))
    y, state = layer(x, lengths=[2, 5, 0])
    x[2:, 0] = x[:, 2] = np.nan
    y_nan, state_nan = layer(x, lengths=[2, 5, 0])
    np.testing.assert_array_equal(y_nan, y)
    np.testing.assert_array_equal(states_of(state_nan)[0], states_of(state)[0])


def test_packed_is_ragged(make, rng, assert_close):
    layer = make(num_layers=2, bidirectional=True, dtype="float64")
    x, lengths, hx = rng.normal(size=(7, 4, 3)), [3, 7, 1, 5], random_state(layer, 4, rng)
    expected = layer(x, hx, lengths=lengths, return_states=True)
    packed, state, states = layer(
        fastrnn.pack_padded_sequence(x, lengths, enforce_sorted=False), hx, return_states=True
    )
    y, back = fastrnn.pad_packed_sequence(packed)
    assert back.tolist() == lengths
    assert_close((y, state, tuple(states)), (expected[0], expected[1], tuple(expected[2])), "float64")


@pytest.mark.parametrize("bidirectional", [False, True])
def test_episodes_run_as_if_alone(make, bidirectional, rng, backend, assert_close):
    """A reset starts a new sequence: forward the first episode alone sees the initial state, in reverse the last."""
    layer = make(bidirectional=bidirectional, dtype="float64")
    T, length, starts = 12, 10, [3, 4, 8]
    x, hx = rng.normal(size=(T, 3)), rows(random_state(layer, 1, rng), 0)
    reset = np.zeros(T, bool)
    reset[[*starts, 11]] = True  # the last lies past the length and says nothing
    y, state = layer(x, hx, lengths=[length], reset=reset)
    edges = [0, *starts, length]
    pieces = []
    for i in range(len(edges) - 1):
        first, last = i == 0, i == len(edges) - 2
        keep = np.array([first] + [last] * bidirectional)[:, None]
        start = like(hx, [part * keep for part in states_of(hx)])
        pieces.append(layer(x[edges[i] : edges[i + 1]], start))
    assert_close((y[:length],), (np.concatenate([piece[0] for piece in pieces]),), "float64")
    for got, first, last in zip(*(states_of(s) for s in (state, pieces[0][1], pieces[-1][1])), strict=True):
        np.testing.assert_array_equal(got[0], last[0])  # forward: the end of the last episode
        if bidirectional:
            np.testing.assert_array_equal(got[1], first[1])


def test_reset_of_the_first_step(make, rng):
    """Forward it discards the initial state; in reverse it zeroes the final one, and the outputs are as without."""
    layer = make(bidirectional=True)
    x, hx = rng.normal(size=(4, 2, 3)), random_state(layer, 2, rng)
    P = layer.proj_size or 5
    reset = np.zeros((4, 2), bool)
    reset[0, 1] = True
    y, state, states = layer(x, hx, reset=reset, return_states=True)
    plain, _, plain_states = layer(x, hx, return_states=True)
    from_zero, _ = layer(x)
    np.testing.assert_array_equal(y[:, 0], plain[:, 0])
    np.testing.assert_array_equal(y[:, 1, :P], from_zero[:, 1, :P])
    np.testing.assert_array_equal(y[:, 1, P:], plain[:, 1, P:])
    for part in states_of(state):
        assert not part[1, 1].any()
        assert part[1, 0].any()
    # The initial state is recorded as given, and the state after time 0 as it came out.
    np.testing.assert_array_equal(states.h[:, 0], plain_states.h[:, 0])
    np.testing.assert_array_equal(states.h[1, 1:, 1], plain_states.h[1, 1:, 1])


def test_reset_everywhere_forgets_all(make, rng):
    layer = make(bidirectional=True, num_layers=2)
    x = rng.normal(size=(5, 2, 3))
    y, _ = layer(x, reset=np.ones((5, 2), bool))
    for t in range(5):
        np.testing.assert_array_equal(y[t], layer(x[t : t + 1])[0][0])
    np.testing.assert_array_equal(layer(x, reset=np.zeros((5, 2), bool))[0], layer(x)[0])


def test_recorded_states_are_the_states(make, rng, backend):
    layer = make(num_layers=2, bidirectional=True, dtype="float64")
    x, hx = rng.normal(size=(6, 3, 3)), random_state(layer, 3, rng)
    y, state, states = layer(x, hx, return_states=True)
    recorded = [states.h] if states.c is None else [states.h, states.c]
    np.testing.assert_array_equal(np.concatenate(states.h[2:, 1:], axis=-1), y)
    for part, given, kept in zip(states_of(state), states_of(hx), recorded, strict=True):
        np.testing.assert_array_equal(kept[:, 0], given)
        np.testing.assert_array_equal(kept[0::2, -1], part[0::2])  # forward ends at the last step
        np.testing.assert_array_equal(kept[1::2, 1], part[1::2])  # reverse at the first
    np.testing.assert_array_equal(layer(x, hx)[0], y)


# --- time in pieces ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[20], [1] * 20, [7, 0, 1, 12]])
def test_chunks_of_time_carry_the_state(make, pieces, rng, backend, assert_close):
    layer = make(num_layers=2, dtype="float64")
    x, hx = rng.normal(size=(20, 2, 3)), random_state(layer, 2, rng)
    whole = layer(x, hx)
    outputs, state, t = [], hx, 0
    for steps in pieces:
        y, state = layer(x[t : t + steps], state)
        outputs.append(y)
        t += steps
    assert_close((np.concatenate(outputs), state), whole, "float64")


@pytest.mark.parametrize("batch_first", [False, True])
def test_stream_is_the_whole_sequence(make, batch_first, rng, backend, assert_close):
    layer = make(num_layers=2, batch_first=batch_first, dtype="float64")
    x, hx = rng.normal(size=(9, 2, 3)), random_state(layer, 2, rng)
    time_major = layer(x.swapaxes(0, 1) if batch_first else x, hx)
    y, state = (time_major[0].swapaxes(0, 1) if batch_first else time_major[0]), time_major[1]
    stream = layer.stream(2)
    stream.state = hx
    got = [stream.step(x[t]) for t in range(3)]
    chunk = stream.process(x[3:7].swapaxes(0, 1) if batch_first else x[3:7])
    got += list(chunk.swapaxes(0, 1) if batch_first else chunk)
    out = np.empty_like(got[0])
    assert stream.step(x[7], out=out) is out
    got += [out.copy(), stream.step(x[8])]
    assert_close((np.stack(got), stream.state), (y, state), "float64")


def test_stream_of_one_row_takes_vectors(make, rng, assert_close):
    layer = make(dtype="float64")
    x = rng.normal(size=(6, 3))
    stream = layer.stream()
    y = np.stack([*(stream.step(x[t]) for t in range(2)), *stream.process(x[2:5]), stream.step(x[5:])[0]])
    expected, state = layer(x)
    assert_close((y, rows(stream.state, 0)), (expected, state), "float64")


def test_stream_reset_and_state(make, rng):
    layer = make(num_layers=2)
    x = rng.normal(size=(4, 3, 3))
    stream = layer.stream(3)
    fresh = stream.step(x[0])
    stream.step(x[1])
    before = stream.state
    stream.reset([False, True, False])
    for part, old in zip(states_of(stream.state), states_of(before), strict=True):
        assert not part[:, 1].any()
        np.testing.assert_array_equal(part[:, [0, 2]], old[:, [0, 2]])
    stream.state = before
    states_of(before)[0][:] = 99  # neither what is set nor what is read is shared
    states_of(stream.state)[0][:] = 99
    assert not (states_of(stream.state)[0] == 99).any()
    stream.reset()
    np.testing.assert_array_equal(stream.step(x[0]), fresh)
    assert stream.step(x[0]) is not stream.step(x[0])


def test_stream_may_write_over_its_input(rng, backend):
    layer = fastrnn.LSTM(5, 5, num_layers=2, rng=0)
    x = rng.normal(size=(2, 5)).astype(np.float32)
    expected = layer.stream(2).step(x)
    assert layer.stream(2).step(x, out=x) is x
    np.testing.assert_array_equal(x, expected)


def test_a_stream_keeps_its_weights(rng):
    layer = fastrnn.GRU(3, 5, rng=0)
    x = rng.normal(size=(2, 1, 3))
    stream, y = layer.stream(), layer(x)[0]
    layer.weight_ih_l0 = np.zeros((15, 3))
    layer.weight_hh_l0[:] = 0
    layer.parameters().changed()
    np.testing.assert_array_equal([stream.step(x[0]), stream.step(x[1])], y)
    with pytest.raises(ValueError, match="bidirectional"):
        fastrnn.GRU(3, 5, bidirectional=True).stream()


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, pickle.dumps])
def test_streams_are_not_copied(clone):
    with pytest.raises(TypeError, match=r"a stream cannot be copied or pickled; make another with layer.stream\(\)"):
        clone(fastrnn.GRU(3, 5).stream())


# --- nothing to do ----------------------------------------------------------------------------------------------------


def test_no_steps(make, rng, backend):
    layer = make(num_layers=2, bidirectional=True)
    hx = random_state(layer, 4, rng)
    y, state, states = layer(np.ones((0, 4, 3)), hx, return_states=True)
    assert y.shape[:2] == (0, 4)
    assert states.h.shape[1] == 1
    for part, given in zip(states_of(state), states_of(hx), strict=True):
        np.testing.assert_array_equal(part, given)
        assert not np.shares_memory(part, given)
    y, state = layer(np.ones((0, 3)))
    assert y.shape[0] == 0
    assert not states_of(state)[0].any()


def test_no_rows(make, backend):
    layer = make(num_layers=2, bidirectional=True)
    for options in ({}, {"lengths": []}, {"reset": np.zeros((5, 0), bool)}, {"return_states": True}):
        y, state, *_ = layer(np.ones((5, 0, 3)), **options)
        assert y.shape[:2] == (5, 0)
        assert states_of(state)[0].shape[1] == 0


def test_all_lengths_zero(make, rng, backend):
    layer = make(bidirectional=True)
    hx = random_state(layer, 2, rng)
    y, state = layer(np.full((3, 2, 3), np.nan), hx, lengths=[0, 0])
    assert not y.any()
    np.testing.assert_array_equal(states_of(state)[0], states_of(hx)[0])


# --- cells, threads -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
def test_cells_are_layers_of_one_step(name, rng, backend, assert_close):
    cell = getattr(fastrnn, name)(3, 5, rng=2)
    layer = getattr(fastrnn, name[:-4])(3, 5)
    layer.load_state_dict({f"{key}_l0": array for key, array in cell.state_dict().items()})
    x, hx = rng.normal(size=(4, 3)), random_state(layer, 4, rng)
    _, state = layer(x[None], hx)
    given = like(hx, [part[0] for part in states_of(hx)])
    got, alone = cell(x, given), cell(x[1], like(hx, [part[0, 1] for part in states_of(hx)]))
    for part, row, expected in zip(states_of(got), states_of(alone), states_of(state), strict=True):
        assert_close((part, row), (expected[0], expected[0, 1]), "float32")
    for part, given_part in zip(states_of(cell(x)), states_of(given), strict=True):
        assert part.shape == (4, 5)
        assert not np.shares_memory(part, given_part)


def test_one_layer_in_a_pool(rng):
    layer = fastrnn.LSTM(3, 20, num_layers=2, rng=0)
    inputs = [rng.normal(size=(30, 2, 3)) for _ in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for x, (y, _) in zip(inputs, pool.map(layer, inputs), strict=True):
            np.testing.assert_array_equal(y, layer(x)[0])
