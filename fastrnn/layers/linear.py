"""Linear: a matrix product and a bias."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..product import Matrix, column_sums, sum_outer
from .base import Layer
from .leaf import Leaf, Traced, kept

Array = NDArray[Any]


class Linear(Layer, Leaf):
    """``y = x W^T + b`` [1]_.

    Parameters
    ----------
    in_features, out_features : int
        Features of the input (I) and of the result (O).
    bias : bool
        Whether there is ``bias``.
    dtype : float32 or float64
    device : "cpu"
    rng : int, numpy.random.Generator or None
        Draws the initial parameters, uniform in ±1/sqrt(I).

    Attributes
    ----------
    weight, bias : ndarray (O, I), (O,)
        ``bias`` is None where there is none.

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.Linear.html

    Examples
    --------
    >>> import fastrnn
    >>> fastrnn.Linear(3, 2)([[1, 2, 3]]).shape
    (1, 2)
    """

    _fixed = ("in_features", "out_features", "bias")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        self.in_features = validate.size("in_features", in_features)
        self.out_features = validate.size("out_features", out_features)
        shapes: dict[str, tuple[int, ...]] = {"weight": (out_features, in_features)}
        if validate.flag("bias", bias):
            shapes["bias"] = (out_features,)
        else:
            self.bias = None
        super().__init__(shapes, dtype=dtype, device=device, rng=rng)

    def _init_bound(self) -> float:
        return 1 / math.sqrt(self.in_features)

    def forward(self, x: ArrayLike) -> Array:
        """Apply the layer along the last axis.

        Parameters
        ----------
        x : (..., I)
            Any real numbers; cast to the layer's dtype.

        Returns
        -------
        (..., O)

        Raises
        ------
        TypeError, ValueError
            `x` is not as described.
        """
        return self._product(self._checked(x))

    def _trace(self, x: ArrayLike) -> Traced:
        x = kept(self._checked(x))
        return Traced(self._product(x), self._d_x, lambda dy: self._d_params(x, dy))

    def _product(self, x: Array) -> Array:
        matrix: Matrix = self._once("forward", lambda: Matrix(self.weight, self.bias))
        return matrix(x)

    def _d_x(self, dy: Array) -> Array:
        matrix: Matrix = self._once("backward", lambda: Matrix(self.weight, transposed=True))
        return matrix(dy)

    def _d_params(self, x: Array, dy: Array) -> dict[str, Array]:
        gradients = {"weight": sum_outer(dy, x)}
        return gradients if self.bias is None else gradients | {"bias": column_sums(dy)}

    def _checked(self, x: ArrayLike) -> Array:
        x = validate.real_array("x", x, self._dtype)
        if x.ndim == 0:
            raise ValueError("both arguments to linear need to be at least 1D, but they are 0D and 2D")
        if x.shape[-1] != self.in_features:
            rows = int(np.prod(x.shape[:-1], dtype=np.intp))
            raise ValueError(
                f"mat1 and mat2 shapes cannot be multiplied ({rows}x{x.shape[-1]} and "
                f"{self.in_features}x{self.out_features}): x should have {self.in_features} features, got: {x.shape}"
            )
        return x

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
