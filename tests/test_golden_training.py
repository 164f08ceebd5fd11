"""Recorded torch results for losses, optimizers and schedulers, on a machine that need not have torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from training_tools import CONFIGURATIONS, HALF, LOSSES, SCHEDULERS, STEPS, gradients, start

import fastrnn
from fastrnn import losses, optim

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def recorded():
    with np.load(DATA / "training.npz") as file:
        return dict(file)


def test_all_is_recorded(recorded):
    assert len(recorded) == 2 * len(LOSSES) + len(CONFIGURATIONS) + len(SCHEDULERS)


@pytest.mark.parametrize("i", range(len(LOSSES)), ids=lambda i: f"{i}-{LOSSES[i][0]}")
def test_losses(i, recorded, assert_close):
    name, prediction, target, options = LOSSES[i]
    got = getattr(losses, name)(prediction, target, **options)
    assert_close(got, (recorded[f"loss_{i}"], recorded[f"d_{i}"]), "float64")


@pytest.mark.parametrize("i", range(len(CONFIGURATIONS)), ids=lambda i: f"{i}-{CONFIGURATIONS[i][0]}")
def test_optimizers(i, recorded):
    """Every step; and, half way through, on from torch's state dict."""
    name, options = CONFIGURATIONS[i]
    params = start()
    optimizer = getattr(optim, name)(params, **options)
    for step, (g, expected) in enumerate(zip(gradients(), recorded[f"steps_{i}"], strict=True)):
        if step == HALF:
            optimizer = getattr(optim, name)(params, lr=9.0)
            optimizer.load_state_dict(fastrnn.load(DATA / f"training_{i}.pt"))
        optimizer.step(g)
        got = np.concatenate([array.ravel() for array in params.values()])
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)
    assert step == STEPS - 1


@pytest.mark.parametrize("i", range(len(SCHEDULERS)), ids=lambda i: f"{i}-{SCHEDULERS[i][0]}")
def test_schedulers(i, recorded):
    name, options, metrics = SCHEDULERS[i]
    scheduler = getattr(optim.lr_scheduler, name)(optim.SGD({"p": np.zeros(1)}, lr=0.5), **options)
    for metric, expected in zip(metrics, recorded[f"rates_{i}"], strict=True):
        scheduler.step(*([] if metric is None else [metric]))
        assert scheduler.get_last_lr() == [expected]
