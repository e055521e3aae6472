"""All checks of this project on one GPU, in a few minutes and one folder. `python -m benchmarks.gpu --out DIR`

Environment, tests, memory checker, benchmarks, tables, charts, and whether each target for GPUs was met; DIR.tar.gz
holds everything. Without a GPU, everything that can be checked is, and every target is "not measured". It exits with 1
where a test, the memory checker or a benchmark failed or had no time left, not where a target was missed.

vae_fast need not be installed, only what it needs: this file runs on the standard library, and all the processes that
it starts find vae_fast in a tree of links, and missing packages in wheels.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gpu_run.stages import GRACE, PASSED, Outcome, Stage, together
from benchmarks.gpu_run.uninstalled import FOR_BUILDING, NEEDED, ROOT, linked_tree, missing, remedy, unpacked

RESULTS = "results.json"
OWN = ("tree", "site")  # in the folder, needed only to run
MINUTES = 8.0
REPORTING = 30.0  # seconds kept for tables, charts and verdicts
FEW_THREADS = {"OMP_NUM_THREADS": "2", "TORCHINDUCTOR_COMPILE_THREADS": "4"}  # for each process, where several compute
# The most valuable first: the engine, its rivals, the rest.
CONTENDERS = ("graph-ops", "reduce-overhead", "graph", "compile-ops", "compile", "ops", "eager-tuned", "eager")
LOSSES = tuple(f"{direction}-{name}" for name in ("fused", "compile") for direction in ("forward", "backward"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="the folder (default: build/gpu)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="minutes for the whole run (default: 8)")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels to take missing packages from")
    parser.add_argument("--build", action="store_true", help="build the C++ operators in place, for this Python")
    chosen = parser.parse_args(arguments)
    began = time.monotonic()
    folder = chosen.out.resolve()
    try:
        _emptied(folder)
        site = unpacked(chosen.wheels, folder / "site")
    except (ValueError, subprocess.CalledProcessError) as error:
        return _refused(str(error))
    if lacking := missing(NEEDED):
        return _refused(f"not installed: {', '.join(lacking)}. {remedy(lacking)}")
    tree = linked_tree(folder / "tree")
    run = Run(folder, tree, [tree, *site], began, chosen.minutes)
    if chosen.build and (absent := missing(FOR_BUILDING)):
        print(f"the C++ operators need {', '.join(absent)} to be built")
    elif chosen.build:
        build = ("setup.py", "build_ext", "--inplace")
        run.stages([run.python("C++", *build, most=75, needed=False, impossible=[""])], ROOT)
        if not (ROOT / "kernels" / "_C.so").is_file():
            print("the C++ operators could not be built: kernels/_C_missing.txt says why")
    known = run.look()
    if known is not None:
        (on_a_gpu if known["device"] == "cuda" else without_a_gpu)(run, known["precision"])
    run.report(known)
    archive = packed(folder)
    wrong = [outcome.name for outcome in run.outcomes if outcome.is_wrong]
    print(f"{folder}\n{archive}\n{'failed: ' + ', '.join(wrong) if wrong else 'nothing failed'}")
    return 1 if wrong else 0


class Run:
    """A run of stages that write into a folder, within a time budget, with a Python that finds vae_fast in a tree."""

    def __init__(self, folder: Path, tree: Path, paths: Iterable[Path], began: float, minutes: float) -> None:
        self.folder, self.tree, self.deadline = folder, tree, began + 60 * minutes
        self.outcomes: list[Outcome] = []
        self._scale = minutes / MINUTES  # of the time that each stage may take
        found = [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.env = {**os.environ, "PYTHONPATH": os.pathsep.join(found), "PYTHONUNBUFFERED": "1"}
        if data := os.environ.get("VAE_FAST_DATA"):
            self.env["VAE_FAST_DATA"] = str(Path(data).resolve())  # stages run elsewhere

    def stages(self, stages: Sequence[Stage], cwd: Path | None = None, kept: float = REPORTING) -> None:
        """Run all stages at the same time, and keep `kept` seconds for what comes after."""
        env = self.env | (FEW_THREADS if len(stages) > 1 else {})
        stages = [replace(stage, most=stage.most * self._scale) for stage in stages]
        done = together(stages, self.deadline - kept - GRACE, self.folder, cwd or self.tree, env)
        for outcome in done:
            print(f"{outcome.name:<16} {outcome.status:<13} {outcome.seconds:5.0f} s  {outcome.log}", flush=True)
        self.outcomes += done

    def python(self, name: str, *arguments: str, most: float, **settings: Any) -> Stage:
        return Stage(name=name, command=[sys.executable, *arguments], most=most, **settings)

    def pytest(self, name: str, *arguments: str, most: float, **settings: Any) -> Stage:
        """Return a pytest stage in which warnings are shown but fail nothing: the versions are the machine's."""
        common = ("-m", "pytest", "-vv", "--tb=short", "-W", "default", "-p", "no:cacheprovider")
        return self.python(name, *common, *arguments, most=most, **settings)

    def tests(self, name: str, *arguments: str, most: float, parallel: bool = True) -> Stage:
        """Return a stage of tests, in several processes if the machine has the cores: most of the work is compiling."""
        several = ("-n", "4") if parallel and find_spec("xdist") and (os.cpu_count() or 1) >= 8 else ()
        junit = f"--junit-xml={self.folder / name}.xml"
        return self.pytest(name, *arguments, "-rs", junit, *several, most=most)

    def benchmarks(self, name: str, *arguments: str, rounds: int, most: float, **settings: Any) -> Stage:
        file = f"--benchmark-json={self.folder / f'results-{name}.json'}"
        options = ("--benchmark-only", file, "--rounds", str(rounds), "--budget", "0")  # a stage has its own limit
        return self.pytest(name, *arguments, *options, most=most, **settings)

    def look(self) -> dict[str, str] | None:
        """Return the facts about this machine; None where vae_fast cannot be imported."""
        stages = [
            self.python("probe", "-m", "benchmarks.gpu_run.probe", most=90, output="probe.json"),
            self.python("environment", "-m", "vae_fast.env", most=90, output="environment.txt"),
            self.python("packages", "-m", "pip", "list", most=60, needed=False, output="packages.txt"),
        ]
        if command := shutil.which("nvidia-smi"):
            stages.append(Stage(name="nvidia-smi", command=[command], most=30, needed=False))
        self.stages(stages)
        if self.outcomes[-len(stages)].status != PASSED:
            return None
        known: dict[str, str] = json.loads((self.folder / "probe.json").read_text().splitlines()[-1])
        print(_described(known), flush=True)
        return known

    def report(self, known: dict[str, str] | None) -> None:
        """Write results.json, report.md, charts/, summary.md and summary.json from whatever was measured."""
        results, precision = self.folder / RESULTS, known["precision"] if known else "bf16"
        if content := merged(sorted(self.folder.glob("results-*.json"))):
            results.write_text(json.dumps(content, indent=1))
        verdicts = self.folder / "targets.json"
        judging = ("-m", "benchmarks.targets", str(results), "--precision", precision, "--json", str(verdicts))
        stages = [self.python("targets", *judging, most=30, output="targets.md")]
        if content:
            charts = ("--out", str(self.folder / "charts"))
            reporting = ("-m", "benchmarks.report", str(results), *charts)
            stages.append(self.python("report", *reporting, most=REPORTING, output="report.md"))
        self.stages(stages, kept=0)
        judged = json.loads(verdicts.read_text()) if verdicts.exists() else []
        summary = {"machine": known, "stages": [vars(outcome) for outcome in self.outcomes], "targets": judged}
        (self.folder / "summary.json").write_text(json.dumps(summary, indent=1))
        rows = [f"| {o.name} | {o.status} | {o.seconds:.0f} | {o.log or '-'} |" for o in self.outcomes]
        what = _described(known) if known else "vae_fast could not be imported: see probe.log"
        targets = (self.folder / "targets.md").read_text() if judged else "The targets could not be judged."
        lines = ["# One run on a GPU", "", what, "", "## Targets", "", targets, "## Stages", ""]
        lines += ["| stage | how it ended | seconds | log |", "| --- | --- | ---: | --- |", *rows, ""]
        (self.folder / "summary.md").write_text("\n".join(lines))
        print("\n".join(lines[2:7]), flush=True)


