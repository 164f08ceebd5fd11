"""The pool of threads: how many, what happens when tasks fail, who may call, and that nothing ever waits for ever.

What could hang runs in a process of its own, which says where it hangs and ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module

import numpy as np
import pytest

import fastrnn
from fastrnn import _team, threads
from fastrnn.backends import cython

PRELUDE = """
import faulthandler, os, sys, threading
faulthandler.dump_traceback_later(120, exit=True)
import numpy as np, fastrnn
from fastrnn import sequence, threads
from fastrnn.backends import cython
fastrnn.set_num_threads(2)

# Each is large enough to be shared by two threads: by units, rows, directions, layers.
CASES = [
    (fastrnn.LSTM(150, 200, rng=0), (30, 1, 150)),
    (fastrnn.GRU(64, 64, rng=0), (10, 32, 64)),
    (fastrnn.LSTM(64, 64, bidirectional=True, rng=0), (60, 3, 64)),
    (fastrnn.LSTM(128, 128, num_layers=2, rng=0), (150, 1, 128)),
]
CASES = [(layer, np.random.default_rng(0).normal(size=shape).astype(np.float32)) for layer, shape in CASES]

def compute():
    cython._crowded_until = 0.0  # so that no earlier call, made while others had the processor, changes the next
    return [layer(x)[0] for layer, x in CASES]

def check(results):
    for y, expected in zip(results, EXPECTED, strict=True):
        np.testing.assert_array_equal(y, expected)

