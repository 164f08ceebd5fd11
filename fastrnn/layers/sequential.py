"""Layers one after the other, and lists of layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from itertools import groupby, takewhile
from typing import Any, Self

from numpy.typing import ArrayLike

from .. import validate
from .cell import LSTMCell
from .leaf import WRT, Backward, Gradients
from .module import Module
from .recurrent_base import RecurrentBase
from .shape import OverTime, SelectOutput


class Listed(Module):
    """Parts under the names "0", "1" and so on. Not constructed by users."""

    def append(self, module: Module) -> Self:
        """Add a part at the end; returns the whole."""
        self.add_module(str(len(self)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(list(self._modules.values()))

    def _at(self, index: Any) -> str:
        names = list(self._modules)
        i = validate.integer("index", index)
        if not -len(names) <= i < len(names):
            raise IndexError(f"index {i} is out of range")
        return names[i]


class ModuleList(Listed):
    """Layers or models in a list, which a model of one's own calls as it likes [1]_.

    Parameters
    ----------
    modules : iterable of Module

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.ModuleList.html

    Examples
    --------
    >>> import fastrnn
    >>> class Towers(fastrnn.Module):
    ...     def __init__(self):
    ...         self.towers = fastrnn.ModuleList([fastrnn.Linear(3, 2), fastrnn.Linear(3, 2)])
    ...     def forward(self, x):
    ...         return sum(tower(x) for tower in self.towers)
    >>> list(Towers().state_dict())
    ['towers.0.weight', 'towers.0.bias', 'towers.1.weight', 'towers.1.bias']
    >>> Towers()([[1, 2, 3]]).shape
    (1, 2)
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        for module in modules:
            self.append(module)

    def __getitem__(self, index: Any) -> Any:
        return ModuleList(list(self)[index]) if isinstance(index, slice) else self._modules[self._at(index)]

    def _repr_parts(self) -> list[tuple[str, str]]:
        """Equal ones in a row have one line, as in torch."""
        parts, first = [], 0
        for text, group in groupby(repr(module) for module in self):
            last = first + len(list(group)) - 1
            parts.append((str(first), text) if last == first else (f"{first}-{last}", f"{last - first + 1} x {text}"))
            first = last + 1
        return parts


