"""Images and curves drawn with characters, for a terminal or a file."""

from collections.abc import Sequence

from torch import Tensor

SHADES = " .:-=+*#%@"
CHART_ROWS, CHART_COLUMNS = 10, 60


def image(values: Tensor, double: bool = True) -> list[str]:
    """Lines for [H, W] in [0, 1]: two characters a pixel, or one for a pixel and the one below it."""
    if not double:
        height = values.shape[0] // 2 * 2
        values = values[:height].view(height // 2, 2, -1).mean(1) if height else values
    shades = (values.clamp(0, 1) * (len(SHADES) - 1)).round().long().tolist()
    return ["".join(SHADES[shade] * (1 + double) for shade in row) for row in shades]


def beside(left: Sequence[str], right: Sequence[str], gap: str = "  |  ") -> list[str]:
    """Two drawings of equal height."""
    return [f"{a}{gap}{b}" for a, b in zip(left, right, strict=True)]


def chart(values: Sequence[float], first: int = 1) -> list[str]:
    """A curve over first, first + 1, ...; of more values than there are columns, one of several."""
    step = -(-len(values) // CHART_COLUMNS)
    shown = values[::step] if step > 1 else list(values)
    low, high = min(shown), max(shown)
    unit = (high - low) / (CHART_ROWS - 1) or 1.0
    levels = [round((value - low) / unit) for value in shown]
    lines = []
    for level in range(CHART_ROWS - 1, -1, -1):
        marks = "".join("*" if at == level else " " for at in levels)
        lines.append(f"{low + level * unit:8.2f} |{marks}".rstrip())
    ends = f"{first}{first + (len(shown) - 1) * step!s:>{max(1, len(shown) - len(str(first)))}}"
    return [*lines, f"{'':8} +{'-' * len(shown)}", f"{'':10}{ends} epoch"]
