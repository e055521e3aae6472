"""The style that the charts share: colours, type, labels that do not overlap, and reproducible files.

Blue stands for this project, grey for other ways to write PyTorch, orange for other libraries: three of Okabe and Ito's
colours, which colour-blind people can tell apart too.
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.text import Annotation
from matplotlib.textpath import TextPath
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.reporting.results import Benchmark

INK, GREY, PALE = "#222222", "#8c8c8c", "#dddddd"
BLUE, LIGHT_BLUE, ORANGE, RED = "#0072b2", "#56b4e9", "#e69f00", "#d55e00"
LIBRARIES = ("jax", "numpyro", "pythae", "lightning")
KEYS = [("vae_fast", BLUE), ("other PyTorch", GREY), ("other libraries", ORANGE)]
WIDTH = 8.0  # inches; 9-point type is still legible at the width of a README
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the files are the same everywhere
    "font.size": 9,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "svg.hashsalt": "vae_fast",
}


class Label(NamedTuple):
    """A text for the point (x, y), in data units."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool = False


def colour(benchmark: Benchmark) -> str:
    if benchmark.ours:
        return BLUE
    return ORANGE if benchmark.contender in LIBRARIES else GREY


def called(benchmark: Benchmark) -> str:
    """Return a contender's label up to a colon or semicolon: the explanations after it are for the tables."""
    return re.split("[:;]", benchmark.label)[0]


def width(text: str, bold: bool = False) -> float:
    """Return the width of a line of text, in inches."""
    font = FontProperties(family=STYLE["font.family"], weight="bold" if bold else "normal")
    return float(TextPath((0, 0), text, STYLE["font.size"], prop=font).get_extents().width) / 72


def canvas(
    heading: str, keys: Iterable[tuple[str, str]], height: float, left: Iterable[str], right: Iterable[str]
) -> Axes:
    """Return axes with room for texts on their left and right; `keys` are texts with the colours that they explain."""
    margins = [max((width(text, bold=True) for text in texts), default=0.0) for texts in (left, right)]
    axes = Figure(figsize=(WIDTH, height)).subplots()
    axes.figure.subplots_adjust(
        left=(margins[0] + 0.2) / WIDTH,
        right=1 - (margins[1] + 0.3) / WIDTH,
        top=1 - 0.72 / height,
        bottom=0.52 / height,
    )
    place: dict[str, Any] = {"textcoords": "offset points", "va": "top"}
    axes.annotate(heading, (0, 1), (8, -8), "figure fraction", fontsize=11, weight="bold", **place)
    before: Annotation | None = None
    for text, ink in keys:
        if before is None:
            before = axes.annotate(text, (0, 1), (8, -26), "figure fraction", color=ink, **place)
        else:
            before = axes.annotate(text, (1, 1), (10, 0), before, color=ink, **place)
    return axes


def log_scale(axes: Axes, which: str, low: float, high: float) -> None:
    """Make an axis logarithmic, from `low` to `high`, with few ticks and numbers without exponents."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float, digits: int = 0) -> str:
    """Return 12000 as '12 k'; with `digits` significant digits unless that is 0."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k"), (1, "")):
        if value >= size:
            return (f"{value / size:#.{digits}g}".rstrip(".") if digits else f"{value / size:g}") + unit
    return f"{value:.3g}"


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return the places nearest to `wanted`, ascending, `gap` apart, and between `low` and `high` if there is room.

    Least squares: isotonic regression of wanted[i] - i gap, by pooling adjacent violators.
    """
    pools: list[tuple[float, int]] = []
    for index, place in enumerate(wanted):
        mean, size = place - index * gap, 1
        while pools and pools[-1][0] > mean:
            other, count = pools.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        pools.append((mean, size))
    means = [mean for mean, size in pools for _ in range(size)]
    top = high - gap * (len(wanted) - 1)
    return [max(low, min(mean, top)) + index * gap for index, mean in enumerate(means)]


def label_right(axes: Axes, labels: Iterable[Label]) -> None:
    """Write each label at the height of its point, right of the axes, far enough from the others to be read."""
    ordered = sorted(labels, key=lambda label: label.y)
    inches = sheet(axes).get_figheight() * axes.get_position().height
    heights = [within(axes, label.x, label.y)[1] for label in ordered]
    for label, height, place in zip(ordered, heights, apart(heights, 12.5 / 72 / inches, 0.0, 1.0), strict=True):
        edge = within(axes, label.x, label.y)[0]
        _leader(axes, (edge, 1.0, 1.025), (height, height, place), label.colour)
        text = axes.text(1.035, place, label.text, color=label.colour, va="center_baseline", transform=axes.transAxes)
        text.set_fontweight("bold" if label.bold else "normal")


def label_below(axes: Axes, labels: Iterable[Label]) -> None:
    """Write the labels in a row at the bottom of the axes, each as close to its point as possible.

    The axes must have a fifth of their height free.
    """
    ordered = sorted(labels, key=lambda label: label.x)
    inches = sheet(axes).get_figwidth() * axes.get_position().width
    gap = max(width(line) for label in ordered for line in label.text.split("\n")) / inches
    points = [within(axes, label.x, label.y) for label in ordered]
    places = apart([x for x, _ in points], gap, gap / 2, 1 - gap / 2)
    for label, (x, y), place in zip(ordered, points, places, strict=True):
        _leader(axes, (x, x, place), (y, 0.16, 0.13), GREY)
        style: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8, "color": label.colour}
        axes.text(place, 0.125, label.text, transform=axes.transAxes, **style)


def _leader(axes: Axes, xs: Sequence[float], ys: Sequence[float], line: str) -> None:
    axes.plot(xs, ys, color=line, linewidth=0.6, alpha=0.6, clip_on=False, transform=axes.transAxes, zorder=1)


def within(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Return a data point as fractions of the axes' width and height."""
    across, up = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
    return float(across), float(up)


def sheet(axes: Axes) -> Figure:
    assert isinstance(axes.figure, Figure)
    return axes.figure


def save(axes: Axes, folder: Path, name: str) -> list[Path]:
    """Save name.png and name.svg, without date and version, so that the same results give the same files."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    sheet(axes).savefig(paths[0], dpi=144, metadata={"Software": None})
    sheet(axes).savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths
