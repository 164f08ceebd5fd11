"""Every backend's gradients, held to the reference's: sizes, ragged rows, resets, long sequences, memory, odd values.

Truth is always the reference in float64 on the same numbers. What backward promises beside the numbers is in
test_vjp.py.
"""

from __future__ import annotations

from itertools import count, pairwise

import numpy as np
import pytest
from layer_tools import (
    CELLS,
    Case,
    assert_same_bits,
    each,
    gradients,
    layouts,
    make,
    near_a_kink,
    normal_like,
    parts_of,
    random_state,
    true_gradients,
)
from sampler import configurations

import fastrnn
from fastrnn.vjp import Gradients


def assert_right(cases, disagreement):
    wrong = [problem for case in cases if (problem := case.problem(disagreement))]
    assert not wrong, "\n".join(wrong)


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_hidden_size(cell, dtype, backend, disagreement):
    """H from 1 to 70: below, at and past every vector width, with every remainder; both directions."""
    sizes = range(2 if cell == "lstm_proj" else 1, 71)
    cases = (Case(cell, 4, 1 + H % 3, 1 + H % 5, H, dtype, seed=H, bidirectional=True) for H in sizes)
    assert_right(cases, disagreement)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_every_batch_size(cell, dtype, backend, disagreement):
    """N from 1 to 9 and some larger, ragged and not, at sizes with and without a tail."""
    cases = (
        Case(cell, 6, N, 3, H, dtype, seed=N, ragged=ragged, bidirectional=bool(N % 2))
        for N in (*range(1, 10), 13, 33)
        for H in (5, 16, 37)
        for ragged in (False, True)
    )
    assert_right(cases, disagreement)


@pytest.mark.parametrize("cell", CELLS)
def test_wide_inputs_and_long_sequences(cell, backend, disagreement):
    """More steps and features than any chunk holds. Inputs are scaled so that sums over many features stay small."""
    cases = [
        Case(cell, T, N, I, H, dtype, scale=I**-0.5, bidirectional=True, **options)
        for T, N, I, H, dtypes, options in (
            (1000, 1, 3, 8, ["float32"], {}),
            (300, 3, 5, 16, ["float32", "float64"], {"ragged": True, "resets": 0.02}),
            (3, 2, 700, 9, ["float32", "float64"], {}),
            (2, 300, 2, 4, ["float32", "float64"], {}),
            (2, 3, 150, 200, ["float32", "float64"], {}),
        )
        for dtype in dtypes
    ]
    assert_right(cases, disagreement)


@pytest.mark.parametrize("cell", CELLS)
def test_layers_ragged_rows_and_resets_together(cell, backend, disagreement):
    wrong = []
    shapes = {"T": [1, 2, 17], "N": [1, 2, 5], "H": [3, 16, 33], "form": ["plain", "lengths"]}
    for config in configurations(40, seed=3, cell=cell, **shapes):
        for draw in count():
            layer, (x, hx, lengths) = config.layer(draw), config.inputs(draw)
            rng = np.random.default_rng(config.seed)
            options = {"lengths": lengths, "reset": rng.random(x.shape[:2]) < (0, 0.2, 0.6, 1)[config.seed % 4]}
            if not near_a_kink(layer, lambda n=layer, a=(x, hx), o=options: n(*a, **o)):
                break
        seeds = normal_like(rng, layer(x, hx, **options))
        expected = true_gradients(layer, x, hx, seeds, **options)
        got = gradients(layer, x, hx, seeds, **options)
        if problem := disagreement(got, expected, config.dtype, gradient=True):
            wrong.append(f"{problem}: {config} {options}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    ("dtype", "scale"), [("float64", 30.0), ("float64", 1e3), ("float64", 1e100), ("float32", 1e20)]
)
def test_saturation(cell, dtype, scale, backend, disagreement):
    """Gates at 0 and 1 exactly, no overflow on the way. In float32 only where no rounding error of a sum is left."""
    assert_right([Case(cell, 6, 3, 3, 20, dtype, scale=scale, bias=False)], disagreement)


