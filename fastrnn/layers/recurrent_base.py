"""What RNN, LSTM, GRU and Recurrent share: their call and their parameters under torch's names."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..call import Options, call
from ..cells import CellSpec, Sizes, Weights
from .device import gpu
from .engine_layer import EngineLayer

if TYPE_CHECKING:  # imported when first used, so that `import fastrnn` costs little
    from ..packing import PackedSequence
    from ..stream import Stream
    from ..vjp import Backward

Array = NDArray[Any]


class RecurrentBase(EngineLayer):
    """Not constructed by users."""

    _fixed: tuple[str, ...] = (
        "input_size",
        "hidden_size",
        "num_layers",
        "nonlinearity",
        "bias",
        "bidirectional",
        "proj_size",
    )
    _checks: ClassVar = {
        **EngineLayer._checks,
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
        self._sizes = Sizes(
            spec,
            self.input_size,
            self.hidden_size,
            self.num_layers,
            2 if self.bidirectional else 1,
            self.bias,
            self.proj_size,
        )
        shapes = self._sizes.shapes()
        self._names = [list(part) for part in shapes]  # of the parameters, by layer, then direction
        super().__init__(
            {name: shape for part in shapes for name, shape in part.items()}, dtype=dtype, device=device, rng=rng
        )

    def _init_bound(self) -> float:
        return float(1 / np.sqrt(self.hidden_size))

    @property
    def all_weights(self) -> list[list[Array]]:
        """The live parameter arrays, a list for each layer and direction, as in torch."""
        return [[self._params[name] for name in names] for names in self._names]

    def _weights(self) -> list[Weights]:
        fields = self._sizes.fields
        return [Weights(**dict(zip(fields, arrays, strict=True))) for arrays in self.all_weights]

    def _options(self) -> Options:
        dropout = self.dropout if self.training else 0.0
        return Options(type(self).__name__, self.batch_first, dropout, lambda: self._rng)

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
        hx : (L*D, N, H_out), for LSTM a pair of that and (L*D, N, H), for S states a tuple of S, optional
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
            LSTM: the pair (h_n, c_n), c_n (L*D, N, H). A cell of S states: a tuple of S.
        states : sequence.States
            With `return_states`: ``states.h`` (L*D, T+1, N, H_out) and, for LSTM, ``states.c`` (L*D, T+1, N, H); for S
            states (L*D, T+1, N, (S-1)*H).

        Raises
        ------
        TypeError, ValueError
            An argument is not as described; nothing has been changed.
        BackendError
            The layer is on a GPU, which is out of memory or cannot be used any more.

        Notes
        -----
        On a GPU, arrays may also be another library's that lie there (CuPy, JAX, Numba, torch; in general what has
        ``__cuda_array_interface__`` or DLPack): all of them or none, `lengths` and `reset` aside. They have the layer's
        dtype, and are neither cast nor copied to the host; values of such `lengths` are not checked, one below 0 or
        above T counts as 0 or T. The work is done on the library's current stream, and results are arrays of that
        library; of one that is not known, `cuda.device_array.DeviceArray`.
        """
        run = call if self._device == "cpu" else gpu().call
        return run(
            self._stack(),
            self._options(),
            x,
            hx,
            lengths=lengths,
            reset=reset,
            return_states=return_states,
            out=out,
        )

    forward = __call__

    def vjp(
        self,
        x: ArrayLike | PackedSequence,
        hx: Any = None,
        *,
        lengths: ArrayLike | None = None,
        reset: ArrayLike | None = None,
        wrt: str | Iterable[str] = ("x", "hx", "params"),
        consume: bool = False,
        checkpoint_every: int | None = None,
    ) -> tuple[Any, Backward]:
        """Run the layer, and return what brings gradients back through it: a vector-Jacobian product.

        Parameters
        ----------
        x, hx, lengths, reset
            As in a call of the layer.
        wrt : some of "x", "hx", "params"
            What gradients are wanted for; others are not computed.
        consume : bool
            The returned function may be called once only, and gives up what it keeps as it goes.
        checkpoint_every : int, optional
            Keep only the states before every so many steps (rounded up to a multiple of 128 on the ``cython``
            backend), and compute the steps between once more on the way back. Gradients have the same bits.

        Returns
        -------
        result
            ``(output, h_n)``, for LSTM ``(output, (h_n, c_n))``, as a call of the layer gives it.
        backward : vjp.Backward
            ``grads = backward(d_output, d_state=None, *, per_sample=False)``: ``grads.x``, ``grads.hx``,
            ``grads.params``. After a change of the weights it raises RuntimeError.

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.

        Notes
        -----
        In training mode dropout is applied, and the gradients are those for the mask that was drawn.

        On a GPU, gradients are arrays of the kind that `x` is of, and `d_output` and `d_state` have to be; with
        `checkpoint_every` they are the same within rounding, not to the last bit.
        """
        from ..vjp import vjp

        check = self._unchanged()  # first, so that a change of the weights meanwhile is seen
        stack = self._stack()
        run = vjp if self._device == "cpu" else gpu().vjp
        found: tuple[Any, Backward] = run(
            stack,
            self._backward_weights(stack),
            self._names,
            self._options(),
            x,
            hx,
            lengths=lengths,
            reset=reset,
            wrt=wrt,
            consume=consume,
            checkpoint_every=checkpoint_every,
            check=check,
        )
        return found

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
        make = Stream if self._device == "cpu" else gpu().Stream
        stream: Stream = make(self._stack(), validate.size("batch_size", batch_size), self.batch_first)
        return stream

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
