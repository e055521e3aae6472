"""What a run prints: progress on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Printer:
    """Lines that stay, and on a terminal a bar for the steps under way."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)

    def line(self, text: str) -> None:
        self._console.print(text)

    def steps(self, items: Iterable[T], title: str, total: int, done: int = 0) -> Iterator[T]:
        """The items, with a bar that advances from `done` to `total` as they are taken; it vanishes at the end."""
        if not self._console.is_terminal:
            yield from items
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console, transient=True) as bar:
            task = bar.add_task(title, total=total, completed=done)
            for count, item in enumerate(items, done + 1):
                yield item
                if count % 16 == 0:  # a bar that redraws no faster than the eye sees
                    bar.update(task, completed=count)


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
