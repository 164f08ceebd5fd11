"""Weights and biases as the loops want them: panels of whole registers, filled up with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..memory import aligned

Array = NDArray[Any]


def gate_vectors(w: Array, gates: int, VL: int, width: int) -> Array:
    """(G*H, ...) in torch's order -> (panels, width, VL, ...): vector b*G + g has gate g of the b-th VL units."""
    H = len(w) // gates
    blocks = -(-H // VL)
    padded = np.zeros((gates, blocks * VL, *w.shape[1:]), w.dtype)
    padded[:, :H] = w.reshape(gates, H, *w.shape[1:])
    vectors = padded.reshape(gates, blocks, VL, *w.shape[1:]).swapaxes(0, 1)
    return panels(vectors.reshape(blocks * gates, VL, *w.shape[1:]), width)


def panels(vectors: Array, width: int) -> Array:
    """(n, VL, ...) -> (panels, width, VL, ...)"""
    n = -(-len(vectors) // width)
    found = np.zeros((n * width, *vectors.shape[1:]), vectors.dtype)
    found[: len(vectors)] = vectors
    return found.reshape(n, width, *vectors.shape[1:])


def k_first(w: Array) -> Array:
    """(panels, width, VL, K) -> (panels, K, width, VL), as products read it."""
    found = aligned((w.shape[0], w.shape[3], *w.shape[1:3]), w.dtype)
    found[...] = w.transpose(0, 3, 1, 2)
    return found


def gate_weights(w: Array, gates: int, VL: int, width: int) -> Array:
    """(G*H, K) -> (panels, K, width, VL)"""
    return k_first(gate_vectors(w, gates, VL, width))


def columns(w: Array, VL: int, width: int) -> Array:
    """(K, C) -> (panels, K, width, VL): for products with w itself, not with its transpose."""
    return gate_weights(w.T, 1, VL, width)


def gate_bias(b: Array, gates: int, VL: int, width: int) -> Array:
    """(G*H,) -> (panels, width, VL)"""
    vectors = gate_vectors(b, gates, VL, width)
    found = aligned(vectors.shape, b.dtype)
    found[...] = vectors
    return found
