"""Show what a checkpoint holds: the recurrent layers with sizes and prefixes, and every array with shape and dtype.

Nothing in the file is executed, whatever it holds.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastrnn

from . import files, show

LONGEST = 60  # characters of a value that is not an array


class Layer(NamedTuple):
    prefix: str
    layer: str
    dtype: str
    parameters: int


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint: .pt .pth .safetensors .npz")
    parser.add_argument("--json", action="store_true", help="print as JSON")


def execute(args: Namespace) -> int:
    state = fastrnn.load(files.existing(args.file))
    arrays, others = flatten(state)
    layers = [describe(state, found.prefix) for found in fastrnn.find_layers(state)]
    if args.json:
        show.print_json(
            {
                "file": args.file,
                "bytes": os.path.getsize(args.file),
                "layers": [layer._asdict() for layer in layers],
                "arrays": [{"name": n, "shape": a.shape, "dtype": str(a.dtype), "bytes": a.nbytes} for n, a in arrays],
                "others": dict(others),
            }
        )
        return 0
    print(f"{args.file}: {show.size(os.path.getsize(args.file))}, {show.plural(len(arrays), 'array')}, "
          f"{sum(a.size for _, a in arrays):,} values")
    return 0
