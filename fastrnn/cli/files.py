"""What several commands do with files: open a checkpoint, choose a layer in it, open an array."""

from __future__ import annotations

import errno
import os
from argparse import ArgumentParser
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastrnn

from ..checkpoint import LayerInfo
from ..checkpoint.about import About
from ..checkpoint.about import about as read_about
from ..checkpoint.state_dict import describe, scan
from .show import did_you_mean

Array = NDArray[Any]
MAX_OPS = 1_000_000


def add_layer_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint of any format that fastrnn.load reads")
    parser.add_argument("--prefix", metavar="P", help="which layer, where there are several: as `inspect` shows them")
    add_limit(parser)
    parser.add_argument("--dtype", choices=("float32", "float64"), help="compute in this (default: the checkpoint's)")
    parser.add_argument(
        "--nonlinearity",
        choices=("tanh", "relu"),
        help="of an RNN (default: what a module that was saved whole says; a state dict does not say it: tanh)",
    )


def add_limit(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--max-ops",
        type=int,
        default=MAX_OPS,
        metavar="N",
        help="read files of more parts: most operations of `load`, some 25 for each array (default: 1,000,000)",
    )


def existing(path: str) -> str:
    """`path`, if there is a file.

    Raises
    ------
    FileNotFoundError
        Names the nearest name in the same folder.
    IsADirectoryError
    """
    if os.path.isdir(path):
        raise IsADirectoryError(errno.EISDIR, "expected a file, this is a folder", path)
    if os.path.exists(path):
        return path
    folder = os.path.dirname(path) or "."
    names = os.listdir(folder) if os.path.isdir(folder) else []
    raise FileNotFoundError(errno.ENOENT, f"no such file{did_you_mean(os.path.basename(path), names)}", path)


class Loaded(NamedTuple):
    """A layer of a checkpoint; a cell comes as the layer that runs it over time."""

    prefix: str
    layer: Any  # RNN, LSTM or GRU
    is_cell: bool
    batch_first: bool | None  # what the file says; a state dict does not


def load(path: str, *, check_crc: bool = True, max_ops: int = MAX_OPS) -> Any:
    return fastrnn.load(existing(path), check_crc=check_crc, max_ops=max_ops)


def about(path: str) -> About:
    try:
        return read_about(path)
    except fastrnn.CheckpointError as error:
        raise fastrnn.CheckpointError(f"{path}: {error}") from None


def find_layers(state: Any, path: str) -> tuple[list[LayerInfo], fastrnn.CheckpointError | None]:
    """The layers that can be read, and what is wrong with others."""
    try:
        layers, problem = scan(state)
    except fastrnn.CheckpointError as error:
        layers, problem = [], error
    return layers, fastrnn.CheckpointError(f"{path}: {problem}") if problem else None


def load_layer(path: str, prefix: str | None, *, max_ops: int, **options: Any) -> Loaded:
    """The layer under `prefix`, or the only one, made by `from_state_dict` with `options`; of ONNX by its node's name.

    Raises
    ------
    ValueError
        There is none or more than one under that prefix; names the nearest.
    CheckpointError
        The file is bad, or holds no recurrent layer.
    """
    if about(existing(path)).format == "ONNX":
        return _of_graph(path, prefix, max_ops=max_ops, **options)
    state = load(path, max_ops=max_ops)
    layers, problem = find_layers(state, path)
    prefixes = [layer.prefix for layer in layers if layer.is_recurrent]
    _check_choice(path, prefix, prefixes, problem)
    try:
        info, _ = describe(state, prefix)
    except fastrnn.CheckpointError as error:
        raise fastrnn.CheckpointError(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}{did_you_mean(prefix or '', prefixes)}") from None
    layer = fastrnn.from_state_dict(state, info.prefix, cell=False, **options)
    return Loaded(info.prefix, layer, info.is_cell, info.batch_first)


def _of_graph(
    path: str, name: str | None, *, max_ops: int, batch_first: bool | None, dtype: str | None = None, **options: Any
) -> Loaded:
    """The layer of a node, or of the only one, as `load_layer` gives it."""
    layers = fastrnn.from_onnx(path, max_ops=max_ops)
    _check_choice(path, name, list(layers), None)
    if name is None:
        (name,) = layers
    layer = layers.get(name)
    if layer is None:
        raise ValueError(f"{path} has no node {name!r}{did_you_mean(name, layers)}")
    if not hasattr(layer, "num_layers"):
        raise ValueError(
            f"{path}: {name}: a node with a direction, lengths or states of its own is for from_onnx alone"
        )
    if options.get("nonlinearity"):
        raise ValueError(f"{path}: --nonlinearity does not apply to ONNX, whose nodes say theirs")
    says = layer.batch_first
    layer.batch_first = says if batch_first is None else batch_first
    return Loaded(name, layer if dtype is None else layer.to(dtype), False, says)


def _check_choice(path: str, prefix: str | None, found: list[str], problem: fastrnn.CheckpointError | None) -> None:
    """Refuse a file without a recurrent layer, and one of several where none is named."""
    if not found:
        raise problem or fastrnn.CheckpointError(f"{path}: holds no recurrent layer")
    if prefix is None and len(found) > 1:
        listed = ", ".join(repr(name) for name in found[:20]) + ", ..." * (len(found) > 20)
        raise ValueError(f"{path} holds {len(found)} layers, choose one with --prefix: {listed}")


def open_array(path: str) -> Array:
    """A .npy file, memory-mapped and read-only.

    Raises
    ------
    CheckpointError
        It is not a .npy file of plain numbers.
    """
    existing(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except OSError:
        raise
    except Exception as error:  # the header is Python text: a hostile one can fail in any way
        raise fastrnn.CheckpointError(f"{path}: not a .npy file that can be mapped: {error}") from error


def check_numbers(what: str, array: Array, kinds: str = "biuf") -> None:
    if array.dtype.kind not in kinds:
        expected = "integers" if kinds == "iu" else "real numbers"
        raise ValueError(f"{what}: expected {expected}, got {array.dtype}")
