"""The arrays of a checkpoint, module by module: every nesting is walked and every name taken apart."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import CheckpointError
from .inert import Opaque

Array = NDArray[Any]

#: The parameters of recurrent layers and cells, fastrnn's own cells included.
RECURRENT = re.compile(r"(?:weight_(?:ih|hh|hr|unit)|bias_(?:ih|hh))(_l(?:0|[1-9][0-9]{0,3})(?:_reverse)?)?", re.ASCII)
_NAME = rf"(?:{RECURRENT.pattern}|weight|bias|running_mean|running_var)"
#: How weight drop (raw), weight norm (g and v), pruning and spectral norm name what they make the weight of.
_PARAMETER = re.compile(rf"({_NAME})(?:_(raw|g|v|orig|mask|u))?", re.ASCII)
_PARAMETRIZED = "parametrizations."

LONGEST_PATH = 1000
_MAX_PARTS = 1_000_000
_MAX_GROUPS = 100_000
_CONTAINERS = (dict, list, tuple, Opaque, Mapping)


@dataclass
class Group:
    """The arrays of one module.

    Attributes
    ----------
    parts : dict
        Parameter's name -> how it is kept -> array: ``{"weight_hh_l0": {"g": ..., "v": ...}}``; "" for the parameter
        itself.
    module : Opaque or None
        The module, where the checkpoint holds more than its state dict.
    twice : str
        A name that two arrays have; empty if there is none.
    """

    parts: dict[str, dict[str, Array]] = field(default_factory=dict)
    module: Opaque | None = None
    twice: str = ""

    def add(self, name: str, how: str, array: Any) -> None:
        kept = self.parts.setdefault(name, {})
        if how in kept:
            self.twice = self.twice or name
        kept[how] = np.asarray(array)


def groups_of(state: Any) -> dict[str, Group]:
    """The arrays that are named as parameters of torch's layers, by what stands before those names.

    Raises
    ------
    CheckpointError
        There are too many.
    """
    groups: dict[str, Group] = {}
    for path, array, owner in arrays_of(state):
        if (place := place_of(path)) is not None:
            group = groups.setdefault(place.prefix, Group())
            group.add(place.name, place.how, array)
            group.module = group.module or owner
            if len(groups) > _MAX_GROUPS:
                raise CheckpointError(f"the state holds more than {_MAX_GROUPS:,} layers")
    for prefix, group in groups.items():
        if inner := groups.get(prefix + "module."):
            _give_raw(group, inner)
    return groups


def _give_raw(wrapper: Group, inner: Group) -> None:
    """fastai's WeightDropout keeps weights itself, as NAME_raw, and the rest in the layer that it wraps."""
    for name, kept in wrapper.parts.items():
        if "raw" in kept and RECURRENT.fullmatch(name):
            inner.add(name, "raw", kept.pop("raw"))
    wrapper.parts = {name: kept for name, kept in wrapper.parts.items() if kept}


class _Place(NamedTuple):
    prefix: str
    name: str
    how: str


def place_of(path: str) -> _Place | None:
    """Where an array belongs; None if its name is none of a layer's parameters."""
    name = path.rpartition(".")[2]
    if found := _PARAMETER.fullmatch(name):
        return _Place(path.removesuffix(name), found[1], found[3] or "")
    head, parametrized, rest = path.rpartition(_PARAMETRIZED)
    name, _, how = rest.partition(".")
    if parametrized and how and (not head or head.endswith(".")) and (found := _PARAMETER.fullmatch(name)):
        return _Place(head, name, how) if found[1] == name else None
    return None


def arrays_of(root: Any) -> Iterator[tuple[str, Any, Opaque | None]]:
    """All arrays, with the way to each, and the object that holds it where that is an Opaque.

    What is shared is met on each way to it, but not inside itself. Longer paths than any layer has are passed over.
    """
    n_parts = 0
    frames = [(root, "", iter(parts_of(root)))]
    is_open = {id(root)}
    while frames:
        container, prefix, rest = frames[-1]
        for key, child in rest:
            is_container = isinstance(child, _CONTAINERS)
            if not is_container and not hasattr(child, "__array__"):
                continue
            n_parts += 1
            if n_parts > _MAX_PARTS:
                raise CheckpointError(f"the state has more than {_MAX_PARTS:,} parts, shared ones counted each time")
            path = prefix + key_text(key)
            if len(path) > LONGEST_PATH:
                continue
            if not is_container:
                yield path, child, container if isinstance(container, Opaque) else None
            elif id(child) not in is_open:
                frames.append((child, f"{path}.", iter(parts_of(child))))
                is_open.add(id(child))
                break
        else:
            frames.pop()
            is_open.discard(id(container))


def key_text(key: Any) -> str:
    """A key as text. Of a giant one, which a file may repeat any number of times, only what makes the path too long."""
    if isinstance(key, tuple):
        return f"({', '.join(map(key_text, key))})"
    return str(key[: LONGEST_PATH + 1] if isinstance(key, str | bytes) else key)


_MODULE = ("_parameters", "_buffers", "_modules")
_COMPILED = ("torch._dynamo.eval_frame", "OptimizedModule")


def is_module(value: Any) -> bool:
    """Whether it is a torch.nn.Module that was saved whole."""
    state = value.state if isinstance(value, Opaque) else None
    return isinstance(state, dict) and all(isinstance(state.get(name), dict) for name in _MODULE)


def parts_of(value: Any) -> Iterable[tuple[Any, Any]]:
    """What a container holds, with its keys; of a module what its state_dict has."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple):
        return enumerate(value)
    if isinstance(value, Opaque):
        if is_module(value):
            return [pair for name in _MODULE for pair in value.state[name].items()]
        if (value.module, value.name) == _COMPILED and value.args:  # of torch.compile, which holds the module alone
            return [("_orig_mod", value.args[0])]
        return [*_attributes(value.state), *parts_of(value.items), *([("args", value.args)] if value.args else [])]
    return ()


def _attributes(state: Any) -> Iterator[tuple[Any, Any]]:
    """What ``__dict__`` had; where a class has slots, a pair of that and of what is in them."""
    for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):
        if isinstance(part, dict):
            yield from part.items()
