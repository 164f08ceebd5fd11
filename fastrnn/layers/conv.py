"""Convolutions: matrix products with what is under the kernel at each of its places."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..product import column_sums
from .base import Layer
from .conv_kernel import Depthwise, Kernel
from .conv_stream import ConvStream
from .leaf import Leaf, Traced
from .windows import MODES, Windows

Array = NDArray[Any]


class ConvNd(Layer, Leaf):
    """A convolution along one or more axes. Not constructed by users."""

    _fixed = (
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
        "padding_mode",
    )
    _ndim: int

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, ...],
        stride: int | tuple[int, ...] = 1,
        padding: int | tuple[int, ...] | str = 0,
        dilation: int | tuple[int, ...] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        self.in_channels = validate.size("in_channels", in_channels)
        self.out_channels = validate.size("out_channels", out_channels)
        self.kernel_size = self._along_axes("kernel_size", kernel_size)
        if min(self.kernel_size) <= 0:
            raise ValueError(f"kernel_size must be greater than zero, got: {kernel_size}")
        self.stride, self.dilation = self._along_axes("stride", stride), self._along_axes("dilation", dilation)
        for name, value in (("stride", self.stride), ("dilation", self.dilation)):
            if min(value) <= 0:
                raise ValueError(f"non-positive {name} is not supported, got: {name}={value}")
        self.groups = validate.integer("groups", groups)
        if groups <= 0:
            raise ValueError(f"groups must be a positive integer, got: {groups}")
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"{name} must be divisible by groups, got: {channels} and {groups}")
        if not isinstance(padding_mode, str) or padding_mode not in ("zeros", *MODES):
            known = {"zeros", *MODES}
            raise ValueError(f"padding_mode must be one of {known}, but got padding_mode={padding_mode!r}")
        self.padding, self.padding_mode = self._checked_padding(padding), padding_mode
        self._windows = self._as_windows()
        shapes = {"weight": (out_channels, in_channels // groups, *self.kernel_size)}
        if validate.flag("bias", bias):
            shapes["bias"] = (out_channels,)
        else:
            self.bias = None
        super().__init__(shapes, dtype=dtype, device=device, rng=rng)

    def _along_axes(self, name: str, value: Any) -> tuple[int, ...]:
        """One integer for each axis."""
        n = self._ndim
        values = tuple(value) if isinstance(value, tuple | list) else (value,) * n
        values = tuple(validate.integer(name, v) for v in values)
        if len(values) != n:
            raise ValueError(
                f"expected {name} to be a single integer value or a list of {n} values to match the convolution "
                f"dimensions, but got {name}={list(values)}"
            )
        return values

    def _checked_padding(self, padding: Any) -> tuple[int, ...] | str:
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of {{'same', 'valid'}}")
            if padding == "same" and max(self.stride) > 1:
                raise ValueError("padding='same' is not supported for strided convolutions")
            return padding
        values = self._along_axes("padding", padding)
        if min(values) < 0:
            raise ValueError(f"negative padding is not supported, got: padding={values}")
        return values

    def _as_windows(self) -> Windows:
        before = after = (0,) * self._ndim
        if self.padding == "same":
            total = tuple((k - 1) * d for k, d in zip(self.kernel_size, self.dilation, strict=True))
            before = tuple(t // 2 for t in total)
            after = tuple(t - b for t, b in zip(total, before, strict=True))
        elif isinstance(self.padding, tuple):
            before = after = self.padding
        return Windows(self.kernel_size, self.stride, self.dilation, before, after, self.padding_mode)

    def _init_bound(self) -> float:
        return 1 / math.sqrt(self.in_channels // self.groups * math.prod(self.kernel_size))

    def forward(self, x: ArrayLike) -> Array:
        """Convolve.

        Parameters
        ----------
        x : (N, C, \\*S), or (C, \\*S)
            S stands for one size, of `Conv2d` two. Any real numbers; cast to the layer's dtype.

        Returns
        -------
        (N, out_channels, \\*O), or (out_channels, \\*O)
            In memory the channels may lie side by side.

        Raises
        ------
        TypeError, ValueError
            `x` is not as described, or too small.
        """
        x = self._checked(x)
        y = self._convolved(self._padded(x))
        return y if x.ndim > self._ndim + 1 else y[0]

    def _trace(self, x: ArrayLike) -> Traced:
        x = self._checked(x)
        padded, sizes, batched = self._padded(x), x.shape[-self._ndim :], x.ndim > self._ndim + 1
        y = self._convolved(padded)

        def rows(dy: Array) -> Array:
            """(N, *O, channels)."""
            return np.ascontiguousarray(np.moveaxis(dy if batched else dy[None], 1, -1))

        def d_x(dy: Array) -> Array:
            dx = self._d_x(rows(dy), sizes)
            return dx if batched else dx[0]

        return Traced(y if batched else y[0], d_x, lambda dy: self._d_params(padded, rows(dy)))

    # Below, P are the axes with padding, O those of the result; G kernels have C / G channels each.

    def _padded(self, x: Array) -> Array:
        """(N, C, *S) or (C, *S) -> (G, N, *P, C / G)."""
        G, sizes = len(self._kernels()), x.shape[-self._ndim :]
        N = len(x) if x.ndim > self._ndim + 1 else 1
        x = x.reshape(N, G, self.in_channels // G, *sizes)
        return self._windows.pad(np.moveaxis(x, (1, 2), (0, -1)))

    def _convolved(self, padded: Array) -> Array:
        """(G, N, *P, C / G) -> (N, out_channels, *O)."""
        places = self._windows.places(padded.shape[2:-1])
        y = np.empty((padded.shape[1], *places, self.out_channels), self._dtype)
        for kernel, part, out in zip(self._kernels(), padded, self._by_group(y), strict=True):
            kernel.apply(part, out)
        return np.moveaxis(y, -1, 1)

    def _d_x(self, dy: Array, sizes: tuple[int, ...]) -> Array:
        """(N, *O, out_channels) -> (N, C, *S)."""
        kernels = self._kernels()
        channels = self.in_channels // len(kernels)
        d_padded = np.zeros((len(kernels), len(dy), *self._windows.padded_sizes(sizes), channels), dy.dtype)
        for kernel, part, out in zip(kernels, self._by_group(dy), d_padded, strict=True):
            kernel.d_padded(part, out)
        dx = np.moveaxis(self._windows.unpad(d_padded, sizes), (0, -1), (1, 2))
        return dx.reshape(len(dy), self.in_channels, *sizes)

    def _d_params(self, padded: Array, dy: Array) -> dict[str, Array]:
        """From (G, N, *P, C / G) and (N, *O, out_channels)."""
        parts = zip(self._kernels(), padded, self._by_group(dy), strict=True)
        d_weight = np.concatenate([kernel.d_weight(part, d) for kernel, part, d in parts])
        gradients = {"weight": np.ascontiguousarray(d_weight)}
        return gradients if self.bias is None else gradients | {"bias": column_sums(dy)}

    def _by_group(self, y: Array) -> list[Array]:
        """Parts of the last axis, a view for each kernel."""
        return np.split(y, len(self._kernels()), axis=-1)

    def _kernels(self) -> list[Kernel | Depthwise]:
        found: list[Kernel | Depthwise] = self._once("kernels", self._new_kernels)
        return found

    def _new_kernels(self) -> list[Kernel | Depthwise]:
        w, b, G = self.weight, self.bias, self.groups
        if G > 1 and w.shape[1] == 1:
            return [Depthwise(self._windows, w, b, G)]
        biases = [None] * G if b is None else np.split(b, G)
        return [Kernel(self._windows, *both) for both in zip(np.split(w, G), biases, strict=True)]

    def _checked(self, x: ArrayLike) -> Array:
        x = validate.real_array("x", x, self._dtype)
        n = self._ndim
        if x.ndim not in (n + 1, n + 2):
            raise ValueError(
                f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to conv{n}d, "
                f"but got input of size: {list(x.shape)}"
            )
        sizes, channels = x.shape[-n:], x.shape[-n - 1]
        if channels != self.in_channels:
            raise ValueError(
                f"Given groups={self.groups}, weight of size {list(self.weight.shape)}, expected "
                f"input{[*([] if x.ndim == n + 2 else [1]), *x.shape]} to have {self.in_channels} channels, "
                f"but got {channels} channels instead"
            )
        self._check_sizes(x, sizes)
        return x

    def _check_sizes(self, x: Array, sizes: tuple[int, ...]) -> None:
        windows = self._windows
        for axis, (size, before, after) in enumerate(zip(sizes, windows.before, windows.after, strict=True)):
            if self.padding_mode == "reflect" and max(before, after) >= max(size, 1):
                raise ValueError(
                    "Argument #4: Padding size should be less than the corresponding input dimension, but got: padding "
                    f"({before}, {after}) at dimension {x.ndim - self._ndim + axis} of input {list(x.shape)}"
                )
            if self.padding_mode == "circular" and max(before, after) > size:
                raise ValueError(
                    f"Padding value causes wrapping around more than once, got: padding ({before}, {after}) "
                    f"of input {list(x.shape)}"
                )
        padded, spans = windows.padded_sizes(sizes), windows.spans
        if any(p < w for p, w in zip(padded, spans, strict=True)):
            raise ValueError(
                f"Calculated padded input size per channel: ({' x '.join(map(str, padded))}). "
                f"Kernel size: ({' x '.join(map(str, spans))}). Kernel size can't be greater than actual input size"
            )
        if 0 in sizes:
            raise ValueError(
                f"Only zero batch or zero channel inputs are supported, but got input shape: {list(x.shape)}"
            )

    def extra_repr(self) -> str:
        n = self._ndim
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        text += f", padding={self.padding}" if self.padding != (0,) * n else ""
        text += f", dilation={self.dilation}" if self.dilation != (1,) * n else ""
        text += f", groups={self.groups}" if self.groups != 1 else ""
        text += ", bias=False" if self.bias is None else ""
        return text + (f", padding_mode={self.padding_mode}" if self.padding_mode != "zeros" else "")


class Conv1d(ConvNd):
    """A convolution along the last axis [1]_.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input (C) and of the result (O).
    kernel_size : int
        Steps under the kernel (K).
    stride : int
        Steps from one place of the kernel to the next.
    padding : int, "valid" or "same"
        Steps added at either end: none where "valid"; with "same" the result is as long as the input.
    dilation : int
        Steps between neighbours under the kernel.
    groups : int
        The channels fall into as many groups, each convolved on its own.
    bias : bool
        Whether there is ``bias``.
    padding_mode : "zeros", "reflect", "replicate" or "circular"
        What is added: zeros, the input mirrored at its ends, its outermost step, or its other end.
    dtype : float32 or float64
    device : "cpu"
    rng : int, numpy.random.Generator or None
        Draws the initial parameters, uniform in ±1/sqrt(C/groups K).

    Attributes
    ----------
    weight, bias : ndarray (O, C/groups, K), (O,)
        ``bias`` is None where there is none.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    Notes
    -----
    Of `kernel_size`, `stride`, `padding` and `dilation` a tuple of one integer is taken too.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Conv1d.html

    Examples
    --------
    >>> import fastrnn, numpy as np
    >>> fastrnn.Conv1d(3, 5, 4, stride=2)(np.zeros((2, 3, 20))).shape
    (2, 5, 9)
    """

    _ndim = 1

    def stream(self, batch_size: int = 1) -> ConvStream:
        """Convolve step by step, from the past only: what came before the first step counts as zeros.

        The results are those of a call with ``dilation * (kernel_size - 1)`` zeros before the first step, to the last
        bit, in whatever chunks the steps come.

        Parameters
        ----------
        batch_size : int
            Rows that run side by side (N).

        Returns
        -------
        ConvStream

        Raises
        ------
        TypeError, ValueError
            `batch_size` is not as described, or the layer has padding.

        Examples
        --------
        >>> import fastrnn, numpy as np
        >>> layer, x = fastrnn.Conv1d(3, 5, 4, dilation=2), np.ones((1, 3, 20))
        >>> stream = layer.stream()
        >>> y = np.concatenate([stream.process(chunk) for chunk in np.split(x, 4, axis=2)], axis=2)
        >>> np.array_equal(y, layer(np.pad(x, ((0, 0), (0, 0), (2 * 3, 0)))))
        True
        """
        if self.padding not in ((0,), "valid"):
            raise ValueError(
                "padding should be 0 for a stream, which takes zeros for what came before the first step, "
                f"got: padding={self.padding}"
            )
        return ConvStream(self._windows, self._kernels(), self.in_channels, self._dtype, batch_size)


class Conv2d(ConvNd):
    """A convolution along the last two axes [1]_.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels of the input (C) and of the result (O).
    kernel_size, stride, dilation : int, or one int for each axis
        As for `Conv1d`.
    padding : int, one int for each axis, "valid" or "same"
        As for `Conv1d`.
    groups : int
        The channels fall into as many groups, each convolved on its own.
    bias : bool
        Whether there is ``bias``.
    padding_mode : "zeros", "reflect", "replicate" or "circular"
        As for `Conv1d`.
    dtype : float32 or float64
    device : "cpu"
    rng : int, numpy.random.Generator or None
        Draws the initial parameters, uniform in ±1/sqrt(C/groups K0 K1).

    Attributes
    ----------
    weight, bias : ndarray (O, C/groups, K0, K1), (O,)
        ``bias`` is None where there is none.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Conv2d.html

    Examples
    --------
    >>> import fastrnn, numpy as np
    >>> fastrnn.Conv2d(3, 5, (3, 5), padding="same")(np.zeros((2, 3, 20, 30))).shape
    (2, 5, 20, 30)
    """

    _ndim = 2
