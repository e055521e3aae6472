"""What a user waits for before training: processes from their start to their end, in turns with an eager one.

`import` is `import vae_fast`, against `import torch`. `first step` is a process that imports all it needs, compiles and
records, and makes one step of the digits; `compiled before` where the compiled code is on disk already. The eager one
makes its step as people write it. A first step whose loss is not the reference's fails. On a GPU the captured
contender's time less that of the one without graphs is the capture's.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import vae_fast as vf
from benchmarks.contenders import STEP
from benchmarks.facts import ROOT, Case, describe
from benchmarks.results import BASELINE
from benchmarks.timing import Pace, Turn, alternate
from benchmarks.training import TOLERANCE, hold_against, reference_loss

BATCHES, PRECISIONS = [128], ["fp32"]
ROUNDS, ROUNDS_COLD = 3, 1  # one of fresh compilations, which take half a minute: no spread, and not compared
NAMES = [name for name in STEP if name not in ("eager-tuned", "reduce-overhead", "graph", "ops")]


@pytest.mark.parametrize("name", ["eager", "fused"])
def test_import(name: str, case: Case, benchmark: Any) -> None:
    modules = {"eager": "torch", "fused": "vae_fast"}
    ours, baseline = (Turn(partial(_run, "-c", f"import {modules[one]}")) for one in (name, "eager"))
    times = alternate(benchmark, ours, baseline, None, Pace(ROUNDS))
    names: dict[str, Any] = {"contender": name, "label": f"import {modules[name]}", "ours": name == "fused"}
    describe(benchmark, case, times, unit="run", suite="startup", what="import", **names)


@pytest.fixture(scope="session")
def compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Empty at first; what the first process compiles is there for those after it."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize("what", ["first step", "first step, compiled before"])
@pytest.mark.parametrize("name", NAMES)
def test_first_step(
    name: str,
    what: str,
    case: Case,
    long: bool,
    require: Callable[..., None],
    skip: Callable[..., None],
    benchmark: Any,
    compiled_code: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contender = STEP[name]
    if not contender.compiles and what != "first step":
        pytest.skip("nothing to compile")
    if contender.compiles and not contender.ours and not long:
        skip("--long", suite="startup", contender=name, label=contender.label, **vars(case))
    require("startup", name, contender.label, case)
    folder = compiled_code / name
    for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(variable, str(folder / variable))
    losses: list[str] = []

    def first_step(one: str) -> None:
        losses.append(_run("-m", "benchmarks.first_step", one, *vars(case).values()))

    ours, baseline = (Turn(partial(first_step, one)) for one in (name, BASELINE))
    cold = contender.compiles and what == "first step"
    rounds, warm_up = (ROUNDS_COLD, 0) if cold else (ROUNDS, int(contender.compiles and not folder.exists()))
    times = alternate(benchmark, ours, baseline, None, Pace(rounds), warm_up=warm_up)
    expected = reference_loss(1, case.batch, vf.load_images("digits").pixels.flatten(1))
    for loss in losses:
        hold_against(f"{contender.label} or the baseline: its first loss", float(loss), expected, TOLERANCE)
    names: dict[str, Any] = {"contender": name, "label": contender.label, "ours": contender.ours}
    describe(benchmark, case, times, unit="run", suite="startup", what=what, **names)


def _run(*arguments: object) -> str:
    done = subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout
