"""Convolutions: values by hand, against plain sums, the same bits in any batch and chunking, streams, wrong input."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import fastrnn


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_conv1d_by_hand():
    layer = fastrnn.Conv1d(1, 2, 2, padding=1, dtype="float64")
    layer.weight, layer.bias = [[[1, 10]], [[0, 1]]], [100, 0]
    y, backward = layer.vjp([[[1, 2, 3]]])
    np.testing.assert_array_equal(y, [[[110, 121, 132, 103], [1, 2, 3, 0]]])
    grads = backward([[[1, 0, 0, 2], [0, 5, 0, 0]]])
    np.testing.assert_array_equal(grads.x, [[[10, 5, 2]]])
    np.testing.assert_array_equal(grads.params["weight"], [[[6, 1]], [[5, 10]]])
    np.testing.assert_array_equal(grads.params["bias"], [3, 5])
    assert fastrnn.Conv1d(1, 2, 2, bias=False).bias is None


@pytest.mark.parametrize(
    ("mode", "padded"),
    [
        ("zeros", [0, 0, 1, 2, 3, 0, 0]),
        ("reflect", [3, 2, 1, 2, 3, 2, 1]),
        ("replicate", [1, 1, 1, 2, 3, 3, 3]),
        ("circular", [2, 3, 1, 2, 3, 1, 2]),
    ],
)
def test_padding_by_hand(mode, padded):
    layer = fastrnn.Conv1d(1, 1, 1, padding=2, padding_mode=mode, bias=False, dtype="float64")
    layer.weight = [[[1]]]
    y, backward = layer.vjp([[1, 2, 3]])
    np.testing.assert_array_equal(y, [padded])
    dy = np.array([1, 10, 100, 1000, 1e4, 1e5, 1e6])
    expected = [0 if mode == "zeros" and not 2 <= i < 5 else dy[i] for i in range(7)]
    dx = [sum(e for e, p in zip(expected, padded, strict=True) if p == value) for value in (1, 2, 3)]
    np.testing.assert_array_equal(backward([dy]).x, [dx])


def plain(x, w, b, stride, dilation, groups):
    """(N, C, H, W) without padding: sums of products, one after the other."""
    N, _, H, W = x.shape
    O, C, K0, K1 = w.shape
    out = [(n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip((H, W), (K0, K1), dilation, stride, strict=True)]
    y = np.zeros((N, O, *out))
    for n, o, i, j, c, k, m in np.ndindex(N, O, *out, C, K0, K1):
        at = i * stride[0] + k * dilation[0], j * stride[1] + m * dilation[1]
        y[n, o, i, j] += x[(n, o // (O // groups) * C + c, *at)] * w[o, c, k, m]
    return y + b[:, None, None]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "dilation"), [((1, 1), (1, 1)), ((2, 3), (1, 2)), ((1, 2), (3, 1))])
def test_plain_sums(groups, stride, dilation, rng):
    layer = fastrnn.Conv2d(4, 8, (2, 3), stride, 0, dilation, groups, dtype="float64", rng=0)
    x = rng.integers(-5, 6, (2, 4, 7, 8)).astype(float)
    layer.weight, layer.bias = (rng.integers(-5, 6, a.shape) for a in (layer.weight, layer.bias))
    np.testing.assert_array_equal(layer(x), plain(x, layer.weight, layer.bias, stride, dilation, groups))


def test_many_samples_at_a_time(rng, monkeypatch):
    """Samples are taken in blocks; nothing depends on how many a block has."""
    from fastrnn.layers import conv_kernel

    x = rng.integers(-5, 6, (7, 4, 9)).astype("float32")
    for groups in (1, 2, 4):
        layer = fastrnn.Conv1d(4, 8, 3, 2, 1, groups=groups)
        layer.weight, layer.bias = (rng.integers(-5, 6, a.shape) for a in (layer.weight, layer.bias))
        results = []
        for size in (1, 100, 1 << 18):
            monkeypatch.setattr(conv_kernel, "_BLOCK", size)
            y, backward = layer.vjp(x)
            grads = backward(y)
            results.append((y, grads.x, *grads.params.values()))
        for other in results[1:]:
            for a, b in zip(results[0], other, strict=True):
                np.testing.assert_array_equal(a, b)


SAME_BITS = [
    *(("Conv1d", (6, 8, 3, 1, 1, 1, g), (40, 6, 50)) for g in (1, 2)),
    ("Conv1d", (6, 12, 3, 2, 2, 2, 6), (40, 6, 50)),
    ("Conv2d", (3, 70, (3, 5), 2, 1), (9, 3, 20, 30)),
    ("Linear", (150, 300), (700, 150)),
    ("LayerNorm", (300,), (700, 300)),
    ("LayerNorm", ((20, 1000),), (40, 20, 1000)),
    ("BatchNorm1d", (6,), (40, 6, 50)),
    ("MaxPool1d", (3,), (40, 6, 50)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("kind", "args", "shape"), SAME_BITS, ids=str)
def test_same_bits_in_any_batch(kind, args, shape, dtype, rng):
    layer = getattr(fastrnn, kind)(*args).to(dtype)
    x = rng.normal(size=shape).astype(dtype)
    y, backward = layer.vjp(x)
    dy = rng.normal(size=y.shape).astype(dtype)
    dx = backward(dy).x
    for rows in (slice(0, 1), slice(3, 4), slice(2, 9), slice(8, None)):
        alone, way_back = layer.vjp(x[rows])
        np.testing.assert_array_equal(alone, y[rows])
        np.testing.assert_array_equal(layer(x[rows]), y[rows])
        np.testing.assert_array_equal(way_back(dy[rows]).x, dx[rows])


@pytest.mark.parametrize("layer", [fastrnn.Linear(3, 4), fastrnn.Conv1d(3, 4, 1), fastrnn.Conv1d(3, 3, 1, groups=3)])
def test_weights_are_packed_once(layer):
    x = np.ones((2, 3, 1 if isinstance(layer, fastrnn.Conv1d) else 3))
    y, backward = layer.vjp(x)
    backward(y)
    packed = dict(layer._prepared)
    layer.vjp(x)[1](y)
    assert packed
    assert all(layer._prepared[key] is value for key, value in packed.items())
    layer.weight = np.zeros_like(layer.weight)
    assert not layer._prepared
    np.testing.assert_array_equal(layer(x).reshape(-1)[0], layer.bias[0])


def test_nan_stays_where_it_is(rng):
    x = rng.normal(size=(2, 4, 9)).astype("float32")
    x[0, 0, 4] = np.nan
    x[1, 1, 0] = np.inf
    for groups in (1, 4):
        y = fastrnn.Conv1d(4, 4, 3, groups=groups)(x)
        found = np.isnan(y[0]).any(0)
        np.testing.assert_array_equal(found, [False, False, True, True, True, False, False])
        assert not np.isfinite(y[1, :, 0]).all()
        assert np.isfinite(y[1, :, 1:]).all()


def test_initial_values():
    for layer, fan_in in ((fastrnn.Conv1d(8, 64, 5, groups=2, rng=3), 20), (fastrnn.Conv2d(4, 64, (2, 5), rng=3), 40)):
        rng, k = np.random.default_rng(3), 1 / np.sqrt(fan_in)
        for array in layer.state_dict().values():
            np.testing.assert_array_equal(array, rng.uniform(-k, k, array.shape).astype("float32"))


# --- streams ----------------------------------------------------------------------------------------------------------

STREAMS = [
    {},
    {"dilation": 3},
    {"groups": 2, "bias": False},
    {"groups": 4, "dilation": 2},
    {"stride": 2},
    {"stride": 3, "dilation": 2, "groups": 4},
    {"stride": 5},
    {"padding": "valid", "padding_mode": "reflect"},
]


def whole(layer, x):
    """The causal convolution of (N, C, T): zeros for the past."""
    past = layer.dilation[0] * (layer.kernel_size[0] - 1)
    return layer(np.pad(x, ((0, 0), (0, 0), (past, 0))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("options", STREAMS, ids=str)
@pytest.mark.parametrize("kernel_size", [1, 4])
def test_a_stream_is_the_whole_sequence(options, kernel_size, dtype, rng):
    layer = fastrnn.Conv1d(4, 8, kernel_size, **options, dtype=dtype)
    x = rng.normal(size=(3, 4, 60)).astype(dtype)
    y, stride = whole(layer, x), layer.stride[0]
    stream = layer.stream(3)
    cuts = np.array([0, 1, 2, 2, 7, 12]) * stride
    chunks = np.split(x, cuts, axis=2)
    results = [stream.process(chunk) for chunk in chunks]
    assert [r.shape for r in results] == [(3, 8, c.shape[2] // stride) for c in chunks]
    np.testing.assert_array_equal(np.concatenate(results, axis=2), y)
    reach = layer.dilation[0] * (kernel_size - 1)
    assert stream.state.shape == (3, 4, reach)
    np.testing.assert_array_equal(stream.state, x[:, :, 60 - reach :])
    if stride == 1:
        stream.reset()
        out = np.empty((3, 8), dtype)
        for t in range(20):
            assert stream.step(x[:, :, t], out=out) is out
            np.testing.assert_array_equal(out, y[:, :, t])


def test_a_stream_of_one_row(rng):
    layer, x = fastrnn.Conv1d(2, 3, 3), rng.normal(size=(2, 9)).astype("float32")
    stream, other = layer.stream(), layer.stream()
    y = whole(layer, x[None])[0]
    np.testing.assert_array_equal(stream.process(x), y)
    np.testing.assert_array_equal(np.stack([other.step(x[:, t]) for t in range(9)], axis=1), y)
    assert other.step(x[None, :, 0]).shape == (1, 3)
    assert other.step([1, 2]).dtype == np.float32
    assert stream.process(x[None]).shape == (1, 3, 9)
    assert stream.batch_size == 1


def test_state_and_reset(rng):
    layer, x = fastrnn.Conv1d(2, 4, 3, groups=2), rng.normal(size=(3, 2, 9)).astype("float32")
    stream, other = layer.stream(3), layer.stream(3)
    stream.process(x[:, :, :5])
    before = stream.state
    rest = stream.process(x[:, :, 5:])
    np.testing.assert_array_equal(before, x[:, :, 3:5])  # a copy
    other.state = before
    before[...] = 7
    np.testing.assert_array_equal(other.process(x[:, :, 5:]), rest)
    other.reset(mask=[True, False, False])
    stream.reset(np.array([True, False, False]))
    assert not other.state[0].any()
    assert other.state[1:].all()
    np.testing.assert_array_equal(other.process(x), stream.process(x))
    np.testing.assert_array_equal(other.process(x)[:0], np.empty((0, 4, 9)))
    other.reset()
    np.testing.assert_array_equal(other.process(x), whole(layer, x))


def test_a_stream_keeps_its_weights(rng):
    x = rng.normal(size=(1, 2, 9)).astype("float32")
    for groups in (1, 2):
        layer = fastrnn.Conv1d(2, 4, 3, groups=groups)
        stream, before = layer.stream(), whole(layer, x)
        layer.weight, layer.bias = np.zeros_like(layer.weight), np.zeros(4)
        assert not layer(x).any()
        np.testing.assert_array_equal(stream.process(x), before)


def test_nothing_of_the_chunk_is_kept_or_changed(rng):
    layer, x = fastrnn.Conv1d(2, 4, 3), rng.normal(size=(1, 2, 9)).astype("float32")
    stream, y = layer.stream(), whole(layer, x)
    chunk = x[:, :, :5].copy()
    stream.process(chunk)[...] = 5
    chunk[...] = 0
    rest = x[:, :, 5:].copy()
    rest.flags.writeable = False
    np.testing.assert_array_equal(stream.process(rest), y[:, :, 5:])


def test_wrong_input_of_streams(rng):
    layer = fastrnn.Conv1d(2, 4, 3)
    stream, one = layer.stream(3), layer.stream()
    stream.process(rng.normal(size=(3, 2, 5)))
    before = stream.state
    wrong = [
        (lambda: stream.step(np.ones((3, 4))), ValueError, r"x_t should have shape \(3, 2\), got: \(3, 4\)"),
        (lambda: one.step(np.ones(3)), ValueError, r"x_t should have shape \(1, 2\) or \(2,\), got: \(3,\)"),
        (lambda: stream.step(None), TypeError, "x_t should be an array of real numbers"),
        (lambda: stream.step(np.ones((3, 2)), out=np.ones((3, 4))), TypeError, "out should have dtype float32"),
        (lambda: stream.process(np.ones((3, 2))), ValueError, "chunk should be 3D, got 2D"),
        (lambda: one.process(np.ones(2)), ValueError, "chunk should be 3D or 2D, got 1D"),
        (lambda: stream.process(np.ones((2, 2, 5))), ValueError, "chunk should have a batch of 3 and 2 channels"),
        (lambda: stream.process(np.ones((3, 3, 5))), ValueError, "chunk should have a batch of 3 and 2 channels"),
        (lambda: setattr(stream, "state", np.ones((3, 2, 3))), ValueError, r"state should have shape \(3, 2, 2\)"),
        (lambda: stream.reset([1, 0, 0]), TypeError, "mask should be an array of bool"),
        (lambda: stream.reset([True]), ValueError, r"mask should have shape \(3,\)"),
        (lambda: layer.stream(0), ValueError, "batch_size must be greater than zero"),
        (lambda: fastrnn.Conv1d(2, 4, 3, padding=1).stream(), ValueError, "padding should be 0 for a stream"),
        (lambda: fastrnn.Conv1d(2, 4, 3, padding="same").stream(), ValueError, "padding should be 0 for a stream"),
        (lambda: copy.deepcopy(stream), TypeError, "a stream cannot be copied or pickled"),
        (lambda: pickle.dumps(stream), TypeError, "a stream cannot be copied or pickled"),
    ]
    for call, error, words in wrong:
        with pytest.raises(error, match=words):
            call()
    np.testing.assert_array_equal(stream.state, before)
    strided = fastrnn.Conv1d(2, 4, 3, 2).stream(3)
    with pytest.raises(ValueError, match="step is not supported with stride=2; give process 2 steps"):
        strided.step(np.ones((3, 2)))
    with pytest.raises(ValueError, match="chunk should have a multiple of stride=2 steps, got: 5"):
        strided.process(np.ones((3, 2, 5)))
    assert not strided.state.any()


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "args", "options", "error", "words"),
    [
        ("Conv1d", (0, 4, 3), {}, ValueError, "in_channels must be greater than zero"),
        ("Conv1d", (3, 0, 3), {}, ValueError, "out_channels must be greater than zero"),
        ("Conv1d", (3, 4, 0), {}, ValueError, "kernel_size must be greater than zero, got: 0"),
        ("Conv1d", (3, 4, 1.5), {}, TypeError, "kernel_size should be of type int, got: float"),
        ("Conv1d", (3, 4, (1, 2)), {}, ValueError, "expected kernel_size to be a single integer value or a list of 1"),
        ("Conv1d", (3, 4, 3), {"stride": 0}, ValueError, "non-positive stride is not supported"),
        ("Conv1d", (3, 4, 3), {"dilation": -1}, ValueError, "non-positive dilation is not supported"),
        ("Conv1d", (3, 4, 3), {"padding": -1}, ValueError, "negative padding is not supported"),
        ("Conv1d", (3, 4, 3), {"padding": 1.5}, TypeError, "padding should be of type int, got: float"),
        ("Conv1d", (3, 4, 3), {"padding": "x"}, ValueError, "Invalid padding string 'x'"),
        ("Conv1d", (3, 4, 3, 2, "same"), {}, ValueError, "padding='same' is not supported for strided convolutions"),
        ("Conv1d", (3, 4, 3), {"padding_mode": "x"}, ValueError, "padding_mode must be one of .*padding_mode='x'"),
        ("Conv1d", (3, 4, 3), {"padding_mode": None}, ValueError, "padding_mode must be one of"),
        ("Conv1d", (3, 4, 3), {"groups": 0}, ValueError, "groups must be a positive integer"),
        ("Conv1d", (3, 4, 3), {"groups": 2}, ValueError, "in_channels must be divisible by groups"),
        ("Conv1d", (4, 3, 3), {"groups": 2}, ValueError, "out_channels must be divisible by groups"),
        ("Conv1d", (3, 4, 3), {"bias": 1}, TypeError, "bias should be of type bool"),
        ("Conv1d", (3, 4, 3), {"dtype": "int32"}, TypeError, "dtype should be float32 or float64"),
        ("Conv1d", (3, 4, 3), {"device": "cuda"}, ValueError, "device should be 'cpu', where Conv1d runs"),
        (
            "Conv2d",
            (3, 4, (1, 2, 3)),
            {},
            ValueError,
            "expected kernel_size to be a single integer value or a list of 2",
        ),
        ("Conv2d", (3, 4, 3), {"stride": (1, 0)}, ValueError, "non-positive stride is not supported"),
    ],
)
def test_wrong_arguments(kind, args, options, error, words):
    with pytest.raises(error, match=words):
        getattr(fastrnn, kind)(*args, **options)


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        (
            fastrnn.Conv1d(3, 4, 3),
            (2, 3, 5, 6),
            r"Expected 2D \(unbatched\) or 3D \(batched\) input to conv1d, but got",
        ),
        (
            fastrnn.Conv2d(3, 4, 3),
            (5, 6),
            r"Expected 3D \(unbatched\) or 4D \(batched\) input to conv2d, but got input",
        ),
        (fastrnn.Conv1d(4, 4, 3, groups=2), (2, 5, 6), r"Given groups=2, weight of size \[4, 2, 3\], expected input"),
        (fastrnn.Conv1d(3, 4, 3, dilation=2), (2, 3, 4), r"Calculated padded input size per channel: \(4\). Kernel"),
        (fastrnn.Conv2d(3, 4, 3), (3, 2, 9), r"Calculated padded input size per channel: \(2 x 9\). Kernel size: \(3"),
        (fastrnn.Conv1d(3, 4, 3, padding=2), (2, 3, 0), "Only zero batch or zero channel inputs are supported"),
        (
            fastrnn.Conv1d(3, 4, 3, padding=3, padding_mode="reflect"),
            (3, 3),
            "Argument #4: Padding size should be less",
        ),
        (fastrnn.Conv1d(3, 4, 3, padding=4, padding_mode="circular"), (3, 3), "Padding value causes wrapping around"),
    ],
)
def test_wrong_input(layer, shape, words):
    for call in (layer, layer.vjp):
        with pytest.raises(ValueError, match=words):
            call(np.ones(shape))


def test_what_a_layer_is_cannot_be_changed_afterwards():
    for name in ("kernel_size", "stride", "padding", "padding_mode", "groups", "bias"):
        with pytest.raises(AttributeError, match=f"{name} is fixed"):
            setattr(fastrnn.Conv1d(2, 4, 3, bias=False), name, 1)
