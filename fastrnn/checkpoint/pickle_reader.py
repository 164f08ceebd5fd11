"""An interpreter of pickles that makes plain data and nothing else.

Nothing is ever imported, and nothing that a file names is ever called. A name in a pickle is a `Name`, two strings.
What a pickle does with names goes to a `Meanings` object, which gives a handful of them a meaning by code of ours;
everything else becomes an inert `Opaque` record. There is no other mode.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any, NoReturn

from ..errors import CheckpointError
from .bounds import KeyRules, check_tree
from .inert import Intermediate, Meanings, Name, Unfinished
from .inert import Opaque as Opaque
from .inert import shorten as shorten
from .limits import Limits

_NAME_BYTES = 1000
_SET_BYTES = 216  # the only small object that is this large when empty
_MAX_ARGS = 64
_PICKLE_OPS = 30  # what it costs to read one at all
_NAME_OPS, _PERSISTENT_OPS = 3, 3  # beside the opcode itself; honest pickles remember names
_INT_BYTES = 255  # more has no use, and takes long to print


class PickleReader:
    """Reads one pickle of protocol 2 to 5.

    Parameters
    ----------
    data : bytes or memoryview
        Where the pickle is.
    meanings : Meanings
        Makes the objects.
    limits : Limits
        Counts opcodes, depth and the bytes of strings.
    position : int, optional
        Where it starts; after `read`, where it has ended.
    """

    def __init__(self, data: bytes | memoryview, meanings: Meanings, limits: Limits, position: int = 0) -> None:
        self.data, self.position = data, position
        self._meanings, self._limits = meanings, limits
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}
        self._keys = KeyRules(inert=(Name, Opaque), limits=limits)

    def read(self) -> Any:
        """The object that the pickle describes.

        Raises
        ------
        CheckpointError
            The pickle is broken or exceeds a limit.
        """
        value = self.run()
        check_tree(value, _parts, self._limits.max_depth, self._limits.max_ops)
        return value

    def run(self) -> Any:
        """As `read`, of a pickle whose object is not given away: it may be nested and shared without bounds."""
        if self.data[self.position : self.position + 1] != b"\x80":
            raise CheckpointError("the pickle does not start with its protocol (2 to 5)")
        data, opcodes, limits = self.data, _OPCODES, self._limits
        for n in range(limits.max_ops - limits.ops):
            if self.position >= len(data):
                _cut_off()
            code = data[self.position]
            self.position += 1
            if code == _STOP:
                value = self._pop()
                if self._stack or self._marks:
                    raise CheckpointError("the pickle ends with more than one object")
                limits.ops += n + _PICKLE_OPS
                return value
            handler = opcodes.get(code)
            if handler is None:
                raise CheckpointError(f"pickle opcode {code:#04x} is not allowed")
            handler(self)
        raise CheckpointError(f"the pickle has more than max_ops={limits.max_ops:,} operations")

    # Parts of the file

    def _take(self, n: int) -> bytes | memoryview:
        start = self.position
        if n > len(self.data) - start:
            _cut_off()
        self.position = start + n
        return self.data[start : self.position]

    def _take_byte(self) -> int:
        position = self.position
        if position >= len(self.data):
            _cut_off()
        self.position = position + 1
        return self.data[position]

    def _take_int(self, n: int) -> int:
        return int.from_bytes(self._take(n), "little")

    def _take_bytes(self, n: int) -> bytes:
        return bytes(self._take_counted(n))

    def _take_text(self, n: int) -> str:
        try:
            return str(self._take_counted(n), "utf-8", "surrogatepass")
        except UnicodeDecodeError:
            raise CheckpointError("the pickle holds a string that is not UTF-8") from None

    def _take_counted(self, n: int) -> bytes | memoryview:
        start = self.position
        if n > len(self.data) - start:
            _cut_off()
        self._limits.allocate(n, "the pickle")
        self.position = start + n
        return self.data[start : start + n]

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
        if not 2 <= self._take_byte() <= 5:
            raise CheckpointError("the pickle's protocol is not 2 to 5")

    def _push_long(self, n: int) -> None:
        if n > _INT_BYTES:
            raise CheckpointError(f"the pickle holds an integer of {n:,} bytes; {_INT_BYTES} are allowed")
        self._push(int.from_bytes(self._take(n), "little", signed=True))

    def _put(self, key: int) -> None:
        # Honest pickles remember an object after an operation that made it; more would only be large.
        if len(self._memo) > self._limits.max_ops // 2:
            raise CheckpointError(f"the pickle remembers more than half of max_ops={self._limits.max_ops:,} objects")
        self._memo[key] = value = self._top()
        if isinstance(value, Unfinished):
            value.memo_keys.append(key)

    def _get(self, key: int) -> None:
        if key not in self._memo:
            raise CheckpointError("the pickle refers to an object that it has not made")
        self._stack.append(self._memo[key])

    def _tuple(self, n: int) -> None:
        if len(self._stack) < n:
            raise CheckpointError("the pickle takes from an empty stack")
        self._stack[-n:] = [tuple(self._stack[-n:])]

    def _global(self) -> None:
        self._limits.spend(_NAME_OPS)
        start = self.position
        lines = bytes(self.data[start : start + 2 * _NAME_BYTES])
        middle = lines.find(b"\n", 0, _NAME_BYTES) + 1
        end = lines.find(b"\n", middle, middle + _NAME_BYTES) if middle else -1
        if end < 0:
            raise CheckpointError("the pickle holds a name without an end")
        self._push(Name(*self._take_text(end).split("\n")))
        self.position += 1

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if type(module) is not str or type(name) is not str:
            raise CheckpointError("the pickle names something by what is not a string")
        if max(len(module), len(name)) > _NAME_BYTES:
            raise CheckpointError(f"the pickle holds a name of more than {_NAME_BYTES} characters")
        self._push(Name(module, name))

    def _reduce(self) -> None:
        args, name = self._pop(), self._pop()
        if not isinstance(name, Name) or type(args) is not tuple:
            raise CheckpointError("the pickle calls something that is not a name")
        value = self._python_object(name, args) if len(args) <= 2 else None
        self._push(self._meanings.call(name, args) if value is None else value)

    def _python_object(self, name: Name, args: tuple[Any, ...]) -> Any:
        """Python's own types that pickles spell out by name; None for any other name."""
        kinds = tuple(map(type, args))
        match name.module.replace("__builtin__", "builtins"), name.name:
            case ("collections", "OrderedDict" | "defaultdict"):
                pairs = args[0] if name.name == "OrderedDict" and kinds == (list,) else []
                self._copying(pairs)
                if not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in pairs):
                    raise CheckpointError("the pickle makes an OrderedDict of what are not pairs")
                return self._fill_dict({}, [part for pair in pairs for part in pair])
            case ("collections", "Counter") if kinds == (dict,):
                return args[0]
            case ("builtins", "set" | "frozenset" as kind) if kinds == (list,):
                self._copying(args[0])
                items = self._fill_set(set(), args[0])
                return frozenset(items) if kind == "frozenset" else items
            case ("builtins", "complex") if kinds == (float, float):
                return complex(*args)
            case ("builtins", "bytes" | "bytearray") if kinds in ((), (bytes,)):
                return b"".join(args)
            case ("_codecs", "encode") if kinds == (str, str) and args[1] in ("latin1", "latin-1"):
                self._copying(args[0])
                try:
                    return bytes(args[0], "latin-1")
                except UnicodeEncodeError:
                    raise CheckpointError("the pickle holds bytes that are none") from None
        return None

    def _copying(self, items: list[Any] | str) -> None:
        # One opcode copies them all, and can be repeated; up to 100 bytes an item in a set.
        self._limits.allocate(100 * len(items) if isinstance(items, list) else len(items), "the pickle")

    def _new_object(self, *, keywords: bool) -> None:
        extra = self._pop() if keywords else {}
        args, name = self._pop(), self._pop()
        if not isinstance(name, Name) or type(args) is not tuple or type(extra) is not dict:
            raise CheckpointError("the pickle makes an object of something that is not a name")
        if extra and len(args) > _MAX_ARGS:
            raise CheckpointError(f"the pickle makes an object of {len(args):,} args; {_MAX_ARGS} are allowed")
        self._push(self._meanings.call(name, (*args, extra) if extra else args))

    def _persistent(self) -> None:
        self._limits.spend(_PERSISTENT_OPS)
        self._push(self._meanings.persistent(self._pop()))

    def _build(self) -> None:
        state = self._pop()
        value = self._top()
        if isinstance(value, Opaque):
            value.state = state
        elif isinstance(value, Unfinished):
            self._stack[-1] = finished = value.finish(state)
            keys, value.memo_keys = value.memo_keys, []  # the array may come again
            for key in keys:
                if self._memo[key] is value:
                    self._memo[key] = finished
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
        self._fill_dict(value, items)

    def _fill_dict(self, value: dict[Any, Any], items: list[Any]) -> dict[Any, Any]:
        for key, item in zip(items[::2], items[1::2], strict=True):
            self._keys.check(value, key)
            value[key] = item
        return value

    def _empty_set(self) -> None:
        self._limits.allocate(_SET_BYTES, "a set")
        self._push(set())

    def _add_items(self) -> None:
        items = self._pop_mark()
        value = self._top()
        if type(value) is not set:
            raise CheckpointError(f"the pickle adds items to a {type(value).__name__}")
        self._fill_set(value, items)

    def _frozen_set(self) -> None:
        self._push(frozenset(self._fill_set(set(), self._pop_mark())))

    def _fill_set(self, value: set[Any], items: list[Any]) -> set[Any]:
        for item in items:
            self._keys.check(value, item)
            value.add(item)
        return value


