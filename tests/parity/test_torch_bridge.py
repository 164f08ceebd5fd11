"""The drop-in modules of fastrnn.interop.torch, held to torch's own: values, gradients, training, memory, refusals."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest
from sampler import Config, configurations

import fastrnn
from fastrnn.backends import current

torch = pytest.importorskip("torch")
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now
from torch_twin import each, to_torch  # noqa: E402

import fastrnn.interop.torch as bridge  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
CELLS = ("rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru")
SMALL = {"T": [1, 4], "N": [None, 1, 3], "I": [1, 2], "H": [3], "num_layers": [1, 2], "dtype": ["float64"]}


@pytest.fixture(autouse=True)
def _each_backend(backend):
    """Every test runs on every backend."""


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


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


def small(name="GRU", *args, dtype=torch.float64, **options):
    """A module with an input of 4 steps and 3 rows."""
    module = getattr(bridge, name)(2, 5, *args, dtype=dtype, **options)
    return module, torch.randn(4, 3, 2, dtype=dtype, requires_grad=True)


def spied(monkeypatch, *names):
    """A list that grows with every call of these functions of the backend: name, arguments, result."""
    seen = []
    backend = current()

    def recording(name, function):
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            seen.append((name, args, result))
            return result

        return call

    for name in names:
        monkeypatch.setattr(backend, name, recording(name, getattr(backend, name)))
    return seen


def total(result):
    """A scalar that depends on everything in a module's result."""
    output, end = result
    return output.square().sum() + sum(part.sin().sum() for part in (end if isinstance(end, tuple) else (end,)))


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


# --- training ---------------------------------------------------------------------------------------------------------


class Model(torch.nn.Module):
    def __init__(self, namespace, name, dtype):
        super().__init__()
        self.embedding = torch.nn.Embedding(7, 4, dtype=dtype)
        self.rnn = getattr(namespace, name)(4, 6, 2, batch_first=True, bidirectional=True, dtype=dtype)
        self.head = torch.nn.Linear(12, 3, dtype=dtype)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0].mean(1))


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-9), (torch.float32, 2e-5)])
def test_training_both_ways(name, dtype, close):
    ours, theirs = Model(bridge, name, dtype), Model(torch.nn, name, dtype)
    theirs.load_state_dict(ours.state_dict())
    tokens, targets = torch.randint(7, (20, 16, 5)), torch.randint(3, (20, 16))
    losses = []
    for model in (ours, theirs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9)
        for batch, target in zip(tokens, targets, strict=True):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=close)
    for (key, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=close, msg=key)


