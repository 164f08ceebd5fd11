"""RNN, LSTM and GRU over sequences, with torch's arguments, shapes and parameter names."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from .. import validate
from ..cells import GRU as GRU_SPEC
from ..cells import LSTM as LSTM_SPEC
from ..cells import NONLINEARITIES, CellSpec
from .recurrent_base import RecurrentBase


class RNN(RecurrentBase):
    """Elman network: ``h' = tanh(W_ih x + b_ih + W_hh h + b_hh)``, or relu in place of tanh [1]_.

    Parameters
    ----------
    input_size, hidden_size : int
        Features of the input (I) and of the state (H).
    num_layers : int
        Layers stacked on one another (L).
    nonlinearity : "tanh" or "relu"
        The fourth positional argument, as in torch.
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
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 : ndarray (H, I), (H, H), (H,), (H,)
        Parameters under torch's names and in torch's layout; ``_l1`` and so on for further layers,
        ``_reverse`` for the second direction.
    training : bool

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.RNN.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> rnn = fastrnn.RNN(3, 4, nonlinearity="relu", rng=0)
    >>> y, h_n = rnn(np.ones((5, 2, 3)))                 # 5 steps, 2 rows, 3 features
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(
            nonlinearity_spec(nonlinearity),
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


class LSTM(RecurrentBase):
    """Long short-term memory [1]_, with a projection of the output where `proj_size` is given.

    ``c' = sigmoid(f) c + sigmoid(i) tanh(g)``, ``h' = sigmoid(o) tanh(c')``, where ``i f g o`` are the four parts of
    ``W_ih x + b_ih + W_hh h + b_hh``. With a projection ``W_hr h'`` is put out and fed back.


    Parameters
    ----------
    input_size, hidden_size : int
        Features of the input (I) and of the state (H).
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
    proj_size : int
        Size of the projection (P), 0 for none; the output then has P features (H_out) and not H.
    dtype : float32 or float64
    device : "cpu", "cuda" or "cuda:N"
        Where it runs; parameters are NumPy arrays on the host all the same. See `to`.
    rng : int, numpy.random.Generator or None
        Draws the initial parameters, uniform in ±1/sqrt(H), and dropout.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 : ndarray (4*H, I), (4*H, H_out), (4*H,), (4*H,)
        Parameters under torch's names and in torch's layout, rows in the order i f g o; ``weight_hr_l0`` (P, H) with a
        projection; ``_l1`` and so on for further layers,
        ``_reverse`` for the second direction.
    training : bool

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.LSTM.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> lstm = fastrnn.LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True, rng=0)
    >>> y, (h_n, c_n) = lstm(np.ones((2, 5, 3)), lengths=[5, 2])
    >>> y.shape, h_n.shape, c_n.shape
    ((2, 5, 8), (4, 2, 4), (4, 2, 4))
    >>> bool(y[1, 2:].any())                             # 0 past a row's length
    False
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        dtype: DTypeLike = "float32",
        device: str = "cpu",
        rng: Any = None,
    ) -> None:
        super().__init__(
            LSTM_SPEC,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            dtype=dtype,
            device=device,
            rng=rng,
        )


class GRU(RecurrentBase):
    """Gated recurrent unit [1]_.

    ``r = sigmoid(W_ir x + b_ir + W_hr h + b_hr)``, z likewise, ``n = tanh(W_in x + b_in + r (W_hn h + b_hn))``,
    ``h' = (1 - z) n + z h``.


    Parameters
    ----------
    input_size, hidden_size : int
        Features of the input (I) and of the state (H).
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
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0 : ndarray (3*H, I), (3*H, H), (3*H,), (3*H,)
        Parameters under torch's names and in torch's layout, rows in the order r z n; ``_l1`` and so on for further
        layers, ``_reverse`` for the second direction.
    training : bool

    Raises
    ------
    TypeError, ValueError
        An argument is not as described.

    References
    ----------
    .. [1] https://docs.pytorch.org/docs/2.13/generated/torch.nn.GRU.html

    Examples
    --------
    >>> import numpy as np
    >>> import fastrnn
    >>> gru = fastrnn.GRU(3, 4, rng=0)
    >>> x = np.ones((5, 2, 3))                           # 5 steps, 2 rows, 3 features
    >>> (y, h_n), backward = gru.vjp(x)                  # as y, h_n = gru(x), and with gradients
    >>> y.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    >>> backward(np.ones_like(y)).params["weight_hh_l0"].shape
    (12, 4)
    """

    def __init__(
        self,
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
        super().__init__(
            GRU_SPEC,
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


def nonlinearity_spec(nonlinearity: Any) -> CellSpec:
    return NONLINEARITIES[validate.nonlinearity(nonlinearity, NONLINEARITIES)]
