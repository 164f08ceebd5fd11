"""Layers of users' cells."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from ..custom import Cell
from .recurrent_base import RecurrentBase


class Recurrent(RecurrentBase):
    """A layer of one's own cell, with all that RNN, LSTM and GRU have.

    Parameters
    ----------
    cell : Cell
    input_size, hidden_size : int
        Features of the input (I) and of each state (H).
    num_layers : int
        Layers stacked on one another (L).
    bias : bool
        Whether there are ``bias_ih`` and ``bias_hh``.
    batch_first : bool
        Input and output are (N, T, ...) and not (T, N, ...); states never are.
    dropout : float
        In training mode, on the output of every layer but the last. Layers start in evaluation mode.
    bidirectional : bool
        A second direction runs from the last step to the first; its output follows the first's (D = 2).
    dtype : float32 or float64
    device : "cpu", "cuda" or "cuda:N"
        Where it runs; parameters are NumPy arrays on the host all the same. See `to`.
    rng : int, numpy.random.Generator or None
        Draws the initial parameters, uniform in ±1/sqrt(H), and dropout.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 : ndarray (G*H, I), (G*H, H), (G*H,), (G*H,)
        Parameters, rows in the order of the cell's gates; ``weight_hh`` and ``bias_hh`` where the cell is recurrent;
        ``weight_unit_l0`` (U, H) where it has unit weights; ``_l1`` and so on for further layers, ``_reverse`` for the
        second direction.
    training : bool

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    Notes
    -----
    The ``cython`` backend runs torch's cells only: where it is in force, such a layer runs on ``numba``, which
    ``pip install "fastrnn[numba]"`` installs, or raises BackendError. On a GPU it runs as the others do.

    Examples
    --------
    See `Cell`.
    """

    _fixed = ("cell", *RecurrentBase._fixed)

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        if not isinstance(cell, Cell):
            raise TypeError(f"cell should be a fastrnn.Cell, got: {type(cell).__name__}")
        self.cell = cell
        super().__init__(
            cell.spec,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            dtype=dtype,
            device=device,
            rng=rng,
        )

    def __repr__(self) -> str:
        return super().__repr__().replace("(", f"({self.cell.name}, ", 1)
