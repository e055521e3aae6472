"""Results as charts, PNG and SVG: throughput by batch, what each optimisation gained, and a roofline."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.reporting.chart_style import (
    BLUE,
    GREY,
    INK,
    KEYS,
    LIGHT_BLUE,
    ORANGE,
    PALE,
    RED,
    STYLE,
    Label,
    called,
    canvas,
    colour,
    label_right,
    log_scale,
    save,
    short,
)
from benchmarks.reporting.results import BASELINE, Benchmark, Run, in_order
from benchmarks.reporting.roofline import roofline
from benchmarks.reporting.tables import grouped, number, spread, title

TIMES = "\N{MULTIPLICATION SIGN}"
# Each stage builds on the one before. Where a stage names two contenders, the first that was measured counts.
STAGES = (
    ("eager-resident",),
    ("eager-tuned",),
    ("compile",),
    ("compile-ops", "ops"),
    ("graph-ops", "graph"),
    ("fused-step",),
)
MARKERS = "os^Dv"


def write(runs: Iterable[tuple[Run, Sequence[Benchmark]]], folder: Path) -> list[Path]:
    """Draw the charts of each run's benchmarks, as far as there is something to show; return the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with mpl.rc_context():
        mpl.rcdefaults()  # ignores the user's own settings
        mpl.rcParams.update(STYLE)
        for run, benchmarks in runs:
            for name, axes in _charts(run, benchmarks):
                if folder / f"{name}.png" not in paths:
                    paths += save(axes, folder, name)
    return paths


def _charts(run: Run, benchmarks: Sequence[Benchmark]) -> Iterable[tuple[str, Axes]]:
    for group in grouped(benchmarks, title).values():
        name = title(group[0]).replace(", ", "-")
        if axes := throughput(group):
            yield f"throughput-{name}", axes
        if group[0].suite in ("train_step", "epoch") and (axes := waterfall(group)):
            yield f"waterfall-{name}", axes
    for group in grouped(benchmarks, lambda b: f"{b.device}-{b.precision}").values():
        if axes := roofline(run, group):
            yield f"roofline-{group[0].device}-{group[0].precision}", axes