def _cut_off() -> NoReturn:
    raise CheckpointError("the pickle is cut off")


def _parts(value: Any) -> Iterable[Any] | None:
    """The parts of a container; None for anything else."""
    if isinstance(value, Intermediate):
        raise CheckpointError(f"the pickle holds a bare {value.what}")
    if type(value) in (list, tuple, set, frozenset):
        return value  # type: ignore[no-any-return]
    if type(value) is dict:
        return chain(value, value.values()) if value else None
    return (value.args, value.state, value.items) if type(value) is Opaque else None


_STOP = ord(".")
# EXT, INST, OBJ, PERSID, NEXT_BUFFER and the text opcodes of protocols 0 and 1 are missing: torch writes none of them.
_OPCODES: dict[int, Callable[[PickleReader], object]] = {
    0x80: PickleReader._protocol,
    0x95: lambda r: r._take(8),  # FRAME: how much a stream should buffer
    # constants and numbers
    ord("N"): lambda r: r._push(None),
    0x88: lambda r: r._push(True),
    0x89: lambda r: r._push(False),
    ord("K"): lambda r: r._push(r._take_byte()),
    ord("M"): lambda r: r._push(r._take_int(2)),
    ord("J"): lambda r: r._push(int.from_bytes(r._take(4), "little", signed=True)),
    0x8A: lambda r: r._push_long(r._take_byte()),
    0x8B: lambda r: r._push_long(r._take_int(4)),
    ord("G"): lambda r: r._push(struct.unpack(">d", r._take(8))[0]),
    # text and bytes; U and T are Python 2's
    0x8C: lambda r: r._push(r._take_text(r._take_byte())),
    ord("X"): lambda r: r._push(r._take_text(r._take_int(4))),
    0x8D: lambda r: r._push(r._take_text(r._take_int(8))),
    ord("U"): lambda r: r._push(r._take_bytes(r._take_byte()).decode("latin-1")),
    ord("T"): lambda r: r._push(r._take_bytes(r._take_int(4)).decode("latin-1")),
    ord("C"): lambda r: r._push(r._take_bytes(r._take_byte())),
    ord("B"): lambda r: r._push(r._take_bytes(r._take_int(4))),
    0x8E: lambda r: r._push(r._take_bytes(r._take_int(8))),
    0x96: lambda r: r._push(r._take_bytes(r._take_int(8))),
    # containers
    ord("("): PickleReader._mark,
    ord(")"): lambda r: r._push(()),
    ord("t"): lambda r: r._push(tuple(r._pop_mark())),
    0x85: lambda r: r._tuple(1),
    0x86: lambda r: r._tuple(2),
    0x87: lambda r: r._tuple(3),
    ord("]"): lambda r: r._push([]),
    ord("a"): lambda r: r._append([r._pop()]),
    ord("e"): lambda r: r._append(r._pop_mark()),
    ord("}"): lambda r: r._push({}),
    ord("s"): lambda r: r._set_items([r._pop(), r._pop()][::-1]),
    ord("u"): lambda r: r._set_items(r._pop_mark()),
    0x8F: PickleReader._empty_set,
    0x90: PickleReader._add_items,
    0x91: PickleReader._frozen_set,
    # the stack and the memo
    ord("0"): PickleReader._pop,
    ord("1"): PickleReader._pop_mark,
    ord("q"): lambda r: r._put(r._take_byte()),
    ord("r"): lambda r: r._put(r._take_int(4)),
    0x94: lambda r: r._put(len(r._memo)),
    ord("h"): lambda r: r._get(r._take_byte()),
    ord("j"): lambda r: r._get(r._take_int(4)),
    # names and what is done with them
    ord("c"): PickleReader._global,
    0x93: PickleReader._stack_global,
    ord("R"): PickleReader._reduce,
    0x81: lambda r: r._new_object(keywords=False),
    0x92: lambda r: r._new_object(keywords=True),
    ord("b"): PickleReader._build,
    ord("Q"): PickleReader._persistent,
}
