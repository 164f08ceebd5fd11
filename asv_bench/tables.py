"""Tables that read well in a terminal and in Markdown: of each part of the results, and of what follows from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from math import exp, log
from statistics import median
from typing import Any

import numpy as np
from machine import line
from roofline import Roof, bound
from training import FLOOR as GRADIENT_FLOOR
from training import OURS, TARGETS

from fastrnn.cli.engines import Problem

Results = dict[str, Any]
SIZE = ("cell", "B", "T", "I", "H")
FLOOR = 4 * float(np.finfo("float32").eps)  # a smaller error is right, whatever torch's is
UNDISTURBED = 0.9
TITLES = {
    "imports": "Import, each in a fresh process",
    "sequences": "us per step (largest error)",
    "streams": "One step per call, the state kept: us per call (largest error)",
    "training": "Forward and backward, all gradients: us per step (largest error, in units of max(1, largest value))",
    "starts": "A new layer: ms to make it + ms of the first call (of a later one)",
}


def problem_of(row: Results) -> Problem:
    return Problem(row["cell"], row["T"], row["B"], row["I"], row["H"])


def print_settings(results: Results) -> None:
    threads = results["threads"]
    print(line(results["machine"]))
    for name, ulp in results["machine"].get("ulp", {}).items():
        print(f"fastrnn's {name}: at most {ulp:.2f} ULP off")
    print(f"{threads} thread{'s' * (threads > 1)}; processes that wanted a core before: {results['machine']['load']}")
    for name, why in results["left_out"].items():
        print(f"left out: {name}: {why}")


def print_rows(part: str, rows: Iterable[Results]) -> None:
    """As they come."""
    formatted = FORMATTED[part]
    widths: list[int] = []
    for row in rows:
        cells = formatted(row)
        if not widths:
            widths = [max(len(title), len(cell), 5) for title, cell in cells.items()]
            print(f"\n{TITLES[part]}\n")
            _print_line(cells, widths)
            print("|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
        _print_line(cells.values(), widths)


def print_table(rows: Sequence[dict[str, str]]) -> None:
    widths = [max(len(title), *(len(row[title]) for row in rows)) for title in rows[0]]
    _print_line(rows[0], widths)
    print("|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    for row in rows:
        _print_line(row.values(), widths)


def _print_line(cells: Iterable[str], widths: Sequence[int]) -> None:
    print("| " + " | ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) + " |", flush=True)


def _sequence(row: Results) -> dict[str, str]:
    return {name: str(row[name]) for name in SIZE} | _timed(row)


def _stream(row: Results) -> dict[str, str]:
    return {name: str(row[name]) for name in SIZE if name != "T"} | _timed(row)


def _timed(row: Results) -> dict[str, str]:
    cells = {name: f"{us:,.2f} ({row['error'][name]:.0e})".rjust(16) for name, us in row["us_per_step"].items()}
    return cells | {"best peer / fastrnn": "" if row["ratio"] is None else f"{row['ratio']:.2f}"}


def _start(row: Results) -> dict[str, str]:
    cells = {name: str(row[name]) for name in SIZE}
    for name, start in row["seconds"].items():
        make, first, later = (1e3 * start[key] for key in ("make", "first_call", "later_call"))
        cells[name] = f"{make:.2f} + {first:.3f} ({later:.3f})".rjust(24)
    return cells


def _import(row: Results) -> dict[str, str]:
    first = row["first_result"]
    return {
        "package": row["name"].rjust(11),
        "import, s": f"{row['seconds']:.3f}",
        "memory, MB": f"{row['megabytes']:.0f}",
        "until the first result, s": "" if first is None else f"{first:.3f}",
    }


def _trained(row: Results) -> dict[str, str]:
    cells = {name: str(row[name]) for name in SIZE if name != "I"} | _timed(row)
    for ours, ratio in row["torch_ratio"].items():
        asked = _asked(row, ours)
        verdict = "" if asked is None else f" (asked {asked:g})" if ratio >= asked else f" (MISSED {asked:g})"
        cells[f"torch / {ours}"] = f"{ratio:.2f}{verdict}".rjust(20)
    return cells


def _asked(row: Results, ours: str) -> float | None:
    """The target for a layer."""
    return next((target.ratio for target in TARGETS if target.ours == ours and target.includes(row)), None)


FORMATTED = {"imports": _import, "sequences": _sequence, "streams": _stream, "training": _trained, "starts": _start}


def print_summary(results: Results) -> None:
    """Ratios by cell and batch, where a peer is ahead, processors used, and errors past their bound."""
    groups: dict[tuple[str, str], list[Results]] = defaultdict(list)
    for part in ("sequences", "streams", "training"):
        for row in results.get(part, []):
            if row["ratio"]:
                groups[_group(part, row), row["cell"]].append(row)
    if groups:
        print("\nTime of the best peer over ours\n")
        print_table([_ratios(what, cell, rows) for (what, cell), rows in groups.items()])
        behind = [
            f"\n  {cell}, {what}, H={row['H']}: {row['best_peer']} {row['ratio']:.2f}"
            for (what, cell), rows in groups.items()
            for row in rows
            if row["ratio"] < 1
        ]
        print(f"\nA peer is ahead at {len(behind)} of {sum(map(len, groups.values()))}" + "".join(behind))
    _print_training(results.get("training", []))
    _print_processors(list(chain.from_iterable(results.get(part, []) for part in ("sequences", "streams", "training"))))
    _print_errors(results.get("sequences", []))
    _print_gradient_errors(results.get("training", []))
    if "load_after" in results["machine"]:
        print(f"processes that wanted a core after: {results['machine']['load_after']}")


def _group(part: str, row: Results) -> str:
    if part == "streams":
        return "stream"
    if part == "training":
        return f"training, B={row['B']}"
    if row["B"] > 1:
        return f"B={row['B']}"
    return f"B=1, T={row['T']}, " + ("I=H" if row["I"] == row["H"] else f"I={row['I']}")


def _ratios(what: str, cell: str, rows: Sequence[Results]) -> dict[str, str]:
    ratios = [row["ratio"] for row in rows]
    least = min(rows, key=lambda row: row["ratio"])
    return {
        "layers": what,
        "cell": cell,
        "H": f"{rows[0]['H']}..{rows[-1]['H']}",
        "geometric mean": f"{_mean(ratios):.2f}",
        "least": f"{least['ratio']:.2f} (H={least['H']}, {least['best_peer']})",
    }


def _mean(ratios: Sequence[float]) -> float:
    return exp(sum(map(log, ratios)) / len(ratios))


def _print_training(rows: Sequence[Results]) -> None:
    """torch's time over ours, forward and backward: by cell and batch, and where a target is missed."""
    rows = [row for row in rows if row["torch_ratio"]]
    groups: dict[tuple[str, str], list[Results]] = defaultdict(list)
    for row in rows:
        groups[_group("training", row), row["cell"]].append(row)
    if not rows:
        return
    print("\nForward and backward: torch's time over ours, geometric mean (least)\n")
    table = []
    for (what, cell), found in groups.items():
        cells = {"layers": what, "cell": cell, "H": f"{found[0]['H']}..{found[-1]['H']}"}
        for ours in (name for name in OURS if name in found[0]["torch_ratio"]):
            ratios = [row["torch_ratio"][ours] for row in found]
            cells[f"torch / {ours}"] = f"{_mean(ratios):.2f} ({min(ratios):.2f})"
        table.append(cells)
    print_table(table)
    missed = [
        f"\n  {row['cell']}, B={row['B']}, H={row['H']}: torch / {ours} {ratio:.2f}, asked {asked:g}"
        for row in rows
        for ours, ratio in row["torch_ratio"].items()
        if (asked := _asked(row, ours)) is not None and ratio < asked
    ]
    print(f"\nTargets missed: {len(missed)}" + "".join(missed))


