"""Whole models, held to torch: the same attributes, and its checkpoint fits; names, text, values and gradients."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

import fastrnn

torch = pytest.importorskip("torch")
from test_names_and_refusals_torch import refusal, same_refusal  # noqa: E402  # they need torch


class Select(torch.nn.Module):
    """What torch users write for `SelectOutput`."""

    def __init__(self, *way):
        super().__init__()
        self.way = way

    def forward(self, x):
        for i in self.way:
            x = x[i]
        return x


def define(namespace, base):
    """The same two classes for both."""

    class Tagger(base):
        def __init__(self, hidden=5):
            super().__init__()
            self.embed = namespace.Embedding(9, 3, padding_idx=0)
            self.rnn = namespace.GRU(3, hidden, 2, batch_first=True, bidirectional=True)
            self.head = namespace.Linear(2 * hidden, 4)

        def forward(self, tokens):
            y, _ = self.rnn(self.embed(tokens))
            return self.head(y)

    class Outer(base):
        def __init__(self):
            super().__init__()
            mean = np.full(4, 0.5, np.float32)
            self.register_buffer("mean", mean if namespace is fastrnn else torch.from_numpy(mean))
            self.tagger = Tagger()
            self.again = self.tagger.head
            self.blocks = namespace.ModuleList([namespace.Linear(4, 4) for _ in range(3)])
            inner = namespace.Sequential(namespace.Softplus(), namespace.Tanh())
            self.act = namespace.Sequential(namespace.ReLU(), inner)
            self.missing = None

        def forward(self, tokens):
            y = self.tagger(tokens)
            for block in self.blocks:
                y = block(y)
            return self.act(y - self.mean)

    return Outer


def pair():
    torch.manual_seed(0)
    theirs, ours = define(torch.nn, torch.nn.Module)(), define(fastrnn, fastrnn.Module)()
    theirs.eval()
    return ours, theirs


def checkpoint(module):
    """What fastrnn reads of what torch wrote."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return fastrnn.load(file.getvalue())


def test_a_checkpoint_of_torch(assert_close):
    ours, theirs = pair()
    assert ours.load_state_dict(checkpoint(theirs)) == ([], [])
    tokens = np.random.default_rng(0).integers(0, 9, (3, 7))
    exact = copy.deepcopy(theirs).double()
    with torch.inference_mode():
        truth, peer = (module(torch.from_numpy(tokens)).numpy() for module in (exact, theirs))
    assert_close(ours(tokens), truth, "float32", peer)
    assert_close(ours.to("float64")(tokens), truth, "float64")


def test_names_and_text():
    ours, theirs = pair()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert list(ours.parameters()) == [name for name, _ in theirs.named_parameters()]
    assert [name for name, _ in ours.named_modules()] == [name for name, _ in theirs.named_modules()]
    for remove in (True, False):
        assert [name for name, _ in ours.named_modules(remove_duplicate=remove)] == [
            name for name, _ in theirs.named_modules(remove_duplicate=remove)
        ]
    assert [name for name, _ in ours.named_children()] == [name for name, _ in theirs.named_children()]
    assert len(list(ours.modules())) == len(list(theirs.modules()))
    assert repr(ours) == repr(theirs)
    for namespace in (fastrnn, torch.nn):
        assert repr(namespace.Sequential()) == "Sequential()"
    assert repr(fastrnn.ModuleList()) == repr(torch.nn.ModuleList())


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("tagger.rnn.bias_hh_l1"),
        lambda state: state.update({"b": state["mean"]}),
        lambda state: state.update({"mean": state["again.bias"][:2]}),
        lambda state: (
            (state.pop("mean"), state.update({"b": state["again.bias"], "again.bias": state["b"][:1]}))
            if "b" in state
            else state.update({"again.weight": state["again.bias"]})
        ),
    ],
)
def test_load_state_dict_refusals(change):
    ours, theirs = pair()
    state = checkpoint(theirs)
    change(state)
    refused = refusal(lambda: ours.load_state_dict(state))
    expected = refusal(lambda: theirs.load_state_dict({key: torch.tensor(a) for key, a in state.items()}))
    assert type(refused) is ValueError
    assert str(refused) == str(expected).replace("torch.Size([", "(").replace("])", ")").replace(". \n", ".\n") \
        .rstrip().replace("(1)", "(1,)").replace("(2)", "(2,)").replace("(4)", "(4,)")  # fmt: skip
    strict = [list(module.load_state_dict(s, strict=False)) for module, s in (
        (ours, {"b": np.ones(1)}), (theirs, {"b": torch.ones(1)}))]  # fmt: skip
    assert strict[0] == strict[1]


