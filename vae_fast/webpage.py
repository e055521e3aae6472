"""Pieces of a web page: text that is escaped, tables, pictures and curves, all inside the page itself."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

# Okabe and Ito's colours, which most people can tell apart, then two more; for classes.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#777777", "#8c4fb0", "#a0522d")
WIDTH, HEIGHT = 736, 300  # of a drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 36
Place = Callable[[float, float], tuple[float, float]]


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n" + "\n".join(parts) + "\n</section>"


def note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def facts(values: Mapping[str, str]) -> str:
    """The few figures that matter."""
    items = (f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{"".join(items)}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: bool = False) -> str:
    """The first cell of a row is its name."""
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = [
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    ]
    kind = ' class="numbers"' if numbers else ""
    top = f"<thead><tr>{heads}</tr></thead>" if head else ""
    return f'<div class="scroll" tabindex="0"><table{kind}>{top}<tbody>{"".join(lines)}</tbody></table></div>'


def folded(summary: str, content: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def picture(png: bytes, description: str) -> str:
    source = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img src="data:image/png;base64,{source}" alt="{escape(description)}">'
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )


def curves(series: Mapping[str, Sequence[tuple[float, float]]], description: str) -> str:
    """Lines over epochs: points (epoch, value) by name; each name is a class of the style sheet too."""
    points = [point for line in series.values() for point in line]
    place, ticks = _axes([x for x, _ in points], [y for _, y in points])
    parts = [_grid(place, ticks)]
    for i, (name, line) in enumerate(series.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline class="{escape(name)}" points="{path}"/>')
        right, y = WIDTH - RIGHT, TOP + 22 * (i + 1)  # the legend: curves fall, so this corner is free
        parts.append(f'<line class="{escape(name)}" x1="{right - 240}" x2="{right - 195}" y1="{y - 5}" y2="{y - 5}"/>')
        parts.append(f'<text x="{right}" y="{y}" text-anchor="end">{escape(name)}, last {line[-1][1]:.2f}</text>')
    parts.append(f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">epoch</text>')
    return _drawing(parts, description)


def scatter(points: Sequence[tuple[float, float]], classes: Sequence[int] | None, description: str) -> str:
    """Points in the plane, coloured by class, with a legend of the classes."""
    place, _ = _axes([x for x, _ in points], [y for _, y in points])
    parts = []
    for i, point in enumerate(points):
        x, y = place(*point)
        colour = COLOURS[(classes[i] if classes else 0) % len(COLOURS)]
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colour}" fill-opacity=".75"/>')
    for i, label in enumerate(sorted(set(classes or ()))):
        x = LEFT + 48 * (i % 14)
        y = HEIGHT - 8 - 16 * (i // 14)
        parts.append(f'<circle cx="{x}" cy="{y - 4}" r="5" fill="{COLOURS[label % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 9}" y="{y}">{label}</text>')
    return _drawing(parts, description)


def _drawing(parts: Sequence[str], description: str) -> str:
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(description)}">'
        f"{''.join(parts)}</svg><figcaption>{escape(description)}</figcaption></figure>"
    )


def _axes(xs: Sequence[float], ys: Sequence[float]) -> tuple[Place, list[float]]:
    """Where a point lies in the drawing, and the values of some horizontal lines."""
    low, high, first, last = min(ys), max(ys), min(xs), max(xs)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - first) / (last - first) if last > first else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    return place, [low + (high - low) * i / 4 for i in range(5)]


def _grid(place: Place, ticks: Sequence[float]) -> str:
    lines = []
    for value in ticks:
        _, y = place(0, value)
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>')
    return "".join(lines)
