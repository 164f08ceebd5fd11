"""Which layers `compare.py` times."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import NamedTuple

from fastrnn.cli.engines import SPECS, Problem

BATCH_STEPS = {8: 100, 32: 50, 256: 20}


class Grid(NamedTuple):
    sequences: list[Problem]  # one call over T steps
    streams: list[Problem]  # T calls, each of one step
    starts: list[Problem]  # a layer made and called once


def quick() -> Grid:
    sequences = single(H=(16, 64, 256), T=(100,), one_feature=False) + [
        Problem(cell, 20, 32, 256, 256) for cell in SPECS
    ]
    return Grid(sequences, streams(H=(16, 64, 256)), starts(("LSTM",), H=(64, 256), T=(10,)))


def default() -> Grid:
    sequences = single(H=powers(8, 1024), T=(1, 10, 100, 1000)) + batches(N=(8, 32, 256), H=(128, 256, 512))
    return Grid(
        sequences, streams(H=(16, 32, 64, 128, 256, 512)), starts(("LSTM",), H=(16, 64, 256, 1024), T=(1, 10, 100))
    )


def full() -> Grid:
    """Also sizes that fill no vector, few features, and every batch at every size."""
    H = (*powers(8, 1024), 20, 50, 100, 200, 300)
    sequences = single(H=H, T=(1, 10, 100, 1000))
    sequences += [Problem(cell, 100, 1, 4, h) for cell, h in product(SPECS, H)]
    sequences += batches(N=(2, 5, 8, 16, 32, 64, 256), H=[h for h in H if h >= 16])
    return Grid(sequences, streams(H=H), starts(SPECS, H=powers(8, 1024), T=(1, 10, 100)))


def powers(first: int, last: int) -> tuple[int, ...]:
    return tuple(1 << k for k in range(first.bit_length() - 1, last.bit_length()))


def single(*, H: Sequence[int], T: Sequence[int], one_feature: bool = True) -> list[Problem]:
    """One sequence, with as many features as hidden units, and with one feature."""
    features = [False, True] if one_feature else [False]
    return [Problem(cell, t, 1, 1 if one else h, h) for cell, one, t, h in product(SPECS, features, T, H)]


def batches(*, N: Sequence[int], H: Sequence[int]) -> list[Problem]:
    return [Problem(cell, BATCH_STEPS.get(n, 50), n, h, h) for cell, n, h in product(SPECS, N, H)]


def streams(*, H: Sequence[int]) -> list[Problem]:
    return [Problem(cell, 20, 1, h, h) for cell, h in product(SPECS, H)]


def starts(cells: Iterable[str], *, H: Sequence[int], T: Sequence[int]) -> list[Problem]:
    return [Problem(cell, t, 1, h, h) for cell, t, h in product(cells, T, H)]


def filtered(grid: Grid, only: Iterable[str]) -> Grid:
    """What fits every filter: ``cell=LSTM,GRU``, ``B=1``, ``H=16,64``; also T and I.

    Raises
    ------
    ValueError
        A filter is written in another way.
    """
    wanted = dict(_parsed(text) for text in only)

    def fits(problem: Problem) -> bool:
        return all(str(getattr(problem, field)) in values for field, values in wanted.items())

    return Grid(*([p for p in part if fits(p)] for part in grid))


def _parsed(text: str) -> tuple[str, list[str]]:
    fields = {"cell": "cell", "B": "N", "N": "N", "H": "H", "T": "T", "I": "I"}
    name, _, values = text.partition("=")
    if name not in fields or not values:
        raise ValueError(f"expected a filter such as cell=LSTM,GRU or B=1 or H=16,64, got: {text!r}")
    return fields[name], values.split(",")
