"""The contents of a checkpoint as a tree: names are taken apart at every "."."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

MAX_DEPTH = 40  # of names that are only made of dots


class Node:
    """A container, an array or a value; without `text` only a part of names that several have."""

    def __init__(self, label: str) -> None:
        self.label, self.text = label, ""
        self.n_values = self.n_bytes = 0  # of a layer its parameters; of a container what is in it
        self.children: dict[str, Node] = {}
        self._has_dots = False  # in a label of its children

    def at(self, name: str) -> Node:
        """The node of this name, which is made where it is not there."""
        node, parts = self, name.split(".", MAX_DEPTH) if name else []
        while parts:
            n = 1
            if node._has_dots:
                n = next((n for n in range(len(parts), 1, -1) if ".".join(parts[:n]) in node.children), 1)
            node = node._child(".".join(parts[:n]))
            parts = parts[n:]
        return node

    def _child(self, label: str) -> Node:
        self._has_dots |= "." in label
        return self.children.setdefault(label, Node(label))

    def add(self, name: str, text: str, n_values: int = 0, n_bytes: int = 0, key: str = "") -> None:
        """A node of this name without a text: one name can stand for two things, as in {"a.b": 1, "a": {"b": 2}}.

        With `key`, the end of the name, that is not taken apart.
        """
        node = self.at(name.removesuffix(key).removesuffix("."))._child(key) if key else self.at(name)
        if node.text:
            parent = self.at(name.rpartition(".")[0])
            node = parent.children[f"{node.label}\0{len(parent.children)}"] = Node(node.label)
        node.text, node.n_values, node.n_bytes = text, n_values, n_bytes

    def count(self) -> None:
        """Give containers the sum of what is in them."""
        for child in self.children.values():
            child.count()
            self.n_bytes += child.n_bytes


class Row(NamedTuple):
    name: str
    node: Node


def rows(root: Node, lines: bool) -> Iterator[Row]:
    """The nodes, each with its name behind the lines or blanks of the tree; `root` where it has a text."""
    if root.text:
        yield Row("", root)
    yield from _rows(root, "", lines)


def _rows(node: Node, indent: str, lines: bool) -> Iterator[Row]:
    last = len(node.children) - 1
    for i, child in enumerate(node.children.values()):
        label = child.label or "''"
        while not child.text and len(child.children) == 1:
            (child,) = child.children.values()
            label = f"{label}.{child.label}"
        corner, below = ("└─ ", "   ") if i == last else ("├─ ", "│  ")
        yield Row(indent + (corner if lines else "") + label, child)
        yield from _rows(child, indent + (below if lines else "  "), lines)
