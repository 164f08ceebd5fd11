"""What a check has found: lines as they come, tables at the end, JSON all the while."""

from __future__ import annotations

import json
from argparse import Namespace
from collections import Counter
from typing import Any

from ...atomic import atomic_path
from .. import show
from .items import BACKWARD, FORWARD
from .worker import Found

BAD = ("WRONG", "failed")


class Report:
    """Prints to stdout; with --json nothing until the end."""

    def __init__(self, args: Namespace) -> None:
        self._json, self._output = args.json, args.output
        self._machine: dict[str, Any] = {}
        self._found: list[Found] = []
        self._seconds: float | None = None

    @property
    def ok(self) -> bool:
        return not any(found.verdict in BAD for found in self._found)

    def machine(self, values: dict[str, Any]) -> None:
        self._machine = values
        self._write()
        known = ("device", "capability", "multiprocessors", "driver")
        self._print("{device}, sm_{capability}, {multiprocessors} multiprocessors, driver {driver}".format(**values))
        self._print(", ".join(f"{name} {value}" for name, value in values.items() if name not in known), end="\n\n")

    def add(self, found: Found) -> None:
        self._found.append(found)
        self._write()
        figures = " ".join(FIGURES[name].format(found.values[name]) for name in FIGURES if name in found.values)
        line = f"{found.verdict:<8} {found.item.part:<6} {described(found):<58} {figures}"
        self._print(line.rstrip() + f"  {found.seconds:.1f} s" * (found.verdict != "left out"))
        if found.why and found.verdict in BAD:
            self._print(f"         {show.plain(found.why)}")

    def end(self, seconds: float) -> None:
        self._seconds = seconds
        self._write()
        if self._json:
            show.print_json(self.jsonable())
            return
        self._tables()
        verdicts = Counter(found.verdict for found in self._found)
        print(f"\n{', '.join(f'{n} {verdict}' for verdict, n in verdicts.items())}; {seconds:.0f} s")
        for found in self._found:
            if found.verdict in BAD:
                print(f"{found.verdict}: {found.item.part} {described(found)}: {show.plain(found.why)}")

    def _tables(self) -> None:
        by_title: dict[str, list[Found]] = {}
        for found in self._found:
            title = found.item.about.get("pass") or found.item.part
            by_title.setdefault(title, []).append(found)
        for title, of_title in by_title.items():
            part = of_title[0].item.part
            note = ", us per step of the median call; torch / fastrnn: without tf32, and the path that is chosen"
            print(f"\n{title}{note if part == 'times' else ''}")
            show.print_table(*{"parity": parity_table, "hops": hops_table, "times": times_table}[part](of_title))

    def jsonable(self) -> dict[str, Any]:
        items = [
            {"part": found.item.part, **found.item.about, "verdict": found.verdict, "why": found.why}
            | {"seconds": found.seconds, **found.values}
            for found in self._found
        ]
        return {"machine": self._machine, "ok": self.ok, "seconds": self._seconds, "items": items}

    def _print(self, text: str, end: str = "\n") -> None:
        if not self._json:
            print(text, end=end, flush=True)

    def _write(self) -> None:
        """All that there is so far; whoever ends this process finds it."""
        if self._output:
            with atomic_path(self._output) as path, open(path, "w") as file:
                json.dump(show.jsonable(self.jsonable()), file, indent=2, allow_nan=False)


def described(found: Found) -> str:
    """What it is about; what is usual is not said."""
    parts = []
    for name, value in found.item.about.items():
        if name in ("path", "engine", "cell", "kind", "pass"):
            parts.append(str(value))
        elif name == "options":
            parts.append(", ".join(value))
        elif (name, value) not in (("dtype", "float32"), ("D", 1)):
            parts.append(f"{name}={value}")
    if found.values.get("ran") and parts[0].startswith("chosen"):
        parts.append(f"({found.values['ran']})")
    return " ".join(filter(None, parts))


#: What of an item's values stands in its line.
FIGURES = {"of_allowed": "{:.2f} of what is allowed", "array": "({})", "ns": "{:,.0f} ns", "ms": "{:.3f} ms"}
FIGURES |= {"us_per_step": "{:.3f} us/step"}


Table = tuple[list[str], list[list[object]]]


def parity_table(of_part: list[Found]) -> Table:
    """A row for each path."""
    rows: list[list[object]] = []
    for path in dict.fromkeys(found.item.about["path"] for found in of_part):
        of_path = [found for found in of_part if found.item.about["path"] == path]
        n = Counter(found.verdict for found in of_path)
        worst = max((found.values["of_allowed"] for found in of_path if "of_allowed" in found.values), default=None)
        counts = [n[verdict] or "" for verdict in ("right", "WRONG", "failed", "n/a", "left out")]
        rows.append([path, *counts, "" if worst is None else f"{worst:.2f}"])
    return ["path", ">right", ">WRONG", ">failed", ">n/a", ">left out", ">error / allowed"], rows


def hops_table(of_part: list[Found]) -> Table:
    rows: list[list[object]] = []
    for found in of_part:
        rows.append([found.item.about["kind"], f"{found.values['ns']:,.0f}" if "ns" in found.values else found.verdict])
    return ["hop", ">ns"], rows


def times_table(of_pass: list[Found]) -> Table:
    """A row for each layer, a column for each engine that can do some of them."""
    engines = list(dict.fromkeys(found.item.about["engine"] for found in of_pass if found.verdict != "n/a"))
    engines.sort(key=(*FORWARD, *BACKWARD).index)
    layers: dict[tuple[Any, ...], dict[str, Found]] = {}
    for found in of_pass:
        about = found.item.about
        layers.setdefault((about["cell"], about["N"], about["H"]), {})[about["engine"]] = found
    rows: list[list[object]] = []
    for key, by_engine in sorted(layers.items()):
        cells = [cell(by_engine.get(engine)) for engine in engines]
        ours, theirs = (by_engine[name].values.get("ms") if name in by_engine else None for name in ("chosen", "torch"))
        rows.append([*key, *cells, f"{theirs / ours:.2f}" if ours and theirs else ""])
    return ["cell", ">N", ">H", *(f">{engine}" for engine in engines), ">torch / fastrnn"], rows


def cell(found: Found | None) -> str:
    if found is None or found.verdict == "n/a":
        return ""
    if found.verdict != "right":
        return found.verdict
    ran = found.values["ran"] if found.item.about["engine"].startswith("chosen") else ""
    return f"{found.values['us_per_step']:.2f}{ran and f' {ran}'}"
