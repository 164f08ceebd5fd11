"""RNNCell, LSTMCell and GRUCell: one step, with torch's arguments, shapes and parameter names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .. import validate
from ..cells import GRU as GRU_SPEC
from ..cells import LSTM as LSTM_SPEC
from ..cells import CellSpec, Sizes, Weights
from .device import gpu
from .engine_layer import EngineLayer
from .recurrent import nonlinearity_spec

if TYPE_CHECKING:
    from ..vjp import Backward, Gradients

Array = NDArray[Any]


class Cell(EngineLayer):
    """What the three cells share. Not constructed by users."""

    _fixed = ("input_size", "hidden_size", "nonlinearity", "bias")

    def __init__(
        self, spec: CellSpec, input_size: int, hidden_size: int, bias: bool, *, dtype: DTypeLike, device: str, rng: Any
    ) -> None:
        self._spec = spec
        self.input_size = validate.size("input_size", input_size)
        self.hidden_size = validate.size("hidden_size", hidden_size)
        self.bias = validate.flag("bias", bias)
        self._sizes = Sizes(spec, self.input_size, self.hidden_size, bias=self.bias)
        shapes = {name.removesuffix("_l0"): shape for name, shape in self._sizes.shapes()[0].items()}
        super().__init__(shapes, dtype=dtype, device=device, rng=rng)

    def _init_bound(self) -> float:
        return float(1 / np.sqrt(self.hidden_size))

    def __call__(self, x: ArrayLike, hx: Any = None) -> Any:
        """One step.

        Parameters
        ----------
        x : (N, I) or (I,)
            Any real numbers; cast to the layer's dtype.
        hx : (N, H) or (H,), for LSTMCell a pair of these, optional
            The state before the step, zeros where not given.

        Returns
        -------
        h : (N, H) or (H,)
            LSTMCell: the pair (h, c).

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.
        """
        stack = self._stack()
        if self._device != "cpu":
            return gpu().cell(stack, self._checked_call, x, hx)
        rows, state, batched = self._checked_call(x, hx)
        y = np.empty_like(state[0])
        stack.backend.forward(stack.prepared[0], rows[None], y[None], state[0], state[1] if self._spec.has_c else None)
        new = [s if batched else s[0] for s in state]
        return tuple(new) if self._spec.has_c else new[0]

    forward = __call__

    def vjp(
        self, x: ArrayLike, hx: Any = None, *, wrt: str | Iterable[str] = ("x", "hx", "params")
    ) -> tuple[Any, CellBackward]:
        """One step, and what brings gradients back through it.

        Parameters
        ----------
        x, hx
            As in a call of the cell.
        wrt : some of "x", "hx", "params"
            What gradients are wanted for; others are not computed.

        Returns
        -------
        result
            As a call of the cell gives it: h, for LSTMCell (h, c).
        backward : CellBackward
            ``grads = backward(d_h, *, per_sample=False)``, for LSTMCell ``backward((d_h, d_c))``: ``grads.x``,
            ``grads.hx``, ``grads.params``.

        Raises
        ------
        TypeError, ValueError
            An argument is not as described.
        """
        from ..vjp import cell_vjp

        check = self._unchanged()  # first, so that a change of the weights meanwhile is seen
        stack = self._stack()
        run = cell_vjp if self._device == "cpu" else gpu().cell_vjp
        result, shape, backward = run(
            stack, self._backward_weights(stack), list(self._params), self._checked_call, x, hx, wrt, check
        )
        return result, CellBackward(backward, shape, self._dtype, self._spec)

    def _checked_call(self, x: ArrayLike, hx: Any) -> tuple[Array, list[Array], bool]:
        """x (N, I), fresh arrays of the states (N, H), and whether the caller has the axis N."""
        name = type(self).__name__
        x = validate.real_array("x", x, self._dtype)
        if x.ndim not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {x.ndim}D instead")
        if x.shape[-1] != self.input_size:
            raise ValueError(f"input has inconsistent input_size: got {x.shape[-1]} expected {self.input_size}")
        batched = x.ndim == 2
        rows = np.ascontiguousarray(x if batched else x[None])
        state = [np.zeros((len(rows), self.hidden_size), self._dtype) for _ in self._spec.states]
        for i, given in enumerate(self._given(hx)):
            state[i][...] = self._checked_state(i, given, batched, len(rows))
        return rows, state, batched

    def _weights(self) -> list[Weights]:
        return [Weights(**dict(zip(self._sizes.fields, self._params.values(), strict=True)))]

    def _given(self, hx: Any) -> tuple[Any, ...]:
        if hx is None:
            return ()
        if not self._spec.has_c:
            if isinstance(hx, tuple):
                raise TypeError(f"hx should be one array (N, {self.hidden_size}), got: a tuple of {len(hx)}")
            return (hx,)
        if not isinstance(hx, tuple | list) or len(hx) != 2:
            got = f"{type(hx).__name__} of {len(hx)}" if isinstance(hx, tuple | list) else type(hx).__name__
            raise TypeError(f"hx should be a pair (h, c), got: {got}")
        return tuple(hx)

    def _checked_state(self, i: int, value: Any, batched: bool, N: int) -> Array:
        # torch calls the states hidden0 and hidden1, and hx[0] and hx[1] where the rank is wrong.
        a = validate.real_array(f"hx[{i}]" if self._spec.has_c else "hx", value, self._dtype)
        if a.ndim not in (1, 2):
            label = f"hx[{i}]" if self._spec.has_c else "hidden"
            raise ValueError(f"{type(self).__name__}: Expected {label} to be 1D or 2D, got {a.ndim}D instead")
        if a.ndim != 1 + batched:
            raise ValueError(f"hidden{i} should be {1 + batched}D like the input, got {a.ndim}D")
        if batched and len(a) != N:
            raise ValueError(f"Input batch size {N} doesn't match hidden{i} batch size {len(a)}")
        if a.shape[-1] != self.hidden_size:
            raise ValueError(f"hidden{i} has inconsistent hidden_size: got {a.shape[-1]}, expected {self.hidden_size}")
        return a

    def __repr__(self) -> str:
        text = f"{type(self).__name__}({self.input_size}, {self.hidden_size}"
        if not self.bias:
            text += f", bias={self.bias}"
        if getattr(self, "nonlinearity", "tanh") != "tanh":
            text += f", nonlinearity={self.nonlinearity}"
        return text + ")"


class CellBackward:
    """What `Cell.vjp` returns beside the result; pure, like `vjp.Backward`."""

    def __init__(self, backward: Backward, shape: tuple[int, ...], dtype: np.dtype[Any], spec: CellSpec) -> None:
        self._backward, self._spec = backward, spec
        self._dtype, self._shape = dtype, shape

    def __call__(self, d_h: Any, *, per_sample: bool = False) -> Gradients:
        """Gradients of a scalar with respect to what ``wrt`` named.

        Parameters
        ----------
        d_h : (N, H) or (H,), for LSTMCell a pair (d_h, d_c)
            The scalar's gradient with respect to the new state; in a pair None stands for zeros.
        per_sample : bool
            Gradients of the parameters for each row of the batch: (N, ...) and not their sum.

        Returns
        -------
        Gradients

        Raises
        ------
        RuntimeError
            The weights have changed since the forward pass.
        TypeError, ValueError
            An argument is not as described.
        """
        return self._backward.through_cell(self._checked, d_h, per_sample=per_sample)

    def _checked(self, d_h: Any) -> list[Array]:
        """The gradients of the states, in the caller's shape."""
        given = [d_h]
        if self._spec.has_c:
            if not isinstance(d_h, tuple | list) or len(d_h) != 2:
                got = f"{type(d_h).__name__} of {len(d_h)}" if isinstance(d_h, tuple | list) else type(d_h).__name__
                raise TypeError(f"d_h should be a pair (d_h, d_c), got: {got}")
            given = list(d_h)
        names = ["d_h[0]", "d_h[1]"] if self._spec.has_c else ["d_h"]
        states = []
        for name, value in zip(names, given, strict=True):
            value = np.zeros(self._shape, self._dtype) if value is None and self._spec.has_c else value
            states.append(validate.shaped(name, value, self._shape, self._dtype))
        return states


