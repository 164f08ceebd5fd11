"""Learning rates that change as training goes on, with torch's names, arguments, arithmetic and state dicts.

Each sets ``group["lr"]`` of an optimizer's groups, going on from what is there. Call `step` once an epoch, after the
optimizer's steps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from .. import validate
from .optimizer import Optimizer

__all__ = ["CosineAnnealingLR", "ExponentialLR", "MultiStepLR", "ReduceLROnPlateau", "StepLR"]


class _Scheduler:
    """What all have: the optimizer, the epoch, the state. The other attributes are the state, under torch's names."""

    def __init__(self, optimizer: Optimizer, last_epoch: int) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        self.last_epoch = last_epoch
        self._last_lr = [float(group["lr"]) for group in optimizer.param_groups]

    def get_last_lr(self) -> list[float]:
        """The learning rate of each group after the last step."""
        return list(self._last_lr)

    def state_dict(self) -> dict[str, Any]:
        """The state in torch's layout: all that there is but the optimizer, whose own state has the learning rates."""
        state = {key: value for key, value in vars(self).items() if key != "optimizer"}
        return {key: list(value) if isinstance(value, list) else value for key, value in state.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where another scheduler of the same kind, of fastrnn or torch, was when its state was taken.

        Load the optimizer's state as well: the learning rates are there.

        Raises
        ------
        TypeError, ValueError
            No such dict, or one of another number of groups; nothing is changed then.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict should be a dict, as state_dict() gives it, got: {type(state_dict).__name__}")
        own = self.state_dict()
        if missing := [key for key in own if key not in state_dict and not key.startswith("_")]:
            raise ValueError(f"state_dict should have {', '.join(own)}; it lacks {', '.join(missing)}")
        new = {key: state_dict[key] for key in own if key in state_dict}
        for key, value in own.items():
            if isinstance(value, list) and key in new and len(new[key]) != len(value):
                raise ValueError(f"state_dict should have {len(value)} values of {key}, got: {new[key]}")
        self.__dict__.update(
            {key: list(value) if isinstance(value, list | tuple) else value for key, value in new.items()}
        )


class _ByEpoch(_Scheduler):
    """Those whose rates depend on the epoch alone."""

    def __init__(self, optimizer: Optimizer, last_epoch: int) -> None:
        super().__init__(optimizer, validate.integer("last_epoch", last_epoch))
        for i, group in enumerate(optimizer.param_groups):
            if last_epoch != -1 and "initial_lr" not in group:
                raise ValueError(
                    f"param 'initial_lr' is not specified in param_groups[{i}] when resuming scheduler with "
                    "last_epoch >= 0: load the optimizer's state first"
                )
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", float(group["lr"]))
        self.base_lrs = [float(group["initial_lr"]) for group in optimizer.param_groups]
        self._step_count = 0
        self._next(is_initial=True)

    def step(self) -> None:
        """One epoch more."""
        self._next(is_initial=False)

    def _next(self, is_initial: bool) -> None:
        self._step_count += 1
        self.last_epoch += 1
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = self._lr(float(group["lr"]), base, is_initial)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _lr(self, lr: float, base: float, is_initial: bool) -> float:
        """The rate at `last_epoch`, where it was `lr` at the epoch before and `base` at first."""
        raise NotImplementedError


class StepLR(_ByEpoch):
    """The rate times `gamma` every `step_size` epochs.

    See https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.StepLR.html.

    Parameters
    ----------
    optimizer : Optimizer
    step_size : int
    gamma : float
    last_epoch : int
        The epoch that was last, where training goes on with a new scheduler; -1: there was none.

    Raises
    ------
    TypeError, ValueError
        A wrong argument; or with `last_epoch` an optimizer that has had no scheduler.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> optimizer = fastrnn.optim.SGD({"w": np.ones(2)}, lr=1.0)
    >>> schedule = fastrnn.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates += schedule.get_last_lr()              # and a training epoch
    ...     schedule.step()
    >>> np.round(rates, 4)
    array([1.  , 1.  , 0.1 , 0.1 , 0.01])
    """

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> None:
        self.step_size = validate.size("step_size", step_size)
        self.gamma = validate.real("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _lr(self, lr: float, base: float, is_initial: bool) -> float:
        return lr if self.last_epoch == 0 or self.last_epoch % self.step_size else lr * self.gamma


class MultiStepLR(_ByEpoch):
    """The rate times `gamma` at each of the `milestones`.

    See https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.MultiStepLR.html.

    Parameters
    ----------
    optimizer : Optimizer
    milestones : iterable of int
        Epochs, in any order; one that is there twice counts twice.
    gamma, last_epoch
        As of `StepLR`.

    Raises
    ------
    TypeError, ValueError
        As of `StepLR`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> optimizer = fastrnn.optim.SGD({"w": np.ones(2)}, lr=1.0)
    >>> schedule = fastrnn.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[1, 3])
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates += schedule.get_last_lr()
    ...     schedule.step()
    >>> np.round(rates, 4)
    array([1.  , 0.1 , 0.1 , 0.01, 0.01])
    """

    def __init__(
        self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        if not isinstance(milestones, Iterable):
            raise TypeError(f"milestones should be a list of int, got: {type(milestones).__name__}")
        self.milestones = dict(Counter(validate.integer("milestones", epoch) for epoch in milestones))
        self.gamma = validate.real("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _lr(self, lr: float, base: float, is_initial: bool) -> float:
        times = self.milestones.get(self.last_epoch)
        return lr if times is None else lr * self.gamma**times


class ExponentialLR(_ByEpoch):
    """The rate times `gamma` every epoch.

    See https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ExponentialLR.html.

    Parameters
    ----------
    optimizer : Optimizer
    gamma, last_epoch
        As of `StepLR`.

    Raises
    ------
    TypeError, ValueError
        As of `StepLR`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> optimizer = fastrnn.optim.SGD({"w": np.ones(2)}, lr=1.0)
    >>> schedule = fastrnn.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    >>> schedule.step()
    >>> schedule.get_last_lr()
    [0.5]
    """

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        self.gamma = validate.real("gamma", gamma)
        super().__init__(optimizer, last_epoch)

    def _lr(self, lr: float, base: float, is_initial: bool) -> float:
        return lr if is_initial else lr * self.gamma


class CosineAnnealingLR(_ByEpoch):
    """The rate falls from where it is to `eta_min` in `T_max` epochs along half a wave of the cosine, and back.

    See https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.CosineAnnealingLR.html.

    Parameters
    ----------
    optimizer : Optimizer
    T_max : int
    eta_min : float
    last_epoch : int
        As of `StepLR`.

    Raises
    ------
    TypeError, ValueError
        As of `StepLR`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> optimizer = fastrnn.optim.SGD({"w": np.ones(2)}, lr=1.0)
    >>> schedule = fastrnn.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4)
    >>> rates = []
    >>> for epoch in range(5):
    ...     rates += schedule.get_last_lr()
    ...     schedule.step()
    >>> np.round(rates, 3)
    array([1.   , 0.854, 0.5  , 0.146, 0.   ])
    """

    def __init__(self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1) -> None:
        self.T_max = validate.size("T_max", T_max)
        self.eta_min = validate.real("eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def _lr(self, lr: float, base: float, is_initial: bool) -> float:
        # The same operations as torch's, in its order: rates are equal to the last bit.
        epoch, T, low = self.last_epoch, self.T_max, self.eta_min
        if is_initial:
            return lr
        if self._step_count == 1 and epoch > 0:
            return low + (base - low) * (1 + math.cos(epoch * math.pi / T)) / 2
        if (epoch - 1 - T) % (2 * T) == 0:
            return lr + (base - low) * (1 - math.cos(math.pi / T)) / 2
        return (1 + math.cos(math.pi * epoch / T)) / (1 + math.cos(math.pi * (epoch - 1) / T)) * (lr - low) + low


class ReduceLROnPlateau(_Scheduler):
    """The rate times `factor` where a metric has not got better for more than `patience` epochs.

    See https://docs.pytorch.org/docs/stable/generated/torch.optim.lr_scheduler.ReduceLROnPlateau.html.

    Parameters
    ----------
    optimizer : Optimizer
    mode : {"min", "max"}
        What of the metric is better.
    factor : float
        Below 1.
    patience : int
    threshold : float
        How much better counts: times the best one (``threshold_mode="rel"``), or by so much (``"abs"``).
    threshold_mode : {"rel", "abs"}
    cooldown : int
        Epochs after a reduction in which nothing is counted.
    min_lr : float or list of float
        For all groups, or for each.
    eps : float
        A rate that would fall by no more than this stays.

    Raises
    ------
    TypeError, ValueError
        A wrong argument.

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> optimizer = fastrnn.optim.SGD({"w": np.ones(2)}, lr=1.0)
    >>> schedule = fastrnn.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)
    >>> for loss in (2.0, 1.0, 1.0, 1.0):
    ...     schedule.step(loss)
    >>> schedule.get_last_lr()
    [0.1]
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float | list[float] = 0,
        eps: float = 1e-8,
    ) -> None:
        super().__init__(optimizer, last_epoch=0)
        if validate.real("factor", factor) >= 1:
            raise ValueError(f"Factor should be < 1.0. Got: {factor}")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode} is unknown!")
        if threshold_mode not in ("rel", "abs"):
            raise ValueError(f"threshold mode {threshold_mode} is unknown!")
        groups = len(optimizer.param_groups)
        if isinstance(min_lr, list | tuple) and len(min_lr) != groups:
            raise ValueError(f"expected {groups} min_lrs, got {len(min_lr)}")
        self.mode, self.factor, self.patience = mode, float(factor), validate.integer("patience", patience)
        self.threshold, self.threshold_mode = validate.real("threshold", threshold), threshold_mode
        self.cooldown, self.eps = validate.integer("cooldown", cooldown), validate.real("eps", eps)
        each = min_lr if isinstance(min_lr, list | tuple) else [min_lr] * groups
        self.min_lrs = [validate.real("min_lr", lowest) for lowest in each]
        self.default_min_lr = None if isinstance(min_lr, list | tuple) else min_lr
        self.best = self.mode_worse = math.inf if mode == "min" else -math.inf
        self.cooldown_counter = self.num_bad_epochs = 0

    def step(self, metrics: float) -> None:
        """One epoch more, after which the metric is so; NaN is no better than any other."""
        if isinstance(metrics, np.ndarray) and metrics.ndim == 0:
            metrics = metrics.item()
        current = validate.real("metrics", metrics)
        self.last_epoch += 1
        if self._is_better(current):
            self.best, self.num_bad_epochs = current, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter, self.num_bad_epochs = self.cooldown_counter - 1, 0
        if self.num_bad_epochs > self.patience:
            for group, lowest in zip(self.optimizer.param_groups, self.min_lrs, strict=True):
                old = float(group["lr"])
                new = max(old * self.factor, lowest)
                if old - new > self.eps:
                    group["lr"] = new
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0
        self._last_lr = [float(group["lr"]) for group in self.optimizer.param_groups]

    def _is_better(self, a: float) -> bool:
        if self.mode == "min":
            return a < (
                self.best * (1.0 - self.threshold) if self.threshold_mode == "rel" else self.best - self.threshold
            )
        return a > (self.best * (self.threshold + 1.0) if self.threshold_mode == "rel" else self.best + self.threshold)
