"""What the tests of layers share: layers of every cell, states, memory layouts, gradients, finite differences."""

from __future__ import annotations

import copy
from itertools import count
from unittest import mock

import body_tools
import numpy as np

import fastrnn
from fastrnn.backends import reference

CELLS = ("rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru")

#: Cells that torch does not have.
USERS = {
    name: fastrnn.Cell(c.body, c.gates, c.states, unit_weights=c.unit_weights, recurrent=c.recurrent)
    for name, c in body_tools.OTHERS.items()
}


def make(cell, I, H, dtype="float32", rng=0, **options):
    if cell in USERS:
        return fastrnn.Recurrent(USERS[cell], I, H, **options, dtype=dtype, rng=rng)
    if cell.startswith("rnn"):
        return fastrnn.RNN(I, H, nonlinearity=cell[4:], **options, dtype=dtype, rng=rng)
    if cell == "gru":
        return fastrnn.GRU(I, H, **options, dtype=dtype, rng=rng)
    return fastrnn.LSTM(I, H, **options, proj_size=(H + 1) // 2 if cell == "lstm_proj" else 0, dtype=dtype, rng=rng)


def parts_of(state):
    return state if isinstance(state, tuple) else (state,)


def each(function, value):
    """`function` of every array in nested tuples; None stays None."""
    if isinstance(value, tuple):
        return tuple(each(function, part) for part in value)
    return None if value is None else function(value)


def as_float64(value):
    return each(lambda array: np.asarray(array, np.float64), value)


def truth(layer, x, hx=None, **options):
    with fastrnn.use_backend("reference"):
        return layer.astype("float64")(as_float64(x), as_float64(hx), **options)


def random_state(rng, layer, N):
    """Initial states for N rows; N None: for unbatched input."""
    rows = layer.num_layers * (1 + layer.bidirectional)
    batch = () if N is None else (N,)
    h_0 = rng.uniform(-1, 1, (rows, *batch, getattr(layer, "proj_size", 0) or layer.hidden_size)).astype(layer.dtype)
    n_states = layer.cell.states if isinstance(layer, fastrnn.Recurrent) else 1 + isinstance(layer, fastrnn.LSTM)
    if n_states == 1:
        return h_0
    others = [rng.uniform(-2, 2, (rows, *batch, layer.hidden_size)).astype(layer.dtype) for _ in range(n_states - 1)]
    # The third state of the cells of `body_tools` is a positive one.
    return h_0, *(np.abs(s) + layer.dtype.type(0.5) if i == 1 else s for i, s in enumerate(others))


def layouts(x, folder):
    """The same numbers in every kind of memory."""
    read_only = x.copy()
    read_only.flags.writeable = False
    file = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(file, x)
    padded = np.full((*x.shape[:-1], 2 * x.shape[-1] + 1), np.nan, x.dtype)
    padded[..., 1::2] = x
    shifted = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype)  # not aligned
    return {
        "contiguous": x,
        "Fortran order": np.asfortranarray(x),
        "strided features": padded[..., 1::2],
        "strided rows": np.repeat(x, 2, axis=1)[:, ::2],
        "negative strides": x[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1],
        "transposed": x.transpose(1, 0, 2).copy().transpose(1, 0, 2),
        "read-only": read_only,
        "memory-mapped": np.load(file, mmap_mode="r"),
        "not aligned": shifted.reshape(x.shape),
        "other byte order": x.astype(x.dtype.newbyteorder()),
        "other precision": x.astype(np.float64),
        "list": x.tolist(),
    }


# --- gradients --------------------------------------------------------------------------------------------------------


def normal_like(rng, result):
    """What backward takes, or any nested tuples of arrays: normal numbers in the shapes of a result."""
    return each(lambda array: rng.normal(size=array.shape).astype(array.dtype), result)


def gradients(layer, x, hx, seeds, *, per_sample=False, **options):
    """The gradients of the sum of the results, each times its seed (d_output, d_state)."""
    _, backward = layer.vjp(x, hx, **options)
    return backward(*seeds, per_sample=per_sample)


def true_gradients(layer, x, hx, seeds, **options):
    with fastrnn.use_backend("reference"):
        return gradients(layer.astype("float64"), as_float64(x), as_float64(hx), as_float64(seeds), **options)


def arrays_in(grads):
    """The arrays of Gradients under their names."""
    named = {} if grads.x is None else {"x": grads.x}
    named |= {} if grads.hx is None else dict(zip(("h_0", "c_0", "c2_0", "c3_0"), parts_of(grads.hx), strict=False))
    return named | (grads.params or {})


