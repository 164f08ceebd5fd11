"""Show what a checkpoint holds: layers with their prefixes, arrays and values, as a tree with sizes.

Nothing in the file is executed, whatever it holds. With --html the same is
written as one page; with --input also what the gates of the recurrent layer do
over that array: its first row, at most 2,000 steps.
"""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Any

from ..atomic import atomic_path
from ..checkpoint import LayerInfo
from . import files, html, show, tree
from .contents import Entry, Memory, brief, contents, memory

RECURRENT = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional", "proj_size")
SHOWN_METADATA = 20
SHOWN_STEPS = 2000
TREE = ["name", ">values", ">size", "what"]


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint of any format that fastrnn.load reads")
    parser.add_argument("--json", action="store_true", help="print the same as JSON")
    files.add_limit(parser)
    parser.add_argument(
        "--html", metavar="PAGE.html", help="write a page that needs nothing else, in place of the text"
    )
    parser.add_argument("--input", metavar="X.npy", help="for the page: (T, N, features), (T, features); see above")
    parser.add_argument("--prefix", metavar="P", help="for --input: which layer, where there are several")


def execute(args: Namespace) -> int:
    check_page(args)
    state = files.load(args.file, check_crc=False, max_ops=args.max_ops)  # what is not shown is not read
    entries = contents(state)
    layers, problem = files.find_layers(state, args.file)
    shown = Shown(args.file, entries, layers)
    if args.html is not None:
        pictures = [gates(args)] if args.input else []
        with atomic_path(args.html) as path, open(path, "w", encoding="utf-8") as file:
            file.write(shown.page(pictures))
    if args.json:
        show.print_json(shown.as_json())
    elif args.html is None:
        shown.print("no recurrent layer that can be made" if problem else "no recurrent layer")
    if problem:  # of one layer: the arrays may show what is wrong
        raise problem
    return 0


