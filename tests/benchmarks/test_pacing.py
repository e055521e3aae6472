"""Benchmarks under pytest within a budget: a line for each as it ends, and a JSON that lists what was dropped."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NAPS = """
import os
import time
from functools import partial

import pytest

from benchmarks.harness.metadata import describe
from benchmarks.harness.suites import Suite
from benchmarks.harness.rounds import Turn, alternate

BATCHES, PRECISIONS = [1], ["fp32"]
LONG = float(os.environ.get("LONG", 2))
LABELS = {"first": "ours", "long": "one that is long in coming", "last": "the last"}


@pytest.mark.suite(Suite("naps", LABELS, seconds=1, left_out=lambda params, long: params["name"] == "absent"))
@pytest.mark.parametrize("name", ["first", "absent", "long", "last"])
def test_naps(name, case, pace, benchmark):
    if name == "absent":
        pytest.skip("it is not here")
    if name == "long":
        time.sleep(LONG)
    nap = Turn(partial(time.sleep, 0.1))
    times = alternate(benchmark, nap, nap, None, pace, case.device)
    names = {"suite": "naps", "what": None, "contender": name, "label": LABELS[name], "ours": True}
    describe(benchmark, case, times, unit="nap", units=2, **names)
"""


def started(folder: Path, *options: str, long: float = 2) -> "subprocess.Popen[str]":
    (folder / "bench_naps.py").write_text(NAPS)
    # it uses benchmarks/conftest.py as well, whatever its folder
    usual = ["--benchmark-only", "-p", "benchmarks.conftest", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", str(folder / "bench_naps.py"), *usual, *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "LONG": str(long)}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **streams)


def test_a_line_is_printed_as_each_benchmark_ends(tmp_path: Path) -> None:
    with started(tmp_path, "--benchmark-quiet", "--rounds=2") as process:
        assert process.stdout is not None
        first = next(line for line in process.stdout if line.startswith("[1/3]"))
        assert process.poll() is None  # the long one is still to come
        rest = process.stdout.read()
    assert process.returncode == 0, rest
    assert first.startswith("[1/3] naps fp32 1, ours: ")
    assert " ms a nap, " in first
    assert " times eager (2 rounds); about " in first
    assert "left" in first
    assert "\n[3/3] naps fp32 1, the last: " in rest
    assert "absent" not in rest
    assert rest.startswith("[2/3]")  # and none of pytest's letters


def test_the_budget_is_printed_at_the_start_and_the_size_of_a_round_in_the_table(tmp_path: Path) -> None:
    with started(tmp_path, "--rounds=1", "-k", "first") as process:
        printed, _ = process.communicate()
    assert "1 benchmark within 7.5 minutes (--budget), each in turns with an eager baseline\n" in printed
    assert "benchmark 'naps cpu-fp32-1, in rounds of 2 naps'" in printed


def test_benchmarks_without_time_are_dropped_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    began = time.monotonic()
    with started(tmp_path, "--budget=3", "--rounds=50", f"--benchmark-json={file}", long=300) as process:
        printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert time.monotonic() - began < 100  # on a busy machine, importing torch takes most of it
    content = json.loads(file.read_text())
    (first,) = (benchmark["extra_info"] for benchmark in content["benchmarks"])
    assert 1 <= first["rounds_taken"] < 10
    assert (first["rounds_wanted"], first["units_a_round"]) == (50, 2)
    why = {"suite": "naps", "what": None, "reason": "the budget of time was spent", "batch": 1}
    names = {"long": "one that is long in coming", "last": "the last"}
    expected = [
        {**why, "contender": name, "label": label, "precision": "fp32", "device": "cpu"}
        for name, label in names.items()
    ]
    assert content["not_measured"] == expected
    assert content["budget"] == 3
    assert 0 <= content["busy"] <= 1
    assert "[3/3] naps fp32 1, the last: not measured: the budget of time was spent" in printed
