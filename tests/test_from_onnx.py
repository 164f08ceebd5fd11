"""Layers from ONNX nodes against the operators' equations, and what is refused, by name."""

from __future__ import annotations

from contextlib import suppress
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from onnx_tools import (
    GATES,
    as_onnx,
    field,
    graph,
    model,
    node,
    recurrent_model,
    recurrent_node,
    run_node,
    tensor,
    weights,
)

import fastrnn
import fastrnn.interop.onnx
from fastrnn import CheckpointError
from fastrnn.checkpoint.limits import Limits
from fastrnn.checkpoint.source import Source
from fastrnn.interop.onnx import OnnxLayer

CHECKPOINTS = Path(__file__).parent / "data" / "checkpoints"
T, N, I, H = 5, 4, 2, 3
LENGTHS = np.array([3, 5, 0, 1], np.int32)
KINDS = list(GATES)


def sequence(seed=1, dtype=np.float32):
    return np.random.default_rng(seed).uniform(-1, 1, (T, N, I)).astype(dtype)


def states(D, seed=2, dtype=np.float32):
    return np.random.default_rng(seed).uniform(-1, 1, (2, D, N, H)).astype(dtype)


def strict(content):
    """`from_onnx` without what turns an unforeseen exception into a CheckpointError."""
    limits = Limits(None, 1_000_000, 256, True)
    limits.start(len(content), 0)
    return fastrnn.interop.onnx._layers(Source(memoryview(content)), limits)


OPTIONS = list(product(KINDS, ("forward", "reverse", "bidirectional"), (0, 1), (True, False), ("file", "call", None)))


@pytest.mark.parametrize(("kind", "direction", "layout", "bias", "given"), OPTIONS)
def test_it_computes_what_the_node_does(kind, direction, layout, bias, given, assert_close):
    """Lengths and initial states are constants of the file, are given in the call, or are not there."""
    D = 2 if direction == "bidirectional" else 1
    arrays, x, (h, c) = weights(kind, I, H, D, bias), sequence(), states(D)
    truth_options = {"direction": direction}
    options, constants, call = {}, {}, {}
    if given:
        truth_options |= {"lengths": LENGTHS, "h_0": h, "c_0": c}
        options = {"lengths": "L", "h": "h"} | ({"c": "c"} if kind == "LSTM" else {})
    if given == "file":
        constants = {"L": LENGTHS, "h": h.swapaxes(0, 1) if layout else h}
        if kind == "LSTM":
            constants["c"] = c.swapaxes(0, 1) if layout else c
    if given == "call":
        call = {"lengths": LENGTHS, "hx": (h, c) if kind == "LSTM" else h}
    content = recurrent_model(kind, arrays, constants, direction=direction, layout=layout, hidden_size=H, **options)
    layers = strict(content)
    assert list(layers) == ["rnn"]
    layer = layers["rnn"]
    assert isinstance(layer, OnnxLayer) == (direction == "reverse" or given == "file")
    result = layer(x.swapaxes(0, 1) if layout else x, **call)
    truth = run_node(kind, arrays, x, **truth_options)
    assert_close(as_onnx(result, D, layout=layout), truth, np.float32)


def test_relu(assert_close):
    arrays, x = weights("RNN", I, H, 2), sequence()
    layer = strict(recurrent_model("RNN", arrays, direction="bidirectional", activations=["Relu", "relu"]))["rnn"]
    truth = run_node("RNN", arrays, x, activation=lambda a: np.maximum(a, 0))
    assert layer.nonlinearity == "relu"
    assert_close(as_onnx(layer(x), 2), truth, np.float32)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats(dtype, assert_close):
    if dtype == "bfloat16":
        import ml_dtypes  # noqa: F401
    arrays = weights("LSTM", I, H, dtype=np.dtype(dtype))
    layer = strict(recurrent_model("LSTM", arrays))["rnn"]
    expected = np.float64 if dtype == "float64" else np.float32
    x = sequence(dtype=expected)
    assert layer.dtype == expected
    assert_close(as_onnx(layer(x), 1), run_node("LSTM", arrays, x), expected)


