"""Images and curves drawn with characters, for a terminal or a file."""

from collections.abc import Sequence

import torch
from torch import Tensor

SHADES = " .:-=+*#%@"
CHART_ROWS, CHART_COLUMNS = 10, 60
WIDEST = 112  # characters of a drawing


def image(values: Tensor, double: bool = True) -> list[str]:
    """Lines for [H, W] in [0, 1]: two characters a pixel, or one for a pixel and the one below it."""
    if values.shape[1] * (1 + double) > WIDEST:
        return [f"({values.shape[0]} x {values.shape[1]} pixels: too wide to draw)"]
    if not double:
        values = torch.stack([pair.mean(0) for pair in values.split(2)])  # the last row of an odd height alone
    shades = (values.clamp(0, 1) * (len(SHADES) - 1)).round().long().tolist()
    return ["".join(SHADES[shade] * (1 + double) for shade in row) for row in shades]


def beside(left: Sequence[str], right: Sequence[str], gap: str = "  |  ") -> list[str]:
    """Two drawings of equal height."""
    return [f"{a}{gap}{b}" for a, b in zip(left, right, strict=True)]


def chart(values: Sequence[float | None]) -> list[str]:
    """A curve over 1, 2, ..., with gaps where there is None; ValueError if all are.

    Of more values than there are columns it shows the last and every n-th before.
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
