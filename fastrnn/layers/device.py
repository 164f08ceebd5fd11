"""Where layers run: names of devices, and what runs calls on a GPU."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import BackendError


def checked_device(device: Any) -> str:
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
