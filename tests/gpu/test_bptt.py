"""Backprop through time in one launch, on the executor, against the reference in float64."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest

pytest.importorskip("greenlet")

import body_tools
import executor

from fastrnn.backends import Record, reference
from fastrnn.cells import CELLS, GRU, LSTM, RNN_RELU, RNN_TANH, CellSpec, Weights

RANDOM = "random"


class Case:
    """Random data of one layer, what the reference makes of it, and the kernel's arguments."""

    def __init__(self, spec, H, N=1, D=1, T=3, *, reverse=0, lengths=None, reset=None, dy=True, nan=None, seed=0):
        rng = np.random.default_rng(seed)
        self.spec, self.H, self.N, self.D, self.T, self.reverse, self.has_dy = spec, H, N, D, T, reverse, dy
        GH, C = spec.n_gates * H, (spec.n_states - 1) * H
        if lengths is RANDOM:
            lengths = rng.integers(0, T + 1, N)
            lengths[rng.integers(N)] = T
        self.lengths = None if lengths is None else np.array(lengths)
        self.reset = rng.random((T, N)) < 0.4 if reset is RANDOM else None if reset is None else np.array(reset, bool)
        w_hh, biases = rng.standard_normal((D, GH, H)) / np.sqrt(H), rng.standard_normal((2, D, GH))
        x = rng.standard_normal((T, N, D, GH))
        h_0, dh_n = rng.standard_normal((2, D, N, H))
        c_0, dc_n = np.abs(rng.standard_normal((2, D, N, C)))
        d_output = rng.standard_normal((T, N, D, H))
        if nan is not None:
            dh_n[0, nan, 1] = executor.SENTINEL

        # What is not to be looked at is NaN.
        gh, c_all = np.full((T, N, D, GH), np.nan), np.full((T, N, D, C), np.nan)
        h_prev = np.zeros((T, N, D, H))
        self.dgx, self.dgh = np.zeros((2, T, N, D, GH))
        self.dh_0, self.dc_0 = dh_n.copy(), dc_n.copy()
        for d in range(D):
            backwards = bool(reverse ^ d)
            weights = Weights(np.eye(GH), w_hh[d], biases[0, d], biases[1, d])
            prepared = reference.prepare(spec, weights)
            h, c = h_0[d].copy(), c_0[d].copy() if C else None
            for step in reference._steps(prepared, x[:, :, d], h, c, self.lengths, self.reset, backwards):
                rows = step.running
                gh[step.t, rows, d] = step.gh - biases[1, d]
                h_prev[step.t, rows, d] = step.h_prev
                before = step.t + backwards
                if self.reset is not None and before < T:
                    gh[step.t, self.reset[before] & reference._rows(before, N, self.lengths, None)[0], d] = np.nan
                if C:
                    c_all[step.t, rows, d] = step.c
            record = Record(
                x[:, :, d], None, h_0[d], c_0[d] if C else None, None, None, self.lengths, self.reset, backwards
            )

            def note(sums, step, x, dgx, dgh, *others, d=d):
                self.dgx[step.t, step.running, d], self.dgh[step.t, step.running, d] = dgx, dgh

            with mock.patch.object(reference, "_add", note):
                reference.backward(
                    prepared,
                    record,
                    d_output[:, :, d] if dy else None,
                    self.dh_0[d],
                    self.dc_0[d] if C else None,
                    None,
                    reference.new_sums(prepared),
                )
        if self.lengths is not None:
            past = np.arange(T)[:, None] >= self.lengths
            x[past] = d_output[past] = np.nan

        self.got = SimpleNamespace(
            dgx=np.full((T, N, D, GH), np.nan),
            dgh=np.full((T, N, D, GH), executor.SENTINEL),
            dh_0=np.full((D, N, H), np.nan),
            dc_0=np.full((D, N, C), np.nan),
            status=np.zeros(1, np.int32),
        )
        nothing = np.full(1, np.nan)
        gx, dy_buffer = np.full((N, T + 1, D * GH + 3), np.nan), np.full((T, N, D * H + 1), np.nan)  # N first
        gx[:, :T, : D * GH] = x.reshape(T, N, -1).swapaxes(0, 1)
        dy_buffer[..., : D * H] = d_output.reshape(T, N, -1)
        flat = [
            gx, D * GH + 3, (T + 1) * (D * GH + 3), gh, *biases, w_hh.transpose(0, 2, 1), h_prev, c_0, c_all,
            dy_buffer if dy else nothing, N * (D * H + 1), D * H + 1, dh_n, dc_n,
            self.got.dgx, self.got.dgh, self.got.dh_0, self.got.dc_0,
            nothing if self.lengths is None else self.lengths.astype(np.int32),
            nothing if self.reset is None else self.reset.astype(np.uint8),
            self.got.status, T, reverse, 10**6,
        ]  # fmt: skip
        self.arguments = [np.ascontiguousarray(a).reshape(-1) if isinstance(a, np.ndarray) else a for a in flat]

    def run(self, module=None, multiprocessors=16, missing=0, spins=10**6, **options):
        module = module or executor.load("bptt")
        shape = self.spec, self.H, self.N, self.D
        kernel = module.kernel(
            *shape,
            ragged=self.lengths is not None,
            resets=self.reset is not None,
            has_dy=self.has_dy,
            multiprocessors=multiprocessors,
        )
        self.arguments[-1] = spins
        blocks, directions = module.grid(*shape, multiprocessors)
        return executor.run(kernel, (blocks - missing, directions), self.arguments, **options)

    def check(self, module=None, **options):
        outcome = self.run(module, **options)
        got = self.got
        assert got.status[0] == 0
        if executor.load("cell").device_cell(self.spec, np.dtype(np.float32)).sums_only:
            assert np.isnan(got.dgx).all()  # not written
        else:
            close(got.dgx, self.dgx)
        close(got.dgh, self.dgh)
        close(got.dh_0, self.dh_0)
        if got.dc_0.size:
            close(got.dc_0, self.dc_0)
        return outcome


