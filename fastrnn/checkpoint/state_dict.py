"""Which recurrent layers a checkpoint holds: names and shapes tell."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..cells import GRU, LSTM, RNN_TANH, Sizes
from ..errors import CheckpointError
from .dtypes import BY_NUMPY
from .pickle_reader import Opaque, shorten

Array = NDArray[Any]
Arrays = dict[str, Array]
_PARAMETER = re.compile(r"(?:weight_(?:ih|hh|hr|unit)|bias_(?:ih|hh))(_l(?:0|[1-9][0-9]{0,3})(?:_reverse)?)?", re.ASCII)
#: Where weight drop (_raw), weight norm (_g and _v, original0 and original1) and others keep what they make weights of.
_UNFOLDED = re.compile(
    rf"(?:.*\.)?(?:{_PARAMETER.pattern})(?:_(?:raw|orig|g|v)|\.original[0-9]*)", re.ASCII | re.DOTALL
)
_SPECS = {spec.n_gates: spec for spec in (RNN_TANH, LSTM, GRU)}
#: What trainers and torch's own wrappers put around a model.
WRAPPERS = {"state_dict", "model_state_dict", "model_state", "model", "net", "module", "_orig_mod"}


@dataclass(frozen=True, repr=False)
class LayerInfo:
    """A recurrent layer or cell in a checkpoint.

    Attributes
    ----------
    prefix : str
        What stands before its parameters' names, the way through nested containers included:
        ``"model_state_dict.encoder.rnn."``; empty or with a "." at the end.
    kind : str
        "RNN", "LSTM", "GRU", "RNNCell", "LSTMCell" or "GRUCell". An RNN's nonlinearity is not in its parameters.
    input_size, hidden_size, num_layers, proj_size : int
        Sizes; ``num_layers`` is 1 for cells and ``proj_size`` 0 without a projection.
    bias, bidirectional : bool
        As in torch.
    dtype : numpy.dtype
        The type that holds all its parameters.
    n_parameters : int
        The number of weights and biases.
    """

    prefix: str
    kind: str
    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    bidirectional: bool
    proj_size: int
    dtype: np.dtype[Any]
    n_parameters: int

    @property
    def is_cell(self) -> bool:
        return self.kind.endswith("Cell")

    def __repr__(self) -> str:
        options = f", num_layers={self.num_layers}" * (self.num_layers > 1)
        options += ", bias=False" * (not self.bias) + ", bidirectional=True" * self.bidirectional
        options += f", proj_size={self.proj_size}" * (self.proj_size > 0)
        layer = f"{self.kind}({self.input_size}, {self.hidden_size}{options})"
        return f"<LayerInfo {self.prefix!r}: {layer}, {self.dtype}, {self.n_parameters:,} parameters>"


def find_layers(state: Any) -> list[LayerInfo]:
    """Every recurrent layer in a checkpoint, in the order in which they stand there.

    Parameters
    ----------
    state : dict
        What `load` gives, or any nesting of dicts, lists and tuples with arrays under torch's names; whole modules
        that were loaded as `Opaque` too.

    Returns
    -------
    list of LayerInfo
        `prefix` is what `from_state_dict` takes.

    Raises
    ------
    CheckpointError
        A layer's arrays do not fit together; the message names them.
    """
    return [_inspect(prefix, arrays) for prefix, arrays in _candidates(_groups(state)).items()]


def describe(state: Any, prefix: str | None = None) -> tuple[LayerInfo, Arrays]:
    """One layer, and its arrays under torch's names and in torch's order.

    Parameters
    ----------
    prefix : str, optional
        As `find_layers` reports it, with or without the last "."; names of containers and wrappers at its start
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
        raise TypeError(f"state should be a dict of arrays, got: {type(state).__name__}; fastrnn.load reads files")
    if prefix is not None and not isinstance(prefix, str):
        raise TypeError(f"prefix should be a str or None, got {type(prefix).__name__}")
    groups = _groups(state)
    if not _candidates(groups):
        for path, _ in _arrays(state, "", set()):
            if _UNFOLDED.fullmatch(path):
                raise ValueError(
                    f"state: there is no recurrent layer, but {shorten(path)}: the weights are behind weight drop, "
                    "weight norm or another parametrization, and have to be folded into weights before they are saved"
                )
    chosen = _choose(groups, prefix)
    info = _inspect(chosen, groups[chosen])
    return info, {name: groups[chosen][name] for name in _shapes(info)}


def _groups(state: Any) -> dict[str, Arrays]:
    """All arrays that are named as a recurrent layer's parameters, by prefix and name."""
    groups: dict[str, Arrays] = {}
    for path, array in _arrays(state, "", set()):
        name = path.rpartition(".")[2]
        if _PARAMETER.fullmatch(name):
            group = groups.setdefault(path.removesuffix(name), {})
            if name in group:
                raise CheckpointError(f"{shorten(path)}: two arrays have this name")
            group[name] = np.asarray(array)
    return groups


def _arrays(value: Any, prefix: str, is_open: set[int]) -> Iterator[tuple[str, Any]]:
    """All arrays, with the way to each."""
    if id(value) in is_open:  # inside itself
        return
    is_open.add(id(value))
    for key, child in _children(value):
        path = f"{prefix}{key}"
        if hasattr(child, "__array__"):
            yield path, child
        else:
            yield from _arrays(child, path + ".", is_open)
    is_open.discard(id(value))


