"""Images and curves drawn with characters, for a terminal or a file."""

from collections.abc import Sequence

import torch
from torch import Tensor

SHADES = " .:-=+*#%@"
CHART_ROWS, CHART_COLUMNS = 10, 60
WIDEST = 112  # characters per line of a drawing


def image(values: Tensor, double: bool = True) -> list[str]:
    """Return lines that draw [H, W] in [0, 1]: two characters per pixel, or one for a pixel and the one below it."""
    if values.shape[1] * (1 + double) > WIDEST:
        return [f"({values.shape[0]} x {values.shape[1]} pixels: too wide to draw)"]
    if not double:
        values = torch.stack([pair.mean(0) for pair in values.split(2)])  # the last row of an odd height stays alone
    shades = (values.clamp(0, 1) * (len(SHADES) - 1)).round().long().tolist()
    return ["".join(SHADES[shade] * (1 + double) for shade in row) for row in shades]


def side_by_side(left: Sequence[str], right: Sequence[str], gap: str = "  |  ") -> list[str]:
    """Return two drawings of equal height, joined line by line."""
    return [f"{a}{gap}{b}" for a, b in zip(left, right, strict=True)]


def chart(values: Sequence[float | None]) -> list[str]:
    """Return lines that draw a curve over 1, 2, ..., with gaps for None; raise ValueError if all values are None.

    If there are more values than columns, it shows the last value and every n-th before it.
    """
    step = -(-len(values) // CHART_COLUMNS)
    shown = values[::-step][::-1]
    finite = [value for value in shown if value is not None]
    low, high = min(finite), max(finite)
    unit = (high - low) / (CHART_ROWS - 1) or 1.0
    levels = [None if value is None else round((value - low) / unit) for value in shown]
    lines = []
    for level in range(CHART_ROWS - 1, -1, -1):
        marks = "".join("*" if at == level else " " for at in levels)
        lines.append(f"{low + level * unit:8.2f} |{marks}".rstrip())
    first, last = str(len(values) - (len(shown) - 1) * step), str(len(values))
    ends = f"{first}{last:>{max(len(last) + 1, len(shown) - len(first))}}" if len(shown) > 1 else first
    return [*lines, f"{'':8} +{'-' * len(shown)}", f"{'':10}{ends} epoch"]