def on_a_gpu(run: Run, precision: str) -> None:
    """Run the tests and the memory checker at the same time, then benchmarks one by one, the most valuable first."""
    slow = "not out_of_bounds and not nearly_as_fast"  # stages of their own
    others = (
        "tests/runtime/test_distributed.py::test_nccl_is_recorded_in_the_graph",
        "tests/analysis/test_trained.py::test_a_gpu_gives_the_numbers_of_a_cpu",
    )
    run.stages(
        [
            run.tests("tests-kernels", "tests/kernels/test_gpu.py", "-k", slow, most=130),
            run.tests("tests-engine", "tests/training/test_engine_gpu.py", *others, most=130),
            sanitizer("memcheck", most=130),
        ]
    )
    run.stages([run.tests("tests-bytes", "tests/kernels/test_gpu.py", "-k", "nearly_as_fast", most=40, parallel=False)])
    small, middle, large, largest = (f"cuda-{precision}-{batch}" for batch in (128, 1024, 4096, 8192))
    step, few = "train_step", CONTENDERS[:3]  # each in turns with eager
    for stage in (
        run.benchmarks("step-128", *ids(step, small, CONTENDERS), "--batch", "128", rounds=7, most=80),
        run.benchmarks("step-4096", *ids(step, large, few), "--batch", "4096", rounds=7, most=40),
        run.benchmarks("step-1024", *ids(step, middle, few), "--batch", "1024", rounds=7, most=40),
        run.benchmarks("loss", *ids("elbo", largest, LOSSES), "--batch", "8192", rounds=9, most=40),
        run.benchmarks(
            "epoch", *ids("epoch", small, ["graph-ops", "jax"]), "--batch", "128", "--long", rounds=5, most=70
        ),
        sanitizer("racecheck", most=60, needed=False),
        run.benchmarks("adam", "benchmarks/bench_adam.py", rounds=5, most=30, needed=False),
        run.benchmarks(
            "step-fp32", *ids(step, "cuda-fp32-128", few), "--batch", "128", rounds=5, most=60, needed=False
        ),
        run.benchmarks(
            "time_to_elbo", *ids("time_to_elbo", small, ["graph-ops"]), "--long", rounds=1, most=120, needed=False
        ),
    ):
        run.stages([stage])


