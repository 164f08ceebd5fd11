"""One layer on one input, run by fastrnn and by the engines it is compared with, in the fastest way each offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastrnn

from ..cells import CELLS, CellSpec

Array = NDArray[Any]

SPECS: dict[str, CellSpec] = {"LSTM": CELLS["lstm"], "GRU": CELLS["gru"], "RNN": CELLS["rnn_tanh"]}
FLOAT = 1  # in ONNX
ONNX_GATES = {"LSTM": "iofg", "GRU": "zrn", "RNN": "h"}
AGREE = 1e-4  # outputs lie between -1 and 1: what is further off is another layer, and no rounding
CHECKED = 100  # steps, of layers so large that the reference would take longer than all else


@dataclass(frozen=True)
class Problem:
    """A layer with one direction, float32, and its input."""

    cell: str  # LSTM, GRU or RNN
    T: int
    N: int
    I: int
    H: int

    @cached_property
    def layer(self) -> Any:
        return getattr(fastrnn, self.cell)(self.I, self.H, rng=0)

    @cached_property
    def weights(self) -> dict[str, Array]:
        """Under torch's names."""
        weights: dict[str, Array] = self.layer.state_dict()
        return weights

    @cached_property
    def x(self) -> Array:
        """(T, N, I)"""
        return np.random.default_rng(1).standard_normal((self.T, self.N, self.I), np.float32)

    @cached_property
    def truth(self) -> Array:
        """The output (T, N, H) in float64, or its first steps."""
        steps = self.T if self.H < 512 else CHECKED
        with fastrnn.use_backend("reference"):
            y: Array = self.layer.astype("float64")(self.x[:steps])[0]
        return y

    def error(self, y: Any) -> float:
        """How far `y` (T, N, H) is from the truth.

        Raises
        ------
        ValueError
            It has another shape.
        """
        y = np.asarray(y)
        expected = (self.T, self.N, self.H)
        if y.shape != expected:
            raise ValueError(f"y should have shape {expected}, got: {y.shape}")
        return float(np.abs(y[: len(self.truth)] - self.truth).max())


class Engine(NamedTuple):
    """What runs a layer.

    Attributes
    ----------
    name, version : str
    sequence : function
        ``sequence(problem)`` makes the layer; what it returns runs it over ``problem.x`` and returns y (T, N, H).
    """

    name: str
    version: str
    sequence: Callable[[Problem], Callable[[], Any]]


def imported(module: str) -> Any:
    """Type checkers find the same whether the module is installed or not."""
    return import_module(module)


Opener = Callable[[int], AbstractContextManager[Engine]]  # of the number of threads


@contextmanager
def open_fastrnn(threads: int) -> Iterator[Engine]:
    def sequence(problem: Problem) -> Callable[[], Any]:
        layer, x = fastrnn.from_state_dict(problem.weights), problem.x
        return lambda: layer(x)[0]

    before = fastrnn.get_num_threads()
    fastrnn.set_num_threads(threads)
    try:
        yield Engine("fastrnn", fastrnn.__version__, sequence)
    finally:
        fastrnn.set_num_threads(before)


@contextmanager
def open_torch(threads: int) -> Iterator[Engine]:
    torch = imported("torch")

    def sequence(problem: Problem) -> Callable[[], Any]:
        module = getattr(torch.nn, problem.cell)(problem.I, problem.H).eval()
        module.load_state_dict({name: torch.from_numpy(array) for name, array in problem.weights.items()})
        x = torch.from_numpy(problem.x)
        return lambda: module(x)[0]

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.inference_mode():
            yield Engine("torch", torch.__version__, sequence)
    finally:
        torch.set_num_threads(before)


@contextmanager
def open_onnxruntime(threads: int) -> Iterator[Engine]:
    ort = imported("onnxruntime")
    imported("onnx")  # makes the models

    def sequence(problem: Problem) -> Callable[[], Any]:
        session = onnxruntime_session(onnx_model(problem), threads)
        y = np.empty((problem.T, 1, problem.N, problem.H), np.float32)
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", ort.OrtValue.ortvalue_from_numpy(problem.x))
        binding.bind_output("Y", "cpu", 0, np.float32, y.shape, y.ctypes.data)

        def run() -> Array:
            session.run_with_iobinding(binding)
            return y[:, 0]

        return run

    yield Engine("onnxruntime", ort.__version__, sequence)


def onnxruntime_session(model: bytes, threads: int) -> Any:
    ort = imported("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def onnx_model(problem: Problem, *, state: bool = False) -> bytes:
    """The layer as an ONNX model with the input X and the output Y (T, 1, N, H).

    With `state` also from initial_h, and initial_c for an LSTM, to Y_h and Y_c, (1, N, H) each.
    """
    helper, numpy_helper = imported("onnx.helper"), imported("onnx.numpy_helper")
    spec, N, H = SPECS[problem.cell], problem.N, problem.H
    w_ih, w_hh, b_ih, b_hh = (_onnx_gates(problem.cell, w) for w in problem.weights.values())
    weights = {"W": w_ih[None], "R": w_hh[None], "B": np.concatenate([b_ih, b_hh])[None]}
    inputs: dict[str, tuple[int, ...]] = {"X": problem.x.shape}
    outputs: dict[str, tuple[int, ...]] = {"Y": (problem.T, 1, N, H)}
    if state:
        inputs |= {f"initial_{s}": (1, N, H) for s in spec.states}
        outputs |= {f"Y_{s}": (1, N, H) for s in spec.states}
    names = ["X", *weights, "", *list(inputs)[1:]]  # "": the lengths of the rows, not given
    # torch's GRU applies the reset gate after the recurrent product.
    options = {"linear_before_reset": 1} if problem.cell == "GRU" else {}
    node = helper.make_node(problem.cell, names, list(outputs), hidden_size=H, **options)

    def infos(arrays: Mapping[str, Any]) -> list[Any]:
        return [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in arrays.items()]

    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([node], "layer", infos(inputs), infos(outputs), initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _onnx_gates(cell: str, w: Array) -> Array:
    """`w` (G*H, ...) with its gates in ONNX's order."""
    parts = dict(zip(SPECS[cell].gates, np.split(w, SPECS[cell].n_gates), strict=True))
    return np.concatenate([parts[gate] for gate in ONNX_GATES[cell]])


OPENERS: dict[str, Opener] = {"fastrnn": open_fastrnn, "torch": open_torch, "onnxruntime": open_onnxruntime}


@contextmanager
def opened(
    openers: Mapping[str, Opener], threads: int, names: Iterable[str] | None = None
) -> Iterator[tuple[list[Engine], dict[str, str]]]:
    """The engines of those `names` (all by default) that are installed, and why others are not there."""
    engines: list[Engine] = []
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        for name in openers if names is None else names:
            try:
                engines.append(stack.enter_context(openers[name](threads)))
            except (ImportError, OSError) as error:  # OSError: a library that an engine wants
                left_out[name] = str(error)
        yield engines, left_out
