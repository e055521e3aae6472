"""Drawings for a web page, as SVG: curves and points."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import NamedTuple

# Colours of classes: Okabe and Ito's, which most people can tell apart, then two more.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#777777", "#8c4fb0", "#a0522d")
WIDTH, HEIGHT, MAP_HEIGHT = 736, 300, 520  # of a drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 36, 36
LEGEND = 224  # width of a legend entry in these units
MOST_POINTS, FEWEST_POINTS = 60_000, 50  # of all lines of a chart together, and of each of them
Point = tuple[float, float]
Place = Callable[[float, float], Point]


class Bundle(NamedTuple):
    """Lines of one run in a chart of many: points (x, value), drawn solid and dashed.

    kind: classes of the style sheet. number: by which the page's script finds the run. title: shown over the lines.
    """

    solid: Sequence[Point]
    dashed: Sequence[Point]
    kind: str
    number: int
    title: str


def curves(series: Mapping[str, Sequence[tuple[float, float]]], description: str) -> str:
    """Return a chart of lines over epochs: points (epoch, value) by name; a name is also a class of the style sheet."""
    points = [point for line in series.values() for point in line]
    place, ticks = _axes([x for x, _ in points], [y for _, y in points])
    parts = [_grid(place, ticks)]
    for i, (name, line) in enumerate(series.items()):
        kind, left = f'class="curve {escape(name)}"', LEFT + LEGEND * i
        parts += _line(line, place, kind)
        parts.append(f'<line {kind} x1="{left}" x2="{left + 40}" y1="15" y2="15"/>')
        parts.append(f'<text x="{left + 48}" y="20">{escape(name)}: {line[-1][1]:.2f}</text>')
    epochs = [epoch for epoch, _ in points]
    parts += _ends(f"{min(epochs):.0f}", f"epoch {max(epochs):.0f}")
    return _drawing(parts, description)


def overlaid(bundles: Sequence[Bundle], ends: tuple[str, str], description: str, name: str) -> str:
    """Return a chart of the lines of many runs, the first on top.

    Where a few high values would leave no room for the rest, the chart is cut below them, and its description says so.

    ends: what is written at both ends of the horizontal axis. name: the chart's, which no other on the page has.
    """
    lines = [line for bundle in bundles for line in bundle[:2] if line]
    xs, ys = ([point[i] for line in lines for point in line] for i in (0, 1))
    top = _top(ys)
    place, ticks = _axes(xs, [min(y, top) for y in ys])
    most = max(FEWEST_POINTS, MOST_POINTS // len(lines))
    plot = f'x="{LEFT - 4}" y="{TOP - 4}" width="{WIDTH - LEFT - RIGHT + 8}" height="{HEIGHT - TOP - BOTTOM + 8}"'
    parts = [_grid(place, ticks), f'<clipPath id="{name}"><rect {plot}/></clipPath><g clip-path="url(#{name})">']
    for bundle in reversed(bundles):
        parts.append(f'<g class="run {bundle.kind}" data-run="{bundle.number}"><title>{escape(bundle.title)}</title>')
        parts += _line(_thinned(bundle.dashed, most), place, 'class="dashed"')
        parts += [*_line(_thinned(bundle.solid, most), place, 'class="solid"'), "</g>"]
    cut = f"; cut off above {top:.2f}" if top < max(ys) else ""
    return _drawing([*parts, "</g>", *_ends(*ends)], description + cut)


def _line(points: Sequence[Point], place: Place, kind: str) -> Iterator[str]:
    if not points:
        return
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    yield f'<polyline {kind} points="{path}"/>'
    if len(points) == 1:  # a line through one point would be invisible
        x, y = place(*points[0])
        yield f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _ends(first: str, last: str) -> Iterator[str]:
    for text, anchor, x in ((first, "start", LEFT), (last, "end", WIDTH - RIGHT)):
        yield f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="{anchor}">{escape(text)}</text>'


def _thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """Return about `most` of the points: the last, and every n-th before it."""
    return points[:: -max(1, -(-len(points) // most))][::-1]


def _top(values: Sequence[float]) -> float:
    """Return the highest value, or the 90th percentile if the values above it take more than half of the height."""
    ordered = sorted(values)
    low, ninetieth, high = ordered[0], ordered[int(0.9 * (len(ordered) - 1))], ordered[-1]
    return ninetieth if low < ninetieth and high - low > 2 * (ninetieth - low) else high


def scatter(
    points: Sequence[Point], classes: Sequence[int] | None, description: str, marks: Sequence[Point] = ()
) -> str:
    """Return a plot of points in the plane, with crosses at `marks`.

    With `classes`, each point is its class's number in the class's colour.
    """
    place, _ = _axes([x for x, _ in (*points, *marks)], [y for _, y in (*points, *marks)], MAP_HEIGHT)
    parts = []
    for i, point in enumerate(points):
        x, y = place(*point)
        if classes:
            colour = COLOURS[classes[i] % len(COLOURS)]
            parts.append(f'<text class="point" x="{x:.1f}" y="{y + 3:.1f}" fill="{colour}">{classes[i]}</text>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[0]}" fill-opacity=".75"/>')
    for mark in marks:
        x, y = place(*mark)
        parts.append(f'<path class="mark" d="M{x - 4:.1f} {y:.1f}h8m-4 -4v8"/>')
    return _drawing(parts, description, MAP_HEIGHT)


def _drawing(parts: Sequence[str], description: str, height: float = HEIGHT) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(description)}</figcaption></figure>"
    )


def _axes(xs: Sequence[float], ys: Sequence[float], height: float = HEIGHT) -> tuple[Place, list[float]]:
    """Return a function that maps a point to its position in the drawing, and the values of some horizontal lines."""
    low, high, first, last = min(ys), max(ys), min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), height - BOTTOM - up * (height - TOP - BOTTOM)

    return place, [low + (high - low) * i / 4 for i in range(5)]


def _grid(place: Place, ticks: Sequence[float]) -> str:
    lines = []
    decimals = max(1, -math.floor(math.log10(ticks[1] - ticks[0] or 1)))  # enough to tell one line from the next
    for value in ticks:
        _, y = place(0, value)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.{decimals}f}</text>')
    return "".join(lines)
