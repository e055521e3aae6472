"""Runs side by side as a table: its cells as text, for a terminal and a page, and the values themselves as CSV."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from vae_fast.analysis.comparison import Comparison, Row, shown
from vae_fast.analysis.diagnosis import nats
from vae_fast.analysis.recorded_runs import Estimate, RecordedRun

# The columns of results that a table has; CSV has all.
RESULTS = (
    *("epochs_done", "train_loss", "valid_loss", "test_loss", "nll", "kl", "bits_per_value", "best_loss", "iw_nll"),
    *("images_per_second", "seconds"),
)
TITLES = {"epochs_done": "epochs", "iw_nll": "-log p(x)", "images_per_second": "images/s"}  # on a page


def columns(comparison: Comparison) -> list[str]:
    """Return the names of the table's columns: the run, the settings that differ, and the results."""
    first = ("run", "group", *comparison.settings)
    return [key for key in (*first, *RESULTS) if key in comparison.columns]


def titles(comparison: Comparison) -> list[str]:
    """Return the headings of the columns for a page."""
    of_results = {key: TITLES.get(key, key.replace("_", " ")) for key in RESULTS}
    return [of_results.get(key, key) for key in columns(comparison)]


def cells(comparison: Comparison) -> list[list[str]]:
    """Return the rows of the table as text."""
    return [
        [_cell(key, row, run) for key in columns(comparison)]
        for row, run in zip(comparison.rows, comparison.runs, strict=True)
    ]


def lines(comparison: Comparison) -> list[str]:
    """Return the lines of the table for a terminal, with results aligned right."""
    head, rows = columns(comparison), cells(comparison)
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return ["  ".join(map(_aligned, row, head, widths)).rstrip() for row in (head, *rows)]


def as_csv(comparison: Comparison) -> str:
    """Return all values, unrounded, as CSV with a heading; an empty field stands for None."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(comparison.columns)
    for row in comparison.rows:
        writer.writerow("" if row[key] in (None, "") else shown(row[key]) for key in comparison.columns)
    return text.getvalue()


def _aligned(cell: str, key: str, width: int) -> str:
    return cell.rjust(width) if key in RESULTS else cell.ljust(width)


def _cell(key: str, row: Row, run: RecordedRun) -> str:
    value: Any = row[key]
    if key not in RESULTS or value is None:
        return shown(value)
    if key == "epochs_done":
        return f"{value}" if value == run.config.epochs else f"{value} of {run.config.epochs}"
    if key == "iw_nll" and run.estimate is not None:
        return _estimate(run.estimate, run)
    return f"{value:,.0f}" if key == "images_per_second" else f"{value:.4f}" if key == "bits_per_value" else nats(value)


def _estimate(found: Estimate, run: RecordedRun) -> str:
    """Describe an estimate: with what one would not expect of it, too, such as an earlier checkpoint."""
    marks: Sequence[str] = [
        f"K = {found.samples:,}",
        *([] if found.part == "test" else [found.part]),
        *([] if run.is_whole(found) else [f"{found.images:,} images"]),
        *([] if found.step == run.records[-1].get("step") else [f"step {shown(found.step)}"]),
    ]
    return f"{found.nll:.2f} +- {nats(found.standard_error)} ({', '.join(marks)})"