def test_double_backward_is_an_error():
    module, x = small()
    (gradient,) = torch.autograd.grad(module(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        gradient.sum().backward()
    # Here the output's gradient is a constant, but that of the input still depends on the input.
    output = module(x)[0].sum()
    gradients = torch.autograd.grad(output, (x, *module.parameters()), create_graph=True)
    assert all(gradient.requires_grad for gradient in gradients)
    for gradient in gradients:
        with pytest.raises(RuntimeError, match="can be differentiated once"):
            (output.detach() + gradient.square().sum()).backward(retain_graph=True)
    plain = torch.autograd.grad(module(x)[0].sum(), (x, *module.parameters()))
    assert all(a.equal(b) for a, b in zip(gradients, plain, strict=True))


@pytest.mark.parametrize("what", ["x", "h_0", "output", "weight_hh_l0", "bias_ih_l0"])
def test_changes_in_place_before_backward_are_an_error(what):
    module, x = small()
    x, h_0 = x.detach().clone(), torch.zeros(1, 3, 5, dtype=torch.float64)
    output, h_n = module(x, h_0)
    with torch.no_grad():
        {"x": x, "h_0": h_0, "output": output, **dict(module.named_parameters())}[what].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (output.sum() + h_n.sum()).backward()


@pytest.mark.parametrize("kind", ["tensor", "array"])
def test_resets_may_be_changed_in_place(kind):
    """A buffer of flags is often filled anew before the gradients are taken."""
    module, gradients = bridge.GRU(3, 4), []
    for changes in (False, True):
        reset = torch.zeros(5, 2, dtype=torch.bool)
        reset[2, 1] = True
        reset = reset if kind == "tensor" else reset.numpy()
        x = torch.ones(5, 2, 3, requires_grad=True)
        y, _ = module(x, reset=reset)
        if changes:
            reset[:] = True
        y.sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_final_states_may_be_changed_in_place():
    module, x = small("LSTM")
    output, (h_n, c_n) = module(x)
    expected = torch.autograd.grad(output.sum(), x, retain_graph=True)[0]
    h_n.mul_(0)
    c_n.mul_(0)
    assert torch.autograd.grad(output.sum(), x)[0].equal(expected)


def test_dropout_is_drawn_from_torchs_generator():
    module, x = small("GRU", 2, dropout=0.5)

    def draw(seed):
        torch.manual_seed(seed)
        return module(x)[0], module(x)[0]

    first, again = draw(1), draw(1)
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[0].equal(first[1])
    assert not first[0].equal(draw(2)[0])
    with torch.no_grad():
        assert draw(1)[0].equal(first[0])
    module.eval()
    state = torch.get_rng_state()
    module(x)
    assert state.equal(torch.get_rng_state())


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_first", [False, True])
def test_nothing_is_copied(batch_first, monkeypatch):
    module, x = small("GRU", batch_first=batch_first)
    seen = spied(monkeypatch, "forward", "backward", "weight_gradients")

    def same(tensor, array):
        return np.shares_memory(tensor.detach().numpy(), array)

    output, _ = module(x)
    gradients = []
    x.register_hook(gradients.append)
    d_output = torch.randn(4, 3, 5, dtype=torch.float64)
    output.backward(d_output)
    (_, forward, _), (_, backward, _), (_, _, weights) = seen
    _, x_seen, y_seen, *_ = forward
    assert same(x, x_seen)
    assert same(output, y_seen)
    _, record, dy_seen, _, _, dx_seen, _ = backward
    assert same(x, record.x)
    assert same(output, record.y)
    assert same(d_output, dy_seen)
    assert same(gradients[0], dx_seen)
    assert same(module.weight_ih_l0.grad, weights.w_ih)
    assert same(module.bias_hh_l0.grad, weights.b_hh)
    with torch.no_grad():
        output, _ = module(x)
    _, x_seen, y_seen, *_ = seen[-1][1]
    assert same(x, x_seen)
    assert same(output, y_seen)


def test_what_backward_needs_is_freed_with_the_graph(monkeypatch):
    import fastrnn.vjp

    tapes = []

    class Tape(fastrnn.vjp.Tape):
        def __init__(self, *args):
            super().__init__(*args)
            tapes.append(weakref.ref(self))

    monkeypatch.setattr(fastrnn.vjp, "Tape", Tape)
    module, x = small()
    loss = module(x)[0].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    gc.collect()
    assert tapes[0]() is None  # though the loss is still there
    assert len(tapes) == 1
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointing(use_reentrant):
    from torch.utils.checkpoint import checkpoint

    module, x = small("LSTM", 2, dropout=0.5)
    torch.manual_seed(1)
    expected = torch.autograd.grad(module(x)[0].sum(), (x, *module.parameters()))
    torch.manual_seed(1)
    checkpoint(lambda x: module(x)[0], x, use_reentrant=use_reentrant).sum().backward()
    assert all(t.grad.equal(e) for t, e in zip((x, *module.parameters()), expected, strict=True))


def test_saved_tensors_hooks():
    module, x = small()
    expected = torch.autograd.grad(module(x)[0].sum(), x)[0]
    with torch.autograd.graph.save_on_cpu():
        output = module(x)[0]
    assert torch.autograd.grad(output.sum(), x)[0].equal(expected)
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda tensor: tensor):
        output = module(x)[0]
    with pytest.raises(RuntimeError, match="saved_tensors_hooks"):
        output.sum().backward()


# --- weights ----------------------------------------------------------------------------------------------------------


def edit_by_optimizer(module):
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    torch.optim.SGD(module.parameters(), lr=0.1).step()


def edit_in_place(module):
    with torch.no_grad():
        module.bias_hh_l0[2] += 1


def edit_past_autograd(module):
    module.weight_hh_l0.data[1, 1] += 1  # raises no version counter


def edit_memory(module):
    module.weight_ih_l0.detach().numpy()[0, 0] += 1


def edit_by_name(module):
    module.weight_ih_l0 = torch.nn.Parameter(2 * module.weight_ih_l0.detach())


def edit_by_loading(module):
    module.load_state_dict({key: 2 * value for key, value in module.state_dict().items()})


EDITS = [edit_by_optimizer, edit_in_place, edit_past_autograd, edit_memory, edit_by_name, edit_by_loading]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("grad", [False, True])
def test_changed_weights_are_packed_anew(edit, grad):
    module, x = small()
    with torch.set_grad_enabled(grad):
        before = module(x)[0]
        edit(module)
        theirs = torch.nn.GRU(2, 5, dtype=torch.float64)
        theirs.load_state_dict(module.state_dict())
        torch.testing.assert_close(module(x)[0], theirs(x)[0], rtol=0, atol=1e-12)
    assert not module(x)[0].equal(before)


def test_unchanged_weights_are_packed_once(monkeypatch):
    module, x = small()
    seen = spied(monkeypatch, "prepare", "prepare_backward")

    with torch.no_grad():
        module(x)
        module(x)
    assert [name for name, *_ in seen] == ["prepare"]
    module(x)[0].sum().backward()
    once = len(seen)
    module(x)[0].sum().backward()
    assert len(seen) == once > 1
    edit_in_place(module)
    module(x)
    assert len(seen) == 2 * once


def test_another_backend():
    module, x = small("GRU", dtype=torch.float32)
    here = module(x)[0]
    with torch.no_grad(), fastrnn.use_backend("reference"):
        torch.testing.assert_close(module(x)[0], here.detach())
    with torch.no_grad(), fastrnn.use_backend("cython"):
        torch.testing.assert_close(module(x)[0], here.detach())


def test_another_dtype():
    module, x = small(dtype=torch.float32)
    expected = module(x)[0]
    module.double()
    torch.testing.assert_close(module(x.double())[0].float(), expected)


def test_parametrized_weights():
    module, x = small()
    torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    theirs = torch.nn.GRU(2, 5, dtype=torch.float64)
    torch.nn.utils.parametrizations.weight_norm(theirs, "weight_hh_l0")
    theirs.load_state_dict(module.state_dict())
    for m in (module, theirs):
        total(m(x)).backward()
    for a, b in zip(module.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-12)


OPTIONS = [
    ("RNN", {"nonlinearity": "relu", "bias": False}),
    ("LSTM", {"num_layers": 2, "proj_size": 2, "bidirectional": True}),
    ("GRU", {"num_layers": 3, "dropout": 0.2, "batch_first": True}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_a_module_is_torchs_in_everything_else(name, options):
    ours, theirs = (getattr(m, name)(3, 4, **options) for m in (bridge, torch.nn))
    assert isinstance(ours, getattr(torch.nn, name))
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    ours.load_state_dict(theirs.state_dict())


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "torch.save"])
def test_copies(copied):
    module, x = small("LSTM", 2)
    expected = module(x)[0]
    if copied == "deepcopy":
        other = copy.deepcopy(module)
    elif copied == "pickle":
        other = pickle.loads(pickle.dumps(module))
    else:
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    assert type(other) is bridge.LSTM
    assert other(x)[0].equal(expected)
    edit_in_place(other)
    assert not other(x)[0].equal(expected)
    assert module(x)[0].equal(expected)


def test_modes_of_torch():
    module, x = small()
    expected = module(x)[0].detach()
    with torch.inference_mode():
        output, h_n = module(x)
    assert output.is_inference()
    assert h_n.is_inference()
    assert output.equal(expected)
    assert module.requires_grad_(False)(x.detach())[0].grad_fn is None


def test_torch_compile_leaves_the_modules_alone():
    module, x = small("GRU", dtype=torch.float32)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), module)
    expected = model(x)[0]
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        output = compiled(x)[0]
        torch.testing.assert_close(output, expected)
        output.sum().backward()
    assert module.weight_hh_l0.grad.any()


