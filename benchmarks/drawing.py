"""What the charts share: colours, type, labels that keep out of each other's way, and files that come out the same.

Blue is this project's own, grey other ways to write PyTorch, orange other libraries: three of Okabe and Ito's colours,
which the colour-blind tell apart too.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.results import Benchmark

INK, GREY, PALE = "#222222", "#8c8c8c", "#dddddd"
BLUE, LIGHT_BLUE, ORANGE, RED = "#0072b2", "#56b4e9", "#e69f00", "#d55e00"
PYTORCH = ("eager", "eager-tuned", "compile", "reduce-overhead")
WIDTH = 8.0  # inches; with 9 points of type it can still be read at the width of a README
STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib brings it, so that the files are the same everywhere
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
    """A text for the point (x, y), in the data's units."""

    x: float
    y: float
    text: str
    colour: str
    bold: bool = False


def colour(benchmark: Benchmark) -> str:
    if benchmark.ours:
        return BLUE
    return GREY if benchmark.contender in PYTORCH else ORANGE


def canvas(heading: str, keys: Iterable[tuple[str, str]], height: float, right: float) -> Axes:
    """Axes that leave the fraction 1 - `right` of the width for labels; `keys` are texts with the colours they explain.

    Margins above and below are of fixed size, whatever the height, in inches.
    """
    axes = Figure(figsize=(WIDTH, height)).subplots()
    axes.figure.subplots_adjust(left=0.09, right=right, top=1 - 0.72 / height, bottom=0.52 / height)
    axes.annotate(heading, (0.0, 1.0), (8, -8), "figure fraction", "offset points", va="top", fontsize=11, weight="bold")
    before: Annotation | None = None
    for text, text_colour in keys:
        corner = ((0, 1), "figure fraction", (8, -26)) if before is None else ((1, 1), before, (10, 0))
        xy, coordinates, offset = corner
        before = axes.annotate(text, xy, offset, coordinates, "offset points", va="top", color=text_colour)
    return axes


def log_scale(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis from `low` to `high` with few ticks, and numbers without exponents."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    subs = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))


def short(value: float) -> str:
    """12000 as '12 k'."""
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def apart(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The places nearest to `wanted`, ascending, that are `gap` apart and between `low` and `high` if there is room.

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
    """Each at the height of its point, beside the axes, as far from the others as reading it takes."""
    ordered = sorted(labels, key=lambda label: label.y)
    inches = axes.figure.get_figheight() * axes.get_position().height  # type: ignore[union-attr]
    heights = [float(axes.transAxes.inverted().transform(axes.transData.transform((1, label.y)))[1]) for label in ordered]
    places = apart(heights, 12.5 / 72 / inches, 0.0, 1.0)
    for label, height, place in zip(ordered, heights, places, strict=True):
        edge = float(axes.transAxes.inverted().transform(axes.transData.transform((label.x, 1)))[0])
        line = dict(color=label.colour, linewidth=0.6, alpha=0.6, clip_on=False, transform=axes.transAxes)
        axes.plot((edge, 1.0, 1.025), (height, height, place), **line)
        weight = "bold" if label.bold else "normal"
        text = dict(color=label.colour, weight=weight, va="center_baseline", transform=axes.transAxes)
        axes.text(1.03, place, label.text, **text)


def save(axes: Axes, folder: Path, name: str) -> list[Path]:
    """name.png and name.svg; without date and version, so that the same results are the same files."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    assert isinstance(axes.figure, Figure)
    axes.figure.savefig(paths[0], dpi=144, metadata={"Software": None})
    axes.figure.savefig(paths[1], metadata={"Date": None, "Creator": None})
    return paths
