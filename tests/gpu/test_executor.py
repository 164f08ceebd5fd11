"""The executor itself, on tiny kernels: that it computes what a GPU would, and reports each kind of fault."""

from __future__ import annotations

import ast
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("greenlet")

from executor import SENTINEL, BadAccess, Deadlock, Divergence, Race, load, run
from stand_ins import CUDA as cuda
from stand_ins import EXACT, SOURCES, TYPES
from stand_ins import PTX as ptx

import fastrnn
from fastrnn.cells import CELLS

float32, int32, uint32 = TYPES["float32"], TYPES["int32"], TYPES["uint32"]
ALL = 0xFFFFFFFF
SENTINEL_BITS = 0xFFFFFFFF
SEEDS = range(12)


class Kernel(NamedTuple):
    function: Any
    parameters: str
    threads: int = 32
    shared: int = 0


def launch(function, parameters, *arguments, blocks=1, threads=32, seed=0, directions=1, shared=0, **options):
    return run(Kernel(function, parameters, threads, shared), (blocks, directions), arguments, seed=seed, **options)


def caught(fault, *arguments, seeds=SEEDS, **options):
    """That every seed ends in that fault; its last message."""
    for seed in seeds:
        with pytest.raises(fault) as found:
            launch(*arguments, seed=seed, **options)
    return str(found.value)


# ---- what is computed -----------------------------------------------------------------------------------------------


def test_where_a_thread_is():
    def kernel(out):
        i = cuda.grid(1) + cuda.blockIdx.y * cuda.gridsize(1)
        out[5 * i] = cuda.threadIdx.x
        out[5 * i + 1] = cuda.blockIdx.x
        out[5 * i + 2] = cuda.blockIdx.y
        out[5 * i + 3] = cuda.blockDim.x
        out[5 * i + 4] = cuda.gridDim.x * 10 + cuda.gridDim.y

    out = np.full((3, 2, 64, 5), -1)
    launch(kernel, "i", flat := out.ravel(), blocks=2, directions=3, threads=64)
    y, x, thread = np.meshgrid(range(3), range(2), range(64), indexing="ij")
    expected = np.stack([thread, x, y, np.full_like(x, 64), np.full_like(x, 23)], -1)
    np.testing.assert_array_equal(flat.reshape(out.shape), expected)


def test_collectives():
    def kernel(a, out):
        lane = cuda.laneid
        v = a[lane]
        out[lane] = cuda.shfl_sync(ALL, v, (lane + 3) % 32)
        out[32 + lane] = cuda.shfl_xor_sync(ALL, v, 5)
        out[64 + lane] = cuda.shfl_up_sync(ALL, v, 2)
        out[96 + lane] = cuda.shfl_down_sync(ALL, v, 2)
        out[128 + lane] = cuda.all_sync(ALL, v > -9)
        out[160 + lane] = cuda.any_sync(ALL, v > 3)
        out[192 + lane] = cuda.ballot_sync(ALL, lane % 3 == 0)
        mask = 0xFF << (lane & 24)
        out[224 + lane] = cuda.all_sync(mask, lane < 8)

    a, lane = np.random.default_rng(0).normal(size=32), np.arange(32)
    expected = [
        a[(lane + 3) % 32],
        a[lane ^ 5],
        a[np.where(lane < 2, lane, lane - 2)],
        a[np.where(lane > 29, lane, lane + 2)],
        np.ones(32),
        np.zeros(32),
        np.full(32, sum(1 << i for i in range(0, 32, 3))),
        lane < 8,
    ]
    for seed in SEEDS:
        launch(kernel, "ff", a, out := np.empty(256), seed=seed)
        np.testing.assert_array_equal(out, np.concatenate(expected))