def assert_same_bits(got, expected, what=""):
    """Of Gradients or nested tuples of arrays and None; not even 0.0 and -0.0 may stand for each other."""
    if hasattr(expected, "params"):
        got, expected = arrays_in(got), arrays_in(expected)
        assert list(got) == list(expected)
        got, expected = tuple(got.values()), tuple(expected.values())
    if isinstance(expected, tuple):
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            assert_same_bits(a, b, what)
        return
    if expected is None:
        assert got is None
        return
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    bits = f"u{expected.itemsize}"
    np.testing.assert_array_equal(
        np.ascontiguousarray(got).view(bits), np.ascontiguousarray(expected).view(bits), err_msg=str(what)
    )


class Case:
    """A layer, the arguments of a call, and d_output and d_state.

    ragged: random lengths, or a list of them. resets: how many of the steps are the first of an episode.
    kinks: whether relu's may be near (another case is drawn where they may not).
    """

    def __init__(
        self,
        cell,
        T,
        N,
        I,
        H,
        dtype="float32",
        seed=0,
        *,
        scale=1.0,
        ragged=False,
        resets=0.0,
        kinks=False,
        **options,
    ):
        for draw in count():
            rng = np.random.default_rng((seed, draw))
            self.layer = make(cell, I, H, dtype, int(rng.integers(2**32)), **options)
            self.x = (rng.normal(size=(T, N, I)) * scale).astype(dtype)
            self.hx = random_state(rng, self.layer, N)
            lengths = rng.integers(0, T + 1, N) if ragged is True else np.array(ragged)
            self.options = {} if ragged is False else {"lengths": lengths}
            self.options |= {"reset": rng.random((T, N)) < resets} if resets else {}
            if kinks or not near_a_kink(self.layer, self.call):
                break
        self.seeds = normal_like(rng, self.call())
        self.name = f"{cell} T={T} N={N} I={I} H={H} {dtype} {options | self.options}"

    def call(self):
        return self.layer(self.x, self.hx, **self.options)

    def vjp(self, **options):
        return self.layer.vjp(self.x, self.hx, **self.options, **options)

    def gradients(self, **options):
        """Of a copy of the layer: where there is dropout, it is the same every time."""
        return gradients(copy.deepcopy(self.layer), self.x, self.hx, self.seeds, **self.options, **options)

    def problem(self, disagreement):
        """What is wrong with the gradients of the backend in force."""
        expected = true_gradients(self.layer, self.x, self.hx, self.seeds, **self.options)
        found = disagreement(self.gradients(), expected, self.layer.dtype, gradient=True)
        return found and f"{self.name}: {found}"


def near_a_kink(layer, call):
    """Whether float32's rounding may put a pre-activation of this call on the other side of relu's kink.

    There is no derivative to be compared with, then.
    """
    if layer.dtype == np.float64 or getattr(layer, "nonlinearity", "") != "relu":
        return False
    seen, original = [], reference.rnn_cell

    def spy(spec, gx, gh):
        seen.append(np.abs(gx + gh).ravel())
        return original(spec, gx, gh)

    with mock.patch.object(reference, "rnn_cell", spy), fastrnn.use_backend("reference"):
        call()
    sizes = np.concatenate([np.zeros(0), *seen])
    # Rounding errors of a step are an eps or a few, and those of earlier steps come on top. Exactly zero is what comes
    # of units that are all off, without a bias, and of no rounding.
    return bool(((sizes > 0) & (sizes < 32 * np.finfo(np.float32).eps * sizes.max(initial=0))).any())


def differences(value, array, directions):
    """Fourth-order central differences of ``value()`` as `array` moves along each of the directions.

    value: gives a number, and on which side of its kinks the function was (anything comparable); at most two tries are
    made at steps so small that all four points lie on one side.
    """
    before, found = array.copy(), []
    for direction in directions:
        for step in (1e-3, 1e-4, 1e-5):
            points = []
            for k in (-2, -1, 1, 2):
                array[...] = before + k * step * direction
                points.append(value())
            numbers, sides = zip(*points, strict=True)
            if len(set(sides)) == 1:
                break
        array[...] = before
        found.append((numbers[0] - 8 * numbers[1] + 8 * numbers[2] - numbers[3]) / (12 * step))
    return np.array(found)


def scalar(result, seeds):
    """The sum over nested tuples of arrays times seeds."""
    if isinstance(result, tuple):
        return sum(scalar(part, seed) for part, seed in zip(result, seeds, strict=True))
    return float((result * seeds).sum())
