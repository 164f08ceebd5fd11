"""What a checkpoint holds, under the names that `find_layers` uses; a part of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..checkpoint import Name, Opaque
from ..checkpoint.groups import LONGEST_PATH, is_module, key_text, parts_of
from ..checkpoint.storages import lay_out
from .files import Array
from .show import did_you_mean

LONGEST_NAME = 300  # that is shown
MAX_GUESSES = 2000
SHOWN_ITEMS = 8  # of a list
SHOWN_TEXT = 60  # characters of a string


class Entry(NamedTuple):
    """An array, a container, or another value; `text` is for people, `key` the end of its name."""

    name: str
    key: str
    value: Any
    text: str
    is_container: bool = False

    @property
    def is_array(self) -> bool:
        return is_array(self.value)


def contents(state: Any) -> list[Entry]:
    """All that is in a checkpoint, in the order of the file.

    Names are keys joined with ".", and kept short: a hostile file has a giant name above thousands of arrays. A
    container that stands in several places is looked into at the first one.
    """
    entries: list[Entry] = []
    seen: dict[int, str] = {}
    stack: list[tuple[str, str, Any]] = [("", "", state)]
    while stack:
        above, key, value = stack.pop()
        name = f"{above}.{key}"[-LONGEST_NAME:] if above else key
        items = children(value)
        if items is None:
            entries.append(Entry(name, key, value, brief(value)))
        elif id(value) in seen:
            entries.append(Entry(name, key, None, f"the same as {seen[id(value)] or 'the whole'}"))
        else:
            seen[id(value)] = name
            entries.append(Entry(name, key, value, kind(value), is_container=True))
            stack.extend(reversed([(name, key_text(key)[:LONGEST_NAME], item) for key, item in items]))
    return entries


def is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != object


def children(value: Any) -> list[tuple[object, Any]] | None:
    """What a container holds, where that is more than a few numbers; None: `brief` shows it."""
    items = list(parts_of(value))
    if isinstance(value, list | tuple):
        nested = any(isinstance(item, np.ndarray | dict | list | tuple | Opaque) for item in value)
        return items if nested else None
    if is_module(value):
        items = [(key, item) for key, item in items if item is not None]  # a bias that there is not
    elif isinstance(value, Opaque) and value.module.startswith("__torch__"):
        # TorchScript's lists of weights, each of which has its own name too
        items = [(k, v) for k, v in items if not key_text(k).startswith("_") or is_array(v) or isinstance(v, Opaque)]
    return items or None


def kind(value: Any) -> str:
    """What a container is: ``dict of 3``, ``module of class my.Model``."""
    if isinstance(value, Opaque):
        return f"{'module' if is_module(value) else 'object'} of class {value.module}.{value.name}"[:LONGEST_NAME]
    return f"{type(value).__name__} of {len(value):,}"


def brief(value: Any) -> str:
    """A value in a few words."""
    if is_array(value):
        return f"{value.dtype} {value.shape}"
    if isinstance(value, str | bytes):
        return repr(value[:SHOWN_TEXT]) + (f"... {len(value):,} in all" if len(value) > SHOWN_TEXT else "")
    if isinstance(value, list | tuple):
        left, right = "[]" if isinstance(value, list) else "()"
        items = ", ".join(brief(item) for item in value[:SHOWN_ITEMS])
        many = len(value) > SHOWN_ITEMS
        return f"{left}{items}{', ...' * many}{right}" + f" {len(value):,} in all" * many
    if isinstance(value, Name):
        return str(value)[:LONGEST_NAME]
    if isinstance(value, Opaque):
        return kind(value)
    text = repr(value)
    return text if len(text) <= SHOWN_TEXT else f"{text[:SHOWN_TEXT]}..."


class Memory(NamedTuple):
    """What arrays show of the same memory.

    Attributes
    ----------
    shares : list
        For each array the place of the first one that it shares memory with; None for that one, and without any.
    n_bytes : int
        Of all arrays, shared memory counted once.
    """

    shares: list[int | None]
    n_bytes: int


def memory(arrays: list[Array]) -> Memory:
    storages, places = lay_out(arrays)
    first: dict[int, int] = {}
    owners = [first.setdefault(place.storage, i) for i, place in enumerate(places)]
    shares = [owner if owner != i else None for i, owner in enumerate(owners)]
    return Memory(shares, sum(storage.nbytes for storage in storages))


_MISSING = object()


def part(state: Any, prefix: str) -> Any:
    """What stands in a checkpoint under a name, or under all names that begin with it and a ".".

    Raises
    ------
    ValueError
        There is nothing; names the nearest.
    """
    found = _part(state, prefix.removesuffix("."))
    if found is _MISSING:
        wanted, depth = prefix.removesuffix("."), prefix.count(".") + 2
        starts = {".".join(entry.name.split(".", depth)[:n]) for entry in contents(state) for n in range(1, depth)}
        raise ValueError(f"nothing is under the prefix {prefix!r}{did_you_mean(wanted, sorted(starts)[:MAX_GUESSES])}")
    return found


def _part(value: Any, wanted: str) -> Any:
    if not wanted:
        return value
    items = [(key_text(key), item) for key, item in children(value) or ()]
    below = {}
    for name, item in items:
        if name == wanted:
            return item
        if name.startswith(wanted + "."):
            below[name[len(wanted) + 1 :]] = item
    for name, item in [] if below else items:
        if wanted.startswith(name + "."):
            found = _part(item, wanted[len(name) + 1 :])
            if found is not _MISSING:
                return found
    return below or _MISSING


def arrays_in(state: Any) -> dict[str, Array]:
    """All arrays by name, those that stand in several places by each name.

    Raises
    ------
    ValueError
        Two have one name, or a name is far too long.
    """
    arrays: dict[str, Array] = {}
    _collect(arrays, state, "", set())
    return arrays


def _collect(arrays: dict[str, Array], value: Any, prefix: str, is_open: set[int]) -> None:
    if is_array(value):
        name = prefix.removesuffix(".")
        if name in arrays:
            raise ValueError(f"{name}: two arrays would have this name")
        arrays[name] = value
    elif id(value) not in is_open:
        for key, item in children(value) or ():
            text = f"{key_text(key)}."
            if len(prefix) + len(text) > LONGEST_PATH:
                raise ValueError(f"{(prefix + text)[:200]}...: the name is too long")
            _collect(arrays, item, prefix + text, is_open | {id(value)})
