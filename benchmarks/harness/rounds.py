"""Rounds in which a contender, the eager baseline and a floor take turns, so that any drift affects all of them.

A ratio belongs to a round: the baseline's time over the contender's, in that round. The figure quoted is the median of
the rounds' ratios, with the quartiles as its spread; it is reproducible where times from different minutes are not. On
a CPU a round counts if its cores were near each other (`cores`) before and after it; if few were, the others count.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from benchmarks import cores
from benchmarks.harness.budget import Budget, Spent
from benchmarks.reporting.results import BASELINE

FEWEST = 3  # rounds in one state, enough to drop the others
Call = Callable[[], object]


def seconds(call: Call, device: str) -> float:
    """Return how long `call` takes, until the device has done all of it.

    On a GPU it is the time between two events around the call; the idle device passes the first at once, so launches
    count.
    """
    if device == "cpu":
        began = time.perf_counter()
        call()
        return time.perf_counter() - began
    torch.cuda.synchronize()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


@dataclass(frozen=True)
class Turn:
    """One participant's part of a round; `prepare` is not timed."""

    run: Call
    prepare: Call = lambda: None


@dataclass(frozen=True)
class Pace:
    """The number of rounds, the seconds in all to wait for near cores before them, and the budget for both."""

    rounds: int
    patience: float = 0.0
    budget: Budget = field(default_factory=Budget)

    def of(self, contender: str) -> "Pace":
        """Return a contender's pace: the baseline against itself needs only the rounds for median and quartiles."""
        return replace(self, rounds=min(self.rounds, FEWEST)) if contender == BASELINE else self


@dataclass
class Rounds:
    """The seconds of each participant in each round, and how far apart the cores were, in nanoseconds, if known.

    `wanted` and `taken` count rounds; `taken` includes those that do not count because the cores were in another state.
    """

    contender: list[float] = field(default_factory=list)
    baseline: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    apart: list[float | None] = field(default_factory=list)
    wanted: int = 1
    taken: int = 1

    @property
    def ratio(self) -> list[float]:
        return quartiles([b / c for b, c in zip(self.baseline, self.contender, strict=True)])

    @property
    def of_floor(self) -> list[float] | None:
        if not self.floor:
            return None
        return quartiles([f / c for f, c in zip(self.floor, self.contender, strict=True)])

    @property
    def cores_apart(self) -> list[float] | None:
        known = [nanoseconds for nanoseconds in self.apart if nanoseconds is not None]
        return quartiles(known) if known else None

    def of_one_state(self) -> "Rounds":
        """Return the rounds with near cores if they are enough, else those with distant cores if they are, else all."""
        near = [i for i, nanoseconds in enumerate(self.apart) if cores.are_near(nanoseconds)]
        distant = sorted(set(range(len(self.apart))) - set(near))
        kept = next((rounds for rounds in (near, distant) if len(rounds) >= FEWEST), range(len(self.apart)))

        def of(values: list[float]) -> list[float]:
            return [values[i] for i in kept] if values else []

        apart = [self.apart[i] for i in kept]
        return Rounds(of(self.contender), of(self.baseline), of(self.floor), apart, self.wanted, self.taken)


def quartiles(values: list[float]) -> list[float]:
    """Return [first quartile, median, third quartile]; a single value is all three."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


class _Enough(BaseException):
    """A signal that ends pytest-benchmark's loop over the rounds, which treats any Exception as a failure."""


def alternate(
    benchmark: Any,
    contender: Turn,
    baseline: Turn,
    floor: Turn | None,
    pace: Pace,
    device: str = "cpu",
    warm_up: int = 1,
    between: Call = lambda: None,
) -> Rounds:
    """Time rounds with pytest-benchmark's fixture, which sees the contender alone.

    After `warm_up` rounds that do not count, take as many rounds as the budget allows; raise Spent if it allows none.
    `between` runs before each turn.
    """
    times, patience = Rounds(), pace.patience
    before: list[float | None] = []  # how far apart the cores were before each round
    after: list[float | None] = []  # and after it

    def others() -> None:
        nonlocal patience
        _keep_to(pace.budget, taken=len(before) - warm_up)
        if device == "cpu":
            patience = cores.wait(min(patience, pace.budget.share_left))
        before.append(_distance(device))
        for turn, into in ((baseline, times.baseline), (floor, times.floor)):
            if turn is not None:
                turn.prepare()
                between()
                into.append(seconds(turn.run, device))
        contender.prepare()
        between()

    def timed() -> None:
        times.contender.append(seconds(contender.run, device))

    def checked() -> None:
        after.append(_distance(device))

    with suppress(_Enough):
        benchmark.pedantic(timed, setup=others, teardown=checked, rounds=pace.rounds, warmup_rounds=warm_up)
    after += before[len(after) :]  # --benchmark-disable calls no teardown
    times.apart = [a and b and max(a, b) for a, b in zip(before, after, strict=True)]
    times.wanted, times.taken = pace.rounds, max(1, len(before) - warm_up)
    for values in (times.contender, times.baseline, times.floor, times.apart):
        del values[: -times.taken]  # the warm-up
    return times.of_one_state()


def _keep_to(budget: Budget, taken: int) -> None:
    if budget.allows(taken):
        return
    if taken <= 0:
        raise Spent
    raise _Enough


def _distance(device: str) -> float | None:
    return cores.apart() if device == "cpu" else None
