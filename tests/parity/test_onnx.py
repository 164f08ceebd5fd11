"""ONNX beside the peers: onnxruntime, onnx's own reference, what onnx writes, and what torch exports."""

from __future__ import annotations

import io
from itertools import product

import numpy as np
import pytest
from onnx_tools import GATES, as_onnx, recurrent_model, run_node, weights

import fastrnn

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
reference = pytest.importorskip("onnx.reference")
onnxruntime = pytest.importorskip("onnxruntime")

T, N, I, H = 6, 4, 3, 5
DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}


def onnx_model(kind, arrays, constants, inputs, *, lengths="", h="", c="", **attributes):
    """The same node as `recurrent_model` makes, by onnx's own helpers, and checked."""
    helper, to_tensor = onnx.helper, onnx.numpy_helper.from_array
    names = ["X", "W", "R", "B" if "B" in arrays else "", lengths, h, *([c] if kind == "LSTM" else [])]
    outputs = ["Y", "Y_h", *(["Y_c"] if kind == "LSTM" else [])]
    node = helper.make_node(kind, names, outputs, "rnn", hidden_size=H, **attributes)
    types = [helper.make_tensor_value_info(n, 6 if n == "L" else 1, a.shape) for n, a in inputs.items()]
    results = [helper.make_tensor_value_info(name, 1, [None] * (4 if name == "Y" else 3)) for name in outputs]
    tensors = [to_tensor(array, name) for name, array in {**arrays, **constants}.items()]
    graph = helper.make_graph([node], "g", types, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def by_onnxruntime(content, inputs):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return tuple(onnxruntime.InferenceSession(content, options).run(None, inputs))


CASES = [
    (kind, direction, bias, lengths, states, activation)
    for kind, direction, bias, lengths, states, activation in product(
        GATES, DIRECTIONS, (True, False), ("", "file", "call"), ("", "file", "call"), ("Tanh", "Relu")
    )
    if kind == "RNN" or activation == "Tanh"
]


@pytest.mark.parametrize(("kind", "direction", "bias", "lengths", "states", "activation"), CASES)
def test_onnxruntime(kind, direction, bias, lengths, states, activation, assert_close):
    rng = np.random.default_rng(CASES.index((kind, direction, bias, lengths, states, activation)))
    D = DIRECTIONS[direction]
    arrays = weights(kind, I, H, D, bias, seed=int(rng.integers(1000)))
    h, c = rng.uniform(-1, 1, (2, D, N, H)).astype(np.float32)
    # Where a row has no steps, onnxruntime makes its final state zero and not the initial one.
    given = {"L": rng.integers(1 if states else 0, T + 1, N).astype(np.int32)} if lengths else {}
    if states:
        given |= {"h": h, "c": c} if kind == "LSTM" else {"h": h}
    attributes = {"direction": direction}
    if kind == "GRU":
        attributes["linear_before_reset"] = 1
    if kind == "RNN":
        attributes["activations"] = [activation] * D
    in_file = {"L": lengths == "file", "h": states == "file", "c": states == "file"}
    x = rng.uniform(-1, 1, (T, N, I)).astype(np.float32)
    inputs = {"X": x} | {name: array for name, array in given.items() if not in_file[name]}
    constants = {name: array for name, array in given.items() if in_file[name]}
    names = {"lengths": "L" if lengths else "", "h": "h" if states else "", "c": "c" if states else ""}
    content = onnx_model(kind, arrays, constants, inputs, **names, **attributes)
    call = {"lengths": given["L"]} if lengths == "call" else {}
    if states == "call":
        call["hx"] = (h, c) if kind == "LSTM" else h
    got = as_onnx(fastrnn.from_onnx(content)["rnn"](x, **call), D)
    peer = by_onnxruntime(content, inputs)
    truth = run_node(
        kind,
        arrays,
        x,
        direction=direction,
        activation=np.tanh if activation == "Tanh" else lambda a: np.maximum(a, 0),
        lengths=given.get("L"),
        h_0=given.get("h"),
        c_0=given.get("c"),
    )
    assert_close(got, truth, np.float32, peer)
    for ours, theirs in zip(got, peer, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "direction", "layout"), list(product(GATES, DIRECTIONS, (0, 1))))
def test_the_reference_of_onnx(kind, direction, layout):
    """It knows both layouts; onnxruntime has no kernels for layout 1."""
    D = DIRECTIONS[direction]
    arrays = weights(kind, I, H, D)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (N, T, I) if layout else (T, N, I)).astype(np.float32)
    h = rng.uniform(-1, 1, (N, D, H) if layout else (D, N, H)).astype(np.float32)
    states = {"h": "h"} | ({"c": "h"} if kind == "LSTM" else {})
    attributes = {"linear_before_reset": 1} if kind == "GRU" else {}
    options = {"direction": direction, "layout": layout, **attributes, **states}
    content = onnx_model(kind, arrays, {"h": h}, {"X": x}, **options)
    expected = reference.ReferenceEvaluator(onnx.load_from_string(content)).run(None, {"X": x})
    got = as_onnx(fastrnn.from_onnx(content)["rnn"](x), D, layout=layout)
    if layout:  # (T, D, N, H) and (D, N, H) are (N, T, D, H) and (N, D, H) there
        got = [got[0].transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in got[1:])]
    for ours, theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", GATES)
