"""The roofline (Williams et al. 2009): the performance achieved by FLOP per byte, under the machine's ceilings."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes

from benchmarks.reporting.chart_style import (
    GREY,
    INK,
    KEYS,
    LIGHT_BLUE,
    PALE,
    Label,
    canvas,
    colour,
    label_below,
    label_right,
    log_scale,
)
from benchmarks.reporting.results import LEVELS, Benchmark, Run, in_order, positive
from benchmarks.reporting.tables import grouped, number


def roofline(run: Run, group: Sequence[Benchmark]) -> Axes | None:
    """Draw the performance by FLOP per byte, under the ceilings measured in the same run; None where those are missing.

    Operators are shown at their largest batch, steps at each. A line joins the baseline to the fastest of ours.
    """
    known, products, columns = run.floors.get("copy_gb_per_second"), _products(run, group), _columns(group)
    if not columns or not products or not positive(known) or _device_of_floors(run) != group[0].device:
        return None
    copy = float(str(known))
    top = max(products.values())
    points = [_point(b) for column in columns for b in column]
    xs, ys = zip(*points, strict=True)
    heading = f"Roofline: {run.machine.get('machine', '')}, {group[0].device}, {group[0].precision}"
    texts = {batch: f"products, batch {batch}: {number(y)}" for batch, y in products.items()}
    axes = canvas(heading, KEYS, 4.8, ["GFLOP/s", "10"], texts.values())
    left, right = min(*xs, top / copy) / 3, max(*xs, top / copy) * 3
    log_scale(axes, "x", left, right)
    low, high = min(*ys, left * copy), max(*ys, top) * 1.6
    log_scale(axes, "y", low * (low / high) ** 0.28, high)  # with room for the labels
    axes.set(xlabel="FLOP/byte", ylabel="GFLOP/s")
    axes.plot([left, top / copy], [left * copy, top], color=INK, linewidth=1.6)
    _along(axes, (left, left * copy), (top / copy, top), f"copy: {number(copy)} GB/s")
    for height in products.values():
        bold = height == top
        axes.plot([height / copy, right], [height, height], color=INK if bold else GREY, linewidth=1.6 if bold else 0.8)
    label_right(axes, [Label(right, y, texts[batch], INK) for batch, y in products.items()])
    label_below(axes, [_column(axes, column) for column in columns])
    return axes


def _along(axes: Axes, start: tuple[float, float], end: tuple[float, float], text: str) -> None:
    """Write a text above the line from `start` to `end`, near its start and at its angle."""
    (x0, y0), (x1, y1) = axes.transData.transform([start, end])
    angle = math.atan2(y1 - y0, x1 - x0)
    offset = (14 * math.cos(angle) - 5 * math.sin(angle), 14 * math.sin(angle) + 5 * math.cos(angle))
    place: dict[str, Any] = {"rotation": math.degrees(angle), "rotation_mode": "anchor"}
    axes.annotate(text, start, offset, textcoords="offset points", **place)


def _point(benchmark: Benchmark) -> tuple[float, float]:
    return (benchmark.flops or 1) / (benchmark.bytes or 1), benchmark.gflop_per_second or 1


def _device_of_floors(run: Run) -> str:
    """Return the kind of device on which the floors were measured.

    Where the file gives a device's name instead, it is that of the GPU, if there is one ("cuda" > "cpu").
    """
    kind = str(run.floors.get("device")).split(":")[0]
    return kind if kind in ("cpu", "cuda") else max(b.device for b in run.benchmarks)


def _products(run: Run, group: Iterable[Benchmark]) -> dict[str, float]:
    """Return batch -> GFLOP/s of products: `floors` has float32's, others follow from the fraction of that floor."""
    if group and next(iter(group)).precision == "fp32":
        known = run.floors.get("products_gflop_per_second")
        return {str(k): v for k, v in known.items() if positive(v)} if isinstance(known, dict) else {}
    found = [b for b in group if b.floor and "product" in b.floor and b.of_floor and b.gflop_per_second and b.batch]
    return {str(b.batch): b.gflop_per_second / b.of_floor.median for b in found if b.gflop_per_second and b.of_floor}


def _columns(group: Iterable[Benchmark]) -> list[list[Benchmark]]:
    """Return groups of one intensity: the contenders of a suite and batch whose FLOP and bytes were counted."""
    counted = [b for b in group if b.flops and b.bytes and b.gflop_per_second and b.unit in ("step", "call")]
    columns = []
    for suite in grouped(counted, lambda b: b.suite).values():
        batches = grouped(in_order(suite), lambda b: f"{b.what} {b.batch}").values()
        columns += [list(batches)[-1]] if suite[0].what in LEVELS else list(batches)
    return columns


def _column(axes: Axes, column: Sequence[Benchmark]) -> Label:
    """Draw the contenders of one intensity, and return the label to be written below them."""
    best = max((b for b in column if b.ours), key=lambda b: _point(b)[1], default=column[0])
    axes.plot(*zip(_point(column[0]), _point(best), strict=True), color=PALE, linewidth=1, zorder=2)
    for b in column:
        shade = LIGHT_BLUE if b.ours and b is not best else colour(b)
        size, layer = (8, 4) if b is best else (6, 3)
        axes.plot(*_point(b), "o", color=shade, markersize=size, zorder=layer, markeredgecolor="white")
    x, y = min(map(_point, column), key=lambda point: point[1])
    first = column[0]
    return Label(x, y, "\n".join(str(part) for part in (first.suite, first.what, first.batch) if part), INK)
