"""How far apart the computing cores are, which the host of a virtual machine may change at any time.

Cores that share a cache answer each other in some 40 ns, others take three to five times as long; whatever one thread
writes and another reads, such as the weights of the last step, is delayed by as much. So a machine has two speeds or
more, each for half a minute or many minutes, and only results measured in the same state can be compared. With more
than two threads, this module does not know which distances matter.

`python -m benchmarks.cores [SECONDS]` monitors the distance.
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

CALLS, WAYS = 5, 200  # 80 us if the cores are near
_nearest = math.inf


def apart() -> float | None:
    """Return the nanoseconds from one thread to the other, the best of some calls.

    None unless exactly two threads compute, and where another program kept one of them waiting in each call.
    """
    global _nearest
    if not are_two():
        return None
    measured = [float(torch.ops.vae_fast.core_latency(WAYS)) for _ in range(CALLS)]
    nanoseconds = min((t for t in measured if not math.isnan(t)), default=None)  # NaN without OpenMP, for example
    if nanoseconds is None:
        return None
    _nearest = min(_nearest, nanoseconds)
    return nanoseconds


def are_two() -> bool:
    """Return whether two threads compute, each on its own CPU."""
    return usable_cpus() >= 2 and torch.get_num_threads() == 2 and extension.load()


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def are_near(nanoseconds: float | None) -> bool:
    """Return whether cores this far apart are about as near as any in this process, or the distance is unknown."""
    return nanoseconds is None or nanoseconds <= FARTHER * _nearest


def wait(patience: float) -> float:
    """Wait until the cores are near, for at most `patience` seconds; return the rest. Both are busy in the meantime."""
    end = time.monotonic() + patience
    while time.monotonic() < end and not are_near(apart()):
        pass
    return max(0.0, end - time.monotonic())


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the distance twice a second, with the cores busy in between; raise RunError if it cannot be measured."""
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
