"""How many threads compute the training steps while other programs need the cores too.

Threads that share a step wait for each other, so a step takes as long as its slowest thread: beside a program that
keeps one of two cores busy, two threads are slower than one. Where the kernel keeps interrupting this process,
`ThreadCount` tries fewer, and more again from time to time. It is for work whose result does not depend on it.
"""

import time
from collections.abc import Callable
from statistics import median

import torch

from vae_fast.config import Config
from vae_fast.runtime.plan import Plan

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

BUSY = 100.0  # interruptions a second: two threads alone see some 40, beside a busy core 190, beside another run 290
WINDOW = 0.25  # seconds over which they are counted
TRIAL_CALLS = 4  # with another number of threads, then as many with the present one; the first of each only warms up
WORTHWHILE = 0.9  # of the present time a step, below which the other number is taken
FIRST_WAIT, LONGEST_WAIT = 0.5, 16.0  # seconds between trials, doubled by each that changes nothing


def chooses_threads(config: Config, plan: Plan, processes: int) -> bool:
    """Return whether a run takes fewer threads by itself: where --threads is absent and they change no bit."""
    return config.threads is None and plan.step == "fused" and processes == 1


def interruptions() -> int:
    """Return how often the kernel has taken a core from this process to give it to another."""
    return 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class ThreadCount:
    """The number of threads that is fastest at the moment, at most as many as PyTorch is set to.

    Nothing is tried where the process is not interrupted and has all its threads.

    Args:
        clock: seconds that pass.
        count: interruptions so far.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, count: Callable[[], int] = interruptions
    ) -> None:
        self._clock, self._count = clock, count
        self._begin(torch.get_num_threads())

    def run(self, work: Callable[[], None], steps: int) -> None:
        """Call `work`, which makes `steps` steps, with the number of threads set for it; then set PyTorch's again."""
        most = torch.get_num_threads()
        if most != self._most:
            self._begin(most)
        threads = self._trial.pop() if self._trial else self.now
        began = self._clock()
        torch.set_num_threads(threads)
        try:
            work()
        finally:
            torch.set_num_threads(most)
        if most > 1:
            self._took(threads, (self._clock() - began) / steps)

    def _begin(self, most: int) -> None:
        self._most = self.now = self._other = most
        self._wait = FIRST_WAIT
        self._due = self._clock() + self._wait  # when another number may be tried
        self._since, self._before = self._clock(), self._count()  # of the window
        self._trial: list[int] = []  # threads of its calls, the next one last
        self._times: dict[int, list[float]] = {}  # seconds a step, by threads

    def _took(self, threads: int, seconds: float) -> None:
        if self._other != self.now:
            self._times[threads].append(seconds)
            if not self._trial:
                self._decide()
        elif (other := self._worth_trying()) is not None:
            self._other = other
            self._times = {self.now: [], other: []}
            self._trial = [self.now] * TRIAL_CALLS + [other] * TRIAL_CALLS

    def _worth_trying(self) -> int | None:
        now, interrupted = self._clock(), self._count()
        elapsed = now - self._since
        if elapsed < WINDOW:
            return None
        is_busy = (interrupted - self._before) / elapsed > BUSY
        self._since, self._before = now, interrupted
        if now < self._due:
            return None
        if is_busy and self.now > 1:
            return self.now // 2
        return min(2 * self.now, self._most) if self.now < self._most else None

    def _decide(self) -> None:
        other, present = (median(self._times[threads][1:]) for threads in (self._other, self.now))
        if other < WORTHWHILE * present:
            self.now, self._wait = self._other, FIRST_WAIT
        else:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
        self._other = self.now
        self._due = self._clock() + self._wait
