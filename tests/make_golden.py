"""Writes the golden files in data/: what torch says of a few dozen small layers and cells. Needs torch.

    python tests/make_golden.py
    python tests/make_golden.py gradients    # those alone, of the golden files that are there

golden_CELL_NUMBER.pt holds a state dict; the .npz beside it x, h_0, c_0, lengths, batch_first (those that apply) and
torch's output, h_n, c_n, computed in float64 whatever the weights' dtype: the truth that float32 is held to as well.
gradients_CELL_NUMBER.npz holds d_output, d_h_n, d_c_n, and what torch's autograd makes of them in float64: d_x, d_h_0,
d_c_0 and d_ with the name of each parameter. gradients_CELL_NUMBER_reset.npz has a mask `reset` (T, N) as well.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from layer_tools import each
from sampler import GRID, configurations

sys.path.insert(0, str(Path(__file__).parent / "parity"))
from torch_twin import gradients_of, to_numpy, to_torch, torch_call, torch_gradients  # its folder had to be named first

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


def chosen():
    """Configurations of layers, and their files' names."""
    for seed, cell in enumerate(GRID["cell"]):
        forms = ["plain", "lengths"]  # packs are made of padded arrays by whoever reads the file
        for number, config in enumerate(configurations(7, seed=seed, cell=cell, form=forms, **SMALL)):
            yield config, f"{config.cell}_{number}"


def layers():
    for config, name in chosen():
        torch.manual_seed(config.seed)
        dtype = getattr(torch, config.dtype)
        module = getattr(torch.nn, config.kind)(config.input_size, config.H, **config.options, dtype=dtype)
        state = {key: tensor.clone() for key, tensor in module.state_dict().items()}
        inputs = config.inputs()
        output, end = torch_call(module.double(), config, inputs)
        arrays = {"x": inputs.x, "lengths": inputs.lengths, "batch_first": np.array(config.batch_first)}
        arrays |= {"output": output} | result_arrays(config.kind, inputs.hx, end)
        write(f"golden_{name}", state, arrays)


CELLS = {"rnn_tanh": {}, "rnn_relu": {"nonlinearity": "relu"}, "lstm": {}, "gru": {}}


def cells():
    rng = np.random.default_rng(0)
    for name, options in CELLS.items():
        kind = name.split("_")[0].upper()
        torch.manual_seed(1)
        cell = getattr(torch.nn, f"{kind}Cell")(3, 9, **options)
        x, h, c = (rng.normal(size=(4, n)).astype(np.float32) for n in (3, 9, 9))
        hx = (h, c) if kind == "LSTM" else h
        state = {key: tensor.clone() for key, tensor in cell.state_dict().items()}
        end = to_numpy(cell.double()(*each(torch.Tensor.double, to_torch((x, hx)))))
        write(f"golden_{name}_cell", state, {"x": x} | result_arrays(kind, hx, end))


def gradients():
    """Of the weights and arguments in the golden files; of one ragged layer of each cell with resets too."""
    ragged = {}
    for config, name in chosen():
        if config.form == "lengths" and config.T > 2:
            ragged.setdefault(config.cell, []).append((config.state, config.inputs().lengths.sum(), name))
    has_reset = {max(found)[-1] for found in ragged.values()}
    for config, name in chosen():
        module = getattr(torch.nn, config.kind)(config.input_size, config.H, **config.options, dtype=torch.float64)
        module.load_state_dict(torch.load(DATA / f"golden_{name}.pt"))
        inputs, rng = config.inputs(), np.random.default_rng(config.seed + 2)
        seeds = each(lambda a, rng=rng: rng.normal(size=a.shape).astype(np.float32), torch_call(module, config, inputs))
        write_gradients(name, config.kind, seeds, torch_gradients(module, config, inputs, seeds))
        if name in has_reset:
            reset = rng.random((config.T, config.N)) < 0.3
            grads = torch_gradients(module, config, inputs, seeds, reset)
            write_gradients(f"{name}_reset", config.kind, seeds, grads, reset=reset)
    for name, options in CELLS.items():
        kind = name.split("_")[0].upper()
        module = getattr(torch.nn, f"{kind}Cell")(3, 9, **options, dtype=torch.float64)
        module.load_state_dict(torch.load(DATA / f"golden_{name}_cell.pt"))
        golden, rng = np.load(DATA / f"golden_{name}_cell.npz"), np.random.default_rng(2)
        hx = (golden["h_0"], golden["c_0"]) if kind == "LSTM" else golden["h_0"]
        end = each(lambda h, rng=rng: rng.normal(size=h.shape).astype(np.float32), hx)
        grads = gradients_of(module, module, *each(torch.Tensor.double, to_torch((golden["x"], hx))), end)
        write_gradients(f"{name}_cell", kind, (None, end), grads)


def write_gradients(name, kind, seeds, grads, **more):
    arrays = {"output": seeds[0]} | result_arrays(kind, grads.hx, seeds[1]) | {"x": grads.x} | grads.params
    given = {f"d_{key}": array for key, array in arrays.items() if array is not None}
    np.savez_compressed(DATA / f"gradients_{name}.npz", **given, **more)


if __name__ == "__main__":
    torch.set_num_threads(1)
    kinds = ["gradients"] if sys.argv[1:] == ["gradients"] else ["golden", "gradients"]
    for old in [path for kind in kinds for path in DATA.glob(f"{kind}_*")]:
        old.unlink()
    if "golden" in kinds:
        with torch.no_grad():
            layers()
            cells()
    gradients()
    for kind in kinds:
        print(f"{sum(f.stat().st_size for f in DATA.glob(f'{kind}_*')) / 1e3:.0f} kB of {kind} files in {DATA}")