def close(got, truth):
    np.testing.assert_allclose(got, truth, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"T": 1},
        {"T": 1, "D": 2, "lengths": [1, 0], "reset": [[True, True]]},
        {"dy": False},
        {"D": 2},
        {"D": 2, "reverse": 1},
        {"reverse": 1, "reset": RANDOM},
        {"reset": RANDOM, "T": 5},
        {"lengths": [0, 3], "dy": False},
        {"lengths": [2, 0], "reverse": 1},
        {"D": 2, "lengths": RANDOM, "reset": RANDOM, "T": 5},
    ],
    ids=str,
)
def test_options(cell, options):
    seed = len(str(options))
    Case(CELLS[cell], 12, 2, seed=seed, **{"T": 3} | options).check(seed=seed)


@pytest.mark.parametrize("seed", range(8))
def test_any_order_of_threads(seed):
    """Stores are seen late and warps differ in speed, by the seed; so do shapes and options."""
    rng = np.random.default_rng(seed)
    spec = list(CELLS.values())[seed % 4]
    H, N, D, T = 4 * rng.integers(1, 8), rng.integers(1, 3), rng.integers(1, 3), rng.integers(1, 5)
    lengths, reset = (RANDOM if rng.random() < 0.5 else None for _ in range(2))
    sizes = (int(n) for n in (H, N, D, T))
    case = Case(spec, *sizes, reverse=seed & 1, lengths=lengths, reset=reset, dy=rng.random() < 0.8, seed=seed)
    assert case.check(seed=seed, delay=100).stale or T == 1


SPLIT = ("_MOST_WARPS = 11", "_MOST_WARPS = 1")  # as many chunks in each lane as large sizes have
TIGHT = ("_REGISTERS = 168", "_REGISTERS = 84")  # two of four rows at once


@pytest.mark.parametrize(
    ("spec", "H", "N", "options"),
    [
        (LSTM, 64, 1, {}),  # two warps
        (LSTM, 100, 1, {}),  # four; not all lanes have a chunk, not all lanes that finish a unit
        (GRU, 44, 2, {"edit": SPLIT}),
        (LSTM, 40, 1, {"edit": SPLIT}),
        (RNN_TANH, 36, 4, {"multiprocessors": 5}),  # four rows in one block
        (LSTM, 16, 4, {"multiprocessors": 2, "edit": TIGHT}),
        (GRU, 16, 5, {"multiprocessors": 4}),  # three rows and two
        (GRU, 16, 5, {"multiprocessors": 4, "edit": TIGHT}),
        (RNN_RELU, 40, 2, {"multiprocessors": 3}),  # 16 units in a block
        (LSTM, 40, 1, {"multiprocessors": 1000}),
    ],
)
def test_shapes(spec, H, N, options):
    edit = options.get("edit")
    module = executor.load("bptt", (edit,) if edit else ())
    case = Case(spec, H, N, T=2, lengths=RANDOM if N > 1 else None, reset=RANDOM, seed=H)
    case.check(module, multiprocessors=options.get("multiprocessors", 16))


@pytest.mark.parametrize("name", ["minimal_gated_unit", "coupled_lstm", "exponential_lstm", "softsign_highway"])
def test_cells_of_users(name):
    cell = body_tools.OTHERS[name]
    spec = CellSpec(name, "abcd"[: cell.gates], ("h", "c", "n", "m")[: cell.states], cell.body)
    Case(spec, 12, 2, lengths=RANDOM, reset=RANDOM).check()


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_that_is_the_sentinel(cell):
    """It is written as another NaN, or others would wait for ever; other rows do not see it."""
    case = Case(CELLS[cell], 12, 2, T=3, nan=1)
    case.check()
    words = np.append(case.got.dgh, executor.SENTINEL).astype(np.float32).view(np.uint32)
    assert np.flatnonzero(words == 0xFFFFFFFF).tolist() == [case.got.dgh.size]


