"""Faults that were planted in the kernels are found: the executor reports a race, a deadlock or another misuse, or the
results are wrong.

A fault replaces a piece of a kernel's source that must be there once: where a kernel has changed, so must its faults.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("greenlet")

import test_bptt
from executor import SENTINEL, BadAccess, Deadlock, Race, load
from forward_case import Forward
from forward_cases import Case

from fastrnn.cells import GRU, LSTM

Wrong = AssertionError  # results
Edit = tuple[str, str]


def as_sentinel(a):
    """A gate's input part that makes h, of a unit and a step, a NaN with all bits of the sentinel; GPUs give others."""
    a[0, 0, -3] = -SENTINEL  # of o, whose sigmoid takes the exponential of what is less
    return a


#: What kernels have between their sums and their cells.
A_SYNC, A_CELL = "            cuda.syncthreads()\n", "\n            # ---- the cell"
A_TURN = "uint64(of_step) - buffer, own_twice - own_now"


def one_block(edits: tuple[Edit, ...], seed: int, nan: bool) -> None:
    case = Case(LSTM, 20, N=2, T=5, seed=seed)
    module = load("one_block", edits)
    kernel = module.kernel(case.spec, case.H, case.N, case.D, slices=4, **case.flags)
    case.check(kernel, module.grid(case.N, case.D), seed=seed)


def small_batch(edits: tuple[Edit, ...], seed: int, nan: bool) -> None:
    case = Case(LSTM, 64, N=1, T=5, seed=seed, values={"gx": as_sentinel} if nan else {})
    module = load("small_batch", edits)
    tuning = module.Tuning(units=16, warps=2)
    kernel = module.kernel(case.spec, case.H, case.N, case.D, tuning=tuning, **case.flags)
    grid = module.grid(case.H, case.D, tuning)
    if nan:
        (y, *_), status = case.run(kernel, grid, seed=seed)
        assert status == 0
        assert np.isnan(y[0, 0]).sum() == 1
    else:
        case.check(kernel, grid, seed=seed)


def tensor_cores(edits: tuple[Edit, ...], seed: int, nan: bool) -> None:
    def change(given):
        as_sentinel(given.gx)

    case = Forward(LSTM, 32, 8, T=5, keep=True, draw=seed, change=change if nan else None)
    module, tuning = load("tensor_cores", edits), load("tensor_cores").Tuning(1, 1, 2)
    kernel = module.kernel(*case.shape, **case.flags, precision="ieee", tuning=tuning)
    grid = module.grid(*case.shape[1:], tuning)
    if nan:
        case.run(kernel, grid, seed=seed)
        assert case.got.status[0] == 0
        assert np.isnan(case.got.y[0, 0, :32]).sum() == 1
    else:
        case.check(kernel, grid, seed=seed)


def bptt(edits: tuple[Edit, ...], seed: int, nan: bool) -> None:
    case = test_bptt.Case(GRU, 20, 2, T=5, seed=seed, nan=1 if nan else None)
    if nan:
        case.run(load("bptt", edits), seed=seed)
        assert case.got.status[0] == 0
        assert np.isnan(case.got.dgh[-1]).any()
    else:
        case.check(load("bptt", edits), seed=seed)


class Planted(NamedTuple):
    kernel: Any
    edits: tuple[Edit, ...]
    found: tuple[type[BaseException], ...]
    nan: bool = False


FAULTS = {
    # ---- A0
    "one_block, no sync": Planted(one_block, (("- place[j]\n        cuda.syncthreads()\n", "- place[j]\n"),), (Race,)),
    "one_block, no sync at first": Planted(
        one_block, (("        cuda.syncthreads()\n\n        # gx is", "\n        # gx is"),), (Race, BadAccess)
    ),
    "one_block, wrong buffer": Planted(
        one_block, (("for j in (READ, WRITE):", "for j in (WRITE,):"),), (Race, BadAccess, Wrong)
    ),
    "one_block, single buffer": Planted(
        one_block,
        (("place[j] = place[2 + j] - place[j]\n", "pass\n"), ("uint64(width + unit),", "uint64(unit),")),
        (Race,),
    ),
    "one_block, every thread writes h": Planted(one_block, (("if not writes:", "if False:"),), (Race,)),
    # ---- A
    "small_batch, no poll": Planted(small_batch, (("if not cuda.any_sync(ALL, late):", "if True:"),), (Wrong,)),
    "small_batch, no sync": Planted(small_batch, ((A_SYNC + A_CELL, A_CELL),), (Race, BadAccess)),
    "small_batch, wrong buffer": Planted(
        small_batch, ((A_TURN, "uint64(of_step) - buffer, own_now"),), (Race, BadAccess)
    ),
    "small_batch, single buffer": Planted(small_batch, ((A_TURN, "buffer, own_now"),), (Race,)),
    "small_batch, plain store": Planted(small_batch, (("ptx.store_relaxed(y, y_at, new)", "y[y_at] = new"),), (Race,)),
    "small_batch, h of another step": Planted(small_batch, (("            before += way * y_t\n", ""),), (BadAccess,)),
    "small_batch, sentinel stays": Planted(small_batch, (("new = ptx.from_bits(NAN)", "pass"),), (Deadlock,), nan=True),
    # ---- B
    "tensor_cores, no poll": Planted(
        tensor_cores, (("if cuda.all_sync(LANES, ready | gave_up):", "if True:"),), (Wrong,)
    ),
    "tensor_cores, no sync": Planted(
        tensor_cores, (("* gx_t\n            cuda.syncthreads()\n", "* gx_t\n"),), (Race, BadAccess)
    ),
    "tensor_cores, wrong buffer": Planted(
        tensor_cores, (("uint64(place + w * PARTIAL", "uint64(PARTIALS - place + w * PARTIAL"),), (Race, BadAccess)
    ),
    "tensor_cores, single buffer": Planted(tensor_cores, (("place = PARTIALS - place\n", "pass\n"),), (Race,)),
    "tensor_cores, sentinel stays": Planted(
        tensor_cores, (("value = readable(state[0])", "value = state[0]"),), (Deadlock,), nan=True
    ),
    # ---- C
    "bptt, no poll": Planted(bptt, (("waits, tries = True, int32(0)", "waits, tries = False, int32(0)"),), (Wrong,)),
    "bptt, no sync": Planted(bptt, (("    cuda.syncthreads()\n", "    pass\n"),), (Race, BadAccess)),
    "bptt, wrong buffer": Planted(bptt, (("at = (step + 1 & 1) *", "at = (step & 1) *"),), (Race, BadAccess)),
    "bptt, single buffer": Planted(
        bptt,
        (
            ("at = (step + 1 & 1) *", "at = 0 *"),
            ("((step & 1) * W + warp) * M", "warp * M"),
            ("partial[(W + warp) * M + i]", "partial[warp * M + i]"),
        ),
        (Race,),
    ),
    "bptt, sentinel stays": Planted(bptt, (("d = ptx.from_bits(uint32(OTHER_NAN))", "pass"),), (Deadlock,), nan=True),
}


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("kernel", [one_block, small_batch, tensor_cores, bptt], ids=lambda f: f.__name__)
def test_without_a_fault_nothing_is_found(kernel, nan):
    kernel((), 1, nan)


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name):
    fault = FAULTS[name]
    with pytest.raises(fault.found):
        fault.kernel(fault.edits, 1, fault.nan)
