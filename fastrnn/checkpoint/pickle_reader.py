"""An interpreter of pickles that makes plain data and nothing else.

Nothing is ever imported, and nothing that a file names is ever called. A name in a pickle is a `Name`, two strings.
What a pickle does with names goes to a `Meanings` object, which gives a handful of them a meaning by code of ours;
everything else becomes an inert `Opaque` record. There is no other mode.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import numpy as np

from ..errors import CheckpointError
from .limits import Limits

_NAME_BYTES = 1000
_KEY_ITEMS = 64  # of a tuple that is a dictionary's key, in all
_SAME_HASH = 32  # keys of one dictionary
_INT_BYTES = 255


@dataclass(frozen=True, slots=True, eq=False)
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
        state = self.state
        inside = ", ".join(map(str, list(state)[:6])) if isinstance(state, dict) else type(state).__name__
        return f"<Opaque {shorten(f'{self.module}.{self.name}')}: {len(self.args)} args, state: {shorten(inside)}>"


class Meanings(Protocol):
    """What the names in a pickle stand for. Each method may raise CheckpointError."""

    def call(self, name: Name, args: tuple[Any, ...]) -> Any:
        """What `name` makes of `args`; an `Opaque` where it has no meaning."""

    def persistent(self, key: Any) -> Any:
        """The object outside the pickle that `key` stands for."""

    def build(self, value: Any, state: Any) -> bool:
        """Give `state` to `value`, which is neither a dict nor an Opaque; False if it takes none."""


class PickleReader:
    """Reads one pickle of protocol 2 to 5.

    Parameters
    ----------
    data : bytes
        Where the pickle is.
    meanings : Meanings
        Makes the objects.
    limits : Limits
        Counts opcodes, depth and the bytes of strings.
    position : int, optional
        Where it starts; after `read`, where it has ended.
    """

    def __init__(self, data: bytes, meanings: Meanings, limits: Limits, position: int = 0) -> None:
        self.data, self.position = data, position
        self._meanings, self._limits = meanings, limits
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}
        self._same_hash: Counter[tuple[int, int]] = Counter()

    def read(self) -> Any:
        """The object that the pickle describes.

        Raises
        ------
        CheckpointError
            The pickle is broken or exceeds a limit.
        """
        if self.data[self.position : self.position + 1] != b"\x80":
            raise CheckpointError("the pickle does not start with its protocol (2 to 5)")
        data, opcodes = self.data, _OPCODES
        for _ in range(self._limits.max_ops):
            if self.position >= len(data):
                _cut_off()
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                value = self._pop()
                if self._stack or self._marks:
                    raise CheckpointError("the pickle ends with more than one object")
                return value
            handler = opcodes.get(code)
            if handler is None:
                raise CheckpointError(f"pickle opcode {code:#04x} is not allowed")
            handler(self)
        raise CheckpointError(f"the pickle has more than max_ops={self._limits.max_ops:,} operations")

    # Parts of the file

    def _take(self, n: int) -> bytes:
        start = self.position
        if n > len(self.data) - start:
            _cut_off()
        self.position = start + n
        return self.data[start : self.position]

    def _take_int(self, n: int) -> int:
        return int.from_bytes(self._take(n), "little")

    def _take_bytes(self, n: int) -> bytes:
        if n > len(self.data) - self.position:
            _cut_off()
        self._limits.allocate(n, "the pickle")
        return self._take(n)

    def _take_text(self, n: int) -> str:
        try:
            return self._take_bytes(n).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise CheckpointError("the pickle holds a string that is not UTF-8") from None

    def _take_line(self) -> str:
        end = self.data.find(b"\n", self.position, self.position + _NAME_BYTES)
        if end < 0:
            raise CheckpointError("the pickle holds a name without an end")
        text = self._take_text(end - self.position)
        self.position += 1
        return text

    # The stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise CheckpointError("the pickle takes from an empty stack")
        return self._stack.pop()

    def _top(self) -> Any:
        if not self._stack:
            raise CheckpointError("the pickle looks at an empty stack")
        return self._stack[-1]

    def _mark(self) -> None:
        if len(self._marks) >= self._limits.max_depth:
            raise CheckpointError(f"the pickle is nested deeper than max_depth={self._limits.max_depth}")
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            raise CheckpointError("the pickle goes back to a mark that it has not set")
        items = self._stack
        self._stack = self._marks.pop()
        return items

    # Opcodes

    def _protocol(self) -> None:
        if not 2 <= self._take_int(1) <= 5:
            raise CheckpointError("the pickle's protocol is not 2 to 5")

    def _binfloat(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _long4(self) -> None:
        n = self._take_int(4)
        if n > _INT_BYTES:
            raise CheckpointError(f"the pickle holds an integer of {n:,} bytes; {_INT_BYTES} are allowed")
        self._push(int.from_bytes(self._take(n), "little", signed=True))

    def _put(self, key: int) -> None:
        self._memo[key] = self._top()

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise CheckpointError("the pickle refers to an object that it has not made")
        self._push(self._memo[key])

    def _tuple(self, n: int) -> None:
        if len(self._stack) < n:
            raise CheckpointError("the pickle takes from an empty stack")
        self._stack[-n:] = [tuple(self._stack[-n:])]

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise CheckpointError("the pickle names something by what is not a string")
        self._push(Name(module, name))

    def _global(self) -> None:
        self._name(self._take_line(), self._take_line())

    def _stack_global(self) -> None:
        name = self._pop()
        self._name(self._pop(), name)

    def _reduce(self) -> None:
        args, name = self._pop(), self._pop()
        if not isinstance(name, Name) or type(args) is not tuple:
            raise CheckpointError("the pickle calls something that is not a name")
        self._push(self._meanings.call(name, args))

    def _new_object(self, *, keywords: bool) -> None:
        extra = self._pop() if keywords else {}
        args, name = self._pop(), self._pop()
        if not isinstance(name, Name) or type(args) is not tuple or type(extra) is not dict:
            raise CheckpointError("the pickle makes an object of something that is not a name")
        self._push(Opaque(name.module, name.name, (*args, extra) if extra else args))

    def _build(self) -> None:
        state = self._pop()
        value = self._top()
        if isinstance(value, Opaque):
            value.state = state
        # What an ordered dictionary has besides its items, `_metadata` in a state_dict, has no use here.
        elif type(value) is not dict and not self._meanings.build(value, state):
            raise CheckpointError(f"the pickle gives a state to a {type(value).__name__}")

    def _append(self, items: list[Any]) -> None:
        value = self._top()
        if isinstance(value, Opaque):
            value.items = [] if value.items is None else value.items
            value = value.items
        if type(value) is not list:
            raise CheckpointError(f"the pickle appends to a {type(value).__name__}")
        value.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        value = self._top()
        if isinstance(value, Opaque):
            value.items = {} if value.items is None else value.items
            value = value.items
        if type(value) is not dict or len(items) % 2:
            raise CheckpointError(f"the pickle sets items of a {type(value).__name__}")
        keys = iter(items)
        for key, item in zip(keys, keys, strict=True):
            self._check_key(value, key)
            value[key] = item

    def _add_items(self) -> None:
        items = self._pop_mark()
        value = self._top()
        if type(value) is not set:
            raise CheckpointError(f"the pickle adds items to a {type(value).__name__}")
        for item in items:
            self._check_key(value, item)
            value.add(item)

    def _frozen_set(self) -> None:
        items, value = self._pop_mark(), set[Any]()
        for item in items:
            self._check_key(value, item)
            value.add(item)
        self._push(frozenset(value))

    def _check_key(self, container: object, key: Any) -> None:
        """Only what hashes quickly and cannot be made to collide may be a key."""
        kind = type(key)
        if kind in (str, bytes, bool, type(None), float, Name, Opaque) or isinstance(key, np.integer | np.floating):
            return
        if kind is int and key.bit_length() <= 64:
            return
        if kind is not tuple:
            raise CheckpointError(f"the pickle has a dictionary key that is a {kind.__name__} or too large")
        pending, seen = [key], 0
        while pending:
            part = pending.pop()
            seen += len(part)
            if seen > _KEY_ITEMS:
                raise CheckpointError("the pickle has a tuple that is too large for a dictionary key")
            for item in part:
                pending.append(item) if type(item) is tuple else self._check_key(container, item)
        # Tuples of one hash are easily made; thousands of them in one dictionary would take hours.
        bucket = (id(container), hash(key))
        self._same_hash[bucket] += 1
        if self._same_hash[bucket] > _SAME_HASH:
            raise CheckpointError("the pickle has dictionary keys that are made to collide")


def _cut_off() -> NoReturn:
    raise CheckpointError("the pickle is cut off")


def shorten(text: str) -> str:
    """`text` for a message: a file's strings may be long, and hold anything."""
    return ascii(text[:80])[1:-1] + ("..." if len(text) > 80 else "")


_STOP = ord(".")
_OPCODES: dict[int, Callable[[PickleReader], None]] = {
    0x80: PickleReader._protocol,
    0x95: lambda r: void(r._take(8)),  # FRAME: a hint for streams
    # constants and numbers
    ord("N"): lambda r: r._push(None),
    0x88: lambda r: r._push(True),
    0x89: lambda r: r._push(False),
    ord("K"): lambda r: r._push(r._take_int(1)),
    ord("M"): lambda r: r._push(r._take_int(2)),
    ord("J"): lambda r: r._push(int.from_bytes(r._take(4), "little", signed=True)),
    0x8A: lambda r: r._push(int.from_bytes(r._take(r._take_int(1)), "little", signed=True)),
    0x8B: PickleReader._long4,
    ord("G"): PickleReader._binfloat,
}
