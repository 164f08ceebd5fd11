"""Gates over time, and pictures: what is drawn is what was computed."""

from __future__ import annotations

import io
import subprocess
import sys

import matplotlib
import numpy as np
import pytest

import fastrnn
from fastrnn import plot

KINDS = [
    (fastrnn.LSTM, {}),
    (fastrnn.LSTM, {"proj_size": 3}),
    (fastrnn.GRU, {}),
    (fastrnn.GRU, {"bias": False}),
    (fastrnn.RNN, {}),
]
LENGTHS = [7, 3, 0, 5, 1]


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((7, 5, 4))


def step(kind, a, t, n, before):
    """One step's states from its gates, as torch's documentation has it."""
    if kind == "LSTM":
        c = a["f"][t, n] * before["c"] + a["i"][t, n] * a["g"][t, n]
        return {"c": c, "h": a["o"][t, n] * np.tanh(c)}
    if kind == "GRU":
        return {"h": (1 - a["z"][t, n]) * a["n"][t, n] + a["z"][t, n] * before["h"]}
    return {"h": a["h"][t, n]}


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("cls", "options"), KINDS)
def test_gates_give_the_states(cls, options, batch_first, x):
    """Step by step: each state is made of the gates and the state before it, from the initial states onwards."""
    layer = cls(4, 6, 2, bidirectional=True, batch_first=batch_first, rng=0, dtype="float64", **options)
    rng = np.random.default_rng(1)
    h_0, c_0 = rng.standard_normal((4, 5, options.get("proj_size", 6))), rng.standard_normal((4, 5, 6))
    for n, length in enumerate(LENGTHS):
        x[length:, n] = np.nan
    given = x.swapaxes(0, 1) if batch_first else x
    hx = (h_0, c_0) if cls is fastrnn.LSTM else h_0
    y, _ = layer(given, hx, lengths=LENGTHS)
    found = fastrnn.gate_activations(layer, given, hx, lengths=LENGTHS)
    assert len(found) == 4
    np.testing.assert_array_equal(np.concatenate([found[2]["h"], found[3]["h"]], axis=-1), y)
    for index, arrays in enumerate(found):
        a = {name: v.swapaxes(0, 1) if batch_first else v for name, v in arrays.items()}
        assert list(a) == {"LSTM": [*"ifgoch"], "GRU": [*"rznh"], "RNN": ["h"]}[cls.__name__]
        for n, length in enumerate(LENGTHS):
            before = {"h": h_0[index, n], "c": c_0[index, n]}
            for t in range(length) if index % 2 == 0 else reversed(range(length)):
                new = step(cls.__name__, a, t, n, before)
                for name in new if not options.get("proj_size") else ["c"]:
                    np.testing.assert_allclose(a[name][t, n], new[name], rtol=1e-12, atol=1e-12)
                before = {name: a[name][t, n] for name in new}
            assert all(not v[length:, n].any() for v in a.values())


def test_gates_of_one_row(x):
    layer = fastrnn.GRU(4, 6, batch_first=True, rng=0)
    [one] = fastrnn.gate_activations(layer, x[:, 1])
    [many] = fastrnn.gate_activations(layer, x.swapaxes(0, 1))
    for name, a in one.items():
        assert a.shape == (7, 6)
        np.testing.assert_allclose(a, many[name][1], rtol=1e-6, atol=1e-7)


def test_gates_of_what_has_none(x):
    with pytest.raises(TypeError, match="RNN, LSTM or GRU"):
        fastrnn.gate_activations(fastrnn.GRUCell(4, 6), x)
    layer = fastrnn.GRU(4, 6, 2, dropout=0.5).train()
    with pytest.raises(ValueError, match="eval mode"):
        fastrnn.gate_activations(layer, x)


def image(ax):
    return np.asarray(ax.images[0].get_array())


def test_states_are_drawn(x):
    np.testing.assert_array_equal(image(plot.states(x, row=2)), x[:, 2].T)
    ax = matplotlib.figure.Figure().add_subplot()
    assert plot.states(x[:, 0], ax=ax) is ax
    np.testing.assert_array_equal(image(ax), x[:, 0].T)
    with pytest.raises(ValueError, match=r"\(T, H\) or \(T, N, H\)"):
        plot.states(x[0, 0])


@pytest.mark.parametrize("batch_first", [False, True])
def test_gates_are_drawn(batch_first, x):
    layer = fastrnn.LSTM(4, 6, 2, bidirectional=True, batch_first=batch_first, rng=0)
    given = x.swapaxes(0, 1) if batch_first else x
    figure = plot.gates(layer, given, layer_index=1, reverse=True, row=3)
    drawn = [ax for ax in figure.axes if ax.get_title("left")]
    expected = fastrnn.gate_activations(layer, given)[3]
    for ax, (name, a) in zip(drawn, expected.items(), strict=True):
        assert ax.get_title("left").endswith(f" {name}")
        np.testing.assert_array_equal(image(ax), (a[3] if batch_first else a[:, 3]).T)
        assert ax.images[0].get_clim() == (
            (0, 1) if name in "ifo" else pytest.approx((-np.abs(image(ax)).max(), np.abs(image(ax)).max()))
        )
    figure.savefig(io.BytesIO())
    with pytest.raises(IndexError, match="no layer 2"):
        plot.gates(layer, given, layer_index=2)
    with pytest.raises(IndexError, match="no layer 0, reverse"):
        plot.gates(fastrnn.GRU(4, 6), x, reverse=True)


def test_losses_are_drawn():
    ax = plot.loss([3, 2, 1, 0.5], [2, 1], log=True)
    train, validation = ax.lines
    np.testing.assert_array_equal(train.get_xydata(), [[1, 3], [2, 2], [3, 1], [4, 0.5]])
    np.testing.assert_array_equal(validation.get_xydata(), [[2, 2], [4, 1]])
    assert ax.get_yscale() == "log"
    plot.loss([])
    with pytest.raises(ValueError, match="train should be a series"):
        plot.loss([[1, 2]])


def test_weights_are_drawn():
    layer = fastrnn.GRU(4, 6, rng=0)
    for given in (layer, layer.state_dict()):
        drawn = [ax for ax in plot.weights(given).axes if ax.get_title()]
        for ax, (name, a) in zip(drawn, layer.state_dict().items(), strict=True):
            assert ax.get_title() == f"{name} {a.shape}"
            np.testing.assert_array_equal(image(ax), a if a.ndim == 2 else a[None])
    assert len([ax for ax in plot.weights(layer, most=1).axes if ax.get_title()]) == 1
    for wrong in (3, {}):
        with pytest.raises(TypeError, match="layer should"):
            plot.weights(wrong)


def test_nan_is_drawn():
    plot.states(np.full((3, 2), np.nan)).figure.savefig(io.BytesIO())


def test_without_matplotlib():
    code = "import sys; sys.modules['matplotlib.figure'] = None; import fastrnn; fastrnn.plot"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert 'pip install "fastrnn[plot]"' in done.stderr


def test_no_tick_between_steps():
    figure = plot.gates(fastrnn.GRU(4, 3, rng=0), np.zeros((20, 4)))
    axes = [*plot.weights({"w": np.eye(2)}).axes[:1], *figure.axes[:4], plot.states(np.zeros((3, 1)))]
    for ax in axes:
        ticks = np.concatenate([ax.get_xticks(), ax.get_yticks()])
        np.testing.assert_array_equal(ticks, np.rint(ticks))
