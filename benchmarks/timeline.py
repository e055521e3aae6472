"""What one step does, as a picture and a table, from traces that `--profile torch` wrote.

    python -m benchmarks.timeline "before=RUN/profile/trace.json.gz" "after=OTHER/..." --out step.png

Each trace is a row: the fastest step of its window, which other work on the machine disturbed least. The row shows the
ranges and, below them, what the host was doing, by kind. The table adds up the latter and also has the median of all
steps. For a trace from a GPU, only the host is shown.
"""

import argparse
import gzip
import json
import re
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vae_fast.cli.exit_codes import exit_code
from vae_fast.errors import DataError
from vae_fast.runtime.nvtx import COLOURS

KINDS = {  # kind: pattern of its names, colour; the first match counts, from the outside in
    "matrix products": (r"vae_fast::(product|linear)|aten::(addmm|mm|linear)$|mkldnn::_linear", "#1f77b4"),
    "the step's one operator": (r"vae_fast::mlp_", "#17becf"),
    "Adam": (r"vae_fast::adam_|aten::_fused_adamw?_", "#2ca02c"),
    "our other operators": (r"vae_fast::", "#9467bd"),
    "PyTorch's operators": (r"aten::", "#ff7f0e"),
    "Inductor's code": (r"## Call CompiledFxGraph", "#bcbd22"),
}
BETWEEN = "Python, autograd, dispatch"
BETWEEN_COLOUR = "#c7c7c7"
HOLDS_OTHERS = "Inductor's code"  # operators inside it are shown as their own kind
PARTS = ("forward", "backward", "gradients", "optimizer")
SHORTEST = 0.08  # of the longest step: shorter ranges get no name


@dataclass
class Call:
    """A call on the host from `start` to `end`, in ms, with the calls inside it."""

    name: str
    start: float
    end: float
    inside: list["Call"] = field(default_factory=list)


def steps(path: Path) -> list[Call]:
    """Return the steps of a trace, each with all calls inside; raise DataError for a file that has none."""
    try:
        text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        events: list[dict[str, Any]] = json.loads(text)["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a trace of torch.profiler ({error})") from None
    events = [e for e in events if e.get("cat") in ("cpu_op", "user_annotation")]
    threads = {e["tid"] for e in events if e["name"] == "step"}
    calls = [
        Call(e["name"], e["ts"] / 1e3, (e["ts"] + e["dur"]) / 1e3)
        for e in sorted(events, key=lambda e: (e["ts"], -e["dur"]))
        if e["tid"] in threads
    ]
    found: list[Call] = []
    around: list[Call] = []
    for call in calls:
        while around and call.start >= around[-1].end:
            around.pop()
        if around:
            around[-1].inside.append(call)
        elif call.name == "step":
            found.append(call)
        else:
            continue
        around.append(call)
    if not found:
        raise DataError(f"{path}: expected ranges called 'step', as --profile torch makes them, found none")
    return found


def kind_of(name: str) -> str:
    return next((kind for kind, (pattern, _) in KINDS.items() if re.match(pattern, name)), BETWEEN)


def spans(call: Call) -> Iterator[tuple[str, float, float]]:
    """Yield what a call spent its time on, in order: (kind, start, end)."""
    kind, now = kind_of(call.name), call.start
    for inner in call.inside if kind in (BETWEEN, HOLDS_OTHERS) else []:
        if inner.start > now:
            yield kind, now, inner.start
        yield from spans(inner)
        now = inner.end
    yield kind, now, call.end


def totals(step: Call) -> dict[str, float]:
    """Return the ms of a step by kind."""
    counted: dict[str, float] = defaultdict(float)
    for kind, start, end in spans(step):
        counted[kind] += end - start
    return counted


def fastest(found: list[Call]) -> Call:
    return min(found, key=lambda step: step.end - step.start)


def table(traces: dict[str, list[Call]]) -> Iterator[str]:
    """Yield the lines of a table: the fastest step of each trace, and the median of all."""
    yield "| ms a step | " + " | ".join(traces) + " |"
    yield "| --- |" + " --- |" * len(traces)
    counted = [totals(fastest(found)) for found in traces.values()]
    for kind in (*KINDS, BETWEEN):
        if any(total[kind] for total in counted):
            yield f"| {kind} | " + " | ".join(f"{total[kind]:.2f}" if total[kind] else "" for total in counted) + " |"
    yield "| the step | " + " | ".join(f"{sum(total.values()):.2f}" for total in counted) + " |"
    medians = [statistics.median(step.end - step.start for step in found) for found in traces.values()]
    yield "| the median step | " + " | ".join(f"{median:.2f}" for median in medians) + " |"


def draw(traces: dict[str, list[Call]], path: Path) -> None:
    """Draw the fastest step of each trace, all to one scale."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    shown = {name: fastest(found) for name, found in traces.items()}
    figure = Figure(figsize=(10, 0.6 + 1.25 * len(shown)), layout="constrained", facecolor="white")
    longest = max(step.end - step.start for step in shown.values())
    rows = figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (name, step) in zip(rows, shown.items(), strict=True):
        axes.set_title(f"{name}: {step.end - step.start:.2f} ms", loc="left", fontsize=10)
        for part in step.inside:
            if part.name in PARTS:
                width, colour = part.end - part.start, f"#{COLOURS[part.name] & 0xFFFFFF:06x}"
                axes.broken_barh([(part.start - step.start, width)], (1.1, 0.5), color=colour, alpha=0.25, linewidth=0)
                if width > SHORTEST * longest:
                    axes.text(
                        part.start - step.start + width / 2, 1.35, part.name, ha="center", va="center", fontsize=9
                    )
        if not any(part.name in PARTS for part in step.inside):
            axes.text(0, 1.35, "no ranges inside", va="center", fontsize=9, color="#777777")
        for kind, colour in [(BETWEEN, BETWEEN_COLOUR), *((kind, colour) for kind, (_, colour) in KINDS.items())]:
            bars = [(start - step.start, end - start) for of, start, end in spans(step) if of == kind]
            axes.broken_barh(bars, (0, 1), color=colour, linewidth=0)
        axes.set(ylim=(0, 1.65), yticks=[])
        axes.spines[["left", "top", "right"]].set_visible(False)
    rows[-1].set_xlabel("ms")
    rows[-1].set_xlim(left=0)
    used = {kind for step in shown.values() for kind in totals(step)}
    colours = {kind: colour for kind, (_, colour) in KINDS.items()} | {BETWEEN: BETWEEN_COLOUR}
    patches = [Patch(color=colour, label=kind) for kind, colour in colours.items() if kind in used]
    figure.legend(handles=patches, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("traces", nargs="+", metavar="NAME=TRACE", help="trace.json.gz of a run, and what to call it")
    parser.add_argument("--out", type=Path, help="the picture, .png or .svg; without it only the table is printed")
    given = parser.parse_args()
    named = [trace.partition("=") for trace in given.traces]
    if missing := [name for name, _, path in named if not path]:
        parser.error(f"expected NAME=TRACE, got {missing[0]!r}")
    traces = {name: steps(Path(path)) for name, _, path in named}
    print("\n".join(table(traces)))
    if given.out is not None:
        draw(traces, given.out)


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
