"""What RNN, LSTM and GRU share: their call and their parameters under torch's names."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import sequence, validate
from ..cells import CellSpec, Weights, parameter_names
from .base import Layer

if TYPE_CHECKING:  # imported when first used, so that `import fastrnn` costs little
    from ..packing import PackedSequence
    from ..stream import Stream

Array = NDArray[Any]


class Recurrent(Layer):
    """Not constructed by users."""

    _fixed = ("input_size", "hidden_size", "num_layers", "nonlinearity", "bias", "bidirectional", "proj_size")
    _checks: ClassVar = {
        **Layer._checks,
        "batch_first": partial(validate.flag, "batch_first"),
        "dropout": validate.dropout,
    }
    _spec: CellSpec
    proj_size: int = 0

    def __init__(
        self,
        spec: CellSpec,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int = 0,
        *,
        dtype: DTypeLike,
        device: str,
        rng: Any,
    ) -> None:
        self._spec = spec
        self.input_size = validate.size("input_size", input_size)
        self.hidden_size = validate.size("hidden_size", hidden_size)
        self.num_layers = validate.size("num_layers", num_layers)
        self.bias = validate.flag("bias", bias)
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = validate.flag("bidirectional", bidirectional)
        self.proj_size = validate.proj_size(proj_size, self.hidden_size)
        if self.dropout > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}",
                stacklevel=3,
            )
        super().__init__(self._shapes(), dtype=dtype, device=device, rng=rng)

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _out_size(self) -> int:
        return self.proj_size or self.hidden_size

    def _names(self) -> list[list[str]]:
        """Parameter names by layer, then direction."""
        return [
            parameter_names(layer, reverse, bias=self.bias, projected=self.proj_size > 0)
            for layer in range(self.num_layers)
            for reverse in (False, True)[: self._directions]
        ]

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        rows = self._spec.n_gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {}
        for i, names in enumerate(self._names()):
            columns = self.input_size if i < self._directions else self._directions * self._out_size
            kinds = [(rows, columns), (rows, self._out_size)] + [(rows,), (rows,)] * self.bias
            shapes.update(zip(names, [*kinds, (self.proj_size, self.hidden_size)], strict=False))
        return shapes

    def _init_bound(self) -> float:
        return float(1 / np.sqrt(self.hidden_size))

    @property
    def all_weights(self) -> list[list[Array]]:
        """The live parameter arrays, a list for each layer and direction, as in torch."""
        return [[self._params[name] for name in names] for names in self._names()]

    def _weights(self) -> list[Weights]:
        fields = ["w_ih", "w_hh"] + ["b_ih", "b_hh"] * self.bias + ["w_hr"] * (self.proj_size > 0)
        return [Weights(**dict(zip(fields, arrays, strict=True))) for arrays in self.all_weights]

    def _stack(self) -> sequence.Stack:
        def make(backend: Any) -> sequence.Stack:
            prepared = [backend.prepare(self._spec, weights) for weights in self._weights()]
            return sequence.Stack(
                self._spec, self._dtype, self.hidden_size, self._out_size, self._directions, prepared, backend
            )

        stack: sequence.Stack = self._prepare("stack", make)
        return stack

    # -- the call -------------------------------------------------------------------------------------------------

    def __call__(
        self,
        x: ArrayLike | PackedSequence,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        return_states: bool = False,
        out: Array | None = None,
    ) -> Any:
        """Run the layer over whole sequences.

        Parameters
        ----------
        x : (T, N, I), (N, T, I) with `batch_first`, (T, I) unbatched, or PackedSequence
            Any real numbers; cast to the layer's dtype, never written to. T=0 and N=0 work.
        hx : (L*D, N, H_out), for LSTM a pair of that and (L*D, N, H), optional
            Initial state, zeros where not given; without the N axis for unbatched input.
        lengths : (N,) integers in 0..T, optional
            Steps of each row, in any order. Past a row's length the output is 0; its final state is the one at its
            own end, and the reverse direction begins there.
        reset : bool (T, N), (N, T) with `batch_first`, (T,) unbatched, optional
            True marks the first step of an episode: the state is zeroed before it, in the reverse direction after
            it, so that no state crosses the border.
        return_states : bool
            Return the states of every step too.
        out : array of the output's shape and dtype, optional
            Where the output is written; it is returned.

        Returns
        -------
        output : (T, N, D*H_out), (N, T, D*H_out), (T, D*H_out) or PackedSequence
        h_n : (L*D, N, H_out)
            LSTM: the pair (h_n, c_n), c_n (L*D, N, H).
        states : sequence.States
            With `return_states`: ``states.h`` (L*D, T+1, N, H_out) and, for LSTM, ``states.c`` (L*D, T+1, N, H).

        Raises
        ------
        TypeError, ValueError
            An argument is not as described; nothing has been changed.
        """
        if isinstance(x, tuple) and hasattr(x, "batch_sizes"):
            packed = cast("PackedSequence", x)
            return self._call_packed(packed, hx, lengths=lengths, reset=reset, return_states=return_states, out=out)
        x = validate.real_array("x", cast(ArrayLike, x), self._dtype)
        validate.rank(type(self).__name__, x)
        validate.features(x, self.input_size)
        batched = x.ndim == 3
        swap = batched and self.batch_first
        if not batched:
            x = x[:, None]
        elif swap:
            x = x.swapaxes(0, 1)
        T, N, _ = x.shape
        if x.strides[2] != x.itemsize:
            x = np.ascontiguousarray(x)
        h_0, c_0 = self._initial(hx, N, batched)
        if lengths is not None:
            lengths = validate.lengths(lengths if batched else np.atleast_1d(lengths), T, N)
        if reset is not None:
            reset = validate.mask("reset", reset, (N, T) if swap else (T, N) if batched else (T,))
            reset = reset.T if swap else reset.reshape(T, N)
        y = None if out is None else self._output_view(out, x, T, N, batched, swap)
        result = sequence.forward(
            self._stack(),
            x,
            h_0,
            c_0,
            lengths=lengths,
            reset=reset,
            dropout=self.dropout if self.training else 0.0,
            rng=self._rng,
            return_states=return_states,
            out=y,
        )
        return self._returned(result, out, batched, swap)

    def _initial(self, hx: Any, N: int, batched: bool) -> tuple[Array | None, Array | None]:
        if hx is None:
            return None, None
        n_stacked = self.num_layers * self._directions
        shape = (n_stacked, N, self._out_size) if batched else (n_stacked, self._out_size)
        if not self._spec.has_c:
            if isinstance(hx, tuple):
                raise TypeError(f"hx should be one array of shape {shape}, got: a tuple of {len(hx)}")
            h = validate.hidden("hx", hx, shape, self._dtype, batched=batched)
            return (h if batched else h[:, None]), None
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            got = f"{type(hx).__name__} of {len(hx)}" if isinstance(hx, tuple | list) else type(hx).__name__
            raise TypeError(f"hx should be a pair (h_0, c_0), got: {got}")
        c_shape = (*shape[:-1], self.hidden_size)
        h, c = (validate.real_array(f"hx[{i}]", value, self._dtype) for i, value in enumerate(hx))
        wanted = len(shape)
        ranks = f"hx and cx should also be {wanted}-D but got ({h.ndim}-D, {c.ndim}-D) tensors"
        h = validate.hidden("hx[0]", h, shape, self._dtype, batched=batched, ranks=ranks)
        c = validate.hidden("hx[1]", c, c_shape, self._dtype, batched=batched, ranks=ranks)
        return (h, c) if batched else (h[:, None], c[:, None])

    def _output_view(self, out: Any, x: Array, T: int, N: int, batched: bool, swap: bool) -> Array:
        """`out` as (T, N, D*H_out), or an array in its place where the kernels cannot write to it directly."""
        features = self._directions * self._out_size
        shape = (N, T, features) if swap else (T, N, features) if batched else (T, features)
        y = validate.out(out, shape, self._dtype)
        y = y.swapaxes(0, 1) if swap else y.reshape(T, N, features) if not batched else y
        direct = y.strides[2] == y.itemsize and y.flags.aligned and not np.may_share_memory(y, x)
        return y if direct else np.empty((T, N, features), self._dtype)

    def _returned(self, result: sequence.Result, out: Array | None, batched: bool, swap: bool) -> Any:
        y, h_n, c_n, states = result
        if swap:
            y = y.swapaxes(0, 1)
        if not batched:
            y, h_n, c_n = y[:, 0], h_n[:, 0], None if c_n is None else c_n[:, 0]
            if states is not None:
                states = sequence.States(states.h[:, :, 0], None if states.c is None else states.c[:, :, 0])
        if out is not None:
            if not np.may_share_memory(y, out):
                out[...] = y
            y = out
        final = h_n if c_n is None else (h_n, c_n)
        return (y, final) if states is None else (y, final, states)

    def _call_packed(
        self, packed: PackedSequence, hx: Any, *, lengths: Any, out: Any, reset: Any, **kwargs: Any
    ) -> Any:
        from ..packing import PackedSequence

        for name, value in (("lengths", lengths), ("out", out), ("reset", reset)):
            if value is not None:
                raise ValueError(f"{name} should be None where x is a PackedSequence, got: {type(value).__name__}")
        data = validate.real_array("x.data", packed.data, self._dtype)
        if data.ndim != 2:
            raise ValueError(f"{type(self).__name__}: Expected packed data to be 2D, got {data.ndim}D instead")
        validate.features(data, self.input_size)
        N = int(packed.batch_sizes[0])
        running = np.arange(N) < np.asarray(packed.batch_sizes)[:, None]  # (T, N): packed order is this mask's order
        x = np.zeros((*running.shape, self.input_size), self._dtype)
        x[running] = data
        h_0, c_0 = self._initial(hx, N, True)
        order, back = packed.sorted_indices, packed.unsorted_indices
        if order is not None:
            h_0, c_0 = None if h_0 is None else h_0[:, order], None if c_0 is None else c_0[:, order]
        result = sequence.forward(
            self._stack(),
            x,
            h_0,
            c_0,
            lengths=running.sum(0).astype(np.intp),
            dropout=self.dropout if self.training else 0.0,
            rng=self._rng,
            **kwargs,
        )
        y, h_n, c_n, states = result
        if back is not None:
            h_n, c_n = h_n[:, back], None if c_n is None else c_n[:, back]
            if states is not None:
                states = sequence.States(states.h[:, :, back], None if states.c is None else states.c[:, :, back])
        y_packed = PackedSequence(y[running], packed.batch_sizes, order, back)
        final = h_n if c_n is None else (h_n, c_n)
        return (y_packed, final) if states is None else (y_packed, final, states)

    def stream(self, batch_size: int = 1) -> Stream:
        """An object that runs the layer step by step and keeps the state.

        Parameters
        ----------
        batch_size : int
            Rows that run side by side.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            The layer is bidirectional: its reverse direction would need the future.
        """
        from ..stream import Stream

        if self.bidirectional:
            raise ValueError("stream needs a layer of one direction, got: bidirectional=True")
        return Stream(self._stack(), self.input_size, validate.size("batch_size", batch_size), self.batch_first)

    def __repr__(self) -> str:
        text = f"{type(self).__name__}({self.input_size}, {self.hidden_size}"
        if self.proj_size:
            text += f", proj_size={self.proj_size}"
        if self.num_layers != 1:
            text += f", num_layers={self.num_layers}"
        if not self.bias:
            text += ", bias=False"
        if self.batch_first:
            text += ", batch_first=True"
        if self.dropout != 0:
            text += f", dropout={self.dropout}"
        if self.bidirectional:
            text += ", bidirectional=True"
        return text + ")"