def _print_processors(rows: Sequence[Results]) -> None:
    used: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name, processors in row["processors"].items():
            used[name].append(processors)
    if used:
        disturbed = sum(min(row["processors"].values()) < UNDISTURBED for row in rows)
        print(f"disturbed, an engine having had less than {UNDISTURBED} of a core: {disturbed} of {len(rows)}")
        print("processor time over wall time, median and largest:")
        print("  " + ", ".join(f"{name} {median(seen):.2f} {max(seen):.2f}" for name, seen in used.items()))


def _print_errors(rows: Sequence[Results]) -> None:
    """The accuracy that is asked for: at most 1.5 times torch's own error, or 4 epsilons."""
    past = []
    for row in rows:
        ours, torch = row["error"].get("fastrnn", 0.0), row["error"].get("torch", 0.0)
        if ours > max(1.5 * torch, FLOOR):
            size = ", ".join(f"{name}={row[name]}" for name in SIZE[1:])
            past.append(f"{row['cell']}, {size}: {ours:.1e}, torch {torch:.1e}")
    print(f"errors past max(1.5 x torch's, {FLOOR:.1e}): {len(past)}" + "".join(f"\n  {text}" for text in past))


def _print_gradient_errors(rows: Sequence[Results]) -> None:
    """Gradients may be off by twice torch's own error, or 16 epsilons."""
    past, n = [], 0
    for row in rows:
        torch = row["error_of_each"].get("torch", {})
        for ours in (name for name in OURS if name in row["error_of_each"]):
            for name, error in row["error_of_each"][ours].items():
                n += 1
                if error > max(2 * torch.get(name, 0.0), GRADIENT_FLOOR):
                    size = ", ".join(f"{key}={row[key]}" for key in SIZE[1:])
                    past.append(f"{row['cell']}, {size}, {ours}, {name}: {error:.1e}, torch {torch.get(name, 0.0):.1e}")
    if rows:
        text = f"gradients off by more than 2 x torch's error and {GRADIENT_FLOOR:.1e} x max(1, largest value)"
        print(f"{text}: {len(past)} of {n}" + "".join(f"\n  {one}" for one in past))


def print_roofline(rows: Sequence[Results], roof: Roof) -> None:
    """Batches, and one sequence at I = H: beside the least time that a step can take on this machine."""
    speeds = ", ".join(f"{level.name} {level.speed / 1e9:.0f} GB/s" for level in roof.levels)
    print(f"\nRoofline ({roof.how}): {speeds}, FMA {roof.peak / 1e9:.0f} GFLOP/s\n")
    table = []
    for row in rows:
        square = row["I"] == row["H"]
        if "fastrnn" not in row["us_per_step"] or not square or (row["B"] == 1 and row["T"] != 100):
            continue
        least = bound(problem_of(row), roof)
        us = row["us_per_step"]["fastrnn"]
        table.append(
            {
                **{name: str(row[name]) for name in ("cell", "B", "H")},
                "MB": _digits(least.megabytes),
                "MFLOP": _digits(least.megaflops),
                "least, us": f"{_digits(least.us)} ({least.by})",
                "ours, us": _digits(us),
                "ours / least": f"{us / least.us:.2f}",
            }
        )
    if table:
        print_table(table)


def _digits(value: float) -> str:
    """Three of them, and no exponents."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}" if value < 0.1 else f"{value:.3g}"
