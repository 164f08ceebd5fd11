"""BatchNorm1d: each channel of a batch, or of all so far, with mean 0 and variance 1."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..product import column_sums
from .base import UNSET
from .leaf import Traced
from .module import Module
from .norm import Norm, number

Array = NDArray[Any]


def _momentum(value: Any) -> float | None:
    return None if value is None else number("momentum", value)


class BatchNorm1d(Norm):
    """Each channel less its mean, over its standard deviation, times `weight` and plus `bias` [1]_.

    In training mode, mean and variance are those of the batch, and each call, also that of `vjp`, takes them into the
    running ones. In evaluation mode, in which layers start, they are the running ones.

    Parameters
    ----------
    num_features : int
        Channels (C).
    eps : float
        Added to the variance.
    momentum : float or None
        The part that a batch has in the running mean and variance; None: all batches so far have the same.
    affine : bool
        Whether there are ``weight`` and, with `bias`, ``bias``.
    track_running_stats : bool
        Whether there are a running mean and variance; if not, those of the batch are taken in evaluation mode too.
    bias : bool
    dtype : float32 or float64
    device : "cpu"
    rng : int, numpy.random.Generator or None
        As other layers have it; nothing is drawn.

    Attributes
    ----------
    weight, bias : ndarray (C,)
        None where there is none.
    running_mean, running_var : ndarray (C,)
        The latter of the batches' variances with ``n - 1`` for ``n``. None where there are none.
    num_batches_tracked : ndarray ()
        How many batches they are of.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.BatchNorm1d.html

    Examples
    --------
    >>> import fastrnn
    >>> layer = fastrnn.BatchNorm1d(2, momentum=None).train()
    >>> layer([[1, 0], [3, 0]]).round(3)
    array([[-1.,  0.],
           [ 1.,  0.]], dtype=float32)
    >>> layer.running_mean, layer.running_var
    (array([2., 0.], dtype=float32), array([2., 0.], dtype=float32))
    """

    _fixed = ("num_features", "affine", "track_running_stats", "weight", "bias")
    _checks: ClassVar = {**Module._checks, "eps": lambda value: number("eps", value), "momentum": _momentum}

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        self.num_features = validate.size("num_features", num_features)
        self.eps, self.momentum = eps, momentum
        self.affine = validate.flag("affine", affine)
        self.track_running_stats = validate.flag("track_running_stats", track_running_stats)
        shapes = self._own((num_features,), affine, validate.flag("bias", bias))
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            if not track_running_stats:
                self.__dict__[name] = None
            elif name != "num_batches_tracked":
                zeros = np.broadcast_to(np.zeros((), validate.dtype(dtype)), num_features)
                self._buffers[name] = zeros if rng is UNSET else zeros.copy()
            else:
                self._buffers[name] = np.zeros((), np.int64)
        if rng is not UNSET:
            self.reset_running_stats()
        super().__init__(shapes, dtype=dtype, device=device, rng=rng)

    def reset_running_stats(self) -> None:
        """Begin the running mean and variance anew: 0 and 1, of no batch."""
        for name, array in self._buffers.items():
            array[...] = name == "running_var"

    def reset_parameters(self, rng: Any = None) -> None:
        """Set `weight` to ones and `bias` to zeros, and begin the running mean and variance anew.

        Parameters
        ----------
        rng : int, numpy.random.Generator or None
            As other layers have it; nothing is drawn.
        """
        self.reset_running_stats()
        super().reset_parameters(rng)

    def forward(self, x: ArrayLike) -> Array:
        """Normalize each channel; in training mode, change the running mean and variance too.

        Parameters
        ----------
        x : (N, C) or (N, C, L)
            Any real numbers; cast to the layer's dtype.

        Returns
        -------
        array of the same shape

        Raises
        ------
        TypeError, ValueError
            `x` is not as described, or has one value of each channel only, which has no variance.
        """
        x = self._checked(x)
        if self._of_batch:
            return self._trace(x).y
        with np.errstate(all="ignore"):  # NaN and inf travel without a word
            factor = self._factor(self.running_var)
            scale = factor if self.weight is None else factor * self.weight
            shift = -self.running_mean * scale
            y: Array = x * _along(scale, x)
            y += _along(shift if self.bias is None else shift + self.bias, x)
        return y

    def _trace(self, x: ArrayLike) -> Traced:
        x, of_batch = self._checked(x), self._of_batch
        with np.errstate(all="ignore"):
            if of_batch:
                normal, var = self._centred(x)
                factor = self._factor(var)
                normal *= _along(factor, x)
                y = normal if self.weight is None else normal * _along(self.weight, x)
                y = y + _along(self.bias, x) if self.bias is not None else y.copy() if y is normal else y
            else:
                y, factor = self.forward(x), self._factor(self.running_var)
                normal = (x - _along(self.running_mean, x)) * _along(factor, x)
            scale = factor if self.weight is None else factor * self.weight

        def d_x(dy: Array) -> Array:
            with np.errstate(all="ignore"):
                if of_batch and normal.size:
                    count = dy.dtype.type(normal.size // len(factor))
                    dy = dy - normal * _along(_sums(dy * normal) / count, normal)
                    dy -= _along(_sums(dy) / count, normal)
                return np.asarray(dy * _along(scale, normal))

        def d_params(dy: Array) -> dict[str, Array]:
            with np.errstate(all="ignore"):
                return {name: _sums(dy * normal if name == "weight" else dy) for name in self._params}

        return Traced(y, d_x, d_params)

    @property
    def _of_batch(self) -> bool:
        """Whether mean and variance are those of the batch."""
        return self.training or not self.track_running_stats

    def _factor(self, var: Array) -> Array:
        return np.asarray(1 / np.sqrt(var + var.dtype.type(self.eps)))

    def _centred(self, x: Array) -> tuple[Array, Array]:
        """The input less its mean, and its variance; takes both into the running ones."""
        count = x.size // self.num_features
        if count:
            mean = _sums(x) / x.dtype.type(count)
            centred = x - _along(mean, x)
            var = _sums(np.square(centred)) / x.dtype.type(count)
        else:
            mean, centred, var = np.zeros(self.num_features), x.copy(), np.ones(self.num_features, x.dtype)
        if self.track_running_stats:
            self.num_batches_tracked[...] += 1
            if count:
                part = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                for running, new in ((self.running_mean, mean), (self.running_var, var * (count / (count - 1)))):
                    running[...] = (1 - part) * running + part * new
        return centred, var

    def _checked(self, x: ArrayLike) -> Array:
        x = validate.real_array("x", x, self._dtype)
        if x.ndim not in (2, 3):
            raise ValueError(f"expected 2D or 3D input (got {x.ndim}D input)")
        if x.shape[1] != self.num_features:
            name = "running_mean" if self.track_running_stats else "weight"
            raise ValueError(
                f"{name} should contain {x.shape[1]} elements not {self.num_features}: x should have "
                f"{self.num_features} channels, got: shape {x.shape}"
            )
        if self._of_batch and x.size == x.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        return x

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


def _along(channels: Array, x: Array) -> Array:
    """(C,) as what goes with (N, C) or (N, C, L)."""
    return channels if x.ndim == 2 else channels[:, None]


def _sums(x: Array) -> Array:
    """(N, C) or (N, C, L) -> (C,)."""
    if x.ndim == 3 and x.strides[2] == x.itemsize:
        return np.asarray(np.add.reduce(np.add.reduce(x, 2), 0, dtype=np.float64).astype(x.dtype))
    return column_sums(np.moveaxis(x, 1, -1))