class Sequential(Listed):
    """Layers one after the other [1]_.

    A recurrent layer passes its output on, and not its state; an LSTM cell h, and not c. `SelectOutput` behind it
    chooses something else. `LastStep` and `MeanOverTime` make one step of many.

    Parameters
    ----------
    *layers : Module
        Or one dict of names and layers.

    Raises
    ------
    TypeError, KeyError
        Something is no Module, or a name cannot be an attribute's.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Sequential.html

    Examples
    --------
    >>> import fastrnn
    >>> net = fastrnn.Sequential(
    ...     fastrnn.Embedding(50, 8), fastrnn.LSTM(8, 16, batch_first=True), fastrnn.LastStep(), fastrnn.Linear(16, 2))
    >>> logits, backward = net.vjp([[3, 7, 4], [5, 0, 0]], lengths=[3, 1])
    >>> logits.shape
    (2, 2)
    >>> backward([[1, -1], [0, 0]]).params["0.weight"].shape
    (50, 8)
    """

    def __init__(self, *layers: Any) -> None:
        named = layers[0] if len(layers) == 1 and isinstance(layers[0], Mapping) else dict(enumerate(layers))
        for name, layer in named.items():
            self.add_module(str(name) if isinstance(name, int) else name, layer)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Sequential(dict(list(self._modules.items())[index]))
        return self._modules[self._at(index)]

    def forward(self, x: Any, *, lengths: ArrayLike | None = None, reset: ArrayLike | None = None) -> Any:
        """Run the layers.

        Parameters
        ----------
        x
            As the first layer takes it.
        lengths, reset
            For those of the layers that take them, as in a call of `GRU`.

        Returns
        -------
        What the last layer returns, of a recurrent layer its output, of an LSTM cell h.

        Raises
        ------
        TypeError, ValueError, IndexError
            An argument is not as a layer takes it, or no layer takes `lengths` or `reset`.
        """
        for _, layer, options, first in self._calls(lengths, reset):
            x = layer(x, **options)
            x = x[0] if first else x
        return x

    def vjp(
        self,
        x: Any,
        *,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        wrt: str | Iterable[str] = WRT,
    ) -> tuple[Any, Backward]:
        """Run the layers, and return what brings gradients back through them.

        Parameters
        ----------
        x, lengths, reset
            As in a call.
        wrt : some of "x", "params"
            What gradients are wanted for; others are not computed.

        Returns
        -------
        result
            As a call gives it.
        backward : Backward
            ``grads = backward(d_result)``: ``grads.x``, which is None where the input is indices, and ``grads.params``
            by the names of `parameters`. A part whose own ``grads.x`` is None ends the way back: parts before it have
            no gradients, as before ``detach`` in torch. After a change of the weights it raises RuntimeError.

        Raises
        ------
        TypeError, ValueError, IndexError
            An argument is not as described.
        NotImplementedError
            A part has no ``vjp``.
        """
        wanted, check = validate.wrt(wrt, WRT), self._unchanged()
        first_names = self._first_names()
        steps: list[tuple[str, Callable[[Any], Any]]] = []
        for name, layer, options, first in self._calls(lengths, reset):
            if "wrt" in _taken(type(layer).vjp):  # models of users' own need not have it
                options = options | {"wrt": wanted | {"x"} if steps else wanted}
            x, backward = layer.vjp(x, **options)
            x = x[0] if first else x
            steps.append((f"{name}.", _of_passed_on(layer, first, backward)))

        def run(dy: Any) -> Gradients:
            check()
            params: dict[str, Any] = {}
            for prefix, backward in reversed(steps):
                grads = backward(dy)
                if not hasattr(grads, "x") or not hasattr(grads, "params"):
                    raise TypeError(
                        f"the backward function of the part {prefix[:-1]!r} should return "
                        f"fastrnn.Gradients(x, params), got: {type(grads).__name__}"
                    )
                dy = grads.x
                for name, gradient in (grads.params or {}).items():
                    name = _first_name(prefix, name, first_names)
                    params[name] = params[name] + gradient if name in params else gradient
                if dy is None:
                    break  # the input was indices, or the part wants no gradients before it
            ordered = {name: params[name] for name in dict.fromkeys(first_names.values()) if name in params}
            return Gradients(dy if "x" in wanted else None, ordered if "params" in wanted else None)

        return x, Backward(self, wanted, run)

    def _calls(self, lengths: Any, reset: Any) -> Iterator[tuple[str, Module, dict[str, Any], bool]]:
        """Each layer's name, the layer, its options, and whether the first part of its result is passed on."""
        given = {name: value for name, value in (("lengths", lengths), ("reset", reset)) if value is not None}
        if unused := [name for name in given if name not in self._takes()]:
            raise ValueError(f"{unused[0]} is given, but no layer takes it: {self!r}")
        layers = list(self)
        for name, layer, following in zip(list(self._modules), layers, layers[1:] + [None] * bool(layers), strict=True):
            options = {option: value for option, value in given.items() if option in _takes(layer)}
            first = isinstance(layer, RecurrentBase | LSTMCell) and not isinstance(following, SelectOutput)
            if isinstance(layer, OverTime):
                layer = layer._behind(self._batch_first_before(layer))
            yield name, layer, options, first

    def _batch_first_before(self, layer: Module) -> bool:
        """What the last recurrent layer before it, or inside one before it, says."""
        before = takewhile(lambda other: other is not layer, self)
        said = [part.batch_first for whole in before for part in whole.modules() if isinstance(part, RecurrentBase)]
        return bool(said) and bool(said[-1])

    def _takes(self) -> frozenset[str]:
        return frozenset().union(*(_takes(layer) for layer in self))

    def _first_names(self) -> dict[str, str]:
        """For each parameter's name that under which `parameters` has it: its first, of a layer that is there twice."""
        first = {id(module): prefix for prefix, module in self._dotted(remove_duplicate=True)}
        return {
            prefix + name: first[id(module)] + name
            for prefix, module in self._dotted(remove_duplicate=False)
            for name in module._params
        }


def _first_name(prefix: str, name: str, first_names: Mapping[str, str]) -> str:
    """That of a parameter which one part calls `name`."""
    if prefix + name not in first_names:
        own = ", ".join(n.removeprefix(prefix) for n in first_names if n.startswith(prefix)) or "none"
        raise ValueError(
            f"vjp of the part {prefix[:-1]!r} has a gradient of {name!r}, which is none of its parameters: {own}"
        )
    return first_names[prefix + name]


def _takes(layer: Module) -> frozenset[str]:
    return layer._takes() if isinstance(layer, Sequential) else _taken(type(layer).forward)


@cache
def _taken(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's arguments."""
    return frozenset(inspect.signature(function).parameters)


def _of_passed_on(layer: Module, first: bool, backward: Callable[..., Any]) -> Callable[[Any], Any]:
    """That of a layer, as a function of the gradient of what it passes on."""
    if isinstance(layer, RecurrentBase) and not first:
        return lambda pair: backward(*pair)  # `SelectOutput` gives (d_output, d_state)
    if isinstance(layer, LSTMCell) and first:
        return lambda d_h: backward((d_h, None))
    return backward
