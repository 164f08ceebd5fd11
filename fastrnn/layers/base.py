"""What every layer has: parameters under torch's names, state dicts, dtype, mode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..backends import current as current_backend
from ..backends import for_cell
from ..cells import CellSpec, Sizes, Weights
from ..errors import BackendError
from ..sequence import Stack

Array = NDArray[Any]

ZEROS = object()  # in place of `rng`: parameters of zeros, for those who load others right away


class Parameters(dict[str, Array]):
    """The parameters of a layer: torch's name -> the live array.

    Who edits an array in place calls `changed` afterwards, so that packed copies of the weights follow. Assigning an
    item is assigning the layer's attribute; names cannot be added or removed.
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer._params)
        self._layer = layer

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        if name not in self:
            raise KeyError(f"{name!r} is no parameter of {self._layer!r}")
        setattr(self._layer, name, value)

    def update(self, *args: Any, **kwargs: ArrayLike) -> None:
        """Assign every item, or none where one is wrong; arguments as of `dict.update`."""
        new = dict(*args, **kwargs)
        if unknown := [name for name in new if name not in self]:
            raise KeyError(f"{_quoted(unknown)}: no parameter of {self._layer!r}")
        self._layer.load_state_dict(new, strict=False)

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc, override]
        self.update(other)
        return self

    def _refuse(self, *args: Any) -> NoReturn:
        raise TypeError(f"parameters of {self._layer!r} cannot be added or removed; assign to those that are there")

    __delitem__ = clear = pop = popitem = setdefault = _refuse

    def changed(self) -> None:
        """Say that arrays were edited in place."""
        self._layer._changed()

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class IncompatibleKeys(NamedTuple):
    """What `Layer.load_state_dict` passed over with ``strict=False``."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Layer:
    """Base class: a dict of parameters with everything that torch modules offer around it."""

    training: bool
    _fixed: tuple[str, ...] = ()  # attributes that say what the layer is
    _checks: ClassVar[dict[str, Callable[[Any], Any]]] = {"training": partial(validate.flag, "training")}  # the others
    _spec: CellSpec
    _sizes: Sizes
    _params: dict[str, Array]
    _prepared: dict[Any, Any]
    _device: str = "cpu"

    def __init__(self, shapes: dict[str, tuple[int, ...]], *, dtype: DTypeLike, device: str, rng: Any) -> None:
        self.training = False
        self._dtype = validate.dtype(dtype)
        if device != "cpu":
            self._device = _checked_device(device)
        self._params = {name: np.zeros(shape, self._dtype) for name, shape in shapes.items()}
        self._changed()
        if rng is not ZEROS:
            self._rng = validate.generator(rng)
            self.reset_parameters()

    @cached_property
    def _rng(self) -> np.random.Generator:
        return np.random.default_rng()  # with ZEROS: made when needed, since importing numpy.random takes a while

    # -- parameters -----------------------------------------------------------------------------------------------

    def _changed(self) -> None:
        # A new dict and not clear(): a call under way in another thread keeps the weights it began with.
        self._prepared = {}

    def _init_bound(self) -> float:
        raise NotImplementedError

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw new parameters, uniform in ±1/sqrt(hidden_size), in parameter order.

        Parameters
        ----------
        rng : int, numpy.random.Generator or None
            Where to draw from; None: the layer's own generator.
        """
        generator = self._rng if rng is None else validate.generator(rng)
        bound = self._init_bound()
        for array in self._params.values():
            array[...] = generator.uniform(-bound, bound, array.shape)
        self._changed()

    def __getattr__(self, name: str) -> Array:
        params: dict[str, Array] = self.__dict__.get("_params", {})
        if name in params:
            return params[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dict__.get("_params", ()):
            self._params[name][...] = self._checked(name, value)
            self._changed()
        elif name in self._fixed and name in self.__dict__:
            raise AttributeError(f"{name} is fixed once a layer is made; make a new {type(self).__name__}")
        elif name.startswith(("weight_", "bias_")):
            from difflib import get_close_matches  # here, since hardly anyone needs it

            nearest = get_close_matches(name, self.__dict__.get("_params", ()), 1, 0)
            raise AttributeError(f"{self!r} has no parameter {name!r}; the nearest name is {', '.join(nearest)}")
        else:
            super().__setattr__(name, self._checks[name](value) if name in self._checks else value)

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._params]

    def _checked(self, name: str, value: ArrayLike) -> Array:
        """`value` as the parameter `name`."""
        expected = self._params[name].shape
        array = validate.real_array(name, value, self._dtype)
        if array.shape != expected:
            raise ValueError(f"{name} should have shape {expected}, got: {array.shape}")
        return array

    def parameters(self) -> Parameters:
        """The parameters by name, live: edit them in place, then call ``.changed()`` on the result.

        Returns
        -------
        Parameters
        """
        return Parameters(self)

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under torch's names, in torch's order."""
        return {name: array.copy() for name, array in self._params.items()}

    def load_state_dict(self, state_dict: Mapping[str, ArrayLike], strict: bool = True) -> IncompatibleKeys:
        """Take over parameters by name.

        Parameters
        ----------
        state_dict : mapping of name to array
            Cast to the layer's dtype.
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
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict).__name__}")
        errors = []
        missing = [name for name in self._params if name not in state_dict]
        unexpected = [name for name in state_dict if name not in self._params]
        if strict and missing:
            errors.append(f"Missing key(s) in state_dict: {_quoted(missing)}.")
        if strict and unexpected:
            errors.append(f"Unexpected key(s) in state_dict: {_quoted(unexpected)}.")
        new = {}
        for name, current in self._params.items():
            if name in state_dict:
                array = validate.real_array(name, state_dict[name], self._dtype)
                if array.shape != current.shape:
                    errors.append(
                        f"size mismatch for {name}: copying a param with shape {array.shape} from checkpoint, "
                        f"the shape in current model is {current.shape}."
                    )
                # The layer's own arrays are written to one by one: what is yet to be read of them is copied.
                overlaps = any(np.may_share_memory(array, own) for own in self._params.values())
                new[name] = array.copy() if overlaps else array
        if errors:
            raise ValueError(f"Error(s) in loading state_dict for {type(self).__name__}:\n\t" + "\n\t".join(errors))
        for name, array in new.items():
            self._params[name][...] = array
        self._changed()
        return IncompatibleKeys(missing, unexpected)

    # -- dtype, device, mode --------------------------------------------------------------------------------------

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._dtype

    @property
    def device(self) -> str:
        """``"cpu"``, or ``"cuda:0"`` and so on."""
        return self._device

    def to(self, *args: Any, dtype: DTypeLike | None = None, device: str | None = None) -> Self:
        """Change dtype or device, in place.

        Parameters stay NumPy arrays on the host. A GPU gets copies of them at the first call, and new ones when they
        have changed.

        Parameters
        ----------
        *args : str or dtype
            ``to("float64")``, ``to("cuda")`` or both.
        dtype : float32 or float64, optional
        device : "cpu", "cuda" or "cuda:N", optional
            ``"cuda"`` is ``"cuda:0"``.

        Returns
        -------
        The layer itself.

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
        new: dict[str, Any] = {}
        if dtype is not None:
            new["_dtype"] = validate.dtype(dtype)
            new["_params"] = {name: array.astype(new["_dtype"]) for name, array in self._params.items()}
        if device is not None and (checked := _checked_device(device)) != self._device:
            new["_device"] = checked
        if new:  # all at once, so that nothing comes in between
            self.__dict__.update(new, _prepared={})
        return self

    def astype(self, dtype: DTypeLike) -> Self:
        """A copy of the layer in another dtype."""
        return copy.deepcopy(self).to(dtype=dtype)

    def train(self, mode: bool = True) -> Self:
        """Switch dropout on (layers start with it off); returns the layer."""
        self.training = validate.flag("mode", mode)
        return self

    def eval(self) -> Self:
        """Switch dropout off; returns the layer."""
        return self.train(False)

    def flatten_parameters(self) -> None:
        """Does nothing: for code written for torch that calls it."""

    def _weights(self) -> list[Weights]:
        """By layer, then direction."""
        raise NotImplementedError

    def _stack(self) -> Stack:
        """What runs the layer on its device: made once, and again when the weights have changed."""
        cache = self._prepared
        key = current_backend() if self._device == "cpu" else self._device
        if key not in cache:
            if self._device == "cpu":
                backend = for_cell(self._spec, current_backend())
                prepared = [backend.prepare(self._spec, weights) for weights in self._weights()]
                cache[key] = Stack(self._sizes, self._dtype, prepared, backend)
            else:
                cache[key] = gpu().stack(self._device, self._sizes, self._dtype, self._weights())
        stack: Stack = cache[key]
        return stack

    def _backward_weights(self, stack: Stack) -> list[Any]:
        """What a backend wants of the weights for gradients; on a GPU the stack has it all."""
        if self._device != "cpu":
            return []
        cache, key = self._prepared, (stack.backend, "backward")
        if key not in cache:
            cache[key] = [stack.backend.prepare_backward(self._spec, weights) for weights in self._weights()]
        found: list[Any] = cache[key]
        return found

    def _unchanged(self) -> Callable[[], None]:
        """A function that raises once the weights have changed."""
        then = self._prepared

        def check() -> None:
            if self._prepared is not then:
                raise RuntimeError(f"the weights of {self!r} have changed since vjp was called; call vjp again")

        return check

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # with arrays shared and packed weights not, the copies would fall apart

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_prepared": {}}

    def _repr_html_(self) -> str:
        total = sum(a.size for a in self._params.values())
        rows = "".join(
            f"<tr><td>{name}</td><td>{a.shape}</td><td>{a.size:,}</td></tr>" for name, a in self._params.items()
        )
        return (
            f"<details><summary><code>{self!r}</code> {total:,} parameters, {self._dtype}</summary>"
            f"<table><tr><th>parameter</th><th>shape</th><th>elements</th></tr>{rows}</table></details>"
        )


def _quoted(names: list[Any]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _checked_device(device: Any) -> str:
    """The device's full name; raises where it cannot be used."""
    if device == "cpu":
        return "cpu"
    kind, colon, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind != "cuda" or (colon and not (index.isascii() and index.isdecimal())):
        raise ValueError(f"device should be 'cpu', 'cuda' or 'cuda:N', got: {device!r}")
    name = f"cuda:{int(index or 0)}"
    try:
        gpu().device_of(name)
    except BackendError as error:
        raise BackendError(f"device {device!r} cannot be used: {error}") from error
    return name


def gpu() -> Any:
    """What runs calls on a GPU: `cuda.call`, imported when it is needed."""
    try:
        return import_module("fastrnn.cuda.call")
    except ImportError as error:
        raise BackendError(f'{error}. To have it, pip install "fastrnn[cuda]"') from error
