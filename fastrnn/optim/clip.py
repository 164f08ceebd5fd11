"""Gradients held to a norm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import validate

Array = NDArray[Any]


def clip_grad_norm(
    grads: Mapping[str, ArrayLike],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> tuple[dict[str, Array], float]:
    """Scale gradients down where their norm, taken over all of them as over one vector, is above `max_norm`.

    What torch's ``clip_grad_norm_`` does, with a result in place of a change: `grads` stay as they are. Where nothing
    is to be scaled the arrays that come back are those that went in [1]_.

    Parameters
    ----------
    grads : mapping of name to array
        As ``backward(...).params``; those that are None are left out.
    max_norm : float
    norm_type : float
        The p of the p-norm; ``math.inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Whether a norm that is infinite or NaN is an error. Otherwise it makes the gradients 0 or NaN, as in torch.

    Returns
    -------
    clipped : dict of name to array
        The gradients times ``min(1, max_norm / (norm + 1e-6))``.
    norm : float
        That of `grads`.

    Raises
    ------
    ValueError
        With `error_if_nonfinite`, where the norm is infinite or NaN.
    TypeError
        An argument is of the wrong kind.

    References
    ----------
    .. [1] `torch's function
       <https://docs.pytorch.org/docs/2.13/generated/torch.nn.utils.clip_grad_norm_.html>`__

    Examples
    --------
    >>> clip_grad_norm({"w": [3.0, 0.0], "b": [4.0]}, max_norm=1.0)
    ({'w': array([0.59999988, 0.        ]), 'b': array([0.79999984])}, 5.0)
    """
    if not isinstance(grads, Mapping):
        raise TypeError(
            f"grads should be a dict of gradients by name, as backward(...).params is, got: {type(grads).__name__}"
        )
    arrays = {name: validate.floating(f"the gradient of {name!r}", g) for name, g in grads.items() if g is not None}
    most, order = validate.real("max_norm", max_norm), validate.real("norm_type", norm_type)
    error_if_nonfinite = validate.flag("error_if_nonfinite", error_if_nonfinite)
    with np.errstate(all="ignore"):
        norms = [float(np.linalg.norm(array.reshape(-1), order)) for array in arrays.values() if array.size]
        norm = float(np.linalg.norm(norms, order)) if norms else 0.0
        if error_if_nonfinite and not math.isfinite(norm):
            raise ValueError(
                f"The total norm of order {order} for gradients from `parameters` is non-finite, so it cannot be "
                "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
                "`error_if_nonfinite=False`"
            )
        scale = most / (norm + 1e-6)
        clipped = arrays if scale >= 1 else {name: array * array.dtype.type(scale) for name, array in arrays.items()}
    return clipped, norm