@pytest.mark.parametrize("cell", CELLS)
def test_cells_are_layers_of_one_step(cell, backend, disagreement):
    if cell == "lstm_proj":
        return
    rng = np.random.default_rng(1)
    for bias, dtype, N in ((True, "float32", 4), (False, "float32", 1), (True, "float64", 3)):
        case = Case(cell, 1, N, 3, 19, dtype, bias=bias)
        options = {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {}
        one = getattr(fastrnn, f"{cell[:4].strip('_').upper()}Cell")(3, 19, bias, **options, dtype=dtype)
        one.load_state_dict({key.removesuffix("_l0"): array for key, array in case.layer.state_dict().items()})
        given = tuple(s[0] for s in parts_of(case.hx)) if cell == "lstm" else case.hx[0]
        h, backward = one.vjp(case.x[0], given)
        assert_same_bits(h, one(case.x[0], given))
        seeds = normal_like(rng, h)
        got = backward(seeds)
        case.seeds = (None, tuple(s[None] for s in seeds) if cell == "lstm" else seeds[None])
        expected = true_gradients(case.layer, case.x, case.hx, case.seeds)
        expected = expected._replace(
            x=expected.x[0], hx=tuple(s[0] for s in expected.hx) if cell == "lstm" else expected.hx[0]
        )
        assert not disagreement(got, expected, dtype, gradient=True)
        assert list(got.params) == list(one.state_dict())
        alone = one.vjp(case.x[0, 0], tuple(s[0] for s in given) if cell == "lstm" else given[0])[1]
        row = alone(tuple(s[0] for s in seeds) if cell == "lstm" else seeds[0])
        first = expected._replace(x=expected.x[0], params=None)
        first = first._replace(hx=tuple(s[0] for s in first.hx) if cell == "lstm" else first.hx[0])
        assert not disagreement((row.x, row.hx), (first.x, first.hx), dtype, gradient=True)


# --- episodes, ragged rows --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_no_gradient_crosses_a_reset(cell, num_layers, backend):
    """Exact zeros before an episode for what depends on it alone; in the reverse direction after it."""
    case = Case(cell, 9, 3, 3, 5, num_layers=num_layers, bidirectional=True)
    reset = np.zeros((9, 3), bool)
    reset[[4, 4, 7], [0, 1, 1]] = True
    _, backward = case.layer.vjp(case.x, case.hx, reset=reset)
    d_output = np.zeros_like(case.seeds[0])
    d_output[5] = case.seeds[0][5]
    grads = backward(d_output)
    assert not grads.x[:4, :2].any()
    assert not grads.x[7:, 1].any()
    assert grads.x[4:, 0].any(axis=-1).all()
    assert grads.x[4:7, 1].any(axis=-1).all()
    assert grads.x[:, 2].any(axis=-1).all()
    for part in parts_of(grads.hx):
        assert not part[::2, :2].any()  # forward: the states of before the reset
        assert not part[1::2, 1].any()  # reverse: those of after it
        assert part[1::2, 0].any(axis=-1).all()
        assert part[:, 2].any(axis=-1).all()
    # And none comes in from a final state of which an episode lies in between.
    grads = backward(None, case.seeds[1])
    assert grads.x[:4, 1].any()
    assert not grads.x[4:7, 1].any()
    assert grads.x[7:, 1].any()


@pytest.mark.parametrize("cell", CELLS)
def test_episodes_have_the_gradients_of_sequences(cell, backend, assert_close):
    """Each episode alone, forward the first from the initial state and in reverse the last; sums for the weights."""
    case = Case(cell, 12, 1, 3, 5, "float64", bidirectional=True)
    reset = np.zeros((12, 1), bool)
    edges = [0, 3, 4, 9, 12]
    reset[edges[1:-1]] = True
    whole = gradients(case.layer, case.x, case.hx, case.seeds, reset=reset)
    parts, d_states = [], []
    for a, b in pairwise(edges):
        keep = np.array([a == 0, b == 12])[:, None, None]  # of the initial state
        ends = np.array([b == 12, a == 0])[:, None, None]
        hx, d_state = ([s * mask for s in parts_of(t)] for t, mask in ((case.hx, keep), (case.seeds[1], ends)))
        hx, d_state = (tuple(t) if isinstance(case.hx, tuple) else t[0] for t in (hx, d_state))
        parts.append(gradients(case.layer, case.x[a:b], hx, (case.seeds[0][a:b], d_state)))
        d_states.append([s * keep for s in parts_of(parts[-1].hx)])
    expected = Gradients(
        np.concatenate([p.x for p in parts]),
        tuple(sum(states) for states in zip(*d_states, strict=True)),
        {name: sum(p.params[name] for p in parts) for name in whole.params},
    )
    assert_close(whole._replace(hx=parts_of(whole.hx)), expected, "float64", gradient=True)


@pytest.mark.parametrize("cell", CELLS)
def test_rows_past_their_length(cell, backend, assert_close):
    """Neither x nor d_output is read there, and the gradient is zero; a row of length 0 passes d_state on."""
    case = Case(cell, 7, 4, 3, 5, num_layers=2, bidirectional=True)
    lengths = [3, 7, 0, 5]
    expected = gradients(case.layer, case.x, case.hx, case.seeds, lengths=lengths)
    past = np.arange(7)[:, None] >= lengths
    case.x[past], case.seeds[0][past] = np.nan, np.nan
    grads = gradients(case.layer, case.x, case.hx, case.seeds, lengths=lengths)
    assert_same_bits(grads, expected)
    assert not grads.x[past].any()
    for part, given in zip(parts_of(grads.hx), parts_of(case.seeds[1]), strict=True):
        np.testing.assert_array_equal(part[:, 2], given[:, 2])


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_any_memory_layout(cell, batch_first, ragged, backend, tmp_path):
    """Of x, the states, d_output and d_state: the same bits, and nothing written to."""
    layer = make(cell, 3, 4, batch_first=batch_first, num_layers=2, bidirectional=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 4, 3)).astype(np.float32)
    hx = random_state(rng, layer, 5 if batch_first else 4)
    lengths = None if not ragged else [3, 4, 0, 4, 1] if batch_first else [5, 0, 3, 1]
    seeds = normal_like(rng, layer(x, hx))
    expected = gradients(layer, x, hx, seeds, lengths=lengths)
    all_given = [x, seeds[0], *parts_of(hx), *parts_of(seeds[1])]
    for name, *same in zip(layouts(x, tmp_path), *(layouts(a, tmp_path).values() for a in all_given), strict=True):
        before = [np.array(a) for a in same]
        n = len(parts_of(hx))
        states, d_states = ((tuple(s) if n == 2 else s[0]) for s in (same[2 : 2 + n], same[2 + n :]))
        assert_same_bits(gradients(layer, same[0], states, (same[1], d_states), lengths=lengths), expected, name)
        for a, old in zip(same, before, strict=True):
            np.testing.assert_array_equal(np.array(a), old, err_msg=f"{name} was written to")


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("lengths", [None, [2, 6, 0, 5]])
def test_zero_strides_and_integers(cell, lengths, backend):
    """One number or one row again and again, whole numbers: the gradients of sums are asked for like this."""
    for I, H in ((1, 2), (3, 5)):
        layer, rng = make(cell, I, H), np.random.default_rng(0)
        y, end = layer(np.zeros((6, 4, I)))
        row, d_row = rng.normal(size=I).astype(np.float32), rng.integers(-3, 4, y.shape[2])
        twos = each(lambda part: np.full_like(part, 2), end)
        for x, d_output in (
            (np.broadcast_to(np.float32(0.25), (6, 4, I)), np.broadcast_to(np.float32(2), y.shape)),
            (np.broadcast_to(row, (6, 4, I)), np.broadcast_to(d_row, y.shape)),
            (np.broadcast_to(row, (4, 6, I)).swapaxes(0, 1), np.broadcast_to(d_row.astype(np.float32), y.shape)),
            (np.ones((6, 4, I), bool), np.ones(y.shape, bool)),
        ):
            expected = gradients(
                layer, np.array(x, np.float32), None, (np.array(d_output, np.float32), twos), lengths=lengths
            )
            for d_state in (each(lambda part: np.broadcast_to(np.int8(2), part.shape), end), twos):
                assert_same_bits(gradients(layer, x, None, (d_output, d_state), lengths=lengths), expected)


