"""Which layers a checkpoint holds, and which one is meant."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import CheckpointError
from .fold import folded
from .groups import RECURRENT, Array, Group, groups_of
from .inert import Opaque
from .known_layers import known_layer
from .layer_info import LayerInfo, RecurrentInfo
from .recurrent_layers import expected_shapes, is_recurrent, recurrent_layer

#: What trainers and torch's own wrappers put around a model, and its average.
WRAPPERS = {"state_dict", "model_state_dict", "model_state", "model", "net", "module", "_orig_mod"}
WRAPPERS |= {"ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "swa_model", "swa_state_dict"}


def find_layers(state: Any) -> list[LayerInfo]:
    """Every layer in a checkpoint that is known, in the order in which they stand there.

    Parameters
    ----------
    state : dict
        What `load` gives, or any nesting of dicts, lists and tuples with arrays under torch's names; whole modules
        that were loaded as `Opaque` too.

    Returns
    -------
    list of LayerInfo
        Recurrent layers and cells first of all, which have ``is_recurrent`` and sizes as attributes; Linear, Embedding,
        Conv1d to Conv3d, BatchNorm, LayerNorm and GroupNorm where names and shapes tell.

    Raises
    ------
    CheckpointError
        A recurrent layer's arrays do not fit together; the message names them.
    TypeError
        `state` is a path or a layer.

    Examples
    --------
    >>> import fastrnn
    >>> state = {"model": {f"encoder.{name}": w for name, w in fastrnn.GRU(3, 4).state_dict().items()}}
    >>> fastrnn.find_layers(state)
    [<LayerInfo 'model.encoder.': GRU(3, 4), float32, 108 parameters>]
    """
    if isinstance(state, str | os.PathLike) or (hasattr(state, "state_dict") and not isinstance(state, Mapping)):
        raise no_state(state)
    infos, problem = scan(state)
    if problem:
        raise problem
    return infos


def scan(state: Any) -> tuple[list[LayerInfo], CheckpointError | None]:
    """The layers of `find_layers` that can be read, and what is wrong with the first one that cannot."""
    infos: list[LayerInfo] = []
    problem = None
    for prefix, group in groups_of(state).items():
        weights = folded(group)
        if is_recurrent(weights):
            try:
                infos.append(recurrent_layer(prefix, weights, group))
            except CheckpointError as error:
                problem = problem or error
        elif info := known_layer(prefix, weights, group):
            infos.append(info)
    return infos, problem


def describe(state: Any, prefix: str | None = None) -> tuple[RecurrentInfo, dict[str, Array]]:
    """One recurrent layer, and its arrays under torch's names and in torch's order.

    Parameters
    ----------
    prefix : str, optional
        As `find_layers` reports it, with or without the last "."; names of containers and wrappers
        (``model_state_dict.``, ``module.``) may be left out while one layer remains. Without it there must be one
        layer.

    Raises
    ------
    ValueError
        None or more than one fits; lists them.
    CheckpointError
        Its arrays do not fit together.
    TypeError
        `state` is no container of arrays, or `prefix` no str.
    """
    if not isinstance(state, Mapping | list | tuple | Opaque):
        raise no_state(state)
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix should be a str or None, got {type(prefix).__name__}")
    groups = groups_of(state)
    chosen = _choose(groups, prefix)
    weights = folded(groups[chosen])
    info = recurrent_layer(chosen, weights, groups[chosen])
    return info, {name: np.asarray(weights[name]) for name in expected_shapes(info)}


def no_state(state: Any) -> TypeError:
    hint = ".state_dict() gives it" if hasattr(state, "state_dict") else "fastrnn.load reads files"
    return TypeError(f"state should be a dict of arrays, got: {type(state).__name__}; {hint}")


def _choose(groups: dict[str, Group], prefix: str | None) -> str:
    candidates = [prefix for prefix, group in groups.items() if is_recurrent(folded(group))]
    if prefix is None:
        fitting, asked = candidates, "state"
    else:
        wanted = prefix if not prefix or prefix.endswith(".") else prefix + "."
        if wanted in groups and any(map(RECURRENT.fullmatch, groups[wanted].parts)):
            return wanted
        fitting, asked = [name for name in candidates if _means(wanted, name)], f"prefix {prefix!r}"
    if len(fitting) == 1:
        return fitting[0]
    if not candidates:
        raise ValueError(f"{asked}: there is no recurrent layer in this state; expected arrays as weight_ih_l0")
    listed = ", ".join(map(repr, candidates[:20])) + (", ..." if len(candidates) > 20 else "")
    how_many = f"{len(fitting)} recurrent layers" if fitting else "no recurrent layer"
    raise ValueError(f"{asked}: {how_many} where one is expected; this state holds prefix {listed}")


def _means(wanted: str, prefix: str) -> bool:
    """Whether `wanted` is `prefix` without some of what is put around models, or, before its start, places in lists."""
    left = wanted.split(".")
    for part in prefix.split("."):
        if left and part == left[0]:
            left.pop(0)
        elif part not in WRAPPERS and not (part.isdecimal() and ".".join(left) == wanted):
            return False
    return not left
