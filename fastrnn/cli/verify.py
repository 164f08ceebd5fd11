"""Hold every available backend to the float64 reference on random input, and to recorded outputs.

The random batch has ragged rows and non-zero initial states. A golden file is an .npz with the arrays x and output, and
those that apply of h_0, c_0, lengths, reset, batch_first, h_n, c_n.
Past the tolerance the exit status is 1.
"""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastrnn

from . import files, show
from .chunks import directions, state_widths
from .compare import TOLERANCE, Difference, difference
from .files import Array


class Check(NamedTuple):
    backend: str
    against: str
    value: str  # output, h_n, c_n
    difference: Difference


def add_arguments(parser: ArgumentParser) -> None:
    files.add_layer_arguments(parser)
    parser.add_argument("--golden", metavar="G.npz", help="inputs and outputs recorded elsewhere")
    parser.add_argument("--steps", type=positive, default=64, metavar="T", help="of the random input (default: 64)")
    parser.add_argument("--batch", type=positive, default=5, metavar="N", help="rows of it (default: 5)")
    parser.add_argument("--seed", type=int, default=0, help="of it (default: 0)")
    parser.add_argument(
        "--tolerance",
        type=tolerance,
        default=TOLERANCE,
        metavar="EPS",
        help=f"in machine epsilons times max(1, largest value) (default: {TOLERANCE:g})",
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
    options = {"dtype": args.dtype, "nonlinearity": args.nonlinearity}
    loaded = files.load_layer(args.file, args.prefix, batch_first=bool(golden.get("batch_first", False)), **options)
    if loaded.is_cell:  # recorded was one step
        golden = {name: np.asarray(array)[None] for name, array in golden.items()}
    checks = list(against_reference(loaded.layer, args))
    if golden:
        checks += against_golden(loaded.layer, golden, args)
    report(args, loaded, checks)
    return 0 if all(check.difference.ok for check in checks) else 1


def available_backends() -> list[str]:
    return [backend.name for backend in fastrnn.backends() if backend.available]


def results(layer: Any, x: Array, states: Sequence[Array] = (), **options: Any) -> dict[str, Array]:
    """What a call gives, under the names of golden files."""
    hx = None if not states else tuple(states) if len(states) > 1 else states[0]
    output, ends = layer(x, hx, **options)
    h_n, c_n = ends if isinstance(ends, tuple) else (ends, None)
    return {"output": output, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})


def against_reference(layer: Any, args: Namespace) -> Iterator[Check]:
    """Each backend on a random ragged batch with random initial states."""
    rng = np.random.default_rng(args.seed)
    T, N = args.steps, args.batch
    shapes = [(N, T, layer.input_size) if layer.batch_first else (T, N, layer.input_size)]
    shapes += [(layer.num_layers * directions(layer), N, width) for width in state_widths(layer)]
    # In the layer's dtype: the reference should see the same numbers.
    x, *states = (rng.standard_normal(shape).astype(layer.dtype) for shape in shapes)
    lengths = rng.integers(0, T, N, endpoint=True)
    lengths[0] = T
    with fastrnn.use_backend("reference"):
        truth = results(layer.astype("float64"), x, states, lengths=lengths)
    for backend in available_backends():
        with fastrnn.use_backend(backend):
            found = results(layer, x, states, lengths=lengths)
        for name, actual in found.items():
            yield Check(backend, "float64 reference", name, difference(actual, truth[name], args.tolerance))


def read_golden(path: str) -> dict[str, Array]:
    golden = fastrnn.load(files.existing(path))
    if not isinstance(golden, dict) or "x" not in golden or not golden.keys() & {"output", "h_n", "c_n"}:
        raise fastrnn.CheckpointError(f"{path}: expected a golden file, with the array x and output, h_n or c_n")
    return golden


def against_golden(layer: Any, golden: dict[str, Array], args: Namespace) -> list[Check]:
    """Each backend on recorded inputs, as far as outputs were recorded."""
    states = [golden[name] for name in ("h_0", "c_0") if name in golden]
    options = {name: golden[name] for name in ("lengths", "reset") if name in golden}
    checks = []
    try:
        for backend in available_backends():
            with fastrnn.use_backend(backend):
                found = results(layer, golden["x"], states, **options)
            for name, actual in found.items():
                if name in golden:
                    off = difference(actual, golden[name], args.tolerance)
                    checks.append(Check(backend, args.golden, name, off))
    except (TypeError, ValueError) as error:
        raise fastrnn.CheckpointError(f"{args.golden} does not fit {layer!r}: {error}") from error
    return checks


def report(args: Namespace, loaded: files.Loaded, checks: list[Check]) -> None:
    prefix, layer, _ = loaded
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
    print(f"{args.file}: {show.plain(prefix)} {layer!r}, {layer.dtype}\n")
    rows = []
    for backend, against, value, d in checks:
        figures = (f"{d.absolute:.1e}", f"{d.relative:.1e}", f"{d.ulp:,.1f}", f"{d.allowed:.1e}")
        rows.append((backend, against, value, *figures, show.verdict(d.ok)))
    show.print_table(["backend", "against", "of", ">absolute", ">relative", ">ULP", ">allowed", "verdict"], rows)
    print(f"\nlargest differences; absolute may be {args.tolerance:g} eps of {layer.dtype} x max(1, largest value)")
    for name, why_not in missing.items():
        print(f"not run: {name}: {why_not}")
