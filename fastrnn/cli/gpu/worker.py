"""Items of a check, each in a process that may die of it.

A kernel that reads where it must not leaves a CUDA context in which nothing works any more, and one that never ends
cannot be stopped from within. So this process never touches the GPU. Others run the items; one that fails, dies or
takes too long costs its item, and the next item gets a new process.

Several of them run side by side, since most of the time goes into compiling, which needs no GPU. What has to have the
GPU for itself asks for it: `run(*arguments, alone)` calls ``alone()`` and has it from then on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple


class Item(NamedTuple):
    """One row of the result.

    Attributes
    ----------
    part : str
    about : dict
        What it is: the row's first columns.
    run : function of a module's top level
        ``run(*arguments, alone)`` in the other process; returns a dict, whose "verdict" may say "WRONG".
    arguments : tuple
        They and the result have to survive pickling.
    seconds : float
        It may take so long, and once more after ``alone()``.
    """

    part: str
    about: dict[str, Any]
    run: Callable[..., dict[str, Any]]
    arguments: tuple[Any, ...] = ()
    seconds: float = 120.0


class Found(NamedTuple):
    """What became of an item.

    Attributes
    ----------
    verdict : str
        "right", "WRONG", "failed", "n/a" (what it is about is not there or not for this) or "left out" (time was up).
    values : dict
        What `run` returned.
    why : str
        Of a verdict other than "right".
    """

    item: Item
    verdict: str
    values: dict[str, Any]
    why: str
    seconds: float


class NotHere(Exception):
    """Raised by an item that does not apply here; the process goes on."""


class Pool:
    """Processes, made when they are first needed. Leaving its ``with`` block ends them."""

    def __init__(self, jobs: int) -> None:
        self._workers = [_Worker() for _ in range(jobs)]
        self._alone = threading.Lock()

    def __enter__(self) -> Pool:
        self._threads = os.environ.get("OMP_NUM_THREADS")
        os.environ["OMP_NUM_THREADS"] = "1"  # NumPy's, in the processes: there are enough of those
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.end()
        del os.environ["OMP_NUM_THREADS"]
        if self._threads is not None:
            os.environ["OMP_NUM_THREADS"] = self._threads

    def run(self, items: Sequence[Item], until: float) -> Iterator[Found]:
        """Run all; results come as they are found.

        Parameters
        ----------
        items : sequence of Item
        until : float
            Of `time.monotonic`: what has not been done by then is left out.
        """
        waiting: SimpleQueue[Item] = SimpleQueue()
        found: SimpleQueue[Found] = SimpleQueue()
        for item in items:
            waiting.put(item)

        def serve(worker: _Worker) -> None:
            with suppress(Empty):
                while True:
                    item = waiting.get_nowait()
                    began = time.monotonic()
                    if began >= until:
                        found.put(Found(item, "left out", {}, "the time was up", 0.0))
                        continue
                    try:
                        verdict, values, why = worker.run(item, self._alone, until)
                    except Exception as error:  # of this process: one result must come for each item
                        verdict, values, why = "failed", {}, f"{type(error).__name__}: {error}"
                        worker.end()
                    found.put(Found(item, verdict, values, why, time.monotonic() - began))

        for worker in self._workers[: len(items)]:
            threading.Thread(target=serve, args=(worker,), daemon=True).start()
        for _ in items:
            yield found.get()


class _Worker:
    """One process, and a new one after each failure."""

    def __init__(self) -> None:
        self._process: Any = None
        self._connection: Any = None

    def run(self, item: Item, alone: threading.Lock, until: float) -> tuple[str, dict[str, Any], str]:
        """Verdict, values, why."""
        if self._process is None or not self._process.is_alive():
            self.end()
            self._start()
        self._connection.send(item)
        limit = time.monotonic() + item.seconds
        holding = False
        try:
            while True:
                if not self._connection.poll(max(0.0, min(limit, until) - time.monotonic())):
                    late = time.monotonic() < until
                    self.end()
                    return ("failed", {}, f"took longer than {item.seconds:g} s") if late else _TIME_IS_UP
                try:
                    said, *rest = self._connection.recv()
                except (EOFError, OSError):
                    self._process.join(10)
                    status = self._process.exitcode
                    self.end()
                    return "failed", {}, f"its process ended with status {status}"
                if said == "alone":
                    if not (holding := alone.acquire(timeout=max(0.0, until - time.monotonic()))):
                        self.end()
                        return _TIME_IS_UP
                    limit = time.monotonic() + item.seconds
                    self._connection.send("go")
                elif said == "done":
                    (values,) = rest
                    verdict = values.pop("verdict", "right")
                    return verdict, values, values.pop("why", "")
                else:
                    if said == "failed":  # its context may be no good any more
                        self.end()
                    return said, {}, rest[0]
        finally:
            if holding:
                alone.release()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _one_at_a_time:  # multiprocessing looks after all of its processes when it starts one
            self._process.start()
        theirs.close()  # so that its end is seen here

    def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()  # it may be waiting for a GPU that never answers, and then hears nothing else
            process.join(5)
            self._connection.close()


_one_at_a_time = threading.Lock()
_TIME_IS_UP: tuple[str, dict[str, Any], str] = ("left out", {}, "the time was up")


def _serve(connection: Any) -> None:
    """The other process: one item after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started this one
    with suppress(OSError, ValueError):
        os.dup2(2, 1)  # stdout is the other process's

    # The engine goes on with slower kernels where one cannot be launched: here that is a failure.
    warnings.filterwarnings("error", "fastrnn is slower", RuntimeWarning)

    def alone() -> None:
        connection.send(("alone",))
        connection.recv()

    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):
            return
        try:
            reply = ("done", item.run(*item.arguments, alone))
        except NotHere as reason:
            reply = ("n/a", str(reason))
        except BaseException as error:
            text = " ".join(str(error).split())
            connection.send(("failed", f"{type(error).__name__}: {text[:500]}"))
            connection.close()
            os._exit(1)  # the end of a process with a broken context may hang
        connection.send(reply)
