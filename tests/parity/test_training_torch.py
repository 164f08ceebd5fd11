"""Losses, optimizers and schedulers, held to torch: values, every step, state dicts both ways."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from training_tools import CONFIGURATIONS

import fastrnn
from fastrnn import losses, optim

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402  # torch is known to be here only now

SHAPES = {"w": (7, 5), "b": (6,), "s": ()}
STEPS = 50


def of_torch(name, prediction, target, options):
    """torch's loss, and the gradient of it or of its sum."""
    x = torch.tensor(prediction, requires_grad=True)
    options = {k: torch.tensor(v, dtype=x.dtype) if "weight" in k else v for k, v in options.items()}
    loss = getattr(functional, name)(x, torch.tensor(target), **options)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


def softmax(x, axis=1):
    e = np.exp(x)
    return e / e.sum(axis, keepdims=True)


def loss_cases():
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.5, 2, 4)
    weight[2] = 0
    shapes = {"(N, C)": (6, 4), "(N, C, d)": (3, 4, 5), "(N, C, d, e)": (2, 4, 3, 2), "(C,)": (4,)}
    for form, shape in shapes.items():
        x = 3 * rng.normal(size=shape)
        axis = min(len(shape) - 1, 1)
        classes = rng.integers(0, 4, shape[:axis] + shape[axis + 1 :])
        for w, smoothing, ignored in itertools.product([None, weight], [0.0, 0.2, 1.0], [None, 1]):
            options = {} if w is None else {"weight": w}
            options |= {} if ignored is None else {"ignore_index": ignored}
            name = f"{form} {w is not None} {smoothing} {ignored}"
            yield f"cross_entropy {name}", "cross_entropy", x, classes, options | {"label_smoothing": smoothing}
            if smoothing == 0:
                log_p = np.log(softmax(x, axis))
                yield f"nll {name}", "nll_loss", log_p, classes, options
            if ignored is None:
                p = softmax(rng.normal(size=shape), axis)
                yield f"cross_entropy p {name}", "cross_entropy", x, p, options | {"label_smoothing": smoothing}
    x, t = 3 * rng.normal(size=(5, 4)), rng.uniform(size=(5, 4))
    for w, positive in itertools.product([None, weight, t + 1], [None, weight, np.float64(3.0)]):
        options = {} if w is None else {"weight": w}
        options |= {} if positive is None else {"pos_weight": positive}
        name = f"binary {np.shape(w)} {np.shape(positive)} {w is None} {positive is None}"
        yield name, "binary_cross_entropy_with_logits", x, t, options
    for w in (None, t + 1):
        options = {} if w is None else {"weight": w}
        for name in ("mse_loss", "l1_loss"):
            yield f"{name} {w is not None}", name, x, t, options
    for beta in (1.0, 0.3, 0.0):
        x[0] = t[0]
        yield f"smooth_l1 {beta}", "smooth_l1_loss", x, t, {"beta": beta}


LOSSES = {name: rest for name, *rest in loss_cases()}


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LOSSES)
def test_losses(case, dtype, reduction, assert_close):
    name, x, target, options = LOSSES[case]
    x, options = x.astype(dtype), options | {"reduction": reduction}
    target = target if target.dtype.kind == "i" else target.astype(dtype)
    truth = of_torch(
        name, x.astype(np.float64), target.astype(np.float64) if target.dtype.kind == "f" else target, options
    )
    peer = of_torch(name, x, target, options) if dtype == "float32" else (None, None)
    loss, d = getattr(losses, name)(x, target, **options)
    assert_close(loss, truth[0], dtype, peer[0])
    assert_close(d, truth[1], dtype, peer[1], gradient=True)


