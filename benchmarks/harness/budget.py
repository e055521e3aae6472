"""The time budget of the benchmarks, and how the time left is divided among those that have not run yet.

The time left is shared in proportion to what each benchmark usually takes, so time that one does not use goes to those
after it. Rounds are dropped rather than waited for: the first takes place whenever it can end in time, the next two may
borrow from later benchmarks, the others may not. Work that cannot be divided, such as compiling, counts as well: no
benchmark takes more than a third of the time left. It is not started if it is expected to, and stopped if it does.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

DEFAULT = 450.0  # seconds
FEWEST = 3  # rounds that may borrow, because a median and its quartiles need them
BORROWED = 2.0  # these rounds must end within this multiple of the benchmark's share
MOST = 1 / 3  # of the time left, for one of many benchmarks
SOON, AGAIN = 0.2, 5.0  # seconds to the next alarm, during an import and after Spent
IMPORTING = "<frozen importlib._bootstrap>"
# Each time that a benchmark is not started, its kind's expected time shrinks: the machine may not stay as busy.
LESS = 0.9
REASON = "the budget of time was spent"


class Spent(BaseException):
    """A signal that there is no time for a benchmark, or not even for its first round.

    It is not an Exception, because those are caught in many places where this can be raised.
    """


@dataclass(frozen=True)
class Kind:
    """A group of benchmarks that take about the same time before their first round."""

    name: str
    compiles: bool = False


@dataclass
class Budget:
    """The seconds that all benchmarks together may take; None for no limit."""

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    _usual: dict[str, float] = field(default_factory=dict)  # time of each benchmark that has not ended
    _needed: dict[Kind, float] = field(default_factory=dict)  # to the end of the first round, relative to the usual
    _kind: Kind | None = None
    _weight: float = 1.0  # usual time of the running benchmark

    def __post_init__(self) -> None:
        self._first = self._began = self._last = self.clock()
        self._share = self._most = self.left
        self._done = 0.0

    @property
    def left(self) -> float:
        return math.inf if self.seconds is None else self._first + self.seconds - self.clock()

    @property
    def share_left(self) -> float:
        """Return the seconds left of the running benchmark's share."""
        return min(self.left, self._began + self._share - self.clock())

    @property
    def most_left(self) -> float:
        """Return how many more seconds the running benchmark may take at most."""
        return self._began + self._most - self.clock()

    @property
    def expected(self) -> float:
        """Return the seconds until all have ended, at the pace of those that have."""
        if not self._done:
            return self.left
        pace = (self.clock() - self._first) / self._done
        return max(0.0, min(self.left, pace * sum(self._usual.values())))

    def plan(self, usual: Mapping[str, float]) -> None:
        """Register the benchmarks that will run, with the time that each usually takes, in any unit."""
        self._usual = dict(usual)

    def begin(self, name: str, kind: Kind) -> None:
        """Give a benchmark its share; raise Spent if it is expected to need more than it may take at most."""
        weight, needed = self._usual.get(name, 1.0), self._needed_by(kind)
        share = self.left * weight / max(sum(self._usual.values()), weight)
        most = min(self.left, max(self.left * MOST, share * BORROWED))
        if most <= needed * weight:
            self._needed[kind] = needed * LESS
            raise Spent
        self._kind, self._weight, self._share, self._most = kind, weight, share, most
        self._began = self._last = self.clock()

    def allows(self, taken: int) -> bool:
        """Return whether there is time for another round after `taken`, which is negative during the warm-up.

        Call it before every round: the duration of the last one predicts that of the next.
        """
        now = self.clock()
        lasted, self._last = now - self._last, now
        if taken == 1:
            self._note()
        if taken <= 0:
            return self.most_left > (lasted if taken == 0 else 0.0)
        borrowed = BORROWED if taken < FEWEST else 1.0
        return lasted <= min(self.most_left, self._began + borrowed * self._share - now)

    def end(self, name: str) -> None:
        """Give back the time that a benchmark has not used, whether or not it was started."""
        self._note()
        self._done += self._usual.pop(name, 0.0)

    def _note(self) -> None:
        """Record the time that this kind needed, once for each benchmark."""
        if self._kind is not None:
            self._needed[self._kind] = (self.clock() - self._began) / self._weight
        self._kind = None

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise Spent in the body, in Python's main thread, once it has taken the most that it may."""
        if math.isinf(self.most_left) or not hasattr(signal, "SIGALRM"):
            yield
            return
        before = signal.signal(signal.SIGALRM, _raise_spent)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.most_left))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _needed_by(self, kind: Kind) -> float:
        """Return what the last benchmark of this kind needed, relative to its usual time.

        For a kind not seen yet, return the most that any other kind needed with the same `compiles`.
        """
        others = (seconds for other, seconds in self._needed.items() if other.compiles == kind.compiles)
        return self._needed.get(kind, max(others, default=0.0))


def seconds_of(chosen: float | None, more: bool) -> float | None:
    """Return a Budget's seconds for --budget; by default a run of `more` than the usual benchmarks has no limit."""
    if chosen is None:
        return None if more else DEFAULT
    return chosen or None


def _raise_spent(number: int, frame: FrameType | None) -> None:
    """Raise Spent, but not during an import: half a module would remain and break the next import of it."""
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    signal.setitimer(signal.ITIMER_REAL, AGAIN if frame is None else SOON)
    if frame is None:
        raise Spent
