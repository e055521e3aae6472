"""Results as charts, PNG and SVG: throughput by batch, what each optimisation gained, and a roofline."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes

from benchmarks.drawing import (
    BLUE,
    GREY,
    INK,
    LIGHT_BLUE,
    ORANGE,
    PALE,
    RED,
    STYLE,
    Label,
    canvas,
    colour,
    label_right,
    log_scale,
    save,
    short,
)
from benchmarks.results import BASELINE, LEVELS, Benchmark, Run, in_order, positive
from benchmarks.tables import grouped, number, spread, title

KEYS = [("vae_fast", BLUE), ("other PyTorch", GREY), ("other libraries", ORANGE)]
# What was put on top of what. A place may be taken by either of two contenders: the first that was measured.
STAGES = (("eager-tuned",), ("compile",), ("compile-ops", "ops"), ("graph-ops", "graph"), ("fused-step",))
MARKERS = "os^Dv"


def write(runs: Iterable[tuple[Run, Sequence[Benchmark]]], folder: Path) -> list[Path]:
    """The charts of each run's benchmarks, as far as there is something to show; the paths of what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    with mpl.rc_context(STYLE):
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
        if group[0].suite == "train_step" and (axes := waterfall(group)):
            yield f"waterfall-{name}", axes
    for group in grouped(benchmarks, lambda b: f"{b.device}-{b.precision}").values():
        if axes := roofline(run, group):
            yield f"roofline-{group[0].device}-{group[0].precision}", axes