def test_what_the_tests_write_by_hand_is_onnx(kind):
    arrays = weights(kind)
    content = recurrent_model(kind, arrays, hidden_size=3, clip=1.5, activations=["Tanh", "Relu"], direction="reverse")
    graph = onnx.load_from_string(content).graph
    found = {a.name: onnx.helper.get_attribute_value(a) for a in graph.node[0].attribute}
    assert found.pop("linear_before_reset", 1) == 1
    assert found == {"hidden_size": 3, "clip": 1.5, "activations": [b"Tanh", b"Relu"], "direction": b"reverse"}
    assert list(graph.node[0].input)[:4] == ["X", "W", "R", "B"]
    for tensor in graph.initializer:
        np.testing.assert_array_equal(onnx.numpy_helper.to_array(tensor), arrays[tensor.name])


def element_types():
    types = onnx.TensorProto.DataType
    return [name for name in types.keys() if name not in ("UNDEFINED", "STRING")]  # noqa: SIM118


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("name", element_types())
def test_every_type_as_onnx_writes_it(name, raw):
    code = onnx.TensorProto.DataType.Value(name)
    values = np.random.default_rng(0).integers(0, 2, (3, 5)).astype(np.float32)  # what every type has
    values = np.maximum(values, 1) if name == "FLOAT8E8M0" else values
    values = values.astype(onnx.helper.tensor_dtype_to_np_dtype(code))
    if raw:
        tensor = onnx.numpy_helper.from_array(values, "a")
    else:
        tensor = onnx.helper.make_tensor("a", code, values.shape, values.ravel().tolist())
    model = onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [], [tensor]))
    got, expected = fastrnn.load(model.SerializeToString())["a"], onnx.numpy_helper.to_array(tensor)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()


def test_external_data_is_refused_until_it_is_in_the_file(tmp_path):
    content = onnx_model("LSTM", weights("LSTM", I, H), {}, {"X": np.zeros((T, N, I), np.float32)})
    path = tmp_path / "model.onnx"
    options = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    onnx.save(onnx.load_from_string(content), path, **options)
    with pytest.raises(fastrnn.CheckpointError, match="another file"):
        fastrnn.from_onnx(path)
    onnx.save(onnx.load(path), tmp_path / "whole.onnx")  # as the message says
    assert repr(fastrnn.from_onnx(tmp_path / "whole.onnx")["rnn"]) == "LSTM(3, 5)"


TORCH = [
    (kind, layers, bidirectional, batch_first, bias, with_states)
    for kind, layers, bidirectional, batch_first, bias, with_states in product(
        ("RNN", "LSTM", "GRU"), (1, 2), (False, True), (False, True), (True, False), (False, True)
    )
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "layers", "bidirectional", "batch_first", "bias", "with_states"), TORCH)
def test_what_torch_exports(kind, layers, bidirectional, batch_first, bias, with_states):
    """A node for each layer: what one puts out the next one takes in."""
    torch.manual_seed(0)
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    module = getattr(torch.nn, kind)(I, H, layers, **options).eval()
    x = torch.randn(N, T, I) if batch_first else torch.randn(T, N, I)
    D = 2 if bidirectional else 1
    state = torch.randn(layers * D, N, H)
    hx = (state, state.flip(0)) if kind == "LSTM" else state
    out = io.BytesIO()
    torch.onnx.export(module, (x, hx) if with_states else (x,), out, dynamo=False)
    nodes = fastrnn.from_onnx(out.getvalue())
    assert len(nodes) == layers
    y, final = x.numpy(), []
    y = y.swapaxes(0, 1) if batch_first else y  # torch writes layout 0, and transposes
    for i, layer in enumerate(nodes.values()):
        rows = slice(i * D, (i + 1) * D)
        part = tuple(s[rows].numpy() for s in hx) if kind == "LSTM" else hx[rows].numpy()
        y, state = layer(y, part if with_states else None)
        final.append(state[0] if kind == "LSTM" else state)
    with torch.no_grad():
        expected, state = module(x, hx) if with_states else module(x)
    y = y.swapaxes(0, 1) if batch_first else y
    np.testing.assert_allclose(y, expected.numpy(), rtol=0, atol=1e-6)
    h_n = state[0] if kind == "LSTM" else state
    np.testing.assert_allclose(np.concatenate(final), h_n.numpy(), rtol=0, atol=1e-6)