def test_nan_does_not_pass_a_closed_relu():
    case = Case(RNN_RELU, 12, 2, T=3, nan=1)
    assert not np.isnan(case.dgx).any()  # the unit is closed in the last step
    case.check()


def test_gives_up():
    """Where a block is missing all others come to an end, and say that the numbers are wrong."""
    for missing in range(2):
        case = Case(LSTM, 20, 1, T=3)
        case.run(missing=missing, spins=5000, patience=10**5)
        assert case.got.status[0] == missing


def test_what_others_say_ends_a_wait():
    case = Case(LSTM, 20, 1, T=3)
    case.got.status[:] = 1
    case.run(missing=1, patience=10**5)


#: Edits of the source; more are in test_planted_faults.
FAULTS = {
    "one word of four looked at": (
        "is_sentinel(a) | is_sentinel(b) | is_sentinel(c) | is_sentinel(d)",
        "is_sentinel(a)",
    ),
    "last chunk alone waited for": ("waits = True\n", "waits = i == CHUNKS - 1\n"),
    "plain store": ("ptx.store_relaxed(dgh, here + g * H, d)", "dgh[here + g * H] = d"),
    "one step read again and again": (
        "meet()\n            here += OF_STEP if backwards else -OF_STEP",
        "meet()",
    ),
    "dh not zeroed at a reset": ("dh = zero if ends else dh", "dh = dh"),
    "dc not zeroed at a reset": ("dc[k] = zero if ends else dc[k]", "dc[k] = dc[k]"),
    "dgh comes past a reset": ("passes = not ends", "passes = True"),
    "gh counts at a reset": ("zero if resets and ends else raw_gh[g]", "raw_gh[g]"),
    "dh of rows that do not run": ("dh = d if runs or not ragged else dh", "dh = d"),
    "dc of rows that do not run": ("dc[k] = d if runs or not ragged else dc[k]", "dc[k] = d"),
}


def check_with(edits, spec):
    """A case in which every fault shows."""
    case = Case(spec, 36, 2, T=4, lengths=[3, 4], reset=[[0, 0], [0, 1], [1, 0], [0, 0]])
    case.check(executor.load("bptt", (SPLIT, *edits)), multiprocessors=5)


@pytest.mark.parametrize("spec", [LSTM, GRU], ids=lambda spec: spec.name)
def test_no_fault_is_found_where_there_is_none(spec):
    check_with((), spec)


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault):
    spec = GRU if "dh not" in fault else LSTM  # of an LSTM nothing passes by gh
    found, text = (executor.Race, None) if "plain" in fault else (AssertionError, "Not equal to tolerance")
    with pytest.raises(found, match=text):
        check_with((FAULTS[fault],), spec)


def test_plans():
    """What is taken, and that no more registers and blocks are asked for than there are."""
    module = executor.load("bptt")
    properties = SimpleNamespace(multiprocessors=132)

    def fits(spec, H, N=1, D=1, dtype="float32", properties=properties):
        return module.fits(spec, np.dtype(dtype), H, N, D, properties)

    for spec in CELLS.values():
        assert all(fits(spec, H, N) for H in (32, 100, 128, 256, 512, 768, 1024) for N in (1, 2, 4))
        assert all(fits(spec, H, 2, 2) for H in (32, 128, 512))
        assert not any(fits(spec, 2048, N) for N in (1, 4))
        assert not fits(spec, 64, dtype="float64")
        assert not fits(spec, 64, N=2000)
    assert fits(LSTM, 256, 16)
    assert not fits(GRU, 50)  # loads of four
    assert not fits(LSTM, 1024, 1, 2)
    assert not fits(LSTM, 1024, properties=SimpleNamespace(multiprocessors=108))
    assert not fits(CellSpec("unit", "a", ("h",), body_tools.independent_rnn, unit_weights=1, recurrent=False), 64)
    for spec in CELLS.values():
        for H in range(4, 1100, 36):
            for N in (1, 3, 4, 8, 16):
                for D in (1, 2):
                    if (plan := module.plan(spec, H, N, D, 132)) is None:
                        continue
                    blocks, directions = module.grid(spec, H, N, D, 132)
                    assert blocks * directions <= 132
                    assert plan.blocks * plan.units >= H > (plan.blocks - 1) * plan.units
                    assert plan.groups * plan.rows >= N > (plan.groups - 1) * plan.rows
                    assert plan.warps * plan.chunks * 128 >= spec.n_gates * H
