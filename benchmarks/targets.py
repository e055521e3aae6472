"""The targets for a GPU, and whether a run met them. `python -m benchmarks.targets RESULTS.json --json FILE`

Each target is met, missed or not measured, judged by the median; a ratio also has its spread, the quartiles over the
rounds. The targets are for an H200-class GPU, mixed precision on all sides, MNIST and 784-400-20-400-784.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.reporting.results import Benchmark, Key, Run, Spread, read
from benchmarks.reporting.tables import markdown
from vae_fast.cli.exit_codes import exit_code

MET, MISSED, NOT_MEASURED = "met", "missed", "not measured"
DEVICE = "cuda"
FUSED = "fused"
Measured = tuple[Spread, str] | str
"""A figure and the contender it belongs to, or why there is none."""


@dataclass(frozen=True)
class Target:
    """A figure to be reached.

    Args:
        measure: finds the figure in a run, for a precision.
        unit: "times", "us" or "%".
        bounds: by stage of the engine: with kernels for the parts of a step, and with kernels for a whole step. They
            are upper bounds for "us", lower bounds for other units; None where there is none.
    """

    name: str
    measure: Callable[[Run, str], Measured]
    unit: str
    bounds: tuple[float, float | None]


@dataclass(frozen=True)
class Verdict:
    """The verdict on a target; `figure` and its quartiles are in the target's unit."""

    target: str
    unit: str
    bound: float
    kernels: str
    verdict: str
    figure: float | None = None
    low: float | None = None
    high: float | None = None
    of: str = ""
    why: str = ""


KERNELS = ("separate kernels", "whole-step kernels")


def against_eager(suite: str) -> Callable[[Run, str], Measured]:
    """Return a measure of how many times as fast the engine's fastest is as the suite's eager baseline, batch 128."""

    def measured(run: Run, precision: str) -> Measured:
        best = _best(run, suite, 128, precision)
        return best if isinstance(best, str) else (_ratio(best), best.label)

    return measured


def against(suite: str, rival: str) -> Callable[[Run, str], Measured]:
    """Return the same measure against a rival in that suite: the ratios to eager, one over the other."""

    def measured(run: Run, precision: str) -> Measured:
        best, other = _best(run, suite, 128, precision), _find(run, suite, None, rival, 128, precision)
        if isinstance(best, str) or isinstance(other, str):
            return best if isinstance(best, str) else str(other)
        return _ratio(best).over(_ratio(other)), f"{best.label} against {other.label}"

    return measured


def step_time(batch: int) -> Callable[[Run, str], Measured]:
    """Return a measure of the microseconds per step of the engine's fastest."""

    def measured(run: Run, precision: str) -> Measured:
        best = _best(run, "train_step", batch, precision)
        return best if isinstance(best, str) else (Spread(*[best.ms * 1e3] * 3), best.label)

    return measured


def share_of_a_copy(what: str) -> Callable[[Run, str], Measured]:
    """Return a measure, in percent, of the time of a copy of as many bytes over that of the fused loss, 8192 x 784."""

    def measured(run: Run, precision: str) -> Measured:
        found = _find(run, "elbo", what, FUSED, 8192, precision)
        if isinstance(found, str):
            return found
        if found.of_floor is None:
            return "its floor was not measured"
        return Spread(*[100 * part for part in found.of_floor]), f"{found.label}, {what}"

    return measured


TARGETS = (
    Target("images/s against eager, images resident, batch 128", against_eager("train_step"), "times", (10, 30)),
    Target("images/s against eager fed by a DataLoader, batch 128", against_eager("epoch"), "times", (100, 300)),
    Target(
        'a step against torch.compile(mode="reduce-overhead"), batch 128',
        against("train_step", "reduce-overhead"),
        "times",
        (1.5, 3),
    ),
    Target("an epoch against JAX, batch 128", against("epoch", "jax"), "times", (1.2, 2)),
    Target("time a step, batch 128", step_time(128), "us", (50, 20)),
    Target("time a step, batch 4096", step_time(4096), "us", (90, 60)),
    Target("fused loss 8192 x 784, forward, of a copy", share_of_a_copy("forward"), "%", (85, None)),
    Target("fused loss 8192 x 784, backward, of a copy", share_of_a_copy("backward"), "%", (85, None)),
)


