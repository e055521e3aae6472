"""Drawings for a web page, as SVG: curves and points."""

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

# Colours of classes: Okabe and Ito's, which most people can tell apart, then two more.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#777777", "#8c4fb0", "#a0522d")
WIDTH, HEIGHT, MAP_HEIGHT = 736, 300, 520  # of a drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 36, 36
LEGEND = 224  # width of a legend entry in these units
Place = Callable[[float, float], tuple[float, float]]


def curves(series: Mapping[str, Sequence[tuple[float, float]]], description: str) -> str:
    """Return a chart of lines over epochs: points (epoch, value) by name; a name is also a class of the style sheet."""
    points = [point for line in series.values() for point in line]
    place, ticks = _axes([x for x, _ in points], [y for _, y in points])
    parts = [_grid(place, ticks)]
    for i, (name, line) in enumerate(series.items()):
        kind, left = f'class="curve {escape(name)}"', LEFT + LEGEND * i
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline {kind} points="{path}"/>')
        if len(line) == 1:  # a line through one point would be invisible
            x, y = place(*line[0])
            parts.append(f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        parts.append(f'<line {kind} x1="{left}" x2="{left + 40}" y1="15" y2="15"/>')
        parts.append(f'<text x="{left + 48}" y="20">{escape(name)}: {line[-1][1]:.2f}</text>')
    epochs = [epoch for epoch, _ in points]
    ends = {f"{min(epochs):.0f}": ("start", LEFT), f"epoch {max(epochs):.0f}": ("end", WIDTH - RIGHT)}
    for text, (anchor, x) in ends.items():
        parts.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="{anchor}">{text}</text>')
    return _drawing(parts, description)


def scatter(points: Sequence[tuple[float, float]], classes: Sequence[int] | None, description: str) -> str:
    """Return a plot of points in the plane; with `classes`, each point is its class's number in the class's colour."""
    place, _ = _axes([x for x, _ in points], [y for _, y in points], MAP_HEIGHT)
    parts = []
    for i, point in enumerate(points):
        x, y = place(*point)
        if classes:
            colour = COLOURS[classes[i] % len(COLOURS)]
            parts.append(f'<text class="point" x="{x:.1f}" y="{y + 3:.1f}" fill="{colour}">{classes[i]}</text>')
        else:
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{COLOURS[0]}" fill-opacity=".75"/>')
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