def without_a_gpu(run: Run, precision: str) -> None:
    """Check that tests and benchmarks can be imported, that kernels compile, and that a run yields results."""
    print("this machine has no GPU that torch can use: what can be checked without one is", flush=True)
    gpu = (
        "tests/kernels/test_gpu.py",
        "tests/training/test_engine_gpu.py",
        "tests/runtime/test_distributed.py",
        "tests/analysis/test_trained.py",
    )
    kernel = "from benchmarks.kernel_resources import resources; print(resources('reparameterize_fwd, bf16', 'sm_90'))"
    case = f"cpu-{precision}-128"
    named = [*ids("train_step", case, CONTENDERS), *ids("elbo", case, LOSSES)]
    named += [*ids("epoch", case, ["graph-ops", "jax"]), *ids("time_to_elbo", case, ["graph-ops"])]
    small = ("benchmarks/bench_adam.py", *ids("train_step", "cpu-fp32-128", ["eager-tuned"]))
    for stage in (
        run.pytest("tests", *gpu, "--collect-only", most=60),
        run.pytest("benchmarks", *named, "benchmarks", "--collect-only", most=60),
        run.python("kernel", "-c", kernel, most=60),
        run.benchmarks("small-benchmark", *small, "--batch", "128", rounds=1, most=60),
    ):
        run.stages([stage])


def ids(suite: str, case: str, contenders: Iterable[str]) -> list[str]:
    """Return pytest's names for these benchmarks, in this order."""
    return [f"benchmarks/bench_{suite}.py::test_{suite}[{case}-{name}]" for name in contenders]


def sanitizer(tool: str, most: float, needed: bool = True) -> Stage:
    """Return a stage that runs every kernel under compute-sanitizer, with each tensor in its own allocation.

    Inside an allocation of the caching allocator, any access would be allowed.
    """
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    options = ["--error-exitcode", "9", "--target-processes", "application-only"]
    if tool == "memcheck":
        options += ["--report-api-errors", "no"]  # torch probes for functions that a driver need not have
    command = [
        program or "compute-sanitizer",
        "--tool",
        tool,
        *options,
        sys.executable,
        "tests/kernels/every_kernel.py",
    ]
    prefix = ("env", "PYTORCH_NO_CUDA_MEMORY_CACHING=1")
    refusals = ("Device not supported",) if program else ("No such file or directory",)
    return Stage(
        name=tool, command=[*prefix, *command], most=most, needed=needed and program is not None, impossible=refusals
    )


def merged(files: Iterable[Path]) -> dict[str, Any] | None:
    """Merge the readable result files; of a benchmark in two files the first counts. None if none is readable."""
    whole: dict[str, Any] = {}
    for file in files:
        try:
            part = json.loads(file.read_text())
        except ValueError:  # cut short while it was written
            continue
        seen = {one["fullname"] for one in whole.get("benchmarks", [])}
        # one that failed or was cut short has times, but no description
        benchmarks = [one for one in part["benchmarks"] if one["extra_info"] and one["fullname"] not in seen]
        rates = "products_gflop_per_second"
        floors = {**part["floors"], **whole.get("floors", {})}
        if rates in floors:
            floors[rates] = {**part["floors"].get(rates, {}), **whole.get("floors", {}).get(rates, {})}
        whole = {
            **part,
            "benchmarks": whole.get("benchmarks", []) + benchmarks,
            "not_measured": whole.get("not_measured", []) + part["not_measured"],
            "floors": floors,
        }
    return whole or None


def _described(known: dict[str, str]) -> str:
    return "; ".join(f"{name}: {fact}" for name, fact in known.items())


def packed(folder: Path) -> Path:
    """Pack the folder into FOLDER.tar.gz, without what was needed only to run."""
    archive = folder.with_name(f"{folder.name}.tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        for path in sorted(folder.iterdir()):
            if path.name not in OWN:
                tar.add(path, f"{folder.name}/{path.name}")
    return archive


def _emptied(folder: Path) -> None:
    """Empty the folder or create it; raise ValueError where it holds something other than an earlier run."""
    if folder.exists() and any(folder.iterdir()) and not any((folder / made).is_dir() for made in OWN):
        raise ValueError(f"--out: expected a folder that is new, empty or of an earlier run, got {folder}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _refused(line: str) -> int:
    print(f"error: {line}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends running stages, too
    sys.exit(main())