EXPECTED = compute()
"""


def start(script, **environment):
    command = [sys.executable, "-c", PRELUDE + script]
    env = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def finish(process):
    """What the script printed."""
    try:
        out, err = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 0, err
    return out.split()


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    """Each test with a pool of its own and the default number of threads."""
    monkeypatch.setattr(threads, "_limit", None)
    monkeypatch.setattr(threads, "_pool", _team.Pool())
    monkeypatch.setattr(cython, "_crowded_until", 0.0)
    with fastrnn.use_backend("cython"):
        yield


# ---- how many -------------------------------------------------------------------------------------------------------


def test_set_num_threads():
    for n in (3, np.int64(2), 1):
        fastrnn.set_num_threads(n)
        assert fastrnn.get_num_threads() == n
        assert type(fastrnn.get_num_threads()) is int


@pytest.mark.parametrize("n", [0, -1, np.int32(0)])
def test_too_few(n):
    fastrnn.set_num_threads(2)
    with pytest.raises(ValueError, match=f"n should be at least 1, got: {n}"):
        fastrnn.set_num_threads(n)
    assert fastrnn.get_num_threads() == 2


@pytest.mark.parametrize("n", [1025, 10**30])
def test_too_many(n):
    fastrnn.set_num_threads(1024)
    with pytest.raises(ValueError, match=f"n should be at most 1024, got: {n}"):
        fastrnn.set_num_threads(n)
    assert fastrnn.get_num_threads() == 1024


@pytest.mark.parametrize("value", ["none", "0", "-1", "1025", "2,1", "9" * 5000])
def test_nonsense_in_the_environment(value, monkeypatch):
    monkeypatch.setenv("FASTRNN_NUM_THREADS", value)
    with pytest.raises(ValueError, match=f"FASTRNN_NUM_THREADS should be an integer from 1 to 1024, got: '{value}'"):
        fastrnn.get_num_threads()


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sys/fs/cgroup/cpu.max": "max 100000", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n"}, 3),
        ({"proc/self/cgroup": "1:cpu:/x\n0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/../a\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ({"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"sys/fs/cgroup/cpu.max": "100000 0"}, 8),
    ],
)
def test_control_groups(files, expected, monkeypatch, tmp_path):
    """The process's own and those around it, of version 2 and 1."""
    for name in ("FASTRNN_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert fastrnn.get_num_threads() == expected


@pytest.mark.parametrize("n", [True, 2.0, "2", None, [2]])
def test_no_integer(n):
    fastrnn.set_num_threads(2)
    with pytest.raises(TypeError, match=f"n should be an int, got: {type(n).__name__}"):
        fastrnn.set_num_threads(n)
    assert fastrnn.get_num_threads() == 2


@pytest.mark.parametrize(
    ("fastrnn_variable", "omp_variable", "affinity", "quota", "expected"),
    [
        ("3", "5", 8, "max 100000", 3),
        (None, "5", 8, "max 100000", 5),
        (None, "4,2", 8, "max 100000", 4),
        (None, " 6 , 2", 8, "max 100000", 6),
        ("", "0", 8, "max 100000", 8),
        (" ", "-2", 8, "max 100000", 8),
        (None, "none", 8, "max 100000", 8),
        (None, "9999", 8, "max 100000", 1024),
        (None, None, 8, None, 8),
        (None, None, 8, "300000 100000", 3),
        (None, None, 2, "300000 100000", 2),
        (None, None, 8, "150000 100000", 1),
        (None, None, 8, "5000 100000", 1),
        (None, None, 8, "nonsense", 8),
        (None, None, None, None, 6),
        ("16", None, 2, "100000 100000", 16),
    ],
)
def test_the_default(fastrnn_variable, omp_variable, affinity, quota, expected, monkeypatch, tmp_path):
    """FASTRNN_NUM_THREADS, OMP_NUM_THREADS, the affinity, and the quota that the cgroup sets."""
    for name, value in (("FASTRNN_NUM_THREADS", fastrnn_variable), ("OMP_NUM_THREADS", omp_variable)):
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    if affinity is None:  # as on macOS and Windows
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 6)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(affinity)), raising=False)
    if quota is not None:
        (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
        (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(threads, "Path", lambda path: tmp_path / path.lstrip("/"))
    assert fastrnn.get_num_threads() == expected
    monkeypatch.setenv("FASTRNN_NUM_THREADS", "7")
    assert fastrnn.get_num_threads() == expected  # asked for once
    fastrnn.set_num_threads(2)
    assert fastrnn.get_num_threads() == 2


def test_the_environment_of_a_process():
    code = "import fastrnn; print(fastrnn.get_num_threads())"
    env = {**os.environ, "FASTRNN_NUM_THREADS": "3", "OMP_NUM_THREADS": "1"}
    assert int(subprocess.check_output([sys.executable, "-c", code], env=env)) == 3


# ---- the pool -------------------------------------------------------------------------------------------------------


def idents(team):
    """The threads that do one task each."""
    meet = threading.Barrier(team.size, timeout=60)  # so that no thread does two
    found = []

    def task():
        meet.wait()
        found.append(threading.get_ident())

    team.run([task] * team.size)
    return set(found)


def idents_of_a_team():
    with threads.team(2) as team:
        return idents(team)


def test_threads_are_used_again():
    fastrnn.set_num_threads(3)
    with threads.team(3) as team:
        first = idents(team)
    assert len(first) == 3
    assert threading.get_ident() in first
    for wanted in (3, 2, 3):
        with threads.team(wanted) as team:
            assert team.size == wanted
            assert idents(team) <= first
    fastrnn.set_num_threads(2)
    with threads.team(3) as team:
        assert len(idents(team)) == 2
    fastrnn.set_num_threads(4)
    with threads.team(9) as team:
        assert len(idents(team)) == 4
        assert idents(team) > first


def test_no_threads_before_they_are_needed():
    fastrnn.set_num_threads(1)
    before = threading.active_count()
    for n in (1, 2):
        fastrnn.set_num_threads(n)
        fastrnn.LSTM(4, 4)(np.zeros((3, 2, 4)))
    assert threading.active_count() == before


def test_a_pool_that_is_taken_leaves_the_caller_alone():
    fastrnn.set_num_threads(2)
    with threads.team(2) as team:
        assert team.size == 2
        with threads.team(2) as inner:
            assert idents(inner) == {threading.get_ident()}
        with ThreadPoolExecutor(1) as other:
            assert len(other.submit(idents_of_a_team).result()) == 1
    with threads.team(2) as team:
        assert team.size == 2


def test_where_no_thread_can_be_started(monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("can't start new thread")

    fastrnn.set_num_threads(3)
    with threads.team(2):
        pass  # one that is there
    monkeypatch.setattr(_team, "Thread", refuse)
    with threads.team(3) as team:
        assert len(idents(team)) == 2
    monkeypatch.setattr(threads, "_pool", _team.Pool())
    layer, x = fastrnn.LSTM(64, 64, rng=0), np.ones((40, 32, 64), np.float32)
    y, _ = layer(x)
    fastrnn.set_num_threads(1)
    np.testing.assert_array_equal(layer(x)[0], y)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_more_tasks_than_threads(count):
    fastrnn.set_num_threads(3)
    done = []
    with threads.team(3) as team:
        team.run_all([partial(done.append, i) for i in range(count)])
        assert sorted(done) == list(range(count))
        for tasks in ([], [int] * 4):
            with pytest.raises(ValueError, match="tasks should be 1 to 3"):
                team.run(tasks)
        assert len(idents(team)) == 3


class Odd(BaseException):
    def __bool__(self):
        return False


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit, Odd])
@pytest.mark.parametrize("failing", [(0,), (1,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_tasks_that_raise(error, failing):
    """All tasks are done, the first error is raised, and the pool is as good as before."""
    fastrnn.set_num_threads(3)
    done = []

    def task(i):
        done.append(i)
        if i in failing:
            raise error(i)

    for _ in range(3):
        with threads.team(3) as team, pytest.raises(error) as raised:
            team.run([partial(task, i) for i in range(3)])
        assert raised.value.args == (failing[0],)
        assert sorted(done) == [0, 1, 2]
        done.clear()
        with threads.team(3) as team:
            assert len(idents(team)) == 3


def test_errors_are_let_go():
    """What a task raised is not kept by the thread that ran it, nor are the arrays that its traceback holds."""
    fastrnn.set_num_threads(2)

    class Kept:
        alive = 0

        def __init__(self):
            Kept.alive += 1

        def __del__(self):
            Kept.alive -= 1

    def task():
        kept = Kept()
        raise MemoryError(kept)

    with threads.team(2) as team, pytest.raises(MemoryError):
        team.run([int, task])
    with threads.team(2) as team:
        team.run([int, int])
    assert Kept.alive == 0


INTERRUPTS = """
import _thread, random, signal, time

# Calls that are short, and shared all the same: most of the time threads are about to start, or to end.
for module, names in (cython, ("_PAYS_PER_CALL", "_PAYS_PER_STEP")), (sequence, ("_PAYS", "_PAYS_WAVE")):
    for name in names:
        assert getattr(module, name) > 1
        setattr(module, name, 1)
CASES = [(layer, x[:64 if layer.num_layers == 2 else 2]) for layer, x in CASES]
EXPECTED = compute()

# Raises in the main thread at any moment of a call: while it waits, and between any two instructions.
interrupted = armed = 0
def handler(*_):
    global interrupted, armed
    if armed:
        armed = 0
        interrupted += 1
        raise ERROR

rng = random.Random(0)
if hasattr(signal, "setitimer"):
    signal.signal(signal.SIGALRM, handler)
    def interrupt_soon():
        signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, longest))
else:
    signal.signal(signal.SIGINT, handler)
    alarm = threading.Event()
    def interrupt_soon():
        alarm.set()
    def interrupt():
        while alarm.wait():
            alarm.clear()
            time.sleep(rng.uniform(0, longest))
            _thread.interrupt_main()
    threading.Thread(target=interrupt, daemon=True).start()

for layer, x in CASES:
    longest, before = 1e-3, interrupted
    while interrupted < before + 500:
        cython._crowded_until = 0.0
        try:
            armed = 1
            interrupt_soon()
            layer(x)
            armed = 0
            longest /= 1.01  # so that most calls are interrupted
        except ERROR:
            longest = min(1e-3, longest * 1.01)
check(compute())
with threads.team(2) as team:
    print(team.size)
"""


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "TimeoutError"])
def test_interrupts_at_any_moment(error):
    """Whatever a signal's handler raises: no call hangs, and calls afterwards are right, with all threads."""
    assert finish(start(f"ERROR = {error}\n" + INTERRUPTS)) == ["2"]


# ---- who calls ------------------------------------------------------------------------------------------------------


def test_several_threads_call_at_once():
    script = """
problems = []
def work(first):
    try:
        for turn in range(25):
            layer, x = CASES[(first + turn) % len(CASES)]
            np.testing.assert_array_equal(layer(x)[0], EXPECTED[(first + turn) % len(CASES)])
    except BaseException as error:
        problems.append(error)
callers = [threading.Thread(target=work, args=(i,)) for i in range(5)]
for caller in callers: caller.start()
for caller in callers: caller.join()
print(len(problems), *problems)
"""
    assert finish(start(script)) == ["0"]


@pytest.mark.parametrize("through", ["executor", "team"])
def test_layers_within_tasks(through):
    """A bidirectional layer of two layers, called from a pool of the user's or from within our own."""
    layer = fastrnn.GRU(64, 64, num_layers=2, bidirectional=True, rng=0)
    x = np.random.default_rng(0).normal(size=(80, 4, 64)).astype(np.float32)
    fastrnn.set_num_threads(1)
    expected, _ = layer(x)
    fastrnn.set_num_threads(2)
    results = []
    call = partial(lambda: results.append(layer(x)[0]))
    if through == "executor":
        with ThreadPoolExecutor(3) as pool:
            for future in [pool.submit(call) for _ in range(9)]:
                future.result(timeout=60)
    else:
        with threads.team(2) as team:
            for _ in range(5):
                team.run([call, call])
    assert len(results) in (9, 10)
    for y in results:
        np.testing.assert_array_equal(y, expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_fork(busy):
    """The child has a pool of its own, even where the parent's was taken at the moment of the fork."""
    script = """
faulthandler.cancel_dump_traceback_later()  # a child cannot
import signal
signal.alarm(120)

held, stop = threading.Event(), threading.Event()
def hold():
    with threads.team(2) as team:
        held.set()
        team.run([stop.wait, stop.wait])
if BUSY:
    other = threading.Thread(target=hold)
    other.start()
    held.wait()
for turn in range(5):
    child = os.fork()
    if child == 0:
        signal.alarm(100)
        check(compute())
        with threads.team(2) as team:
            assert team.size == 2
            team.run([int, int])
        sys.exit(turn)  # an exit with all that belongs to it
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == turn
    check(compute())
stop.set()
if BUSY:
    other.join()
with threads.team(2) as team:
    assert team.size == 2
print("done")
"""
    assert finish(start(f"BUSY = {busy}\n" + script)) == ["done"]


def test_exit_while_threads_wait():
    """And calls at exit, when the interpreter may start no more threads."""
    script = """
import atexit
def last():
    threads._pool = type(threads._pool)()
    check(compute())
    print("done", flush=True)
atexit.register(last)
"""
    assert finish(start(script)) == ["done"]


# ---- where threads meet ---------------------------------------------------------------------------------------------


def lanes():
    """Units in one panel of an LSTM's packed weights."""
    return next(H for H in range(1, 65) if packed_lstm(1, H + 1).panels == 2)


def packed_lstm(I, H):
    rng, k = np.random.default_rng(0), 1 / np.sqrt(H)
    shapes = [(4 * H, I), (4 * H, H), (4 * H,), (4 * H,)]
    kernels = import_module(f"fastrnn._kernels_f32_{cython.ISA}")
    return kernels.PackedWeights("lstm", *(rng.uniform(-k, k, shape).astype(np.float32) for shape in shapes))


def run_in_parts(packed, parts, arrays, options):
    """Whether the first part went on alone, and the results; each part in a thread of its own."""
    x, h_0, c_0 = arrays
    h, c, steps = h_0.copy(), c_0.copy(), (*x.shape[:2], h_0.shape[1])
    y, c_all = np.zeros(steps, np.float32), np.zeros(steps, np.float32)
    run = packed.run(x, y, h, c, **options, c_all=c_all, parts=parts)
    others = [threading.Thread(target=run, args=(i,)) for i in range(1, parts)]
    for other in others:
        other.start()
    run(0)
    for other in others:
        other.join()
    return run.dropped, (y, h, c, c_all)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["whole", "ragged", "reset", "ragged reset"])
@pytest.mark.parametrize("why", ["more to do", "no processor"])
def test_threads_that_keep_waiting_are_dropped(why, form, reverse):
    """The first thread goes on alone, from the step that it has come to."""
    rng = np.random.default_rng(0)
    if why == "more to do":  # of three panels the second thread does two, and is late by half a millisecond
        parts, T, N, H, late = 2, 10, 12000, 3 * lanes(), True
    else:  # the first one may be among the late ones, so it may not notice
        parts, T, N, H, late = 4 * (os.cpu_count() or 1), 300, 4, 70, None
    packed = packed_lstm(3, H)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in ((T, N, 3), (N, H), (N, H))]
    options = {"reverse": reverse}
    if "ragged" in form:
        options["lengths"] = np.sort(np.maximum(T - rng.integers(0, 3, N), 0))[::-1].astype(np.intp)
        options["lengths"][-1] = 0
    if "reset" in form:
        options["reset"] = rng.random((T, N)) < 0.1
    dropped, expected = run_in_parts(packed, 1, arrays, options)
    assert not dropped
    for _ in range(20):  # the first thread notices only what comes while it has a processor itself
        dropped, got = run_in_parts(packed, parts, arrays, options)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))
        if dropped or late is None:
            break
    else:
        pytest.fail("it never went on alone")


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("form", ["whole", "ragged reset"])
@pytest.mark.parametrize("why", ["more to do", "no processor"])
def test_threads_that_keep_waiting_are_dropped_on_the_way_back(why, form, reverse):
    """The same with gradients: those of the weights too have the bits that one thread gives them."""
    rng = np.random.default_rng(0)
    if why == "more to do":  # the second thread does one panel of columns more, and is late by a third of a millisecond
        wide = 4 * lanes()
        parts, T, N, H, late = 2, 16, 80, (850 // wide | 1) * wide, True
    else:
        parts, T, N, H, late = 2 * (os.cpu_count() or 1), 300, 4, 16 * lanes(), None
    kernels = import_module(f"fastrnn._kernels_f32_{cython.ISA}")
    weights = [
        rng.uniform(-0.1, 0.1, shape).astype(np.float32) for shape in [(4 * H, 3), (4 * H, H), (4 * H,), (4 * H,)]
    ]
    packed = kernels.BackwardWeights("lstm", *weights)
    x, y, dy = (rng.normal(size=(T, N, n)).astype(np.float32) for n in (3, H, H))
    h_0, c_0, dh_n, dc_n = (rng.normal(size=(N, H)).astype(np.float32) for _ in range(4))
    c_all = rng.normal(size=(T, N, H)).astype(np.float32)
    gates = rng.uniform(size=(T, N, packed.gates_width)).astype(np.float32)
    lengths = reset = None
    if form == "ragged reset":
        lengths = np.sort(np.maximum(T - rng.integers(0, 3, N), 0))[::-1].astype(np.intp)
        reset = rng.random((T, N)) < 0.1

    def gradients(parts):
        dx, dh, dc, sums = np.zeros_like(x), dh_n.copy(), dc_n.copy(), kernels.WeightSums(packed)
        arrays = (x, y, h_0, c_0, c_all, gates, lengths, reset, dy, dx, dh, dc)
        run = packed.backward(arrays, sums, reverse, True, parts, False)
        others = [threading.Thread(target=run, args=(i,)) for i in range(1, parts)]
        for other in others:
            other.start()
        run(0)
        for other in others:
            other.join()
        of_weights = [np.empty_like(w) for w in weights]
        sums.unpack(*of_weights)
        return run.dropped, (dx, dh, dc, *of_weights)

    dropped, expected = gradients(1)
    assert not dropped
    assert all(np.isfinite(a).all() and a.any() for a in expected)
    for _ in range(20):
        dropped, got = gradients(parts)
        for a, b in zip(got, expected, strict=True):
            np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))
        if dropped or late is None:
            break
    else:
        pytest.fail("it never went on alone")