class RNNCell(Cell):
    """One step of an Elman network: ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    nonlinearity : "tanh" or "relu"
    dtype, device, rng
        As in `RNN`.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.RNNCell.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> cell = fastrnn.RNNCell(3, 4, rng=0)
    >>> cell(np.ones((2, 3))).shape                      # 2 rows; the state before is zero
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        spec = nonlinearity_spec(nonlinearity)
        super().__init__(spec, input_size, hidden_size, bias, dtype=dtype, device=device, rng=rng)


class LSTMCell(Cell):
    """One step of long short-term memory; equations as in `LSTM` [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    dtype, device, rng
        As in `LSTM`.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.LSTMCell.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> cell = fastrnn.LSTMCell(3, 4, rng=0)
    >>> state = None
    >>> for x_t in np.ones((5, 2, 3)):
    ...     state = cell(x_t, state)
    >>> h, c = state
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        super().__init__(LSTM_SPEC, input_size, hidden_size, bias, dtype=dtype, device=device, rng=rng)


class GRUCell(Cell):
    """One step of a gated recurrent unit; equations as in `GRU` [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
    bias : bool
    dtype, device, rng
        As in `GRU`.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.GRUCell.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> cell = fastrnn.GRUCell(3, 4, rng=0)
    >>> h = cell(np.ones((2, 3)), np.zeros((2, 4)))
    >>> h.shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        super().__init__(GRU_SPEC, input_size, hidden_size, bias, dtype=dtype, device=device, rng=rng)
