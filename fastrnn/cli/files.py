"""What several commands do with files: open a checkpoint, choose a layer in it, open an array."""

from __future__ import annotations

import errno
import os
from argparse import ArgumentParser
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import fastrnn

from ..checkpoint.state_dict import LayerInfo, describe
from .show import did_you_mean

Array = NDArray[Any]


def add_layer_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a checkpoint: .pt .pth .safetensors .npz")
    parser.add_argument("--prefix", metavar="P", help="which layer, where there are several: as `inspect` shows them")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="compute in this (default: the checkpoint's)")
    parser.add_argument(
        "--nonlinearity",
        choices=("tanh", "relu"),
        default="tanh",
        help="of an RNN: a checkpoint does not say it (default: tanh)",
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


def load(path: str) -> Any:
    return fastrnn.load(existing(path))


def find_layers(state: Any, path: str) -> list[LayerInfo]:
    try:
        return fastrnn.find_layers(state)
    except fastrnn.CheckpointError as error:
        raise fastrnn.CheckpointError(f"{path}: {error}") from None


def load_layer(path: str, prefix: str | None, **options: Any) -> Loaded:
    """The layer under `prefix`, or the only one, made by `from_state_dict` with `options`.

    Raises
    ------
    ValueError
        There is none or more than one under that prefix; names the nearest.
    CheckpointError
        The file is bad, or holds no recurrent layer.
    """
    state = load(path)
    layers = find_layers(state, path)
    if not layers:
        raise fastrnn.CheckpointError(f"{path}: holds no recurrent layer")
    prefixes = [layer.prefix for layer in layers]
    if prefix is None and len(prefixes) > 1:
        listed = ", ".join(repr(name) for name in prefixes[:20]) + ", ..." * (len(prefixes) > 20)
        raise ValueError(f"{path} holds {len(prefixes)} layers, choose one with --prefix: {listed}")
    try:
        info, _ = describe(state, prefix)
    except fastrnn.CheckpointError as error:
        raise fastrnn.CheckpointError(f"{path}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}{did_you_mean(prefix or '', prefixes)}") from None
    layer = fastrnn.from_state_dict(state, info.prefix, **options)
    return Loaded(info.prefix, over_time(layer, **options) if info.is_cell else layer, info.is_cell)


def over_time(cell: Any, **options: Any) -> Any:
    """The layer that does step after step what `cell` does in one."""
    state = {f"{name}_l0": array for name, array in cell.parameters().items()}
    return fastrnn.from_state_dict(state, "", **options)


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
