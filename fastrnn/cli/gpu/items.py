"""What a check looks at, in the order in which it does."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from itertools import product

from ..engines import SPECS, Problem
from . import libraries, parity, safety, times
from .environment import HOPS, hop
from .parity import Case
from .times import TORCH, Timed
from .worker import Item

STEPS = 512
SIZES = ((1, 64), (1, 256), (1, 512), (1, 1024), (4, 512), (16, 512), (64, 512), (256, 1024))  # N, H
QUICK_SIZES = ((1, 64), (1, 512), (16, 512))
FORWARD = ("general", "A0", "A", "B", "chosen", "general tf32", "B tf32", *TORCH)
BACKWARD = ("general", "C", "chosen", "general tf32", "chosen tf32", *TORCH)


def items_of(part: str, args: Namespace) -> list[Item]:
    """Those of a part of the check."""
    if part == "parity":
        quick = list(quick_cases())
        rest = [] if args.quick else [case for case in dict.fromkeys(all_cases()) if case not in quick]
        others = [Item(part, {"path": "arrays", "of": name}, libraries.run, (name,)) for name in libraries.LIBRARIES]
        others += [Item(part, {"path": "gives up", "of": name}, safety.gives_up, (name,)) for name in safety.PERSISTENT]
        others.append(Item(part, {"path": "errors"}, safety.errors))
        first, last = ([Item(part, parity.about(c), parity.run, (c,)) for c in cases] for cases in (quick, rest))
        return [*first, *others, *last]  # a little of everything first: there may not be time for all
    if part == "hops":
        return [Item(part, {"kind": kind}, hop, (kind,), 20.0) for kind in HOPS]
    return [Item(part, times.about(timed), times.run, (timed,), 60.0) for timed in all_timed(args)]


def all_timed(args: Namespace) -> Iterator[Timed]:
    if args.batch or args.hidden:
        batches = [args.batch] if args.batch else sorted({N for N, _ in SIZES})
        sizes = list(product(batches, [args.hidden] if args.hidden else sorted({H for _, H in SIZES})))
    else:
        sizes = list(QUICK_SIZES if args.quick else SIZES)
    cells = [args.cell] if args.cell else ["LSTM"] if args.quick else [cell for cell in SPECS if cell != "RNN"]
    for backward, cell, (N, H) in product((False, True), cells, sizes):
        for engine in BACKWARD if backward else FORWARD:
            left_out = (args.alone and engine in TORCH) or (args.quick and engine.endswith("tf32"))
            if not left_out:
                yield Timed(Problem(cell, args.steps or STEPS, N, H, H), backward, engine)


def quick_cases() -> Iterator[Case]:
    """One or two of each path."""
    yield Case("general", "LSTM", 5, 33, 2, options=("ragged", "reset"))
    yield Case("general", "GRU", 5, 33, dtype="float64")
    yield Case("A0", "LSTM", 2, 64)
    yield Case("A0", "GRU", 3, 50, 2, options=("ragged", "reset"))
    for cell in ("LSTM", "GRU"):
        yield Case("A", cell, 1, 512)
    yield Case("A", "LSTM", 3, 256, 2, options=("ragged", "reset"))
    yield Case("C", "LSTM", 1, 512)
    yield Case("C", "GRU", 3, 256, 2, options=("ragged", "reset"))
    yield Case("B", "LSTM", 16, 512)
    yield Case("B tf32", "GRU", 16, 256, options=("ragged", "reset"))


def all_cases() -> Iterator[Case]:
    cells = ("LSTM", "GRU", "RNN tanh")
    # general: everything
    for cell, dtype in product(("LSTM", "GRU", "RNN tanh", "RNN relu"), ("float32", "float64")):
        yield Case("general", cell, 5, 33, 2, dtype, ("ragged", "reset"))
        yield Case("general", cell, 1, 7, dtype=dtype, options=("no bias", "no state"))
    for dtype in ("float32", "float64"):
        yield Case("general", "LSTM", 4, 30, 2, dtype, ("projection", "ragged", "reset"))
        yield Case("general", "GRU", 4, 30, 2, dtype, ("two layers", "ragged"))
    for cell in parity.CUSTOM:
        yield Case("general", cell, 3, 20, 2, options=("ragged", "reset"))
    yield Case("general", "LSTM", 3, 20, options=("per sample", "ragged"))
    yield Case("general", "LSTM", 130, 100, options=("wide",))
    yield Case("general", "GRU", 1, 1)
    yield Case("general tf32", "LSTM", 64, 256)
    # what the engine takes by itself
    for N, H in ((1, 64), (1, 512), (16, 512), (200, 64)):
        yield Case("chosen", "LSTM", N, H, options=("ragged",))
    yield Case("chosen", "GRU", 2, 96, options=("two layers",))
    # one block
    for cell in cells:
        yield Case("A0", cell, 1, 64)
        yield Case("A0", cell, 3, 32, 2, options=("ragged", "reset"))
    yield Case("A0", "LSTM", 1, 96)
    yield Case("A0", "GRU", 5, 17)
    yield Case("A0", "LSTM", 300, 24)
    # a warp for each unit, forth and back
    for path, cell in product(("A", "C"), cells):
        yield Case(path, cell, 1, 256)
        yield Case(path, cell, 2, 128, 2, options=("ragged", "reset"))
        yield Case(path, cell, 4, 512, options=("no bias",))
        yield Case(path, cell, 1, 1024)
    for path in ("A", "C"):
        yield Case(path, "MGU", 2, 64, options=("ragged",))
        yield Case(path, "LSTM", 1, 200)
        yield Case(path, "LSTM", 4, 1024, options=("ragged", "no state"))
    yield Case("C", "LSTM", 8, 512)
    yield Case("C", "GRU", 32, 64, options=("ragged", "reset"))
    # tensor cores
    for path, cell in product(("B", "B tf32"), cells):
        yield Case(path, cell, 16, 256)
        yield Case(path, cell, 33, 128, 2, options=("ragged", "reset"))
        yield Case(path, cell, 64, 512)
    yield Case("B", "LSTM", 128, 512)
    yield Case("B", "LSTM", 8, 1024)
    yield Case("B", "MGU", 20, 64, options=("ragged",))
