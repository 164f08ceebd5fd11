"""The state dict of a whole model, out of what a trainer and torch's own wrappers put around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .fold import Hidden, folded
from .groups import arrays_of, groups_of, place_of
from .inert import Opaque, shorten
from .state_dict import WRAPPERS, no_state

Array = NDArray[Any]
_AROUND = ("module.", "_orig_mod.")  # DataParallel, AveragedModel; torch.compile
_COUNTER = "n_averaged"  # AveragedModel's own


def model_state_dict(state: Any) -> dict[str, Array]:
    """The state dict of the one model in a checkpoint, for `Module.load_state_dict`.

    What a trainer saves beside it is left out, and so is what DataParallel, AveragedModel and torch.compile put before
    names. Of a module that was saved whole, or a TorchScript archive, it is what its ``state_dict`` has. Weights behind
    weight norm or weight drop are computed.

    Parameters
    ----------
    state : object
        What `load` gives, or a part of it.

    Returns
    -------
    dict of str to array

    Raises
    ------
    ValueError
        There are several models, as one and its average, which the message names; or no arrays.
    CheckpointError
        A weight is kept in a way that is not undone here, as by spectral norm.
    TypeError
        `state` is a path or a layer.

    Examples
    --------
    >>> import fastrnn
    >>> model = fastrnn.Linear(2, 1)
    >>> wrapped = {f"module.{name}": a for name, a in model.state_dict().items()}
    >>> sorted(fastrnn.model_state_dict({"epoch": 3, "model_state_dict": wrapped}))
    ['bias', 'weight']
    """
    if not isinstance(state, Mapping | list | tuple | Opaque):
        raise no_state(state)
    arrays = {path: np.asarray(array) for path, array, _ in arrays_of(_innermost(state))}
    while arrays:
        head = next((head for head in _AROUND if all(n.startswith(head) or n == _COUNTER for n in arrays)), None)
        if head is None:
            break
        arrays = {name.removeprefix(head): array for name, array in arrays.items() if name != _COUNTER}
    if not arrays:
        raise ValueError("state: there are no arrays in it")
    return _folded(arrays)


def _innermost(state: Any) -> Any:
    """The model, where dicts around it have its usual names."""
    while isinstance(state, Mapping):
        models = [key for key, value in state.items() if key in WRAPPERS and isinstance(value, Mapping | Opaque)]
        if not models:
            break
        if len(models) > 1:
            raise ValueError(
                f"state: several models, {', '.join(map(repr, models))}: give one, as state[{models[0]!r}]"
            )
        state = state[models[0]]
    return state


def _folded(arrays: dict[str, Array]) -> dict[str, Array]:
    weights = {prefix: folded(group) for prefix, group in groups_of(arrays).items()}
    found: dict[str, Array] = {}
    for path, array in arrays.items():
        place = place_of(path)
        weight = None if place is None else weights.get(place.prefix, {}).get(place.name)
        if place is None or weight is None:
            found[path] = array
            continue
        name = place.prefix + place.name
        if isinstance(weight, Hidden):
            raise CheckpointError(f"{shorten(name)} {weight.reason}")
        found.setdefault(name, np.asarray(weight))
    return found
