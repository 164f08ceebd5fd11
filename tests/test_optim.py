"""Optimizers: steps by hand, groups, what is refused, state dicts, threads. tests/parity holds them to torch."""

from __future__ import annotations

import copy
import math
import pickle
from importlib import import_module

import numpy as np
import pytest
from training_tools import CONFIGURATIONS

import fastrnn
from fastrnn import optim
from fastrnn.backends.cython import instruction_sets


def make(name, params, options):
    return getattr(optim, name)(params, **options)


def arrays(seed=0, dtype="float64"):
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(dtype) for name, shape in {"w": (3, 4), "b": (5,), "s": ()}.items()}


# -- by hand ----------------------------------------------------------------------------------------------------------


def steps(optimizer, p, *gradients):
    """The parameter after each step."""
    found = []
    for g in gradients:
        optimizer.step({"p": [g]})
        found.append(p[0])
    return found


def test_sgd_by_hand():
    p = np.array([1.0])
    assert steps(optim.SGD({"p": p}, lr=0.5), p, 1.0, -2.0) == [0.5, 1.5]
    p = np.array([1.0])
    assert steps(optim.SGD({"p": p}, lr=0.5, weight_decay=0.5), p, 1.0) == [0.25]
    p = np.array([1.0])
    assert steps(optim.SGD({"p": p}, lr=0.5, weight_decay=0.5, maximize=True), p, 1.0) == [1.25]
    p = np.array([1.0])  # buffers 1, 0.5 + 0.75 * 2 = 2
    assert steps(optim.SGD({"p": p}, lr=0.5, momentum=0.5, dampening=0.25), p, 1.0, 2.0) == [0.5, -0.5]
    p = np.array([1.0])  # buffers 1, 2.5; steps 1.5, 3.25
    assert steps(optim.SGD({"p": p}, lr=0.5, momentum=0.5, nesterov=True), p, 1.0, 2.0) == [0.25, -1.375]


def test_adam_by_hand():
    # Where the gradient is g for the first time, the means are (1 - beta) g and their corrections 1 / (1 - beta).
    p = np.array([1.0])
    np.testing.assert_allclose(steps(optim.Adam({"p": p}, lr=0.5, eps=1.0), p, 3.0), [1 - 0.5 * 3 / (3 + 1)])
    p = np.array([1.0])  # m = 0.75, v = 1.75 / ... after 1 and 0 with both betas 0.5: m = 0.25, v = 0.25, over 0.75
    found = steps(optim.Adam({"p": p}, lr=0.5, betas=(0.5, 0.5), eps=0.0), p, 1.0, 0.0)
    np.testing.assert_allclose(found, [0.5, 0.5 - 0.5 * (1 / 3) / math.sqrt(1 / 3)])
    p = np.array([1.0])  # the largest v is that of the first step: 0.5
    found = steps(optim.Adam({"p": p}, lr=0.5, betas=(0.5, 0.5), eps=0.0, amsgrad=True), p, 1.0, 0.0)
    np.testing.assert_allclose(found, [0.5, 0.5 - 0.5 * (1 / 3) / math.sqrt(0.5 / 0.75)])


def test_weight_decay_of_adam_and_adamw():
    p = np.array([2.0])  # the gradient is 1 + 0.5 * 2
    np.testing.assert_allclose(
        steps(optim.Adam({"p": p}, lr=0.5, eps=1.0, weight_decay=0.5), p, 1.0), [2 - 0.5 * 2 / 3]
    )
    p = np.array([2.0])  # a quarter of p is gone
    np.testing.assert_allclose(steps(optim.AdamW({"p": p}, lr=0.5, eps=1.0, weight_decay=0.5), p, 1.0), [1.5 - 0.25])


