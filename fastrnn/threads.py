"""The one pool: Python threads that run kernels, which release the interpreter's lock.

Made when first needed and again after a fork. One call at a time has it; a call that finds it taken (from another
Python thread, or a layer within a layer) runs on its own thread alone, so that threads are never piled on threads and
threads that wait for each other always all run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Lock, Thread

Task = Callable[[], None]


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, in the whole process.

    Parameters
    ----------
    n : int
        At least 1. Fewer are used where more would not pay. Results do not depend on it, to the last bit.

    Raises
    ------
    TypeError, ValueError
        `n` is no positive integer.
    """
    global _limit
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n should be an int, got: {type(n).__name__}")
    if n.__index__() < 1:
        raise ValueError(f"n should be at least 1, got: {n}")
    _limit = n.__index__()


def get_num_threads() -> int:
    """How many threads a call may use.

    The number given to `set_num_threads`, else FASTRNN_NUM_THREADS, else OMP_NUM_THREADS (which tools that run many
    workers set for them), else the processors that this process may use by its affinity and its cgroup's quota.
    """
    global _limit
    if _limit is None:
        _limit = _from_environment() or _processors()
    return _limit


_limit: int | None = None


def _from_environment() -> int | None:
    for name in ("FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        # OMP_NUM_THREADS may be a list, one number for each level of nesting: ours is the first.
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return None


def _processors() -> int:
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            n = min(n, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup of version 2, or no limit in it
    return n


class _Worker:
    """A thread that does one task whenever it is given one."""

    def __init__(self) -> None:
        self._task: Task | None = None
        self._error: BaseException | None = None
        self._go, self._done = Lock(), Lock()
        self._go.acquire()
        self._done.acquire()
        Thread(target=self._serve, name="fastrnn", daemon=True).start()

    def _serve(self) -> None:
        while True:
            self._go.acquire()
            try:
                if self._task is not None:
                    self._task()
            except BaseException as error:  # raised again in the thread that gave the task
                self._error = error
            self._task = None
            self._done.release()

    def start(self, task: Task) -> None:
        self._task, self._error = task, None
        self._go.release()

    def wait(self) -> BaseException | None:
        """Until the task is done, come what may: it writes to arrays that the caller will use."""
        interrupt: BaseException | None = None
        while True:
            try:
                self._done.acquire()
                return interrupt or self._error
            except KeyboardInterrupt as error:
                interrupt = error


class _Pool:
    def __init__(self) -> None:
        self.free = Lock()
        self.workers: list[_Worker] = []


_pool = _Pool()


def _after_fork() -> None:
    global _pool
    _pool = _Pool()  # threads do not survive a fork, and the lock may have been held


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class Team:
    """The caller's thread and those that it was given."""

    def __init__(self, workers: Sequence[_Worker]) -> None:
        self._workers = workers

    @property
    def size(self) -> int:
        return 1 + len(self._workers)

    def run(self, tasks: Sequence[Task]) -> None:
        """Do at most `size` tasks at the same time; returns when all are done, and raises what any of them raised."""
        busy = self._workers[: len(tasks) - 1]
        for worker, task in zip(busy, tasks[1:], strict=True):
            worker.start(task)
        errors: list[BaseException | None] = []
        try:
            tasks[0]()
        except BaseException as raised:
            errors.append(raised)
        errors += [worker.wait() for worker in busy]
        for error in errors:
            if error is not None:
                raise error

    def run_all(self, tasks: Sequence[Task]) -> None:
        """Do any number of tasks, dealt out in turn."""
        shares = [tasks[i :: self.size] for i in range(min(self.size, len(tasks)))]
        self.run([partial(_in_turn, share) for share in shares])


def _in_turn(tasks: Sequence[Task]) -> None:
    for task in tasks:
        task()


@contextmanager
def team(wanted: int) -> Iterator[Team]:
    """As many threads as wanted, allowed and free: a team of one where the pool is taken."""
    pool = _pool
    extra = min(wanted, get_num_threads()) - 1
    if extra < 1 or not pool.free.acquire(blocking=False):
        yield Team(())
        return
    try:
        while len(pool.workers) < extra:
            pool.workers.append(_Worker())
        yield Team(pool.workers[:extra])
    finally:
        pool.free.release()
