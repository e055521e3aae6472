"""How long the benchmarks may take, and how what is left is divided among those that are still to come.

The time left is shared out in proportion to what each benchmark usually takes, so what one does not use goes to those
after it. Rounds are given up, not waited for: the first takes place whenever it can end in time, the next two may take
from those after it, the others may not. What cannot be divided, such as compiling, counts as well: no benchmark takes
more than a third of what is left. It is not begun if it is expected to, and ended if it does.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

DEFAULT = 450.0  # seconds
FEWEST = 3  # rounds that may borrow, as a median and its quartiles need them
BORROWED = 2.0  # times its share may have passed before these
MOST = 1 / 3  # of what is left, for one of many
SOON, AGAIN = 0.2, 5.0  # seconds until what is importing is looked at again, and what goes on is told once more
IMPORTING = "<frozen importlib._bootstrap>"
LESS = 0.9  # is expected of the next one each time that one is not begun: the machine may not stay as busy as it was
REASON = "the budget of time was spent"


class Spent(BaseException):
    """There is no time for a benchmark, or not even for its first round.

    No Exception, because those are caught in many places where this can be raised.
    """


@dataclass(frozen=True)
class Kind:
    """Benchmarks that take about as long before their first round."""

    name: str
    compiles: bool = False


@dataclass
class Budget:
    """The seconds that all benchmarks may take; None: as long as they want."""

    seconds: float | None = None
    clock: Callable[[], float] = time.monotonic
    _usual: dict[str, float] = field(default_factory=dict)  # of each benchmark that has not ended
    _needed: dict[Kind, float] = field(default_factory=dict)  # to the end of the first round, by what is usual
    _kind: Kind | None = None
    _weight: float = 1.0  # of the one that is running

    def __post_init__(self) -> None:
        self._first = self._began = self._last = self.clock()
        self._share = self._most = self.left
        self._done = 0.0

    @property
    def left(self) -> float:
        return math.inf if self.seconds is None else self._first + self.seconds - self.clock()

    @property
    def share_left(self) -> float:
        """Of the benchmark that is running."""
        return min(self.left, self._began + self._share - self.clock())

    @property
    def most_left(self) -> float:
        """How long the benchmark that is running may do so at the most."""
        return self._began + self._most - self.clock()

    @property
    def expected(self) -> float:
        """Seconds until all have ended, at the pace of those that have."""
        if not self._done:
            return self.left
        pace = (self.clock() - self._first) / self._done
        return max(0.0, min(self.left, pace * sum(self._usual.values())))

    def plan(self, usual: Mapping[str, float]) -> None:
        """Take the benchmarks that are to come, with what each takes usually; in which unit does not matter."""
        self._usual = dict(usual)

    def begin(self, name: str, kind: Kind) -> None:
        """Give a benchmark its share. Spent if it is expected to need more than it may take at the most."""
        weight, needed = self._usual.get(name, 1.0), self._needed_by(kind)
        share = self.left * weight / max(sum(self._usual.values()), weight)
        most = min(self.left, max(self.left * MOST, share * BORROWED))
        if most <= needed * weight:
            self._needed[kind] = needed * LESS
            raise Spent
        self._kind, self._weight, self._share, self._most = kind, weight, share, most
        self._began = self._last = self.clock()

    def allows(self, taken: int) -> bool:
        """Whether there is time for a round more after `taken`; negative: after the rounds that only warm up.

        To be asked before every round: the last one says what the next will take.
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
        """Return what a benchmark has not used, whether it has begun or not."""
        self._note()
        self._done += self._usual.pop(name, 0.0)

    def _note(self) -> None:
        """What this kind needed, if that is not known yet."""
        if self._kind is not None:
            self._needed[self._kind] = (self.clock() - self._began) / self._weight
        self._kind = None

    @contextmanager
    def enforced(self) -> Iterator[None]:
        """Raise Spent in what runs within, in Python's main thread, when it has taken the most that it may."""
        if math.isinf(self.most_left) or not hasattr(signal, "SIGALRM"):
            yield
            return
        before = signal.signal(signal.SIGALRM, _spend)
        signal.setitimer(signal.ITIMER_REAL, max(1e-3, self.most_left))
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def _needed_by(self, kind: Kind) -> float:
        """What the last one of its kind needed; of a kind not seen yet, the most of those that compile as it does.

        By what is usual for each.
        """
        others = (seconds for other, seconds in self._needed.items() if other.compiles == kind.compiles)
        return self._needed.get(kind, max(others, default=0.0))


def seconds_of(chosen: float | None, more: bool) -> float | None:
    """What a Budget is given for --budget; who asks for `more` than usual is not held to what the usual takes."""
    if chosen is None:
        return None if more else DEFAULT
    return chosen or None


def _spend(number: int, frame: FrameType | None) -> None:
    """Not amid an import: half a module would stay behind, and fail whoever imports it next."""
    while frame is not None and frame.f_code.co_filename != IMPORTING:
        frame = frame.f_back
    signal.setitimer(signal.ITIMER_REAL, AGAIN if frame is None else SOON)
    if frame is None:
        raise Spent
