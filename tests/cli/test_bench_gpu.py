"""`fastrnn bench --device cuda`: the frame around its items, which survives what becomes of them. It needs no GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from importlib.util import find_spec
from itertools import pairwise

import gpu_items
import pytest
from cli_tools import posix, subprocess_of

from fastrnn.cli import gpu
from fastrnn.cli.gpu import items
from fastrnn.cli.gpu.report import Report
from fastrnn.cli.gpu.worker import Found, Item, Pool

BENCH = ("bench", "--device", "cuda")
FAR = 60.0


def item(run, *arguments, seconds=30.0, **about):
    return Item("parity", {"path": "general", "cell": run.__name__} | about, run, arguments, seconds)


def run(pool, *given, until=FAR):
    """What was found, in the order of the items."""
    found = list(pool.run(given, time.monotonic() + until))
    return sorted(found, key=lambda f: given.index(f.item))


@pytest.fixture(scope="module")
def pool():
    with Pool(1) as pool:
        yield pool


# -- items in processes -------------------------------------------------------------------------------------------


def test_one_process_for_what_goes_well(pool):
    first, wrong, none, last = run(
        pool, item(gpu_items.right, 0.5), item(gpu_items.wrong), item(gpu_items.not_here), item(gpu_items.right, 1.0)
    )
    assert [f.verdict for f in (first, wrong, none, last)] == ["right", "WRONG", "n/a", "right"]
    assert first.values["process"] == wrong.values["process"] == last.values["process"] != os.getpid()
    assert (wrong.why, none.why) == ("off by far", "not for H=3")
    assert first.values["of_allowed"] == 0.5


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (gpu_items.raises, "RuntimeError: an illegal memory access"),
        (gpu_items.dies, "its process ended with status 7"),
        pytest.param(gpu_items.crashes, "its process ended with status -11", marks=posix),
        (gpu_items.unpicklable, ""),
    ],
)
def test_what_fails_costs_its_item_alone(pool, bad, why):
    before, failed, after = run(pool, item(gpu_items.right, 0.0), item(bad), item(gpu_items.right, 0.0, N=2))
    assert (failed.verdict, failed.values) == ("failed", {})
    assert why in failed.why
    assert (before.verdict, after.verdict) == ("right", "right")
    assert before.values["process"] != after.values["process"]


@pytest.mark.parametrize("hanging", [gpu_items.hangs, gpu_items.hangs_alone])
def test_what_hangs_is_ended(pool, hanging):
    run(pool, item(gpu_items.right, 0.0))  # so that the process is there
    began = time.monotonic()
    failed, after = run(pool, item(hanging, seconds=0.5), item(gpu_items.right, 0.0))
    assert (failed.verdict, failed.why) == ("failed", "took longer than 0.5 s")
    assert after.verdict == "right"
    assert time.monotonic() - began < 20


def test_when_the_time_is_up(pool):
    run(pool, item(gpu_items.right, 0.0))
    found = run(pool, item(gpu_items.hangs), item(gpu_items.right, 0.0), until=0.5)
    assert [(f.verdict, f.why) for f in found] == [("left out", "the time was up")] * 2


def test_alone(tmp_path):
    path = tmp_path / "times"
    with Pool(3) as pool:
        found = run(pool, *(item(gpu_items.timed, path, N=n) for n in range(4)), item(gpu_items.right, 0.0))
    assert {f.verdict for f in found} == {"right"}
    spans = sorted(tuple(map(float, line.split())) for line in path.read_text().splitlines())
    assert len(spans) == 4
    assert all(ended <= began for (_, ended), (began, _) in pairwise(spans))


def test_processes_are_gone_at_the_end():
    with Pool(2) as pool:
        (found,) = run(pool, item(gpu_items.right, 0.0))
    with pytest.raises(ProcessLookupError):
        os.kill(found.values["process"], 0)


# -- the command --------------------------------------------------------------------------------------------------


@pytest.fixture
def check(cli, monkeypatch):
    """Runs the command with other items, a list of them for each part."""

    def call(*arguments, machine=gpu_items.machine, **parts):
        monkeypatch.setattr("fastrnn.cli.gpu.environment.environment", machine)
        monkeypatch.setattr(items, "items_of", lambda part, args: parts.get(part, []))
        return cli(*BENCH, "--jobs", 1, *arguments)

    return call


def times(folder):
    about = {"engine": "chosen", "cell": "GRU", "pass": "forward", "N": 1, "H": 8, "T": 5}
    torch = Item("times", about | {"engine": "torch"}, gpu_items.not_here)
    return [torch, Item("times", about, gpu_items.timed, (folder / "log",))]


def test_all_is_well(check, folder):
    hop = Item("hops", {"kind": "relaxed"}, gpu_items.prints)
    status, out, err = check("--check", parity=[item(gpu_items.right, 0.25)], hops=[hop], times=times(folder))
    assert (status, err) == (0, "")
    assert out.startswith("A GPU, sm_9.0, 132 multiprocessors, driver 1.2\nnumpy 2\n")
    assert "chatter" not in out
    lines = out.splitlines()
    assert any(line.split()[:3] == ["right", "parity", "general"] and "0.25 of what is" in line for line in lines)
    assert any(line.split()[:2] == ["general", "1"] and line.endswith("0.25") for line in lines)
    assert any(line.split() == ["GRU", "1", "8", "2.00", "A"] for line in lines)
    assert "3 right, 1 n/a" in out


def test_a_failure_and_the_rest_goes_on(check, folder):
    bad = [item(gpu_items.raises), item(gpu_items.wrong), item(gpu_items.dies), item(gpu_items.right, 0.5)]
    status, out, err = check("--check", "--output", "found.json", parity=bad, times=times(folder))
    assert (status, err) == (1, "")
    assert "failed: parity general raises: RuntimeError: an illegal memory access" in out
    assert "WRONG: parity general wrong: off by far" in out
    figures = json.loads((folder / "found.json").read_text())
    assert [row["verdict"] for row in figures["items"]] == ["failed", "WRONG", "failed", "right", "n/a", "right"]
    assert not figures["ok"]
    assert figures["seconds"] > 0
    assert figures["machine"]["device"] == "A GPU"
    assert figures["items"][1]["of_allowed"] is None  # not finite
    assert figures["items"][-1]["us_per_step"] == 2.0


def test_json(check, folder):
    status, out, err = check("--json", "--only", "hops", hops=[Item("hops", {"kind": "x"}, gpu_items.prints)])
    assert (status, err) == (0, "")
    figures = json.loads(out)
    assert (figures["ok"], len(figures["items"])) == (True, 1)


def test_budget(check, folder):
    status, out, _ = check("--check", "--budget", "0.05", parity=[item(gpu_items.hangs), item(gpu_items.right, 0.0)])
    assert status == 0
    assert "2 left out" in out


def test_no_gpu(check):
    status, out, err = check("--check", machine=gpu_items.no_machine)
    assert (status, out) == (2, "")
    assert err == "fastrnn: error: no GPU here\n"


def test_what_is_found_is_written_at_once(folder):
    report = Report(Namespace(json=True, output="found.json"))
    report.machine(gpu_items.machine(None))
    for n in (1, 2):
        report.add(Found(item(gpu_items.right), "right", {"of_allowed": 0.5}, "", 1.0))
        figures = json.loads((folder / "found.json").read_text())
        assert (len(figures["items"]), figures["seconds"]) == (n, None)


def test_tables_without_figures(check, folder):
    """Nothing came of any of them."""
    given = {part: [Item(part, about, gpu_items.dies)] for part, about in ABOUT.items()}
    status, out, _ = check("--check", **given)
    assert status == 1
    assert "3 failed" in out


ABOUT = {"parity": {"path": "A", "cell": "GRU"}, "hops": {"kind": "relaxed"}}
ABOUT |= {"times": {"engine": "A", "cell": "GRU", "pass": "forward", "N": 1, "H": 2, "T": 3}}


@posix
def test_a_process_that_is_ended_leaves_what_it_found(folder):
    """And none of its own processes."""
    code = """if True:
        import gpu_items
        from fastrnn.cli import main
        from fastrnn.cli.gpu import environment, items
        from fastrnn.cli.gpu.worker import Item

        if __name__ == "__main__":
            environment.environment = gpu_items.machine
            good = Item("parity", {"path": "A"}, gpu_items.right, (1,))
            items.items_of = lambda part, args: [good, Item("parity", {"path": "B"}, gpu_items.hangs)]
            main("bench --device cuda --only parity --jobs 1 --output found.json".split())
    """
    (folder / "program.py").write_text(code)
    path = filter(None, [os.path.dirname(gpu_items.__file__), os.environ.get("PYTHONPATH")])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    process = subprocess.Popen([sys.executable, "program.py"], env=environment, stdout=subprocess.PIPE, text=True)
    line = ""
    while not line.startswith("right"):
        line = process.stdout.readline()
    process.terminate()
    process.communicate(timeout=20)
    (found,) = json.loads((folder / "found.json").read_text())["items"]
    assert found["verdict"] == "right"
    with pytest.raises(ProcessLookupError):
        os.kill(found["process"], 0)


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("bench", "--check"), "--check is for --device cuda"),
        (("bench", "--output", "x.json"), "--output is for --device cuda"),
        (("bench", "--device", "tpu"), "--device should be cpu, cuda or cuda:N, got: 'tpu'"),
        (("bench", "--device", "cuda:x"), "got: 'cuda:x'"),
        ((*BENCH, "--threads", "2"), "--threads is of the CPU"),
        ((*BENCH, "--only", "parity,speed"), "expected some of parity,hops,times, got: 'speed'"),
        ((*BENCH, "--budget", "-1"), "expected minutes, got: '-1'"),
        ((*BENCH, "--jobs", "0"), "expected a positive number, got: '0'"),
    ],
)
def test_wrong_arguments(cli, arguments, message):
    status, out, err = cli(*arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_parts_keep_their_order():
    assert gpu.parts("times, parity") == ["parity", "times"]


@pytest.mark.parametrize(
    ("device", "visible", "expected"), [("cuda", None, None), ("cuda:1", None, "1"), ("cuda:1", "4,7", "7")]
)
def test_the_device_that_is_asked_for(monkeypatch, device, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    gpu.choose_device(device)
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == (expected or visible)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def options(**given):
    return Namespace(
        **{"quick": False, "cell": None, "batch": None, "hidden": None, "steps": None, "alone": False} | given
    )


def test_items():
    for quick in (False, True):
        cases = items.items_of("parity", options(quick=quick))
        assert {"general", "A0", "A", "B", "B tf32", "C"} <= {i.about["path"] for i in cases}
        assert len({i.arguments for i in cases}) == len(cases)
        timed = items.items_of("times", options(quick=quick))
        assert {"general", "A0", "A", "B", "C", "torch"} <= {i.about["engine"] for i in timed}
    assert len(items.items_of("hops", options())) == 4
    (only,) = {(i.about["cell"], i.about["N"], i.about["H"], i.about["T"]) for i in items.items_of("times", FEW)}
    assert only == ("RNN", 2, 4, 3)
    assert not {"torch"} & {i.about["engine"] for i in items.items_of("times", FEW)}


FEW = options(cell="RNN", batch=2, hidden=4, steps=3, alone=True)


@pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs numba-cuda")
def test_in_the_simulator(folder):
    """The real items, as far as Numba's simulator goes: the general path."""
    environment = os.environ | {"NUMBA_ENABLE_CUDASIM": "1"}
    few = ("--only", "hops,times", "--cell", "GRU", "--hidden", "3", "--batch", "2", "--steps", "2", "--json")
    process = subprocess_of(*BENCH, *few, env=environment)
    out, _ = process.communicate(timeout=120)
    figures = json.loads(out)
    assert figures["machine"]["device"] == "CUDA simulator"
    assert figures["ok"]
    done = {(f["engine"], f["pass"]) for f in figures["items"] if f["part"] == "times" and f["verdict"] == "right"}
    assert {(e, p) for e in ("general", "chosen") for p in ("forward", "forward + backward")} <= done
    assert {f["verdict"] for f in figures["items"] if f.get("engine") in ("A0", "A", "B", "C")} == {"n/a"}


def test_without_a_gpu():
    """Of this machine, if it has none."""
    process = subprocess_of(*BENCH, "--quick", "--only", "hops", env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("fastrnn: error: ")
