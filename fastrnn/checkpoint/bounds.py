"""What could make plain data dangerous to use: keys that collide, nesting, and sharing that doubles at each level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .limits import Limits

_KEY_ITEMS = 64
_SAME_HASH = 32
_SIMPLE = (str, bytes, bool, type(None), float, int)


class KeyRules:
    """Decides which objects of a pickle may be keys of a dictionary or items of a set.

    Only what hashes quickly, and cannot be made to collide, may. Strings are hashed with a secret and no more than a
    few numbers of 64 bits share a hash; but any number of tuples or longer integers with one hash is easily made, and a
    dictionary of 10^5 of them would take minutes, so those are counted.
    """

    def __init__(self, inert: tuple[type, ...], limits: Limits) -> None:
        self._limits = limits
        self._simple = {*_SIMPLE, *inert}
        self._same_hash: Counter[tuple[int, int]] = Counter()

    def check(self, container: object, key: Any) -> None:
        """Raise CheckpointError if `key` may not be put in `container`."""
        kind = type(key)
        if kind is tuple:
            self._check_tuple(key)
        elif not self._is_simple(key):
            raise CheckpointError(f"a dictionary or set has a key of type {kind.__name__}, which is not allowed")
        if kind is tuple or (kind is int and key.bit_length() > 64):
            bucket = (id(container), hash(key))
            self._same_hash[bucket] += 1
            if self._same_hash[bucket] > _SAME_HASH:
                raise CheckpointError("dictionary keys are made to collide")

    def _check_tuple(self, key: tuple[Any, ...]) -> None:
        pending, n_items = [key], 0
        while pending:
            part = pending.pop()
            n_items += 1 + len(part)
            if n_items > _KEY_ITEMS:
                raise CheckpointError(f"a dictionary key is a tuple of more than {_KEY_ITEMS} items")
            pending += [item for item in part if type(item) is tuple]
            if not all(type(item) is tuple or self._is_simple(item) for item in part):
                raise CheckpointError("a dictionary key is a tuple of items that are not allowed")
        self._limits.spend(n_items)

    def _is_simple(self, key: Any) -> bool:
        return type(key) in self._simple or isinstance(key, np.integer | np.floating | np.str_ | np.bytes_)


def check_tree(root: Any, children: Callable[[Any], Iterable[Any] | None], max_depth: int, max_size: int) -> None:
    """Bound what a walk through `root` meets that knows nothing of shared parts, as repr or json does.

    Parameters
    ----------
    children : callable
        The parts of a container; None for anything else.
    max_depth, max_size : int
        How deep containers may nest, and how many parts there may be, each counted once for each way to it. A
        container inside itself ends the walk there.

    Raises
    ------
    CheckpointError
        A bound is exceeded.
    """
    finished: dict[int, tuple[int, int]] = {}  # depth and size of containers
    is_open: set[int] = set()
    depth = 0
    # One frame a container that is being walked: itself, what is left of it, and its depth and size so far.
    frames: list[list[Any]] = [[None, iter((root,)), 0, 0]]
    while True:
        frame = frames[-1]
        for part in frame[1]:
            parts = None if id(part) in is_open else children(part)
            if not parts:
                frame[3] += 1
            elif id(part) in finished:
                depth, size = finished[id(part)]
                frame[2:] = max(frame[2], depth + 1), frame[3] + size
                if frame[3] > max_size:  # enough: the rest need not be counted
                    break
            else:
                frames.append([part, iter(parts), 1, 1])
                is_open.add(id(part))
                break
        else:
            value, _, depth, size = frames.pop()
            if not frames:
                return
            is_open.discard(id(value))
            finished[id(value)] = depth, size
            frames[-1][2:] = max(frames[-1][2], depth + 1), frames[-1][3] + size
        if max(len(frames) - 1, depth) > max_depth:
            raise CheckpointError(f"the objects are nested deeper than max_depth={max_depth}")
        if frames[-1][3] > max_size:
            raise CheckpointError(f"the objects are more than max_ops={max_size:,}, shared ones counted each time")
