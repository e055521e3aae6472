"""Benchmark results as tables and charts. `python -m benchmarks.report FILE.json [MORE.json ...]`

FILE.json is what `pytest benchmarks --benchmark-only --benchmark-json FILE.json` wrote. The tables are Markdown, on
stdout; the charts are PNG and SVG files in --out. With several files, benchmarks that ran in more than one are shown
side by side, and each spread (quartiles over the rounds) is compared with the others'.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness.budget import REASON
from benchmarks.reporting import tables
from benchmarks.reporting.results import Benchmark, Key, NotMeasured, Run, read
from vae_fast.cli.exit_codes import exit_code

ENGINE = """The fastest of the engine's own over each rival: the two ratios to eager, one over the other. In brackets
the lower quartile of ours over the upper one of theirs, and the reverse."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("file", nargs="+", type=Path, metavar="FILE", help="results of `--benchmark-json FILE`")
    parser.add_argument("--out", type=Path, help="the charts' folder (default: charts, next to the first FILE)")
    parser.add_argument("--charts", action=argparse.BooleanOptionalAction, default=True)
    chosen = parser.parse_args(arguments)
    runs = [read(path) for path in chosen.file]
    print("\n".join(report(runs)))
    if chosen.charts:
        from benchmarks.reporting import charts

        for path in charts.write(first_seen(runs), chosen.out or chosen.file[0].parent / "charts"):
            print(f"wrote {path}", file=sys.stderr)


def report(runs: Sequence[Run]) -> list[str]:
    lines: list[str] = []
    for index, (run, benchmarks) in enumerate(first_seen(runs), 1):
        lines += [
            f"## {'Results' if len(runs) == 1 else f'Run {index}'}",
            "",
            *header(run),
            *tables.results(benchmarks),
        ]
        if against := tables.engine_against_others(benchmarks):
            lines += ["", "### The engine against the others", "", ENGINE, "", *against]
        if run.not_measured and run.not_measured not in [earlier.not_measured for earlier in runs[: index - 1]]:
            lines += ["", "### Not measured", "", *not_measured(run.not_measured)]
        lines.append("")
    if side_by_side := tables.repeated(runs):
        lines += ["## The runs side by side", "", *side_by_side, ""]
    return lines[:-1]


def first_seen(runs: Sequence[Run]) -> list[tuple[Run, list[Benchmark]]]:
    """Return each run with those of its benchmarks that no earlier run has."""
    seen: set[Key] = set()
    fresh = []
    for run in runs:
        fresh.append((run, [b for b in run.benchmarks if b.key not in seen]))
        seen |= run.by_key().keys()
    return fresh


def header(run: Run) -> list[str]:
    """Return the context of the figures: machine, versions, threads, revision, date and rounds."""
    known = run.machine
    machine = [str(known[part]) for part in ("machine", "cpu_capability", "gpu", "system") if known.get(part)]
    versions = {f"{package} {version}" for b in run.benchmarks for package, version in b.versions.items()}
    versions |= {f"{package} {known[package]}" for package in ("python", "torch") if known.get(package)}
    rounds = sorted({b.rounds for b in run.benchmarks})
    facts = {
        "machine": ", ".join(machine),
        "used by other processes at the start": "" if run.busy is None else f"{run.busy:.0%} of the CPUs",
        "versions": ", ".join(sorted(versions)),
        "threads": _most_and_others([(b.label, b.threads) for b in run.benchmarks]) or str(known.get("threads", "")),
        "denormals flushed": _most_and_others([(b.label, b.flush_denormals) for b in run.benchmarks]),
        "revision": ", ".join(sorted({b.revision for b in run.benchmarks if b.revision})),
        "date": run.date,
        "rounds": "-".join(map(str, rounds[:1] + rounds[1:][-1:])) + _given_up(run.benchmarks),
        "images": run.images,
        "floors": _floors(run.floors),
        "file": run.path.name,
    }
    return [f"- {name}: {fact}" for name, fact in facts.items() if fact]


def _given_up(benchmarks: Sequence[Benchmark]) -> str:
    fewer = sum(b.gave_up_rounds for b in benchmarks)
    return f"; {fewer} of {len(benchmarks)} benchmarks took fewer than wanted: {REASON}" if fewer else ""


def _floors(floors: dict[str, Any]) -> str:
    """Return the machine's ceilings, as measured in the same run."""
    units = {"copy_gb_per_second": "GB/s copied", "empty_launch_us": "us a launch", "empty_graph_node_us": "us a node"}
    said = [f"{tables.number(floors[name])} {unit}" for name, unit in units.items() if floors.get(name)]
    rates = floors.get("products_gflop_per_second") or {}
    said += [f"{tables.number(rate)} GFLOP/s in products of batch {batch}, float32" for batch, rate in rates.items()]
    return ", ".join(said)


def _most_and_others(values: Iterable[tuple[str, object]]) -> str:
    """Return the most common value, then the others with their labels: '2; 4 (JAX)'."""
    groups: dict[str, list[str]] = {}
    for label, value in values:
        text = "" if value is None else {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
        if text and label not in groups.setdefault(text, []):
            groups[text].append(label)
    most, *others = sorted(groups, key=lambda text: -len(groups[text])) or [""]
    return "; ".join([most, *(f"{text} ({', '.join(groups[text])})" for text in others)])


def not_measured(missing: Iterable[NotMeasured]) -> list[str]:
    """Group what was not measured by reason, then by suite and case, then by contender."""
    lines = []
    for reason, entries in tables.grouped(missing, lambda m: m.reason).items():
        places: dict[str, dict[str, None]] = {}  # dictionaries keep the order
        for label, mine in tables.grouped(entries, lambda m: m.label).items():
            places.setdefault(_place(mine), {})[label] = None
        lines += [f"- {reason}: " + "; ".join(f"{', '.join(labels)} ({place})" for place, labels in places.items())]
    return lines


def _place(entries: Sequence[NotMeasured]) -> str:
    suites = ", ".join(dict.fromkeys(f"{m.suite} {m.what or ''}".strip() for m in entries))
    kinds = ", ".join(dict.fromkeys(f"{m.device or ''} {m.precision or ''}".strip() for m in entries))
    batches = ", ".join(map(str, dict.fromkeys(m.batch for m in entries if m.batch)))
    return "; ".join(part for part in (suites, kinds, f"batch {batches}" if batches else "") if part)


if __name__ == "__main__":
    sys.exit(exit_code(main))