def test_rmsprop_by_hand():
    p = np.array([1.0])  # v = 0.25 * 16, 0.75 * 4 + 0.25 * 4 = 4
    np.testing.assert_allclose(steps(optim.RMSprop({"p": p}, 0.5, 0.75, eps=0.0), p, 4.0, 2.0), [0.0, -0.5])
    p = np.array([1.0])  # mean 1, variance 4 - 1
    found = steps(optim.RMSprop({"p": p}, 0.5, 0.75, eps=0.0, centered=True), p, 4.0)
    np.testing.assert_allclose(found, [1 - 0.5 * 4 / math.sqrt(3)])
    p = np.array([1.0])  # steps 2, and 1 + 0.5 * 2
    np.testing.assert_allclose(steps(optim.RMSprop({"p": p}, 0.5, 0.75, eps=0.0, momentum=0.5), p, 4.0, 2.0), [0, -1])


# -- the step ---------------------------------------------------------------------------------------------------------


def test_a_layer_learns():
    gru = fastrnn.GRU(3, 4, rng=0)
    x = np.random.default_rng(0).normal(size=(5, 2, 3))
    optimizer = optim.Adam(gru.parameters(), lr=0.01)
    found = []
    for _ in range(30):
        (y, _), backward = gru.vjp(x)
        loss, d_y = fastrnn.losses.mse_loss(y, np.full_like(y, 0.5))
        found.append(loss)
        optimizer.step(backward(d_y).params)
    assert found[-1] < 0.5 * found[0]


def test_packed_weights_follow():
    gru = fastrnn.GRU(3, 4, rng=0)
    x = np.ones((5, 2, 3))
    (y, _), backward = gru.vjp(x)
    grads = backward(np.ones_like(y)).params
    optim.SGD(gru.parameters(), lr=0.1).step(grads)
    assert not np.array_equal(gru(x)[0], y)
    np.testing.assert_array_equal(gru(x)[0], gru.astype("float32")(x)[0])
    with pytest.raises(RuntimeError, match="have changed"):
        backward(y)


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_layouts_and_threads_do_not_matter(name, options):
    """One pass over a long array; the same in pieces, by several threads, from arrays that lie in other ways."""
    rng = np.random.default_rng(0)
    shape = (500, 601)  # more than enough for three threads
    p, gradients = rng.normal(size=shape), rng.normal(size=(4, *shape))
    before, found = fastrnn.get_num_threads(), []
    makers = [
        np.copy,
        np.copy,
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: np.frombuffer(bytearray(b"\0" + a.tobytes()), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    ]
    try:
        for i, maker in enumerate(makers):
            fastrnn.set_num_threads(3 if i == 1 else 1)
            own = maker(p)
            optimizer = make(name, {"p": own}, options)
            for g in gradients:
                optimizer.step({"p": maker(g)})
            found.append(own)
    finally:
        fastrnn.set_num_threads(before)
    rows = {f"p{i}": row.copy() for i, row in enumerate(p)}
    optimizer = make(name, rows, options)
    for g in gradients:
        optimizer.step({f"p{i}": row for i, row in enumerate(g)})
    found.append(np.stack(list(rows.values())))
    assert not np.array_equal(found[0], p)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_parameters_without_gradients_stay(name, options):
    params, alone = arrays(), {"w": arrays()["w"]}
    both, one = make(name, params, options), make(name, alone, options)
    rng = np.random.default_rng(1)
    for i in range(3):
        g = rng.normal(size=(3, 4))
        both.step({"w": g} if i else {"w": g, "b": None})
        one.step({"w": g})
    np.testing.assert_array_equal(params["w"], alone["w"])
    for kept in ("b", "s"):
        np.testing.assert_array_equal(params[kept], arrays()[kept])
    assert set(both.state) == {"w"}
    assert set(both.state_dict()["state"]) <= {0}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_the_same_bits_on_every_instruction_set(name, options, dtype, monkeypatch):
    found = []
    for isa in instruction_sets():
        module = import_module(f"fastrnn._kernels_f{dtype[-2:]}_{isa}")
        monkeypatch.setattr(optim.optimizer, "kernels", lambda dtype, module=module: module)
        p = np.random.default_rng(0).normal(size=1001).astype(dtype)
        optimizer = make(name, {"p": p}, options)
        for seed in range(1, 5):
            optimizer.step({"p": np.random.default_rng(seed).normal(size=1001)})
        found.append(p)
    assert found[0].dtype == dtype
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_denormals_are_taken_as_zero_where_they_are_in_layers():
    """What is kept of a gradient halves at every step, and would stay tiny for long."""
    for flush, expected in ((True, 0), (False, 1e-40)):
        fastrnn.set_flush_denormals(flush)
        try:
            p = np.zeros(8, np.float32)
            optimizer = optim.SGD({"p": p}, lr=1.0, momentum=0.5)
            optimizer.step({"p": np.full(8, 1.1e-38, np.float32)})
            optimizer.state["p"]["momentum_buffer"][:] = 2e-40
            optimizer.step({"p": np.zeros(8)})
        finally:
            fastrnn.set_flush_denormals(True)
        np.testing.assert_allclose(optimizer.state["p"]["momentum_buffer"], expected, rtol=1e-4)


def test_gradients_are_not_written_to():
    g = {key: np.ones_like(array) for key, array in arrays().items()}
    for name, options in CONFIGURATIONS:
        optimizer = make(name, arrays(), options)
        optimizer.step(g)
        optimizer.step(g)
    assert all((array == 1).all() for array in g.values())


def test_empty_arrays():
    for name, options in CONFIGURATIONS:
        make(name, {"p": np.zeros((0, 3))}, options).step({"p": np.zeros((0, 3))})


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_nan_stays_where_it_is(name, options):
    p = np.ones(40, np.float32)
    optimizer = make(name, {"p": p}, options)
    g = np.ones(40, np.float32)
    g[17] = np.nan
    optimizer.step({"p": g})
    optimizer.step({"p": np.ones(40)})
    np.testing.assert_array_equal(np.flatnonzero(~np.isfinite(p)), [17])


# -- groups -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_groups(name, options):
    whole, first, second = arrays(), arrays(), arrays()
    grads = {key: np.ones_like(array) for key, array in whole.items()}
    groups = [{"params": {"w": whole["w"], "s": whole["s"]}}, {"params": {"b": whole["b"]}, "lr": 0.3}]
    optimizer = make(name, groups, options)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.3]
    one, other = make(name, first, options), make(name, second, options | {"lr": 0.3})
    for _ in range(2):
        for each in (optimizer, one, other):
            each.step(grads)
    for key, expected in (("w", first), ("s", first), ("b", second)):
        np.testing.assert_array_equal(whole[key], expected[key])