def throughput(group: Sequence[Benchmark]) -> Axes | None:
    """Images a second by batch, a line a contender, with that of the floor; none for a single batch."""
    lines = grouped((b for b in in_order(group) if b.images_per_second and b.batch), lambda b: b.contender)
    batches = sorted({b.batch for line in lines.values() for b in line if b.batch})
    if len(batches) < 2:
        return None
    rates = [b.images_per_second or 1 for line in lines.values() for b in line]
    floor = _floor(group)
    axes = canvas(f"Images a second by batch: {title(group[0])}", KEYS, 4.6, 0.64)
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
        style = {"marker": MARKERS[index % len(MARKERS)], "markersize": 4.5, "linewidth": 2.6 if best else 1.4}
        axes.plot(xs, ys, color=shade, zorder=3 if best else 2, **style)
        labels.append(Label(xs[-1], ys[-1], f"{last.label}  {short(ys[-1])}", _text(shade), best))
    if floor:
        axes.plot(list(floor), list(floor.values()), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        name = " or ".join(sorted({b.floor for b in group if b.floor}))
        labels.append(Label(max(floor), floor[max(floor)], f"the floor, {name}  {short(floor[max(floor)])}", INK))
    label_right(axes, labels)
    return axes


def _rate(benchmark: Benchmark) -> float:
    return benchmark.images_per_second or 0.0


def _text(shade: str) -> str:
    """Type is thinner than a line: light colours are set in darker ones."""
    return {LIGHT_BLUE: "#2b86b8", GREY: "#666666", ORANGE: "#a87400"}.get(shade, shade)


def _floor(group: Iterable[Benchmark]) -> dict[int, float]:
    """Batch -> images a second at the floor: the median of what each contender's own rounds say."""
    rates: dict[int, list[float]] = {}
    for b in group:
        if b.batch and b.images_per_second and b.of_floor:
            rates.setdefault(b.batch, []).append(b.images_per_second / b.of_floor.median)
    return {batch: sorted(found)[len(found) // 2] for batch, found in sorted(rates.items())}


def waterfall(group: Sequence[Benchmark]) -> Axes | None:
    """What each optimisation gained over the one before, at the smallest batch; none where fewer than two were measured.

    On a logarithmic axis equal factors are equal lengths, and the lengths add up.
    """
    batch = min((b.batch for b in group if b.batch), default=None)
    found = {b.contender: b for b in group if b.batch == batch}
    stages = [next((found[slug] for slug in slugs if slug in found), None) for slugs in STAGES]
    bars = [(b, b.ratio) for b in stages if b and b.ratio]
    if BASELINE not in found or len(bars) < 2 or batch is None:
        return None
    eager = found[BASELINE]
    heading = f"What each optimisation gained: {title(eager)}, batch {batch}"
    axes = canvas(heading, [("faster than the step before", BLUE), ("slower", RED)], 1.5 + 0.36 * len(bars), 0.97)
    axes.figure.subplots_adjust(left=0.31)
    floor = eager.of_floor.median if eager.of_floor else 0.0
    ends = [1.0, *(ratio.high for _, ratio in bars), *([1 / floor] if floor else [])]
    low = min(1.0, *(ratio.low for _, ratio in bars))
    room = (max(ends) / low) ** 0.3  # for the last bar's text
    log_scale(axes, "x", low / room**0.1, max(ends) * room)
    axes.plot([1.0], [0], "o", color=INK, markersize=5)
    axes.annotate(f"{number(eager.ms)} ms", (1, 0), (8, 0), textcoords="offset points", va="center_baseline")
    before = 1.0
    for row, (_, ratio) in enumerate(bars, 1):
        gain = ratio.median / before
        axes.plot([before, before], [row - 1, row + 0.3], color=GREY, linewidth=0.8, zorder=1)
        axes.barh(row, ratio.median - before, 0.6, before, color=BLUE if gain >= 1 else RED)
        axes.plot([ratio.low, ratio.high], [row, row], color=INK, linewidth=1)
        right = (max(ratio.high, before), row)
        factor = axes.annotate(f"× {number(gain)}", right, (6, 0), textcoords="offset points", va="center_baseline")  # noqa: RUF001
        factor.set_weight("bold")
        axes.annotate(
            f"{number(eager.ms / ratio.median)} ms", (1, 0), (6, 0), factor, "offset points", color="#666666"
        )
        before = ratio.median
    if floor:
        axes.axvline(1 / floor, color=INK, linewidth=1, linestyle=(0, (4, 3)))
        text = f"{eager.floor}\n{number(eager.ms * floor)} ms"
        axes.annotate(text, (1 / floor, 0), (5, 0), textcoords="offset points", va="center")
    axes.set(ylim=(len(bars) + 0.6, -0.6), xlabel=f"times as fast as {eager.label}; lines: quartiles over the rounds")
    axes.set_yticks(range(len(bars) + 1), [eager.label, *(b.label for b, _ in bars)])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    return axes


def roofline(run: Run, group: Sequence[Benchmark]) -> Axes | None:
    """What was achieved against FLOP a byte, under the ceilings measured in the same run; none where those are missing.

    Operators stand at their largest batch, steps at each. A line joins the baseline to the fastest of ours.
    """
    copy, products = run.floors.get("copy_gb_per_second"), _products(run, group)
    columns = _columns(group)
    if not columns or not products or not positive(copy) or run.floors.get("device") != group[0].device:
        return None
    top = max(products.values())
    points = [(b.flops / b.bytes, b) for column in columns for b in column if b.flops and b.bytes]
    rates = [b.gflop_per_second or top for _, b in points]
    xs = [x for x, _ in points]
    axes = canvas(f"Roofline: {run.machine.get('machine', '')}, {group[0].device}, {group[0].precision}", KEYS, 4.8, 0.72)
    left, right = min([*xs, top / copy]) / 3, max([*xs, top / copy]) * 4
    log_scale(axes, "x", left, right)
    log_scale(axes, "y", min(rates) / 3, max([*rates, top]) * 1.6)
    axes.set(xlabel="arithmetic intensity, FLOP/byte", ylabel="GFLOP/s")
    axes.plot([left, top / copy], [left * copy, top], color=INK, linewidth=1.6)
    for height in products.values():
        bold = height == top
        axes.plot([height / copy, right], [height, height], color=INK if bold else GREY, linewidth=1.6 if bold else 0.8)
    label_right(axes, [Label(right, y, f"products, {batch}: {number(y)}", INK) for batch, y in products.items()])
    for column in columns:
        _column(axes, column)
    return axes


def _products(run: Run, group: Iterable[Benchmark]) -> dict[str, float]:
    """Batch -> GFLOP/s of matrix products: `floors` knows float32's, others follow from the fraction of that floor."""
    if group and next(iter(group)).precision == "fp32":
        known = run.floors.get("products_gflop_per_second")
        return {str(k): v for k, v in known.items() if positive(v)} if isinstance(known, dict) else {}
    found = [b for b in group if b.floor and "product" in b.floor and b.of_floor and b.gflop_per_second and b.batch]
    return {str(b.batch): b.gflop_per_second / b.of_floor.median for b in found if b.gflop_per_second and b.of_floor}


def _columns(group: Iterable[Benchmark]) -> list[list[Benchmark]]:
    """Those of one intensity: the contenders of one suite and batch, where FLOP and bytes were counted."""
    counted = [b for b in group if b.flops and b.bytes and b.gflop_per_second and b.unit in ("step", "call")]
    columns = []
    for suite in grouped(counted, lambda b: b.suite).values():
        batches = grouped(in_order(suite), lambda b: f"{b.what} {b.batch}").values()
        columns += [list(batches)[-1]] if suite[0].what in LEVELS else list(batches)
    return columns


def _column(axes: Axes, column: Sequence[Benchmark]) -> None:
    places = [((b.flops or 1) / (b.bytes or 1), b.gflop_per_second or 1, b) for b in column]
    best = max((place for place in places if place[2].ours), key=lambda place: place[1], default=places[-1])
    axes.plot([places[0][0], best[0]], [places[0][1], best[1]], color=PALE, linewidth=1, zorder=2)
    for x, y, b in places:
        big = b is best[2]
        axes.plot([x], [y], "o", color=colour(b), markersize=8 if big else 5, zorder=4 if big else 3)
    first = column[0]
    name = "\n".join(part for part in (first.suite, first.what, f"{first.batch or ''}") if part)
    low = min(places, key=lambda place: place[1])
    axes.annotate(name, low[:2], (0, -8), textcoords="offset points", ha="center", va="top", fontsize=8)
