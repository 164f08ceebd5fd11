"""Configurations of recurrent layers with their inputs: the one sampler that every comparison draws from.

A configuration determines everything by itself: weights, inputs, states and lengths follow from its fields.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import astuple, dataclass, fields
from typing import Any, NamedTuple

import numpy as np

import fastrnn
from fastrnn.vjp import Gradients

GRID: dict[str, list[Any]] = {
    "cell": ["rnn_tanh", "rnn_relu", "lstm", "lstm_proj", "gru"],
    "num_layers": [1, 2, 3],
    "bidirectional": [False, True],
    "bias": [True, False],
    "batch_first": [False, True],
    "dtype": ["float32", "float64"],
    "T": [1, 2, 17],
    "N": [None, 1, 2, 5],
    "I": [1, 3, "H"],
    "H": [1, 3, 16, 33, 64],
    "state": [False, True],
    "form": ["plain", "lengths", "packed", "packed_unsorted"],
}


class Inputs(NamedTuple):
    """What a configuration is called with.

    x : (T, N, I), (N, T, I) with batch_first, (T, I) where N is None; never packed yet
    hx : None, (L*D, N, H_out), or for LSTM a pair of it and (L*D, N, H)
    lengths : (N,) or None
    """

    x: np.ndarray
    hx: Any
    lengths: np.ndarray | None


@dataclass(frozen=True)
class Config:
    """One point of the grid. N None: unbatched. I "H": as many inputs as hidden units. state: initial states given.

    form: "plain"; "lengths": ragged, unsorted, zeros among them; "packed", "packed_unsorted": a PackedSequence.
    """

    cell: str
    num_layers: int
    bidirectional: bool
    bias: bool
    batch_first: bool
    dtype: str
    T: int
    N: int | None
    I: Any
    H: int
    state: bool
    form: str

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))

    @property
    def valid(self) -> bool:
        unbatched_ragged = self.N is None and self.form != "plain"
        return not unbatched_ragged and not (self.cell == "lstm_proj" and self.H == 1) and self.I != self.H

    @property
    def seed(self) -> int:
        return zlib.crc32(repr(astuple(self)).encode())

    @property
    def kind(self) -> str:
        """The class's name, here and in torch."""
        return self.cell.split("_")[0].upper()

    @property
    def input_size(self) -> int:
        return self.H if self.I == "H" else self.I

    @property
    def proj_size(self) -> int:
        return (1, max(self.H // 2, 1), self.H - 1)[self.seed % 3] if self.cell == "lstm_proj" else 0

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the class after the sizes, here and in torch."""
        own = {"nonlinearity": self.cell[4:]} if self.kind == "RNN" else {}
        own |= {"proj_size": self.proj_size} if self.kind == "LSTM" else {}
        names = ("num_layers", "bias", "batch_first", "bidirectional")
        return own | {name: getattr(self, name) for name in names}

    def layer(self, draw: int = 0) -> fastrnn.RNN | fastrnn.LSTM | fastrnn.GRU:
        """The layer; other weights for each `draw`."""
        layer_class = getattr(fastrnn, self.kind)
        return layer_class(self.input_size, self.H, **self.options, dtype=self.dtype, rng=self.seed + 2 * draw)

    def inputs(self, draw: int = 0) -> Inputs:
        """The arguments of the call; others for each `draw`."""
        rng = np.random.default_rng(self.seed + 2 * draw + 1)
        batch = () if self.N is None else (self.N,)
        shape = (self.T, *batch, self.input_size)
        if self.batch_first and batch:
            shape = (*batch, self.T, self.input_size)
        x = rng.normal(size=shape).astype(self.dtype)
        hx = None
        if self.state:
            rows = self.num_layers * (1 + self.bidirectional)
            h_0 = rng.uniform(-1, 1, (rows, *batch, self.proj_size or self.H)).astype(self.dtype)
            c_0 = rng.uniform(-2, 2, (rows, *batch, self.H)).astype(self.dtype)
            hx = (h_0, c_0) if self.kind == "LSTM" else h_0
        lengths = None
        if self.form != "plain":
            lengths = rng.integers(0 if self.form == "lengths" else 1, self.T + 1, self.N)
            if self.form == "packed":
                lengths = np.sort(lengths)[::-1].copy()
        return Inputs(x, hx, lengths)

    def call(self, layer: Any, inputs: Inputs) -> Any:
        """The layer's result; of packed input, with the output's data in place of the pack."""
        x, hx, lengths = inputs
        if not self.form.startswith("packed"):
            return layer(x, hx, lengths=lengths)
        y, state = layer(self._pack(x, lengths), hx)
        return y.data, state

    def gradients(self, layer: Any, inputs: Inputs, seeds: Any, **options: Any) -> Gradients:
        """The layer's gradients, of what `call` returns times the seeds; with respect to x as given, not packed."""
        x, hx, lengths = inputs
        if not self.form.startswith("packed"):
            return layer.vjp(x, hx, lengths=lengths, **options)[1](*seeds)
        (y, _), backward = layer.vjp(self._pack(x, lengths), hx, **options)
        grads = backward(y._replace(data=seeds[0]), seeds[1])
        d_x, _ = fastrnn.pad_packed_sequence(grads.x, self.batch_first, total_length=self.T)
        return grads._replace(x=d_x)

    def _pack(self, x: np.ndarray, lengths: Any) -> fastrnn.PackedSequence:
        return fastrnn.pack_padded_sequence(x, lengths, self.batch_first, self.form == "packed")


def configurations(n: int | None = None, *, seed: int = 0, **fixed: Any) -> list[Config]:
    """`n` different configurations drawn at random, or all of them.

    fixed: values for some of the grid's axes: ``cell="gru"``, or lists of them.
    """
    axes = [v if isinstance(v, list) else [v] for v in (GRID | fixed).values()]
    if n is None:
        return [config for values in itertools.product(*axes) if (config := Config(*values)).valid]
    rng = np.random.default_rng(seed)
    chosen: dict[Config, None] = {}
    for _ in range(100 * n):
        config = Config(*(axis[rng.integers(len(axis))] for axis in axes))
        if config.valid:
            chosen[config] = None
        if len(chosen) == n:
            return list(chosen)
    raise ValueError(f"the grid has fewer than {n} valid configurations, or hardly more")
