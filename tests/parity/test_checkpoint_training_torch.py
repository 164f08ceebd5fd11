"""Checkpoints of trainings: torch goes on from what fastrnn has read and saved as if it were its own file."""

from __future__ import annotations

import warnings

import pytest

import fastrnn
from fastrnn.checkpoint import Opaque

torch = pytest.importorskip("torch")

from checkpoint_tools import assert_same, bits, same_nesting, saved  # noqa: E402

ZIPPED = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


class Model(torch.nn.Module):
    """One of each kind of parameter holder: tied, shared, buffers, lists, weight norm."""

    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(7, 5)
        self.rnn = torch.nn.LSTM(5, 3, num_layers=2, bidirectional=True)
        self.cells = torch.nn.ModuleList([torch.nn.GRUCell(6, 4), torch.nn.RNNCell(4, 5)])
        self.norm = torch.nn.BatchNorm1d(5)
        self.head = torch.nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight
        self.scaled = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 3))
        self.register_buffer("steps", torch.tensor(3))

    def forward(self, tokens):
        x = self.rnn(self.embed(tokens))[0].mean(0)
        for cell in self.cells:
            x = cell(x)
        return self.head(self.norm(x)).sum() + self.scaled(x[:, :2]).sum()


@pytest.fixture
def model():
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many tiny calls, and equal results
    yield Model()
    torch.set_num_threads(threads)


def tokens():
    return torch.arange(12).reshape(4, 3) % 7


def through_fastrnn(state, path, **options):
    """`state` as torch reads it after torch has saved, fastrnn read and saved it."""
    arrays = fastrnn.load(saved(state, **options))
    assert same_nesting(arrays, state)
    fastrnn.save(arrays, path)
    return torch.load(path, weights_only=True)


# Weights


