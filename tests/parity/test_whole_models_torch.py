"""Six whole models: saved by torch, loaded and run in a process without torch; and trained, step for step."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import whole_model_tools
import whole_models

torch = pytest.importorskip("torch")
import whole_models_torch  # noqa: E402  # it needs torch
from torch.nn.utils import parametrizations  # noqa: E402

#: In torch's place there, None: every import of it fails.
CHILD = """
import sys
sys.modules["torch"] = None
sys.path.insert(0, sys.argv[1])
import whole_model_tools
whole_model_tools.run(sys.argv[2], int(sys.argv[3]), sys.argv[4])
"""


def saved_state(model, path):
    torch.save(model.state_dict(), path)


def saved_training(model, path):
    """By a trainer, in the midst of it, from several processors at once."""
    parallel = torch.nn.DataParallel(model)
    optimizer = torch.optim.Adam(parallel.parameters())
    torch.save(
        {"epoch": 3, "model_state_dict": parallel.state_dict(), "optimizer_state_dict": optimizer.state_dict()}, path
    )


def saved_whole(model, path):
    torch.save(model, path)


def saved_old(model, path):
    """As torch did before 1.6."""
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)


def saved_whole_old(model, path):
    torch.save(model, path, _use_new_zipfile_serialization=False)


def saved_weight_norm(model, path):
    """Returns what the weights behind it are."""
    wrapped, state = copy.deepcopy(model), model.double().state_dict()
    for part, name in (("rnn", "weight_hh_l0"), ("head", "weight")):
        parametrizations.weight_norm(wrapped.get_submodule(part), name)
        size, direction = wrapped.get_submodule(f"{part}.parametrizations.{name}").double().parameters()
        weight = direction * (size / direction.norm(dim=1, keepdim=True))
        state[f"{part}.{name}"] = weight.detach().float()  # as the checkpoint's own dtype has it
    torch.save(wrapped.float().state_dict(), path)
    return state


CASES = {
    **{name: (name, saved_state) for name in whole_models.MODELS},
    "Classifier of a trainer": ("Classifier", saved_training),
    "Voice saved whole": ("Voice", saved_whole),
    "Characters in the old format": ("Characters", saved_old),
    "Policy saved whole in the old format": ("Policy", saved_whole_old),
    "Effect with weight norm": ("Effect", saved_weight_norm),
}


@pytest.mark.parametrize("hidden", [5, 48])
@pytest.mark.parametrize("case", CASES)
def test_a_model_that_torch_saved_runs_without_torch(case, hidden, tmp_path, assert_close):
    name, save = CASES[case]
    model = whole_models_torch.made(name, hidden)
    weights = save(model, tmp_path / "model.pt") or model.state_dict()
    arguments, targets = whole_models.MODELS[name](hidden).batch(0)
    whole_model_tools.save_batch(tmp_path / "batch.npz", arguments, targets)
    tests = str(Path(whole_models.__file__).parent)
    subprocess.run([sys.executable, "-c", CHILD, tests, name, str(hidden), str(tmp_path)], check=True)

    found = {}
    for dtype in (torch.float32, torch.float64):
        model.to(dtype).load_state_dict(weights)
        found[dtype] = whole_models_torch.results(model, arguments, targets, dtype)
    peer, truth = found.values()
    for dtype, peer_of_it in (("float32", peer), ("float64", {})):
        with np.load(tmp_path / f"{dtype}.npz") as file:
            whole_model_tools.check(dict(file), truth, dtype, assert_close, peer_of_it)


@pytest.mark.parametrize("name", whole_models.MODELS)
def test_training_step_for_step(name):
    """In float64, from the weights of a checkpoint: losses, norms, and all that has changed in the end."""
    theirs = whole_models_torch.made(name, 8).double()
    ours = whole_models.MODELS[name](8).to("float64")
    ours.load_state_dict({key: tensor.numpy() for key, tensor in theirs.state_dict().items()})
    before = ours.state_dict()
    expected = list(whole_models_torch.train(theirs, name, ours.batch))
    np.testing.assert_allclose(list(whole_model_tools.train(ours, name)), expected, rtol=1e-9, atol=0)
    is_clipped = np.array(expected)[:-1, 1] > whole_model_tools.RECIPES[name][-1]
    assert is_clipped.any()
    assert not is_clipped.all()
    for key, tensor in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key], tensor.numpy(), rtol=1e-9, atol=1e-9, err_msg=key)
        assert (ours.state_dict()[key] != before[key]).any(), key
