"""What stands for the objects of a pickle that have no meaning here, and what gives a meaning to the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol


@dataclass(slots=True, eq=False)
class Name:
    """A class or function that a pickle names: never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<name {shorten(str(self))}>"


@dataclass(slots=True, eq=False)
class Opaque:
    """An object of a class that fastrnn does not know: what the file says of it, as plain data.

    Attributes
    ----------
    module, name : str
        The class, or the function that would have made the object.
    args : tuple
        What it would have been called with.
    state : object
        What its ``__setstate__`` would have been given, or ``__dict__`` become; None without.
    items : list, dict or None
        What would have been appended to it, or stored in it.
    """

    module: str
    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] | dict[Any, Any] | None = None

    def __repr__(self) -> str:
        inside = type(self.state).__name__
        if isinstance(self.state, dict):
            inside = "of " + ", ".join(key for key in islice(self.state, 6) if isinstance(key, str))
        return f"<Opaque {shorten(f'{self.module}.{self.name}')}: {len(self.args)} args, state {shorten(inside)}>"


class Intermediate:
    """Base of what `Meanings` make for their own use only, and what messages call it."""

    what = "part"


class Unfinished(Intermediate):
    """What a pickle makes first and gives its content later: `finish` makes the object of it.

    In the memo the object takes its place. Where something else already refers to it, it is part of itself; that is
    refused.
    """

    def __init__(self, finish: Callable[[Any], Any], what: str) -> None:
        self.finish, self.what = finish, what
        self.memo_keys: list[int] = []


class Meanings(Protocol):
    """What the names in a pickle stand for. Each method may raise CheckpointError."""

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        """What `name` makes of `args`; an `Opaque` where it has no meaning."""

    def persistent(self, key: Any) -> Any:
        """The object outside the pickle that `key` stands for."""

    def build(self, value: Any, state: Any) -> bool:
        """Give `state` to `value`, which is no dict, Opaque or Unfinished; False if it takes none."""


def shorten(text: str) -> str:
    """`text` for a message: a file's strings may be long, and hold anything."""
    return ascii(text[:80])[1:-1] + ("..." if len(text) > 80 else "")
