"""Show what a checkpoint holds: its recurrent layers with their sizes and prefixes, and every array.

Nothing in the file is executed, whatever it holds.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np

import fastrnn
from fastrnn.checkpoint import Opaque

from . import files, show
from .files import Array

SHOWN_ITEMS = 8  # of a list
SHOWN_TEXT = 60  # characters of a string


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint: .pt .pth .safetensors .npz")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def execute(args: Namespace) -> int:
    state = fastrnn.load(files.existing(args.file))
    arrays, others = flatten(state)
    layers = [(found.prefix, fastrnn.from_state_dict(state, found.prefix)) for found in fastrnn.find_layers(state)]
    n_bytes = os.path.getsize(args.file)
    if args.json:
        show.print_json(
            {
                "file": args.file,
                "bytes": n_bytes,
                "layers": [{"prefix": p, "layer": repr(layer), "parameters": parameters(layer)} for p, layer in layers],
                "arrays": [{"name": n, "shape": a.shape, "dtype": str(a.dtype), "bytes": a.nbytes} for n, a in arrays],
                "others": dict(others),
            }
        )
        return 0
    values = sum(a.size for _, a in arrays)
    print(f"{show.plain(args.file)}: {show.size(n_bytes)}, {show.plural(len(arrays), 'array')} of {values:,} values\n")
    if layers:
        layer_rows = [(prefix or "(none)", layer, f"{parameters(layer):,}") for prefix, layer in layers]
        show.print_table(["prefix", "layer", ">parameters"], layer_rows)
    else:
        print("no recurrent layer")
    if arrays:
        print()
        array_rows = [(name, a.shape, a.dtype, f"{a.size:,}", show.size(a.nbytes)) for name, a in arrays]
        show.print_table(["array", ">shape", "dtype", ">values", ">size"], array_rows)
    if others:
        print()
        show.print_table(["other", "value"], others)
    return 0


def parameters(layer: Any) -> int:
    return sum(array.size for array in layer.parameters().values())


def flatten(state: Any) -> tuple[list[tuple[str, Array]], list[tuple[str, str]]]:
    """All arrays, and all other values as text, under names joined by "."; in the order of the file."""
    arrays: list[tuple[str, Array]] = []
    others: list[tuple[str, str]] = []
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
            stack.extend(reversed([(f"{name}.{key}" if name else str(key), item) for key, item in items]))
    return arrays, others


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
