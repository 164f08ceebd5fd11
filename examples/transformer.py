"""A transformer in the style of scikit-learn, in ten lines: sequences of any length in, one row of features each out.

    python examples/transformer.py

The layer may have random weights, as here, or those of a checkpoint. Where scikit-learn is installed, let the class
inherit from its BaseEstimator and TransformerMixin, and it fits into pipelines and searches.
"""

from __future__ import annotations

import numpy as np

import fastrnn


class RecurrentFeatures:
    """The final state of a layer: list of (T, I) arrays -> (number of arrays, H)."""

    def __init__(self, layer: fastrnn.GRU) -> None:
        self.layer = layer

    def fit(self, X: list[np.ndarray], y: object = None) -> RecurrentFeatures:
        return self

    def transform(self, X: list[np.ndarray]) -> np.ndarray:
        _, h_n = self.layer(fastrnn.pad_sequence(X), lengths=[len(x) for x in X])
        return h_n[-1]


def waves(rng: np.random.Generator, n: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Noisy waves (T, 1) of different length, and whether they are fast."""
    fast = rng.integers(0, 2, n)
    lengths, starts = rng.integers(20, 60, n), rng.uniform(0, 20, n)
    X = [np.sin((0.3 + 0.3 * fast[i]) * (starts[i] + np.arange(lengths[i])))[:, None] for i in range(n)]
    return [x + 0.1 * rng.normal(size=x.shape) for x in X], fast


def main() -> None:
    rng = np.random.default_rng(0)
    (X, y), (X_new, y_new) = waves(rng, 300), waves(rng, 200)
    features = RecurrentFeatures(fastrnn.GRU(1, 64, rng=0)).fit(X, y)

    def with_constant(rows: np.ndarray) -> np.ndarray:
        return np.column_stack([rows, np.ones(len(rows))])

    weights, *_ = np.linalg.lstsq(with_constant(features.transform(X)), y, rcond=None)
    found = with_constant(features.transform(X_new)) @ weights > 0.5
    print(f"{np.mean(found == y_new):.0%} of new sequences told apart by a random layer and least squares")


if __name__ == "__main__":
    main()
