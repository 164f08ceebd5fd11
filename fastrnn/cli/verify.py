"""Hold every available backend to the float64 reference, and to recorded outputs.

The input is a random batch of ragged rows with initial states. A golden file
is an .npz with the arrays x and output, and those that apply of h_0, c_0,
lengths, reset, batch_first, h_n, c_n. Past the tolerance the exit status is 1.
"""

from __future__ import annotations

import math
import os
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import Any

import numpy as np

import fastrnn

from . import files, show
from .chunks import directions, state_widths
from .compare import GROWTH, TOLERANCE, Check, Inputs, available_backends, check, recorded_inputs
from .files import Array


def add_arguments(parser: ArgumentParser) -> None:
    files.add_layer_arguments(parser)
    parser.add_argument("--golden", metavar="G.npz", help="inputs and outputs recorded elsewhere")
    parser.add_argument("--steps", type=positive, default=64, metavar="T", help="of the random input (default: 64)")
    parser.add_argument("--batch", type=positive, default=5, metavar="N", help="rows of it (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of it (default: 0)")
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        metavar="EPS",
        help="allowed error in machine epsilons times max(1, largest value), whatever the layer "
        f"(default: {TOLERANCE:g}, and more for a layer that amplifies rounding)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise ArgumentTypeError(f"expected a positive number, got: {text!r}")
    return int(text)


def tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ArgumentTypeError(f"expected a number of epsilons, got: {text!r}")
    return value


def execute(args: Namespace) -> int:
    golden = read_golden(args.golden) if args.golden else {}
    options = {"dtype": args.dtype, "nonlinearity": args.nonlinearity, "max_ops": args.max_ops}
    batch_first = bool(golden["batch_first"]) if "batch_first" in golden else None  # None: what the file says
    loaded = files.load_layer(args.file, args.prefix, batch_first=batch_first, **options)
    layer, backends = loaded.layer, available_backends()
    checks = check(layer, random_inputs(layer, args), backends, tolerance=args.tolerance)
    if golden:
        if loaded.is_cell:  # recorded was one step
            golden = {name: np.asarray(array)[None] for name, array in golden.items()}
        try:
            inputs = recorded_inputs(golden)
            checks += check(layer, inputs, backends, recorded=golden, against=args.golden, tolerance=args.tolerance)
        except (TypeError, ValueError) as error:
            raise fastrnn.CheckpointError(f"{args.golden} does not fit {layer!r}: {error}") from error
    report(args, loaded, checks)
    return 0 if all(found.difference.ok for found in checks) else 1


def read_golden(path: str) -> dict[str, Array]:
    saved = files.load(path)
    golden = {name: a for name, a in saved.items() if isinstance(a, np.ndarray)} if isinstance(saved, dict) else {}
    if "x" not in golden or not golden.keys() & {"output", "h_n", "c_n"}:
        raise fastrnn.CheckpointError(f"{path}: expected a golden file, with the array x and output, h_n or c_n")
    return golden


def random_inputs(layer: Any, args: Namespace) -> Inputs:
    """A ragged batch with initial states."""
    rng = np.random.default_rng(args.seed)
    T, N = args.steps, args.batch
    shapes = [(N, T, layer.input_size) if layer.batch_first else (T, N, layer.input_size)]
    shapes += [(layer.num_layers * directions(layer), N, width) for width in state_widths(layer)]
    # In the layer's dtype: every backend should see the same numbers as the reference.
    x, *states = (rng.standard_normal(shape).astype(layer.dtype) for shape in shapes)
    lengths = rng.integers(0, T, N, endpoint=True)
    lengths[0] = T
    return Inputs(x, states, {"lengths": lengths})


def report(args: Namespace, loaded: files.Loaded, checks: list[Check]) -> None:
    prefix, layer, *_ = loaded
    ok = all(check.difference.ok for check in checks)
    missing = {backend.name: backend.why_not for backend in fastrnn.backends() if not backend.available}
    if args.json:
        show.print_json(
            {
                "file": args.file,
                "prefix": prefix,
                "layer": repr(layer),
                "dtype": str(layer.dtype),
                "tolerance_eps": args.tolerance,
                "ok": ok,
                "checks": [
                    {"backend": c.backend, "against": c.against, "value": c.value}
                    | c.difference._asdict()
                    | {"ok": c.difference.ok}
                    for c in checks
                ],
                "not_available": missing,
            }
        )
        return
    print(f"{show.plain(args.file)}{show.plain(prefix and f' {prefix}')}: {layer!r}, {layer.dtype}\n")
    rows = []
    for backend, against, value, d in checks:
        figures = (f"{d.absolute:.1e}", f"{d.relative:.1e}", f"{d.ulp:,.1f}", f"{d.allowed:.1e}")
        rows.append((backend, os.path.basename(against), value, *figures, show.verdict(d.ok)))
    show.print_table(["backend", "against", "of", ">absolute", ">relative", ">ULP", ">allowed", "verdict"], rows)
    eps = TOLERANCE if args.tolerance is None else args.tolerance
    print("\nfloat64: the reference in that dtype; relative and ULP: of the largest value")
    print(f"allowed: {eps:g} eps of {layer.dtype} x max(1, largest value)")
    if args.tolerance is None:
        print(f"  or, where that is more, {GROWTH:g} x the effect of one eps in weights and input")
    for name, why_not in missing.items():
        print(f"not run: {name}: {why_not}")
