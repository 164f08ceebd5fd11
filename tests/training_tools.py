"""What the tests of losses and optimizers share."""

from __future__ import annotations

import numpy as np

#: Every option of every optimizer at work.
CONFIGURATIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1, "weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("AdamW", {"lr": 0.1}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.2, "amsgrad": True, "maximize": True}),
    ("RMSprop", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.9, "eps": 0.1, "weight_decay": 0.1, "momentum": 0.5, "maximize": True}),
    ("RMSprop", {"lr": 0.1, "centered": True, "momentum": 0.5}),
    ("RMSprop", {"lr": 0.1, "centered": True}),
]

#: Steps that are recorded, and after how many the state dict is.
STEPS, HALF = 12, 6


def start():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=(3, 4)), "b": rng.normal(size=5)}


def gradients():
    rng = np.random.default_rng(1)
    return [{name: rng.normal(size=array.shape) for name, array in start().items()} for _ in range(STEPS)]


def _losses():
    """(name, prediction, target, options)."""
    rng = np.random.default_rng(2)
    scores, deep, weight = rng.normal(size=(5, 3)), rng.normal(size=(2, 3, 4)), rng.uniform(0.5, 2, 3)
    classes, deep_classes = np.array([0, 2, 1, 1, -100]), rng.integers(0, 3, (2, 4))
    p, yes = rng.dirichlet(np.ones(3), 5), rng.uniform(size=(5, 3))
    for reduction in ("mean", "sum", "none"):
        of = {"reduction": reduction}
        yield "cross_entropy", scores, classes, of
        yield "cross_entropy", scores, classes, of | {"weight": weight, "label_smoothing": 0.2}
        yield "cross_entropy", deep, deep_classes, of | {"weight": weight, "ignore_index": 1}
        yield "cross_entropy", scores, p, of | {"weight": weight, "label_smoothing": 0.2}
        yield "nll_loss", scores, classes, of | {"weight": weight}
        yield "nll_loss", deep, deep_classes, of | {"ignore_index": 1}
        yield "binary_cross_entropy_with_logits", 5 * scores, yes, of | {"weight": weight}
        yield "binary_cross_entropy_with_logits", scores, yes, of | {"pos_weight": weight}
        yield "mse_loss", scores, yes, of
        yield "l1_loss", scores, yes, of
        yield "smooth_l1_loss", scores, yes, of | {"beta": 0.5}


LOSSES = list(_losses())

_METRICS = np.random.default_rng(3).normal(size=40).round(1).tolist()

#: (name, options, what each step is given).
SCHEDULERS = [
    ("StepLR", {"step_size": 7, "gamma": 0.3}, [None] * 40),
    ("MultiStepLR", {"milestones": [3, 20, 20], "gamma": 0.3}, [None] * 40),
    ("ExponentialLR", {"gamma": 0.9}, [None] * 40),
    ("CosineAnnealingLR", {"T_max": 9, "eta_min": 0.01}, [None] * 40),
    ("ReduceLROnPlateau", {"patience": 2, "cooldown": 1, "factor": 0.7}, _METRICS),
    ("ReduceLROnPlateau", {"mode": "max", "threshold": 0.1, "threshold_mode": "abs", "min_lr": 0.01}, _METRICS),
]
