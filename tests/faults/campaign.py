"""The common part of all kinds of faults: cases, their outcomes and folders, and running several at a time."""

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
    """The outcome of one case: its name, how it ended in a few words, and what is wrong, which should be nothing."""

    kind: str
    case: str
    group: str
    ended: str
    wrong: tuple[str, ...] = ()


Case = Callable[[Commands], Iterable[Outcome]]


@dataclass
class Campaign:
    """One run of the campaign.

    Attributes:
        folder: where everything happens.
        library: the library that makes calls fail, or None if it could not be built.
        jobs: the number of cases that run at a time.
        size: the number of cases, by kind, for kinds that choose among many.
        can_mount: whether file systems of a given size can be mounted.
        notes: remarks besides outcomes, by kind.
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
        """Return a generator seeded by the seed and `names`, so that no choice depends on another."""
        return random.Random(repr((self.seed, *names)))

    def note(self, kind: str, line: str) -> None:
        self.notes.setdefault(kind, []).append(line)

    @contextmanager
    def place(self) -> Iterator[Path]:
        """Create an empty folder for one case, and remove it at the end."""
        folder = self.folder / f"case-{next(self._numbers)}"
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def alone(self) -> Commands:
        """Start a process for commands that have to run before the cases begin."""
        return Commands(self.folder / f"alone-{next(self._numbers)}", self.library)

    def all(self, cases: list[Case]) -> Iterator[Outcome]:
        """Run the cases, several at a time, and yield their outcomes in the order of the cases."""
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
    """Start or resume a small run whose loss curve is not drawn. before: names from forks.PREPARATIONS."""
    flags = (*SMALL, "--epochs", str(epochs), "--keep", str(keep), "--resume", "auto", "--out", str(run))
    return commands.run("train", *flags, sketch=[], **before)
