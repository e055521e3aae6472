"""What a run prints: progress on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
    def bar(self, title: str, total: int | None, done: int = 0, unit: str = "") -> Iterator[Advance]:
        """Yield a function to call with the steps done so far and the latest loss; a terminal shows a bar meanwhile.

        total: the number of steps; None if it is unknown.
        unit: if given ("images"), the bar also shows the rate per second, and without a terminal lines are printed.
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

    def _lines(self, title: str, total: int | None, rate: "_Rate") -> Advance:
        last_printed = time.monotonic()

        def advance(done: int, loss: float | None) -> None:
            nonlocal last_printed
            if time.monotonic() - last_printed >= LINE_EVERY:
                last_printed = time.monotonic()
                so_far = "" if loss is None else f"  {loss:.2f}"
                count = f"{done:,}" if total is None else f"{done:,} of {total:,}"
                self.line(f"{title}{so_far}  {count}, {rate(done)}")

        return advance


class _Rate:
    """The rate per second, as text; empty without a unit."""

    def __init__(self, first: int, unit: str) -> None:
        self._first, self._unit, self._began = first, unit, time.monotonic()

    def __call__(self, done: int) -> str:
        seconds = max(1e-9, time.monotonic() - self._began)
        return f"{(done - self._first) / seconds:,.0f} {self._unit}/s" if self._unit else ""
