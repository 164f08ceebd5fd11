"""Write a checkpoint in another format: .pt .pth .safetensors .npz.

A .pt keeps nesting; in the other two, names are joined with "." and all must
be arrays or numbers.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import fastrnn

from . import files


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN")
    parser.add_argument("output", metavar="OUT")


def execute(args: Namespace) -> int:
    fastrnn.save(files.load(args.input), args.output)
    return 0