@ZIPPED
def test_a_state_dict_goes_through(model, tmp_path, zipped):
    state = model.state_dict()
    assert hasattr(state, "_metadata")
    read = through_fastrnn(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert read["head.weight"].data_ptr() == read["embed.weight"].data_ptr()
    other = Model()
    other.load_state_dict(read)
    for name, tensor in state.items():
        assert bits(other.state_dict()[name]) == bits(tensor)
    model.eval(), other.eval()
    assert torch.equal(model(tokens()), other(tokens()))


def wrappers(model):
    averaged = torch.optim.swa_utils.AveragedModel(model)
    averaged.update_parameters(model)
    yield "DataParallel", torch.nn.DataParallel(model), "module."
    yield "AveragedModel", averaged, "module."
    yield "compiled", torch.compile(model, backend="eager"), "_orig_mod."
    yield "both", torch.compile(torch.nn.DataParallel(model), backend="eager"), "_orig_mod.module."
    yield "in a list", torch.nn.ModuleList([model]), "0."


def test_wrapped_models_give_the_same_layer(model, tmp_path):
    layer = fastrnn.from_state_dict(fastrnn.load(saved(model.state_dict())), "rnn")
    for what, wrapped, prefix in wrappers(model):
        state = wrapped.state_dict()
        read = through_fastrnn(state, tmp_path / "a.pt")
        wrapped.load_state_dict(read)
        arrays = fastrnn.load(saved({"epoch": 1, "state_dict": state}))
        found = [info.prefix for info in fastrnn.find_layers(arrays)]
        assert f"state_dict.{prefix}rnn." in found, what
        again = fastrnn.from_state_dict(arrays, f"state_dict.{prefix}rnn")
        for name, array in layer.state_dict().items():
            assert array.tobytes() == again.state_dict()[name].tobytes(), what


@ZIPPED
def test_whole_models_hold_every_parameter(model, zipped):
    del model.scaled  # torch refuses to save parametrized modules whole
    for what, whole, _ in wrappers(model):
        if what in ("compiled", "both"):
            continue  # their code would go along
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the legacy format wants sources
            content = saved(whole, _use_new_zipfile_serialization=zipped)
        read = fastrnn.load(content)
        for name, tensor in [*whole.named_parameters(), *whole.named_buffers()]:
            assert_same(of_module(read, name), tensor)


def of_module(module, name):
    """The parameter or buffer at this path in an inert module."""
    *way, last = name.split(".")
    for part in way:
        module = module.state["_modules"][part]
    assert type(module) is Opaque
    return (module.state["_parameters"] | module.state["_buffers"])[last]


@ZIPPED
def test_parameters_and_tensors_with_attributes(tmp_path, zipped):
    noted = torch.arange(3.0)
    noted.note = "x"
    noted_parameter = torch.nn.Parameter(torch.arange(4.0))
    noted_parameter.note = {"why": [1, 2]}
    values = {
        "parameter": torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T),
        "frozen": torch.nn.Parameter(torch.arange(3), requires_grad=False),
        "buffer": torch.nn.Buffer(torch.arange(3.0)),
        "noted": noted,
        "noted parameter": noted_parameter,
        "with gradient": torch.arange(3.0).requires_grad_(),
        "list": torch.nn.ParameterList([torch.ones(2), torch.zeros(0)]).state_dict(),
    }
    read = through_fastrnn(values, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert not any(isinstance(value, torch.nn.Parameter) for value in read.values())


# Optimizers


OPTIMIZERS = {
    "ASGD": {},
    "Adadelta": {},
    "Adafactor": {},
    "Adagrad": {},
    "Adam": {"amsgrad": True},
    "AdamW": {},
    "Adamax": {},
    "LBFGS": {"history_size": 3},
    "NAdam": {},
    "RAdam": {},
    "RMSprop": {"momentum": 0.9, "centered": True},
    "Rprop": {},
    "SGD": {"momentum": 0.9, "nesterov": True},
}


def step(model, optimizer):
    def closure():
        optimizer.zero_grad()
        loss = model(tokens()) ** 2
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_torch_trains_on_from_an_optimizers_state(name, model, tmp_path):
    def optimizer_of(model):
        parameters = [{"params": model.parameters()}]
        return getattr(torch.optim, name)(parameters, lr=0.01, **OPTIMIZERS[name])

    optimizer = optimizer_of(model)
    for _ in range(3):
        step(model, optimizer)
    read = through_fastrnn({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "a.pt")
    other = Model()
    other.load_state_dict(read["model"])
    other_optimizer = optimizer_of(other)
    other_optimizer.load_state_dict(read["optimizer"])
    for _ in range(2):
        step(model, optimizer)
        step(other, other_optimizer)
    for a, b in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert bits(a) == bits(b)


of = torch.optim.lr_scheduler
SCHEDULERS = {
    "StepLR": lambda optimizer: of.StepLR(optimizer, 2),
    "MultiStepLR": lambda optimizer: of.MultiStepLR(optimizer, [1, 4, 4]),  # keeps a Counter
    "ExponentialLR": lambda optimizer: of.ExponentialLR(optimizer, 0.9),
    "CosineAnnealingLR": lambda optimizer: of.CosineAnnealingLR(optimizer, 5),
    "CosineAnnealingWarmRestarts": lambda optimizer: of.CosineAnnealingWarmRestarts(optimizer, 2),
    "OneCycleLR": lambda optimizer: of.OneCycleLR(optimizer, 0.1, total_steps=9),
    "CyclicLR": lambda optimizer: of.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3),
    "LinearLR": lambda optimizer: of.LinearLR(optimizer, total_iters=4),
    "PolynomialLR": lambda optimizer: of.PolynomialLR(optimizer, 4),
    "LambdaLR": lambda optimizer: of.LambdaLR(optimizer, lambda epoch: 0.9**epoch),
    "SequentialLR": lambda optimizer: of.SequentialLR(
        optimizer, [of.ConstantLR(optimizer), of.ExponentialLR(optimizer, 0.9)], [2]
    ),
    "ReduceLROnPlateau": lambda optimizer: of.ReduceLROnPlateau(optimizer, patience=0),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_torch_goes_on_from_a_schedulers_state(name, tmp_path):
    metric = [1.0] if name == "ReduceLROnPlateau" else []
    rates = []
    for stop in (None, 3):  # without and with a way through fastrnn after 3 of 5 steps
        torch.manual_seed(0)
        optimizer, scheduler = pair = optimizer_and_scheduler(name)
        rates.append([])
        for i in range(5):
            if i == stop:
                states = through_fastrnn([part.state_dict() for part in pair], tmp_path / "a.pt")
                optimizer, scheduler = optimizer_and_scheduler(name)
                optimizer.load_state_dict(states[0])
                scheduler.load_state_dict(states[1])
            optimizer.step()
            scheduler.step(*metric)
            rates[-1].append((optimizer.param_groups[0]["lr"], scheduler.get_last_lr()))
    assert rates[0] == rates[1]
    assert len({rate for rate, _ in rates[0]}) > 1


def optimizer_and_scheduler(name):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.05, momentum=0.5)
    return optimizer, SCHEDULERS[name](optimizer)