def test_groups_of_a_layer():
    gru = fastrnn.GRU(3, 4, rng=0)
    params = gru.parameters()
    weights = params.subset(name for name in params if name.startswith("weight"))
    biases = params.subset(["bias_ih_l0", "bias_hh_l0"])
    assert list(weights) == ["weight_ih_l0", "weight_hh_l0"]
    with pytest.raises(KeyError, match="nonsense"):
        params.subset(["nonsense"])
    optimizer = optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 0.0}], lr=0.1)
    before = gru.state_dict()
    (y, _), backward = gru.vjp(np.ones((5, 2, 3)))
    optimizer.step(backward(np.ones_like(y)).params)
    changed = {name for name, array in gru.state_dict().items() if not np.array_equal(array, before[name])}
    assert changed == set(weights)
    assert not np.array_equal(gru(np.ones((5, 2, 3)))[0], y)


def test_options_may_change_on_the_way():
    p = np.array([1.0])
    optimizer = optim.SGD({"p": p}, lr=0.5)
    optimizer.step({"p": [1.0]})
    optimizer.param_groups[0]["lr"] = np.float32(0.25)
    optimizer.step({"p": [1.0]})
    assert p[0] == 0.25


# -- wrong input ------------------------------------------------------------------------------------------------------

P = np.zeros(3)
WRONG = [
    ("SGD", {"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ("SGD", {"lr": math.nan}, ValueError, "Invalid learning rate: nan"),
    ("SGD", {"lr": "1"}, TypeError, "lr should be a real number, got: str"),
    ("SGD", {"lr": True}, TypeError, "lr should be a real number, got: bool"),
    ("SGD", {"momentum": -1}, ValueError, "Invalid momentum value: -1"),
    ("SGD", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ("SGD", {"nesterov": True}, ValueError, "Nesterov momentum requires a momentum and zero dampening"),
    ("SGD", {"nesterov": True, "momentum": 1, "dampening": 1}, ValueError, "Nesterov momentum requires"),
    ("SGD", {"nesterov": 1}, TypeError, "nesterov should be of type bool"),
    ("Adam", {"lr": -1}, ValueError, "Invalid learning rate: -1"),
    ("Adam", {"eps": -1}, ValueError, "Invalid epsilon value: -1"),
    ("Adam", {"betas": (1.0, 0.9)}, ValueError, "Invalid beta parameter at index 0: 1.0"),
    ("Adam", {"betas": (0.9, -0.1)}, ValueError, "Invalid beta parameter at index 1: -0.1"),
    ("Adam", {"betas": 0.9}, TypeError, "betas should be a pair of real numbers"),
    ("AdamW", {"weight_decay": -1}, ValueError, "Invalid weight_decay value: -1"),
    ("AdamW", {"amsgrad": None}, TypeError, "amsgrad should be of type bool"),
    ("RMSprop", {"alpha": -1}, ValueError, "Invalid alpha value: -1"),
    ("RMSprop", {"momentum": -1}, ValueError, "Invalid momentum value: -1"),
    ("RMSprop", {"maximize": 0}, TypeError, "maximize should be of type bool"),
]


@pytest.mark.parametrize(("name", "options", "error", "message"), WRONG)
def test_wrong_options(name, options, error, message):
    with pytest.raises(error, match=f"^{message}"):
        make(name, {"p": P}, options)
    with pytest.raises(error, match=f"^{message}"):
        make(name, [{"params": {"p": P}, **options}], {})


WRONG_PARAMS = [
    ({}, ValueError, "optimizer got an empty parameter list"),
    ([], ValueError, "optimizer got an empty parameter list"),
    ([{"params": {}}], ValueError, "optimizer got an empty parameter list"),
    (P, TypeError, "params argument given to the optimizer should be"),
    ([P], TypeError, "params argument given to the optimizer should be"),
    ([{"params": [P]}], TypeError, "a group of parameters should have a dict"),
    ([{"p": P}], TypeError, "a group of parameters should have a dict"),
    ({"p": [1.0]}, TypeError, "optimizer can only optimize arrays, but 'p' is list"),
    ({"p": np.zeros(3, int)}, TypeError, "optimizer can only optimize writable arrays of float32 or float64"),
    ({"p": np.zeros(3, ">f4")}, TypeError, "optimizer can only optimize writable arrays of float32 or float64"),
    ({"p": np.broadcast_to(0.0, 3)}, TypeError, "optimizer can only optimize writable arrays"),
    ({0: P}, TypeError, "names of parameters should be strings"),
    ([{"params": {"p": P}}, {"params": {"p": P.copy()}}], ValueError, "some parameters appear in more than one"),
    ([{"params": {"p": P}}, {"params": {"q": P}}], ValueError, "some parameters appear in more than one"),
    ({"p": P, "q": P}, ValueError, "some parameters appear in more than one parameter group, or under two names"),
    ([{"params": {"p": P}, "weigth_decay": 1}], ValueError, "'weigth_decay' is no option of SGD; those are lr, mom"),
]


@pytest.mark.parametrize(("params", "error", "message"), WRONG_PARAMS)
def test_wrong_parameters(params, error, message):
    with pytest.raises(error, match=f"^{message}"):
        optim.SGD(params)


WRONG_GRADS = [
    ([1.0], TypeError, "grads should be a dict of gradients"),
    ({"w": np.ones((3, 4)), "x": 1.0}, ValueError, "grads has 'x', which is no parameter of this optimizer: w, b, s"),
    ({"w": np.ones((3, 4)), "b": np.ones(4)}, ValueError, r"the gradient of 'b' should have shape \(5,\), got: \(4,\)"),
    ({"w": np.ones((3, 4)), "b": ["a"] * 5}, TypeError, "the gradient of 'b' should be an array of real numbers"),
]


@pytest.mark.parametrize(("grads", "error", "message"), WRONG_GRADS)
@pytest.mark.parametrize("name", ["SGD", "Adam", "RMSprop"])
def test_wrong_gradients_change_nothing(name, grads, error, message):
    params = arrays()
    optimizer = make(name, params, {})
    with pytest.raises(error, match=f"^{message}"):
        optimizer.step(grads)
    assert not optimizer.state
    assert all(np.array_equal(array, arrays()[key]) for key, array in params.items())


def test_options_that_become_wrong_change_nothing():
    p = np.ones(3)
    optimizer = optim.Adam({"p": p})
    optimizer.param_groups[0]["lr"] = -1.0
    with pytest.raises(ValueError, match=r"^Invalid learning rate"):
        optimizer.step({"p": p})
    assert not optimizer.state
    assert (p == 1).all()


# -- state dicts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize(("name", "options"), CONFIGURATIONS)
def test_training_goes_on_from_a_state_dict(name, options, saved, tmp_path):
    rng = np.random.default_rng(1)
    grads = [{key: rng.normal(size=array.shape) for key, array in arrays().items()} for _ in range(6)]
    params = arrays()
    optimizer = make(name, params, options)
    for g in grads[:3]:
        optimizer.step(g)
    middle, state = {key: array.copy() for key, array in params.items()}, optimizer.state_dict()
    if saved:
        fastrnn.save(state, tmp_path / "optimizer.pt")
        state = fastrnn.load(tmp_path / "optimizer.pt")
    other = make(name, middle, {"lr": 7.0})
    other.load_state_dict(state)
    assert repr(other) == repr(optimizer)
    for g in grads[3:]:
        optimizer.step(g)
        other.step(g)
    for key, array in params.items():
        np.testing.assert_array_equal(middle[key], array)


def test_a_state_dict_is_a_copy():
    optimizer = optim.Adam(arrays())
    g = {key: np.ones_like(array) for key, array in arrays().items()}
    optimizer.step(g)
    state = optimizer.state_dict()
    before = state["state"][0]["exp_avg"].copy()
    other = optim.Adam(arrays())
    other.load_state_dict(state)
    for each in (optimizer, other):
        each.step(g)
    np.testing.assert_array_equal(state["state"][0]["exp_avg"], before)
    assert state["state"][0]["step"] == 1


def test_layout_of_a_state_dict():
    params = {key: array for key, array in arrays().items() if key != "s"}
    optimizer = optim.Adam([{"params": {"w": params["w"]}}, {"params": {"b": params["b"]}, "lr": 0.5}], amsgrad=True)
    optimizer.step({"b": np.ones(5)})
    state = optimizer.state_dict()
    assert set(state) == {"state", "param_groups"}
    assert list(state["state"]) == [1]
    assert list(state["state"][1]) == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert state["state"][1]["step"].dtype == np.float32
    assert state["state"][1]["step"].shape == ()
    assert state["param_groups"] == [
        {
            "lr": lr,
            "betas": (0.9, 0.999),
            "eps": 1e-8,
            "weight_decay": 0,
            "amsgrad": True,
            "maximize": False,
            "params": i,
        }
        for lr, i in ((1e-3, [0]), (0.5, [1]))
    ]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_are_refused(again):
    with pytest.raises(TypeError, match="an optimizer cannot be copied or pickled; make another"):
        again(optim.Adam(fastrnn.Linear(3, 2).parameters()))


def changed(state, **groups):
    return {"state": state["state"], "param_groups": [{**state["param_groups"][0], **groups}]}


WRONG_STATES = [
    (lambda s: None, TypeError, "state_dict should be a dict with 'state' and 'param_groups'"),
    (lambda s: {"state": {}}, TypeError, "state_dict should be a dict with 'state' and 'param_groups'"),
    (lambda s: {"state": [], "param_groups": []}, TypeError, "state_dict should have a dict as 'state'"),
    (lambda s: {"state": {}, "param_groups": [{}]}, TypeError, "state_dict should have a dict as 'state'"),
    (lambda s: s | {"param_groups": s["param_groups"] * 2}, ValueError, "loaded state dict has a different number of"),
    (
        lambda s: changed(s, params=[0, 1]),
        ValueError,
        "loaded state dict contains a parameter group that doesn't match",
    ),
    (lambda s: changed(s, lr=-1), ValueError, "Invalid learning rate: -1"),
    (lambda s: changed(s, params=[2, 1, 0]), ValueError, "exp_avg of 'w' should have shape"),
]


@pytest.mark.parametrize(("change", "error", "message"), WRONG_STATES)
def test_wrong_state_dicts_change_nothing(change, error, message):
    optimizer, other = optim.Adam(arrays(), lr=0.5), optim.Adam(arrays(1))
    other.step({key: np.ones_like(array) for key, array in arrays().items()})
    before = optimizer.state_dict()
    with pytest.raises(error, match=f"^{message}"):
        optimizer.load_state_dict(change(other.state_dict()))
    assert optimizer.state_dict() == before


def test_repr():
    assert repr(optim.SGD({"p": P}, lr=0.5)).splitlines() == [
        "SGD (",
        "Parameter Group 0",
        "    dampening: 0.0",
        "    lr: 0.5",
        "    maximize: False",
        "    momentum: 0.0",
        "    nesterov: False",
        "    weight_decay: 0.0",
        ")",
    ]


# -- clipping ---------------------------------------------------------------------------------------------------------


def test_clip_by_hand():
    grads = {"w": np.array([[3.0, 0.0]]), "b": np.array([-4.0], np.float32), "none": None}
    clipped, norm = optim.clip_grad_norm(grads, 2.5)
    assert norm == 5.0
    np.testing.assert_allclose(clipped["w"], [[1.5, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(clipped["b"], [-2.0], rtol=1e-6)
    assert clipped["b"].dtype == np.float32
    assert list(clipped) == ["w", "b"]
    np.testing.assert_array_equal(grads["w"], [[3.0, 0.0]])
    assert optim.clip_grad_norm(grads, 1.0, math.inf)[1] == 4.0
    assert optim.clip_grad_norm(grads, 1.0, 1)[1] == 7.0


def test_nothing_to_clip():
    grads = {"w": np.array([[3.0, 4.0]])}
    clipped, norm = optim.clip_grad_norm(grads, 6.0)
    assert clipped["w"] is grads["w"]
    assert norm == 5.0
    assert optim.clip_grad_norm({}, 1.0) == ({}, 0.0)
    assert optim.clip_grad_norm({"w": np.zeros((0, 3))}, 1.0)[1] == 0.0


def test_clipping_what_is_not_finite():
    clipped, norm = optim.clip_grad_norm({"w": [1.0, np.inf], "b": [2.0]}, 1.0)
    assert norm == math.inf
    np.testing.assert_array_equal(clipped["w"], [0.0, np.nan])
    assert math.isnan(optim.clip_grad_norm({"w": [1.0, np.nan], "b": [2.0]}, 1.0)[1])
    assert np.isnan(optim.clip_grad_norm({"w": [1.0, np.nan], "b": [2.0]}, 1.0)[0]["b"]).all()
    with pytest.raises(ValueError, match=r"^The total norm of order 2.0 for gradients from `parameters` is non-finite"):
        optim.clip_grad_norm({"w": [1.0, np.nan]}, 1.0, error_if_nonfinite=True)


def test_wrong_arguments_of_clip():
    with pytest.raises(TypeError, match=r"^grads should be a dict"):
        optim.clip_grad_norm([1.0], 1.0)
    with pytest.raises(TypeError, match=r"^max_norm should be a real number"):
        optim.clip_grad_norm({"w": [1.0]}, "1")
    with pytest.raises(TypeError, match=r"^the gradient of 'w' should be an array of real numbers"):
        optim.clip_grad_norm({"w": "1"}, 1.0)
