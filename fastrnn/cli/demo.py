"""Run the model that ships with fastrnn, without torch, and compare with what torch recorded.

The model is a two-layer bidirectional LSTM that reads Morse code out of a noisy radio signal. Where a backend disagrees
with torch, the exit status is 1.
"""

from __future__ import annotations

import math
import time
from argparse import ArgumentParser, Namespace
from itertools import pairwise
from pathlib import Path
from typing import Any

import fastrnn

from . import show
from .compare import TOLERANCE, Difference, difference, worst
from .files import Array
from .verify import available_backends, results

DATA = Path(__file__).parents[1] / "data"
TIMING = 0.03  # seconds for each backend
Heard = list[tuple[int, str]]  # a step, and the character that begins there
LEVELS = " ▁▂▃▄▅▆▇█"
WIDTH = 68


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every backend available, not only reference and cython")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def execute(args: Namespace) -> int:
    checkpoint = fastrnn.load(DATA / "demo.pt")
    golden = fastrnn.load(DATA / "demo_golden.npz")
    state = checkpoint["state_dict"]
    layer = fastrnn.from_state_dict(state, prefix="lstm.", batch_first=True)
    rows = []
    for backend in available_backends() if args.all else ["reference", "cython"]:
        with fastrnn.use_backend(backend):
            found = results(layer, golden["x"], lengths=golden["lengths"])
            differences = [difference(actual, golden[name]) for name, actual in found.items()]
            rows.append((backend, worst(differences), us_per_step(layer, golden)))
    logits = found["output"] @ state["head.weight"].T + state["head.bias"]
    heard = [listen(row[:n], checkpoint["alphabet"]) for row, n in zip(logits, golden["lengths"], strict=True)]
    ok = all(row[1].ok for row in rows)
    if args.json:
        show.print_json(
            {
                "layer": repr(layer),
                "messages": [text(message) for message in heard],
                "tolerance_eps": TOLERANCE,
                "ok": ok,
                "backends": [
                    {"backend": name, **off._asdict(), "us_per_step": us, "ok": off.ok} for name, off, us in rows
                ],
            }
        )
    else:
        parameters = sum(array.size for array in layer.parameters().values())
        print("A bidirectional LSTM, trained with torch, reads Morse code out of a noisy radio signal; here in NumPy.")
        print(f"{layer!r}, {parameters:,} parameters\n")
        shortest = int(golden["lengths"].argmin())
        draw(golden["x"][shortest, : golden["lengths"][shortest]], heard[shortest])
        print("messages  " + ", ".join(text(message) for message in heard) + "\n")
        print_rows(rows)
    return 0 if ok else 1


def us_per_step(layer: Any, golden: dict[str, Array]) -> float:
    """The best of the calls that fit into the time for it; a step is one step of time of the whole batch."""
    best = math.inf
    end = time.perf_counter() + TIMING
    while (began := time.perf_counter()) < end:
        layer(golden["x"], lengths=golden["lengths"])
        best = min(best, time.perf_counter() - began)
    steps: int = golden["x"].shape[1]
    return best / steps * 1e6


def listen(logits: Array, alphabet: str) -> Heard:
    """The characters in logits (T, classes): a run of one class is one character, class 0 is none."""
    classes = [0, *logits.argmax(-1)]
    return [(t, alphabet[k]) for t, (last, k) in enumerate(pairwise(classes)) if k not in (0, last)]


def text(heard: Heard) -> str:
    return "".join(char for _, char in heard)


def draw(x: Array, heard: Heard) -> None:
    """The signal x (T, I), and under it each character at the step where the model hears it begin."""
    levels = (x.mean(axis=1).clip(0, 1) * (len(LEVELS) - 1)).round().astype(int)
    signal = "".join(LEVELS[level] for level in levels)
    letters = [" "] * len(x)
    for t, char in heard:
        letters[t] = char
    for t in range(0, len(x), WIDTH):
        print(f"signal    {signal[t : t + WIDTH]}\n          {''.join(letters[t : t + WIDTH]).rstrip()}".rstrip())


def print_rows(rows: list[tuple[str, Difference, float]]) -> None:
    show.print_table(
        ["backend", ">absolute", ">relative", ">ULP", ">us/step", "verdict"],
        [
            (name, f"{d.absolute:.1e}", f"{d.relative:.1e}", f"{d.ulp:,.0f}", f"{us:.2f}", show.verdict(d.ok))
            for name, d, us in rows
        ],
    )
    print("absolute, relative, ULP: the largest difference from what torch recorded, over output, h_n and c_n;")
    print(f"right: absolute at most {rows[0][1].allowed:.1e}")
