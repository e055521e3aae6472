"""A check whether anything got slower between two benchmark runs. `python -m benchmarks.compare OLD.json NEW.json`

It compares each contender's median ratio to the eager baseline of its own run, because machines differ. It exits with 1
if one dropped by more than --limit, or has disappeared and NEW does not say why. Results whose cores were near in one
run and distant in the other are not compared.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.budget import REASON
from benchmarks.harness.metadata import ROOT
from benchmarks.reporting.results import BASELINE, Benchmark, Key, Run, Spread, read
from benchmarks.reporting.tables import apart, markdown, name, percent, place, spread
from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import RunError

FEWEST_ROUNDS = 3  # for whole processes, and where there was not enough time for those wanted
PATIENCE = "30"  # seconds, for each benchmark that is measured again
Measured = tuple[Spread, Benchmark]


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare the runs; raise RunError where something got slower or disappeared."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument(
        "old",
        type=Path,
        nargs="+",
        metavar="OLD",
        help="the earlier results, of `--benchmark-json OLD`; a benchmark in several counts as in the first",
    )
    parser.add_argument("new", type=Path, metavar="NEW", help="the later results")
    parser.add_argument("--limit", type=fraction, default=0.10, help="the drop that is tolerated (default: 0.10)")
    parser.add_argument("--again", action="store_true", help="measure what got slower again before it counts")
    chosen = parser.parse_args(arguments)
    olds, new = [read(path) for path in chosen.old], read(chosen.new)
    slower = compare(olds, new, chosen.limit)
    if slower and chosen.again:
        print(f"\nonce more, the {len(slower)} that got slower:", flush=True)
        slower = compare(olds, measured_again(slower, chosen.new), chosen.limit, all_of_it=False)
    if slower:
        raise RunError(f"against {BASELINE}, {len(slower)} got slower by more than {chosen.limit:.0%}")


def fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a fraction between 0 and 1, such as 0.10, got {text}")
    return value


def compare(olds: Sequence[Run], new: Run, limit: float, *, all_of_it: bool = True) -> list[Benchmark]:
    """Print what changed by more than `limit`, what is new and what is gone; return what got slower.

    Raise RunError where nothing can be compared or, if NEW is `all_of_it`, where something is gone without a reason.
    """
    _warn(olds[0], new)
    before = {key: measured for old in reversed(olds) for key, measured in _ratios(old).items()}
    after = _ratios(new)
    shared = [(before[key], after[key]) for key in before if key in after]
    if not shared:
        raise RunError(f"{new.path}: expected benchmarks that {olds[0].path} has too, with their ratio, and found none")
    pairs = [pair for pair in shared if pair[0][1].compares_with(pair[1][1])]
    slower = [pair for pair in pairs if _change(pair) < -limit]
    faster = [pair for pair in pairs if _change(pair) > limit]
    if slower or faster:
        print("\n".join([*_table(sorted(slower + faster, key=_change)), ""]))
    for (was, old), (ratio, now) in (pair for pair in shared if pair not in pairs):
        print(f"not compared: {now.key}: {spread(was)}, cores {apart(old)} ns apart; {spread(ratio)}, {apart(now)} ns")
    print(f"{len(pairs)} compared: {len(slower)} slower and {len(faster)} faster by more than {limit:.0%}")
    if not pairs:
        raise RunError(f"{new.path}: nothing compared: its cores were nowhere as far apart as before (--patience)")
    if all_of_it:
        _print_new_and_gone(before, after, new)
    return [now for _, (_, now) in slower]


def _print_new_and_gone(before: dict[Key, Measured], after: dict[Key, Measured], new: Run) -> None:
    """Print what is new and what is gone; raise RunError where the run does not say why something is gone."""
    lost = [key for key in before if key not in after and not _reason(key, new)]
    for key in before.keys() - after.keys() - set(lost):
        print(f"not measured any more: {key}: {_reason(key, new)}")
    for key in sorted(after.keys() - before.keys(), key=str):
        print(f"new: {key}: {spread(after[key][0])}")
    for key in lost:
        print(f"gone: {key}: it was {spread(before[key][0])}, and {new.path.name} does not say why")
    if lost:
        raise RunError(f"{len(lost)} are gone")


def measured_again(benchmarks: Sequence[Benchmark], file: Path) -> Run:
    """Measure these alone, in a separate process that waits for near cores; their JSON is kept next to `file`."""
    again = file.resolve().with_suffix(".again.json")
    tests = [benchmark.test for benchmark in benchmarks if benchmark.test]
    options = ["--benchmark-only", "--benchmark-quiet", "--long", "--patience", PATIENCE]
    command = [sys.executable, "-m", "pytest", *tests, *options, "--benchmark-json", str(again)]
    if (code := subprocess.run(command, cwd=ROOT).returncode) != 0:
        raise RunError(f"{file}: measuring again failed, pytest ended with {code}")
    return read(again)


def _ratios(run: Run) -> dict[Key, Measured]:
    """Return the ratios that mean something: not the baseline's to itself, nor those of a round or two."""
    meaningful = (b for b in run.benchmarks if b.contender != BASELINE and not _has_few_rounds(b))
    return {b.key: (b.ratio, b) for b in meaningful if b.ratio}


def _has_few_rounds(benchmark: Benchmark) -> bool:
    return benchmark.rounds < FEWEST_ROUNDS and (benchmark.unit == "run" or benchmark.gave_up_rounds)


def _change(pair: tuple[Measured, Measured]) -> float:
    (old, _), (new, _) = pair
    return round(new.median / old.median - 1, 9)  # a drop of exactly the limit passes, whatever its last bit


def _reason(key: Key, run: Run) -> str | None:
    found = run.by_key().get(key)
    if found is not None and found.gave_up_rounds:
        return f"{found.rounds} rounds only: {REASON}"
    return next((missing.reason for missing in run.not_measured if missing.covers(key)), None)


def _table(pairs: Sequence[tuple[Measured, Measured]]) -> list[str]:
    rows = []
    for pair in pairs:
        (old, a), (new, b) = pair
        floors = " / ".join(percent(x.of_floor, quartiles=False) for x in (a, b))
        changed = [spread(old), spread(new), f"{_change(pair):+.1%}", "yes" if old.overlaps(new) else "no"]
        rows.append([place(b), str(b.batch or "-"), name(b), *changed, floors])
    return markdown(["suite", "batch", "contender", "old", "new", "change", "overlap", "of the floor"], rows, 3)


def _warn(old: Run, new: Run) -> None:
    machines = [str(run.machine.get("machine", "a machine without a name")) for run in (old, new)]
    if machines[0] != machines[1]:
        print(f"warning: {machines[0]} before, {machines[1]} now; ratios still compare", file=sys.stderr)
    if old.images != new.images:
        print(f"warning: images were {old.images} before, are {new.images} now", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(exit_code(main))
