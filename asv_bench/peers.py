"""The engines: those of `fastrnn bench`, and OpenVINO and JAX."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastrnn.cli.engines import OPENERS as SHARED
from fastrnn.cli.engines import Engine, Opener, Problem, imported, onnx_model


@contextmanager
def open_openvino(threads: int) -> Iterator[Engine]:
    ov = imported("openvino")
    imported("onnx")  # makes the models

    def sequence(problem: Problem) -> Callable[[], Any]:
        request = openvino_request(onnx_model(problem), threads)
        # Given once and shared: handing arrays over in each call takes 20 to 300 us.
        request.set_input_tensor(ov.Tensor(problem.x, shared_memory=True))
        y = request.get_output_tensor().data

        def run() -> Any:
            request.infer()
            return y[:, 0]

        return run

    yield Engine("openvino", ov.__version__.split("-")[0], sequence)


def openvino_request(model: bytes, threads: int) -> Any:
    ov = imported("openvino")
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",  # it would use bfloat16 where the processor has it
    }
    core = ov.Core()
    return core.compile_model(core.read_model(model), "CPU", options).create_infer_request()


@contextmanager
def open_jax(threads: int) -> Iterator[Engine]:
    """JAX takes the number of threads from the processors that the process may use."""
    jax = imported("jax")

    def sequence(problem: Problem) -> Callable[[], Any]:
        cell, state, project = jax_cell(problem)
        x = jax.numpy.asarray(problem.x)
        # The projection outside the loop: 1.35 times as fast at H = 256 as inside it.
        scan = jax.jit(lambda x: jax.lax.scan(cell, state, project(x))[1])
        return lambda: scan(x).block_until_ready()

    yield Engine("jax", jax.__version__, sequence)


def jax_cell(
    problem: Problem, weights: Iterable[Any] | None = None
) -> tuple[Callable[..., Any], Any, Callable[..., Any]]:
    """``cell(state, gx) -> (state, y)``, the initial state, and ``project(x) -> gx``."""
    jax = imported("jax")
    np = jax.numpy
    w_ih, w_hh, b_ih, b_hh = map(np.asarray, problem.weights.values() if weights is None else weights)
    zeros = np.zeros((problem.N, problem.H), "float32")

    def rnn(h: Any, gx: Any) -> Any:
        h = np.tanh(gx + h @ w_hh.T + b_hh)
        return h, h

    def lstm(state: Any, gx: Any) -> Any:
        h, c = state
        i, f, g, o = np.split(gx + h @ w_hh.T + b_hh, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * np.tanh(g)
        h = jax.nn.sigmoid(o) * np.tanh(c)
        return (h, c), h

    def gru(h: Any, gx: Any) -> Any:
        (x_r, x_z, x_n), (h_r, h_z, h_n) = np.split(gx, 3, -1), np.split(h @ w_hh.T + b_hh, 3, -1)
        r, z = jax.nn.sigmoid(x_r + h_r), jax.nn.sigmoid(x_z + h_z)
        h = (1 - z) * np.tanh(x_n + r * h_n) + z * h
        return h, h

    cells = {"RNN": (rnn, zeros), "LSTM": (lstm, (zeros, zeros)), "GRU": (gru, zeros)}
    return *cells[problem.cell], lambda x: x @ w_ih.T + b_ih


OPENERS: dict[str, Opener] = {**SHARED, "openvino": open_openvino, "jax": open_jax}
