"""Hostile files, in the eight groups of the attack list: for the tests, make_hostile.py and the fuzzer's seeds.

A case is its bytes (or what makes them, where they are large) and a part of the message with which it is refused.
`READ` stands for that where the file is read all the same: as plain data, to which nothing has happened. What any of
them would run, if something ran it, makes a file `CANARY` in the working folder.
"""

from __future__ import annotations

from collections.abc import Callable

from . import onnx
from .archives import ARCHIVES
from .broken import BROKEN
from .code import CANARY, CODE
from .layouts import GIANTS, LAYOUTS
from .odd import NO_WAY_AROUND, ODD
from .resources import RESOURCES

READ = None
Case = tuple[bytes | Callable[[], bytes], str | None]

GROUPS: dict[str, dict[str, Case]] = {
    "1 code execution": CODE,
    "2 layouts": LAYOUTS | onnx.LAYOUTS,
    "3 giants": GIANTS,
    "4 archives": ARCHIVES | onnx.ARCHIVES,
    "5 resources": RESOURCES | onnx.RESOURCES,
    "6 broken": BROKEN | onnx.BROKEN,
    "7 odd": ODD | onnx.ODD,
    "8 no way around": NO_WAY_AROUND,
}

__all__ = ["CANARY", "GROUPS", "READ", "Case", "cases", "content_of"]


def content_of(case: Case) -> bytes:
    return case[0] if isinstance(case[0], bytes) else case[0]()


def cases() -> dict[str, Case]:
    """All of them by a name that can be a file's, the group's first."""
    return {
        f"{group}/{name}".replace(" ", "-").replace(":", ""): case
        for group, table in GROUPS.items()
        for name, case in table.items()
    }