def test_after_a_drop_units_are_not_shared_for_a_while(monkeypatch):
    class Run:
        parts, dropped = 2, False

        def __call__(self, index):
            pass

    class Prepared:
        panels, recurrent_weights, input_weights, itemsize = 8, 10**7, 10**7, 4

    clock = 100.0
    monkeypatch.setattr(cython.time, "monotonic", lambda: clock)
    fastrnn.set_num_threads(2)
    for dropped in (False, True):
        Run.dropped = dropped
        assert cython._split(Prepared(), 10, 1, 2) == (2, "units")
        with threads.team(2) as team:
            cython._run(team, Run())
    assert cython._split(Prepared(), 10, 1, 2)[0] == 1
    assert cython._split(Prepared(), 10, 2, 2) == (2, "rows")
    clock += 1
    assert cython._split(Prepared(), 10, 1, 2) == (2, "units")


@pytest.mark.parametrize(
    ("H", "T", "N", "wanted", "expected"),
    [
        (16, 100, 1, 64, 1),  # too little to do
        (256, 100, 1, 1, 1),
        (256, 100, 1, 64, 5),  # units: 262,144 multiply-adds a step, some 50,000 for each
        (512, 100, 1, 8, 8),
        (512, 100, 1, 64, 20),
        (16, 1000, 64, 64, 32),  # rows: two at least for each, and enough work
        (256, 100, 64, 8, 8),
    ],
)
def test_as_many_threads_as_pay(H, T, N, wanted, expected):
    class Prepared:
        panels, recurrent_weights, input_weights, itemsize = H // 4, 4 * H * H, 4 * H * H, 4

    n, _ = cython._split(Prepared(), T, N, wanted)
    assert n == expected


