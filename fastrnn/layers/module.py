"""What every layer and model has: parts under torch's names, state dicts, dtype, mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from .device import checked_device
from .parameters import IncompatibleKeys, Parameter, Parameters, quoted

Array = NDArray[Any]


class Module:
    """Base class of layers and of models of one's own [1]_.

    Layers that are assigned to attributes become parts of the model, in that order, and so do arrays that are assigned
    as `Parameter`. The names of their parameters begin with the attribute's, as in torch: the state dict of a torch
    model whose attributes have the same names fits. ``super().__init__()`` may be called, and need not.

    A model defines ``forward``, which a call of the model runs. Where gradients are wanted, it also defines ``vjp``,
    from the ``vjp`` of its parts; the page on models shows how.

    Attributes
    ----------
    training : bool
        Whether dropout and the like are on: models start with them off. `train` and `eval` set it for all parts.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Module.html

    Examples
    --------
    >>> import fastrnn
    >>> class Tagger(fastrnn.Module):
    ...     def __init__(self):
    ...         self.rnn = fastrnn.GRU(3, 4, batch_first=True)
    ...         self.head = fastrnn.Linear(4, 2)
    ...     def forward(self, x):
    ...         y, _ = self.rnn(x)
    ...         return self.head(y)
    >>> model = Tagger()
    >>> list(model.state_dict())[-2:]
    ['head.weight', 'head.bias']
    >>> model([[[1, 2, 3], [4, 5, 6]]]).shape
    (1, 2, 2)
    """

    training: bool
    _fixed: tuple[str, ...] = ()  # attributes that say what a layer is
    _checks: ClassVar[dict[str, Callable[[Any], Any]]] = {"training": partial(validate.flag, "training")}  # of others
    _params: dict[str, Array]
    _buffers: dict[str, Array]  # arrays that are not trained
    _unsaved: frozenset[str] = frozenset()  # those of them that are not in the state dict
    _modules: dict[str, Module]
    _prepared: dict[Any, Any]  # what was made of the weights; another dict once they have changed

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # Here and not in __init__: models of users' own need not call that.
        self = super().__new__(cls)
        self.__dict__.update(training=False, _params={}, _buffers={}, _modules={}, _prepared={})
        return self

    def __init__(self) -> None:
        pass  # object's would take any arguments where there is a __new__

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng()  # made when needed, since importing numpy.random takes a while

    # -- the call -------------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run ``forward``."""
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call runs: each class has its own."""
        raise NotImplementedError(f'Module [{type(self).__name__}] is missing the required "forward" function')

    def vjp(self, *args: Any, **kwargs: Any) -> Any:
        """A call, and what brings gradients back through it: each class that is trained has its own."""
        raise NotImplementedError(
            f"{type(self).__name__} has no vjp: define one that calls the vjp of its parts and returns "
            "(result, backward), or put the parts into a fastrnn.Sequential, which has one"
        )

    # -- attributes -----------------------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        for kind in ("_params", "_buffers", "_modules"):
            if name in (found := self.__dict__.get(kind, {})):
                return found[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._params or name in self._buffers:
            array = self._params[name] if name in self._params else self._buffers[name]
            array[...] = _fitting(name, value.data if isinstance(value, Parameter) else value, array)
            self._changed()
        elif name in self._fixed and name in self.__dict__:
            raise AttributeError(f"{name} is fixed once a layer is made; make a new {type(self).__name__}")
        elif isinstance(value, Module):
            self._register("_modules", name, value)
        elif isinstance(value, Parameter):
            self._register("_params", name, value.data)
        elif name in self._modules:
            if value is not None:
                got = type(value).__name__
                raise TypeError(f"cannot assign '{got}' as child module '{name}' (fastrnn.Module or None expected)")
            del self._modules[name]
            self.__dict__[name] = None
        else:
            super().__setattr__(name, self._checks[name](value) if name in self._checks else value)

    def _register(self, kind: str, name: str, value: Any) -> None:
        """Make `value` a part of that kind, whatever had its name before; a part keeps its place."""
        self.__dict__.pop(name, None)
        self._modules.pop(name, None) if kind != "_modules" else None
        self.__dict__[kind][name] = value

    def register_buffer(self, name: str, tensor: ArrayLike, persistent: bool = True) -> None:
        """Make an array that is not trained a part of the model, under an attribute's name.

        Parameters
        ----------
        name : str
        tensor : array_like of real numbers
            Copied. `to` changes its dtype, unless it holds integers.
        persistent : bool
            Whether it is in the state dict.

        Raises
        ------
        KeyError
            There is such an attribute, or `name` has a ".".
        TypeError
            `tensor` is no array of real numbers, or `persistent` no bool.
        """
        if "." in name:
            raise KeyError('buffer name can\'t contain "."')
        if hasattr(self, name) and name not in self._buffers:
            raise KeyError(f"attribute '{name}' already exists")
        array = np.array(tensor)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"{name} should be an array of real numbers, got: {array.dtype}")
        unsaved = self._unsaved - {name}
        self.__dict__["_unsaved"] = unsaved if validate.flag("persistent", persistent) else unsaved | {name}
        self._buffers[name] = array

    def add_module(self, name: str, module: Module) -> None:
        """Make a layer or model a part, under an attribute's name.

        Parameters
        ----------
        name : str
        module : Module

        Raises
        ------
        KeyError
            There is such an attribute, or `name` is empty or has a ".".
        TypeError
            `name` is no string, or `module` no Module.
        """
        if not isinstance(module, Module):
            raise TypeError(f"{type(module).__name__} is not a Module subclass")
        if not isinstance(name, str):
            raise TypeError(f"module name should be a string. Got {type(name).__name__}")
        if "." in name:
            raise KeyError(f'module name can\'t contain ".", got: {name}')
        if not name:
            raise KeyError('module name can\'t be empty string ""')
        if hasattr(self, name) and name not in self._modules:
            raise KeyError(f"attribute '{name}' already exists")
        self._modules[name] = module

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._params, *self._buffers, *self._modules]

    # -- parts ----------------------------------------------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The parts, by attribute, each once."""
        seen: set[int] = set()
        for name, module in self._modules.items():
            if id(module) not in seen:
                seen.add(id(module))
                yield name, module

    def children(self) -> Iterator[Module]:
        """The parts, each once."""
        return (module for _, module in self.named_children())

    def named_modules(self, *, remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """The model itself under the name "", its parts, their parts and so on, by dotted names.

        Parameters
        ----------
        remove_duplicate : bool
            Name a part that is there twice only once.
        """
        return ((prefix[:-1], module) for prefix, module in self._dotted(remove_duplicate))

    def modules(self) -> Iterator[Module]:
        """The model itself, its parts, their parts and so on, each once."""
        return (module for _, module in self._dotted(remove_duplicate=True))

    def _dotted(
        self, remove_duplicate: bool, prefix: str = "", seen: set[int] | None = None
    ) -> Iterator[tuple[str, Module]]:
        """As `named_modules`, with a "." behind each name."""
        seen = set() if seen is None else seen
        if remove_duplicate and id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, module in self._modules.items():
            yield from module._dotted(remove_duplicate, f"{prefix}{name}.", seen)

    # -- parameters -----------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        # A new dict and not clear(): a call under way in another thread keeps the weights it began with.
        self.__dict__["_prepared"] = {}

    def _unchanged(self) -> Callable[[], None]:
        """A function that raises once weights have changed."""
        then = [(module, module._prepared) for module in self.modules()]

        def check() -> None:
            for module, prepared in then:
                if module._prepared is not prepared:
                    raise RuntimeError(f"the weights of {module!r} have changed since vjp was called; call vjp again")

        return check

    def parameters(self) -> Parameters:
        """The parameters by name, live: edit them in place, then call ``.changed()`` on the result.

        Returns
        -------
        Parameters
        """
        return Parameters(self)

    def _live_arrays(self) -> dict[str, Array]:
        """The live arrays of the state dict; those of a part that is there twice have two names."""
        return {
            prefix + name: array
            for prefix, module in self._dotted(remove_duplicate=False)
            for name, array in (module._params | module._buffers).items()
            if name not in module._unsaved
        }

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters, and of buffers, under torch's names and in torch's order."""
        return {name: array.copy() for name, array in self._live_arrays().items()}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Take over parameters, and buffers, by name.

        Parameters
        ----------
        state_dict : mapping of name to array
            Cast to the layers' dtypes.
        strict : bool
            Whether missing and unexpected names are errors.

        Returns
        -------
        IncompatibleKeys
            ``missing_keys`` and ``unexpected_keys``, as in torch.

        Raises
        ------
        ValueError
            Lists every missing, unexpected and wrongly shaped key; nothing is changed then.
        TypeError
            `state_dict` is no mapping, or a value is no array of real numbers.
        """
        new, passed_over = self._fitting_state(state_dict, strict)
        own = self._live_arrays()
        # The model's own arrays are written to one by one: what is yet to be read of them is copied before.
        for name, array in new.items():
            if any(np.may_share_memory(array, current) for current in own.values()):
                new[name] = array.copy()
        for name, array in new.items():
            own[name][...] = array
        for module in self.modules():
            module._changed()
        return passed_over

    def _fitting_state(self, state_dict: Any, strict: bool) -> tuple[dict[str, Array], IncompatibleKeys]:
        """The arrays that fit, in the dtypes of those that are there."""
        if not isinstance(state_dict, Mapping):
            hint = "; fastrnn.model_state_dict makes one of it" * (type(state_dict).__name__ == "Opaque")
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}{hint}")
        own, errors = self._live_arrays(), []
        missing = [name for name in own if name not in state_dict]
        unexpected = [name for name in state_dict if name not in own]
        if strict and missing:
            errors.append(f"Missing key(s) in state_dict: {quoted(missing)}.{_whereabouts(missing, state_dict)}")
        if strict and unexpected:
            errors.append(f"Unexpected key(s) in state_dict: {quoted(unexpected)}.")
        new = {}
        for name, current in own.items():
            if name in state_dict:
                array = validate.real_array(name, state_dict[name], current.dtype)
                if array.shape != current.shape:
                    errors.append(
                        f"size mismatch for {name}: copying a param with shape {array.shape} from checkpoint, "
                        f"the shape in current model is {current.shape}."
                    )
                new[name] = array
        if errors:
            raise ValueError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        return new, IncompatibleKeys(missing, unexpected)

    # -- dtype, device, mode --------------------------------------------------------------------------------------

    def to(self, *args: Any, dtype: DTypeLike | None = None, device: str | None = None) -> Self:
        """Change dtype or device, in place.

        Parameters stay NumPy arrays on the host. A GPU gets copies of them at the first call, and new ones when they
        have changed. Recurrent layers run there; all others run on the CPU, whatever the device.

        Parameters
        ----------
        *args : str or dtype
            ``to("float64")``, ``to("cuda")`` or both.
        dtype : float32 or float64, optional
        device : "cpu", "cuda" or "cuda:N", optional
            ``"cuda"`` is ``"cuda:0"``.

        Returns
        -------
        The layer or model itself.

        Raises
        ------
        BackendError
            There is no such GPU, or what it takes to use it is not installed.
        """
        for arg in args:
            if isinstance(arg, str) and arg.split(":")[0] in ("cpu", "cuda"):
                device = arg
            else:
                dtype = validate.dtype(arg)
        dtype = None if dtype is None else validate.dtype(dtype)
        device = None if device is None else checked_device(device)
        new = [(module, module._converted(dtype, device)) for module in self.modules()]
        for module, attributes in new:
            if attributes:  # all at once, so that nothing comes in between
                module.__dict__.update(attributes, _prepared={})
        return self

    def _converted(self, dtype: np.dtype[Any] | None, device: str | None) -> dict[str, Any]:
        """The attributes that change with these."""
        if dtype is None:
            return {}
        # Arrays that have the dtype stay: optimizers go on with them.
        return {
            "_params": {name: array.astype(dtype, copy=False) for name, array in self._params.items()},
            "_buffers": {
                name: a.astype(dtype, copy=False) if a.dtype.kind == "f" else a for name, a in self._buffers.items()
            },
        }

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy of the layer or model in another dtype."""
        return copy.deepcopy(self).to(dtype=dtype)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout and the like on (layers start with it off); returns the layer or model."""
        mode = validate.flag("mode", mode)
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch dropout and the like off; returns the layer or model."""
        return self.train(False)

    # -- copies, text ---------------------------------------------------------------------------------------------

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # with arrays shared and packed weights not, the copies would fall apart

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}}

    def _described(self) -> tuple[dict[str, Any], dict[str, Array]]:
        """For `save`: what the model is made of, in plain values, and its state dict."""
        from .saved import description

        return description(self), self.state_dict()

    def extra_repr(self) -> str:
        """What stands between the parentheses of ``repr``: a layer's arguments."""
        return ""

    def __repr__(self) -> str:
        lines = [f"({name}): {text}" for name, text in self._repr_parts()]
        if not lines:
            return f"{type(self).__name__}({self.extra_repr()})"
        lines = [line for line in (self.extra_repr(), *lines) if line]
        return f"{type(self).__name__}(\n" + "\n".join(lines).replace("\n", "\n  ").join(("  ", "\n)"))

    def _repr_parts(self) -> list[tuple[str, str]]:
        return [(name, repr(module)) for name, module in self._modules.items()]

    def _repr_html_(self) -> str:
        params = self.parameters()
        total, dtypes = sum(a.size for a in params.values()), ", ".join(sorted({str(a.dtype) for a in params.values()}))
        rows = "".join(f"<tr><td>{name}</td><td>{a.shape}</td><td>{a.size:,}</td></tr>" for name, a in params.items())
        return (
            f"<details><summary><code>{self!r}</code> {total:,} parameters, {dtypes}</summary>"
            f"<table><tr><th>parameter</th><th>shape</th><th>elements</th></tr>{rows}</table></details>"
        )


def _fitting(name: str, value: ArrayLike, current: Array) -> Array:
    """`value` as what is written into an array."""
    return validate.shaped(name, value, current.shape, current.dtype)


def _whereabouts(missing: list[str], state_dict: Mapping[str, Any]) -> str:
    """Where the names all are: in a dict within, or behind what wraps a model."""
    for key, value in state_dict.items():
        if isinstance(value, Mapping) and all(name in value for name in missing):
            return f" They are in state_dict[{key!r}]."
        prefix = str(key).removesuffix(missing[0])
        if prefix != key and all(prefix + name in state_dict for name in missing):
            return f" They are there with {prefix!r} before them: leave that away."
    return ""
