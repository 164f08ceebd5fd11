"""Argument checks: one clear error each, in torch's words where torch has some.

torch raises RuntimeError for some wrong arguments; here they are ValueErrors that begin with the same words.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

Array = NDArray[Any]


def integer(name: str, value: Any) -> int:
    """An integer, numpy's included."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Integral):
        raise TypeError(f"{name} should be of type int, got: {type(value).__name__}")
    return int(value)


def real(name: str, value: Any) -> float:
    """A real number, numpy's included."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name} should be a real number, got: {type(value).__name__}")
    return float(value)


def size(name: str, value: Any) -> int:
    """A size of a layer: a positive integer."""
    if integer(name, value) <= 0:
        raise ValueError(f"{name} must be greater than zero, got: {value}")
    return int(value)


def number(name: str, value: Any) -> Any:
    """A real number, as it is."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, Real):
        raise TypeError(f"{name} should be a number, got: {type(value).__name__}")
    return value


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} should be of type bool, got: {type(value).__name__}")
    return bool(value)


def dropout(value: Any) -> float:
    ok = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    if not ok or math.isnan(value) or not 0 <= value <= 1:
        raise ValueError(
            "dropout should be a number in range [0, 1] representing the probability of an element being zeroed, "
            f"got: {value!r}"
        )
    return float(value)