def test_what_the_call_gives_comes_before_the_file(assert_close):
    arrays, x, (h, c) = weights("LSTM", I, H), sequence(), states(1)
    options = {"lengths": "L", "h": "h", "c": "c"}
    layer = strict(recurrent_model("LSTM", arrays, {"L": LENGTHS, "h": h, "c": c}, **options))["rnn"]
    assert repr(layer) == "OnnxLayer(LSTM(2, 3), lengths=..., hx=...)"
    other, (h2, c2) = LENGTHS[::-1], states(1, 7)
    truth = run_node("LSTM", arrays, x, lengths=other, h_0=h2, c_0=c2)
    assert_close(as_onnx(layer(x, (h2, c2), lengths=other), 1), truth, np.float32)


def test_only_one_of_the_states_is_in_the_file(assert_close):
    arrays, x, (_, c) = weights("LSTM", I, H), sequence(), states(1)
    layer = strict(recurrent_model("LSTM", arrays, {"c": c}, c="c"))["rnn"]
    assert_close(as_onnx(layer(x), 1), run_node("LSTM", arrays, x, c_0=c), np.float32)


def test_states_of_zeros_fit_any_batch():
    """As torch writes them for a layer that is called without."""
    zeros = np.zeros((1, 1, H), np.float32)
    layer = strict(recurrent_model("LSTM", weights("LSTM", I, H), {"z": zeros}, h="z", c="z"))["rnn"]
    assert isinstance(layer, fastrnn.LSTM)
    assert layer(sequence())[0].shape == (T, N, H)


def test_calls_of_a_reverse_layer():
    layer = strict(recurrent_model("GRU", weights("GRU", I, H), direction="reverse"))["rnn"]
    assert repr(layer) == "OnnxLayer(GRU(2, 3), reverse=True)"
    with pytest.raises(ValueError, match="x should have 3 dimensions, got: 2"):
        layer(np.zeros((T, I)))
    with pytest.raises(ValueError, match="lengths should be between 0"):
        layer(sequence(), lengths=[T + 1] * N)
    assert layer(np.zeros((0, N, I)))[0].shape == (0, N, H)


def test_names_and_order():
    arrays = weights("GRU", I, H)
    first = recurrent_node("GRU", arrays, name="b")
    unnamed = recurrent_node("GRU", arrays, name="", outputs=("", "last"))
    same = recurrent_node("GRU", arrays, name="b", outputs=("other",))
    nodes = [node("Relu", ["x"], ["X"]), first, unnamed, same, node("LSTM", [], [], "not_ONNXs", "of.someone")]
    layers = strict(model(nodes, [tensor(*item) for item in arrays.items()]))
    assert list(layers) == ["b", "last", "other"]
    assert {repr(layer) for layer in layers.values()} == {"GRU(2, 3)"}


def test_weights_are_found_through_constants_and_identity():
    arrays = weights("GRU", I, H)
    nodes = [
        node("Constant", [], ["w"], value=("t", tensor("", arrays["W"]))),
        node("Identity", ["w"], ["w2"]),
        node("Identity", ["w2"], ["W"]),
        node("Identity", ["r"], ["R"]),
        recurrent_node("GRU", arrays, lengths="L"),
        node("Constant", [], ["L"], value_ints=[2, 1]),
    ]
    layer = strict(model(nodes, [tensor("r", arrays["R"]), tensor("B", arrays["B"])]))["rnn"]
    plain = strict(recurrent_model("GRU", arrays))["rnn"]
    assert layer.lengths.tolist() == [2, 1]
    for name, array in plain.state_dict().items():
        np.testing.assert_array_equal(layer.layer.state_dict()[name], array)


def test_zeros_may_be_left_out():
    """As writers of version 3 of protocol buffers do."""
    arrays = weights("GRU", I, H)
    bare = field(5, field(1, "layout") + field(20, 2)) + field(5, field(1, "activation_alpha") + field(20, 6))
    content = model([recurrent_node("GRU", arrays) + bare], [tensor(*item) for item in arrays.items()])
    assert repr(strict(content)["rnn"]) == "GRU(2, 3)"


def test_bytes_paths_and_files(tmp_path):
    content = recurrent_model("LSTM", weights("LSTM", I, H))
    (tmp_path / "a.onnx").write_bytes(content)
    with open(tmp_path / "a.onnx", "rb") as file:
        for source in (content, tmp_path / "a.onnx", str(tmp_path / "a.onnx"), file):
            assert repr(fastrnn.from_onnx(source)["rnn"]) == "LSTM(2, 3)"
    assert set(fastrnn.load(content)) == {"W", "R", "B"}