# --- values that are not finite ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["x", "d_output", "d_state"])
def test_nan_and_inf_travel(cell, bad, where, backend):
    """To all of their row that depends on them and to the weights, never across a reset or to other rows."""
    case = Case(cell, 8, 3, 4, 9)
    case.options["reset"] = np.zeros((8, 3), bool)
    case.options["reset"][2, 1] = True
    clean, clean_rows = case.gradients(), case.gradients(per_sample=True)
    at = {"x": case.x, "d_output": case.seeds[0], "d_state": parts_of(case.seeds[1])[-1]}[where]
    at[(5, 1, 0) if where == "x" else (5, 1) if where == "d_output" else (0, 1)] = bad
    with np.errstate(all="ignore"):
        got, rows = case.gradients(), case.gradients(per_sample=True)

    assert_same_bits(got.x[:, [0, 2]], clean.x[:, [0, 2]])
    assert_same_bits(got.x[:2, 1], clean.x[:2, 1])
    assert_same_bits(got.hx, clean.hx)
    for name, values in rows.params.items():
        assert_same_bits(values[[0, 2]], clean_rows.params[name][[0, 2]])
        assert np.isfinite(values[1]).all() == np.isfinite(got.params[name]).all()
    if where == "x":
        assert not np.isfinite(got.params["weight_ih_l0"][:, 0]).any()
        return
    assert not np.isfinite(got.x[2:6, 1]).any()
    assert not np.isfinite(got.params["weight_ih_l0"]).all()
    if where == "d_output":
        assert_same_bits(got.x[6:, 1], clean.x[6:, 1])
