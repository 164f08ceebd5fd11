"""Schedulers: rates by hand, state dicts, what is refused. tests/parity holds them to torch."""

from __future__ import annotations

import math

import numpy as np
import pytest

import fastrnn
from fastrnn import optim
from fastrnn.optim import lr_scheduler


def optimizer(*rates):
    groups = [{"params": {f"p{i}": np.zeros(2)}, "lr": rate} for i, rate in enumerate(rates or [1.0])]
    return optim.SGD(groups)


def rates(scheduler, n, *metrics):
    """The first group's rate at first and after each of n steps."""
    found = [scheduler.get_last_lr()[0]]
    for i in range(n):
        scheduler.step(*(m[i] for m in metrics))
        found.append(scheduler.optimizer.param_groups[0]["lr"])
        assert scheduler.get_last_lr() == [group["lr"] for group in scheduler.optimizer.param_groups]
    return found


def test_rates_by_hand():
    assert rates(lr_scheduler.StepLR(optimizer(), 2, gamma=0.5), 5) == [1, 1, 0.5, 0.5, 0.25, 0.25]
    found = rates(lr_scheduler.MultiStepLR(optimizer(), [3, 1, 3], gamma=0.5), 4)
    assert found == [1, 0.5, 0.5, 0.125, 0.125]
    assert rates(lr_scheduler.ExponentialLR(optimizer(), 0.5), 3) == [1, 0.5, 0.25, 0.125]
    found = rates(lr_scheduler.CosineAnnealingLR(optimizer(), 4, eta_min=0.5), 8)
    half = math.sqrt(0.5) / 4
    expected = [1, 0.75 + half, 0.75, 0.75 - half, 0.5, 0.75 - half, 0.75, 0.75 + half, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_plateau_by_hand():
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer(), factor=0.5, patience=1, cooldown=1, threshold=0)
    # better, worse, worse: reduced; one epoch of rest; worse, worse: reduced; better
    metrics = [3.0, 3.0, 4.0, 9.0, 3.0, 3.5, 2.0]
    assert rates(scheduler, 7, metrics) == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25]
    assert scheduler.best == 2.0


def test_plateau_lowest_rates():
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer(1.0, 8.0), factor=0.5, patience=0, min_lr=[0.6, 2.0])
    for _ in range(5):
        scheduler.step(1.0)
    assert scheduler.get_last_lr() == [0.6, 2.0]


def test_every_group_has_its_own_rate():
    scheduler = lr_scheduler.StepLR(optimizer(1.0, 3.0), 1, gamma=0.5)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 1.5]


MAKERS = {
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5, 5, 9], 0.5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 4, 0.1),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1, factor=0.5, cooldown=2),
}


def stepped(scheduler, epochs):
    rng = np.random.default_rng(0)
    metrics = rng.normal(size=100)
    for epoch in epochs:
        scheduler.step(*([metrics[epoch]] if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else []))
    return scheduler.get_last_lr()


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("name", MAKERS)
def test_going_on_from_a_state_dict(name, saved, tmp_path):
    scheduler = MAKERS[name](optimizer(1.0, 2.0))
    stepped(scheduler, range(7))
    state = {"optimizer": scheduler.optimizer.state_dict(), "scheduler": scheduler.state_dict()}
    if saved:
        fastrnn.save(state, tmp_path / "training.pt")
        state = fastrnn.load(tmp_path / "training.pt")
    other = MAKERS[name](optimizer(5.0, 5.0))
    other.optimizer.load_state_dict(state["optimizer"])
    other.load_state_dict(state["scheduler"])
    assert stepped(other, range(7, 12)) == stepped(scheduler, range(7, 12))
    assert other.state_dict() == scheduler.state_dict()


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR"])
def test_going_on_with_a_new_scheduler(name):
    scheduler = MAKERS[name](optimizer())
    stepped(scheduler, range(7))
    other = optimizer(5.0)
    other.load_state_dict(scheduler.optimizer.state_dict())
    options = {"step_size": 3, "gamma": 0.5} if name == "StepLR" else {"T_max": 4, "eta_min": 0.1}
    resumed = getattr(lr_scheduler, name)(other, **options, last_epoch=6)
    scheduler.step()
    assert resumed.last_epoch == 7
    if name == "StepLR":
        assert resumed.get_last_lr() == scheduler.get_last_lr()


SGD = optimizer()
WRONG = [
    (lambda: lr_scheduler.StepLR({}, 1), TypeError, "dict is not an Optimizer"),
    (lambda: lr_scheduler.StepLR(SGD, 0), ValueError, "step_size must be greater than zero"),
    (lambda: lr_scheduler.StepLR(SGD, 1, "a"), TypeError, "gamma should be a real number"),
    (lambda: lr_scheduler.StepLR(optimizer(), 1, last_epoch=3), ValueError, "param 'initial_lr' is not specified in"),
    (lambda: lr_scheduler.MultiStepLR(SGD, 3), TypeError, "milestones should be a list of int"),
    (lambda: lr_scheduler.MultiStepLR(SGD, [0.5]), TypeError, "milestones should be of type int"),
    (lambda: lr_scheduler.CosineAnnealingLR(SGD, 1.5), TypeError, "T_max should be of type int"),
    (lambda: lr_scheduler.ReduceLROnPlateau(SGD, "least"), ValueError, "mode least is unknown!"),
    (lambda: lr_scheduler.ReduceLROnPlateau(SGD, factor=1.0), ValueError, "Factor should be < 1.0"),
    (lambda: lr_scheduler.ReduceLROnPlateau(SGD, threshold_mode="x"), ValueError, "threshold mode x is unknown!"),
    (lambda: lr_scheduler.ReduceLROnPlateau(SGD, min_lr=[1.0, 2.0]), ValueError, "expected 1 min_lrs, got 2"),
    (lambda: lr_scheduler.ReduceLROnPlateau(SGD).step("a"), TypeError, "metrics should be a real number"),
    (lambda: MAKERS["StepLR"](SGD).load_state_dict([]), TypeError, "state_dict should be a dict"),
    (lambda: MAKERS["StepLR"](SGD).load_state_dict({}), ValueError, "state_dict should have"),
    (
        lambda: MAKERS["StepLR"](SGD).load_state_dict(MAKERS["StepLR"](optimizer(1, 2)).state_dict()),
        ValueError,
        "state_dict should have 1 values of",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_wrong_input(call, error, message):
    with pytest.raises(error, match=f"^{message}"):
        call()
