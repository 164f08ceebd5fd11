"""Writes data/training.npz and data/training_*.pt: what torch says of losses, optimizers and schedulers. Needs torch.

    python tests/make_golden_training.py

training.npz, all in float64: of the loss number i `loss_i` and `d_i`; of the optimizer number i `steps_i`, the
parameters after each step; of the scheduler number i `rates_i`. training_i.pt: torch's state dict of the optimizer i
half way through. The cases stand in training_tools.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from training_tools import CONFIGURATIONS, HALF, LOSSES, SCHEDULERS, gradients, start

DATA = Path(__file__).parent / "data"


def tensors(options):
    return {
        key: torch.tensor(value) if isinstance(value, list | np.ndarray) else value for key, value in options.items()
    }


def losses():
    for i, (name, prediction, target, options) in enumerate(LOSSES):
        x = torch.tensor(prediction, requires_grad=True)
        loss = getattr(torch.nn.functional, name)(x, torch.tensor(target), **tensors(options))
        loss.sum().backward()
        yield f"loss_{i}", loss.detach().numpy()
        yield f"d_{i}", x.grad.numpy()


def optimizers():
    for i, (name, options) in enumerate(CONFIGURATIONS):
        params = [torch.nn.Parameter(torch.tensor(array)) for array in start().values()]
        optimizer, found = getattr(torch.optim, name)(params, **options), []
        for step, g in enumerate(gradients()):
            if step == HALF:
                torch.save(optimizer.state_dict(), DATA / f"training_{i}.pt")
            for p, key in zip(params, start(), strict=True):
                p.grad = torch.tensor(g[key])
            optimizer.step()
            found.append(np.concatenate([p.detach().numpy().ravel() for p in params]))
        yield f"steps_{i}", np.stack(found)


def schedulers():
    for i, (name, options, metrics) in enumerate(SCHEDULERS):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        scheduler, rates = getattr(torch.optim.lr_scheduler, name)(optimizer, **options), []
        for metric in metrics:
            optimizer.step()
            scheduler.step(*([] if metric is None else [metric]))
            rates.append(scheduler.get_last_lr()[0])
        yield f"rates_{i}", np.array(rates)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for old in DATA.glob("training*"):
        old.unlink()
    np.savez_compressed(DATA / "training.npz", **dict([*losses(), *optimizers(), *schedulers()]))
    print(f"{sum(f.stat().st_size for f in DATA.glob('training*')) / 1e3:.0f} kB in {DATA}")
