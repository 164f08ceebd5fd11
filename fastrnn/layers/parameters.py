"""Parameters: single ones that become part of a model, and all those that a model has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate

if TYPE_CHECKING:
    from .module import Module

Array = NDArray[Any]


class Parameter:
    """An array that becomes a parameter of the `Module` to whose attribute it is assigned.

    Reading the attribute gives the array itself. What is assigned to it later is written into that array.

    Parameters
    ----------
    data : array_like of real numbers
        Copied.
    dtype : float32 or float64

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> class Scale(fastrnn.Module):
    ...     def __init__(self):
    ...         self.scale = fastrnn.Parameter(np.ones(3))
    ...     def forward(self, x):
    ...         return x * self.scale
    >>> Scale().scale
    array([1., 1., 1.], dtype=float32)
    >>> list(Scale().parameters())
    ['scale']
    """

    def __init__(self, data: ArrayLike, dtype: DTypeLike = "float32") -> None:
        self.data: Array = np.array(validate.real_array("data", data, validate.dtype(dtype)))

    def __repr__(self) -> str:
        return f"Parameter({self.data!r})"


class Parameters(dict[str, Array]):
    """The parameters of a layer or model: torch's name -> the live array.

    Who edits an array in place calls `changed` afterwards, so that packed copies of the weights follow. Assigning an
    item is assigning the layer's attribute; names cannot be added or removed. A layer that a model has twice is listed
    once, under its first name.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._owners = {
            prefix + name: (owner, name)
            for prefix, owner in module._dotted(remove_duplicate=True)
            for name in owner._params
        }
        super().__init__({dotted: owner._params[name] for dotted, (owner, name) in self._owners.items()})
        self._found_in = [(part, part._params) for part in module.modules()]

    def __setitem__(self, name: str, value: ArrayLike) -> None:
        if name not in self:
            raise KeyError(f"{name!r} is no parameter of {self._module!r}")
        owner, attribute = self._owners[name]
        setattr(owner, attribute, value)

    def update(self, *args: Any, **kwargs: ArrayLike) -> None:
        """Assign every item, or none where one is wrong; arguments as of `dict.update`."""
        new = dict(*args, **kwargs)
        if unknown := [name for name in new if name not in self]:
            raise KeyError(f"{quoted(unknown)}: no parameter of {self._module!r}")
        self._module.load_state_dict(new, strict=False)

    def __ior__(self, other: Any) -> Self:  # type: ignore[misc, override]
        self.update(other)
        return self

    def _refuse(self, *args: Any) -> NoReturn:
        raise TypeError(f"parameters of {self._module!r} cannot be added or removed; assign to those that are there")

    __delitem__ = clear = pop = popitem = setdefault = _refuse

    def subset(self, names: Iterable[str]) -> Self:
        """Some of them, with the same `changed`: for a group of an optimizer.

        Raises
        ------
        KeyError
            A name that is none of them.
        """
        part = type(self).__new__(type(self))
        vars(part).update(vars(self))
        dict.update(part, {name: self[name] for name in names})
        return part

    def check(self) -> None:
        """See whether these are still the arrays of the layers that they were taken from.

        Raises
        ------
        RuntimeError
            They are not: `to` another dtype has made new ones.
        """
        if all(part._params is params for part, params in self._found_in):
            return  # soon found out, for each step of an optimizer
        for name, array in self.items():
            owner, attribute = self._owners[name]
            if owner._params[attribute] is not array:
                raise RuntimeError(
                    f"{name!r} is another array since parameters() was called, by to() with another dtype; "
                    "call parameters() again, and make a new optimizer"
                )

    def changed(self) -> None:
        """Say that arrays were edited in place.

        Raises
        ------
        RuntimeError
            They are not the layers' any more, as `check` finds.
        """
        self.check()
        for part, _ in self._found_in:
            part._changed()

    def __reduce__(self) -> Any:
        return dict, (dict(self),)


class IncompatibleKeys(NamedTuple):
    """What `Module.load_state_dict` passed over with ``strict=False``."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def quoted(names: list[Any]) -> str:
    return ", ".join(f'"{name}"' for name in names)