def throughput(group: Sequence[Benchmark]) -> Axes | None:
    """Draw images a second by batch, a line for each contender and the floor; None for operators or a single batch."""
    steps = [b for b in in_order(group) if b.images_per_second and b.batch and not b.what]
    lines = grouped(steps, lambda b: b.contender)
    batches = sorted({b.batch for line in lines.values() for b in line if b.batch})
    if len(batches) < 2:
        return None
    rates = [b.images_per_second or 1 for line in lines.values() for b in line]
    floor = _floor(group)
    name = " or ".join(sorted({b.floor for b in group if b.floor}))
    texts = [_line_label(called(line[-1]), 1e5) for line in lines.values()] + [_line_label(name, 1e5)]
    axes = canvas(f"Images a second by batch: {title(group[0])}", KEYS, 4.6, ["1000 k"], texts)
    log_scale(axes, "y", min(rates) / 1.3, max([*rates, *floor.values()]) * 1.3)
    axes.set(xscale="log", xlim=(batches[0] / 1.15, batches[-1] * 1.12), xlabel="batch, images")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xticks([], minor=True)
    axes.grid(axis="y")
    fastest = max((line[-1] for line in lines.values() if line[-1].ours), key=_rate, default=None)
    labels = []
    for index, line in enumerate(lines.values()):
        last, best = line[-1], line[-1] is fastest
        shade = LIGHT_BLUE if last.ours and not best else colour(last)
        xs, ys = [b.batch or 1 for b in line], [_rate(b) for b in line]
        style: dict[str, Any] = {
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 4.5,
            "linewidth": 2.6 if best else 1.4,
        }
        axes.plot(xs, ys, color=shade, zorder=3 if best else 2, **style)
        labels.append(Label(xs[-1], ys[-1], _line_label(called(last), ys[-1]), _text(shade), best))
    if floor:
        axes.plot(list(floor), list(floor.values()), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        labels.append(Label(max(floor), floor[max(floor)], _line_label(name, floor[max(floor)]), INK))
    label_right(axes, labels)
    return axes


def _line_label(label: str, rate: float) -> str:
    return f"{label}  {short(rate, 3)}"


def _rate(benchmark: Benchmark) -> float:
    return benchmark.images_per_second or 0.0


def _text(shade: str) -> str:
    """Return the colour for text: type is thinner than a line, so light colours become darker."""
    return {LIGHT_BLUE: "#2b86b8", GREY: "#666666", ORANGE: "#a87400"}.get(shade, shade)


def _floor(group: Iterable[Benchmark]) -> dict[int, float]:
    """Return batch -> images a second at the floor: the median of what each contender's own rounds give."""
    rates: dict[int, list[float]] = {}
    for b in group:
        if b.batch and b.images_per_second and b.of_floor:
            rates.setdefault(b.batch, []).append(b.images_per_second / b.of_floor.median)
    return {batch: sorted(found)[len(found) // 2] for batch, found in sorted(rates.items())}


def waterfall(group: Sequence[Benchmark]) -> Axes | None:
    """Draw what each optimisation gained over the one before, at the smallest batch; None with fewer than two.

    On a logarithmic axis equal factors are equal lengths, and the lengths add up.
    """
    batch = min((b.batch for b in group if b.batch), default=None)
    found = {b.contender: b for b in group if b.batch == batch}
    stages = [next((found[slug] for slug in slugs if slug in found), None) for slugs in STAGES]
    bars = [(b, b.ratio) for b in stages if b and b.ratio]
    if BASELINE not in found or len(bars) < 2 or batch is None:
        return None
    eager = found[BASELINE]
    names = [called(eager), *(called(b) for b, _ in bars), "in all"]
    heading = f"What each optimisation gained: {title(eager)}, batch {batch}"
    keys = [("faster than the line above", BLUE), ("slower", RED), ("thin lines: quartiles over the rounds", GREY)]
    axes = canvas(heading, keys, 1.6 + 0.34 * len(names), names, [])
    floor = eager.of_floor.median if eager.of_floor else None
    low = min(1.0, *(ratio.low for _, ratio in bars))
    high = max([ratio.high for _, ratio in bars] + ([1 / floor] if floor else []))
    log_scale(axes, "x", low * (low / high) ** 0.03, high * (high / low) ** 0.3)  # with room for the last text
    if floor:
        axes.axvline(1 / floor, color=INK, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        _label_bar(axes, 1 / floor, 0, "", f"{eager.floor}\n{_time(eager.ms * floor)}")
    axes.plot([1.0], [0], "o", color=INK, markersize=5)
    _label_bar(axes, 1.0, 0, "", _time(eager.ms))
    before = 1.0
    for row, (_, ratio) in enumerate(bars, 1):
        gain = ratio.median / before
        axes.plot([before, before], [row - 1, row + 0.3], color=GREY, linewidth=0.8, zorder=1)
        axes.barh(row, ratio.median - before, 0.6, before, color=BLUE if gain >= 1 else RED)
        axes.plot(ratio[::2], [row, row], color=INK, linewidth=1)
        _label_bar(axes, max(ratio.high, before), row, f"{TIMES} {number(gain)}", _time(eager.ms / ratio.median))
        before = ratio.median
    last = bars[-1][1]
    axes.barh(len(bars) + 1, last.median - 1, 0.6, 1, color=PALE)
    axes.plot(last[::2], [len(bars) + 1] * 2, color=INK, linewidth=1)
    _label_bar(axes, last.high, len(bars) + 1, f"{TIMES} {spread(last)}", "")
    axes.set(ylim=(len(names) - 0.4, -0.6), xlabel=f"times as fast as {called(eager)}")
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return axes


def _label_bar(axes: Axes, x: float, row: int, bold: str, plain: str) -> None:
    """Write text to the right of a bar's end, covering what is below it."""
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    place: dict[str, Any] = {"textcoords": "offset points", "va": "center", "bbox": ground, "zorder": 5}
    first = axes.annotate(bold, (x, row), (6, 0), weight="bold", **place)
    if plain:
        xy, unit = ((1, 0.5), first) if bold else ((x, row), "data")
        axes.annotate(plain, xy, (6, 0), unit, color="#666666", **place)


def _time(ms: float) -> str:
    return f"{number(ms)} ms" if ms >= 1 else f"{number(ms * 1e3)} us"
