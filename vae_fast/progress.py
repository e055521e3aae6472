"""What a run prints: progress on a terminal, plain lines elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Advance = Callable[[int, float | None], None]

REDRAW_EVERY = 16  # steps: a bar that redraws no faster than the eye sees


class Printer:
    """Lines that stay, and on a terminal a bar for the steps under way; nothing at all if `quiet`."""

    def __init__(self, quiet: bool = False) -> None:
        from rich.console import Console

        self._console = Console(quiet=quiet, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._has_bar = self._console.is_terminal and not quiet

    def line(self, text: str) -> None:
        self._console.print(text)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Advance]:
        """A function to call with the steps done so far and the latest loss: on a terminal a bar, gone at the end."""
        if not self._has_bar:
            yield lambda done, loss: None
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
                    bar.update(task, completed=done, description=title if loss is None else f"{title}  {loss:.2f}")

            yield advance


def epoch_line(record: dict[str, Any], epochs: int) -> str:
    """One epoch's record of metrics.jsonl as a line."""
    parts = [f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"]
    for name in ("train", "valid", "test"):
        if record.get(f"{name}_loss") is not None:
            loss, nll, kl = (record[f"{name}_{key}"] for key in ("loss", "nll", "kl"))
            parts.append(f"{name} {loss:.2f} (nll {nll:.2f} + kl {kl:.2f})")
    if record["images_per_second"] is not None:
        parts.append(f"{record['images_per_second']:,.0f} images/s")
    if record["skipped_steps"]:
        parts.append(f"{record['skipped_steps']} steps skipped: not finite")
    return "   ".join(parts)
