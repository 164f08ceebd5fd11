"""The drop-in modules of fastrnn.interop.torch, as modules of torch: training, memory, weights, refusals."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import subprocess
import sys
import weakref

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")
from bridge_tools import each_backend, one_thread, small, spied, total  # noqa: E402, F401  # two are fixtures
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now

import fastrnn.interop.torch as bridge  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


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
