"""What is done with the models of whole_models.py, in several tests: run, trained, compared with torch's results."""

from __future__ import annotations

import numpy as np
from whole_models import MODELS

import fastrnn
from fastrnn import optim


def results(model, arguments, targets):
    """All that is compared, by name: results y0, y1 and so on, from streams s0 and so on, the loss, gradients."""
    y, backward = model.vjp(**arguments)
    loss, d = model.loss(y, *targets)
    grads = backward(d)
    found = {"loss": np.asarray(loss)} | {f"d_{name}": array for name, array in grads.params.items()}
    found |= {} if grads.x is None else {"d_x": grads.x}
    found |= {f"y{i}": array for i, array in enumerate(parts(model(**arguments)))}
    return found | {f"v{i}": array for i, array in enumerate(parts(y))} | streams(model, arguments)


def streams(model, arguments):
    if not hasattr(model, "streamed"):
        return {}
    return {f"s{i}": array for i, array in enumerate(parts(model.streamed(**arguments)))}


def parts(result):
    return result if isinstance(result, tuple) else (result,)


def check(found, truth, dtype, assert_close, peer=None):
    """Hold results to torch's in float64. peer: torch's in float32.

    Gradients in float64 are held to 1e-10 of the largest.
    """
    streamed = {f"s{name[1:]}" for name in truth if name[0] == "y"} if any(name[0] == "s" for name in found) else set()
    assert set(found) == set(truth) | streamed
    for name, array in found.items():
        key = name.replace("s", "y") if name in streamed else name
        is_gradient = name.startswith("d_")
        assert_close(array, truth[key], dtype, (peer or {}).get(key), gradient=is_gradient)
        if is_gradient and dtype == "float64":
            assert np.abs(array - truth[key]).max() <= 1e-10 * np.abs(truth[key]).max(), name


#: (optimizer, options, scheduler, options, largest norm of the gradients) of each model.
RECIPES = {
    "Characters": ("RMSprop", {"lr": 0.01, "momentum": 0.5}, "ExponentialLR", {"gamma": 0.95}, 0.3),
    "Classifier": ("Adam", {"lr": 0.02}, "CosineAnnealingLR", {"T_max": 20}, 2.0),
    "Translator": ("AdamW", {"lr": 0.1, "weight_decay": 0.1}, "ReduceLROnPlateau", {"patience": 0}, 0.3),
    "Voice": (
        "SGD",
        {"lr": 2.0, "momentum": 0.9, "nesterov": True, "weight_decay": 1e-3},
        "StepLR",
        {"step_size": 7},
        0.05,
    ),
    "Effect": ("SGD", {"lr": 0.5, "momentum": 0.9, "weight_decay": 1e-3}, "MultiStepLR", {"milestones": [5, 15]}, 0.2),
    "Policy": ("Adam", {"lr": 0.02, "amsgrad": True}, "StepLR", {"step_size": 5, "gamma": 0.5}, 0.3),
}
STEPS = 20


def training_mode(name):
    """Not for the model with dropout: torch draws other numbers."""
    return name != "Characters"


def train(model, name):
    """Yields the loss and the norm of the gradients of each step, and in the end the loss in evaluation mode, and 0."""
    model.train(training_mode(name))
    kind, options, schedule, of_schedule, max_norm = RECIPES[name]
    optimizer = getattr(optim, kind)(model.parameters(), **options)
    scheduler = getattr(optim.lr_scheduler, schedule)(optimizer, **of_schedule)
    for step in range(STEPS):
        arguments, targets = model.batch(step % 3)
        result, backward = model.vjp(**arguments)
        loss, d = model.loss(result, *targets)
        grads, norm = optim.clip_grad_norm(backward(d).params, max_norm)
        optimizer.step(grads)
        scheduler.step(*([loss] if schedule == "ReduceLROnPlateau" else []))
        yield loss, norm
    yield model.loss(model.eval()(**arguments), *targets)[0], 0


def run(name, hidden, folder):
    """Load folder/model.pt, run it with folder/batch.npz, write folder/float32.npz and folder/float64.npz."""
    state = fastrnn.model_state_dict(fastrnn.load(f"{folder}/model.pt"))
    arguments, targets, _ = load_batch(f"{folder}/batch.npz")
    for dtype in ("float32", "float64"):
        model = MODELS[name](hidden).to(dtype)
        model.load_state_dict(state)
        np.savez(f"{folder}/{dtype}.npz", **results(model, arguments, targets))


def save_batch(path, arguments, targets, **others):
    """In one .npz: arguments as argument_NAME, targets as target_0 and so on, and others."""
    arguments = {f"argument_{name}": array for name, array in arguments.items()}
    np.savez_compressed(path, **arguments, **{f"target_{i}": array for i, array in enumerate(targets)}, **others)


def load_batch(path):
    """(arguments, targets, others)."""
    with np.load(path) as file:
        arrays = dict(file)
    arguments = {name[9:]: arrays.pop(name) for name in list(arrays) if name.startswith("argument_")}
    targets = tuple(arrays.pop(name) for name in list(arrays) if name.startswith("target_"))
    return arguments, targets, arrays
