"""Problems for the kernels that run a recurrence forward in one launch, and what the reference makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from executor import SENTINEL, run

from fastrnn.backends import reference
from fastrnn.cells import CellSpec, Weights
from fastrnn.elementary import sigmoid, tanh


def five_gates(gx, gh, s):
    a, b, c, d, e = (x + h for x, h in zip(gx, gh, strict=True))
    slow = sigmoid(a) * s[1] + tanh(b)
    fast = sigmoid(c) * s[2] + tanh(d)
    return sigmoid(e) * tanh(slow - fast), slow, fast


FIVE_GATES = CellSpec("five_gates", "abcde", ("h", "slow", "fast"), five_gates)
UNTOUCHED = -77.0


def strided(values, t_first, padding=0):
    """The same numbers (T, N, K) with another layout: its memory, the strides of t and n in elements."""
    T, N, K = values.shape
    memory = np.full((T, N, K + padding) if t_first else (N, T, K + padding), SENTINEL)
    view = memory if t_first else memory.swapaxes(0, 1)
    view[..., :K] = values
    return memory.ravel(), view.strides[0] // 8, view.strides[1] // 8, view[..., :K]


@dataclass
class Case:
    spec: Any
    H: int
    N: int = 2
    D: int = 1
    T: int = 4
    reverse: bool = False
    lengths: Any = None
    resets: bool = False
    keep: bool = True
    seed: int = 0
    scale: float = 1.0
    t_first: bool = True
    values: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        random = np.random.default_rng(self.seed)
        H, N, D, T, G = self.H, self.N, self.D, self.T, self.spec.n_gates
        C = (self.spec.n_states - 1) * H
        normal = random.standard_normal
        self.gx, self.w_hh = normal((T, N, D * G * H)), self.scale * normal((D * G * H, H)) / np.sqrt(H)
        self.b_ih, self.b_hh = normal(D * G * H), normal(D * G * H)
        self.h_0, self.c_0 = normal((D, N, H)), normal((D, N, C))
        self.reset = (random.random((T, N)) < 0.3).astype(np.uint8) if self.resets else None
        for name, value in self.values.items():
            setattr(self, name, value(getattr(self, name)))

    @property
    def flags(self):
        return {"ragged": self.lengths is not None, "resets": self.resets, "keep": self.keep}

    def truth(self):
        """y, h_n, c_n, gh_all, c_all; `UNTOUCHED` where a kernel may write what it likes."""
        H, N, D, T, G, S = self.H, self.N, self.D, self.T, self.spec.n_gates, self.spec.n_states
        y, h_n, c_n = np.zeros((T, N, D * H)), self.h_0.copy(), self.c_0.copy()
        gh_all, c_all = np.full((T, N, D, G * H), UNTOUCHED), np.full((T, N, D, (S - 1) * H), UNTOUCHED)
        lengths = None if self.lengths is None else np.asarray(self.lengths)
        reset = None if self.reset is None else self.reset.astype(bool)
        for d in range(D):
            rows = slice(d * G * H, (d + 1) * G * H)
            weights = Weights(np.eye(G * H), self.w_hh[rows], self.b_ih[rows], self.b_hh[rows])
            prepared = reference.prepare(self.spec, weights)
            c = c_n[d] if S > 1 else None
            backwards = bool(self.reverse ^ d)
            for s in reference._steps(prepared, self.gx[..., rows], h_n[d], c, lengths, reset, backwards):
                y[s.t, s.running, d * H : (d + 1) * H] = s.h
                gh_all[s.t, s.running, d] = s.gh - self.b_hh[rows]
                if S > 1:
                    c_all[s.t, s.running, d] = s.c
        return y, h_n, c_n, gh_all.reshape(T, N, -1), c_all.reshape(T, N, -1)

    def run(self, kernel, grid, seed=0, spins=1 << 20, status=0, **options):
        """What a kernel makes of it, likewise; and the status word."""
        H, N, D, T, G, S = self.H, self.N, self.D, self.T, self.spec.n_gates, self.spec.n_states
        gx, gx_t, gx_n, _ = strided(self.gx, self.t_first)
        y, y_t, y_n, y_view = strided(np.full((T, N, D * H), SENTINEL), self.t_first, padding=4)
        h_n, c_n = np.full((D, N, H), UNTOUCHED), np.full((D, N, (S - 1) * H), UNTOUCHED)
        gh_all, c_all = np.full((T, N, D * G * H), UNTOUCHED), np.full((T, N, D * (S - 1) * H), UNTOUCHED)
        lengths = np.zeros(N, np.int32) if self.lengths is None else np.array(self.lengths, np.int32)
        reset = np.zeros((T, N), np.uint8) if self.reset is None else self.reset
        word = np.array([status], np.int32)
        flat = [a.reshape(-1) for a in (self.w_hh, self.b_ih, self.b_hh, self.h_0, self.c_0, h_n, c_n)]
        # What is not there is any pointer.
        flat = [a if a.size else word for a in flat]
        rest = [lengths, reset.reshape(-1), gh_all.reshape(-1), c_all.reshape(-1) if c_all.size else word, word]
        arguments = [gx, gx_t, gx_n, *flat, y, y_t, y_n, *rest, T, int(self.reverse), spins]
        self.outcome = run(kernel, grid, arguments, seed=seed, **options)
        return (y_view, h_n, c_n, gh_all, c_all), int(word[0])

    def check(self, kernel, grid, tolerance=1e-12, **options):
        results, status = self.run(kernel, grid, **options)
        assert status == 0
        for name, got, truth in zip(("y", "h_n", "c_n", "gh_all", "c_all"), results, self.truth(), strict=True):
            if name in ("gh_all", "c_all") and not self.keep:
                assert (got == UNTOUCHED).all(), name
                continue
            np.testing.assert_allclose(got, truth, rtol=0, atol=tolerance, err_msg=name)
        return self.outcome
