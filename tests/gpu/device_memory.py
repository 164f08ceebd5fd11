"""Memory as threads of the executor see it: late, and with every access that races reported.

A store is a message that others read only from some later moment on, a different one for each block and each address;
or at once where the reader is told of it by barriers or by a release and an acquire (it "knows" of it). Hence stores
of one address keep their order, and those of different addresses have none. Plain accesses have to be ordered by
barriers, or by a release and an acquire: an unordered pair of accesses, one of them plain and one of them a store, is a
race, wherever it happens to strike.

What a thread knows is a vector clock: how many sections of each thread of its own block, and of other blocks that it
acquired something from, came before. A section ends where a thread tells others of what it did.
"""

from __future__ import annotations

import sys
from types import CodeType
from typing import Any

from greenlet import getcurrent

UNWRITTEN = object()  # what shared memory holds at first


class Fault(Exception):
    """A kernel does what a GPU does not allow, or what makes its results a matter of luck."""


class Race(Fault):
    """Two accesses of one address with nothing that says which comes first."""


class BadAccess(Fault):
    """Outside of an array, of memory that was not written, or not aligned."""


class Site:
    """A place in a kernel's source, found out about only when it is told."""

    __slots__ = ("code", "instruction")

    def __init__(self, code: CodeType, instruction: int) -> None:
        self.code = code
        self.instruction = instruction

    def __str__(self) -> str:
        for first, last, line in self.code.co_lines():
            if first <= self.instruction < last and line is not None:
                return f"{self.code.co_filename.rpartition('/')[2]}:{line}"
        return f"{self.code.co_filename}:?"


def site(depth: int) -> Site:
    """Where the caller of the caller is, `depth` frames further out."""
    frame = sys._getframe(depth + 2)
    return Site(frame.f_code, frame.f_lasti)


class Message:
    """A store."""

    __slots__ = ("clock", "epoch", "number", "other", "plain", "site", "time", "value", "writer")

    def __init__(self, value: Any, writer: Any, time: int, number: int, plain: bool, where: Site) -> None:
        self.value = value
        self.writer = writer
        self.epoch = writer.epoch
        self.time = time
        self.number = number
        self.plain = plain
        self.site = where
        self.clock: Any = None  # of a release: what an acquire learns
        self.other: Message | None = None  # one that may as well be the last


