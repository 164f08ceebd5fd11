"""Six whole models of torch's, from checkpoints and results that were recorded: no torch is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import whole_model_tools
import whole_models

import fastrnn

DATA = Path(__file__).parent / "data"


@pytest.fixture(params=whole_models.MODELS)
def recorded(request):
    """The model's name, the model of torch's checkpoint, arguments, targets, what was recorded."""
    model = whole_models.MODELS[request.param](whole_models.HIDDEN)
    model.load_state_dict(fastrnn.load(DATA / f"whole_{request.param}.pt"))
    return request.param, model, *whole_model_tools.load_batch(DATA / f"whole_{request.param}.npz")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_and_gradients(recorded, dtype, assert_close):
    _, model, arguments, targets, truth = recorded
    del truth["training"]
    whole_model_tools.check(whole_model_tools.results(model.to(dtype), arguments, targets), truth, dtype, assert_close)


def test_training(recorded):
    name, model, _, _, truth = recorded
    found = list(whole_model_tools.train(model.to("float64"), name))
    np.testing.assert_allclose(found, truth["training"], rtol=1e-9, atol=0)