@pytest.mark.parametrize("rounded", [False, True])
def test_tensor_cores(rounded):
    def kernel(a, b, d):
        lane = cuda.threadIdx.x
        g, t = lane >> 2, lane & 3
        fragment = [
            ptx.to_tf32(v)
            for v in (
                a[g * 8 + t],
                a[(g + 8) * 8 + t],
                a[g * 8 + t + 4],
                a[(g + 8) * 8 + t + 4],
                b[t * 8 + g],
                b[(t + 4) * 8 + g],
            )
        ]
        c = float32(1.0)
        out = ptx.mma_tf32(*fragment, c, c, c, c)
        for i in range(4):
            d[(g + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = out[i]

    rng = np.random.default_rng(0)
    a, b, d = rng.normal(size=(16, 8)), rng.normal(size=(8, 8)), np.empty(128)
    launch(kernel, "fff", a.ravel(), b.ravel(), d, round_to_tf32=rounded)
    off = np.abs(d.reshape(16, 8) - (1 + a @ b)).max()
    assert (1e-5 < off < 1e-2) if rounded else off < 1e-14


def test_numbers():
    def kernel(out):
        lane = cuda.threadIdx.x
        if lane == 0:
            assert ptx.bits(SENTINEL) == SENTINEL_BITS
            assert ptx.bits(ptx.from_bits(uint32(0x7FFFFFFF))) == 0x7FFFFFFF
            assert ptx.bits(float32(1.5)) == 0x3FC00000
            assert ptx.bits(1e300) == 0x7F800000
            assert ptx.from_bits(0x3FC00000) == 1.5
            assert ptx.from_bits(ptx.to_tf32(1.1)) == 1.1
            assert ptx.exp2(5000.0) == math.inf
            assert ptx.reciprocal(0.0) == math.inf
            assert ptx.fma(2.0, 3.0, 4.0) == 10.0
            assert uint32(-1) == SENTINEL_BITS
            out[0] = ptx.from_bits(SENTINEL_BITS)

    launch(kernel, "f", out := np.zeros(1, np.float32))
    assert out.view(np.uint32)[0] == SENTINEL_BITS
    launch(kernel, "f", out := np.zeros(1))
    assert ptx.bits(out[0]) == SENTINEL_BITS


@pytest.mark.parametrize("name", sorted(CELLS))
def test_bodies_of_cells(name):
    spec = CELLS[name]
    cell = load("cell").device_cell(spec, np.dtype("f"))
    rng = np.random.default_rng(0)
    G, S = spec.n_gates, spec.n_states
    given = rng.normal(size=(3 * S + 2 * G, 32)) * 3
    given[:, 0] = 800.0  # exp of it is too large for float64
    given[:, 1] = -800.0
    parts = np.split(given, [G, 2 * G, 2 * G + S, 2 * G + 2 * S])

    def kernel(given, out):
        lane = cuda.threadIdx.x
        of = [tuple(given[i * 32 + lane] for i in range(n * k, n * k + len(part))) for n, k, part in places]
        new = cell.body(*of[:3])
        dgx, dgh, ds = cell.backward(*of)
        for i, value in enumerate((*new, *dgx, *dgh, *ds)):
            out[i * 32 + lane] = value

    places = [(1, 0, parts[0]), (1, G, parts[1]), (2, G, parts[2]), (1, 2 * G + S, parts[3])]
    launch(kernel, "ff", given.ravel(), out := np.empty((2 * S + 2 * G) * 32))
    gx, gh, s, ds = (tuple(part) for part in parts[:4])
    expected = [*spec.body(gx, gh, s)]
    for part in spec.chain_rule()(gx, gh, s, ds):
        expected += [np.broadcast_to(a, 32) for a in part]
    np.testing.assert_allclose(out.reshape(-1, 32), expected, rtol=1e-13, atol=1e-14)


def test_functions_that_are_replaced_by_exact_ones():
    module = load("cell", exact=False)
    a = np.concatenate([np.linspace(-100, 100, 2001), np.geomspace(1e-30, 1, 500), -np.geomspace(1e-30, 1, 500)])
    for name, exact in EXACT.items():
        got, expected = (np.array([f(x) for x in a.tolist()]) for f in (getattr(module, name), exact))
        assert np.abs(got - expected).max() < 2.0**-23, name
        assert math.isnan(getattr(module, name)(math.nan))
    small = (np.abs(a) < 0.6) & (a != 0)
    got, expected = (np.array([f(x) for x in a[small].tolist()]) for f in (module._short_tanh, math.tanh))
    assert np.abs(got / expected - 1).max() < 2.0**-22


# ---- memory between blocks ------------------------------------------------------------------------------------------


def hand_over(out, T):
    """Block 0 writes, block 1 polls: the sentinel."""
    lane = cuda.threadIdx.x
    for t in range(T):
        if cuda.blockIdx.x == 0:
            ptx.store_relaxed(out, t * 32 + lane, float32(t * 32 + lane))
        else:
            value = ptx.load_relaxed(out, t * 32 + 31 - lane)
            while ptx.bits(value) == SENTINEL_BITS:
                value = ptx.load_relaxed(out, t * 32 + 31 - lane)
            out[(T + t) * 32 + lane] = value


def test_polling_sees_every_store_late():
    stale = 0
    for seed in SEEDS:
        out = np.full(2 * 4 * 32, SENTINEL)
        stale += launch(hand_over, "fn", out, 4, blocks=2, seed=seed).stale
        a, b = out.reshape(2, 4, 32)
        np.testing.assert_array_equal(a, np.arange(128).reshape(4, 32))
        np.testing.assert_array_equal(b, a[:, ::-1])
    assert stale


def test_the_same_seed_does_the_same():
    outcomes = [launch(hand_over, "fn", np.full(256, SENTINEL), 4, blocks=2, seed=s) for s in (1, 1, 2)]
    assert outcomes[0] == outcomes[1] != outcomes[2]


def test_stores_of_two_addresses_have_no_order_and_those_of_one_have():
    def kernel(a, seen):
        lane = cuda.threadIdx.x
        if cuda.blockIdx.x == 0:
            for i in range(1, 4):
                ptx.store_relaxed(a, lane, float32(i))
                ptx.store_relaxed(a, 32 + lane, float32(i))
            return
        before = float32(0.0)
        for _ in range(20):
            second = ptx.load_relaxed(a, 32 + lane)
            first = ptx.load_relaxed(a, lane)
            assert first >= before, "went back in time"
            before = first
            if first < second:
                seen[lane] = 1.0

    found = np.zeros(32)
    for seed in SEEDS:
        launch(kernel, "ff", np.zeros(64), found, blocks=2, seed=seed)
    assert found.any()


@pytest.mark.parametrize("seed", SEEDS)
def test_own_stores_are_seen_at_once(seed):
    def kernel(a):
        lane = cuda.threadIdx.x
        ptx.store_relaxed(a, lane, float32(1.0))
        assert ptx.load_relaxed(a, lane) == 1.0
        a[32 + lane] = 2.0
        assert a[32 + lane] == 2.0

    launch(kernel, "f", np.zeros(64), seed=seed)


def message(released, acquired, plain):
    """Threads of block 0 write, one tells; one of block 1 looks, all read."""

    def kernel(data, flag, out):
        i = cuda.threadIdx.x
        if cuda.blockIdx.x == 0:
            if plain:
                data[i] = float32(i)
            else:
                ptx.store_relaxed(data, i, float32(i))
            cuda.syncthreads()
            if i == 0:
                if released:
                    ptx.store_release(flag, 0, 1)
                else:
                    ptx.store_relaxed(flag, 0, 1)
        else:
            if i == 0:
                told = 0
                while told == 0:
                    told = ptx.load_acquire(flag, 0) if acquired else ptx.load_relaxed(flag, 0)
            cuda.syncthreads()
            out[i] = data[63 - i] if plain else ptx.load_relaxed(data, 63 - i)

    return kernel


def wrong_messages(*options):
    wrong = 0
    for seed in SEEDS:
        out = np.zeros(64)
        launch(message(*options), "fif", np.full(64, -1.0), np.zeros(1, np.int32), out, blocks=2, threads=64, seed=seed)
        wrong += not np.array_equal(out, np.arange(64)[::-1])
    return wrong


def test_release_and_acquire():
    assert wrong_messages(True, True, True) == 0
    assert wrong_messages(True, True, False) == 0
    assert wrong_messages(False, True, False) > 0
    assert wrong_messages(True, False, False) > 0


@pytest.mark.parametrize(("released", "acquired"), [(False, True), (True, False), (False, False)])
def test_plain_data_without_release_or_acquire_is_a_race(released, acquired):
    text = caught(
        Race,
        message(released, acquired, True),
        "fif",
        np.full(64, -1.0),
        np.zeros(1, np.int32),
        np.zeros(64),
        blocks=2,
        threads=64,
    )
    assert "test_executor.py:" in text
    assert "data[" in text


def test_a_counter_that_all_blocks_add_to():
    def kernel(data, counter, out):
        i, b = cuda.threadIdx.x, cuda.blockIdx.x
        for t in range(3):
            data[(t * 4 + b) * 32 + i] = float32(100 * t + 10 * b)
            cuda.syncthreads()
            if i == 0:
                ptx.add_release(counter, 0, 1)
                while ptx.load_acquire(counter, 0) < 4 * (t + 1):
                    pass
            cuda.syncthreads()
            out[(t * 4 + b) * 32 + i] = data[(t * 4 + (b + 1) % 4) * 32 + (i + 1) % 32]

    for seed in SEEDS:
        out, counter = np.zeros(3 * 4 * 32), np.zeros(1, np.int32)
        launch(kernel, "fif", np.zeros(3 * 4 * 32), counter, out, blocks=4, seed=seed)
        t, b = np.meshgrid(range(3), (1, 2, 3, 0), indexing="ij")
        np.testing.assert_array_equal(out.reshape(3, 4, 32)[..., 0], 100 * t + 10 * b)
        assert counter[0] == 12


def test_races_on_the_devices_memory():
    def both_write(a):
        a[0] = float32(cuda.blockIdx.x)

    def overwritten(a):
        if cuda.blockIdx.x == 0:
            a[cuda.threadIdx.x] = 1.0
        else:
            cuda.shfl_sync(ALL, a[cuda.threadIdx.x], 0)

    def plain_beside_relaxed(a):
        if cuda.blockIdx.x == 0:
            ptx.store_relaxed(a, cuda.threadIdx.x, 1.0)
        elif a[cuda.threadIdx.x] > 0.5:
            ptx.store_relaxed(a, 32, 1.0)

    def relaxed_beside_plain(a):
        if cuda.blockIdx.x == 0:
            a[cuda.threadIdx.x] = 1.0
        else:
            while ptx.load_relaxed(a, cuda.threadIdx.x) == 0.0:
                pass

    def relaxed_over_plain(a):
        if cuda.blockIdx.x == 0:
            a[cuda.threadIdx.x] = 1.0
            ptx.store_relaxed(a, 32 + cuda.threadIdx.x, 1.0)
        else:
            while ptx.load_relaxed(a, 32 + cuda.threadIdx.x) == 0.0:
                pass
            ptx.store_relaxed(a, cuda.threadIdx.x, 2.0)

    def written_after_the_release(a):
        if cuda.blockIdx.x == 0:
            ptx.store_release(a, 32 + cuda.threadIdx.x, 1.0)
            a[cuda.threadIdx.x] = 1.0
        else:
            while ptx.load_acquire(a, 32 + cuda.threadIdx.x) == 0.0:
                pass
            ptx.store_relaxed(a, 32 + cuda.threadIdx.x, a[cuda.threadIdx.x])

    kernels = (both_write, overwritten, plain_beside_relaxed, relaxed_beside_plain, relaxed_over_plain)
    for kernel in (*kernels, written_after_the_release):
        assert "nothing says which comes first" in caught(Race, kernel, "f", np.zeros(64), blocks=2)


# ---- shared memory --------------------------------------------------------------------------------------------------


def exchange(first, second, steps=2):
    def kernel(out):
        i = cuda.threadIdx.x
        a = cuda.shared.array(64, float32)
        a[i] = float32(0.0)
        cuda.syncthreads()
        for t in range(steps):
            a[i] = float32(i + t)
            first()
            out[t * 64 + i] = a[i ^ 1]
            second()

    return kernel


def test_shared_memory():
    for seed in SEEDS:
        for sync in (cuda.syncthreads, cuda.syncwarp):
            launch(exchange(sync, sync), "f", out := np.zeros(128), threads=64, seed=seed)
            expected = (np.arange(64) ^ 1) + np.arange(2)[:, None]
            np.testing.assert_array_equal(out.reshape(2, 64), expected)


def test_races_in_shared_memory():
    def nothing():
        pass

    def votes():  # which are no barriers for memory
        cuda.all_sync(ALL, True)

    for syncs in [(nothing, cuda.syncthreads), (cuda.syncthreads, nothing), (votes, votes), (cuda.syncwarp, votes)]:
        assert "shared(test_executor.py" in caught(Race, exchange(*syncs), "f", np.zeros(128), threads=64)


def test_two_stores_in_shared_memory_race_if_somebody_reads():
    def kernel(out, reads):
        a = cuda.shared.array(1, float32)
        a[0] = float32(cuda.threadIdx.x)
        cuda.syncthreads()
        if reads:
            out[cuda.threadIdx.x] = a[0]

    launch(kernel, "fn", np.zeros(32), 0)
    assert ", and thread " in caught(Race, kernel, "fn", np.zeros(32), 1)


def test_each_block_and_each_place_has_shared_arrays_of_its_own():
    def kernel(out):
        i, b = cuda.threadIdx.x, cuda.blockIdx.x
        a, c = cuda.shared.array(32, float32), cuda.shared.array(32, float32)
        dynamic, again = cuda.shared.array(0, float32), cuda.shared.array(0, float32)
        a[i], c[i], dynamic[i] = 1.0 + b, 2.0 + b, 3.0 + b
        out[b * 32 + i] = a[i] * 100 + c[i] * 10 + again[i]

    launch(kernel, "f", out := np.zeros(64), blocks=2, shared=32 * 4)
    np.testing.assert_array_equal(out, np.repeat([123.0, 234.0], 32))


# ---- misuse ---------------------------------------------------------------------------------------------------------


def test_bad_accesses():
    def outside(a):
        a[cuda.threadIdx.x] = 1.0

    def below(a):
        a[cuda.threadIdx.x - 1] = 1.0

    def unwritten(a):
        shared = cuda.shared.array(32, float32)
        a[0] = shared[cuda.threadIdx.x]

    def unaligned(a):
        ptx.load_relaxed4(a, cuda.threadIdx.x)

    def relaxed_on_shared(a):
        ptx.store_relaxed(cuda.shared.array(32, float32), 0, 1.0)

    def too_large(a):
        int32(1 << 31)

    for kernel in (outside, below, unwritten, unaligned, relaxed_on_shared, too_large):
        assert "test_executor.py:" in caught(BadAccess, kernel, "f", np.zeros(8))

    def undefined(a):
        registers = cuda.local.array(4, float32)
        a[0] = registers[0] + 1.0

    caught(TypeError, undefined, "f", np.zeros(8))


def test_threads_that_part():
    def left(out):
        if cuda.threadIdx.x < 31:
            cuda.all_sync(ALL, True)

    def elsewhere(out):
        if cuda.threadIdx.x < 16:
            cuda.all_sync(ALL, True)
        else:
            cuda.all_sync(ALL, False)

    def other_instruction(out):
        if cuda.threadIdx.x < 16:
            cuda.all_sync(ALL, True)
        else:
            cuda.any_sync(ALL, False)

    def not_in_mask(out):
        cuda.all_sync(0xFFFF, True)

    def at_a_barrier(out):
        if cuda.threadIdx.x < 16:
            cuda.syncwarp()
        else:
            cuda.syncthreads()

    def other_masks(out):
        cuda.syncwarp(ALL if cuda.threadIdx.x else 1 | 2)

    def from_an_absent_lane(out):
        if cuda.threadIdx.x < 16:
            cuda.shfl_sync(0xFFFF, 1.0, 20)

    def two_barriers(out):
        if cuda.threadIdx.x < 32:
            cuda.syncthreads()
        else:
            cuda.syncthreads()

    for kernel in (left, elsewhere, other_instruction, not_in_mask, at_a_barrier, other_masks, from_an_absent_lane):
        assert "test_executor.py:" in caught(Divergence, kernel, "f", np.zeros(8))
    assert "barrier of a block" in caught(Divergence, two_barriers, "f", np.zeros(8), threads=64)


def test_lanes_may_meet_in_different_syncwarps():
    def kernel(out):
        if cuda.threadIdx.x < 16:
            cuda.syncwarp()
        else:
            cuda.syncwarp()

    launch(kernel, "f", np.zeros(8))


def test_deadlocks():
    def two_conditions(flag):
        """Each block waits for the other one."""
        b = cuda.blockIdx.x
        while ptx.load_acquire(flag, 1 - b) == 0:
            pass
        ptx.store_release(flag, b, 1)

    assert "64 poll at test_executor.py:" in caught(Deadlock, two_conditions, "i", np.zeros(2, np.int32), blocks=2)

    def one_warp_polls(flag):
        if cuda.threadIdx.x < 32:
            while ptx.load_relaxed(flag, 0) == 0:
                cuda.syncwarp()
        cuda.syncthreads()
        ptx.store_relaxed(flag, 0, 1)

    text = caught(Deadlock, one_warp_polls, "i", np.zeros(2, np.int32), threads=64)
    assert "32 wait in syncthreads at test_executor.py:" in text


def test_a_deadlock_where_there_is_something_to_see():
    def kernel(flag):
        ptx.store_relaxed(flag, 0, 7)
        while ptx.load_relaxed(flag, 0) != 8:
            cuda.any_sync(ALL, True)

    assert "test_executor.py:" in caught(Deadlock, kernel, "i", np.zeros(1, np.int32))


def test_loops_that_give_up_end():
    def kernel(flag, spins):
        n = 0
        while ptx.load_relaxed(flag, 0) == 0 and n < spins:
            n += 1
        ptx.store_relaxed(flag, 1, n)

    launch(kernel, "in", flag := np.zeros(2, np.int32), 20)
    assert flag[1] == 20


def test_threads_that_are_gone_are_not_waited_for_at_barriers():
    def kernel(out):
        if cuda.threadIdx.x < 32:
            return
        out[cuda.threadIdx.x] = float32(cuda.syncthreads_count(cuda.threadIdx.x > 60))
        assert cuda.syncthreads_or(cuda.threadIdx.x == 50)
        assert not cuda.syncthreads_and(cuda.threadIdx.x == 50)

    launch(kernel, "f", out := np.zeros(64), threads=64)
    np.testing.assert_array_equal(out, [0] * 32 + [3] * 32)


# ---- modules --------------------------------------------------------------------------------------------------------


def test_every_instruction_has_a_stand_in():
    tree = ast.parse((SOURCES / "ptx.py").read_text())
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.decorator_list}
    for node in tree.body:
        made = isinstance(node, ast.Assign) and isinstance(node.value, ast.Call) and node.value.func.id
        if made in ("_pure", "_load", "_store"):
            names.add(node.targets[0].id)
    assert len(names) >= 14
    assert not names - set(vars(ptx)), "tests/gpu/stand_ins.py lacks these"


def test_edits_reach_the_source_or_fail():
    edited = load("cell", (("return a if condition else b", "return number(7.0)"),))
    relu = edited.device_cell(fastrnn.cells.RNN_RELU, np.dtype("f")).body
    assert relu((1.0,), (2.0,), (0.0,)) == (7.0,)
    for fragment in ("no such text", "return"):
        with pytest.raises(LookupError, match="not once"):
            load("cell", ((fragment, ""),))


# ---- kernels whose blocks do not wait for each other, but whose threads do ------------------------------------------


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("transposed", [False, True])
def test_products(transposed, seed):
    tile, depth, B, M, N, K = 16, 4, 2, 21, 18, 7
    kernel = load("gemm")._tiled(TYPES["float64"], tile, depth, 2)
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(B, M, K)), rng.normal(size=(B, K, N)), rng.normal(size=(B, M, N))
    of_a, of_b = (M * K, *((1, M) if transposed else (K, 1))), (K * N, *((1, K) if transposed else (N, 1)))
    flat = [np.ascontiguousarray(m.swapaxes(1, 2) if transposed else m).ravel() for m in (a, b)]
    out = c.ravel().copy()
    arguments = [flat[0], *of_a, flat[1], *of_b, out, M * N, N, M, N, K, B, 1]
    run(kernel, (-(-M // tile), -(-N // tile), 1), arguments, seed=seed)
    np.testing.assert_allclose(out.reshape(c.shape), c + a @ b, rtol=0, atol=1e-13)


def test_column_sums():
    kernel = load("gemm")._sums(TYPES["float64"], 16, 4)
    a = np.random.default_rng(0).normal(size=(21, 19))
    out = np.empty((2, 19)).ravel()
    run(kernel, (2, 2), [a.ravel(), 19, out, 21, 19, 11])
    np.testing.assert_allclose(out.reshape(2, 19), [a[:11].sum(0), a[11:].sum(0)], rtol=0, atol=1e-13)