SPECIAL = [
    ("cross_entropy", [[np.inf, 1.0, 2.0], [-np.inf, 0.0, 1.0], [0.0, 1.0, 2.0]], [1, 0, 1], {}),
    ("cross_entropy", [[-np.inf] * 3, [0.0, np.nan, 1.0], [0.0, 1.0, 2.0]], [1, 0, 1], {}),
    ("cross_entropy", [[-np.inf, 0.0, 1.0]], [1], {"label_smoothing": 0.1}),
    ("cross_entropy", [[0.0, 1.0, 2.0]] * 2, [-100, -100], {}),
    ("cross_entropy", [[0.0, 1.0, 2.0]] * 2, [-100, -100], {"label_smoothing": 0.1, "weight": [1.0, 2.0, 3.0]}),
    ("cross_entropy", [[0.0, 1.0, 2.0]] * 2, [1, 1], {"weight": [1.0, 0.0, 1.0]}),
    ("nll_loss", [[0.0, 1.0, 2.0]] * 2, [1, 1], {"weight": [1.0, 0.0, 1.0]}),
    ("nll_loss", [[0.0, np.nan, 2.0], [np.inf, 0.0, -np.inf]], [0, 2], {}),
    ("nll_loss", [[0.0, 1.0, 2.0]] * 2, [-100, -100], {}),
    ("mse_loss", [np.inf, np.nan, 1.0], [0.0, 0.0, 1.0], {}),
    ("l1_loss", [np.inf, -np.inf, 1.0], [0.0, 0.0, 1.0], {}),
    ("smooth_l1_loss", [np.inf, -np.inf, 1.0], [0.0, 0.0, 1.0], {}),
    ("binary_cross_entropy_with_logits", [100.0, -100.0, 800.0], [1.0, 1.0, 0.0], {}),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "x", "target", "options"), SPECIAL)
def test_nan_and_infinity_travel(name, x, target, options, reduction, assert_close):
    options = options | {"reduction": reduction}
    expected = of_torch(name, x := np.array(x), np.array(target), options)
    assert_close(getattr(losses, name)(x, target, **options), expected, "float64")


# -- optimizers -------------------------------------------------------------------------------------------------------


def start(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return {name: np.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}


def gradients(dtype, n=STEPS):
    rng = np.random.default_rng(1)
    for i in range(n):
        g = {name: np.asarray(rng.normal(size=shape), dtype) for name, shape in SHAPES.items()}
        yield {name: a for name, a in g.items() if name != "b" or i % 3}  # the biases have none now and then


class Twin:
    """torch's optimizer of the same parameters."""

    def __init__(self, name, params, options):
        self.params = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in params.items()}
        self.optimizer = getattr(torch.optim, name)(list(self.params.values()), **options)

    def step(self, grads):
        for key, p in self.params.items():
            p.grad = torch.tensor(grads[key]) if key in grads else None
        self.optimizer.step()

    def __getitem__(self, key):
        return self.params[key].detach().numpy()


def farthest(params, twin):
    return max(np.abs(array - twin[key]).max() for key, array in params.items())


OPTIONS = {
    "SGD": {"momentum": [0.0, 0.9], "dampening": [0.0, 0.3], "weight_decay": [0.0, 0.1], "nesterov": [False, True]},
    "Adam": {
        "betas": [(0.9, 0.999), (0.3, 0.8)],
        "eps": [1e-8, 0.1],
        "weight_decay": [0.0, 0.1],
        "amsgrad": [False, True],
    },
    "AdamW": {"betas": [(0.9, 0.999)], "weight_decay": [0.0, 0.01, 0.3], "amsgrad": [False, True]},
    "RMSprop": {
        "alpha": [0.99, 0.6],
        "eps": [1e-8, 0.1],
        "weight_decay": [0.0, 0.1],
        "momentum": [0.0, 0.9],
        "centered": [False, True],
    },
}


def every_option():
    for name, values in OPTIONS.items():
        for chosen in itertools.product(*values.values(), [False, True]):
            options = dict(zip([*values, "maximize"], chosen, strict=True))
            if not options.get("nesterov") or (options["momentum"] and not options["dampening"]):
                yield name, {"lr": 0.01, **options}


@pytest.mark.parametrize(("name", "options"), list(every_option()))
def test_every_step_in_float64(name, options):
    params = start("float64")
    optimizer, twin = getattr(optim, name)(params, **options), Twin(name, start("float64"), options)
    for i, g in enumerate(gradients("float64")):
        optimizer.step(g)
        twin.step(g)
        assert farthest(params, twin) < 1e-12, i


