"""The checkpoint of the voice activity example in torch and here."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def test_voice_activity(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "examples")
    example, training = importlib.import_module("voice_activity"), importlib.import_module("train_voice_activity")
    theirs = training.VoiceActivity()
    theirs.load_state_dict(torch.load(example.CHECKPOINT, weights_only=True))
    model = example.VoiceActivity()
    model.load_state_dict(fastrnn.load(example.CHECKPOINT))
    x, _ = example.recording(3.0, np.random.default_rng(0))
    with torch.inference_mode():
        expected = theirs(torch.from_numpy(x)[None])[0].numpy()
    assert len(expected) == 300
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)
