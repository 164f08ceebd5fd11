"""Run a layer over an array that may be larger than memory.

The input is (T, N, I) - time, batch, features - or (N, T, I) with
--batch-first, or (T, I). It is mapped, not read, and goes through the layer in
chunks of at most --max-memory: rows of the batch, and steps of time where the
layer runs one way only. The output appears whole when all is done, or not at
all; a file of that name is replaced.

State files hold h_n, and c_n for an LSTM, of shape (layers * directions, N,
hidden): where one run ended, the next one may start.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import sys
import time
from argparse import ArgumentParser, ArgumentTypeError, BooleanOptionalAction, Namespace
from contextlib import nullcontext
from typing import Any

import numpy as np

import fastrnn

from ..atomic import atomic_path
from . import files, show
from .chunks import directions, output_width, run_in_chunks, state_widths
from .files import Array


def add_arguments(parser: ArgumentParser) -> None:
    files.add_layer_arguments(parser)
    parser.add_argument("--input", required=True, metavar="X.npy")
    parser.add_argument("--output", required=True, metavar="Y.npy")
    parser.add_argument(
        "--batch-first",
        action=BooleanOptionalAction,
        help="input and output are (N, T, features); by default as the file says, which a state dict does not",
    )
    parser.add_argument("--lengths", metavar="L.npy", help="steps of each row, integers (N,): 0 past them")
    parser.add_argument("--state-in", metavar="S.npz", help="initial states: h_0 and c_0, or h_n and c_n")
    parser.add_argument("--state-out", metavar="S.npz", help="the final states, h_n and c_n, are written here")
    parser.add_argument("--device", default="cpu", help="where: cpu (default), cuda or cuda:N")
    parser.add_argument(
        "--max-memory", type=memory, default="256M", metavar="SIZE", help="for one chunk: 500k, 256M (default), 2G"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def memory(text: str) -> int:
    """``500k``, ``256M`` or ``2G`` as bytes."""
    factor = {"k": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:], 1)
    number = text if factor == 1 else text[:-1]
    if not number.isdecimal() or int(number) == 0:
        raise ArgumentTypeError(f"expected a size such as 500k, 256M or 2G, got: {text!r}")
    return int(number) * factor


def execute(args: Namespace) -> int:
    check_paths(args)
    options = {"dtype": args.dtype, "nonlinearity": args.nonlinearity, "batch_first": False}
    prefix, layer, _, says = files.load_layer(args.file, args.prefix, max_ops=args.max_ops, **options)
    args.batch_first = bool(says) if args.batch_first is None else args.batch_first
    layer.to(device=args.device)
    source = open_input(args, layer)
    x = time_major(source, args.batch_first)
    lengths = open_lengths(args.lengths, *x.shape[:2])
    states = initial_states(args.state_in, layer, x.shape[1])
    y_shape = (*source.shape[:-1], output_width(layer))
    state_file = atomic_path(args.state_out) if args.state_out else nullcontext()
    with state_file as state_path, atomic_path(args.output) as path:
        output = create_output(path, args.output, y_shape, layer.dtype)
        y = time_major(output, args.batch_first)
        began = time.perf_counter()
        with show.progress("running", x.shape[0] * x.shape[1], quiet=args.json) as advance:
            nans = run_in_chunks(layer, x, y, states, lengths=lengths, max_memory=args.max_memory, advance=advance)
        seconds = time.perf_counter() - began
        if isinstance(output, np.memmap):
            output.flush()
        if state_path:
            finals = [state if source.ndim == 3 else state[:, 0] for state in states]
            fastrnn.save(dict(zip(("h_n", "c_n"), finals, strict=False)), state_path)
    report(args, layer, prefix, y_shape, nans, seconds)
    return 0


def check_paths(args: Namespace) -> None:
    """Refuse what cannot or must not be written, before anything is computed."""
    for flag, path, suffix in (("--output", args.output, ".npy"), ("--state-out", args.state_out, ".npz")):
        if path is None:
            continue
        folder = os.path.dirname(path) or "."
        if not path.endswith(suffix):
            raise ValueError(f"{flag}: expected a name that ends in {suffix}, got: {path}")
        if not os.path.isdir(folder):
            raise FileNotFoundError(errno.ENOENT, f"{flag}: no such folder", folder)
        if os.path.isdir(path):
            raise IsADirectoryError(errno.EISDIR, f"{flag}: expected a file, this is a folder", path)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, f"{flag}: no permission to write into this folder", folder)
        for source in filter(None, (args.file, args.input, args.lengths)):
            if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
                raise ValueError(f"{flag} would overwrite {source}, which is read")


def open_input(args: Namespace, layer: Any) -> Array:
    x = files.open_array(args.input)
    files.check_numbers(f"--input {args.input}", x)
    if x.ndim not in (2, 3) or x.shape[-1] != layer.input_size:
        axes = "N, T" if args.batch_first else "T, N"
        expected = f"({axes}, {layer.input_size}) or (T, {layer.input_size})"
        raise ValueError(f"--input {args.input}: expected shape {expected} for {layer!r}, got: {x.shape}")
    return x


def time_major(a: Array, batch_first: bool) -> Array:
    """A view (T, N, features) of a batch, or of a single sequence (T, features)."""
    a = np.asarray(a)  # slices of a plain array are cheaper than those of a memmap
    if a.ndim == 2:
        return a[:, None]
    return a.swapaxes(0, 1) if batch_first else a


def open_lengths(path: str | None, T: int, N: int) -> Array | None:
    if path is None:
        return None
    lengths = files.open_array(path)
    files.check_numbers(f"--lengths {path}", lengths, "iu")
    if lengths.shape != (N,):
        raise ValueError(f"--lengths {path}: expected shape ({N},), one for each row, got: {lengths.shape}")
    if N and (lengths.min() < 0 or lengths.max() > T):
        raise ValueError(f"--lengths {path}: expected 0 to {T}, got {lengths.min()} to {lengths.max()}")
    return lengths.astype(np.intp)


def initial_states(path: str | None, layer: Any, N: int) -> list[Array]:
    """h (L*D, N, H_out), and c (L*D, N, H) for an LSTM; zeros without a file."""
    shapes = [(layer.num_layers * directions(layer), N, width) for width in state_widths(layer)]
    if path is None:
        return [np.zeros(shape, layer.dtype) for shape in shapes]
    saved = files.load(path)
    if not isinstance(saved, dict):
        raise fastrnn.CheckpointError(f"{path}: expected a dict of arrays")
    return [saved_state(path, saved, *item).astype(layer.dtype) for item in zip("hc", shapes, strict=False)]


def saved_state(path: str, saved: dict[str, Any], name: str, shape: tuple[int, ...]) -> Array:
    for key in (f"{name}_0", f"{name}_n"):
        state = saved.get(key)
        if isinstance(state, np.ndarray):
            files.check_numbers(f"--state-in {path}: {key}", state)
            if state.shape != shape and (shape[1] != 1 or state.shape != shape[::2]):  # (L*D, H): a single sequence's
                raise ValueError(f"--state-in {path}: expected {key} of shape {shape}, got: {state.shape}")
            return state.reshape(shape)
    raise ValueError(
        f"--state-in {path}: expected an array {name}_0 or {name}_n, there are: {', '.join(map(str, saved))}"
    )


def create_output(path: os.PathLike[str], name: str, shape: tuple[int, ...], dtype: Any) -> Array:
    """A mapped .npy file at `path` whose room on the disk is there: writing to it cannot fail later."""
    size = math.prod(shape) * dtype.itemsize
    free = shutil.disk_usage(os.path.dirname(path) or ".").free
    if size > free:
        raise OSError(errno.ENOSPC, f"--output needs {show.size(size)}, the disk has {show.size(free)}", name)
    if size == 0:  # nothing to map
        empty = np.empty(shape, dtype)
        with open(path, "wb") as file:
            np.save(file, empty)
        return empty
    output = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # a hole that cannot be filled would end the process with SIGBUS
        with open(path, "r+b") as file:
            try:
                os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise OSError(error.errno, f"--output needs {show.size(size)}: {error.strerror}", name) from None
    return output


def report(args: Namespace, layer: Any, prefix: str, shape: tuple[int, ...], nans: int, seconds: float) -> None:
    values, steps = math.prod(shape), math.prod(shape[:-1])
    if args.json:
        show.print_json(
            {
                "layer": repr(layer),
                "prefix": prefix,
                "output": args.output,
                "shape": shape,
                "dtype": str(layer.dtype),
                "bytes": values * layer.dtype.itemsize,
                "steps": steps,
                "seconds": seconds,
                "nan_values": nans,
            }
        )
    else:
        print(f"{args.output}: {shape} {layer.dtype}, {show.size(values * layer.dtype.itemsize)}")
        rate = f", {seconds / steps * 1e6:.3g} us per step" if steps else ""
        if len(shape) == 3:
            T, N = shape[1::-1] if args.batch_first else shape[:2]
            what = f"{show.plural(T, 'step')} of {show.plural(N, 'row')}"
        else:
            what = show.plural(steps, "step")
        print(f"{layer!r}: {what} in {seconds:.2f} s{rate}")
    if nans:
        print(f"fastrnn: warning: {nans:,} of {values:,} output values are NaN", file=sys.stderr)
