"""Writes what torch says of layers and whole models, in float64. Needs torch.

    python tests/make_golden_models.py

data/layers.npz, of the layers in model_cases.py: for each layer NAME/x, NAME/dy, NAME/y, NAME/dx where the input is no
indices, and for each parameter or buffer its value under its name; d_ and its name is the gradient of a parameter,
after_ and its name a buffer after a call in training mode.

data/whole_NAME.pt and .npz, of the models in whole_models.py: a checkpoint; the batch, what `whole_model_tools.results`
gives, but streams, and as "training" what `whole_model_tools.train` does.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import whole_model_tools
import whole_models
import whole_models_torch
from model_cases import CASES

DATA = Path(__file__).parent / "data"


def recorded(case):
    """The arrays of one layer, with weights that are exact in float32."""
    torch.manual_seed(1)
    module = case.make(torch.nn)
    state = case.varied({key: tensor.clone().numpy() for key, tensor in module.state_dict().items()})
    module.load_state_dict({key: torch.from_numpy(array) for key, array in state.items()})
    x = torch.from_numpy(np.array(case.x()))
    x = x.double().requires_grad_() if x.is_floating_point() else x
    module = module.double()
    y = module(x * 1 if x.is_floating_point() else x)  # some layers write over their argument
    dy = np.random.default_rng(1).normal(size=tuple(y.shape)).astype(np.float32)
    params = dict(module.named_parameters())
    wanted = {f"d_{key}": tensor for key, tensor in params.items()} | ({"dx": x} if x.requires_grad else {})
    found = torch.autograd.grad((y * torch.from_numpy(np.asarray(dy))).sum(), list(wanted.values()))
    arrays = {"x": case.x(), "y": y.detach().numpy(), "dy": dy}
    arrays |= {f"after_{key}": buffer.numpy() for key, buffer in module.named_buffers() if case.train}
    return state | arrays | dict(zip(wanted, (tensor.numpy() for tensor in found), strict=True))


def write_whole(name):
    """A checkpoint of one whole model, and what torch says of it."""
    model = whole_models_torch.made(name, whole_models.HIDDEN)
    torch.save(model.state_dict(), DATA / f"whole_{name}.pt")
    batch = whole_models.MODELS[name](whole_models.HIDDEN).batch
    results = whole_models_torch.results(model, *batch(0), torch.float64)
    training = list(whole_models_torch.train(model, name, batch))
    whole_model_tools.save_batch(DATA / f"whole_{name}.npz", *batch(0), **results, training=np.array(training))


if __name__ == "__main__":
    arrays = {f"{name}/{key}": array for name, case in CASES.items() for key, array in recorded(case).items()}
    np.savez_compressed(DATA / "layers.npz", **arrays)
    print(f"{(DATA / 'layers.npz').stat().st_size / 1e3:.0f} kB in {DATA / 'layers.npz'}")
    torch.set_num_threads(1)  # the same sums everywhere
    for name in whole_models.MODELS:
        write_whole(name)
    print(f"{sum(f.stat().st_size for f in DATA.glob('whole_*')) / 1e3:.0f} kB of whole models")
