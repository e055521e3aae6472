"""What a run prints: progress on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[[int, float | None], None]

REDRAW_EVERY = 16  # steps: redrawing more often than the eye can follow would be wasted
LINE_EVERY = 10.0  # seconds


class Printer:
    """A printer of lasting lines and, on a terminal, of a progress bar; it prints nothing if `quiet`."""

    def __init__(self, quiet: bool = False, stderr: bool = False) -> None:
        from rich.console import Console

        self._console = Console(quiet=quiet, stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._has_bar = self._console.is_terminal and not quiet

    def line(self, text: str) -> None:
        self._console.print(text)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yield a function to call with the steps done so far and the latest loss; a terminal shows a bar meanwhile.

        With a unit ("images") the bar also shows the rate per second, and without a terminal lines are printed instead.
        """
        rate = _Rate(done, unit)
        if not self._has_bar:
            yield self._lines(title, total, rate) if unit else lambda done, loss: None
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done)
            shown = done

            def advance(done: int, loss: float | None) -> None:
                nonlocal shown
                if done - shown >= REDRAW_EVERY:
                    shown = done
                    parts = [title, "" if loss is None else f"{loss:.2f}", rate(done)]
                    bar.update(task, completed=done, description="  ".join(part for part in parts if part))

            yield advance

    def _lines(self, title: str, total: int, rate: "_Rate") -> Advance:
        last_printed = time.monotonic()

        def advance(done: int, loss: float | None) -> None:
            nonlocal last_printed
            if time.monotonic() - last_printed >= LINE_EVERY:
                last_printed = time.monotonic()
                so_far = "" if loss is None else f"  {loss:.2f}"
                self.line(f"{title}{so_far}  {done:,} of {total:,}, {rate(done)}")

        return advance


class _Rate:
    """The rate per second, as text; empty without a unit."""

    def __init__(self, first: int, unit: str) -> None:
        self._first, self._unit, self._began = first, unit, time.monotonic()

    def __call__(self, done: int) -> str:
        seconds = max(1e-9, time.monotonic() - self._began)
        return f"{(done - self._first) / seconds:,.0f} {self._unit}/s" if self._unit else ""


def _terms(loss: float, nll: float, kl: float, beta: float) -> str:
    """Describe the terms of a loss. beta: the one of the epoch's last step; with a schedule, earlier steps differ."""

    def is_weighted_by(weight: float) -> bool:
        return math.isclose(loss, nll + weight * kl, rel_tol=1e-5, abs_tol=0.005)

    if is_weighted_by(1):
        return f"nll {nll:.2f} + kl {kl:.2f}"
    suffix = "" if is_weighted_by(beta) else " at its end"
    return f"nll {nll:.2f}, kl {kl:.2f}, beta {beta:g}{suffix}; -ELBO {nll + kl:.2f}"


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """Return the record of one epoch from metrics.jsonl as a line of text."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name in ("train", "valid", "test"):
        if record.get(f"{name}_loss") is not None:
            loss, nll, kl = (record[f"{name}_{key}"] for key in ("loss", "nll", "kl"))
            parts.append(f"{name} {loss:.2f} ({_terms(loss, nll, kl, record.get('beta', 1.0))})")
    if record["images_per_second"] is not None:
        parts.append(f"{record['images_per_second']:,.0f} images/s")
    if record["skipped_steps"]:
        steps = "step" if record["skipped_steps"] == 1 else "steps"
        parts.append(f"{record['skipped_steps']} {steps} skipped: not finite")
    return "   ".join(parts)