@pytest.mark.parametrize(("name", "options"), list(every_option()))
def test_every_step_in_float32(name, options):
    """As close to float64 as torch is, or within a few roundings for each step."""
    params, exact = start("float32"), {key: array.astype("float64") for key, array in start("float32").items()}
    optimizer, truth = getattr(optim, name)(params, **options), getattr(optim, name)(exact, **options)
    twin = Twin(name, start("float32"), options)
    for i, g in enumerate(gradients("float32")):
        for each in (optimizer, truth, twin):
            each.step(g)
        of_torch = max(np.abs(twin[key] - array).max() for key, array in exact.items())
        ours = max(np.abs(params[key] - array).max() for key, array in exact.items())
        most = max(1.0, *(np.abs(array).max() for array in exact.values()))
        assert ours <= max(1.5 * of_torch, 4 * (i + 1) ** 0.5 * np.finfo("float32").eps * most), i
        assert all(array.dtype == np.float32 for array in params.values())


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_large_parameters_in_several_threads(name, options):
    rng, before = np.random.default_rng(0), fastrnn.get_num_threads()
    p, n = rng.normal(size=300_001), 5
    own = {"p": p.copy()}
    optimizer, twin = getattr(optim, name)(own, **options), Twin(name, {"p": p}, options)
    try:
        fastrnn.set_num_threads(2)
        for _ in range(n):
            g = {"p": rng.normal(size=p.shape)}
            optimizer.step(g)
            twin.step(g)
    finally:
        fastrnn.set_num_threads(before)
    assert farthest(own, twin) < 1e-12


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_torch_state_goes_on_here(name, options, tmp_path):
    """Saved by torch, read by fastrnn without it, half way through."""
    twin = Twin(name, start("float64"), options)
    grads = list(gradients("float64"))
    for g in grads[:20]:
        twin.step(g)
    torch.save({"optimizer": twin.optimizer.state_dict()}, tmp_path / "torch.pt")
    params = {key: twin[key].copy() for key in SHAPES}
    optimizer = getattr(optim, name)(params, lr=3.0)
    optimizer.load_state_dict(fastrnn.load(tmp_path / "torch.pt")["optimizer"])
    for i, g in enumerate(grads[20:]):
        optimizer.step(g)
        twin.step(g)
        assert farthest(params, twin) < 1e-12, i


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_our_state_goes_on_in_torch(name, options, tmp_path):
    params = start("float64")
    optimizer = getattr(optim, name)(params, **options)
    grads = list(gradients("float64"))
    for g in grads[:20]:
        optimizer.step(g)
    fastrnn.save(optimizer.state_dict(), tmp_path / "ours.pt")
    twin = Twin(name, params, {"lr": 3.0})
    twin.optimizer.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True))
    for i, g in enumerate(grads[20:]):
        optimizer.step(g)
        twin.step(g)
        assert farthest(params, twin) < 1e-12, i


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_the_same_layout(name, options):
    """The keys of torch's, but for options that are about how torch runs."""
    params = start("float64")
    groups = [{"params": {"w": params["w"], "b": params["b"]}}, {"params": {"s": params["s"]}, "lr": 0.5}]
    optimizer = getattr(optim, name)(groups, **options)
    tensors = [torch.nn.Parameter(torch.tensor(array)) for array in params.values()]
    groups = [{"params": tensors[:2]}, {"params": tensors[2:], "lr": 0.5}]
    twin = getattr(torch.optim, name)(groups, **options)
    optimizer.step(params)
    for tensor in tensors:
        tensor.grad = torch.ones_like(tensor)
    twin.step()
    ours, theirs = optimizer.state_dict(), twin.state_dict()
    assert set(ours["state"]) == set(theirs["state"])
    for index, state in theirs["state"].items():
        # torch keeps a place for what RMSprop and SGD do not need.
        assert set(ours["state"][index]) == {key for key, value in state.items() if value is not None}
        for key, value in ours["state"][index].items():
            assert value.shape == tuple(state[key].shape)
            assert str(value.dtype) == str(state[key].dtype).removeprefix("torch.")
    for ours_of, theirs_of in zip(ours["param_groups"], theirs["param_groups"], strict=True):
        about_torch = {"foreach", "capturable", "differentiable", "fused", "decoupled_weight_decay"}
        assert ours_of == {key: value for key, value in theirs_of.items() if key not in about_torch}


@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.5, math.inf])
@pytest.mark.parametrize("max_norm", [0.1, 3.0, 100.0])
def test_clip_grad_norm(norm_type, max_norm):
    grads = next(gradients("float64")) | {"b": np.arange(6.0)}
    tensors = {key: torch.nn.Parameter(torch.tensor(array)) for key, array in grads.items()}
    for tensor in tensors.values():
        tensor.grad = tensor.detach().clone()
    expected = torch.nn.utils.clip_grad_norm_(tensors.values(), max_norm, norm_type)
    clipped, norm = optim.clip_grad_norm(grads, max_norm, norm_type)
    np.testing.assert_allclose(norm, expected.item(), rtol=1e-14)
    for key, array in clipped.items():
        np.testing.assert_allclose(array, tensors[key].grad.numpy(), rtol=1e-14)


# -- schedulers -------------------------------------------------------------------------------------------------------

