"""What the kinds of faults share: cases and their outcomes, where they work, and several at a time."""

import queue
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.faults.commands import Commands, Done

SMALL = ("--data", "digits", "--hidden", "8", "--latent", "2", "--batch-size", "250")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case: what it was, how it ended in a few words, and what is wrong, which should be nothing."""

    kind: str
    case: str
    group: str
    ended: str
    wrong: tuple[str, ...] = ()


Case = Callable[[Commands], Iterable[Outcome]]


@dataclass
class Campaign:
    """One call of the campaign.

    Attributes:
        folder: where all of it happens.
        library: what lets calls fail, or None where it could not be built.
        jobs: how many cases at a time.
        size: how many cases the kinds take that choose among many, by their names.
        can_mount: whether there may be file systems of a certain size.
        notes: what the kinds have to say besides outcomes, by their names.
    """

    folder: Path
    seed: int
    library: Path | None
    jobs: int
    size: dict[str, int]
    can_mount: bool
    notes: dict[str, list[str]] = field(default_factory=dict)
    _numbers: "count[int]" = field(default_factory=count)

    def random(self, *names: object) -> random.Random:
        """Make a generator from the seed and what is chosen, so that a choice depends on no other."""
        return random.Random(repr((self.seed, *names)))

    def note(self, kind: str, line: str) -> None:
        self.notes.setdefault(kind, []).append(line)

    @contextmanager
    def place(self) -> Iterator[Path]:
        """Make an empty folder for one case, and remove it at the end."""
        folder = self.folder / f"case-{next(self._numbers)}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def alone(self) -> Commands:
        """Start commands for what has to be known before the cases begin."""
        return Commands(self.folder / f"alone-{next(self._numbers)}", self.library)

    def all(self, cases: list[Case]) -> Iterator[Outcome]:
        """Run the cases, several at a time; outcomes in the cases' order."""
        free: queue.SimpleQueue[Commands] = queue.SimpleQueue()

        def one(case: Case) -> list[Outcome]:
            commands = free.get()
            try:
                return list(case(commands))
            finally:
                free.put(commands)

        with ExitStack() as stack:
            for _ in range(self.jobs):
                folder = self.folder / f"commands-{next(self._numbers)}"
                free.put(stack.enter_context(Commands(folder, self.library)))
            pool = stack.enter_context(ThreadPoolExecutor(self.jobs))
            for number, outcomes in enumerate(pool.map(one, cases), 1):
                if sys.stderr.isatty():
                    print(f"\r{number}/{len(cases)}", end="\r", file=sys.stderr, flush=True)
                yield from outcomes


def train(commands: Commands, run: Path, *, epochs: int = 3, keep: int = 1, **before: object) -> Done:
    """Begin a small run, whose loss curve is not drawn, or go on with it. before: of forks.PREPARATIONS."""
    flags = (*SMALL, "--epochs", str(epochs), "--keep", str(keep), "--resume", "auto", "--out", str(run))
    return commands.run("train", *flags, sketch=[], **before)