# Refusals


def changed(kind="LSTM", drop=(), constants=None, before=(), **options):
    arrays = weights(kind, I, H)
    tensors = {name: array for name, array in arrays.items() if name not in drop} | (constants or {})
    nodes = [*before, recurrent_node(kind, arrays, **options)]
    return model(nodes, [tensor(*item) for item in tensors.items()])


BODY = graph([recurrent_node("GRU", weights("GRU"), name="inner")])
LOOP = graph([node("Loop", ["n"], ["y"], body=("g", BODY))])
FUNCTION = field(25, field(1, "fn") + field(7, recurrent_node("LSTM", weights("LSTM"), name="inner")))
REFUSED = {
    "peepholes": (changed(more=("P",)), "peepholes"),
    "clip": (changed(clip=3.0), "clip=3.0"),
    "activations": (changed(activations=["HardSigmoid", "Tanh", "Tanh"]), "activations .*HardSigmoid"),
    "relu LSTM": (changed(activations=["Sigmoid", "Relu", "Tanh"]), "activations"),
    "too few activations": (changed("RNN", activations=["Tanh", "Tanh"]), "activations"),
    "activation_alpha": (changed(activation_alpha=[0.5]), "activation_alpha"),
    "activation_beta": (changed(activation_beta=[0.5]), "activation_beta"),
    "input_forget": (changed(input_forget=1), "input_forget=1"),
    "linear_before_reset": (changed("GRU", linear_before_reset=0), "linear_before_reset=0"),
    "layout": (changed(layout=2), "layout=2"),
    "direction": (changed(direction="sideways"), "sideways"),
    "unknown attribute": (changed(novelty=1), "novelty=1"),
    "hidden_size": (changed(hidden_size=4), "hidden_size=4, but its weights are of 3"),
    "directions": (changed(direction="bidirectional"), "do not fit"),
    "bias": (changed(drop=["B"], constants={"B": np.zeros((1, 3), np.float32)}), "do not fit"),
    "integers": (changed(drop=["W"], constants={"W": np.zeros((1, 12, 2), np.int8)}), "W are of type int8"),
    "graph input": (changed(drop=["R"]), "weights R .* input of the graph"),
    "quantised": (
        changed(drop=["W"], before=[node("DequantizeLinear", ["q", "s"], ["W"], "dq")]),
        r"weights W .* computed by node 'dq' \(DequantizeLinear\)",
    ),
    "transposed": (
        changed(drop=["W"], before=[node("Transpose", ["q"], ["v"]), node("Identity", ["v"], ["W"])]),
        r"computed by node 'v' \(Transpose\)",
    ),
    "identity of itself": (changed(drop=["W"], before=[node("Identity", ["W"], ["W"])]), "weights W"),
    "no weights": (model([node("LSTM", ["X"], ["Y"], "rnn")]), "W and R"),
    "flat weights": (changed(drop=["W"], constants={"W": np.zeros(12, np.float32)}), "3 dimensions"),
    "empty weights": (changed(drop=["W"], constants={"W": np.zeros((1, 12, 0), np.float32)}), "do not fit"),
    "lengths": (changed(lengths="L", constants={"L": np.zeros(2, np.float32)}), "sequence_lens"),
    "state": (changed(h="h", constants={"h": np.ones((2, 4, 3), np.float32)}), "initial_h"),
    "state of integers": (changed(h="h", constants={"h": np.ones((1, 4, 3), np.int8)}), "initial_h"),
    "types": (changed(drop=["R"], constants={"R": np.zeros((1, 12, 3))}), "different types"),
    "state of doubles": (changed(h="h", constants={"h": np.ones((1, 4, 3))}), "initial_h is of type float64"),
    "constant text": (changed(drop=["W"], before=[node("Constant", [], ["W"], value_ints=["a"])]), "weights W"),
    "states": (
        changed(h="h", c="c", constants={"h": np.ones((1, 4, 3), "f4"), "c": np.ones((1, 5, 3), "f4")}),
        "different shapes",
    ),
}
NAMED_OTHERWISE = {
    "branch": (model([node("If", ["c"], ["y"], "if", then_branch=("g", BODY))]), r"'inner' \(GRU\) is .*'if' \(If\)"),
    "deep": (model([node("If", ["c"], ["y"], "if", then_branch=("g", LOOP))]), r"'inner' \(GRU\) is .*'if' \(If\)"),
    "function": (model([node("fn", ["x"], ["y"])], more=FUNCTION), r"'inner' \(LSTM\) is .* function 'fn'"),
    "none": (model([node("Add", ["x"], ["y"]), node("Relu", ["x"], ["z"])]), "no RNN.*Add, Relu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_named(case):
    content, match = REFUSED[case]
    with pytest.raises(CheckpointError, match=rf"^node 'rnn' \(\w+\): .*{match}"):
        strict(content)
    with pytest.raises(CheckpointError, match=rf"^<bytes>: node 'rnn' \(\w+\): .*{match}"):
        fastrnn.from_onnx(content)


@pytest.mark.parametrize("case", NAMED_OTHERWISE)
def test_models_without_nodes_to_take(case):
    content, match = NAMED_OTHERWISE[case]
    with pytest.raises(CheckpointError, match=match):
        strict(content)


def test_other_files_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.ones(3))
    with pytest.raises(CheckpointError, match=r"a\.npz: not an ONNX model but zip"):
        fastrnn.from_onnx(tmp_path / "a.npz")
    with pytest.raises(TypeError, match="expected a path"):
        fastrnn.from_onnx(3)


def test_deep_graphs_are_refused():
    body = graph()
    for _ in range(300):
        body = graph([node("If", ["c"], ["y"], then_branch=("g", body))])
    with pytest.raises(CheckpointError, match="max_depth"):
        strict(model([node("If", ["c"], ["y"], then_branch=("g", body))]))


def test_limits_are_arguments():
    content = recurrent_model("GRU", weights("GRU", I, H))
    for limit in ("max_ops", "max_bytes"):
        with pytest.raises(CheckpointError, match=limit):
            fastrnn.from_onnx(content, **{limit: 20})
    with pytest.raises(CheckpointError, match="max_depth=1"):
        fastrnn.from_onnx(model([node("If", [], ["y"], body=("g", LOOP))]), max_depth=1)


def test_nodes_that_share_weights_are_counted():
    """Each layer has a copy of its own."""
    arrays = weights("GRU", 1000, 10)
    nodes = [recurrent_node("GRU", arrays, name=str(i)) for i in range(1_000)]
    content = model(nodes, [tensor(*item) for item in arrays.items()])
    with pytest.raises(CheckpointError, match="more bytes of memory; max_bytes allows"):
        strict(content)
    small = weights("GRU", 1, 1)
    nodes = [recurrent_node("GRU", small, name=str(i)) for i in range(20_000)]
    with pytest.raises(CheckpointError, match="20,000 layers takes"):
        strict(model(nodes, [tensor(*item) for item in small.items()]))


SMALL_WEIGHTS = weights("GRU", 1, 1)
SMALL = recurrent_model("GRU", SMALL_WEIGHTS, {"L": np.array([1])}, lengths="L", direction="reverse", layout=1)


def damaged_files():
    for n in range(len(SMALL)):
        yield SMALL[:n]
    for position in range(len(SMALL)):
        for change in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            damaged = bytearray(SMALL)
            damaged[position] ^= change
            yield bytes(damaged)


def test_truncated_and_damaged_files_give_layers_or_are_refused():
    assert repr(strict(SMALL)["rnn"]) == "OnnxLayer(GRU(1, 1, batch_first=True), reverse=True, lengths=...)"
    for content in damaged_files():
        with suppress(CheckpointError):
            assert strict(content)


def test_what_torch_exports():
    """Two layers: a node for each, with Transpose and Reshape between."""
    layers = fastrnn.from_onnx(CHECKPOINTS / "lstm.onnx")
    assert {name: repr(layer) for name, layer in layers.items()} == {
        "/LSTM": "LSTM(2, 3, bidirectional=True)",
        "/LSTM_1": "LSTM(6, 3, bidirectional=True)",
    }
    with np.load(CHECKPOINTS / "lstm_onnx.npz") as expected:
        y, h_n, c_n = expected["x"].swapaxes(0, 1), [], []
        for layer in layers.values():
            y, (h, c) = layer(y)
            h_n.append(h)
            c_n.append(c)
        np.testing.assert_allclose(y.swapaxes(0, 1), expected["output"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.concatenate(h_n), expected["h_n"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(np.concatenate(c_n), expected["c_n"], rtol=0, atol=1e-6)
