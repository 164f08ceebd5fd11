"""The drop-in modules of fastrnn.interop.torch, held to torch's own: values and gradients."""

from __future__ import annotations

import copy
import itertools

import pytest
from sampler import Config, configurations

torch = pytest.importorskip("torch")
from bridge_tools import each_backend, one_thread, small, spied, total  # noqa: E402, F401  # two are fixtures
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now
from torch_twin import each, to_torch  # noqa: E402

import fastrnn.interop.torch as bridge  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
CELLS = ("rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru")
SMALL = {"T": [1, 4], "N": [None, 1, 3], "I": [1, 2], "H": [3], "num_layers": [1, 2], "dtype": ["float64"]}


def pair(config: Config):
    """Our module and torch's, with the same weights."""
    options = {**config.options, "dtype": getattr(torch, config.dtype)}
    ours, theirs = (getattr(m, config.kind)(config.input_size, config.H, **options) for m in (bridge, torch.nn))
    ours.load_state_dict({key: to_torch(array) for key, array in config.layer().state_dict().items()})
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def call(module, config, x, hx, lengths):
    """Output (data of a pack) and final states, flat."""
    if config.form == "lengths":
        output, end = module(x, hx, lengths=lengths)
    elif config.form == "plain":
        output, end = module(x, hx)
    else:
        packed = rnn.pack_padded_sequence(x, lengths, config.batch_first, config.form == "packed")
        output, end = module(packed, hx)
        assert isinstance(output, rnn.PackedSequence)
        assert all((a is b) or a.equal(b) for a, b in zip(output[1:], packed[1:], strict=True))
        output = output.data
    return (output, *end) if isinstance(end, tuple) else (output, end)


def tensors_of(config):
    """x, states as a tuple, lengths; x and states with requires_grad."""
    x, hx, lengths = each(to_torch, tuple(config.inputs()))
    states = () if hx is None else hx if isinstance(hx, tuple) else (hx,)
    return x.requires_grad_(), tuple(s.requires_grad_() for s in states), lengths


def joined(states):
    return None if not states else states if len(states) > 1 else states[0]


# --- values and gradients ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", CELLS)
def test_values_and_gradients_are_torchs(cell, disagreement, full):
    forms = ["plain", "packed", "packed_unsorted"]
    for config in configurations(200 if full else 30, seed=CELLS.index(cell), cell=cell, form=forms):
        ours, theirs = pair(config)
        x, states, lengths = tensors_of(config)
        seeds = [torch.randn_like(part) for part in call(ours, config, x, joined(states), lengths)]

        def results(module, config=config, lengths=lengths, inputs=(x, *states), seeds=seeds):
            """Output, final states and all gradients."""
            dtype = next(module.parameters()).dtype
            x, *states = (tensor.detach().to(dtype).requires_grad_() for tensor in inputs)
            found = call(module, config, x, joined(tuple(states)), lengths)
            seeds = [seed.to(dtype) for seed in seeds]
            grads = torch.autograd.grad(found, (x, *states, *module.parameters()), seeds)
            return tuple(tensor.detach().numpy() for tensor in (*found, *grads))

        got, peer, truth = results(ours), results(theirs), results(copy.deepcopy(theirs).double())
        # Four times: this is about the bridge. How exact the kernels are is seen elsewhere.
        assert not disagreement(got, truth, config.dtype, peer, times=4), config
        assert got[0].strides == peer[0].strides


def checked_gradients(config, fast):
    module, _ = pair(config)
    x, states, lengths = tensors_of(config)
    names = [name for name, _ in module.named_parameters()]

    def function(*tensors):
        x, hx, weights = tensors[0], joined(tensors[1 : 1 + len(states)]), tensors[1 + len(states) :]

        def forward(*inputs, **options):
            return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), inputs, options)

        torch.manual_seed(0)  # one dropout mask
        return call(forward, config, x, hx, lengths)

    weights = [parameter.detach().clone().requires_grad_() for parameter in module.parameters()]
    assert torch.autograd.gradcheck(function, (x, *states, *weights), fast_mode=fast)


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck(cell, full):
    for config in configurations(100 if full else 15, seed=10 + CELLS.index(cell), cell=cell, **SMALL):
        checked_gradients(config, fast=True)


