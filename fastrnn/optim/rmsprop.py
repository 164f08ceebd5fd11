"""RMSprop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import validate
from .optimizer import Optimizer, Options, Update, at_least_0

Array = NDArray[Any]


class RMSprop(Optimizer):
    """RMSprop: steps of the gradient over the root of its running mean square.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.optim.RMSprop.html.

    Parameters
    ----------
    params : dict of str to array, or list of dict
        As of `SGD`.
    lr : float
        Learning rate.
    alpha : float
        How much of the running mean is kept from step to step.
    eps : float
        Added to the root.
    weight_decay : float
        Times the parameter is added to its gradient.
    momentum : float
    centered : bool
        Divide by the root of the running variance, that is without the square of the running mean.
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
    >>> fastrnn.optim.RMSprop(w, lr=0.1).step({"w": np.array([5.0, 0.0])})
    >>> w["w"].round(3)
    array([0., 2.])
    """

    _state_names = ("step", "square_avg", "momentum_buffer", "grad_avg")

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__(params, {**options, "centered": centered, "maximize": maximize})

    def _checked(self, options: Options) -> Options:
        return {
            "lr": at_least_0("lr", options["lr"], "learning rate"),
            "alpha": at_least_0("alpha", options["alpha"], "alpha value"),
            "eps": at_least_0("eps", options["eps"], "epsilon value"),
            "weight_decay": at_least_0("weight_decay", options["weight_decay"], "weight_decay value"),
            "momentum": at_least_0("momentum", options["momentum"], "momentum value"),
            "centered": validate.flag("centered", options["centered"]),
            "maximize": validate.flag("maximize", options["maximize"]),
        }

    def _update(self, options: Options, p: Array, g: Array, state: dict[str, Array]) -> Update:
        momentum = options["momentum"]
        wanted = {"step": True, "square_avg": True, "momentum_buffer": momentum > 0, "grad_avg": options["centered"]}
        for name in self._state_names:
            if wanted[name] and name not in state:
                state[name] = np.zeros((), np.float32) if name == "step" else np.zeros(p.shape, p.dtype)
        state["step"] += 1
        alpha = options["alpha"]
        scalars = (
            options["lr"],
            -1 if options["maximize"] else 1,
            options["weight_decay"],
            alpha,
            1 - alpha,
            momentum,
            options["eps"],
        )
        return Update(
            "rmsprop", (p, g, *(state[name] if wanted[name] else None for name in self._state_names[1:])), scalars
        )
