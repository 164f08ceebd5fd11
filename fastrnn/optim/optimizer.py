"""What optimizers share: groups of parameters, their options, the step over them, state dicts in torch's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import threads, validate
from ..backends import flush_denormals
from ..backends.cython import kernels

Array = NDArray[Any]
Options = dict[str, Any]


class Update(NamedTuple):
    """A step of one parameter: the name of the compiled function, and what it takes.

    Attributes
    ----------
    kernel : str
    arrays : tuple of ndarray or None
        The parameter, its gradient and what `kernel` wants besides: contiguous, of one shape and dtype.
    scalars : tuple of float
    """

    kernel: str
    arrays: tuple[Any, ...]
    scalars: tuple[float, ...]


#: Elements for each thread, at least: to wake one takes as long as tens of thousands.
PER_THREAD = 1 << 16


class Optimizer:
    """Base class of the optimizers.

    Attributes
    ----------
    param_groups : list of dict
        The options of each group of parameters under torch's names, for reading and writing, ``"lr"`` above all; and
        under ``"params"`` its arrays by name.
    state : dict of str to dict of str to array
        What is kept of each parameter from step to step, under torch's names; a parameter that has had no gradient yet
        has none.
    """

    #: The names of arrays that a parameter's state may have; all but the step have the parameter's shape.
    _state_names: tuple[str, ...] = ()

    def __init__(self, params: Any, defaults: Options) -> None:
        self.defaults = self._checked(defaults)
        self.param_groups: list[dict[str, Any]] = []
        self.state: dict[str, dict[str, Array]] = {}
        self._sources: list[Any] = []  # of arrays: models, that are told of changes
        self._arrays: dict[str, Array] = {}  # those of all groups
        groups = [{"params": params}] if isinstance(params, Mapping) else params
        if not isinstance(groups, list | tuple) or not all(isinstance(group, Mapping) for group in groups):
            raise TypeError(
                "params argument given to the optimizer should be a dict of arrays by name, as layer.parameters() is, "
                f"or a list of groups {{'params': such a dict, ...}}, got: {type(params).__name__}"
            )
        if not groups:
            raise ValueError("optimizer got an empty parameter list")
        for group in groups:
            self._add(group)

    def _checked(self, options: Options) -> Options:
        """The options, each checked and of its own type."""
        raise NotImplementedError

    def _update(self, options: Options, p: Array, g: Array, state: dict[str, Array]) -> Update:
        """What a step of one parameter `p` along its gradient `g` takes; both contiguous, of one shape and dtype."""
        raise NotImplementedError

    def _add(self, group: Mapping[str, Any]) -> None:
        if not isinstance(params := group.get("params"), Mapping):
            raise TypeError(
                f"a group of parameters should have a dict of arrays by name as 'params', got: {type(params).__name__}"
            )
        given = {key: value for key, value in group.items() if key != "params"}
        if unknown := [key for key in given if key not in self.defaults and key != "initial_lr"]:
            known = ", ".join(self.defaults)
            raise ValueError(f"{unknown[0]!r} is no option of {type(self).__name__}; those are {known}")
        options = self._checked(self.defaults | {key: given[key] for key in given if key != "initial_lr"})
        if "initial_lr" in given:
            options["initial_lr"] = validate.real("initial_lr", given["initial_lr"])
        if not params:
            raise ValueError("optimizer got an empty parameter list")
        for name, array in params.items():
            _check_parameter(name, array)
            if name in self._arrays or any(array is other for other in self._arrays.values()):
                raise ValueError(
                    f"some parameters appear in more than one parameter group, or under two names: {name!r}; "
                    "of several layers make one Module, and take its parameters() or subsets of them"
                )
            self._arrays[name] = array
        self.param_groups.append({**options, "params": dict(params)})
        if hasattr(params, "changed"):
            self._sources.append(params)

    def step(self, grads: Mapping[str, ArrayLike]) -> None:
        """Change the parameters, in place, by one step.

        Parameters
        ----------
        grads : mapping of name to array
            The gradient of each parameter, as ``backward(...).params``. A parameter that has none here, or None, stays
            as it is.

        Raises
        ------
        ValueError, TypeError
            A name that is no parameter's, a gradient of another shape or that is no array of real numbers; nothing is
            changed then. So is an option in `param_groups` that has become a wrong one.
        RuntimeError
            The parameters are not the model's any more: it has got another dtype.
        """
        for source in self._sources:
            source.check()
        checked = self._gradients(grads)
        options = [self._checked({key: group[key] for key in self.defaults}) for group in self.param_groups]
        updates, copies = [], []
        for of_group, group in zip(options, self.param_groups, strict=True):
            for name, array in group["params"].items():
                if name in checked:
                    p = array if array.flags.carray else array.copy(order="C")
                    updates.append(self._update(of_group, p, checked[name], self.state.setdefault(name, {})))
                    copies += [(array, p)] if p is not array else []
        try:
            run(updates)
            for array, p in copies:
                array[...] = p
        finally:
            for source in self._sources:
                source.changed()

    def _gradients(self, grads: Mapping[str, ArrayLike]) -> dict[str, Array]:
        if not isinstance(grads, Mapping):
            raise TypeError(
                f"grads should be a dict of gradients by name, as backward(...).params is, got: {type(grads).__name__}"
            )
        checked: dict[str, Array] = {}
        for name, gradient in grads.items():
            if name not in self._arrays:
                raise ValueError(
                    f"grads has {name!r}, which is no parameter of this optimizer: {_listed(self._arrays)}"
                )
            if gradient is not None:
                p = self._arrays[name]
                checked[name] = np.ascontiguousarray(
                    validate.shaped(f"the gradient of {name!r}", gradient, p.shape, p.dtype)
                )
        return checked

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout, as copies: for `load_state_dict`, `fastrnn.save` and torch's optimizers.

        Returns
        -------
        dict
            ``"state"``: by the index of each parameter that has had a gradient, its arrays by name.
            ``"param_groups"``: the options of each group; ``"params"`` are its parameters' indices, counted through all
            groups.
        """
        state, groups, start = {}, [], 0
        for group in self.param_groups:
            names = list(group["params"])
            for index, name in enumerate(names, start):
                if self.state.get(name):
                    state[index] = {key: array.copy() for key, array in self.state[name].items()}
            groups.append({**group, "params": list(range(start, start + len(names)))})
            start += len(names)
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another optimizer of the same kind, of fastrnn or torch, was when its state was taken.

        Parameters
        ----------
        state_dict : mapping
            As `state_dict` gives it, or torch's. It goes by the order of the parameters, as in torch, and not by name.
            Options that are not this optimizer's (``"foreach"`` and so on) are passed over.

        Raises
        ------
        ValueError, TypeError
            Other numbers of groups or parameters, arrays of other shapes, or no such dict; nothing is changed then.
        """
        state, groups = _parts(state_dict)
        if len(groups) != len(self.param_groups):
            raise ValueError("loaded state dict has a different number of parameter groups")
        new_groups, new_state = [], {}
        for own, group in zip(self.param_groups, groups, strict=True):
            if len(own["params"]) != len(group["params"]):
                raise ValueError(
                    "loaded state dict contains a parameter group that doesn't match the size of optimizer's group"
                )
            known = {key: own[key] for key in self.defaults} | {
                key: group[key] for key in self.defaults if key in group
            }
            options = self._checked({key: _number(value) for key, value in known.items()})
            for source in (own, group):
                if "initial_lr" in source:
                    options["initial_lr"] = validate.real("initial_lr", _number(source["initial_lr"]))
            new_groups.append({**options, "params": own["params"]})
            for (name, array), index in zip(own["params"].items(), group["params"], strict=True):
                if state.get(index):
                    new_state[name] = self._loaded(name, array, state[index])
        self.param_groups[:] = new_groups
        self.state = new_state

    def _loaded(self, name: str, array: Array, saved: Mapping[str, Any]) -> dict[str, Array]:
        loaded = {}
        for key in self._state_names:
            if saved.get(key) is not None:
                shape, dtype = ((), np.dtype(np.float32)) if key == "step" else (array.shape, array.dtype)
                loaded[key] = np.array(validate.shaped(f"{key} of {name!r}", saved[key], shape, dtype), order="C")
        return loaded

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # A copy would have arrays of its own, which are no layer's.
        raise TypeError(
            "an optimizer cannot be copied or pickled; make another of the copied model's parameters() and load the "
            "state_dict() of this one"
        )

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {value}" for key, value in sorted(group.items()) if key != "params"]
        return "\n".join([*lines, ")"])


def at_least_0(name: str, value: Any, called: str) -> float:
    """A number that torch's message calls so."""
    if not validate.real(name, value) >= 0:
        raise ValueError(f"Invalid {called}: {value}")
    return float(value)


