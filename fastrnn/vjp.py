"""Vector-Jacobian products of a recurrent network: a call, and the function that brings gradients back through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, SupportsIndex, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import backward, sequence, validate
from .call import Arguments, Options, arguments, ordered, returned, sequence_back, state_back, states_of
from .sequence import Stack
from .tape import Tape

if TYPE_CHECKING:
    from .packing import PackedSequence

Array = NDArray[Any]
WRT = ("x", "hx", "params")


class Gradients(NamedTuple):
    """The gradients of a scalar; None for what ``wrt`` did not name.

    Attributes
    ----------
    x : array of the shape of the input, or PackedSequence
    hx : (L*D, N, H_out), for LSTM a pair of that and (L*D, N, H), for S states a tuple of S
        With respect to the initial state, whether or not one was given. Cells: (N, H).
    params : dict of str to array
        Under torch's names, in torch's order; of the parameters' shapes, with a leading axis N where ``per_sample``.
    """

    x: Any
    hx: Any
    params: dict[str, Array] | None

    def lowered(self, batched: bool) -> Gradients:
        """Those of a cell, of which these are with `lift`ed arguments."""
        return self._replace(x=lower(self.x, batched), hx=lower(self.hx, batched))


class Backward:
    """What `vjp` returns beside the result: call it with the gradient of a scalar with respect to that result.

    It is pure: it keeps what it needs of the forward pass and adds to nothing, so it may be called any number of
    times, from several threads too.
    """

    def __init__(
        self,
        stack: Stack,
        tape: Any,
        a: Arguments,
        names: Sequence[Sequence[str]],
        wrt: frozenset[str],
        consume: bool,
        check: Callable[[], None],
    ) -> None:
        self._stack, self._names, self._wrt, self._check = stack, names, wrt, check
        self._output_shape = (*a.x.shape[:2], stack.sizes.directions * stack.sizes.out_size)
        # The tape has what is needed of these, and may give it up.
        self._args = a._replace(x=np.empty(0), h_0=None, c_0=None, lengths=None, reset=None)
        self._consume = consume
        self._tapes = [tape]  # pop is atomic: of two calls with `consume` one gets it

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        # What it keeps lies as this machine's kernels want it.
        raise TypeError("a backward function cannot be copied or pickled; call vjp again")

    def __repr__(self) -> str:
        wrt = ", ".join(name for name in WRT if name in self._wrt)
        return f"<backward through {self._stack.sizes.spec.kind} with respect to {wrt}>"

    def __call__(self, d_output: Any, d_state: Any = None, *, per_sample: bool = False) -> Gradients:
        """Gradients with respect to what ``wrt`` named.

        Parameters
        ----------
        d_output : array of the output's shape, PackedSequence where the output is one, or None
            The scalar's gradient with respect to the output; None: zeros. Not read past a row's length.
        d_state : (L*D, N, H_out), for LSTM a pair of that and (L*D, N, H), for S states a tuple of S, optional
            With respect to the final state; zeros where not given, and for None in the pair or tuple.
        per_sample : bool
            Gradients of the parameters for each row of the batch: (N, ...) and not their sum.

        Returns
        -------
        Gradients

        Raises
        ------
        RuntimeError
            The weights have changed since the forward pass, or `consume` was given and this is the second call.
        TypeError, ValueError
            An argument is not as described; nothing has been used up.
        """
        self._check()
        per_sample = validate.flag("per_sample", per_sample)
        seeds = self._seeds(d_output, d_state)
        result = backward.backward(
            self._stack,
            self._tape(),
            *seeds,
            wants_x="x" in self._wrt,
            wants_weights="params" in self._wrt,
            per_sample=per_sample,
            consume=self._consume,
        )
        return self._gradients(result, per_sample)

    def through_cell(self, checked: Callable[[Any], list[Any]], d_h: Any, *, per_sample: bool) -> Gradients:
        """Gradients through one step of a cell; `checked(d_h)` gives those of the states."""
        states = checked(d_h)
        batched = states[0].ndim == 2
        lifted = tuple(lift(state, batched) for state in states)
        return self(None, lifted if len(lifted) > 1 else lifted[0], per_sample=per_sample).lowered(batched)

    def _seeds(self, d_output: Any, d_state: Any) -> tuple[Array | None, Array | None, Array | None]:
        """dy, dh_n, dc_n as `backward.backward` takes them."""
        a = self._args
        dy = self._d_output(d_output)
        dh_n, dc_n = states_of(self._stack, "d_state", d_state, self._output_shape[1], a.batched)
        if a.packed is not None:
            dh_n, dc_n = (ordered(s, a.packed.sorted_indices) for s in (dh_n, dc_n))
        return dy, dh_n, dc_n

    def _tape(self) -> Any:
        try:
            return self._tapes.pop() if self._consume else self._tapes[0]
        except IndexError:
            raise RuntimeError("backward was called a second time after vjp(..., consume=True)") from None

    def _gradients(self, result: Any, per_sample: bool) -> Gradients:
        """What `backward.backward` found, in the caller's shapes."""
        a = self._args
        return Gradients(
            None if result.dx is None else sequence_back(result.dx, a),
            state_back(result.dh_0, result.dc_0, a, self._stack.sizes.spec) if "hx" in self._wrt else None,
            None if result.weights is None else self._params(result.weights, per_sample),
        )

    def _params(self, weights: list[Any], per_sample: bool) -> dict[str, Array]:
        packed = self._args.packed
        back = packed.unsorted_indices if packed is not None and per_sample else None
        params: dict[str, Array] = {}
        for names, of_one in zip(self._names, weights, strict=True):
            fields = (w if back is None else w[back] for w in of_one if w is not None)
            params.update(zip(names, fields, strict=True))
        return params

    def _d_output(self, given: Any) -> Array | None:
        if given is None:
            return None
        a, (T, N, features) = self._args, self._output_shape
        if a.packed is not None:
            data = _packed_like("d_output", given, a.packed).data if hasattr(given, "batch_sizes") else given
            flat = validate.shaped("d_output", data, (len(a.packed.data), features), self._stack.dtype)
            dy = np.zeros((T, N, features), self._stack.dtype)
            dy[a.running] = flat
            return dy
        if isinstance(given, tuple):
            got = type(given).__name__ if hasattr(given, "batch_sizes") else f"a tuple of {len(given)}"
            raise TypeError(f"d_output should be one array, as the output is (d_state is its own argument), got: {got}")
        dy = validate.shaped("d_output", given, a.outer(self._output_shape), self._stack.dtype)
        dy = dy.swapaxes(0, 1) if a.swap else dy if a.batched else dy[:, None]
        return dy if dy.strides[2] == dy.itemsize else np.ascontiguousarray(dy)


