"""The one pool: Python threads that run kernels, which release the interpreter's lock.

Made when first needed and again after a fork. One call at a time has it; a call that finds it taken (from another
Python thread, or a layer within a layer) runs on its own thread alone, so that threads are never piled on threads and
threads that wait for each other always all run.
"""

from __future__ import annotations

import os
from pathlib import Path

from ._team import Meeting, Pool, Team

__all__ = ["Meeting", "get_num_threads", "set_num_threads", "team"]


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


_pool = Pool()


def _after_fork() -> None:
    global _pool
    _pool = Pool()  # threads do not survive a fork, and the lock may have been held


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def team(wanted: int) -> Team:
    """As many threads as wanted, allowed and free: a team of one where the pool is taken."""
    return Team(_pool, min(wanted, get_num_threads()) - 1)