def _children(value: Any) -> Iterable[tuple[Any, Any]]:
    """What a container holds, with its keys; of a module what its state_dict has."""
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple):
        return enumerate(value)
    if isinstance(value, Opaque):
        state = value.state if isinstance(value.state, dict) else {}
        parts = [state.get(name) for name in ("_parameters", "_buffers", "_modules")]
        if all(isinstance(part, dict) for part in parts):
            return [pair for part in parts for pair in part.items()]  # type: ignore[union-attr]
        return [*state.items(), *_children(value.items)]
    return ()


def _candidates(groups: dict[str, Arrays]) -> dict[str, Arrays]:
    """The groups that have what every recurrent layer has; other modules too may call something weight_ih."""

    def has_weights(arrays: Arrays, suffix: str) -> bool:
        return all(name + suffix in arrays and arrays[name + suffix].ndim == 2 for name in ("weight_ih", "weight_hh"))

    return {
        prefix: arrays for prefix, arrays in groups.items() if has_weights(arrays, "") or has_weights(arrays, "_l0")
    }


def _choose(groups: dict[str, Arrays], prefix: str | None) -> str:
    candidates = list(_candidates(groups))
    if prefix is None:
        fitting, asked = candidates, "state"
    else:
        wanted = prefix if not prefix or prefix.endswith(".") else prefix + "."
        if wanted in groups:
            return wanted
        fitting = [p for p in candidates if p.endswith(wanted) and _is_wrapper(p[: len(p) - len(wanted)])]
        asked = f"prefix {prefix!r}"
    if len(fitting) == 1:
        return fitting[0]
    if not candidates:
        raise ValueError(f"{asked}: there is no recurrent layer in this state; expected arrays as weight_ih_l0")
    listed = ", ".join(map(repr, candidates[:20])) + (", ..." if len(candidates) > 20 else "")
    how_many = f"{len(fitting)} recurrent layers" if fitting else "no recurrent layer"
    raise ValueError(f"{asked}: {how_many} where one is expected; this state holds prefix {listed}")


def _is_wrapper(head: str) -> bool:
    """Whether a prefix names only what is put around models: ``state_dict.module.``"""
    parts = head.split(".")
    return parts.pop() == "" and all(part in WRAPPERS or part.isdecimal() for part in parts)


def _shapes(info: LayerInfo) -> dict[str, tuple[int, ...]]:
    """The parameters' names, in torch's order, and the shapes that they must have."""
    spec = next(spec for spec in _SPECS.values() if spec.kind == info.kind.removesuffix("Cell"))
    directions = 1 + info.bidirectional
    sizes = Sizes(spec, info.input_size, info.hidden_size, info.num_layers, directions, info.bias, info.proj_size)
    shapes = {name: shape for part in sizes.shapes() for name, shape in part.items()}
    return {name.removesuffix("_l0"): shape for name, shape in shapes.items()} if info.is_cell else shapes


def _inspect(prefix: str, arrays: Arrays) -> LayerInfo:
    """Read the layer off its arrays' names and shapes; every one of them is checked."""

    def fail(reason: str) -> NoReturn:
        raise CheckpointError(f"{shorten(prefix) or 'the recurrent layer'}: {reason}")

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
    if spec is None or (projection is not None and not spec.has_c):
        fail(
            f"weight_ih{first} has {rows} rows for a hidden size of {hidden_size}; expected 1 (RNN), 3 (GRU) or "
            "4 times as many (LSTM, which alone may have a weight_hr)"
        )
    layers = [int(name.partition("_l")[2].partition("_")[0]) for name in arrays if "_l" in name]
    info = LayerInfo(
        prefix=prefix,
        kind=spec.kind if first else spec.kind + "Cell",
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=1 + max(layers, default=0),
        bias="bias_ih" + first in arrays,
        bidirectional="weight_ih_l0_reverse" in arrays,
        proj_size=out if projection is not None else 0,
        dtype=_common_dtype(arrays, fail),
        n_parameters=sum(array.size for array in arrays.values()),
    )
    shapes = _shapes(info)
    if missing := [name for name in shapes if name not in arrays]:
        fail(f"{_list(missing)} missing; there are {_list(arrays)}")
    if unexpected := arrays.keys() - set(shapes):
        fail(f"{_list(sorted(unexpected))} not expected beside {_list(shapes)}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            fail(f"{name} has shape {arrays[name].shape}; the other arrays ask for {shape}")
    return info


def _common_dtype(arrays: Arrays, fail: Callable[[str], NoReturn]) -> np.dtype[Any]:
    kinds = {array.dtype.newbyteorder("=") for array in arrays.values()}
    for dtype in kinds:
        if dtype.name not in BY_NUMPY or "float" not in dtype.name:
            fail(f"has parameters of {dtype}; expected floating-point numbers")
    if len(kinds) == 1:
        return kinds.pop()
    return np.dtype(np.float64 if np.dtype(np.float64) in kinds else np.float32)


def _list(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