SCHEDULERS = [
    ("StepLR", {"step_size": 7}),
    ("StepLR", {"step_size": 1, "gamma": 0.97}),
    ("MultiStepLR", {"milestones": [30, 5, 5, 80], "gamma": 0.3}),
    ("ExponentialLR", {"gamma": 0.95}),
    ("CosineAnnealingLR", {"T_max": 10}),
    ("CosineAnnealingLR", {"T_max": 33, "eta_min": 0.01}),
    ("CosineAnnealingLR", {"T_max": 1, "eta_min": 0.01}),
    ("ReduceLROnPlateau", {"patience": 2}),
    ("ReduceLROnPlateau", {"mode": "max", "factor": 0.7, "patience": 0, "cooldown": 3, "threshold_mode": "abs"}),
    ("ReduceLROnPlateau", {"threshold": 0.1, "min_lr": [0.01, 0.2], "patience": 1, "eps": 0.01}),
    ("ReduceLROnPlateau", {"mode": "max", "threshold": 0.2, "min_lr": 0.003, "factor": 0.5, "patience": 1}),
]


def both(name, options):
    """A scheduler here and one of torch's, of optimizers with two groups."""
    groups = [{"params": {"a": np.zeros(2)}, "lr": 0.1}, {"params": {"b": np.zeros(2)}, "lr": 0.7}]
    tensors = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": group["lr"]} for group in groups]
    ours = getattr(optim.lr_scheduler, name)(optim.SGD(groups), **options)
    theirs = getattr(torch.optim.lr_scheduler, name)(torch.optim.SGD(tensors), **options)
    return ours, theirs


def steps(ours, theirs, epochs):
    metrics = np.random.default_rng(0).normal(size=200).round(1)
    for epoch in epochs:
        arguments = [metrics[epoch]] if "Plateau" in type(ours).__name__ else []
        theirs.optimizer.step()
        ours.step(*arguments)
        theirs.step(*arguments)
        assert ours.get_last_lr() == theirs.get_last_lr(), epoch
        assert [g["lr"] for g in ours.optimizer.param_groups] == [g["lr"] for g in theirs.optimizer.param_groups]


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_every_rate(name, options):
    """Equal to the last bit."""
    ours, theirs = both(name, options)
    assert ours.get_last_lr() == theirs.get_last_lr()
    steps(ours, theirs, range(100))


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_schedules_go_on_from_torch(name, options, tmp_path):
    ours, theirs = both(name, options)
    steps(ours, theirs, range(40))
    state = {"optimizer": theirs.optimizer.state_dict(), "scheduler": theirs.state_dict()}
    torch.save(state, tmp_path / "torch.pt")
    state = fastrnn.load(tmp_path / "torch.pt")
    ours, _ = both(name, options)
    ours.optimizer.load_state_dict(state["optimizer"])
    ours.load_state_dict(state["scheduler"])
    steps(ours, theirs, range(40, 100))


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_schedules_go_on_in_torch(name, options, tmp_path):
    ours, theirs = both(name, options)
    steps(ours, theirs, range(40))
    fastrnn.save({"optimizer": ours.optimizer.state_dict(), "scheduler": ours.state_dict()}, tmp_path / "ours.pt")
    state = torch.load(tmp_path / "ours.pt", weights_only=True)
    _, theirs = both(name, options)
    theirs.optimizer.load_state_dict(state["optimizer"])
    theirs.load_state_dict(state["scheduler"])
    steps(ours, theirs, range(40, 100))


@pytest.mark.parametrize(("name", "options"), SCHEDULERS)
def test_schedulers_have_the_same_state(name, options):
    ours, theirs = both(name, options)
    steps(ours, theirs, range(5))
    of_torch_alone = {"_is_initial", "_get_lr_called_within_step"}
    assert ours.state_dict() == {key: value for key, value in theirs.state_dict().items() if key not in of_torch_alone}


@pytest.mark.parametrize(("name", "options"), [item for item in SCHEDULERS if "Plateau" not in item[0]])
def test_a_new_scheduler_with_last_epoch(name, options):
    ours, theirs = both(name, options)
    steps(ours, theirs, range(12))
    ours = getattr(optim.lr_scheduler, name)(ours.optimizer, **options, last_epoch=12)
    theirs = getattr(torch.optim.lr_scheduler, name)(theirs.optimizer, **options, last_epoch=12)
    assert ours.get_last_lr() == theirs.get_last_lr()
    steps(ours, theirs, range(20))