# --- refusals ---------------------------------------------------------------------------------------------------------


def both_refuse(ours, theirs, *args):
    """The same error, in the same words."""
    with pytest.raises(Exception) as expected:  # noqa: PT011  # which one, torch says
        theirs(*args)
    with pytest.raises(expected.type) as found:
        ours(*args)
    assert str(found.value) == str(expected.value)


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
def test_wrong_shapes_have_torchs_errors(name, batch_first):
    ours, theirs = (getattr(m, name)(3, 4, 2, batch_first=batch_first) for m in (bridge, torch.nn))

    def states(*shape):
        return (torch.zeros(shape), torch.zeros(shape)) if name == "LSTM" else torch.zeros(shape)

    x = torch.zeros(5, 2, 3)
    N = 5 if batch_first else 2
    for wrong in (torch.zeros(3), torch.zeros(1, 2, 2, 3), torch.zeros(5, 2, 4), torch.zeros(5, 4), x.double()):
        both_refuse(ours, theirs, wrong)
    for hx in (states(2, 4), states(1, N, 4), states(2, N + 1, 4), states(2, N, 5)):
        both_refuse(ours, theirs, x, hx)
    for hx in (states(2, 1, 4), states(1, 4), states(2, 5)):
        both_refuse(ours, theirs, x[0], hx)
    if name == "LSTM":
        good, bad = torch.zeros(2, N, 4), torch.zeros(2, N, 5)
        both_refuse(ours, theirs, x, (good, bad))
        both_refuse(ours, theirs, x, (bad, good))
        both_refuse(ours, theirs, x, (good, bad[0]))
    else:
        both_refuse(ours, theirs, rnn.pack_sequence([torch.zeros(2, 5)]))
        both_refuse(ours, theirs, rnn.pack_sequence([torch.zeros(2, 3)]), states(2, 2, 4))
    with pytest.raises(RuntimeError, match=r"input.size\(-1\) must be equal to input_size"):
        ours(rnn.pack_sequence([torch.zeros(2, 5)]))
    with pytest.raises(RuntimeError, match="Expected hidden"):
        ours(rnn.pack_sequence([torch.zeros(2, 3)]), states(2, 2, 4))


