"""Run the models that ship with fastrnn, and compare with what torch recorded.

The first is a bidirectional two-layer LSTM, trained in torch, that reads
Morse code out of a noisy radio signal. Where a backend disagrees with torch,
the exit status is 1. The second is a GRU, trained by fastrnn, that writes
verse, character by character.
"""

from __future__ import annotations

import math
import random
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastrnn

from . import show
from .compare import Difference, Inputs, available_backends, check, recorded_inputs, results
from .files import Array

DATA = Path(__file__).parents[1] / "data"
TIMING = 0.03  # seconds for each backend
BACKENDS = ("reference", "cython")
LEVELS = " ▁▂▃▄▅▆▇█"
WIDTH = 68  # steps of the signal on one line
OPENING, LINES, SEED, TEMPERATURE = "Shall I compare thee", 4, 9, 0.45

Heard = list[tuple[int, str]]  # a step, and the character that begins there


class Row(NamedTuple):
    backend: str
    difference: Difference
    us_per_step: float


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every backend available, not only reference and cython")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def execute(args: Namespace) -> int:
    checkpoint = fastrnn.load(DATA / "demo.pt")
    golden = fastrnn.load(DATA / "demo_golden.npz")
    state, alphabet = checkpoint["state_dict"], checkpoint["alphabet"]
    layer = fastrnn.from_state_dict(state, prefix="lstm.", batch_first=True)
    inputs = recorded_inputs(golden)
    rows = measure(layer, inputs, golden, available_backends() if args.all else BACKENDS)
    logits = results(layer, inputs)["output"] @ state["head.weight"].T + state["head.bias"]
    heard = [listen(row[:n], alphabet) for row, n in zip(logits, golden["lengths"], strict=True)]
    writer = fastrnn.load(DATA / "writer.pt")
    verse = write(writer["state_dict"], writer["alphabet"])
    if args.json:
        print_json(layer, heard, rows, verse)
    else:
        parameters = sum(array.size for array in layer.parameters().values())
        print(f"A torch-trained LSTM of {parameters:,} parameters reads Morse code, here without torch:")
        print(f"{layer!r}\n")
        shortest = int(golden["lengths"].argmin())
        draw(inputs.x[shortest, : golden["lengths"][shortest]], heard[shortest])
        print("messages  " + ", ".join(text(message) for message in heard) + "\n")
        print_rows(rows)
        count = sum(array.size for array in writer["state_dict"].values())
        print(
            f"\nA GRU of {count:,} parameters, trained by fastrnn on Shakespeare's sonnets, goes on from {OPENING!r}:\n"
        )
        print("\n".join("  " + line for line in verse))
    return 0 if all(row.difference.ok for row in rows) else 1


def measure(layer: Any, inputs: Inputs, golden: dict[str, Array], backends: Sequence[str]) -> list[Row]:
    """Each backend's largest differences over output, h_n and c_n; `allowed` is of the one nearest to its bound."""
    checks = check(layer, inputs, backends, recorded=golden)
    rows = []
    for backend in backends:
        found = [item.difference for item in checks if item.backend == backend]
        nearest = max(found, key=lambda d: d.absolute / d.allowed)
        worst = nearest._replace(relative=max(d.relative for d in found), ulp=max(d.ulp for d in found))
        with fastrnn.use_backend(backend):
            rows.append(Row(backend, worst, us_per_step(layer, inputs)))
    return rows


def us_per_step(layer: Any, inputs: Inputs) -> float:
    """The best of the calls that fit into the time for it; a step is one step of time of the whole batch."""
    best = math.inf
    end = time.perf_counter() + TIMING
    while (began := time.perf_counter()) < end:
        results(layer, inputs)
        best = min(best, time.perf_counter() - began)
    steps: int = inputs.x.shape[1]
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


def print_rows(rows: list[Row]) -> None:
    table = []
    for backend, d, us in rows:
        figures = (f"{d.absolute:.1e}", f"{d.relative:.1e}", f"{d.ulp:,.0f}", f"{d.allowed:.1e}")
        table.append((backend, *figures, f"{us:.2f}", show.verdict(d.ok)))
    show.print_table(["backend", ">absolute", ">relative", ">ULP", ">allowed", ">us/step", "verdict"], table)
    print("\nLargest differences from torch's results; relative and ULP: of the largest value")


def write(state: Mapping[str, Array], alphabet: str) -> list[str]:
    """Lines of verse that begin with the opening, one step of a stream for each character; the same in every run."""
    weights = {name: array.astype("float32") for name, array in state.items()}  # they are stored as float16
    stream = fastrnn.from_state_dict(weights, prefix="rnn.").stream()
    draw, verse, n_read = random.Random(SEED), OPENING, 0  # its numbers are the same in all versions of Python
    while verse.count("\n") < LINES:
        for character in verse[n_read:]:
            y = stream.step(weights["embed.weight"][alphabet.index(character)])
        n_read = len(verse)
        logits = weights["head.weight"] @ y + weights["head.bias"]
        likely = np.exp((logits - logits.max()) / TEMPERATURE)
        verse += draw.choices(alphabet, likely.tolist())[0]
    return verse.splitlines()


def print_json(layer: Any, heard: list[Heard], rows: list[Row], verse: list[str]) -> None:
    backends = [{"backend": backend, **d._asdict(), "us_per_step": us, "ok": d.ok} for backend, d, us in rows]
    show.print_json(
        {
            "layer": repr(layer),
            "messages": [text(message) for message in heard],
            "verse": verse,
            "ok": all(row.difference.ok for row in rows),
            "backends": backends,
        }
    )
