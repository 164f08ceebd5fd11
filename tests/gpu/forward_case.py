"""A layer's forward pass for the kernels that run all of its steps in one launch, on the executor; and the truth."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import executor
import numpy as np

from fastrnn.backends import reference
from fastrnn.cells import CellSpec, Weights


class Forward:
    """Random data of one layer, what the reference makes of it, and arrays for a kernel to write to.

    Arrays are larger than what is to be touched. What a kernel may read but should not look at is NaN.
    """

    def __init__(
        self,
        spec: CellSpec,
        H: int,
        N: int = 1,
        D: int = 1,
        T: int = 3,
        *,
        lengths: Any = None,
        reset: Any = None,
        reverse: int = 0,
        keep: bool = False,
        draw: int = 0,
        change: Any = None,  # of the data, before anything is made of it
    ) -> None:
        rng = np.random.default_rng(draw)
        G, C = spec.n_gates, (spec.n_states - 1) * H
        self.shape = spec, H, N, D
        self.T, self.reverse = T, reverse
        self.lengths = None if lengths is None else np.array(lengths, np.int32)
        self.reset = None if reset is None else np.array(reset, np.uint8).reshape(T, N)
        self.flags = {"ragged": lengths is not None, "resets": reset is not None, "keep": keep}
        self.given = SimpleNamespace(
            gx=rng.standard_normal((T, N, D * G * H)),
            w_hh=rng.standard_normal((D * G * H, H)) / np.sqrt(H),
            b_ih=rng.standard_normal(D * G * H),
            b_hh=rng.standard_normal(D * G * H),
            h_0=rng.standard_normal((D, N, H)),
            c_0=rng.standard_normal((D, N, C)),
        )
        if change is not None:
            change(self.given)
        self.truth = self._truth()

    def _truth(self) -> SimpleNamespace:
        spec, H, N, D = self.shape
        g, T, GH, C = self.given, self.T, spec.n_gates * H, (spec.n_states - 1) * H
        truth = SimpleNamespace(
            y=np.zeros((T, N, D * H)),
            h_n=g.h_0.copy(),
            c_n=g.c_0.copy(),
            gh_all=np.full((T, N, D * GH), np.nan),
            c_all=np.full((T, N, D * C), np.nan),
        )
        reset = None if self.reset is None else self.reset != 0
        for d in range(D):
            gates, units, others = (slice(d * n, (d + 1) * n) for n in (GH, H, C))
            # The input part is made to be the given one.
            weights = Weights(np.eye(GH), g.w_hh[gates], g.b_ih[gates], g.b_hh[gates])
            prepared = reference.prepare(spec, weights)
            c = truth.c_n[d] if C else None
            backwards = bool(self.reverse ^ d)
            with np.errstate(invalid="ignore"):
                for step in reference._steps(
                    prepared, g.gx[..., gates], truth.h_n[d], c, self.lengths, reset, backwards
                ):
                    truth.y[step.t, step.running, units] = step.h
                    truth.gh_all[step.t, step.running, gates] = step.gh - g.b_hh[gates]
                    if C:
                        truth.c_all[step.t, step.running, others] = step.c
        return truth

    def run(
        self, kernel: Any, grid: tuple[int, int], *, sentinel: bool = True, spins: int = 1 << 20, **options: Any
    ) -> executor.Outcome:
        spec, H, N, D = self.shape
        T, g, G, C = self.T, self.given, spec.n_gates, (spec.n_states - 1) * H
        gx = np.full((N, T + 1, D * G * H + 3), np.nan)  # as of a batch_first x
        gx[:, :T, : D * G * H] = g.gx.swapaxes(0, 1)
        if self.lengths is not None:
            for n, length in enumerate(self.lengths):
                gx[n, length:] = np.nan
        keep = self.flags["keep"]
        got = self.got = SimpleNamespace(
            y=np.full((T, N, D * H + 4), executor.SENTINEL if sentinel else np.nan),
            h_n=np.full((D, N, H), np.nan),
            c_n=np.full((D, N, C), np.nan),
            gh_all=np.full((T, N, D * G * H) if keep else (0,), np.nan),
            c_all=np.full((T, N, D * C) if keep else (0,), np.nan),
            status=np.zeros(1, np.int32),
        )
        arguments = [
            gx, gx.shape[2], gx.shape[1] * gx.shape[2], g.w_hh, g.b_ih, g.b_hh, g.h_0, g.c_0, got.h_n, got.c_n,
            got.y, N * got.y.shape[2], got.y.shape[2],
            np.zeros(0, np.int32) if self.lengths is None else self.lengths,
            np.zeros(0, np.uint8) if self.reset is None else self.reset,
            got.gh_all, got.c_all, got.status, T, self.reverse, spins,
        ]  # fmt: skip
        flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in arguments]
        return executor.run(kernel, grid, flat, **options)

    def check(self, kernel: Any, grid: tuple[int, int], *, tolerance: float = 1e-12, **options: Any) -> None:
        """Run it and compare all that it writes."""
        _, H, _, D = self.shape
        self.run(kernel, grid, **options)
        assert self.got.status[0] == 0
        assert np.isnan(self.got.y[..., D * H :]).all()
        self.got.y = self.got.y[..., : D * H]
        for name in ("y", "h_n", "c_n", *(("gh_all", "c_all") if self.flags["keep"] else ())):
            got, truth = getattr(self.got, name), getattr(self.truth, name)
            if name in ("gh_all", "c_all"):  # of rows that do not run it does not matter what they are
                runs = ~np.isnan(truth) if self.lengths is not None else slice(None)
                got, truth = got[runs], truth[runs]
            np.testing.assert_allclose(got, truth, rtol=0, atol=tolerance, err_msg=name)
