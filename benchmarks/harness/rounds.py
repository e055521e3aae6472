"""Rounds in which a contender, the eager baseline and a floor take turns, so that a drift of the machine hits all.

A ratio belongs to a round: the baseline's time over the contender's, in that round. What is quoted is the median of
the rounds' ratios, with the quartiles as its spread; it repeats where times of different minutes do not. On a CPU a
round counts if its cores were near each other (`cores`) before and after it; where few were, the others count.
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

FEWEST = 3  # rounds in one state, to go without the others
Call = Callable[[], object]


def seconds(call: Call, device: str) -> float:
    """How long `call` takes, until the device has done all of it.

    On a GPU between two events around the call, whose first the idle device passes at once: launches count.
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
    """Someone's part of a round: `prepare` is not timed."""

    run: Call
    prepare: Call = lambda: None


@dataclass(frozen=True)
class Pace:
    """How many rounds, how many seconds in all to wait for near cores before them, and what time there is for both."""

    rounds: int
    patience: float = 0.0
    budget: Budget = field(default_factory=Budget)

    def of(self, contender: str) -> "Pace":
        """The baseline beside itself needs no more rounds than a median and its quartiles do."""
        return replace(self, rounds=min(self.rounds, FEWEST)) if contender == BASELINE else self


@dataclass
class Rounds:
    """Seconds of each in each round; how far apart the cores were, in nanoseconds, if that is known.

    And how many rounds were wanted and how many taken, of which those in another state do not count.
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
        """Those whose cores were near, if they are enough; else those whose were not, if they are; else all."""
        near = [i for i, nanoseconds in enumerate(self.apart) if cores.are_near(nanoseconds)]
        distant = sorted(set(range(len(self.apart))) - set(near))
        kept = next((rounds for rounds in (near, distant) if len(rounds) >= FEWEST), range(len(self.apart)))

        def of(values: list[float]) -> list[float]:
            return [values[i] for i in kept] if values else []

        apart = [self.apart[i] for i in kept]
        return Rounds(of(self.contender), of(self.baseline), of(self.floor), apart, self.wanted, self.taken)


def quartiles(values: list[float]) -> list[float]:
    """[first quartile, median, third quartile]; of a single value that value."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


class _Enough(BaseException):
    """Ends pytest-benchmark's loop over the rounds, which would take any Exception for a failure."""


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

    After `warm_up` rounds that do not count, as many as the budget allows; Spent if it allows none. `between` comes
    before each turn.
    """
    times, patience = Rounds(), pace.patience
    before: list[float | None] = []  # each round, and after it, how far apart the cores were
    after: list[float | None] = []

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
