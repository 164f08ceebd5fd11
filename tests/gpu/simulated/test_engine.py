"""A layer on the general path against the reference: every cell and option, both ways."""

from __future__ import annotations

from typing import NamedTuple

import layer_tools
import numpy as np
import pytest

from fastrnn.backends import Record, reference
from fastrnn.cells import CELLS, LSTM, Weights
from fastrnn.cuda import engine, runtime, steps

DEVICE = runtime.device(0)
STREAM = DEVICE.stream()
SPECS = {**CELLS, **{name: cell.spec for name, cell in layer_tools.USERS.items()}}


class Problem(NamedTuple):
    """A layer of D directions and what it is given, as NumPy arrays in the layer's type."""

    spec: object
    weights: list
    x: np.ndarray
    h_0: np.ndarray
    c_0: np.ndarray | None
    lengths: np.ndarray | None
    reset: np.ndarray | None
    reverse: bool
    dy: np.ndarray
    dh_n: np.ndarray
    dc_n: np.ndarray | None


def problem(
    spec, T=4, N=3, I=3, H=5, D=2, *, dtype="f", P=0, bias=True, ragged=False, resets=False, reverse=False, seed=0
):
    rng = np.random.default_rng(seed)
    G, C, P_or_H = spec.n_gates, (spec.n_states - 1) * H, P or H

    def new(*shape):
        return rng.normal(scale=0.6, size=shape).astype(dtype)

    weights = [
        Weights(
            new(G * H, I),
            new(G * H, P_or_H) if spec.recurrent else None,
            new(G * H) if bias else None,
            new(G * H) if bias and spec.recurrent else None,
            new(P, H) if P else None,
            new(spec.unit_weights, H) if spec.unit_weights else None,
        )
        for _ in range(D)
    ]
    # The third state of the cells of `body_tools` is a positive one.
    c_0 = np.abs(new(D, N, C)) + np.dtype(dtype).type(0.5) if C else None
    lengths = rng.integers(0, T + 1, N).astype(np.int32) if ragged else None
    if ragged and N > 1:
        lengths[:2] = 0, T
    reset = (rng.random((T, N)) < 0.4).astype(np.uint8) if resets else None
    dc_n = new(D, N, C) if C else None
    x, h_0, dy, dh_n = new(T, N, I), new(D, N, P_or_H), new(T, N, D * P_or_H), new(D, N, P_or_H)
    return Problem(spec, weights, x, h_0, c_0, lengths, reset, reverse, dy, dh_n, dc_n)


def put(array):
    return None if array is None else STREAM.to_device(array)


def run(p, *, keep=True, x=None, y=None):
    """prepared, x and y on the device, what `engine.forward` found."""
    prepared = engine.prepare(DEVICE, p.spec, p.weights)
    x = put(p.x) if x is None else x
    y = STREAM.empty(p.dy.shape, p.dy.dtype) if y is None else y
    options = {"lengths": put(p.lengths), "reset": put(p.reset), "reverse": p.reverse, "keep": keep}
    return prepared, x, y, engine.forward(prepared, STREAM, x, y, put(p.h_0), put(p.c_0), **options)


def run_back(p, prepared, x, y, found, *, dy="dy", wants_x=True, wants_weights=True, per_sample=False):
    given = put(p.dy) if isinstance(dy, str) else dy
    return engine.backward(
        *(prepared, STREAM, found.kept, x, y, given, put(p.dh_n), put(p.dc_n)),
        wants_x=wants_x,
        wants_weights=wants_weights,
        per_sample=per_sample,
    )


def results(y, found, back=None):
    named = {"y": y, "h_n": found.h_n, "c_n": found.c_n}
    if back is not None:
        named |= {"dx": back.dx, "dh_0": back.dh_0, "dc_0": back.dc_0}
        for d, weights in enumerate(back.weights or []):
            named |= {f"{field} {d}": array for field, array in weights._asdict().items()}
    return {name: STREAM.to_host(array) for name, array in named.items() if array is not None}


def expected(p, rows=None, dy="dy"):
    """The same from the reference, in float64."""
    rows = slice(None) if rows is None else slice(rows, rows + 1)

    def of(a, axis):
        return None if a is None else np.asarray(a[(slice(None),) * axis + (rows,)], np.float64).copy()

    x, h, c, dy, dh, dc = (
        of(p.x, 1),
        of(p.h_0, 1),
        of(p.c_0, 1),
        of(p.dy, 1) if dy is not None else None,
        of(p.dh_n, 1),
        of(p.dc_n, 1),
    )
    lengths = None if p.lengths is None else p.lengths[rows]
    reset = None if p.reset is None else p.reset[:, rows].astype(bool)
    T, N, _ = x.shape
    D, _, P = h.shape
    named = {"y": np.zeros((T, N, D * P)), "h_n": h, "dx": np.zeros_like(x), "dh_0": dh}
    named |= {} if c is None else {"c_n": c, "dc_0": dc}
    h_0, c_0 = h.copy(), None if c is None else c.copy()
    for d in range(D):
        prepared = reference.prepare(p.spec, p.weights[d].each(lambda w: w.astype(np.float64)))
        backwards, side = bool(d) != p.reverse, slice(d * P, (d + 1) * P)
        c_d, dc_d = (None, None) if c is None else (c[d], dc[d])
        options = {"lengths": lengths, "reset": reset, "reverse": backwards}
        reference.forward(prepared, x, named["y"][..., side], h[d], c_d, **options)
        record = Record(
            x, named["y"][..., side], h_0[d], None if c is None else c_0[d], None, None, lengths, reset, backwards
        )
        sums, dx = reference.new_sums(prepared), np.zeros_like(x)
        reference.backward(prepared, record, None if dy is None else dy[..., side], dh[d], dc_d, dx, sums)
        named["dx"] += dx
        gradients = reference.weight_gradients(sums)._asdict().items()
        named |= {f"{field} {d}": array for field, array in gradients if array is not None}
    return named