def test_a_wave_in_which_a_task_raises_stops_all():
    """The others do not wait for it, nor do what comes after."""
    done = []

    def task(i):
        if i == 3:
            raise KeyboardInterrupt
        done.append(i)

    waves = [[partial(task, 2 * wave), partial(task, 2 * wave + 1)] for wave in range(100)]
    with threads.team(2) as team, pytest.raises(KeyboardInterrupt):
        team.run_waves(waves)
    assert {0, 1} <= set(done) <= {0, 1, 2}


@pytest.mark.parametrize("T", [0, 1])
@pytest.mark.parametrize("N", [0, 1])
def test_nothing_to_do(T, N):
    """More threads than there is work, and no work at all."""
    packed = packed_lstm(2, 3)
    h = np.ones((N, 3), np.float32)
    run = packed.run(np.zeros((T, N, 2), np.float32), np.empty((T, N, 3), np.float32), h, h.copy(), parts=3)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, range(3)))
    assert (h == 1).all() == (T == 0 or N == 0)


def test_two_processes_of_two_threads():
    """Both on the same two processors, if so many are there: they give way to each other, and get on."""
    script = """
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
print("ready", flush=True)
sys.stdin.readline()
layer, x = CASES[0]
for _ in range(300):
    cython._crowded_until = 0.0
    np.testing.assert_array_equal(layer(x)[0], EXPECTED[0])
print(cython.kernels(np.dtype("float32")).yields())
"""
    command = [sys.executable, "-c", PRELUDE + script]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    both = [subprocess.Popen(command, **pipes, text=True) for _ in range(2)]
    for process in both:
        assert process.stdout.readline() == "ready\n", process.communicate()[1]
    for process in both:
        process.stdin.write("go\n")
        process.stdin.flush()
    yields = [int(finish(process)[0]) for process in both]
    assert min(yields) > 0, yields


