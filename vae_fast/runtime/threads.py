"""The number of threads that compute the training steps while other programs need the cores too.

Threads that share a step wait for each other, so a step takes as long as its slowest thread: next to a program that
keeps one of two cores busy, two threads are slower than one. When the kernel keeps interrupting this process,
`ThreadCount` tries fewer, and from time to time more again. It is for work whose result does not depend on the number
of threads.
"""

import resource
import time
from collections.abc import Callable
from statistics import median

import torch

from vae_fast.config import Config
from vae_fast.runtime.plan import Plan

# Interruptions a second for each thread: each of two threads sees some 20 alone, 95 next to a busy core, and 145 next
# to another run of two threads.
BUSY = 50.0
WINDOW = 0.25  # seconds of steps over which they are counted
TRIAL_CALLS = 4  # with another number of threads, then as many with the current one; the first of each is a warm-up
WORTHWHILE = 0.9  # fraction of the current time per step below which the other number is chosen
FIRST_WAIT, LONGEST_WAIT = 0.5, 16.0  # seconds between trials, doubled by each that changes nothing
COST = 0.02  # fraction of the time that trials without success may take: after slow ones the wait is longer


def chooses_threads(config: Config, plan: Plan, processes: int) -> bool:
    """Return whether a run may choose fewer threads itself: --threads is absent, and their number changes no bit."""
    return config.threads is None and plan.step == "fused" and processes == 1


def interruptions() -> int:
    """Return how often the kernel has taken a core from this process to give it to another."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


class ThreadCount:
    """The number of threads that is currently fastest, at most the number that PyTorch is set to.

    Nothing is tried while the process uses all its threads and its steps are not interrupted. PyTorch's number is
    global: a Python thread that first uses PyTorch while work runs on fewer threads takes over that number.

    Args:
        clock: returns the time in seconds.
        count: returns the number of interruptions so far.
    """

    def __init__(
        self, clock: Callable[[], float] = time.perf_counter, count: Callable[[], int] = interruptions
    ) -> None:
        self._clock, self._count = clock, count
        self._begin(torch.get_num_threads())

    def run(self, work: Callable[[], None], steps: int) -> None:
        """Call `work`, which makes `steps` steps, on the chosen number of threads; restore PyTorch's number after."""
        most = torch.get_num_threads()
        if most == 1:
            work()
            return
        if most != self._most:
            self._begin(most)
        threads = self._trial.pop() if self._trial else self.now
        began, interrupted = self._clock(), self._count()
        try:
            if threads != most:
                torch.set_num_threads(threads)
            work()
        finally:
            if threads != most:
                torch.set_num_threads(most)
        elapsed = self._clock() - began
        if self._other != self.now:
            self._times[threads].append(elapsed / steps)
            if not self._trial:
                self._decide(steps)
        else:
            self._elapsed += elapsed
            self._interrupted += self._count() - interrupted
            if self._elapsed >= WINDOW:
                self._end_window()

    def _begin(self, most: int) -> None:
        self._most = self.now = self._other = most
        self._upwards = False  # the next trial, where both directions are possible
        self._wait = FIRST_WAIT
        self._due = self._clock() + self._wait  # when another number may be tried
        self._elapsed, self._interrupted = 0.0, 0  # in the steps of this window
        self._trial: list[int] = []  # threads of its calls, the next one last
        self._times: dict[int, list[float]] = {}  # seconds per step, by threads

    def _end_window(self) -> None:
        is_busy = self._interrupted / self._elapsed > BUSY * self.now
        self._elapsed, self._interrupted = 0.0, 0
        if self._clock() < self._due:
            return
        fewer = max(1, self.now // 2) if is_busy else self.now
        more = min(2 * self.now, self._most)
        prefers_more = self._upwards or fewer == self.now
        other = more if prefers_more and more != self.now else fewer
        if other != self.now:
            self._other, self._upwards = other, other > self.now
            self._times = {self.now: [], other: []}
            self._trial = [self.now] * TRIAL_CALLS + [other] * TRIAL_CALLS

    def _decide(self, steps: int) -> None:
        other, current = (median(self._times[threads][1:]) for threads in (self._other, self.now))
        if other < WORTHWHILE * current:
            self.now, self._wait = self._other, FIRST_WAIT
        else:
            self._wait = min(2 * self._wait, LONGEST_WAIT)
            self._upwards = not self._upwards
        lost = TRIAL_CALLS * steps * max(0.0, other - current)
        self._other = self.now
        self._due = self._clock() + max(self._wait, lost / COST)
