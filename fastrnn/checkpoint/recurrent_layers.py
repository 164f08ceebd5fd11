"""Recurrent layers and cells, read off the names and shapes of their parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from ..cells import GRU, LSTM, RNN_TANH, Sizes
from ..errors import CheckpointError
from .fold import Hidden
from .groups import RECURRENT, Group
from .inert import Opaque, shorten
from .known_layers import class_in_torch
from .layer_info import RecurrentInfo, common_dtype

_SPECS = {spec.n_gates: spec for spec in (RNN_TANH, LSTM, GRU)}
_KINDS = {spec.kind + end for spec in _SPECS.values() for end in ("", "Cell")}
#: As torch prints them.
_ORDER = (
    "input_size",
    "hidden_size",
    "proj_size",
    "num_layers",
    "bias",
    "batch_first",
    "bidirectional",
    "nonlinearity",
)


def is_recurrent(weights: dict[str, Any]) -> bool:
    """Whether there is what every recurrent layer has; other modules too may call something weight_ih."""

    def is_matrix(name: str) -> bool:
        return name in weights and (isinstance(weights[name], Hidden) or weights[name].ndim == 2)

    return any(is_matrix("weight_ih" + first) and is_matrix("weight_hh" + first) for first in ("", "_l0"))


def recurrent_layer(prefix: str, weights: dict[str, Any], group: Group) -> RecurrentInfo:
    """Read the layer off its weights' names and shapes; every one of them is checked.

    Raises
    ------
    CheckpointError
        They do not fit together.
    """

    def fail(reason: str) -> NoReturn:
        raise CheckpointError(f"{shorten(prefix) or 'the recurrent layer'}: {reason}")

    arrays = {name: weight for name, weight in weights.items() if RECURRENT.fullmatch(name)}
    if group.twice in arrays:
        fail(f"{group.twice}: two arrays have this name")
    for name, weight in arrays.items():
        if isinstance(weight, Hidden):
            fail(f"{name} {weight.reason}")
    kind, arguments = _arguments(arrays, fail)
    dtype = common_dtype(arrays.values())
    if dtype is None:
        wrong = {str(array.dtype) for array in arrays.values() if common_dtype([array]) is None}
        fail(f"has parameters of {_list(sorted(wrong))}; expected floating-point numbers")
    if class_in_torch(group.module) in _KINDS - {kind}:
        fail(f"is a {class_in_torch(group.module)} by its class, and a {kind} by its arrays")
    arguments |= _options(kind, group.module)
    arguments = {name: arguments[name] for name in _ORDER if name in arguments}
    info = RecurrentInfo(prefix, kind, arguments, dtype, sum(array.size for array in arrays.values()))
    shapes = expected_shapes(info)
    if missing := [name for name in shapes if name not in arrays]:
        fail(f"{_list(missing)} missing; there are {_list(arrays)}")
    if unexpected := arrays.keys() - set(shapes):
        fail(f"{_list(sorted(unexpected))} not expected beside {_list(shapes)}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            fail(f"{name} has shape {arrays[name].shape}; the other arrays ask for {shape}")
    return info


def _arguments(arrays: dict[str, Any], fail: Callable[[str], NoReturn]) -> tuple[str, dict[str, Any]]:
    """Kind and sizes as the first layer's shapes and the names have them."""
    first = "" if "weight_ih" in arrays else "_l0"
    for name in ("weight_ih" + first, "weight_hh" + first):
        if name not in arrays:
            fail(f"{name} is missing; there are {_list(arrays)}")
        if arrays[name].ndim != 2 or 0 in arrays[name].shape:
            fail(f"{name} has shape {arrays[name].shape}; expected two sizes, none of them 0")
    rows, input_size = arrays["weight_ih" + first].shape
    out = arrays["weight_hh" + first].shape[1]
    projection = arrays.get("weight_hr" + first)
    hidden_size = projection.shape[-1] if projection is not None and projection.ndim == 2 else out
    spec = _SPECS.get(rows // hidden_size) if hidden_size and rows % hidden_size == 0 else None
    if spec is None or (projection is not None and not (spec.has_c and first)):
        fail(
            f"weight_ih{first} has {rows} rows for a hidden size of {hidden_size}; expected 1 (RNN), 3 (GRU) or "
            "4 times as many (LSTM, which alone may have a weight_hr, and not as a cell)"
        )
    arguments = {"input_size": input_size, "hidden_size": hidden_size, "bias": "bias_ih" + first in arrays}
    if not first:
        return f"{spec.kind}Cell", arguments
    if spec.has_c:
        arguments["proj_size"] = 0 if projection is None else out
    layers = [int(name.partition("_l")[2].partition("_")[0]) for name in arrays if "_l" in name]
    return spec.kind, arguments | {
        "num_layers": 1 + max(layers),
        "bidirectional": "weight_ih_l0_reverse" in arrays,
    }


def _options(kind: str, module: Opaque | None) -> dict[str, Any]:
    """What only the module itself says. Old RNNs have their nonlinearity in `mode` alone."""
    state = module.state if module is not None and isinstance(module.state, dict) else {}
    options = {}
    if not kind.endswith("Cell") and isinstance(state.get("batch_first"), bool):
        options["batch_first"] = state["batch_first"]
    if kind.startswith("RNN"):
        said = state.get("nonlinearity") or {"RNN_TANH": "tanh", "RNN_RELU": "relu"}.get(str(state.get("mode")))
        if said in ("tanh", "relu"):
            options["nonlinearity"] = said
    return options


def expected_shapes(info: RecurrentInfo) -> dict[str, tuple[int, ...]]:
    """The parameters' names, in torch's order, and the shapes that they must have."""
    spec = next(spec for spec in _SPECS.values() if spec.kind == info.kind.removesuffix("Cell"))
    directions = 1 + info.bidirectional
    sizes = Sizes(spec, info.input_size, info.hidden_size, info.num_layers, directions, info.bias, info.proj_size)
    shapes = {name: shape for part in sizes.shapes() for name, shape in part.items()}
    return {name.removesuffix("_l0"): shape for name, shape in shapes.items()} if info.is_cell else shapes


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