def run(updates: list[Update]) -> None:
    """One step of each, shared by several threads where that pays: they are woken once, for all."""
    flush, total = flush_denormals(), sum(update.arrays[0].size for update in updates)
    if total < 2 * PER_THREAD:  # without what it takes to share: half of the time, where there are many small arrays
        for kernel, arrays, scalars in updates:
            getattr(kernels(arrays[0].dtype), kernel)(arrays, 0, arrays[0].size, flush, *scalars)
        return
    with threads.team(total // PER_THREAD) as team:
        shares: list[list[Callable[[], object]]] = [[] for _ in range(team.size)]
        for i, share in enumerate(shares):
            at, begin, end = 0, total * i // team.size, total * (i + 1) // team.size
            for kernel, arrays, scalars in updates:
                start, stop = max(begin - at, 0), min(end - at, arrays[0].size)
                if start < stop:
                    function = getattr(kernels(arrays[0].dtype), kernel)
                    share.append(partial(function, arrays, start, stop, flush, *scalars))
                at += arrays[0].size
        team.run([partial(_one_by_one, share) for share in shares])


def _one_by_one(tasks: list[Callable[[], object]]) -> None:
    for task in tasks:
        task()


def _check_parameter(name: Any, array: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"names of parameters should be strings, got: {name!r}")
    if not isinstance(array, np.ndarray):
        raise TypeError(f"optimizer can only optimize arrays, but {name!r} is {type(array).__name__}")
    if array.dtype not in (np.float32, np.float64) or not array.flags.writeable:
        kind = array.dtype if array.flags.writeable else "a read-only array"
        raise TypeError(f"optimizer can only optimize writable arrays of float32 or float64, but {name!r} is {kind}")


def _parts(state_dict: Any) -> tuple[Mapping[Any, Any], list[Mapping[str, Any]]]:
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= set(state_dict):
        raise TypeError(
            "state_dict should be a dict with 'state' and 'param_groups', as an optimizer's state_dict() is"
        )
    state, groups = state_dict["state"], state_dict["param_groups"]
    ok = isinstance(state, Mapping) and isinstance(groups, list | tuple)
    if not ok or not all(isinstance(group, Mapping) and "params" in group for group in groups):
        raise TypeError("state_dict should have a dict as 'state' and a list of dicts with 'params' as 'param_groups'")
    return state, list(groups)


def _number(value: Any) -> Any:
    """An option that was saved as an array of one number, as torch's ``lr`` may be."""
    return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value


def _listed(names: Mapping[str, Array]) -> str:
    some = list(names)[:8]
    return ", ".join(some) + (", ..." if len(names) > len(some) else "")