class Shown:
    """One file."""

    def __init__(self, path: str, entries: list[Entry], layers: list[LayerInfo]) -> None:
        self.path, self.entries, self.layers = path, entries, layers
        self.n_bytes = os.path.getsize(path)
        self.about = files.about(path)
        self.arrays = [entry for entry in entries if entry.is_array]
        self.memory: Memory = memory([entry.value for entry in self.arrays])
        self.root = self._tree()

    def _tree(self) -> tree.Node:
        root = tree.Node("")
        shares = iter(self.memory.shares)
        for entry in self.entries:
            if entry.is_array:
                owner = next(shares)
                text = entry.text if owner is None else f"{entry.text}, shares memory with {self.arrays[owner].name}"
                root.add(entry.name, text, entry.value.size, entry.value.nbytes)
            elif entry.is_container and entry.name:
                root.add(entry.name, entry.text, key=entry.key)
            elif entry.name or not isinstance(entry.value, dict):
                root.add(entry.name, entry.text)
        for layer in self.layers:
            node = root.at(layer.prefix.removesuffix("."))
            node.text, node.n_values = layer.text, layer.n_parameters
        root.count()
        return root

    def as_json(self) -> dict[str, Any]:
        return {
            "file": self.path,
            "bytes": self.n_bytes,
            "format": self.about.format,
            "metadata": self.about.metadata,
            "layers": [self._layer(layer) for layer in self.layers],
            "arrays": [self._array(entry, owner) for entry, owner in zip(self.arrays, self.memory.shares, strict=True)],
            "containers": {entry.name: entry.text for entry in self.entries if entry.is_container},
            "others": {e.name: e.text for e in self.entries if not e.is_array and not e.is_container},
            "total": self._total(),
        }

    def _layer(self, layer: LayerInfo) -> dict[str, Any]:
        facts = {name: getattr(layer, name) for name in RECURRENT} if layer.is_recurrent else {}
        return {
            "prefix": layer.prefix,
            "kind": layer.kind,
            **layer.arguments,
            **facts,
            "dtype": str(layer.dtype),
            "n_parameters": layer.n_parameters,
            "is_recurrent": layer.is_recurrent,
            "text": layer.text,
            "bytes": self.root.at(layer.prefix.removesuffix(".")).n_bytes,
        }

    def _array(self, entry: Entry, owner: int | None) -> dict[str, Any]:
        return {
            "name": entry.name,
            "shape": entry.value.shape,
            "dtype": str(entry.value.dtype),
            "bytes": entry.value.nbytes,
            "shares_memory_with": None if owner is None else self.arrays[owner].name,
        }

    def _total(self) -> dict[str, int]:
        return {
            "arrays": len(self.arrays),
            "values": sum(entry.value.size for entry in self.arrays),
            "bytes": sum(entry.value.nbytes for entry in self.arrays),
            "bytes_without_shared": self.memory.n_bytes,
        }

    def facts(self) -> list[str]:
        """The file, its format and its size; all arrays."""
        total = self._total()
        shared = total["bytes"] - total["bytes_without_shared"]
        return [
            f"{show.plain(self.path)}: {self.about.format}, {show.size(self.n_bytes)}",
            f"{show.plural(total['arrays'], 'array')} of {total['values']:,} values, {show.size(total['bytes'])}"
            + (f", {show.size(shared)} of it shared" if shared else ""),
        ]

    def rows(self, lines: bool) -> list[tuple[str, str, str, str]]:
        """The tree: name, values, size, what it is."""
        return [
            (
                row.name or "(all)",
                f"{row.node.n_values:,}" if row.node.n_values else "",
                size_of(row.node),
                row.node.text,
            )
            for row in tree.rows(self.root, lines)
        ]

    def recurrent(self) -> list[tuple[str, str, str]]:
        found = [layer for layer in self.layers if layer.is_recurrent]
        return [(layer.prefix or "(none)", layer.text, f"{layer.n_parameters:,}") for layer in found]

    def page(self, pictures: list[str]) -> str:
        notes = [f"{brief(key)}: {brief(text)}" for key, text in list(self.about.metadata.items())[:SHOWN_METADATA]]
        layers = [
            ((layer.prefix or "(none)", layer.text, f"{layer.n_parameters:,}"), layer.n_parameters)
            for layer in self.layers
        ]
        sizes = [row.node.n_bytes for row in tree.rows(self.root, True)]
        sections = [
            html.table("Layers", ["prefix", "layer", ">parameters"], layers),
            *pictures,
            html.table("Contents", TREE, zip(self.rows(lines=True), sizes, strict=True)),
        ]
        return html.page(os.path.basename(self.path), [*self.facts(), *notes], sections)

    def print(self, otherwise: str) -> None:
        """Print it all; `otherwise` where no recurrent layer is found."""
        for line in self.facts():
            print(line)
        metadata = list(self.about.metadata.items())
        for key, text in metadata[:SHOWN_METADATA]:
            print(f"metadata {show.plain(brief(key))}: {show.plain(brief(text))}")
        if len(metadata) > SHOWN_METADATA:
            print(f"metadata ... {len(metadata) - SHOWN_METADATA:,} more")
        print()
        if recurrent := self.recurrent():
            show.print_table(["prefix", "recurrent layer", ">parameters"], recurrent)
        elif self.about.format == "ONNX":
            print("layers are in the graph: fastrnn.from_onnx makes them")
        else:
            print(otherwise)
        rows = self.rows(show.terminal())
        if rows:
            print()
            show.print_table(TREE, rows)


def size_of(node: tree.Node) -> str:
    return show.size(node.n_bytes) if node.n_bytes else ""


def check_page(args: Namespace) -> None:
    """Refuse a page that must not be written, before anything is read."""
    if args.html is None:
        if args.input or args.prefix:
            raise ValueError("--input and --prefix are for the page that --html writes")
        return
    if not args.html.endswith((".html", ".htm")):
        raise ValueError(f"--html: expected a name that ends in .html, got: {args.html}")
    for source in filter(None, (args.file, args.input)):
        if os.path.exists(args.html) and os.path.exists(source) and os.path.samefile(args.html, source):
            raise ValueError(f"--html would overwrite {source}, which is read")


def gates(args: Namespace) -> str:
    """What the gates of a layer do over an array, as a part of the page."""
    from ..plot import gates as plot_gates

    _, layer, _, batch_first = files.load_layer(args.file, args.prefix, max_ops=args.max_ops, batch_first=False)
    x = files.open_array(args.input)
    files.check_numbers(f"--input {args.input}", x)
    if x.ndim not in (2, 3) or x.shape[-1] != layer.input_size:
        axes = "N, T" if batch_first else "T, N"
        expected = f"({axes}, {layer.input_size}) or (T, {layer.input_size})"
        raise ValueError(f"--input {args.input}: expected shape {expected} for {layer!r}, got: {x.shape}")
    row = (x if x.ndim == 2 else x[0] if batch_first else x[:, 0])[:SHOWN_STEPS]
    return "".join(
        html.picture(f"Layer {index}{', reverse' * reverse}: gates over {len(row):,} steps", figure)
        for index in range(layer.num_layers)
        for reverse in range(1 + layer.bidirectional)
        for figure in [plot_gates(layer, row, layer_index=index, reverse=bool(reverse))]
    )