def lift(a: Any, batched: bool) -> Any:
    """A cell's (N, ·) or (·,) as (1, N, ·)."""
    return a[None] if batched else a[None, None]


def lower(a: Any, batched: bool) -> Any:
    """The other way round, of an array, a tuple of some, or None."""
    if a is None or isinstance(a, tuple):
        return a and tuple(lower(part, batched) for part in a)
    return a[0] if batched else a[0, 0]


def _packed_like(name: str, given: PackedSequence, packed: PackedSequence) -> PackedSequence:
    """`given`, where it has the rows of `packed`, as long and in the same order."""
    if not np.array_equal(given.batch_sizes, packed.batch_sizes):
        expected, got = (np.asarray(p.batch_sizes).tolist() for p in (packed, given))
        raise ValueError(f"{name} should have the output's batch_sizes {expected}, got: {got}")
    order, own = packed.sorted_indices, given.sorted_indices
    if order is not None and own is not None and not np.array_equal(order, own):
        raise ValueError(f"{name} should have its rows in the output's order {order}, got: {own}")
    return given


def vjp(
    stack: Stack,
    backward_weights: list[Any],
    names: Sequence[Sequence[str]],
    options: Options,
    x: ArrayLike | PackedSequence,
    hx: Any,
    *,
    lengths: ArrayLike | None,
    reset: ArrayLike | None,
    wrt: str | Iterable[str],
    consume: bool,
    checkpoint_every: int | None,
    check: Callable[[], None],
    share: bool = False,
) -> tuple[Any, Backward]:
    """See `layers.recurrent_base.RecurrentBase.vjp`.

    Parameters
    ----------
    names : list of list of str
        Of the parameters, by layer, then direction.
    check : function
        Raises where the weights have changed.
    share : bool
        Keep the caller's `x` and the output themselves, for a caller who sees to it that nobody writes to them.
    """
    wanted, consume, every = checked_options(wrt, consume, checkpoint_every)
    a = arguments(stack, options, x, hx, lengths, reset)
    if a.reset is not None:
        a = a._replace(reset=np.array(a.reset, order="C"))
    tape = Tape(backward_weights, every, options.dropout)
    shape = (*a.x.shape[:2], stack.sizes.directions * stack.sizes.out_size)
    result = sequence.forward(
        stack,
        a.x,
        a.h_0,
        a.c_0,
        lengths=a.lengths,
        reset=a.reset,
        dropout=options.dropout,
        rng=options.rng() if options.dropout else None,
        # Not memory of the tape, whose blocks are large, where the caller gets it and not a copy.
        out=np.empty(shape, stack.dtype) if share or every is not None else None,
        tape=tape,
    )
    if not share and a.packed is None:
        if tape.x[0] is a.x and np.may_share_memory(a.x, cast(Any, x)):
            tape.x[0] = stack.backend.empty(a.x.shape, stack.dtype)
            tape.x[0][...] = a.x
        if tape.holds(result.y):
            result = result._replace(y=result.y.copy())
    output, final, _ = returned(result, a, stack.sizes.spec)
    return (output, final), Backward(stack, tape, a, names, wanted, consume, check)


def checked_options(wrt: Any, consume: Any, checkpoint_every: Any) -> tuple[frozenset[str], bool, int | None]:
    every = None if checkpoint_every is None else validate.size("checkpoint_every", checkpoint_every)
    return validate.wrt(wrt, WRT), validate.flag("consume", consume), every


def cell_vjp(
    stack: Stack,
    backward_weights: list[Any],
    names: Sequence[str],
    checked: Callable[[Any, Any], tuple[Array, list[Array], bool]],
    x: Any,
    hx: Any,
    wrt: str | Iterable[str],
    check: Callable[[], None],
) -> tuple[Any, tuple[int, ...], Backward]:
    """See `layers.cell.Cell.vjp`.

    Parameters
    ----------
    checked : function
        ``checked(x, hx)`` gives x (N, I), the states (N, H), and whether the caller has the axis N.

    Returns
    -------
    result : h or tuple of all states
    shape : (N, H) or (H,)
        Of each.
    backward : Backward
    """
    rows, state, batched = checked(x, hx)
    states = tuple(s[None] for s in state)
    options = Options(stack.sizes.spec.kind, False, 0.0, np.random.default_rng)
    (_, final), backward = vjp(
        stack,
        backward_weights,
        [names],
        options,
        rows[None],
        states if len(states) > 1 else states[0],
        lengths=None,
        reset=None,
        wrt=wrt,
        consume=False,
        checkpoint_every=None,
        check=check,
    )
    result = lower(final, batched)
    return result, (result[0] if len(states) > 1 else result).shape, backward
