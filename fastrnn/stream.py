"""A recurrent layer run step by step: the state is kept between calls."""

from __future__ import annotations

from typing import Any, NoReturn, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import validate
from .sequence import Stack

Array = NDArray[Any]


class Stream:
    """The state of a layer that is fed step by step; made by ``layer.stream(batch_size)``.

    It keeps the weights that the layer had when it was made. Dropout is never applied. One stream belongs to one
    thread; any number of streams may share a layer.

    That of a layer on a GPU keeps its state there. It takes NumPy arrays and arrays on the GPU, as the layer does, and
    gives arrays of the kind that it is given; `state` those of the last call's kind.

    Parameters
    ----------
    stack : sequence.Stack
    batch_size : int
        Rows that run side by side (N).
    batch_first : bool
        Whether `process` takes (N, T, I).
    """

    def __init__(self, stack: Stack, batch_size: int, batch_first: bool) -> None:
        self._stack = stack
        self._input_size = input_size = stack.sizes.input_size
        self._batch_size = batch_size
        self._batch_first = batch_first
        self._dtype = stack.dtype
        N = batch_size
        self._shapes = ((N, input_size), (input_size,)) if N == 1 else ((N, input_size),)
        self._begin()

    def _begin(self) -> None:
        """Make the initial state."""
        stack, sizes = self._stack, self._stack.sizes
        L, N = len(stack.prepared), self._batch_size
        self._h = np.zeros((L, N, sizes.out_size), self._dtype)
        self._c = np.zeros((L, N, sizes.c_size), self._dtype) if sizes.spec.has_c else None
        # Backends may offer the whole step as one call.
        make = getattr(stack.backend, "stepper", None)
        self._step = make(stack.prepared, self._h, self._c).step if make else None

    @property
    def batch_size(self) -> int:
        return self._batch_size

    def step(self, x_t: ArrayLike, out: Array | None = None) -> Array:
        """Feed one step.

        Parameters
        ----------
        x_t : (N, I), or (I,) where N = 1
        out : array of the output's shape and dtype, optional
            Where the output is written.

        Returns
        -------
        (N, H_out), or (H_out,) for `x_t` of shape (I,)
            `out`, else a fresh array.
        """
        x = validate.real_array("x_t", x_t, self._dtype)
        if x.shape not in self._shapes:
            self._check_step(x)
        shape = (*x.shape[:-1], self._stack.sizes.out_size)
        y = np.empty(shape, self._dtype) if out is None else validate.out(out, shape, self._dtype)
        if self._step is not None and x.flags.c_contiguous and y.flags.c_contiguous and y.flags.aligned:
            self._step(x, y)
        else:
            y[...] = self._run(x.reshape(1, self._batch_size, -1)).reshape(shape)
        return y

    def process(self, chunk: ArrayLike) -> Array:
        """Feed any number of steps at once.

        Parameters
        ----------
        chunk : (T, N, I), (N, T, I) where the layer is batch_first, or (T, I) where N = 1

        Returns
        -------
        (T, N, H_out), (N, T, H_out) or (T, H_out)
        """
        x = validate.real_array("chunk", chunk, self._dtype)
        unbatched, swap = self._check_chunk(x)
        y = self._run(x[:, None] if unbatched else x.swapaxes(0, 1) if swap else x)
        return y[:, 0] if unbatched else y.swapaxes(0, 1) if swap else y

    def _check_step(self, x: Array) -> None:
        if x.shape not in self._shapes:
            expected = " or ".join(map(str, self._shapes))
            raise ValueError(f"x_t should have shape {expected}, got: {x.shape}")

    def _check_chunk(self, x: Array) -> tuple[bool, bool]:
        """Whether a chunk lacks the axis N, and whether that is its first one."""
        N = self._batch_size
        unbatched = x.ndim == 2 and N == 1
        if x.ndim != 3 and not unbatched:
            raise ValueError(f"chunk should be 3D{' or 2D' if N == 1 else ''}, got {x.ndim}D")
        swap = self._batch_first and not unbatched
        if (1 if unbatched else x.shape[not swap], x.shape[-1]) != (N, self._input_size):
            raise ValueError(f"chunk should have a batch of {N} and {self._input_size} features, got: shape {x.shape}")
        return unbatched, swap

    def _run(self, x: Array) -> Array:
        """(T, N, I) -> (T, N, H_out), through all layers."""
        if x.strides[-1] != x.itemsize:
            x = np.ascontiguousarray(x)
        for i, prepared in enumerate(self._stack.prepared):
            y = np.empty((len(x), self._batch_size, self._stack.sizes.out_size), self._dtype)
            self._stack.backend.forward(prepared, x, y, self._h[i], None if self._c is None else self._c[i])
            x = y
        return x

    def reset(self, mask: ArrayLike | None = None) -> None:
        """Set the state to zero.

        Parameters
        ----------
        mask : bool (N,), optional
            The rows to reset; all of them where not given.
        """
        rows = np.ones(self._batch_size, bool) if mask is None else validate.mask("mask", mask, (self._batch_size,))
        self._h[:, rows] = 0
        if self._c is not None:
            self._c[:, rows] = 0

    @property
    def state(self) -> Any:
        """h (L, N, H_out), for LSTM the pair (h, c), c (L, N, H), for S states a tuple of S.

        A copy when read; assign to set it.
        """
        states = tuple(state.copy() for state in self._states())
        return states[0] if self._c is None else states

    @state.setter
    def state(self, value: Any) -> None:
        checked = self._checked_state(value)
        for to, array in zip(self._states(), checked.values(), strict=True):
            to[...] = array

    def _checked_state(self, value: Any) -> dict[str, Array]:
        """The states under their names for errors, all of the right shape."""
        sizes = self._stack.sizes
        n, L, N = sizes.spec.n_states, sizes.num_layers, self._batch_size
        named = {"state": value}
        if n > 1:
            if not isinstance(value, tuple | list) or len(value) != n:
                expected = f"a {'pair' if n == 2 else 'tuple'} ({', '.join(sizes.spec.states)})"
                raise TypeError(f"state should be {expected}, got: {type(value).__name__}")
            named = {f"state[{i}]": given for i, given in enumerate(value)}
        checked = {}
        for i, (name, given) in enumerate(named.items()):
            shape = (L, N, sizes.hidden_size if i else sizes.out_size)
            array = checked[name] = validate.real_array(name, given, self._dtype)
            if array.shape != shape:
                raise ValueError(f"{name} should have shape {shape}, got: {array.shape}")
        return checked

    def _states(self) -> tuple[Array, ...]:
        """The states themselves."""
        return (self._h,) if self._c is None else (self._h, *self._stack.sizes.spec.split_c(self._c))

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # Packed weights lie as this machine's kernels want them.
        raise TypeError("a stream cannot be copied or pickled; make another with layer.stream() and set its state")