def judge(run: Run | None, precision: str, targets: Sequence[Target] = TARGETS) -> list[Verdict]:
    """Judge every target under each of its bounds; `run` is None where there are no results."""
    verdicts = []
    for target in targets:
        measured = "there are no results" if run is None else target.measure(run, precision)
        for kernels, bound in zip(KERNELS, target.bounds, strict=True):
            if bound is not None:
                verdicts.append(_verdict(target, kernels, bound, measured))
    return verdicts


def _verdict(target: Target, kernels: str, bound: float, measured: Measured) -> Verdict:
    nothing = Verdict(target.name, target.unit, bound, kernels, NOT_MEASURED)
    if isinstance(measured, str):
        return replace(nothing, why=measured)
    (low, median, high), of = measured
    is_met = median <= bound if target.unit == "us" else median >= bound
    return replace(nothing, verdict=MET if is_met else MISSED, figure=median, low=low, high=high, of=of)


def _best(run: Run, suite: str, batch: int, precision: str) -> Benchmark | str:
    """Return the engine's fastest, or why it is missing."""
    place = (suite, None, batch, precision, DEVICE)
    ours = [b for b in run.benchmarks if b.ours and b.ratio and _place(b.key) == place]
    return max(ours, key=lambda b: _ratio(b).median) if ours else _why(run, Key(suite, None, "graph-ops", *place[2:]))


def _find(run: Run, suite: str, what: str | None, contender: str, batch: int, precision: str) -> Benchmark | str:
    """Return a benchmark, or why it is missing."""
    key = Key(suite, what, contender, batch, precision, DEVICE)
    found = run.by_key().get(key)
    return found if found is not None and found.ratio else _why(run, key)


def _place(key: Key) -> tuple[object, ...]:
    return key.suite, key.what, key.batch, key.precision, key.device


def _why(run: Run, key: Key) -> str:
    reasons = [missing.reason for missing in run.not_measured if missing.covers(key)]
    return f"{key}: {reasons[0] if reasons else 'not among the results'}"


def _ratio(benchmark: Benchmark) -> Spread:
    assert benchmark.ratio is not None, benchmark.key
    return benchmark.ratio


def table(verdicts: Sequence[Verdict]) -> list[str]:
    """Return a row for each target, with its figure and the verdict under each bound."""
    rows = []
    for name in dict.fromkeys(v.target for v in verdicts):
        mine = {v.kernels: v for v in verdicts if v.target == name}
        one = next(iter(mine.values()))
        rows.append([name, *(_judged(mine.get(kernels)) for kernels in KERNELS), _figure(one), one.of or one.why])
    return markdown(["target", *KERNELS, "figure", "of"], rows, 5)


def _judged(verdict: Verdict | None) -> str:
    if verdict is None:
        return "-"
    side = "at most" if verdict.unit == "us" else "at least"
    return f"**{verdict.verdict}** ({side} {verdict.bound:g} {verdict.unit})"


def _figure(verdict: Verdict) -> str:
    if verdict.figure is None or verdict.low is None or verdict.high is None:
        return "-"
    middle = f"{verdict.figure:.4g} {verdict.unit}"
    return middle if verdict.low == verdict.high else f"{middle} ({verdict.low:.4g}-{verdict.high:.4g})"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.targets", description=__doc__)
    parser.add_argument("file", type=Path, metavar="RESULTS", help="of `--benchmark-json`; the file need not exist")
    parser.add_argument("--precision", default="bf16", help="the precision to judge: bf16 (the default), fp16 or fp32")
    parser.add_argument("--json", type=Path, help="a file for the verdicts")
    chosen = parser.parse_args(arguments)
    verdicts = judge(read(chosen.file) if chosen.file.exists() else None, chosen.precision)
    print("\n".join(table(verdicts)))
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(v) for v in verdicts], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(exit_code(main))
