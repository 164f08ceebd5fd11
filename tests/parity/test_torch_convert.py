"""from_torch, to_torch and record of fastrnn.interop.torch."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

import fastrnn
from fastrnn.cli import main

torch = pytest.importorskip("torch")
from torch.nn.utils import rnn  # noqa: E402  # torch is known to be here only now
from torch_twin import each, to_numpy  # noqa: E402

import fastrnn.interop.torch as bridge  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
NAMES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def options_of(name):
    """Every option of a class in some combination."""
    if name.endswith("Cell"):
        kinds = [{"nonlinearity": kind} for kind in ("tanh", "relu")] if name == "RNNCell" else [{}]
        return [{"bias": bias, **kind} for bias in (True, False) for kind in kinds]
    own = {"RNN": [{}, {"nonlinearity": "relu"}], "LSTM": [{}, {"proj_size": 2}], "GRU": [{}]}[name]
    return [
        {"num_layers": L, "bias": bias, "batch_first": first, "bidirectional": both, "dropout": 0.25 * (L > 1), **kind}
        for L, bias, first, both, kind in itertools.product((1, 3), (True, False), (True, False), (True, False), own)
    ]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_there_and_back(name, dtype):
    for options in options_of(name):
        module = getattr(torch.nn, name)(3, 4, **options, dtype=getattr(torch, dtype)).eval()
        layer = bridge.from_torch(module)
        assert type(layer) is getattr(fastrnn, name)
        assert str(layer.dtype) == dtype
        assert repr(layer) == repr(module)
        x = torch.randn((2, 3) if name.endswith("Cell") else (5, 2, 3), dtype=getattr(torch, dtype))
        expected = to_numpy(each(torch.Tensor.detach, module(x)))
        for got, right in zip(flat(layer(x.numpy())), flat(expected), strict=True):
            np.testing.assert_allclose(got, right, rtol=0, atol=1e-6)

        state = torch.get_rng_state()
        back = bridge.to_torch(layer)
        assert state.equal(torch.get_rng_state())
        assert type(back) is getattr(torch.nn, name)
        assert repr(back) == repr(module)
        for (key, a), (other, b) in zip(module.state_dict().items(), back.state_dict().items(), strict=True):
            assert key == other
            assert a.dtype == b.dtype
            assert a.equal(b)
        assert all(parameter.requires_grad for parameter in back.parameters())
        for a, b in zip(flat(back(x)), flat(module(x)), strict=True):
            assert a.equal(b)


def flat(result):
    return [a for part in result for a in flat(part)] if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_copies_and_the_mode_is_kept(name):
    module = getattr(torch.nn, name)(3, 4)
    layer = bridge.from_torch(module)
    assert layer.training
    assert not bridge.from_torch(module.eval()).training
    assert bridge.to_torch(layer).training
    assert not bridge.to_torch(layer.eval()).training
    before = layer.state_dict()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1
    with torch.no_grad():
        for parameter in bridge.to_torch(layer).parameters():
            parameter += 1
    assert all((a == before[key]).all() for key, a in layer.state_dict().items())


def test_dropout_of_a_single_layer_does_not_warn_again():
    with pytest.warns(UserWarning, match="dropout option"):
        module = torch.nn.GRU(3, 4, dropout=0.5)
    layer = bridge.from_torch(module)
    assert layer.dropout == 0.5
    assert bridge.to_torch(layer).dropout == 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_floats_are_widened(dtype):
    module = torch.nn.LSTM(3, 4).to(dtype)
    layer = bridge.from_torch(module)
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer.weight_ih_l0, module.weight_ih_l0.detach().float().numpy())


def test_from_our_modules_and_parametrized_ones():
    module = bridge.LSTM(3, 4, proj_size=2)
    layer = bridge.from_torch(module)
    assert type(layer) is fastrnn.LSTM
    x = torch.randn(5, 2, 3)
    normed = torch.nn.utils.parametrizations.weight_norm(torch.nn.GRU(3, 4), "weight_hh_l0")
    with torch.no_grad():
        np.testing.assert_array_equal(layer(x.numpy())[0], module(x)[0].numpy())
        normed.parametrizations.weight_hh_l0.original0 *= 2
        right = normed(x)[0].numpy()
    np.testing.assert_allclose(bridge.from_torch(normed)(x.numpy())[0], right, rtol=0, atol=1e-6)


def test_wrong_types():
    with pytest.raises(TypeError, match=r"module should be one of RNN, .* of torch.nn, got: torch.nn.*Linear"):
        bridge.from_torch(torch.nn.Linear(2, 3))
    with pytest.raises(TypeError, match=r"module should be one of .*, got: fastrnn.layers.recurrent.GRU"):
        bridge.from_torch(fastrnn.GRU(2, 3))
    with pytest.raises(TypeError, match=r"layer should be one of RNN, .* of fastrnn, got: torch.nn.*GRU"):
        bridge.to_torch(torch.nn.GRU(2, 3))
    with pytest.raises(NotImplementedError, match="meta"):  # torch's own words
        bridge.from_torch(torch.nn.GRU(2, 3, device="meta"))


# --- golden files -----------------------------------------------------------------------------------------------------


def verified(module, tmp_path, capsys, *options):
    """Whether `fastrnn verify` finds the recorded results right; the recorded values that it compared."""
    torch.save({f"a.b.{key}": value for key, value in module.state_dict().items()}, tmp_path / "model.pt")
    files = (str(tmp_path / "model.pt"), "--golden", str(tmp_path / "golden.npz"))
    status = main(["verify", *files, "--json", *options])
    checks = json.loads(capsys.readouterr().out)["checks"]
    compared = {check["value"] for check in checks if check["against"] == files[2]}
    return status == 0, compared


@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("form", ["plain", "unbatched", "packed"])
@pytest.mark.parametrize("given", [False, True])
def test_record_and_verify(name, batch_first, form, given, tmp_path, capsys):
    module = getattr(torch.nn, name)(3, 4, 2, bidirectional=True, batch_first=batch_first, dropout=0.5).eval()
    x = torch.randn(5, 3) if form == "unbatched" else torch.randn(5, 6, 3)
    N = () if form == "unbatched" else (5,) if batch_first else (6,)
    if form == "packed":
        x = rnn.pack_padded_sequence(x, torch.randint(1, 5, N), batch_first, enforce_sorted=False)
    states = [torch.randn(4, *N, 4) for _ in range(1 + (name == "LSTM"))]
    hx = [tuple(states) if name == "LSTM" else states[0]] if given else []
    result = bridge.record(module, x, *hx, path=tmp_path / "golden.npz")
    for a, b in zip(flat(result), flat(module(x, *hx)), strict=True):
        assert a is b is None or a.equal(b)
    golden = np.load(tmp_path / "golden.npz")
    keys = {"x", "batch_first", "output", "h_n"} | ({"h_0"} if given else set())
    keys |= {key.replace("h", "c") for key in keys if key.startswith("h_") and name == "LSTM"}
    keys |= {"lengths"} if form == "packed" else set()
    assert set(golden) == keys
    assert golden["batch_first"] == batch_first
    ok, compared = verified(module, tmp_path, capsys)
    assert ok
    assert compared == keys & {"output", "h_n", "c_n"}


@pytest.mark.parametrize("name", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_record_and_verify_a_cell(name, shape, tmp_path, capsys):
    module = getattr(torch.nn, name)(3, 4)
    h, c = torch.randn(2, *shape[:-1], 4)
    bridge.record(module, torch.randn(shape), (h, c) if name == "LSTMCell" else h, path=tmp_path / "golden.npz")
    ok, compared = verified(module, tmp_path, capsys)
    assert ok
    assert compared == ({"h_n", "c_n"} if name == "LSTMCell" else {"h_n"})


def test_record_of_our_module_and_what_verify_finds(tmp_path, capsys):
    module = bridge.RNN(3, 4, nonlinearity="relu", dtype=torch.float64)
    with torch.no_grad():
        bridge.record(module, torch.randn(5, 2, 3, dtype=torch.float64), path=str(tmp_path / "golden.npz"))
    assert verified(module, tmp_path, capsys, "--nonlinearity", "relu")[0]
    assert not verified(module, tmp_path, capsys)[0]


def test_record_is_part_of_the_graph(tmp_path):
    module = torch.nn.GRU(3, 4)
    output, _ = bridge.record(module, torch.randn(5, 2, 3), path=tmp_path / "golden.npz")
    output.sum().backward()
    assert module.weight_hh_l0.grad is not None


def test_refusals_of_record(tmp_path):
    x, path = torch.randn(5, 2, 3), tmp_path / "golden.npz"
    cases = [
        (TypeError, "module should be one of RNN", torch.nn.Linear(3, 4), path),
        (TypeError, "float32 or float64.*got: torch.bfloat16", torch.nn.GRU(3, 4).bfloat16(), path),
        (ValueError, "module should be in eval mode", torch.nn.GRU(3, 4, 2, dropout=0.5), path),
        (ValueError, "path should end in .npz, got: .*golden.pt", torch.nn.GRU(3, 4), tmp_path / "golden.pt"),
        (FileNotFoundError, "golden.npz", torch.nn.GRU(3, 4), tmp_path / "no" / "golden.npz"),
        (RuntimeError, "input.size", torch.nn.GRU(4, 4), path),
    ]
    for kind, words, module, where in cases:
        with pytest.raises(kind, match=words):
            bridge.record(module, x, path=where)
    assert not list(tmp_path.iterdir())
