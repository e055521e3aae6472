"""Drawings in characters."""

import torch

from vae_fast.reporting import terminal


def test_an_image_is_drawn_in_shades() -> None:
    values = torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert terminal.image(values) == ["  @@", "===="]
    assert terminal.image(values, double=False) == [terminal.SHADES[2] + terminal.SHADES[7]]
    assert len(terminal.image(torch.rand(1, 5), double=False)) == 1  # a single row stays a single row
    assert len(terminal.image(torch.rand(5, 5), double=False)) == 3
    assert terminal.image(torch.rand(1, 784)) == ["(1 x 784 pixels: too wide to draw)"]


def test_two_drawings_are_joined_side_by_side() -> None:
    assert terminal.side_by_side(["a", "b"], ["c", "d"], " ") == ["a c", "b d"]


def test_a_curve_falls_from_left_to_right() -> None:
    lines = terminal.chart([150.0, 120, 110, 105, 103, 102])
    assert len(lines) == terminal.CHART_ROWS + 2
    assert lines[0] == "  150.00 |*"
    assert lines[terminal.CHART_ROWS - 1].startswith("  102.00 |")
    assert lines[terminal.CHART_ROWS - 1].endswith("*")
    assert lines[-1].split() == ["1", "6", "epoch"]


def test_a_curve_with_a_gap_keeps_its_places() -> None:
    lines = terminal.chart([3.0, None, 1.0])
    assert [line[10:] for line in lines if "*" in line] == ["*", "  *"]


def test_a_long_curve_fits_and_a_single_value_is_drawn() -> None:
    long = terminal.chart([float(i) for i in range(1000)])
    assert max(map(len, long)) <= terminal.CHART_COLUMNS + 20
    assert long[-1].split() == ["14", "1000", "epoch"]  # the last value is drawn, whatever is left out
    single = terminal.chart([5.0])
    assert sum("*" in line for line in single) == 1
    assert single[-1].split() == ["1", "epoch"]
