"""Layers from the RNN, LSTM and GRU nodes of an ONNX file. The file is read by fastrnn's own code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fastrnn

from .. import validate
from ..checkpoint import CheckpointError, read_with
from ..checkpoint.inert import shorten
from ..checkpoint.limits import Limits
from ..checkpoint.onnx import Node, attributes_of, functions_of, graph_of, graphs_in, initializers, nodes, read_tensor
from ..checkpoint.protobuf import Wire
from ..checkpoint.source import Source, format_of
from ..layers.base import ZEROS

Array = NDArray[Any]

#: Places in ONNX's order of the gates, by torch's order: ONNX has i o f c in LSTM and z r h in GRU.
_GATES = {"RNN": (0,), "LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2)}
_ACTIVATIONS = {"RNN": ("tanh",), "LSTM": ("sigmoid", "tanh", "tanh"), "GRU": ("sigmoid", "tanh")}
_DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
#: What is looked at; anything else a node says is refused. `output_sequence`, of old, does not change the numbers.
_ATTRIBUTES = {"activations", "direction", "hidden_size", "layout", "output_sequence"}
_W, _R, _B, _LENGTHS, _H, _C, _P = range(1, 8)  # places of inputs
_LAYER_BYTES = 1 << 14  # of a layer, its weights aside, and of the time to make it
_WEIGHTS = ("float16", "bfloat16", "float32", "float64")


def from_onnx(
    path_or_file_or_bytes: Any, *, max_bytes: int | None = None, max_ops: int = 1_000_000, max_depth: int = 256
) -> dict[str, Any]:
    """Make the layers that an ONNX model holds as RNN, LSTM and GRU nodes.

    Weights may be initializers, Constant nodes, and Identity of them.

    Parameters
    ----------
    path_or_file_or_bytes : path-like, bytes-like or binary file object
    max_bytes, max_ops, max_depth : int
        Limits as in `load`. `max_ops` bounds the fields of the file, some 15 a node; `max_depth` how deep bodies of
        branches and loops may nest.

    Returns
    -------
    dict of str to RNN, LSTM, GRU or OnnxLayer
        One layer for each node, in the order of the graph, by the node's name; by the name of its first output where
        it has no name of its own. ``layout=1`` is ``batch_first=True``. An `OnnxLayer` stands for a node that runs in
        reverse only, or that has its sequence lengths or initial states (other than zeros) from the file. Lengths and
        states that are inputs of the graph or computed in it are for the caller to give.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    CheckpointError
        Anything is wrong with the content; or a node needs what layers do not have, which the message names:
        peepholes, clipping, other activations, GRU with ``linear_before_reset=0``, weights that are computed in the
        graph, nodes inside loops, branches and functions.
    TypeError, ValueError
        An argument is wrong.
    """
    limits = Limits(max_bytes, max_ops, max_depth, check_crc=True)
    layers: dict[str, Any] = read_with(_layers, path_or_file_or_bytes, limits)
    return layers


class OnnxLayer:
    """A layer with what an ONNX node adds to it: the reverse direction alone, lengths and initial states.

    Parameters
    ----------
    layer : RNN, LSTM or GRU
    reverse : bool
        It runs from the last step of each row to the first.
    lengths : (N,) integers, optional
    hx : (D, N, H), for LSTM a pair of these, optional
        Used in calls that give none.

    Attributes
    ----------
    layer, reverse, lengths, hx
        The parameters.
    """

    def __init__(self, layer: Any, *, reverse: bool = False, lengths: Array | None = None, hx: Any = None) -> None:
        self.layer, self.reverse, self.lengths, self.hx = layer, reverse, lengths, hx

    def __call__(self, x: ArrayLike, hx: Any = None, *, lengths: ArrayLike | None = None) -> Any:
        """Run the layer over whole sequences.

        Parameters
        ----------
        x : (T, N, I), (N, T, I) where the layer is `batch_first`
        hx : (D, N, H), for LSTM a pair of these, optional
        lengths : (N,) integers in 0..T, optional

        Returns
        -------
        output : (T, N, D*H) or (N, T, D*H)
            0 past a row's length.
        h_n : (D, N, H)
            The state after the last step that was taken: in reverse, the first of the row. LSTM: the pair (h_n, c_n).

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.
        """
        x = validate.real_array("x", x, self.layer.dtype)
        if x.ndim != 3:
            raise ValueError(f"x should have 3 dimensions, got: {x.ndim}")
        hx = self.hx if hx is None else hx
        lengths = self.lengths if lengths is None else lengths
        if not self.reverse:
            return self.layer(x, hx, lengths=lengths)
        time, rows = (1, 0) if self.layer.batch_first else (0, 1)
        T, N = x.shape[time], x.shape[rows]
        ends = np.full(N, T) if lengths is None else validate.lengths(lengths, T, N)
        t = np.arange(T)[:, None]
        order = np.where(t < ends, ends - 1 - t, t)  # (T, N): each row's own steps the other way round
        order = np.expand_dims(order.T if self.layer.batch_first else order, 2)
        y, final = self.layer(np.take_along_axis(x, order, time), hx, lengths=ends)
        return np.take_along_axis(y, order, time), final

    def __repr__(self) -> str:
        said = ["reverse=True"] * self.reverse
        said += [f"{name}=..." for name in ("lengths", "hx") if getattr(self, name) is not None]
        return f"OnnxLayer({', '.join([repr(self.layer), *said])})"


# ---- the graph ------------------------------------------------------------------------------------------------------


def _layers(source: Source, limits: Limits) -> dict[str, Any]:
    if (kind := format_of(source.head)) != "onnx":
        raise CheckpointError(f"not an ONNX model but {kind}")
    wire = Wire(limits)
    graph = graph_of(source.data, wire)
    constants = _Constants(initializers(graph, wire), nodes(graph, wire), wire)
    for node in constants.nodes:
        for body in graphs_in(node, wire):
            _refuse_inside(nodes(body, wire), f"the body of {_called(node)}", wire)
    for name, body_nodes in functions_of(source.data, wire):
        _refuse_inside(body_nodes, f"the function {shorten(name)!r}", wire)
    recurrent = [node for node in constants.nodes if _is_recurrent(node)]
    limits.allocate(_LAYER_BYTES * len(recurrent), f"{len(recurrent):,} layers")
    layers: dict[str, Any] = {}
    for node in recurrent:
        name = node.name if node.name and node.name not in layers else _first_output(node)
        if name in layers:
            raise CheckpointError(f"two nodes have the name {shorten(name)!r}")
        try:
            layers[name] = _NodeReader(node, constants).layer()
        except CheckpointError as error:
            raise CheckpointError(f"{_called(node)}: {error}") from None
    if not layers:
        others = sorted({node.op_type for node in constants.nodes})
        raise CheckpointError(f"no RNN, LSTM or GRU node among its nodes ({shorten(', '.join(others))})")
    return layers


def _is_recurrent(node: Node) -> bool:
    return node.op_type in _GATES and node.domain in ("", "ai.onnx")


def _called(node: Node) -> str:
    return f"node {shorten(node.name or _first_output(node))!r} ({shorten(node.op_type)})"


def _first_output(node: Node) -> str:
    return next((output for output in node.outputs if output), "")


def _refuse_inside(found: Iterable[Node], where: str, wire: Wire, depth: int = 1) -> None:
    if depth > wire.limits.max_depth:
        raise CheckpointError(f"graphs are nested deeper than max_depth={wire.limits.max_depth}")
    for node in found:
        if _is_recurrent(node):
            raise CheckpointError(f"not supported: {_called(node)} is inside {where}")
        for body in graphs_in(node, wire):
            _refuse_inside(nodes(body, wire), where, wire, depth + 1)


class _Constants:
    """Values of a graph that are in the file, by name."""

    def __init__(self, initial: Mapping[str, memoryview], found: list[Node], wire: Wire) -> None:
        self.nodes, self.wire = found, wire
        self._initial = initial
        self._makers = {output: node for node in found for output in node.outputs if output}
        self._roots: dict[str, str] = {}  # output of Identity -> what it is; nodes come after those that they use
        for node in found:
            if node.op_type == "Identity":
                self._roots |= {y: self._roots.get(x, x) for x, y in zip(node.inputs, node.outputs, strict=False)}

    def maker(self, name: str) -> Node | None:
        """The node that computes a value, seen through Identity; None for an initializer or an input of the graph."""
        return self._makers.get(self._roots.get(name, name))

    def get(self, name: str) -> Array | None:
        """The value; None where it is not in the file."""
        name = self._roots.get(name, name)
        if name in self._initial:
            return read_tensor(self._initial[name], self.wire)
        node = self._makers.get(name)
        if node is None or node.op_type != "Constant":
            return None
        attributes = attributes_of(node, self.wire)
        if isinstance(attributes.get("value"), memoryview):
            return read_tensor(attributes["value"], self.wire)
        for name, kind in (("value_int", int), ("value_float", float)):
            for value in (attributes.get(name), attributes.get(name + "s")):
                if all(isinstance(item, kind) for item in (value if isinstance(value, list) else [value])):
                    return np.array(value, np.int64 if kind is int else np.float32)
        return None


# ---- one node -------------------------------------------------------------------------------------------------------


class _NodeReader:
    """Makes the layer of one node."""

    def __init__(self, node: Node, constants: _Constants) -> None:
        self.node, self.constants, self.kind = node, constants, node.op_type
        self.attributes = attributes_of(node, constants.wire)
        self._check_attributes()
        direction = self._one_of("direction", tuple(_DIRECTIONS))
        self.directions, self.reverse = _DIRECTIONS[direction], direction == "reverse"
        self.layout = self._one_of("layout", (0, 1))

    def _one_of(self, name: str, possible: tuple[Any, ...]) -> Any:
        """The value of an attribute, the first one where it is not given."""
        value = self.attributes.get(name, possible[0])
        if not isinstance(value, int | str) or value not in possible:
            raise CheckpointError(f"{name}={_shown(value)}, which ONNX does not have")
        return value

    def _check_attributes(self) -> None:
        given = dict(self.attributes)
        if self.kind == "GRU" and given.pop("linear_before_reset", 0) != 1:
            raise CheckpointError(
                "not supported: linear_before_reset=0; here, as in torch, the reset gate acts on the state's product "
                "with its weights and not on the state"
            )
        if self.kind == "LSTM" and given.get("input_forget") == 0:
            del given["input_forget"]
        for name, value in given.items():
            if name not in _ATTRIBUTES and value != []:
                raise CheckpointError(f"not supported: {shorten(name)}={_shown(value)}")

    def layer(self) -> Any:
        if self._input(_P):
            raise CheckpointError("not supported: peepholes (input P)")
        options: dict[str, Any] = {"bidirectional": self.directions == 2, "batch_first": self.layout == 1}
        nonlinearity = self._nonlinearity()
        if self.kind == "RNN":
            options["nonlinearity"] = nonlinearity
        w, r, b = self._weights()
        if any(array is not None and array.dtype != w.dtype for array in (r, b)):
            raise CheckpointError("its weights are of different types")
        dtype = np.float64 if w.dtype == np.float64 else np.float32
        H, I = r.shape[2], w.shape[2]
        size = sum(array.size for array in (w, r, b) if array is not None) * np.dtype(dtype).itemsize
        self.constants.wire.limits.allocate(size, "a layer")  # many nodes may share their weights
        layer = getattr(fastrnn, self.kind)(I, H, bias=b is not None, **options, dtype=dtype, rng=ZEROS)
        layer.load_state_dict(self._state(w, r, b, dtype))
        lengths, hx = self._lengths(), self._initial_states(H, w.dtype, dtype)
        if self.reverse or lengths is not None or hx is not None:
            return OnnxLayer(layer, reverse=self.reverse, lengths=lengths, hx=hx)
        return layer

    def _nonlinearity(self) -> str:
        default = _ACTIVATIONS[self.kind]
        found = self.attributes.get("activations") or list(default * self.directions)
        found = found if isinstance(found, list) else [found]
        names = tuple(name.lower() if isinstance(name, str) else "" for name in found)
        possible = [default, ("relu",)] if self.kind == "RNN" else [default]
        for functions in possible:
            if names == functions * self.directions:
                return functions[0]
        raise CheckpointError(f"not supported: activations {_shown(found)}")

    # -- inputs ---------------------------------------------------------------------------------------------------

    def _input(self, place: int) -> str:
        return self.node.inputs[place] if place < len(self.node.inputs) else ""

    def _weight(self, place: int, letter: str) -> Array | None:
        name = self._input(place)
        array = self.constants.get(name) if name else None
        if name and array is None:
            maker = self.constants.maker(name)
            source = f"are computed by {_called(maker)}" if maker else "are an input of the graph"
            raise CheckpointError(f"not supported: its weights {letter} ({shorten(name)!r}) {source}")
        if array is not None and array.dtype.name not in _WEIGHTS:
            raise CheckpointError(f"its weights {letter} are of type {array.dtype.name}")
        return array

    def _weights(self) -> tuple[Array, Array, Array | None]:
        w, r, b = (self._weight(place, letter) for place, letter in ((_W, "W"), (_R, "R"), (_B, "B")))
        if w is None or r is None or w.ndim != 3 or r.ndim != 3:
            raise CheckpointError("its weights W and R are not two arrays of 3 dimensions")
        D, H, rows = self.directions, r.shape[2], len(_GATES[self.kind]) * r.shape[2]
        fits = w.shape[:2] == r.shape[:2] == (D, rows) and (b is None or b.shape == (D, 2 * rows))
        if not fits or 0 in (*w.shape, H):
            shapes = ", ".join(str(a.shape) for a in (w, r, b) if a is not None)
            raise CheckpointError(f"the shapes of its weights {shapes} do not fit together")
        if (said := self.attributes.get("hidden_size", H)) != H:
            raise CheckpointError(f"hidden_size={_shown(said)}, but its weights are of {H}")
        return w, r, b

    def _state(self, w: Array, r: Array, b: Array | None, dtype: Any) -> dict[str, Array]:
        state = {}
        for d in range(self.directions):
            arrays = {"weight_ih": w[d], "weight_hh": r[d]}
            if b is not None:
                arrays["bias_ih"], arrays["bias_hh"] = np.split(b[d], 2)
            for name, array in arrays.items():
                gates = np.split(array.astype(dtype), len(_GATES[self.kind]))
                state[name + ("_l0", "_l0_reverse")[d]] = np.concatenate([gates[i] for i in _GATES[self.kind]])
        return state

    def _lengths(self) -> Array | None:
        lengths = self.constants.get(self._input(_LENGTHS))
        if lengths is not None and (lengths.ndim != 1 or lengths.dtype.kind not in "iu"):
            raise CheckpointError("its sequence_lens are not integers, one for each row")
        return lengths

    def _initial_states(self, H: int, stored: Any, dtype: Any) -> Any:
        """As `hx`; None where they are zeros, which fit any batch, or not in the file."""
        states: list[Array | None] = []
        for place, name in ((_H, "initial_h"), (_C, "initial_c"))[: 2 if self.kind == "LSTM" else 1]:
            state = self.constants.get(self._input(place))
            if state is not None:
                axes = (1, 0, 2) if self.layout else (0, 1, 2)  # of directions, rows, features
                if state.ndim != 3 or (state.shape[axes[0]], state.shape[2]) != (self.directions, H):
                    raise CheckpointError(f"its {name} is of shape {state.shape}")
                if state.dtype != stored:
                    raise CheckpointError(f"its {name} is of type {state.dtype.name}, its weights of {stored.name}")
                self.constants.wire.limits.allocate(state.size * np.dtype(dtype).itemsize, name)
                state = state.transpose(axes).astype(dtype) if state.any() else None
            states.append(state)
        there = [state for state in states if state is not None]
        if not there:
            return None
        filled = [np.zeros_like(there[0]) if state is None else state for state in states]
        if filled[0].shape != filled[-1].shape:
            raise CheckpointError("its initial states are of different shapes")
        return tuple(filled) if self.kind == "LSTM" else filled[0]


def _shown(value: Any) -> str:
    return shorten(repr(value)) if isinstance(value, int | float | str | list) else "of another kind"
