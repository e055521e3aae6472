"""What a user waits for before training: whole processes, timed in turns with an eager one.

`import` is `import vae_fast`, compared with `import torch`. `first step` is a process that imports all it needs,
compiles and records, and takes one step on the digits; in `compiled before` the compiled code is on disk already. The
eager process takes its step in ordinary PyTorch. A first step fails if its loss differs from the reference's. On a GPU
the cost of the capture is the captured contender's time minus that of the one without graphs.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vae_fast as vf
from benchmarks.contenders.registry import STEP, is_missing, labels
from benchmarks.harness.metadata import ROOT, Case, describe
from benchmarks.harness.rounds import Pace, Turn, alternate
from benchmarks.harness.suites import Params, Suite
from benchmarks.harness.training_runs import TOLERANCE, check_loss, reference_loss
from benchmarks.reporting.results import BASELINE

BATCHES, PRECISIONS = [128], ["fp32"]
ROUNDS = 3
COLD = "first step"
NAMES = [name for name in STEP if name not in ("eager-tuned", "reduce-overhead", "graph", "ops")]
MODULES = {"eager": "torch", "fused": "vae_fast"}
IMPORTS = {name: f"import {module}" for name, module in MODULES.items()}


@pytest.mark.suite(Suite("startup", IMPORTS, seconds=5, what="import"))
@pytest.mark.parametrize("name", MODULES)
def test_import(name: str, case: Case, pace: Pace, benchmark: Any) -> None:
    ours, baseline = (Turn(partial(_run, "-c", IMPORTS[one])) for one in (name, "eager"))
    times = alternate(benchmark, ours, baseline, None, _pace(pace, name))
    names: dict[str, Any] = {"contender": name, "label": IMPORTS[name], "ours": name == "fused"}
    describe(benchmark, case, times, unit="run", suite="startup", what="import", **names)


@pytest.fixture(scope="session")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder, empty at first, where later processes find what the first one compiled."""
    return tmp_path_factory.mktemp("compiled")


def only_long(name: str) -> bool:
    """Return whether a contender needs --long: the others' compilers take half a minute."""
    return STEP[name].compiles and not STEP[name].ours


def left_out(params: Params, long: bool) -> bool:
    nothing_to_compile = params["what"] != COLD and not STEP[params["name"]].compiles
    return nothing_to_compile or (not long and only_long(params["name"])) or is_missing(params)


@pytest.mark.suite(Suite("startup", labels(STEP), seconds=12, compiling=15, left_out=left_out))
@pytest.mark.parametrize("what", [COLD, "first step, compiled before"])
@pytest.mark.parametrize("name", NAMES)
def test_first_step(
    name: str,
    what: str,
    case: Case,
    pace: Pace,
    long: bool,
    require: Callable[..., None],
    skip: Callable[..., None],
    benchmark: Any,
    compiled_code: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contender = STEP[name]
    if not contender.compiles and what != COLD:
        pytest.skip("nothing to compile")
    if not long and only_long(name):
        skip("--long", suite="startup", contender=name, label=contender.label, **vars(case))
    require("startup", name, contender.label, case)
    folder = compiled_code / name
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(folder / variable))
    losses: list[str] = []

    def first_step(one: str) -> None:
        losses.append(_run("-m", "benchmarks.harness.first_step", one, *vars(case).values()))

    ours, baseline = (Turn(partial(first_step, one)) for one in (name, BASELINE))
    cold = contender.compiles and what == COLD
    warm_up = int(contender.compiles and not cold and not folder.exists())
    times = alternate(benchmark, ours, baseline, None, _pace(pace, name, cold), warm_up=warm_up)
    expected = reference_loss(1, case.batch, vf.load_images("digits").pixels.flatten(1))
    for loss in losses:
        check_loss(f"{contender.label} or the baseline: its first loss", float(loss), expected, TOLERANCE)
    names: dict[str, Any] = {"contender": name, "label": contender.label, "ours": contender.ours}
    describe(benchmark, case, times, unit="run", suite="startup", what=what, **names)


def _pace(pace: Pace, name: str, cold: bool = False) -> Pace:
    """Return one round, without a spread, for fresh compilations of half a minute and for the baseline itself."""
    return replace(pace, rounds=1 if cold or name == BASELINE else ROUNDS, patience=0.0)


def _run(*arguments: object) -> str:
    """Return what a Python process prints; on an interrupt, kill it and everything that it has started."""
    command = [sys.executable, *map(str, arguments)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams) as process:
        try:
            printed, errors = process.communicate()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, errors
    return str(printed)
