"""One step per call with the state kept between calls: each engine in the fastest way it offers.

A step takes a frame (N, I) as a NumPy array, as it comes from a sensor or a network, and gives y (N, H).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from peers import jax_cell, openvino_request

from fastrnn.cli.engines import SPECS, Problem, imported, onnx_model, onnxruntime_session

Step = Callable[[NDArray[Any]], Any]


def fastrnn_stream(problem: Problem, threads: int) -> Step:
    step: Step = problem.layer.stream(problem.N).step
    return step


def torch_module(problem: Problem, threads: int) -> Step:
    torch = imported("torch")
    module = _torch(torch, problem, problem.cell, problem.weights)
    shape = (1, problem.N, problem.I)
    state = None

    def step(frame: NDArray[Any]) -> Any:
        nonlocal state
        y, state = module(torch.from_numpy(frame).view(shape), state)
        return y

    return step


def torch_cell(problem: Problem, threads: int) -> Step:
    torch = imported("torch")
    weights = {name.removesuffix("_l0"): array for name, array in problem.weights.items()}
    cell = _torch(torch, problem, problem.cell + "Cell", weights)
    state = None

    def step(frame: NDArray[Any]) -> Any:
        nonlocal state
        state = cell(torch.from_numpy(frame), state)
        return state[0] if problem.cell == "LSTM" else state

    return step


def _torch(torch: Any, problem: Problem, kind: str, weights: dict[str, NDArray[Any]]) -> Any:
    module = getattr(torch.nn, kind)(problem.I, problem.H).eval()
    module.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()})
    return module


def onnxruntime_run(problem: Problem, threads: int) -> Step:
    """As it is mostly written: the states come back as arrays and are handed in again."""
    session = onnxruntime_session(onnx_model(_one_step(problem), state=True), threads)
    names = SPECS[problem.cell].states
    outputs = ["Y", *(f"Y_{s}" for s in names)]
    feed = {f"initial_{s}": np.zeros((1, problem.N, problem.H), np.float32) for s in names}

    def step(frame: NDArray[Any]) -> Any:
        feed["X"] = frame[None]
        y, *states = session.run(outputs, feed)
        for s, state in zip(names, states, strict=True):
            feed[f"initial_{s}"] = state
        return y

    return step


def onnxruntime_bound(problem: Problem, threads: int) -> Step:
    """Two bindings in turn: the states that one writes are those that the other reads."""
    ort = imported("onnxruntime")
    one_step = _one_step(problem)
    session = onnxruntime_session(onnx_model(one_step, state=True), threads)
    x, y = np.empty((1, problem.N, problem.I), np.float32), np.empty((1, 1, problem.N, problem.H), np.float32)

    def value(array: NDArray[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_numpy(array)

    names = SPECS[problem.cell].states
    states = [{s: np.zeros((1, problem.N, problem.H), np.float32) for s in names} for _ in range(2)]
    bindings = []
    for before, after in (states, states[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", value(x))
        binding.bind_output("Y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
        for s in names:
            binding.bind_ortvalue_input(f"initial_{s}", value(before[s]))
            binding.bind_output(f"Y_{s}", "cpu", 0, np.float32, after[s].shape, after[s].ctypes.data)
        bindings.append(binding)

    def step(frame: NDArray[Any]) -> Any:
        x[0] = frame
        session.run_with_iobinding(bindings[0])
        bindings.reverse()
        return y

    return step


def openvino_bound(problem: Problem, threads: int) -> Step:
    request = openvino_request(onnx_model(_one_step(problem), state=True), threads)
    x, y = request.get_tensor("X").data, request.get_tensor("Y").data
    states = [
        (request.get_tensor(f"initial_{s}").data, request.get_tensor(f"Y_{s}").data) for s in SPECS[problem.cell].states
    ]
    for before, _ in states:
        before[...] = 0

    def step(frame: NDArray[Any]) -> Any:
        x[0] = frame
        request.infer()
        for before, after in states:
            before[...] = after
        return y

    return step


def jax_step(problem: Problem, threads: int) -> Step:
    cell, state, project = jax_cell(problem)
    jitted = imported("jax").jit(lambda state, frame: cell(state, project(frame)))

    def step(frame: NDArray[Any]) -> Any:
        nonlocal state
        state, y = jitted(state, frame)
        return y.block_until_ready()

    return step


def _one_step(problem: Problem) -> Problem:
    return Problem(problem.cell, 1, problem.N, problem.I, problem.H)


#: By the name of the engine, then by what is printed.
STEPS: dict[str, dict[str, Callable[[Problem, int], Step]]] = {
    "fastrnn": {"fastrnn": fastrnn_stream},
    "torch": {"torch module": torch_module, "torch cell": torch_cell},
    "onnxruntime": {"onnxruntime run": onnxruntime_run, "onnxruntime bound": onnxruntime_bound},
    "openvino": {"openvino": openvino_bound},
    "jax": {"jax": jax_step},
}


def steps(problem: Problem, engines: Iterable[str], threads: int) -> dict[str, Step]:
    return {name: make(problem, threads) for engine in engines for name, make in STEPS[engine].items()}


def all_steps(step: Step, problem: Problem) -> NDArray[Any]:
    """y (T, N, H) of T calls."""
    shape = (problem.N, problem.H)
    return np.array([np.array(step(frame)).reshape(shape) for frame in problem.x])
