"""Adam, and AdamW, whose weight decay is not a part of the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import validate
from .optimizer import Optimizer, Options, Update, at_least_0

Array = NDArray[Any]


class Adam(Optimizer):
    """Adam: steps of the gradient's running mean over the root of its running mean square.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.optim.Adam.html.

    Parameters
    ----------
    params : dict of str to array, or list of dict
        As of `SGD`.
    lr : float
        Learning rate.
    betas : pair of float
        How much of the running means of the gradient and of its square is kept from step to step.
    eps : float
        Added to the root.
    weight_decay : float
        Times the parameter is added to its gradient.
    amsgrad : bool
        Divide by the root of the largest mean square so far.
    maximize : bool
        Go up the gradient.

    Raises
    ------
    TypeError, ValueError
        As of `SGD`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> w = {"w": np.array([1.0, 2.0])}
    >>> fastrnn.optim.Adam(w, lr=0.1).step({"w": np.array([5.0, 0.0])})
    >>> w["w"].round(3)
    array([0.9, 2. ])
    """

    _state_names = ("step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
    _decoupled = False

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "amsgrad": amsgrad, "maximize": maximize})

    def _checked(self, options: Options) -> Options:
        return {
            "lr": at_least_0("lr", options["lr"], "learning rate"),
            "betas": _betas(options["betas"]),
            "eps": at_least_0("eps", options["eps"], "epsilon value"),
            "weight_decay": at_least_0("weight_decay", options["weight_decay"], "weight_decay value"),
            "amsgrad": validate.flag("amsgrad", options["amsgrad"]),
            "maximize": validate.flag("maximize", options["maximize"]),
        }

    def _update(self, options: Options, p: Array, g: Array, state: dict[str, Array]) -> Update:
        for name in self._state_names[: 4 if options["amsgrad"] else 3]:
            if name not in state:
                state[name] = np.zeros((), np.float32) if name == "step" else np.zeros(p.shape, p.dtype)
        state["step"] += 1
        step, (beta1, beta2) = float(state["step"]), options["betas"]
        lr, decay = options["lr"], options["weight_decay"]
        # lr / c1 * m / (sqrt(v) / c2 + eps), with c2 multiplied out of the sum.
        c1, c2 = 1 - beta1**step, (1 - beta2**step) ** 0.5
        largest = state["max_exp_avg_sq"] if options["amsgrad"] else None
        scalars = (
            lr * c2 / c1,
            -1 if options["maximize"] else 1,
            0.0 if self._decoupled else decay,
            1 - lr * decay if self._decoupled else 1.0,
            1 - beta1,
            beta2,
            1 - beta2,
            options["eps"] * c2,
        )
        return Update("adam", (p, g, state["exp_avg"], state["exp_avg_sq"], largest), scalars)


class AdamW(Adam):
    """Adam with the weight decay taken off the parameter itself: ``p *= 1 - lr * weight_decay`` before the step.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.optim.AdamW.html.

    Parameters
    ----------
    params, lr, betas, eps, amsgrad, maximize
        As of `Adam`.
    weight_decay : float
        Times the learning rate.

    Raises
    ------
    TypeError, ValueError
        As of `SGD`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> w = {"w": np.array([1.0, 2.0])}
    >>> fastrnn.optim.AdamW(w, lr=0.1, weight_decay=0.5).step({"w": np.array([5.0, 0.0])})
    >>> w["w"].round(3)
    array([0.85, 1.9 ])
    """

    _decoupled = True

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize)


def _betas(betas: Any) -> tuple[float, float]:
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas should be a pair of real numbers, got: {betas!r}")
    for i, beta in enumerate(betas):
        if not 0 <= validate.real("betas", beta) < 1:
            raise ValueError(f"Invalid beta parameter at index {i}: {beta}")
    return float(betas[0]), float(betas[1])
