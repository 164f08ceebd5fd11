"""Which layers `compare.py` times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from fastrnn.cli.engines import SPECS, Problem

BATCH_STEPS = {8: 100, 32: 50, 256: 20}


class Grid(NamedTuple):
    sequences: list[Problem]  # one call over T steps
    streams: list[Problem]  # T calls, each of one step
    training: list[Problem]  # forward and backward over T steps
    starts: list[Problem]  # a layer made and called once


def quick() -> Grid:
    sequences = single(H=(16, 64, 256), T=(100,), one_feature=False) + [
        Problem(cell, 20, 32, 256, 256) for cell in SPECS
    ]
    trained = single(H=(16, 32, 64, 256), T=(100,), one_feature=False) + [Problem(c, 20, 32, 256, 256) for c in SPECS]
    return Grid(sequences, streams(H=(16, 64, 256)), trained, starts(("LSTM",), H=(64, 256), T=(10,)))


def default() -> Grid:
    sequences = single(H=powers(8, 1024), T=(1, 10, 100, 1000)) + batches(N=(8, 32, 256), H=(128, 256, 512))
    return Grid(
        sequences,
        streams(H=(16, 32, 64, 128, 256, 512)),
        training(H=powers(16, 512)),
        starts(("LSTM",), H=(16, 64, 256, 1024), T=(1, 10, 100)),
    )


def full() -> Grid:
    """Also sizes that fill no vector, few features, and every batch at every size."""
    H = (*powers(8, 1024), 20, 50, 100, 200, 300)
    sequences = single(H=H, T=(1, 10, 100, 1000))
    sequences += [Problem(cell, 100, 1, 4, h) for cell, h in product(SPECS, H)]
    sequences += batches(N=(2, 5, 8, 16, 32, 64, 256), H=[h for h in H if h >= 16])
    return Grid(sequences, streams(H=H), training(H=H), starts(SPECS, H=powers(8, 1024), T=(1, 10, 100)))


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


def training(*, H: Sequence[int]) -> list[Problem]:
    """One sequence at every size, and the batches of the targets."""
    batched = [(100, 16, 64), (100, 8, 256), (50, 32, 128), (50, 32, 256), (20, 32, 512)]
    return single(H=H, T=(100,), one_feature=False) + [
        Problem(c, t, n, h, h) for c, (t, n, h) in product(SPECS, batched)
    ]


def starts(cells: Iterable[str], *, H: Sequence[int], T: Sequence[int]) -> list[Problem]:
    return [Problem(cell, t, 1, h, h) for cell, t, h in product(cells, T, H)]


def filtered(grid: Grid, only: Mapping[str, Sequence[str]]) -> Grid:
    """The problems of which each of `cell`, `B`, `T`, `I` and `H` that is a key of `only` has one of the values."""

    def fits(problem: Problem) -> bool:
        return all(str(getattr(problem, "N" if name == "B" else name)) in values for name, values in only.items())

    return Grid(*([p for p in part if fits(p)] for part in grid))