def assert_close(got, truth, dtype="f", times=1.0):
    tolerance = times * {"f": 3e-6, "d": 1e-13}[dtype]
    for name, array in got.items():
        assert array.shape == truth[name].shape, name
        assert array.dtype == dtype, name
        np.testing.assert_allclose(
            array, truth[name], rtol=0, atol=tolerance * max(1, np.abs(truth[name]).max(initial=0)), err_msg=name
        )


EVERY = [
    {"D": 1, "dtype": "d"},
    {"D": 2, "ragged": True, "resets": True},
    {"D": 1, "reverse": True, "ragged": True, "resets": True, "bias": False, "dtype": "d"},
]
SOME = [
    {"D": 2, "reverse": True, "resets": True, "dtype": "d"},
    {"D": 1, "resets": True},
    {"D": 1, "N": 1, "T": 6, "H": 1, "I": 1},
    {"D": 2, "N": 7, "T": 2, "H": 9, "I": 2, "ragged": True},
    {"D": 2, "P": 3, "ragged": True, "resets": True},
    {"D": 1, "P": 2, "reverse": True, "ragged": True, "resets": True, "dtype": "d"},
    {"D": 1, "P": 4},
]
CASES = [(name, options) for name in SPECS for options in EVERY] + [("lstm", options) for options in SOME]
CASES += [("gru", options) for options in SOME[:4]]


