"""How far apart the cores are that compute. The host of a virtual machine may change it at any time.

Cores that share a cache answer each other in some 40 ns, others three to five times later; all that one thread writes
and another reads, such as the weights of the last step, then comes as late. So a machine has two speeds or more, for
half a minute or many, and only what was measured in the same state can be compared. Of more than two threads this does
not know which matter.

`python -m benchmarks.cores [SECONDS]` watches it.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.reporting.results import FARTHER
from vae_fast.cli.exit_codes import exit_code
from vae_fast.cli.numbers import non_negative
from vae_fast.errors import RunError
from vae_fast.kernels import extension

CALLS, WAYS = 5, 200  # 80 us if they are near
_nearest = math.inf


def apart() -> float | None:
    """Nanoseconds from one thread to the other, the best of some calls.

    None where it is not two that compute, and where another program kept one of them waiting in each call.
    """
    global _nearest
    if not are_two():
        return None
    told = [float(torch.ops.vae_fast.core_latency(WAYS)) for _ in range(CALLS)]
    nanoseconds = min((t for t in told if not math.isnan(t)), default=None)  # NaN: without OpenMP, say
    if nanoseconds is None:
        return None
    _nearest = min(_nearest, nanoseconds)
    return nanoseconds


def are_two() -> bool:
    """Whether two threads compute, on a CPU each."""
    return usable_cpus() >= 2 and torch.get_num_threads() == 2 and extension.load()


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def are_near(nanoseconds: float | None) -> bool:
    """Whether they were as near as they have been in this process, or could not be told apart."""
    return nanoseconds is None or nanoseconds <= FARTHER * _nearest


def wait(patience: float) -> float:
    """Until they are near, but at most so many seconds, of which it returns the rest. Both are busy meanwhile."""
    end = time.monotonic() + patience
    while time.monotonic() < end and not are_near(apart()):
        pass
    return max(0.0, end - time.monotonic())


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints it twice a second, with the cores busy in between. RunError where it cannot be told."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cores", description=__doc__)
    parser.add_argument("seconds", type=non_negative, nargs="?", default=30.0, help="default: 30")
    end = time.monotonic() + parser.parse_args(arguments).seconds
    if not are_two():
        has = f"{usable_cpus()} CPUs, torch computes on {torch.get_num_threads()} threads, {extension.status()}"
        raise RunError(f"cores: expected two threads on two CPUs and the C++ operators; this process has {has}")
    while (now := time.monotonic()) < end:
        print("?" if (distance := apart()) is None else f"{distance:.0f}", end=" ns ", flush=True)
        while time.monotonic() < now + 0.5:
            apart()
    print()


if __name__ == "__main__":
    sys.exit(exit_code(main))