def nonlinearity(value: Any, known: Collection[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"Unknown nonlinearity '{value}'. Select from 'tanh' or 'relu'.")
    return value


def proj_size(value: Any, hidden_size: int) -> int:
    size = integer("proj_size", value)
    if size < 0:
        raise ValueError(f"proj_size should be a positive integer or zero to disable projections, got: {size}")
    if size >= hidden_size:
        raise ValueError(f"proj_size has to be smaller than hidden_size, got: {size} and {hidden_size}")
    return size


def dtype(value: DTypeLike) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        found = np.dtype(value) if value is not None else None
    except TypeError:
        found = None
    if found is None or found.newbyteorder("=") not in (np.float32, np.float64):
        raise TypeError(f"dtype should be float32 or float64, got: {value!r}")
    return found.newbyteorder("=")


def real_array(name: str, value: ArrayLike, to: np.dtype[Any]) -> Array:
    """Anything `np.asarray` takes as an aligned array of real numbers in `to`; no copy where none is needed."""
    # Not isinstance: the subclasses of numpy, matrix above all, index in ways of their own.
    if type(value) is np.ndarray and value.dtype == to and value.flags.aligned:
        return value
    if value is None:
        raise TypeError(f"{name} should be an array of real numbers, got: None")
    a = _as_array(value, f"{name} should be an array of real numbers")
    # ml_dtypes' bfloat16 and float8 are of kind "V" or "f" and cast like the others.
    if a.dtype.kind not in "biuf" and not (a.dtype.kind == "V" and a.dtype.names is None and _casts(a.dtype, to)):
        raise TypeError(f"{name} should be an array of real numbers, got: {a.dtype}")
    return np.require(a.astype(to, copy=False), requirements="A")


def floating(name: str, value: ArrayLike) -> Array:
    """Anything `np.asarray` takes as an array of float64, where it is one, or else of float32; no needless copy."""
    a = value if type(value) is np.ndarray else _as_array(value, f"{name} should be an array of real numbers")
    return real_array(name, a, np.dtype(np.float64 if a.dtype.newbyteorder("=") == np.float64 else np.float32))


def axis(dim: int, ndim: int) -> int:
    """The axis `dim` of an array of `ndim` axes, counted from the front; torch takes 0 and -1 of a number too."""
    last = max(ndim, 1)
    if not -last <= dim < last:
        raise IndexError(f"Dimension out of range (expected to be in range of [{-last}, {last - 1}], but got {dim})")
    return dim % last


def _as_array(value: ArrayLike, expected: str) -> Array:
    try:
        return np.asarray(value)
    except ValueError as error:  # nested lists of different lengths, say
        raise ValueError(f"{expected}, got: {type(value).__name__} ({error})") from None
    except Exception as error:  # other libraries' arrays that refuse, with errors of their own
        raise TypeError(f"{expected}, got: {type(value).__name__} ({error})") from error


def _casts(dtype: np.dtype[Any], to: np.dtype[Any]) -> bool:
    return dtype.type is not np.void and np.can_cast(dtype, to, "same_kind")


def rank(layer: str, x: Array) -> None:
    if x.ndim not in (2, 3):
        tensor = " tensor" if layer == "RNN" else ""
        raise ValueError(f"{layer}: Expected input to be 2D or 3D, got {x.ndim}D{tensor} instead")


def features(x: Array, input_size: int) -> None:
    if x.shape[-1] != input_size:
        raise ValueError(
            f"input.size(-1) must be equal to input_size. Expected {input_size}, got {x.shape[-1]} "
            f"(x has shape {x.shape})"
        )


def hidden(
    name: str,
    value: ArrayLike,
    expected: tuple[int, ...],
    to: np.dtype[Any],
    *,
    batched: bool,
    ranks: str | None = None,
) -> Array:
    """An initial state of shape `expected` (L*D, N, H), or (L*D, H) for unbatched input.

    ranks: what the message says of the ranks in place of "hx should also be 3-D but got 2-D tensor".
    """
    a = real_array(name, value, to)
    if a.ndim != len(expected):
        case = "batched 3-D" if batched else "unbatched 2-D"
        ranks = ranks or f"hx should also be {len(expected)}-D but got {a.ndim}-D tensor"
        raise ValueError(f"For {case} input, {ranks}")
    if a.shape != expected:
        label = f"hidden{name[2:]}" if name.startswith("hx") else name
        raise ValueError(f"Expected {label} size {expected}, got {list(a.shape)}")
    return a


def lengths(value: ArrayLike, T: int, N: int) -> NDArray[np.intp]:
    """(N,) integers in 0..T."""
    a = integers(value, "lengths should be integers")
    if a.shape != (N,):
        raise ValueError(f"lengths should have shape ({N},), one for each row of the batch, got: {a.shape}")
    if N and (a.min() < 0 or a.max() > T):
        raise ValueError(f"lengths should be between 0 and the number of steps, {T}, got: {a.min()} to {a.max()}")
    return a.astype(np.intp)


def integers(value: ArrayLike, expected: str) -> Array:
    """An array of integers; an empty one may be of any type. `expected` begins the message where it is not."""
    a = _as_array(value, expected)
    if a.size == 0 and a.dtype.kind == "f":
        a = a.astype(np.intp)
    if a.dtype.kind not in "iu":
        raise TypeError(f"{expected}, got: {a.dtype}")
    return a


def mask(name: str, value: ArrayLike, expected: tuple[int, ...]) -> NDArray[np.bool_]:
    """An array of bool of shape `expected`."""
    a = _as_array(value, f"{name} should be an array of bool")
    if a.dtype != np.bool_:
        raise TypeError(f"{name} should be an array of bool, got: {a.dtype}")
    if a.shape != expected:
        raise ValueError(f"{name} should have shape {expected}, got: {a.shape}")
    return a


def shaped(name: str, value: ArrayLike, expected: tuple[int, ...], to: np.dtype[Any]) -> Array:
    """An array of real numbers of shape `expected`."""
    a = real_array(name, value, to)
    if a.shape != expected:
        raise ValueError(f"{name} should have shape {expected}, got: {a.shape}")
    return a


def generator(value: Any) -> np.random.Generator:
    """What `np.random.default_rng` makes of `value`."""
    try:
        return np.random.default_rng(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"rng should be an int, a numpy Generator or None, got: {value!r} ({error})") from None


def out(value: Any, expected: tuple[int, ...], to: np.dtype[Any]) -> Array:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"out should be a numpy array, got: {type(value).__name__}")
    if value.dtype != to:
        raise TypeError(f"out should have dtype {to}, got: {value.dtype}")
    if value.shape != expected:
        raise ValueError(f"out should have shape {expected}, got: {value.shape}")
    if not value.flags.writeable:
        raise ValueError("out should be writable, got a read-only array")
    return value


def wrt(value: str | Iterable[str], known: tuple[str, ...]) -> frozenset[str]:
    """Some of the known names, at least one."""
    expected = f"wrt should name some of {', '.join(map(repr, known))}"
    if not isinstance(value, Iterable):
        raise TypeError(f"{expected}, got: {type(value).__name__}")
    given = [value] if isinstance(value, str) else list(value)
    for name in given:
        if name not in known:
            raise ValueError(f"{expected}, got: {name!r}")
    if not given:
        raise ValueError(f"{expected}, got: none")
    return frozenset(given)
