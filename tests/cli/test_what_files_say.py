"""Files that say more of a layer than a state dict does: modules that were saved whole, and ONNX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fastrnn

CHECKPOINTS = Path(__file__).parents[1] / "data" / "checkpoints"
WHOLE, ONNX = CHECKPOINTS / "options.pt", CHECKPOINTS / "lstm.onnx"


@pytest.fixture
def module():
    """A layer that a whole module has with batch_first=True."""
    found = [i for i in fastrnn.find_layers(fastrnn.load(WHOLE)) if i.is_recurrent and i.batch_first]
    return found[0]


def test_run_takes_batch_first_from_a_module(cli, folder, module):
    x = np.random.default_rng(0).standard_normal((4, 9, module.input_size)).astype("float32")
    np.save("x.npy", x)
    layer = fastrnn.from_state_dict(fastrnn.load(WHOLE), module.prefix, cell=False)
    assert layer.batch_first
    run = ["run", WHOLE, "--prefix", module.prefix, "--input", "x.npy", "--output"]
    assert cli(*run, "y.npy")[0] == 0
    np.testing.assert_allclose(np.load("y.npy"), layer(x)[0], rtol=1e-6, atol=1e-7)
    assert cli(*run, "z.npy", "--no-batch-first")[0] == 0
    layer.batch_first = False
    np.testing.assert_allclose(np.load("z.npy"), layer(x)[0], rtol=1e-6, atol=1e-7)


def test_verify_takes_batch_first_from_a_module(cli, folder, module):
    layer = fastrnn.from_state_dict(fastrnn.load(WHOLE), module.prefix, cell=False)
    x = np.random.default_rng(0).standard_normal((4, 9, module.input_size)).astype("float32")
    output, final = layer(x)
    states = dict(zip(("h_n", "c_n"), final if isinstance(final, tuple) else (final,), strict=False))
    np.savez("golden.npz", x=x, output=output, **states)
    assert cli("verify", WHOLE, "--prefix", module.prefix, "--golden", "golden.npz")[0] == 0


def test_the_page_takes_batch_first_from_a_module(cli, folder, module):
    np.save("x.npy", np.ones((2, 7, module.input_size)))
    assert cli("inspect", WHOLE, "--html", "p.html", "--input", "x.npy", "--prefix", module.prefix)[0] == 0
    assert "over 7 steps" in Path("p.html").read_text()


def test_layers_of_a_graph(cli, folder):
    layers = fastrnn.from_onnx(ONNX)
    name, layer = next(iter(layers.items()))
    x = np.random.default_rng(0).standard_normal((9, 4, layer.input_size)).astype("float32")
    np.save("x.npy", x)
    layer.batch_first = False
    run = ["run", ONNX, "--prefix", name, "--input", "x.npy", "--output", "y.npy", "--no-batch-first"]
    assert cli(*run)[0] == 0
    np.testing.assert_allclose(np.load("y.npy"), layer(x)[0], rtol=1e-6, atol=1e-7)
    assert cli("verify", ONNX, "--prefix", name)[0] == 0
    assert cli(*run, "--dtype", "float64")[0] == 0
    assert np.load("y.npy").dtype == np.float64
    assert "the 3 fields that max_ops allows" in cli(*run, "--max-ops", 3)[2]
    status, _, err = cli(*run, "--nonlinearity", "relu")
    assert status == 2
    assert "--nonlinearity does not apply to ONNX" in err
    status, _, err = cli("verify", ONNX, "--prefix", name[:-1] + "x")
    assert status == 2
    assert f"did you mean {name!r}?" in err
    if len(layers) > 1:
        assert "choose one with --prefix" in cli("verify", ONNX)[2]
