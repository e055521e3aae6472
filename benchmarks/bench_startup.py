"""What a user waits for before training: processes from their start to their end, in turns with an eager one.

`import` is `import vae_fast`, against `import torch`. `first step` is a process that imports all it needs, compiles and
records, and makes one step of the digits; `compiled before` where the compiled code is on disk already. The eager one
makes its step as people write it.
"""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import BASELINE, STEP
from benchmarks.facts import ROOT, Case, describe
from benchmarks.timing import Turn, alternate

BATCHES, PRECISIONS = [128], ["fp32"]
ROUNDS, ROUNDS_COLD = 2, 1
NAMES = [name for name in STEP if name not in ("eager-tuned", "reduce-overhead", "graph", "ops")]


@pytest.mark.parametrize("name", ["eager", "fused"])
def test_import(name: str, case: Case, benchmark: Any) -> None:
    modules = {"eager": "torch", "fused": "vae_fast"}
    ours, baseline = (Turn(partial(_run, "-c", f"import {modules[one]}")) for one in (name, "eager"))
    times = alternate(benchmark, ours, baseline, None, ROUNDS)
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
    require: Callable[..., None],
    benchmark: Any,
    compiled_code: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiles = STEP[name].compiles
    if not compiles and what != "first step":
        pytest.skip("nothing to compile")
    require("startup", name, STEP[name].label, case)
    ours, baseline = (
        Turn(partial(_run, "-m", "benchmarks.first_step", one, *vars(case).values())) for one in (name, BASELINE)
    )
    folder = compiled_code / name
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    cold = compiles and what == "first step"
    rounds, warm_up = (ROUNDS_COLD, 0) if cold else (ROUNDS, int(compiles and not folder.exists()))
    times = alternate(benchmark, ours, baseline, None, rounds, warm_up=warm_up)
    names: dict[str, Any] = {"contender": name, "label": STEP[name].label, "ours": STEP[name].ours}
    describe(benchmark, case, times, unit="run", suite="startup", what=what, **names)


def _run(*arguments: object) -> None:
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
