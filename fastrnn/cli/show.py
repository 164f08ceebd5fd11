"""What commands print: aligned text, a rich table or a bar where a terminal shows it, JSON where asked for."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

MAX_RICH_ROWS = 500  # rich takes about 1 ms a row: more are printed as text
BAR_AFTER = 0.5  # seconds: what is done sooner needs no bar


def terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def plain(text: object) -> str:
    """`text` for a terminal: names in a file are anyone's, and may hold control sequences."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """`columns` are titles; one that starts with ">" is aligned to the right."""
    titles = [title.removeprefix(">") for title in columns]
    right = [title.startswith(">") for title in columns]
    cells = [[plain(cell) for cell in row] for row in rows]
    if terminal() and len(rows) <= MAX_RICH_ROWS:
        _print_rich_table(titles, right, cells)
        return
    widths = [max(len(row[i]) for row in [titles, *cells]) for i in range(len(titles))]
    for row in [titles, *cells]:
        padded = zip(row, widths, right, strict=True)
        print("  ".join(cell.rjust(n) if to_right else cell.ljust(n) for cell, n, to_right in padded).rstrip())


def _print_rich_table(titles: Sequence[str], right: Sequence[bool], cells: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    styles = {"right": "green", "WRONG": "bold red"}
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for title, to_right in zip(titles, right, strict=True):
        table.add_column(title, justify="right" if to_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell, styles.get(cell, "")) for cell in row))
    Console().print(table)


def print_json(value: object) -> None:
    """Strict JSON: a number that is not finite is null."""
    print(json.dumps(jsonable(value), indent=2, allow_nan=False))


def jsonable(value: Any) -> Any:
    """`value` without numbers that are not finite: they are None."""
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def size(n_bytes: int) -> str:
    """Bytes for people: ``12.8 MB``."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{n_bytes} B" if unit == "B" else f"{value:,.1f} {unit}"


def plural(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def verdict(ok: bool) -> str:
    return "right" if ok else "WRONG"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, list(valid), 1, 0.5)
    return f"; did you mean {plain(close[0])!r}?" if close else ""


@contextmanager
def progress(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Gives ``advance(n)``; a bar appears where a terminal shows it and the work takes long."""
    if quiet or not terminal():
        yield lambda n: None
        return
    bar: Any = None
    done = 0
    began = time.monotonic()

    def advance(n: int) -> None:
        nonlocal bar, done
        done += n
        if bar is None and done < total and time.monotonic() - began > BAR_AFTER:
            bar = _bar(what, total)
        if bar is not None:
            bar.update(bar.task_ids[0], completed=done)

    try:
        yield advance
    finally:
        if bar is not None:
            bar.stop()


def _bar(what: str, total: int) -> Any:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    bar = Progress(*columns, transient=True)
    bar.add_task(what, total=total)
    bar.start()
    return bar
