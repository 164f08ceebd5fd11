"""The one pool: Python threads that run kernels, which release the interpreter's lock.

Made when first needed and again after a fork. One call at a time has it; a call that finds it taken (from another
Python thread, or a layer within a layer) runs on its own thread alone, so that threads are never piled on threads and
threads that wait for each other always all run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from ._team import Pool, Team

__all__ = ["get_num_threads", "set_num_threads", "team"]

_MOST = 1024


def set_num_threads(n: int) -> None:
    """Set how many threads a call may use, in the whole process.

    Parameters
    ----------
    n : int
        1 to 1024. Fewer are used where more would not pay. Results do not depend on it, to the last bit.

    Raises
    ------
    TypeError, ValueError
        `n` is no integer from 1 to 1024.

    Examples
    --------
    >>> import fastrnn
    >>> before = fastrnn.get_num_threads()
    >>> fastrnn.set_num_threads(1)
    >>> fastrnn.get_num_threads()
    1
    >>> fastrnn.set_num_threads(before)
    """
    global _limit
    if isinstance(n, bool) or not hasattr(n, "__index__"):
        raise TypeError(f"n should be an int, got: {type(n).__name__}")
    value = n.__index__()
    if value < 1:
        raise ValueError(f"n should be at least 1, got: {n}")
    if value > _MOST:
        raise ValueError(f"n should be at most {_MOST}, got: {n}")
    _limit = value


def get_num_threads() -> int:
    """How many threads a call may use.

    The number given to `set_num_threads`, else FASTRNN_NUM_THREADS, else OMP_NUM_THREADS (which tools that run many
    workers set for them), else the processors that this process may use by its affinity and its cgroups' quotas.

    Raises
    ------
    ValueError
        FASTRNN_NUM_THREADS is no integer from 1 to 1024.
    """
    global _limit
    if _limit is None:
        _limit = _from_environment() or _processors()
    return _limit


_limit: int | None = None


def _from_environment() -> int | None:
    own = os.environ.get("FASTRNN_NUM_THREADS", "").strip()
    if own:
        if not (own.isdecimal() and len(own) < 9 and 1 <= int(own) <= _MOST):
            raise ValueError(f"FASTRNN_NUM_THREADS should be an integer from 1 to {_MOST}, got: {own!r}")
        return int(own)
    # A list has one number for each level of nesting: ours is the first. Nonsense is for others to complain about.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return min(int(first), _MOST) if first.isdecimal() and len(first) < 9 and int(first) > 0 else None


def _processors() -> int:
    n = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for line in _quotas():
        match line.split():
            case [quota, period] if quota.isdecimal() and period.isdecimal() and int(period) > 0:  # not "max", -1
                n = min(n, max(1, int(quota) // int(period)))
    return min(n, _MOST)


def _quotas() -> Iterator[str]:
    """Quota and period of the control groups that this process is in, where they can be seen."""
    groups = [line[3:] for line in _read("/proc/self/cgroup").splitlines() if line.startswith("0::/")]
    own = PurePosixPath(groups[0] if groups else "/")
    for group in (own, *own.parents):  # version 2
        yield _read(f"/sys/fs/cgroup{group}/cpu.max")
    quota, period = (_read(f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))  # version 1
    yield f"{quota} {period}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except (OSError, ValueError):
        return ""


_pool = Pool()


def _after_fork() -> None:
    global _pool
    _pool = Pool()  # threads do not survive a fork, and the lock may have been held


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def team(wanted: int) -> Team:
    """As many threads as wanted, allowed and free: a team of one where the pool is taken."""
    return Team(_pool, min(wanted, get_num_threads()) - 1)
