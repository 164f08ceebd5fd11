"""Two pictures of each part: time of a step against hidden size, throughput against batch; a panel for each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from roofline import operations
from tables import problem_of
from training import MODULES

from fastrnn.cli.engines import SPECS

Results = dict[str, Any]

# Okabe and Ito's colours, which colour-blind readers tell apart; markers say the same once more.
STYLES: dict[str, dict[str, Any]] = {
    "fastrnn": {"color": "#0072B2", "marker": "o", "linewidth": 2.4, "zorder": 3},
    MODULES: {"color": "#56B4E9", "marker": "P", "linestyle": "--"},
    "torch": {"color": "#D55E00", "marker": "s"},
    "onnxruntime": {"color": "#009E73", "marker": "^"},
    "openvino": {"color": "#CC79A7", "marker": "D"},
    "jax": {"color": "#E69F00", "marker": "v"},
}
#: By part: names of both files, what the title adds, and how often the layer's products are multiplied and added: on
#: the way back once more for dx and dh, and once for the weights' gradients.
PICTURES = {
    "sequences": ("time_per_step", "throughput", "", 1),
    "training": ("training_time_per_step", "training_throughput", ", forward and backward", 3),
}
STEPS = 100  # of the one sequence that is drawn
BATCH_H = 256
RC: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, and can be searched
    "svg.hashsalt": "fastrnn",  # the same figures give the same file
    "font.size": 9,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "lines.linewidth": 1.3,
    "lines.markersize": 4.5,
}


def draw(results: Results, folder: Path, suffix: str = "svg") -> list[Path]:
    """Write the pictures of those parts that there are into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    threads = results["threads"]
    subtitle = f"{results['machine']['processor']}, {threads} thread{'s' * (threads > 1)}, float32"
    name = "" if threads == 1 else f"_{threads}_threads"
    paths = []
    with matplotlib.rc_context(RC):
        for part, (of_single, of_batches, what, passes) in PICTURES.items():
            rows = [row for row in results.get(part, []) if row["I"] == row["H"]]
            single = [row for row in rows if row["B"] == 1 and row["T"] == STEPS]
            batched = [row for row in rows if row["H"] == BATCH_H and (row["B"] > 1 or row["T"] == STEPS)]
            if single:
                paths.append(
                    _picture(
                        folder / f"{of_single}{name}.{suffix}",
                        single,
                        x="H",
                        y=lambda row, engine: row["us_per_step"][engine],
                        labels=("hidden size", "µs per step"),
                        log=True,
                        title=f"One sequence of {STEPS} steps{what}: time per step (less is better). {subtitle}",
                    )
                )
            if batched:
                paths.append(
                    _picture(
                        folder / f"{of_batches}{name}.{suffix}",
                        batched,
                        x="B",
                        y=partial(_gflops, passes),
                        labels=("batch", "GFLOP/s"),
                        title=f"{BATCH_H} hidden units{what}: throughput (more is better). {subtitle}",
                        peak=results["roof"]["peak"] / 1e9 if "roof" in results else None,
                    )
                )
    return paths


def _gflops(passes: int, row: Results, engine: str) -> float:
    return passes * operations(problem_of(row)) / row["us_per_step"][engine] / 1e3


def _picture(
    path: Path,
    rows: list[Results],
    *,
    x: str,
    y: Callable[[Results, str], float],
    labels: tuple[str, str],
    title: str,
    log: bool = False,
    peak: float | None = None,
) -> Path:
    figure, panels = plt.subplots(1, len(SPECS), figsize=(10, 3.6), sharey=True, layout="constrained")
    for cell, panel in zip(SPECS, panels, strict=True):
        of_cell = sorted((row for row in rows if row["cell"] == cell), key=lambda row: row[x])
        for engine, style in STYLES.items():
            points = [(row[x], y(row, engine)) for row in of_cell if engine in row["us_per_step"]]
            if points:
                panel.plot(*zip(*points, strict=True), label=engine, **style)
        if peak is not None:
            panel.axhline(peak, color="#777777", linestyle="--", linewidth=1, label="multiply-add peak")
        panel.set(xscale="log", title=cell, xlabel=labels[0])
        _ticks(panel, {row[x] for row in of_cell})
    if log:
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter("{x:g}")
    else:
        panels[0].set_ylim(bottom=0)
    panels[0].set_ylabel(labels[1])
    figure.suptitle(title, fontsize=10)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
    plt.close(figure)
    return path


def _ticks(panel: Any, values: Iterable[int]) -> None:
    """The sizes that were timed, and none between."""
    panel.set_xticks(sorted(values), labels=[str(value) for value in sorted(values)], minor=False)
    panel.set_xticks([], minor=True)