@pytest.mark.parametrize("cell", CELLS)
def test_gradcheck_of_every_element(cell):
    checked_gradients(Config(cell, 2, True, True, True, "float64", 3, 2, 2, 3, True, "plain"), fast=False)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_gradcheck_with_reset(name):
    module, x = small(name, 2, bidirectional=True)
    reset = torch.tensor([[0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 1]], dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda x: module(x, lengths=[4, 2, 3], reset=reset)[0], x, fast_mode=True)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_gradcheck_with_dropout(name):
    module, x = small(name, 3, dropout=0.4)

    def function(x):
        torch.manual_seed(3)
        return module(x)[0]

    assert torch.autograd.gradcheck(function, x)
    assert not function(x).equal(module.eval()(x)[0])


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_only_the_gradients_that_are_needed(name, monkeypatch):
    n_states = 2 if name == "LSTM" else 1
    for needs in itertools.product([False, True], repeat=3):
        module, x = small(name)
        states = [torch.randn(1, 3, 5, dtype=torch.float64) for _ in range(n_states)]
        x.requires_grad_(needs[0])
        states[-1].requires_grad_(needs[1])  # of a pair, c_0 alone
        module.requires_grad_(False).weight_hh_l0.requires_grad_(needs[2])
        result = module(x, joined(tuple(states)))
        assert result[0].requires_grad == any(needs)
        if not any(needs):
            assert result[0].grad_fn is None
            continue
        with monkeypatch.context() as patch:
            sums = spied(patch, "new_sums")
            total(result).backward()
        assert bool(sums) == needs[2]
        everything = [x, *states, *module.parameters()]
        assert [t.grad is not None for t in everything] == [t.requires_grad for t in everything]
        inputs = [t for t in everything if t.requires_grad]
        theirs = getattr(torch.nn, name)(2, 5, dtype=torch.float64)
        theirs.load_state_dict(module.state_dict())
        theirs.requires_grad_(False).weight_hh_l0.requires_grad_(needs[2])
        others = [t for t in (x, *states, *theirs.parameters()) if t.requires_grad]
        expected = torch.autograd.grad(total(theirs(x, joined(tuple(states)))), others)
        for tensor, gradient in zip(inputs, expected, strict=True):
            torch.testing.assert_close(tensor.grad, gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_loss_of_one_result_alone(name, which):
    """The others' gradients come as None; that of a sum has strides of zero."""
    module, x = small(name, 2)
    theirs = getattr(torch.nn, name)(2, 5, 2, dtype=torch.float64)
    theirs.load_state_dict(module.state_dict())
    found = []
    for m in (module, theirs):
        output, end = m(x)
        parts = (output, *end) if isinstance(end, tuple) else (output, end)
        loss = parts[min(which, len(parts) - 1)].sum()
        found.append(torch.autograd.grad(loss, (x, *m.parameters())))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_strides_of_the_outputs_gradient():
    module, x = small("GRU", bidirectional=True)
    d = torch.randn(4, 3, 10, dtype=torch.float64)
    strided = [
        d.transpose(0, 1).contiguous().transpose(0, 1),
        d.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        torch.randn(4, 3, 20, dtype=torch.float64)[..., ::2],
        d[:1].expand(4, 3, 10),
        d[:, :, :1].expand(4, 3, 10),
        torch.ones((), dtype=torch.float64).expand(4, 3, 10),
    ]
    for gradient in strided:
        found, expected = (
            torch.autograd.grad(module(x)[0], (x, *module.parameters()), g) for g in (gradient, gradient.clone())
        )
        assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_strides_of_the_input():
    module, x = small("LSTM")
    expected = module(x.detach().clone())[0]
    for form in (x.transpose(0, 1).contiguous().transpose(0, 1), x.permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        assert module(form.detach())[0].equal(expected)


@pytest.mark.parametrize("shape", [(0, 3, 2), (4, 0, 2)])
def test_empty_input(shape):
    module, _ = small("LSTM", 2)
    x = torch.zeros(shape, dtype=torch.float64, requires_grad=True)
    output, (h_n, c_n) = module(x)
    assert output.shape == (*shape[:2], 5)
    total((output, (h_n, c_n))).backward()
    assert x.grad.shape == shape
    assert all(not parameter.grad.any() for parameter in module.parameters())
