"""Write a checkpoint in another format: .pt .pth .safetensors .npz.

A .pt keeps nesting; in the other two, names are joined with "." and all must
be arrays or numbers. What changes on the way is printed; what cannot be
written is an error that says where it is.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import fastrnn

from ..checkpoint.about import About
from ..checkpoint.groups import is_module
from ..checkpoint.save import SUFFIXES
from . import files, show
from .contents import arrays_in, contents, is_array, memory, part

HINT = "; --prefix P takes a part of the file, --arrays its arrays alone"
NOT_READ = {"ONNX": "the graph", "TorchScript archive": "the code and its constants"}
SHOWN_NAMES = 5


class Change(NamedTuple):
    """What is not as it was: of the values with these names, or of the file."""

    what: str
    names: list[str]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN")
    parser.add_argument("output", metavar="OUT", help="its suffix says the format; may be IN")
    parser.add_argument("--prefix", metavar="P", help="take what is under this name, as `inspect` shows it")
    parser.add_argument("--arrays", action="store_true", help="take arrays alone; of modules what their state_dict has")
    parser.add_argument("--json", action="store_true", help="print what changes as JSON")
    files.add_limit(parser)


def execute(args: Namespace) -> int:
    suffix = Path(args.output).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"{args.output}: expected a name that ends in one of {', '.join(SUFFIXES)}")
    state = files.load(args.input, max_ops=args.max_ops)
    about = files.about(args.input)
    changes = []
    if args.prefix is not None:
        state = part(state, args.prefix)
    if args.arrays:
        others = [entry for entry in contents(state) if not entry.is_array and not entry.is_container]
        left = [entry.name for entry in others if not is_module(entry.value)]  # ReLU() and the like hold nothing
        changes = [Change("left out, as they are no arrays", [name or "(all)" for name in left])]
        state = arrays_in(state)
    is_safetensors = suffix == ".safetensors"
    metadata = about.metadata if is_safetensors and about.format == "safetensors" else None
    try:
        fastrnn.save(state, args.output, metadata=metadata)
    except TypeError as error:
        raise TypeError(f"{args.input}: {error}{'' if args.arrays else HINT}") from None
    except ValueError as error:
        raise ValueError(f"{args.input}: {error}") from None
    if suffix in (".safetensors", ".npz"):
        changes += flattened(state)
    changes += lost(about, is_safetensors)
    report(args, [change for change in changes if change.names])
    return 0


def flattened(state: Mapping[str, Any]) -> list[Change]:
    """What a format without nesting, numbers and views makes of a dict that it can hold."""
    leaves = list(leaves_of(state, ""))
    empty = [name for name, value in leaves if isinstance(value, Mapping)]
    leaves = [leaf for leaf in leaves if not isinstance(leaf[1], Mapping)]
    arrays = [(name, value) for name, value in leaves if is_array(value)]
    shares = memory([array for _, array in arrays]).shares
    return [
        Change("left out, as there is nothing in them", empty),
        Change("become arrays, as the format has no numbers", [name for name, value in leaves if not is_array(value)]),
        Change(
            "stored by themselves, as the format shares no memory",
            [name for (name, _), owner in zip(arrays, shares, strict=True) if owner is not None],
        ),
    ]


def leaves_of(mapping: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    """Arrays, numbers and empty dicts, by name."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from leaves_of(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def lost(about: About, is_safetensors: bool) -> list[Change]:
    """What no value of the state holds."""
    names = [] if is_safetensors else [key for key in about.metadata if key != "format"]
    code = NOT_READ.get(about.format)
    return [Change("left out of the metadata, for which the format has no place", names)] + (
        [Change("left out", [code])] if code else []
    )


def report(args: Namespace, changes: list[Change]) -> None:
    n_bytes = os.path.getsize(args.output)
    if args.json:
        facts = {"input": args.input, "output": args.output, "bytes": n_bytes}
        show.print_json({**facts, "changes": [change._asdict() for change in changes]})
        return
    print(f"{show.plain(args.output)}: {show.size(n_bytes)}")
    for what, names in changes:
        listed = ", ".join(show.plain(name) for name in names[:SHOWN_NAMES])
        more = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
        print(f"  {what}: {listed}{more}")
