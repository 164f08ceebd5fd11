"""Launches of kernels that run all steps of a layer by themselves. Which one is `choice`'s; shapes are in `engine`."""

from __future__ import annotations

import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ..backends import cuda_precision
from ..cells import CellSpec
from . import choice
from .runtime import Array, Device, Kernel, Stream, address
from .steps import input_part

if TYPE_CHECKING:
    from .engine import Kept, Prepared
    from .steps import Sums

#: Tries after which a kernel that waits for others gives up: seconds, where a step takes microseconds.
SPINS = 1 << 22
_ALIGNED = 16  # bytes, which kernels read at once


def kind(module: Any) -> str:
    return str(module.__name__.rpartition(".")[2])


def forward(
    module: Any,
    p: Prepared,
    stream: Stream,
    x: Array,
    y: Array,
    h_0: Array,
    c_0: Array | None,
    h_n: Array,
    c_n: Array | None,
    lengths: Array | None,
    reset: Array | None,
    reverse: bool,
    kept: Kept | None,
) -> bool:
    """Run all steps; False where the kernel cannot be launched, and then nothing is written."""
    (T, N, _), D = x.shape, p.D
    options = {"ragged": lengths is not None, "resets": reset is not None, "keep": kept is not None}
    gx = stream.empty((T, N, D * p.GH), p.dtype) if kept is None else kept.gx
    input_part(p, stream, x, gx)
    assert p.w_hh is not None
    out = y if _fits(y) else stream.empty(y.shape, y.dtype)
    stream.fill(out, 0xFF)
    h_0, c_0 = _aligned(stream, h_0), None if c_0 is None else _aligned(stream, c_0)
    arguments = [
        *(gx, *gx.strides[:2], p.w_hh, p.b_ih, p.b_hh, h_0, address(c_0, stream), h_n, address(c_n, stream)),
        *(out, *out.strides[:2], address(lengths, stream), address(reset, stream)),
        *(address(kept.gh if kept else None, stream), address(kept.c_all if kept else None, stream)),
        *(stream.status(kind(module)), T, int(reverse), SPINS),
    ]
    if not _launched(module, p, stream, N, options, arguments):
        return False
    if out is not y:
        stream.copy(y, out)
    return True


def backward(
    module: Any,
    p: Prepared,
    stream: Stream,
    kept: Kept,
    dy: Array | None,
    dh_n: Array,
    dc_n: Array | None,
    dh_0: Array,
    dc_0: Array | None,
    sums: Sums,
) -> bool:
    """Backprop through all steps; False as `forward`."""
    T, N, _ = kept.gx.shape
    options = {"ragged": kept.lengths is not None, "resets": kept.reset is not None, "has_dy": dy is not None}
    dh_n, dc_n = _aligned(stream, dh_n), None if dc_n is None else _aligned(stream, dc_n)
    stream.fill(sums.dgh, 0xFF)
    assert kept.gh is not None
    of_dy = (stream.nothing, 0, 0) if dy is None else (dy, *dy.strides[:2])
    arguments = [
        *(kept.gx, *kept.gx.strides[:2], kept.gh, p.b_ih, p.b_hh, p.w_hh_t(stream), sums.h_prev_all),
        *(address(kept.c_0, stream), address(kept.c_all, stream), *of_dy, dh_n, address(dc_n, stream)),
        *(sums.dgx, sums.dgh, dh_0, address(dc_0, stream), address(kept.lengths, stream), address(kept.reset, stream)),
        *(stream.status(kind(module)), T, int(kept.reverse), SPINS),
    ]
    return _launched(module, p, stream, N, options, arguments)


def _launched(module: Any, p: Prepared, stream: Stream, N: int, options: dict[str, bool], arguments: list[Any]) -> bool:
    """Launch; a kernel that cannot be launched is not tried again on the device."""
    of = p.spec, p.H, N, p.D, stream.device
    try:
        kernel, grid = _planned(module, *of, cuda_precision(), **options)
        stream.launch(kernel, grid, arguments)
    except Exception as error:  # of the compiler or of the driver, which has too few registers, say
        if choice.forced(kind(module)):
            raise
        stream.device.gave_up.add((kind(module), *of[:4]))
        text = str(error).strip().splitlines()
        warnings.warn(
            f"fastrnn is slower here, as {kind(module)} cannot run on {stream.device}: {text[0] if text else error!r}",
            RuntimeWarning,
            stacklevel=4,
        )
        return False
    stream.watch()
    return True


@lru_cache(1000)
def _planned(
    module: Any, spec: CellSpec, H: int, N: int, D: int, device: Device, precision: str, **options: bool
) -> tuple[Kernel, tuple[int, int]]:
    """The kernel for a layer, and its blocks."""
    found: tuple[Kernel, tuple[int, int]] = module.planned(spec, H, N, D, device, precision, **options)
    return found


def _fits(y: Array) -> bool:
    """Whether kernels may poll `y` itself, which they read 16 bytes at once, and all of it can be preset."""
    return y.dense and y.pointer % _ALIGNED == 0 and all(s * y.dtype.itemsize % _ALIGNED == 0 for s in y.strides[:2])


def _aligned(stream: Stream, array: Array) -> Array:
    if array.contiguous and array.pointer % _ALIGNED == 0:
        return array
    copy = stream.empty(array.shape, array.dtype)
    stream.copy(copy, array)
    return copy