@pytest.mark.parametrize(
    ("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v.values()))
)
def test_forth_and_back(name, options):
    p = problem(SPECS[name], **options)
    prepared, x, y, found = run(p)
    back = run_back(p, prepared, x, y, found)
    assert_close(results(y, found, back), expected(p), options.get("dtype", "f"), times=3)


def test_nothing_kept_has_the_same_bits():
    for options in ({"D": 2, "ragged": True, "resets": True}, {"D": 1, "P": 3}):
        p = problem(LSTM, **options)
        (_, _, y, found), (_, _, same_y, same) = run(p), run(p, keep=False)
        assert same.kept is None
        for name, array in results(y, found).items():
            np.testing.assert_array_equal(array, results(same_y, same)[name], err_msg=name)


@pytest.mark.parametrize("options", [{"D": 2}, {"D": 1}, {"D": 1, "reverse": True}], ids=str)
def test_chunks_of_time_have_the_same_bits(options, monkeypatch):
    p = problem(LSTM, T=7, ragged=True, resets=True, **options)
    _, _, y, found = run(p, keep=False)
    for chunk in (1, 2 * y.shape[1] * p.weights[0].w_ih.shape[0] * len(p.weights) * 4):
        monkeypatch.setattr(engine, "_CHUNK_BYTES", chunk)
        _, _, same_y, same = run(p, keep=False)
        for name, array in results(y, found).items():
            np.testing.assert_array_equal(results(same_y, same)[name], array, err_msg=name)


@pytest.mark.parametrize("options", [{"D": 2}, {"D": 1, "reverse": True}], ids=str)
def test_parts_of_what_kernels_run_at_once(options, monkeypatch):
    """Long sequences are cut in time, and directions run one after the other."""
    p = problem(LSTM, T=5, ragged=True, resets=True, **options)
    _, _, y, found = run(p, keep=False)
    calls = []

    def forward(module, p, stream, x, y, h_0, c_0, h_n, c_n, lengths, reset, reverse, kept):
        calls.append((x.shape[0], reverse))
        return False

    monkeypatch.setattr(engine.choice, "forward", lambda *arguments: "a module")
    monkeypatch.setattr(engine.persistent, "forward", forward)
    monkeypatch.setattr(engine, "_LONG_CHUNK_BYTES", 2 * 3 * len(p.weights) * 20 * 4)
    _, _, same_y, same = run(p, keep=False)
    forth, back = [(n, False) for n in (2, 2, 1)], [(n, True) for n in (2, 2, 1)]
    assert calls == (back if options["D"] == 1 else forth + back)
    for name, array in results(y, found).items():
        np.testing.assert_allclose(results(same_y, same)[name], array, rtol=0, atol=1e-6, err_msg=name)


def test_any_strides():
    """Rows of x, y and dy as they lie in batch-first arrays, and in wider ones."""
    for T, N in ((3, 2), (2, 3)):
        p = problem(LSTM, T=T, N=N, D=1, H=3, ragged=True)
        prepared, x, y, found = run(p)
        truth = results(y, found, run_back(p, prepared, x, y, found))
        of_y = p.dy.shape[2]
        for batch_first in (True, False):

            def lain(a, wide=0, batch_first=batch_first):
                a = a.swapaxes(0, 1) if batch_first else a
                whole = STREAM.to_device(np.concatenate([a, np.full((*a.shape[:2], wide), np.nan, a.dtype)], axis=2))
                view = whole[..., : a.shape[2]]
                return view.swapaxes(0, 1) if batch_first else view

            for wide in (0, 2):
                x_lain, y_lain = lain(p.x, wide), lain(np.full((T, N, of_y), np.nan, np.float32), wide)
                prepared, _, _, found = run(p, x=x_lain, y=y_lain)
                back = run_back(p, prepared, x_lain, y_lain, found, dy=lain(p.dy, wide))
                for name, array in results(y_lain, found, back).items():
                    np.testing.assert_allclose(array, truth[name], rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("T", "N"), [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("name", ["lstm", "independent_rnn"])
def test_nothing_to_do(name, T, N):
    p = problem(SPECS[name], T=T, N=N)
    prepared, x, y, found = run(p)
    for per_sample in (False, True):
        back = run_back(p, prepared, x, y, found, per_sample=per_sample)
        got = results(y, found, back)
        if not per_sample:
            assert_close(got, expected(p))
        else:
            assert got["w_ih 0"].shape == (N, *p.weights[0].w_ih.shape)
            assert not got["w_ih 0"].any()


def test_all_rows_of_length_zero():
    p = problem(LSTM)._replace(lengths=np.zeros(3, np.int32))
    prepared, x, y, found = run(p)
    got = results(y, found, run_back(p, prepared, x, y, found))
    np.testing.assert_array_equal(got["h_n"], p.h_0)
    np.testing.assert_array_equal(got["dc_0"], p.dc_n)
    assert not any(got[name].any() for name in ("y", "dx", "w_ih 0", "w_hh 1", "b_hh 0"))


def test_what_is_not_wanted_is_not_there():
    p = problem(LSTM)
    prepared, x, y, found = run(p)
    everything = results(y, found, run_back(p, prepared, x, y, found))
    back = run_back(p, prepared, x, y, found, wants_x=False, wants_weights=False)
    assert back.dx is None
    assert back.weights is None
    for name, array in results(y, found, back).items():
        np.testing.assert_array_equal(array, everything[name])
    back = run_back(p, prepared, x, y, found, dy=None)
    assert_close(results(y, found, back), expected(p, dy=None), times=3)


@pytest.mark.parametrize("name", ["lstm", "lstm_proj", "peephole_lstm", "independent_rnn"])
def test_gradients_of_each_row(name):
    p = problem(LSTM if name == "lstm_proj" else SPECS[name], P=3 * (name == "lstm_proj"), ragged=True, resets=True)
    prepared, x, y, found = run(p)
    got = results(y, found, run_back(p, prepared, x, y, found, per_sample=True))
    for n in range(p.x.shape[1]):
        of_row = {key: array[n] for key, array in got.items() if key[-1] in "01" and not key.endswith("_0")}
        assert len(of_row) >= 4
        assert_close(of_row, expected(p, rows=n), times=3)


def test_backward_changes_nothing_and_can_be_called_again():
    p = problem(LSTM, ragged=True, resets=True)
    prepared, x, y, found = run(p)
    first = results(y, found, run_back(p, prepared, x, y, found))
    for name, array in results(y, found, run_back(p, prepared, x, y, found)).items():
        np.testing.assert_array_equal(array, first[name])


def test_inf_and_nan_without_a_word():
    p = problem(LSTM, D=1)
    p.x[0, 0, 0], p.x[1, 1, 1], p.x[2, 2, :] = np.inf, np.nan, 3e38
    _, _, y, found = run(p)
    got = results(y, found)["y"]
    assert np.isnan(got[1:, 1]).all()
    assert np.isfinite(got[:, 2]).all()


def test_the_device_runs_what_it_should(monkeypatch):
    """Without recurrent parts all steps are one launch; else there are as many as steps."""
    launched = []
    launcher = runtime.Stream.launcher

    def noted(self, kernel, grid):
        launch = launcher(self, kernel, grid)
        return lambda *arguments: (launched.append(kernel.function.__qualname__), launch(*arguments))

    monkeypatch.setattr(runtime.Stream, "launcher", noted)
    for name, times in (("lstm", 4), ("independent_rnn", 1)):
        launched.clear()
        run(problem(SPECS[name]))
        assert sum(name.startswith("forward") for name in launched) == times
    assert steps.__doc__
