"""Writes the golden files in data/: what torch says of a few dozen small layers and cells. Needs torch.

    python tests/make_golden.py

golden_CELL_NUMBER.pt holds a state dict; the .npz beside it x, h_0, c_0, lengths, batch_first (those that apply) and
torch's output, h_n, c_n, computed in float64 whatever the weights' dtype: the truth that float32 is held to as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from sampler import GRID, configurations

sys.path.insert(0, str(Path(__file__).parent / "parity"))
from torch_twin import each, to_numpy, to_torch, torch_call  # its folder had to be named first

DATA = Path(__file__).parent / "data"
SMALL = {"num_layers": [1, 2], "T": [2, 9], "N": [None, 3], "I": [1, 3], "H": [1, 3, 9]}


def write(name, state, arrays):
    torch.save(state, DATA / f"{name}.pt")
    np.savez_compressed(DATA / f"{name}.npz", **{key: a for key, a in arrays.items() if a is not None})


def result_arrays(kind, hx, end):
    """The states, initial and final, under the keys of golden files."""
    h_0, c_0 = hx if isinstance(hx, tuple) else (hx, None)
    h_n, c_n = end if kind.startswith("LSTM") else (end, None)
    return {"h_0": h_0, "c_0": c_0, "h_n": h_n, "c_n": c_n}


def layers():
    for seed, cell in enumerate(GRID["cell"]):
        forms = ["plain", "lengths"]  # packs are made of padded arrays by whoever reads the file
        for number, config in enumerate(configurations(7, seed=seed, cell=cell, form=forms, **SMALL)):
            torch.manual_seed(config.seed)
            dtype = getattr(torch, config.dtype)
            module = getattr(torch.nn, config.kind)(config.input_size, config.H, **config.options, dtype=dtype)
            state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
            inputs = config.inputs()
            output, end = torch_call(module.double(), config, inputs)
            arrays = {"x": inputs.x, "lengths": inputs.lengths, "batch_first": np.array(config.batch_first)}
            arrays |= {"output": output} | result_arrays(config.kind, inputs.hx, end)
            write(f"golden_{config.cell}_{number}", state, arrays)


def cells():
    rng = np.random.default_rng(0)
    for name, options in (("rnn_tanh", {}), ("rnn_relu", {"nonlinearity": "relu"}), ("lstm", {}), ("gru", {})):
        kind = name.split("_")[0].upper()
        torch.manual_seed(1)
        cell = getattr(torch.nn, f"{kind}Cell")(3, 9, **options)
        x, h, c = (rng.normal(size=(4, n)).astype(np.float32) for n in (3, 9, 9))
        hx = (h, c) if kind == "LSTM" else h
        state = {key: tensor.clone() for key, tensor in cell.state_dict().items()}
        end = to_numpy(cell.double()(*each(torch.Tensor.double, to_torch((x, hx)))))
        write(f"golden_{name}_cell", state, {"x": x} | result_arrays(kind, hx, end))


if __name__ == "__main__":
    for old in DATA.glob("golden_*"):
        old.unlink()
    torch.set_num_threads(1)
    with torch.no_grad():
        layers()
        cells()
    print(f"{sum(f.stat().st_size for f in DATA.glob('golden_*')) / 1e3:.0f} kB in {DATA}")
