"""The same layer in torch, and the same call: what the parity tests compare with."""

from __future__ import annotations

import copy
from itertools import pairwise

import numpy as np
import torch
from layer_tools import each
from sampler import Config
from torch.nn.utils import rnn

from fastrnn.vjp import Gradients


def to_torch(value):
    return each(lambda array: torch.from_numpy(np.asarray(array, order="C")), value)


def to_numpy(value):
    return each(lambda tensor: tensor.detach().numpy(), value)


def torch_twin(layer, *arguments, **options):
    """torch's module of the same class with the same weights, and the same in float64."""
    state = {name: to_torch(array) for name, array in layer.state_dict().items()}
    module = getattr(torch.nn, type(layer).__name__)(*arguments, **options, dtype=next(iter(state.values())).dtype)
    module.load_state_dict(state)
    return module, copy.deepcopy(module).double()


def torch_call(module, config: Config, inputs):
    """torch's result for a configuration, in the module's dtype."""
    return to_numpy(_result(module, config, *_tensors(module, config, inputs), inputs.lengths))


def torch_gradients(module, config: Config, inputs, seeds, reset=None):
    """torch's gradients of the sum of the results, each times its seed (d_output, d_state).

    reset: (T, N), of the form "lengths" only; torch has none: each episode is run alone, from zeros but for the first.
    """

    def call(x, hx):
        return _result(module, config, x, hx, inputs.lengths, reset)

    return gradients_of(module, call, *_tensors(module, config, inputs), seeds)


def gradients_of(module, call, x, hx, seeds):
    """The gradients of ``call(x, hx)`` times the seeds, both tensors in the module's dtype."""
    x, hx = each(lambda tensor: tensor.requires_grad_(), (x, hx))
    names, params = zip(*module.named_parameters(), strict=True)
    with torch.enable_grad():
        scalar = _scalar(call(x, hx), each(lambda tensor: tensor.to(x.dtype), to_torch(seeds)))
        # Where all rows have length 0, the result depends on no parameter: zeros.
        wanted = (x, *_parts(hx), *params)
        found = torch.autograd.grad(scalar, wanted, allow_unused=True, materialize_grads=True)
    x, *states = to_numpy(found[: -len(names)])
    return Gradients(
        x,
        tuple(states) if len(states) > 1 else states[0],
        dict(zip(names, to_numpy(found[-len(names) :]), strict=True)),
    )


def _scalar(result, seeds):
    if isinstance(result, tuple):
        return sum(_scalar(part, seed) for part, seed in zip(result, seeds, strict=True))
    return (result * seeds).sum()


def _tensors(module, config: Config, inputs):
    """x and hx in the module's dtype; zeros where no states are given."""
    dtype = next(module.parameters()).dtype
    hx = inputs.hx
    if hx is None:
        batch = () if config.N is None else (config.N,)
        rows = config.num_layers * (1 + config.bidirectional)
        zeros = [np.zeros((rows, *batch, n)) for n in (config.proj_size or config.H, config.H)]
        hx = tuple(zeros) if config.kind == "LSTM" else zeros[0]
    return each(lambda tensor: tensor.to(dtype), to_torch((inputs.x, hx)))


def _result(module, config: Config, x, hx, lengths, reset=None):
    assert reset is None or config.form == "lengths"
    if config.form == "plain":
        return module(x, hx)
    if config.form == "lengths":
        return _row_by_row(module, config, x, hx, lengths.tolist(), reset)
    packed = rnn.pack_padded_sequence(x, to_torch(lengths), config.batch_first, config.form == "packed")
    y, state = module(packed, hx)
    return y.data, state


def _row_by_row(module, config: Config, x, hx, lengths, reset):
    """Each row alone, as long as it is: torch takes no lengths of zero."""
    x = x.transpose(0, 1) if config.batch_first else x
    y = x.new_zeros(config.T, len(lengths), (config.proj_size or config.H) * (1 + config.bidirectional))
    state = each(torch.clone, hx)
    for row, length in enumerate(lengths):
        first = [t for t in range(length) if reset is not None and reset[t, row]]
        initial, ends = each(lambda h, row=row: h[:, row], hx), []
        episodes = list(pairwise([0, *(t for t in first if t), length])) if length else []
        for start, stop in episodes:
            # Forward, the initial state is that of the first episode, in the reverse direction of the last.
            begins = initial, (start == 0 and 0 not in first, stop == length)
            y[start:stop, row], end = module(x[start:stop, row], _where(config, *begins))
            ends.append(end)
        if episodes:
            # The final state likewise; in the reverse direction a reset of the first step comes after that step.
            end = each(lambda last: last.clone(), ends[-1])
            for whole, last, other in zip(*map(_parts, (state, end, ends[0])), strict=True):
                if config.bidirectional:
                    last[1::2] = 0 if 0 in first else other[1::2]
                whole[:, row] = last
    return (y.transpose(0, 1) if config.batch_first else y), state


def _where(config, state, begins):
    """Zeros for the directions, forward and reverse, in which an episode does not begin with the initial state."""
    keep = torch.tensor(begins[: 1 + config.bidirectional] * config.num_layers)[:, None]
    return each(lambda h: h * keep, state)


def _parts(state):
    return state if isinstance(state, tuple) else (state,)
