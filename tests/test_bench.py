"""`fastrnn bench` and asv_bench/compare.py: figures are there and well-formed. How large they are is not asserted."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from fastrnn.cli import bench, engines, main, timing
from fastrnn.cli.engines import Engine, Problem

ASV_BENCH = Path(__file__).parents[1] / "asv_bench"
TINY = ["--hidden", "4", "--steps", "3", "--rounds", "1"]
PEERS = ["torch", "onnxruntime", "openvino", "jax"]
HIDE_PEERS = f"import sys; sys.modules.update(dict.fromkeys({PEERS}))"  # None: cannot be imported


def positive(figures):
    return all(math.isfinite(value) and value > 0 for value in figures.values())


def python(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def printed_by(process):
    assert process.returncode == 0, process.stderr
    return process.stdout


def compare(*arguments, first="import sys"):
    # Its folder is given to Python, which does not find it by itself here: see PYTHONSAFEPATH in conftest.py.
    run = f"import runpy; sys.path.insert(0, {str(ASV_BENCH)!r}); runpy.run_module('compare', run_name='__main__')"
    return python(f"{first}; {run}", *arguments)


# -- fastrnn bench ------------------------------------------------------------------------------------------------


def test_json(capsys):
    assert main(["bench", "--alone", "--json", "--cell", "GRU", *TINY]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["ok"]
    assert figures["engines"].keys() == {"fastrnn"}
    assert [(row["layer"], row["batch"], row["steps"]) for row in figures["layers"]] == [
        ("GRU(4, 4)", 1, 3),
        ("GRU(4, 4)", 32, 3),
    ]
    for row in figures["layers"]:
        assert row["ratio"] is None
        assert positive(row["us_per_step"])
        assert 0 < row["error"]["fastrnn"] < 1e-6
        assert row["processors"].keys() == {"fastrnn"}


def test_table(capsys):
    assert main(["bench", "--alone", "--batch", "2", *TINY]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for cell in ("LSTM", "GRU", "RNN"):
        assert out.count(f"{cell}(4, 4)") == 1
    assert "WRONG" not in out


def test_default_layers():
    options = {"cell": None, "batch": None, "hidden": None, "steps": 100}
    problems = bench.chosen(bench.Namespace(**options))
    assert {(p.N, p.H) for p in problems} == set(bench.SIZES)
    assert {p.cell for p in problems} == {"LSTM", "GRU", "RNN"}


def test_without_peers():
    process = python(f"{HIDE_PEERS}; from fastrnn.cli import main; sys.exit(main())", "bench", "--json", *TINY)
    figures = json.loads(printed_by(process))
    assert figures["engines"].keys() == {"fastrnn"}
    assert figures["left_out"].keys() == {"torch", "onnxruntime"}


def test_with_the_peers_that_are_installed():
    process = python("import sys; from fastrnn.cli import main; sys.exit(main())", "bench", "--json", *TINY)
    figures = json.loads(printed_by(process))
    names = figures["engines"].keys()
    assert names | figures["left_out"].keys() == {"fastrnn", "torch", "onnxruntime"}
    for row in figures["layers"]:
        assert row["us_per_step"].keys() == row["error"].keys() == names
        assert positive(row["us_per_step"])
        assert max(row["error"].values()) < 1e-6
        assert (row["ratio"] is None) == (len(names) == 1)


def test_an_engine_that_computes_something_else(capsys, monkeypatch):
    @contextmanager
    def liar(threads):
        yield Engine("liar", "1", lambda problem: lambda: np.zeros((problem.T, problem.N, problem.H), np.float32))

    monkeypatch.setattr(bench, "OPENERS", {"fastrnn": engines.open_fastrnn, "liar": liar})
    assert main(["bench", *TINY]) == 1
    assert "WRONG" in capsys.readouterr().out
    assert main(["bench", "--json", *TINY]) == 1
    figures = json.loads(capsys.readouterr().out)
    assert not figures["ok"]
    assert figures["layers"][0]["ratio"] > 0


def test_error_is_the_largest():
    problem = Problem("LSTM", 5, 2, 3, 4)
    y = problem.truth.copy()
    y[3, 1, 2] += 0.25
    assert problem.error(y) == 0.25
    assert math.isnan(problem.error(np.full_like(y, np.nan)))
    with pytest.raises(ValueError, match=r"\(5, 2, 4\), got: \(5, 2, 3\)"):
        problem.error(y[..., :3])


def test_gates_in_the_order_of_onnx():
    rows = np.arange(8)  # of two units
    np.testing.assert_array_equal(engines._onnx_gates("LSTM", rows), [0, 1, 6, 7, 2, 3, 4, 5])
    np.testing.assert_array_equal(engines._onnx_gates("GRU", rows[:6]), [2, 3, 0, 1, 4, 5])
    np.testing.assert_array_equal(engines._onnx_gates("RNN", rows), rows)


# -- how times are taken ------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
    """A clock that only functions and naps move."""

    class Clock:
        now = 0.0
        log = ()

        def function(self, name, seconds):
            def run():
                self.now += seconds
                self.log += (name,)

            return run

        def sleep(self, seconds):
            self.log += ("nap",)

    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(timing.time, "process_time", lambda: 2 * clock.now)
    monkeypatch.setattr(timing.time, "sleep", clock.sleep)
    return clock


def test_in_turn_and_settled(clock):
    timings = timing.settled({"a": clock.function("a", 0.01), "b": clock.function("b", 0.02)}, rounds=2)
    a_round = ("nap", "a", "a", "a", "a", "nap", "b", "b", "b", "b")
    assert clock.log == ("a", "a", "b", "b", *a_round, *a_round)
    assert [round(t.seconds, 9) for t in timings.values()] == [0.01, 0.02]
    assert all(t.cpu == pytest.approx(2) and t.samples == 6 for t in timings.values())


def test_short_calls_are_looped_and_long_ones_made_once(clock):
    timings = timing.settled({"short": clock.function("short", 1e-5), "long": clock.function("long", 1.0)}, rounds=1)
    assert timings["short"].seconds == pytest.approx(1e-5)
    assert clock.log.count("short") == pytest.approx(2 + 4 * 100, abs=4)
    assert timings["long"] == (1.0, 2.0, 1)


@pytest.mark.parametrize(("budget", "rounds"), [(0.0, 3), (0.5, 7), (100.0, 9)])
def test_budget(clock, budget, rounds):
    timings = timing.settled({"a": clock.function("a", 0.01)}, rounds=9, budget=budget)
    assert timings["a"].samples == 3 * rounds  # a round: a nap of 30 ms and 4 calls


# -- compare.py ---------------------------------------------------------------------------------------------------


def test_compare_without_peers(tmp_path):
    results = tmp_path / "results.json"
    only = ["--only", "cell=LSTM", "B=1", "H=64"]
    out = printed_by(compare("--quick", *only, "--json", results, first=HIDE_PEERS))
    for name in PEERS:
        assert f"left out: {name}: " in out
    figures = json.loads(results.read_text())
    assert figures["engines"].keys() == {"fastrnn"}
    for part in ("sequences", "streams"):
        (row,) = figures[part]
        assert (row["cell"], row["B"], row["I"], row["H"]) == ("LSTM", 1, 64, 64)
        assert (row["ratio"], row["best_peer"]) == (None, None)
        assert positive(row["us_per_step"])
        assert 0 < row["error"]["fastrnn"] < 1e-6
    (row,) = figures["training"]
    assert (row["ratio"], row["torch_ratio"]) == (None, {})
    assert positive(row["us_per_step"])
    gradients = row["error_of_each"]["fastrnn"]
    assert gradients.keys() == {"x", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    assert 0 < row["error"]["fastrnn"] == max(gradients.values()) < 16 * np.finfo(np.float32).eps
    assert positive(figures["starts"][0]["seconds"]["fastrnn"])
    assert [row["name"] for row in figures["imports"]] == ["numpy", "fastrnn"]
    again = printed_by(compare("--read", results))
    assert [line for line in out.splitlines() if line not in again.splitlines()] == []


def test_training_with_the_peers_that_are_installed(tmp_path):
    results = tmp_path / "results.json"
    only = ["--parts", "training", "--only", "cell=LSTM", "B=1", "H=32"]
    out = printed_by(compare("--quick", *only, "--engines", "fastrnn", "torch", "jax", "--json", results))
    figures = json.loads(results.read_text())
    (row,) = figures["training"]
    assert max(row["error"].values()) < 1e-5
    with_torch = {"fastrnn", "fastrnn module"} if "torch" in figures["engines"] else set()
    assert row["us_per_step"].keys() == figures["engines"].keys() | with_torch
    assert row["torch_ratio"].keys() == with_torch
    if with_torch:
        us, ratio = row["us_per_step"], row["torch_ratio"]["fastrnn"]
        assert ratio == us["torch"] / us["fastrnn"]
        assert f"{ratio:.2f} ({'asked' if ratio >= 3 else 'MISSED'} 3)" in out


def test_gradients_that_are_wrong(monkeypatch):
    monkeypatch.syspath_prepend(ASV_BENCH)
    training = importlib.import_module("training")
    problem = Problem("GRU", 5, 2, 3, 4)
    true = training.truth(problem)
    right = [gradient.copy() for gradient in true.values()]
    assert set(training.errors(right, true).values()) == {0.0}
    right[1][2, 1] += 0.25
    right[0] *= np.nan
    found = training.errors(right, true)
    assert found.pop("weight_ih_l0") == pytest.approx(0.25 / max(1, np.abs(true["weight_ih_l0"]).max()))
    assert math.isnan(found.pop("x"))
    assert set(found.values()) == {0.0}
    with pytest.raises(ValueError, match=r"weight_hh_l0 should have shape \(12, 4\), got: \(4, 12\)"):
        training.errors([*right[:2], right[2].T, *right[3:]], true)
    with pytest.raises(ValueError, match="shorter"):
        training.errors(right[:-1], true)


def test_memory():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("needs Linux's /proc")
    path = filter(None, [str(ASV_BENCH), os.environ.get("PYTHONPATH")])  # an empty part would be the working folder
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    command = [sys.executable, ASV_BENCH / "memory.py", "--quick", "--engines", "fastrnn", "--json", "/dev/stdout"]
    out = printed_by(subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment))
    figures = json.loads(out[out.index("\n[\n") :])
    long, checkpointed = figures[1], figures[0]
    assert (long["T"], checkpointed["every"]) == (20_000, 200)
    # Gates, cell state, x and y, seven numbers for each unit; other parts of the process also come and go.
    assert 0.5 * 7 < long["per_step_and_row"] < 2 * 7
    assert checkpointed["megabytes"] < long["megabytes"]
    assert {row["cell"] for row in figures} == {"LSTM", "GRU", "RNN"}


def test_roofline_bound():
    spec = importlib.util.spec_from_file_location("roofline", ASV_BENCH / "roofline.py")
    roofline = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(roofline)
    levels = [roofline.Level("L1", 1000, 1e9), roofline.Level("memory", 0, 1e8)]
    problem = Problem("GRU", 10, 2, 5, 8)
    moved = 4 * (3 * 8 * 8 + 3 * 8 * 5 / 10 + 2 * (5 + 8))
    products = 2 * 2 * 3 * 8 * (5 + 8)
    bound = roofline.bound(problem, roofline.Roof(levels, 1e12, ""))
    assert (bound.megabytes, bound.megaflops) == pytest.approx((moved / 1e6, products / 1e6))
    assert moved < 1000  # stays in the first level
    assert (bound.by, bound.us) == ("L1", pytest.approx(moved / 1e9 * 1e6))
    levels[0] = roofline.Level("L1", 500, 1e9)
    bound = roofline.bound(problem, roofline.Roof(levels, 1e12, ""))
    assert (bound.by, bound.us) == ("memory", pytest.approx((moved - 500) / 1e8 * 1e6))
    bound = roofline.bound(problem, roofline.Roof(levels, 1e6, ""))
    assert (bound.by, bound.us) == ("FMA", pytest.approx(products))


@pytest.mark.parametrize("arguments", [["--only", "H"], ["--only", "K=3"], ["--engines", "tensorflow"]])
def test_compare_wrong_usage(arguments):
    process = compare("--quick", *arguments)
    assert process.returncode == 2
    assert "Traceback" not in process.stderr
    assert arguments[1] in process.stderr


# -- asv_bench/optimizers.py --------------------------------------------------------------------------------------


def test_optimizers():
    run = f"sys.path.insert(0, {str(ASV_BENCH)!r}); runpy.run_module('optimizers', run_name='__main__')"
    table = printed_by(python(f"import runpy; {HIDE_PEERS}; {run}", "--quick")).splitlines()[2:]
    assert "| fastrnn |" in table[0]
    assert len(table) == 2 + 8
    assert all(float(row.split("|")[3]) > 0 for row in table[2:])