class Memory:
    """An array of the device or of a block, `values` at first."""

    def __init__(self, name: str, values: list[Any], launch: Any, kind: str = "f", shared: bool = False) -> None:
        self.name = name
        self.values = values
        self.launch = launch
        self.kind = kind
        self.shared = shared
        self.messages: dict[int, list[Message]] = {}
        # Of each address who read: (thread, epoch), or {thread: epoch} where there are more.
        self.plain_reads: dict[int, Any] = {}
        self.strong_reads: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.values)

    # ---- plain accesses: a[i], a[i] = value

    def __getitem__(self, i: Any) -> Any:
        thread = getcurrent()
        i = self._index(i)
        found = self.messages.get(i)
        if found is None:
            value = self.values[i]
            if value is UNWRITTEN:
                raise BadAccess(f"{thread} reads {self.name}[{i}], which nobody wrote")
        else:
            last = found[-1]
            if last.other is not None or not thread.knows(last.writer, last.epoch):
                self._race("reads", i, thread, last)
            value = last.value
        _note(self.plain_reads, i, thread)
        return value

    def __setitem__(self, i: Any, value: Any) -> None:
        thread = getcurrent()
        i = self._index(i)
        found = self.messages.get(i)
        message = self._message(thread, value, True, 0)
        if found is not None and not thread.knows(found[-1].writer, found[-1].epoch):
            if not self.shared:
                self._race("writes", i, thread, found[-1])
            message.other = found[-1]  # which matters to who reads it: there are places to which all write in vain
        self._check_reads("writes", i, thread, self.plain_reads, self.strong_reads)
        self.plain_reads.pop(i, None)
        # Who cannot tell whether this one or one before it is what there is, races: those before it are not needed.
        self.messages[i] = [message]

    # ---- accesses that the whole device sees

    def load(self, i: Any, acquire: bool = False) -> Any:
        thread = getcurrent()
        i = self._strong_index(i, "reads")
        return self._seen(i, thread, acquire)

    def load4(self, i: Any) -> tuple[Any, Any, Any, Any]:
        thread = getcurrent()
        i = self._strong_index(i, "reads")
        if i % 4:
            raise BadAccess(f"{thread} reads four elements of {self.name} from {i} on, not a multiple of 4")
        self._strong_index(i + 3, "reads")
        seen = self._seen
        return seen(i, thread), seen(i + 1, thread), seen(i + 2, thread), seen(i + 3, thread)

    def _seen(self, i: int, thread: Any, acquire: bool = False) -> Any:
        """What that thread gets to see there by now."""
        launch = self.launch
        launch.loads += 1
        self.strong_reads[i] = thread, thread.epoch  # the last one is enough to tell
        found = self.messages.get(i)
        if found is not None:
            for message in reversed(found):
                known = thread.knows(message.writer, message.epoch)
                if known or launch.visible(message, thread.block):
                    if message.plain and not known:
                        self._race("reads", i, thread, message)
                    if acquire and message.clock is not None:
                        thread.learn(message.clock)
                    return message.value
            launch.stale += 1
        return self.values[i]

    def waits(self, i: Any, thread: Any, count: int = 1) -> bool:
        """Whether there is nothing new to be seen in one of them, so that who asks may be polling."""
        for found in map(self.messages.get, range(i, i + count)):
            if found is None:
                return True
            last = found[-1]
            if not (thread.knows(last.writer, last.epoch) or self.launch.visible(last, thread.block)):
                return True
        return False

    def store(self, i: Any, value: Any, release: bool = False) -> None:
        message = self._strong_message(i, value)
        if release:
            message.clock = message.writer.tell()

    def add(self, i: Any, value: Any) -> None:
        """Add `value` at once and release."""
        i = self._strong_index(i, "writes")
        last = self.messages[i][-1] if i in self.messages else None
        message = self._strong_message(i, value + (self.values[i] if last is None else last.value))
        message.clock = message.writer.tell()
        if last is not None and last.clock is not None:
            message.clock = message.clock.with_(last.clock)  # who reads the sum learns from all who added

    # ----

    def result(self) -> dict[int, Any]:
        """What was written."""
        return {i: found[-1].value for i, found in self.messages.items()}

    def _index(self, i: Any) -> int:
        if 0 <= i < len(self.values):
            return int(i)
        raise BadAccess(f"{getcurrent()} takes {self.name}[{i}] of {len(self.values)}")

    def _strong_index(self, i: Any, does: str) -> int:
        if self.shared:
            raise BadAccess(f"{getcurrent()} {does} {self.name}[{i}], shared memory, as if it were the device's")
        return self._index(i)

    def _message(self, thread: Any, value: Any, plain: bool, depth: int) -> Message:
        launch = self.launch
        launch.stores += 1
        if self.kind != "any":
            value = float(value) if self.kind == "f" else int(value)
        return Message(value, thread, launch.time, launch.stores, plain, site(depth + 1))

    def _strong_message(self, i: Any, value: Any) -> Message:
        thread = getcurrent()
        i = self._strong_index(i, "writes")
        found = self.messages.get(i)
        if found is not None and found[-1].plain and not thread.knows(found[-1].writer, found[-1].epoch):
            self._race("writes", i, thread, found[-1])
        self._check_reads("writes", i, thread, self.plain_reads)
        message = self._message(thread, value, False, 2)
        self.messages.setdefault(i, []).append(message)
        return message

    def _check_reads(self, does: str, i: int, thread: Any, *reads: dict[int, Any]) -> None:
        for of_kind in reads:
            found = of_kind.get(i)
            if found is None:
                continue
            for reader, epoch in found.items() if type(found) is dict else (found,):
                if not thread.knows(reader, epoch):
                    self._race(does, i, thread, f"{reader.name} read")

    def _race(self, does: str, i: int, thread: Any, other: Message | str) -> None:
        if isinstance(other, Message):
            also = f", and {_wrote(other.other)}" if other.other else ""
            other = _wrote(other) + also
        raise Race(f"{thread} {does} {self.name}[{i}], which {other}: nothing says which comes first")


def _wrote(message: Message) -> str:
    return f"{message.writer.name} wrote at {message.site}"


def _note(reads: dict[int, Any], i: int, thread: Any) -> None:
    found = reads.get(i)
    if found is None or (type(found) is tuple and found[0] is thread):
        reads[i] = (thread, thread.epoch)
    elif type(found) is tuple:
        reads[i] = {found[0]: found[1], thread: thread.epoch}
    else:
        found[thread] = thread.epoch