def test_other_refusals():
    gru, lstm = bridge.GRU(3, 4), bridge.LSTM(3, 4)
    x, h = torch.zeros(5, 2, 3), torch.zeros(1, 2, 4)
    cases = [
        (TypeError, "input should be a Tensor or a PackedSequence, got: ndarray", lambda: gru(x.numpy())),
        (TypeError, "hx should be a Tensor, got: tuple of 2", lambda: gru(x, (h, h))),
        (TypeError, "hx should be a Tensor, got: ndarray", lambda: gru(x, h.numpy())),
        (TypeError, "hx should be a pair .h_0, c_0. of Tensors, got: Tensor", lambda: lstm(x, h)),
        (TypeError, "hx should be a pair .h_0, c_0. of Tensors, got: tuple of 1", lambda: lstm(x, (h,))),
        (RuntimeError, "Input and hidden tensors are not the same dtype", lambda: gru(x, h.double())),
        (RuntimeError, "Input and hidden tensors are not the same dtype", lambda: lstm(x, (h, h.double()))),
        (RuntimeError, "Input and hidden tensors are not at the same device", lambda: gru(x, h.to("meta"))),
        (RuntimeError, "Input and parameter tensors are not at the same device", lambda: gru(x.to("meta"))),
        (ValueError, "lengths should be between 0", lambda: gru(x, lengths=[6, 1])),
        (ValueError, "reset should have shape", lambda: gru(x, reset=torch.zeros(5, dtype=torch.bool))),
        (ValueError, "lengths should be None", lambda: gru(rnn.pack_sequence([x[:, 0]]), lengths=[5])),
        (TypeError, "torch.float32 or torch.float64, got: torch.bfloat16", lambda: gru.bfloat16()(x.bfloat16())),
        (fastrnn.BackendError, "run on the CPU, got tensors on meta", lambda: lstm.to("meta")(x.to("meta"))),
    ]
    for kind, words, function in cases:
        with pytest.raises(kind, match=words):
            function()
    mixed = bridge.GRU(3, 4)
    mixed.weight_hh_l0 = torch.nn.Parameter(mixed.weight_hh_l0.detach().double())
    with pytest.raises(RuntimeError, match="Input and parameter tensors are not the same dtype"):
        mixed(x)
    wrong = bridge.GRU(3, 4)
    wrong.weight_hh_l0 = torch.nn.Parameter(torch.zeros(12, 5))
    with pytest.raises(RuntimeError, match=r"weight_hh_l0 should have shape \(12, 4\), got: \(12, 5\)"):
        wrong(x)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match="autocast"):
        bridge.GRU(3, 4)(x)
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda x: bridge.GRU(3, 4)(x)[0].sum())(x)


def test_without_torch():
    code = "import sys; sys.modules['torch'] = None; import fastrnn.interop.torch"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 1
    assert "ImportError: fastrnn.interop.torch needs torch: pip install torch" in result.stderr
