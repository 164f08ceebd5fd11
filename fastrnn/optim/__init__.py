"""Optimizers and what belongs to them, with torch's names, arguments, arithmetic and state dicts, in NumPy.

>>> import fastrnn, numpy as np
>>> gru = fastrnn.GRU(3, 4, rng=0)
>>> optimizer = fastrnn.optim.Adam(gru.parameters(), lr=0.01)
>>> (y, h_n), backward = gru.vjp(np.ones((5, 2, 3)))
>>> optimizer.step(backward(np.ones_like(y)).params)
"""

from . import lr_scheduler as lr_scheduler
from .adam import Adam, AdamW
from .clip import clip_grad_norm
from .optimizer import Optimizer
from .rmsprop import RMSprop
from .sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm"]
