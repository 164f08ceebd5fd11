"""The examples: each runs as a script, says what it should, and does what it says."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import fastrnn

EXAMPLES = Path(__file__).parents[1] / "examples"
SAYS = {
    "memory_mapped": r"3\.1 times the bound went in, the output is \(100000, 16\)",
    "frames": r"loudest frame: (0\.\d{4}), in one call: \1",
    "workers": r"threads agree: True, processes \(\w+\) agree: True",
    "transformer": r"(9\d|100)% of new sequences told apart",
    "controller": r"the same height: True\nthat is \d+ times as fast\n.* went from -0\.\d\d up to 0\.\d\d",
    "custom_cells": r"coupled LSTM +\d\.\d+ -> 0\.0\d+(.|\n)*sLSTM +\d\.\d+ -> 0\.0\d+",
    "truncated_bptt": r"26[0-5] of 265 characters are the poem's",
}
#: The short form of those that learn and draw: options, what it says where it has learnt, what it writes.
LEARNS = {
    "character_model": (
        ["--steps", "60"],
        r"loss 4\.\d\d -> 2\.[0-4]\d\nShall I compare thee",
        {"character_model.pt", "character_model.png"},
    ),
    "ragged_classifier": (
        ["--steps", "200"],
        r"([67]\d|[89]\d|100)\.\d% of 1000 new drawings",
        {"ragged_classifier.png"},
    ),
    "adder": (["--steps", "500"], r"(2[5-9]|[3-9]\d|100)\.\d% of 1000 sums that it has never seen", {"adder.png"}),
    "voice_activity": (
        ["--seconds", "6"],
        r"factor of 0\.\d+\n.*in one call: (0\.0e\+00|\d\.\de-0[6-9])\nright in (9[5-9]|100)\.\d% .* loudness: [78]\d",
        {"voice_activity.png"},
    ),
    "audio_effect": (
        ["--steps", "100"],
        r"gives: (1\d|\d)\.\d%; without the model 38%\nCPU load: \d+\.\d% of real time",
        {"audio_effect.png", "audio_effect.wav"},
    ),
    "policy": (["--steps", "150"], r"-> (0\.9\d|1\.00); without memory: 0\.45", {"policy.png"}),
}
NEEDS_TORCH = {"train_demo", "train_voice_activity"}
NEEDS_NUMBA = {"controller"}


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_run():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SAYS) | set(LEARNS) | NEEDS_TORCH


@pytest.mark.parametrize("name", SAYS)
def test_script(name, tmp_path):
    if name in NEEDS_NUMBA:
        pytest.importorskip("numba", reason="numba is not installed")
    script = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert script.returncode == 0, script.stderr
    assert script.stderr == ""
    assert re.search(SAYS[name], script.stdout), script.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", LEARNS)
def test_short_form(name, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    options, says, writes = LEARNS[name]
    command = [sys.executable, EXAMPLES / f"{name}.py", *options, "--out", tmp_path]
    script = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert script.returncode == 0, script.stderr
    assert re.search(says, script.stdout), script.stdout
    assert {path.name for path in tmp_path.iterdir()} == writes
    for picture in tmp_path.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size > 10_000


def test_memory_stays_within_the_bound(tmp_path, assert_close):
    process = load("memory_mapped").process
    layer, bound = fastrnn.GRU(8, 16, rng=0), 1 << 20
    x = np.random.default_rng(0).normal(size=(200_000, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    expected, _ = layer(x)
    tracemalloc.start()
    process(layer, tmp_path / "x.npy", tmp_path / "y.npy", bound)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert x.nbytes > 6 * bound
    assert peak < bound
    assert_close(np.load(tmp_path / "y.npy"), expected, np.float32)


def test_frames_come_and_go_one_by_one(assert_close):
    example = load("frames")
    layer, taken = fastrnn.LSTM(2, 6, rng=0), []

    def frames():
        for frame in example.sensor(20):
            taken.append(frame)
            yield frame

    results = []
    for y in example.outputs(layer, frames()):
        results.append(y)
        assert len(taken) == len(results)
    assert_close(np.array(results), layer(np.array(taken))[0], np.float32)


def test_features_are_those_of_each_sequence_alone(assert_close):
    layer = fastrnn.GRU(3, 5, rng=0)
    X = [np.random.default_rng(n).normal(size=(n, 3)) for n in (4, 1, 7)]
    features = load("transformer").RecurrentFeatures(layer)
    assert features.fit(X) is features
    assert_close(features.transform(X), np.array([layer(x)[1][0] for x in X]), np.float32)


def test_windows_go_round_and_round_the_poem():
    example = load("truncated_bptt")
    windows = [window for window, _ in zip(example.windows(), range(30), strict=False)]
    codes, targets, starts = (np.concatenate(parts) for parts in zip(*windows, strict=True))
    np.testing.assert_array_equal(codes[1:], targets[:-1])
    n = len(example.CODES)
    np.testing.assert_array_equal(codes[:n, 0], example.CODES)
    np.testing.assert_array_equal(np.flatnonzero(starts[:, 0]), range(0, 30 * example.WINDOW, n))
    for reader in range(example.READERS):
        (first, *_) = np.flatnonzero(starts[:, reader])
        np.testing.assert_array_equal(codes[first : first + n, reader], example.CODES)


def test_a_window_gives_the_loss_and_its_gradients():
    """By differences, along a random direction in the space of all parameters."""
    example, rng = load("truncated_bptt"), np.random.default_rng(0)
    reciter = example.Reciter(8, rng)
    reciter.gru.to("float64")
    head = {name: array.astype(float) for name, array in reciter.params.items() if name.startswith("head")}
    reciter.params = {**reciter.gru.parameters(), **head}
    window, state = next(example.windows()), rng.normal(size=(1, example.READERS, 8))
    _, grads, _ = reciter.window(*window, state)
    direction = {name: rng.normal(size=array.shape) for name, array in reciter.params.items()}

    def loss(step):
        for name, array in reciter.params.items():
            array += step * direction[name]
        reciter.gru.parameters().changed()
        return reciter.window(*window, state)[0]

    slope = (loss(1e-4) - loss(-2e-4)) / 2e-4
    assert slope == pytest.approx(sum((grads[name] * direction[name]).sum() for name in direction), rel=1e-6)


def test_the_state_goes_on_from_window_to_window():
    """Two windows are one of twice the length."""
    example = load("truncated_bptt")
    reciter, windows = example.Reciter(8, np.random.default_rng(0)), example.windows()
    first, second = next(windows), next(windows)
    loss_1, _, state = reciter.window(*first, None)
    loss_2, _, end = reciter.window(*second, state)
    loss, _, end_of_both = reciter.window(*(np.concatenate(pair) for pair in zip(first, second, strict=True)), None)
    np.testing.assert_array_equal(end, end_of_both)
    assert (loss_1 + loss_2) / 2 == pytest.approx(loss, rel=1e-6)


def test_the_controller_is_the_same_from_python():
    """A step of it, and of the cart: it speeds up by the force over the mass, and the pole hangs still at first."""
    pytest.importorskip("numba", reason="numba is not installed")
    example = load("controller")
    network = example.Network(np.random.default_rng(0))
    _, score = example.in_python(network)
    assert example.simulate(*network.packed(), 50) == pytest.approx(example.simulate_in_python(score, 50), rel=1e-4)

    upright, hanging = (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, np.pi, 0.0)
    assert example.moved(upright, 0.0) == upright
    np.testing.assert_allclose(example.moved(hanging, 0.0), hanging, atol=1e-12)
    x, v, _, w = example.moved(hanging, 1.0)
    assert x > 0
    assert v > 0
    assert w > 0  # the tip, below, stays behind

    def energy(s):
        v, angle, w = s[1:]
        swing = v * w * example.LENGTH * np.cos(angle) + w**2 * example.LENGTH**2 * 2 / 3
        return (example.CART + example.POLE) * v**2 / 2 + example.POLE * (
            swing + example.GRAVITY * example.LENGTH * np.cos(angle)
        )

    s = (0.0, 0.5, 2.0, 1.0)
    before = energy(s)
    for _ in range(50):
        s = example.moved(s, 0.0)
    assert energy(s) == pytest.approx(before, rel=1e-6)
