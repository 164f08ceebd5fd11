"""`run` gives what the layer gives, in chunks of any size."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cli_tools import normal, save_array, save_layer, subprocess_of

import fastrnn


@pytest.mark.parametrize("memory", ["100M", "20k", "1"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("ragged", [False, True])
def test_run_is_the_layer(cli, folder, assert_close, memory, bidirectional, batch_first, ragged):
    """However little memory there is for a chunk, and with the states given and kept."""
    T, N = (6, 3) if memory == "1" else (40, 7)
    options = {"num_layers": 2, "bidirectional": bidirectional, "proj_size": 3}
    layer = save_layer(fastrnn.LSTM(5, 6, **options, batch_first=batch_first, rng=0))
    x = save_array("x.npy", normal(N, T, 5) if batch_first else normal(T, N, 5))
    h_0, c_0 = normal(2 * (1 + bidirectional), N, 3, seed=1), normal(2 * (1 + bidirectional), N, 6, seed=2)
    np.savez("s.npz", h_0=h_0, c_0=c_0)
    lengths = save_array("lengths.npy", np.random.default_rng(0).integers(0, T + 1, N)) if ragged else None
    arguments = ["--batch-first"] * batch_first + ["--lengths", "lengths.npy"] * ragged
    status, _, err = cli(
        *("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", memory),
        *("--state-in", "s.npz", "--state-out", "s.npz", *arguments),
    )
    assert (status, err) == (0, "")
    y, (h_n, c_n) = layer(x, (h_0, c_0), lengths=lengths)
    states = fastrnn.load("s.npz")
    assert sorted(states) == ["c_n", "h_n"]
    assert_close((np.load("y.npy"), states["h_n"], states["c_n"]), (y, h_n, c_n), "float32")


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_run_of_a_single_sequence_goes_on_where_it_ended(cli, folder, assert_close, kind):
    layer = save_layer(getattr(fastrnn, kind)(3, 5, rng=0))
    x = normal(50, 3)
    run = ["run", "model.npz", "--max-memory", "1k", "--state-out", "s.npz"]
    save_array("x.npy", x[:20])
    assert cli(*run, "--input", "x.npy", "--output", "y0.npy")[0] == 0
    save_array("x.npy", x[20:])
    assert cli(*run, "--input", "x.npy", "--output", "y1.npy", "--state-in", "s.npz")[0] == 0
    y, _ = layer(x)
    assert_close(np.concatenate([np.load("y0.npy"), np.load("y1.npy")]), y, "float32")


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs numba-cuda")
def test_run_on_a_gpu(folder, assert_close):
    """Numba's simulator is one, in a process of its own."""
    layer = save_layer(fastrnn.LSTM(2, 3, bidirectional=True, rng=0))
    x, lengths = save_array("x.npy", normal(4, 3, 2)), save_array("lengths.npy", np.array([4, 0, 2]))
    files = ("model.npz", "--input", "x.npy", "--output", "y.npy", "--lengths", "lengths.npy", "--state-out", "s.npz")
    run = subprocess_of("run", *files, "--device", "cuda", env=os.environ | {"NUMBA_ENABLE_CUDASIM": "1"})
    assert (run.communicate(timeout=120)[1], run.returncode) == ("", 0)
    y, (h_n, c_n) = layer(x, lengths=lengths)
    states = fastrnn.load("s.npz")
    assert_close((np.load("y.npy"), states["h_n"], states["c_n"]), (y, h_n, c_n), "float32")


@pytest.mark.parametrize("dtype", ["int16", "bool", "float16", ">f8"])
def test_run_takes_any_real_numbers_in_any_layout(cli, folder, assert_close, dtype):
    layer = save_layer(fastrnn.GRU(3, 5, rng=0))
    x = save_array("x.npy", np.asfortranarray(3 * normal(6, 4, 3)).astype(dtype))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--dtype", "float64")[0] == 0
    assert_close(np.load("y.npy"), layer.astype("float64")(x)[0], "float64")


@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (0, 3)])
def test_run_of_nothing(cli, folder, shape):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    save_array("x.npy", np.zeros(shape))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--state-out", "s.npz")[0] == 0
    assert np.load("y.npy").shape == (*shape[:-1], 5)
    assert fastrnn.load("s.npz")["h_n"].shape == (1, *shape[1:-1], 5)


def test_run_of_a_relu_rnn(cli, folder, assert_close):
    layer = save_layer(fastrnn.RNN(3, 5, nonlinearity="relu", rng=0))
    x = save_array("x.npy", normal(9, 2, 3))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--nonlinearity", "relu")[0] == 0
    assert_close(np.load("y.npy"), layer(x)[0], "float32")


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("name", ["rnn", "cell"])
def test_run_of_a_module_that_was_saved_whole(cli, folder, assert_close, name, batch_first):
    """It says itself that it is of the relu kind, and how its axes lie; the command may say the latter otherwise."""
    path = Path(__file__).parent.parent / "data" / "checkpoints" / "options.pt"
    x = save_array("x.npy", normal(9, 2, 3))
    more = ["--batch-first"] if batch_first else ["--no-batch-first"]
    assert cli("run", str(path), "--prefix", name, "--input", "x.npy", "--output", "y.npy", *more)[0] == 0
    options = {"cell": False, "nonlinearity": "relu", "batch_first": batch_first}
    layer = fastrnn.from_state_dict(fastrnn.load(path), name, **options)
    assert_close(np.load("y.npy"), layer(x)[0], "float32")


def test_run_of_a_cell_over_time(cli, folder, assert_close):
    cell = save_layer(fastrnn.LSTMCell(3, 5, rng=0))
    x = save_array("x.npy", normal(9, 2, 3))
    assert cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy")[0] == 0
    hx, y = None, []
    for x_t in x:
        hx = cell(x_t, hx)
        y.append(hx[0])
    assert_close(np.load("y.npy"), np.array(y), "float32")


def test_run_json(cli, folder):
    save_layer(fastrnn.GRU(3, 5, rng=0), prefix="rnn.")
    save_array("x.npy", normal(9, 2, 3))
    status, out, _ = cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--json")
    figures = json.loads(out)
    assert status == 0
    assert figures.pop("seconds") > 0
    assert figures == {
        "layer": "GRU(3, 5)",
        "prefix": "rnn.",
        "output": "y.npy",
        "shape": [9, 2, 5],
        "dtype": "float32",
        "bytes": 360,
        "steps": 18,
        "nan_values": 0,
    }


def test_run_counts_nans(cli, folder):
    save_layer(fastrnn.GRU(3, 5, rng=0))
    x = normal(90, 2, 3)
    x[87, 1] = np.nan
    save_array("x.npy", x)
    for memory in ("1M", "1k"):
        status, _, err = cli("run", "model.npz", "--input", "x.npy", "--output", "y.npy", "--max-memory", memory)
        assert status == 0
        assert "15 of 900 output values are NaN" in err