NETS = {
    "many to one": (
        lambda n: [n.Embedding(9, 3), n.LSTM(3, 4, 2, batch_first=True, bidirectional=True)],
        (1, 0, -1),
        lambda n: [n.Dropout(0.3), n.Linear(4, 6), n.GELU(), n.Linear(6, 2), n.LogSoftmax(-1)],
    ),
    "many to many": (
        lambda n: [n.Embedding(9, 3, padding_idx=0), n.GRU(3, 4, batch_first=True)],
        (0,),
        lambda n: [n.Linear(4, 4), n.LeakyReLU(0.2), n.Sequential(n.Linear(4, 2, bias=False), n.Softplus())],
    ),
    "flat": (
        lambda n: [n.Embedding(9, 3), n.RNN(3, 4, batch_first=True)],
        (0,),
        lambda n: [n.Flatten(), n.Linear(28, 3), n.ELU(), n.Softmax(-1)],
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sequential(name, dtype, assert_close):
    front, way, back = NETS[name]
    torch.manual_seed(1)
    theirs = torch.nn.Sequential(*front(torch.nn), Select(*way), *back(torch.nn)).eval()
    exact = copy.deepcopy(theirs).double()
    ours = fastrnn.Sequential(*front(fastrnn), fastrnn.SelectOutput(way), *back(fastrnn))
    ours.load_state_dict(checkpoint(theirs))
    ours.to(dtype)
    assert repr(ours[-1]) == repr(theirs[-1])
    tokens = np.random.default_rng(0).integers(0, 9, (3, 7))
    y, backward = ours.vjp(tokens)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(np.float32)
    grads = backward(dy)
    results = []
    for module in (exact, theirs):
        result = module(torch.from_numpy(tokens))
        scalar = (result * torch.from_numpy(dy).to(result.dtype)).sum()
        found = torch.autograd.grad(scalar, list(module.parameters()))
        names = [name for name, _ in module.named_parameters()]
        results.append((result.detach().numpy(), {n: g.numpy() for n, g in zip(names, found, strict=True)}))
    (truth, truth_grads), (peer, peer_grads) = results
    is_f32 = dtype == "float32"
    assert_close(y, truth, dtype, peer if is_f32 else None)
    assert list(grads.params) == list(truth_grads)
    assert_close(grads.params, truth_grads, dtype, peer_grads if is_f32 else None, gradient=True)


def test_saved_models_are_read_by_torch(tmp_path):
    net = fastrnn.Sequential(fastrnn.Embedding(9, 3), fastrnn.GRU(3, 4, batch_first=True), fastrnn.Linear(4, 2))
    fastrnn.save(net, tmp_path / "net.pt")
    content = torch.load(tmp_path / "net.pt", weights_only=True)
    assert content["fastrnn_model"]["parts"][0] == [
        "0", {"kind": "Embedding", "arguments": {"num_embeddings": 9, "embedding_dim": 3, "padding_idx": None},
              "dtype": "float32"}]  # fmt: skip
    theirs = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.GRU(3, 4, batch_first=True), torch.nn.Linear(4, 2))
    theirs.load_state_dict(content["state_dict"])
    for name, tensor in theirs.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), net.state_dict()[name])


def test_refusals_of_lists():
    for make in (
        lambda n: n.Sequential(n.ReLU())[1],
        lambda n: n.Sequential(n.ReLU())[-2],
        lambda n: n.ModuleList([n.ReLU()])[1],
        lambda n: n.Sequential(3),
        lambda n: n.ModuleList([3]),
    ):
        same_refusal(refusal(lambda make=make: make(fastrnn)), refusal(lambda make=make: make(torch.nn)))
    ours, theirs = pair()
    same_refusal(refusal(lambda: ours.nothing), refusal(lambda: theirs.nothing))
    same_refusal(refusal(lambda: fastrnn.Module()(1)), refusal(lambda: torch.nn.Module()(1)))
    for name in ("act", "missing"):
        same_refusal(
            refusal(lambda name=name: ours.register_buffer(name, np.ones(1))),
            refusal(lambda name=name: theirs.register_buffer(name, torch.ones(1))),
        )
    same_refusal(
        refusal(lambda: ours.add_module("act.b", fastrnn.ReLU())),
        refusal(lambda: theirs.add_module("act.b", torch.nn.ReLU())),
    )
