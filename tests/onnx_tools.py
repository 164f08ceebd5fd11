"""ONNX files put together by hand, and what ONNX says that its nodes compute: nothing of the onnx package is needed."""

from __future__ import annotations

import struct

import numpy as np

TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11}
TYPES |= {"bfloat16": 16, "int4": 22}
GATES = {"RNN": 1, "LSTM": 4, "GRU": 3}


# Messages: each function gives bytes


def varint(value):
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number, value):
    """An int, a float, or bytes: a message, text, or numbers packed."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(name, array=None, *, dims=None, code=None, data=b""):
    """A TensorProto of raw data, or of whatever fields `data` has."""
    if array is not None:
        array = np.asarray(array)
        dims, code, data = array.shape, TYPES[array.dtype.name], field(9, array.tobytes())
    return b"".join(field(1, n) for n in dims) + field(2, code) + field(8, name) + data


def attribute(name, value):
    if isinstance(value, int):
        return field(1, name) + field(3, value) + field(20, 2)
    if isinstance(value, float):
        return field(1, name) + field(2, value) + field(20, 1)
    if isinstance(value, str):
        return field(1, name) + field(4, value) + field(20, 3)
    if isinstance(value, tuple):  # ("t", TensorProto) or ("g", GraphProto)
        number, kind = {"t": (5, 4), "g": (6, 5)}[value[0]]
        return field(1, name) + field(number, value[1]) + field(20, kind)
    number, kind = (9, 8) if isinstance(value[0], str) else (8, 7) if isinstance(value[0], int) else (7, 6)
    return field(1, name) + b"".join(field(number, item) for item in value) + field(20, kind)


def node(op_type, inputs, outputs, name="", domain="", **attributes):
    out = b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs)
    out += (field(3, name) if name else b"") + field(4, op_type)
    out += b"".join(field(5, attribute(key, value)) for key, value in attributes.items())
    return out + (field(7, domain) if domain else b"")


def graph(nodes=(), tensors=()):
    return b"".join(field(1, n) for n in nodes) + field(2, "g") + b"".join(field(5, t) for t in tensors)


def model(nodes=(), tensors=(), more=b""):
    """A ModelProto; `tensors` are the initializers."""
    return field(1, 8) + field(2, "by hand") + field(7, graph(nodes, tensors)) + field(8, field(2, 14)) + more


# A recurrent node


def weights(kind, I=2, H=3, D=1, bias=True, dtype=np.float32, seed=0):
    """Random arrays for W, R and, with a bias, B."""
    rng = np.random.default_rng(seed)
    G = GATES[kind]
    shapes = {"W": (D, G * H, I), "R": (D, G * H, H)} | ({"B": (D, 2 * G * H)} if bias else {})
    return {name: rng.uniform(-0.8, 0.8, shape).astype(dtype) for name, shape in shapes.items()}


def recurrent_node(kind, arrays, *, name="rnn", lengths="", h="", c="", more=(), outputs=("Y",), **attributes):
    """A node whose weights have the names of `arrays`."""
    inputs = ["X", "W", "R", "B" if "B" in arrays else "", lengths, h, *([c] if kind == "LSTM" else []), *more]
    if kind == "GRU":
        attributes.setdefault("linear_before_reset", 1)
    return node(kind, inputs, list(outputs), name, **attributes)


def recurrent_model(kind, arrays, constants=None, **options):
    tensors = [tensor(name, array) for name, array in {**arrays, **(constants or {})}.items()]
    return model([recurrent_node(kind, arrays, **options)], tensors)


# The operators, as https://onnx.ai/onnx/operators writes them, row by row and step by step in float64


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def run_node(kind, arrays, x, *, direction="forward", activation=np.tanh, lengths=None, h_0=None, c_0=None):
    """x (T, N, I); Y (T, D, N, H), Y_h (D, N, H) and, for LSTM, Y_c (D, N, H)."""
    T, N, _ = x.shape
    D, _, H = arrays["R"].shape
    Y, Y_h, Y_c = np.zeros((T, D, N, H)), np.zeros((D, N, H)), np.zeros((D, N, H))
    for d in range(D):
        W, R = (arrays[name][d].astype(np.float64) for name in "WR")
        B = arrays["B"][d].astype(np.float64) if "B" in arrays else np.zeros(2 * len(W))
        Wb, Rb = B[: len(W)], B[len(W) :]
        for n in range(N):
            h = np.zeros(H) if h_0 is None else h_0[d, n].astype(np.float64)
            c = np.zeros(H) if c_0 is None else c_0[d, n].astype(np.float64)
            steps = range(T if lengths is None else lengths[n])
            for t in reversed(steps) if direction == "reverse" or d == 1 else steps:
                u, v = W @ x[t, n] + Wb, R @ h + Rb
                if kind == "RNN":
                    h = activation(u + v)
                elif kind == "LSTM":
                    i, o, f, g = np.split(u + v, 4)
                    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
                    h = sigmoid(o) * np.tanh(c)
                else:
                    (u_z, u_r, u_h), (v_z, v_r, v_h) = np.split(u, 3), np.split(v, 3)
                    z, r = sigmoid(u_z + v_z), sigmoid(u_r + v_r)
                    h = (1 - z) * np.tanh(u_h + r * v_h) + z * h
                Y[t, d, n] = h
            Y_h[d, n], Y_c[d, n] = h, c
    return (Y, Y_h, Y_c) if kind == "LSTM" else (Y, Y_h)


def as_onnx(result, D, *, layout=0):
    """What a layer returned, as the outputs of the node with layout 0."""
    y, state = result
    y = y.swapaxes(0, 1) if layout else y
    T, N, features = y.shape
    return y.reshape(T, N, D, features // D).swapaxes(1, 2), *(state if isinstance(state, tuple) else (state,))