# ---- threadpoolctl --------------------------------------------------------------------------------------------------


def test_threadpoolctl():
    threadpoolctl = pytest.importorskip("threadpoolctl")
    import_module("fastrnn.interop.threadpoolctl")

    def entries():
        return [info for info in threadpoolctl.threadpool_info() if info["user_api"] == "fastrnn"]

    fastrnn.set_num_threads(3)
    (entry,) = entries()
    assert entry["num_threads"] == 3
    assert entry["internal_api"] == "fastrnn"
    assert entry["version"] == fastrnn.__version__
    assert os.path.samefile(entry["filepath"], _team.__file__)
    for options in ({"limits": 1}, {"limits": 1, "user_api": "fastrnn"}, {"limits": {"fastrnn": 1}}):
        with threadpoolctl.threadpool_limits(**options):
            assert fastrnn.get_num_threads() == entries()[0]["num_threads"] == 1
            with threads.team(3) as team:
                assert team.size == 1
        assert fastrnn.get_num_threads() == 3
    with threadpoolctl.threadpool_limits(limits=1, user_api="blas"):
        assert fastrnn.get_num_threads() == 3


def test_threadpoolctl_is_not_needed():
    script = """
sys.modules["threadpoolctl"] = None
try:
    import fastrnn.interop.threadpoolctl
except ImportError as error:
    print(str(error).replace(" ", "_"))
"""
    expected = "fastrnn.interop.threadpoolctl_needs_threadpoolctl:_pip_install_threadpoolctl"
    assert finish(start(script)) == [expected]
