"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import validate
from .optimizer import Optimizer, Options, Update, at_least_0

Array = NDArray[Any]


class SGD(Optimizer):
    """Stochastic gradient descent, with momentum where asked for.

    The equations are those of https://docs.pytorch.org/docs/stable/generated/torch.optim.SGD.html.

    Parameters
    ----------
    params : dict of str to array, or list of dict
        ``layer.parameters()`` or any dict of arrays (float32 or float64, which are changed in place); or groups of
        them, ``{"params": dict, "lr": ...}``, with options of their own.
    lr : float
        Learning rate.
    momentum : float
    dampening : float
        What the gradient is short of 1 in the momentum.
    weight_decay : float
        Times the parameter is added to its gradient.
    nesterov : bool
        Nesterov's momentum; needs momentum and no dampening.
    maximize : bool
        Go up the gradient.

    Raises
    ------
    TypeError, ValueError
        A wrong option; no parameters, one that appears twice, or one that is no writable float32 or float64 array.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> w = {"w": np.array([1.0, 2.0])}
    >>> optimizer = fastrnn.optim.SGD(w, lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.step({"w": np.array([1.0, 0.0])})
    >>> w["w"].round(2)
    array([0.71, 2.  ])
    """

    _state_names = ("momentum_buffer",)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov, "maximize": maximize})

    def _checked(self, options: Options) -> Options:
        checked = {
            "lr": at_least_0("lr", options["lr"], "learning rate"),
            "momentum": at_least_0("momentum", options["momentum"], "momentum value"),
            "dampening": validate.real("dampening", options["dampening"]),
            "weight_decay": at_least_0("weight_decay", options["weight_decay"], "weight_decay value"),
            "nesterov": validate.flag("nesterov", options["nesterov"]),
            "maximize": validate.flag("maximize", options["maximize"]),
        }
        if checked["nesterov"] and (checked["momentum"] <= 0 or checked["dampening"] != 0):
            raise ValueError("Nesterov momentum requires a momentum and zero dampening")
        return checked

    def _update(self, options: Options, p: Array, g: Array, state: dict[str, Array]) -> Update:
        first = "momentum_buffer" not in state
        if first and options["momentum"]:
            state["momentum_buffer"] = np.zeros(p.shape, p.dtype)
        scalars = (
            options["lr"],
            -1 if options["maximize"] else 1,
            options["weight_decay"],
            options["momentum"],
            1 - options["dampening"],
            first,
            options["nesterov"],
        )
        return Update("sgd", (p, g, state["momentum_buffer"] if options["momentum"] else None), scalars)
