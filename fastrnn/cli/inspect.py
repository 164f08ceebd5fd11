"""Show what a checkpoint holds: recurrent layers with their prefixes, and arrays.

Nothing in the file is executed, whatever it holds.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from typing import Any

import numpy as np

import fastrnn

from ..checkpoint import LayerInfo, Opaque
from . import files, show
from .files import Array

Arrays = list[tuple[str, Array]]
Others = list[tuple[str, str]]

LONGEST_NAME = 300
SHOWN_ITEMS = 8  # of a list
SHOWN_TEXT = 60  # characters of a string


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint: .pt .pth .safetensors .npz")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def execute(args: Namespace) -> int:
    state = files.load(args.file)
    arrays, others = flatten(state)
    problem = None
    try:
        layers = files.find_layers(state, args.file)
    except fastrnn.CheckpointError as error:  # of one layer: the arrays may show what is wrong
        layers, problem = [], error
    n_bytes = os.path.getsize(args.file)
    if args.json:
        show.print_json(
            {
                "file": args.file,
                "bytes": n_bytes,
                "layers": [{**asdict(layer), "dtype": str(layer.dtype)} for layer in layers],
                "arrays": [{"name": n, "shape": a.shape, "dtype": str(a.dtype), "bytes": a.nbytes} for n, a in arrays],
                "others": dict(others),
            }
        )
    else:
        print_text(args.file, n_bytes, layers, arrays, others)
    if problem:
        raise problem
    return 0


def print_text(path: str, n_bytes: int, layers: list[LayerInfo], arrays: Arrays, others: Others) -> None:
    values = sum(a.size for _, a in arrays)
    print(f"{show.plain(path)}: {show.size(n_bytes)}, {show.plural(len(arrays), 'array')} of {values:,} values\n")
    if layers:
        layer_rows = [(layer.prefix or "(none)", torch_text(layer), f"{layer.n_parameters:,}") for layer in layers]
        show.print_table(["prefix", "layer", ">parameters"], layer_rows)
    else:
        print("no recurrent layer")
    if arrays:
        print()
        rows = [(name, a.shape, a.dtype, show.size(a.nbytes)) for name, a in arrays]
        show.print_table(["array", ">shape", "dtype", ">size"], rows)
    if others:
        print()
        show.print_table(["other", "value"], others)


def torch_text(layer: LayerInfo) -> str:
    """The layer as torch prints it."""
    usual = {"proj_size": 0, "num_layers": 1, "bias": True, "bidirectional": False}
    options = [f"{name}={getattr(layer, name)}" for name, value in usual.items() if getattr(layer, name) != value]
    return f"{layer.kind}({', '.join(map(str, [layer.input_size, layer.hidden_size, *options]))})"


def flatten(state: Any) -> tuple[Arrays, Others]:
    """All arrays, and all other values as text, under names joined by "."; in the order of the file."""
    arrays: Arrays = []
    others: Others = []
    seen: set[int] = set()  # containers: a file can refer to one many times, and to itself
    stack: list[tuple[str, Any]] = [("", state)]
    while stack:
        name, value = stack.pop()
        items = children(value)
        if isinstance(value, np.ndarray) and value.dtype != object:
            arrays.append((name, value))
        elif items is None:
            others.append((name, brief(value)))
        elif id(value) not in seen:
            seen.add(id(value))
            stack.extend(reversed([(join(name, key), item) for key, item in items]))
    return arrays, others


def join(name: str, key: object) -> str:
    """``name.key``, kept short: a hostile file has a giant name above thousands of arrays."""
    text = str(key)[:LONGEST_NAME]
    return f"{name}.{text}"[-LONGEST_NAME:] if name else text


def children(value: Any) -> list[tuple[object, Any]] | None:
    """What a container holds, where that is more than a few numbers; None: `brief` shows it."""
    if isinstance(value, dict):
        return list(value.items()) or None
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, np.ndarray | dict | list | tuple | Opaque) for item in value)
        return list(enumerate(value)) if nested else None
    if isinstance(value, Opaque):
        parts = (("args", value.args), ("state", value.state), ("items", value.items))
        return [(name, part) for name, part in parts if part] or None
    return None


def brief(value: Any) -> str:
    if isinstance(value, str | bytes):
        return repr(value[:SHOWN_TEXT]) + (f"... {len(value):,} in all" if len(value) > SHOWN_TEXT else "")
    if isinstance(value, list | tuple):
        items = ", ".join(brief(item) for item in value[:SHOWN_ITEMS])
        return f"[{items}]" if len(value) <= SHOWN_ITEMS else f"[{items}, ...] {len(value):,} in all"
    text = repr(value)
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}..."
