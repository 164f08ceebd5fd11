"""The same layer in torch, and the same call: what the parity tests compare with."""

from __future__ import annotations

import copy

import numpy as np
import torch
from sampler import Config
from torch.nn.utils import rnn


def each(function, value):
    """`function` of every array or tensor in nested tuples; None stays None."""
    if isinstance(value, tuple):
        return tuple(each(function, part) for part in value)
    return None if value is None else function(value)


def to_torch(value):
    return each(lambda array: torch.from_numpy(np.asarray(array, order="C")), value)


def to_numpy(value):
    return each(torch.Tensor.numpy, value)


def torch_twin(layer, *arguments, **options):
    """torch's module of the same class with the same weights, and the same in float64."""
    state = {name: to_torch(array) for name, array in layer.state_dict().items()}
    module = getattr(torch.nn, type(layer).__name__)(*arguments, **options, dtype=next(iter(state.values())).dtype)
    module.load_state_dict(state)
    return module, copy.deepcopy(module).double()


def torch_call(module, config: Config, inputs):
    """torch's result for a configuration, in the module's dtype."""
    dtype = next(module.parameters()).dtype
    x, hx = each(lambda tensor: tensor.to(dtype), to_torch((inputs.x, inputs.hx)))
    if config.form == "plain":
        return to_numpy(module(x, hx))
    if config.form == "lengths":
        return _row_by_row(module, config, x, hx, inputs.lengths.tolist())
    packed = rnn.pack_padded_sequence(x, to_torch(inputs.lengths), config.batch_first, config.form == "packed")
    y, state = module(packed, hx)
    return to_numpy((y.data, state))


def _row_by_row(module, config: Config, x, hx, lengths):
    """Each row alone, as long as it is: torch takes no lengths of zero."""
    x = x.transpose(0, 1) if config.batch_first else x
    H_out, directions = config.proj_size or config.H, 1 + config.bidirectional
    if hx is None:
        zeros = [x.new_zeros(config.num_layers * directions, len(lengths), n) for n in (H_out, config.H)]
        hx = tuple(zeros) if config.kind == "LSTM" else zeros[0]
    y = x.new_zeros(config.T, len(lengths), H_out * directions)
    state = each(torch.clone, hx)
    for row, length in enumerate(lengths):
        if length:
            y[:length, row], end = module(x[:length, row], each(lambda h, row=row: h[:, row], hx))
            for whole, part in zip(*((s if isinstance(s, tuple) else (s,)) for s in (state, end)), strict=True):
                whole[:, row] = part
    return to_numpy((y.transpose(0, 1) if config.batch_first else y, state))
