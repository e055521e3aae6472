"""Whether the machine is busy with something else: what is measured then is slower, and the floors as well."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
SECONDS = 0.5
MUCH = 0.1  # of the CPUs, from which on it is said
IDLE = slice(3, 5)  # idle, and idle while waiting for a disk
COUNTED = 8  # columns, up to what the host of a virtual machine has taken; those after it are counted in the first two


def busy_share(seconds: float = SECONDS) -> float | None:
    """The share of this process's CPUs that others use, 0 to 1, over so many seconds; None where it is not known."""
    before = _times()
    time.sleep(seconds)
    after = _times()
    if before is None or after is None:
        return None
    passed, idle, own = (b - a for a, b in zip(before, after, strict=True))
    return min(1.0, max(0.0, (passed - idle - own) / passed)) if passed > 0 else None


def warning(share: float | None) -> str | None:
    """What to say of it, in one line; None where there is little of it or nothing known."""
    if share is None or share < MUCH:
        return None
    return f"other processes use {share:.0%} of the CPUs: what is measured now is slower, and varies more"


def _times() -> tuple[float, float, float] | None:
    """Seconds that have passed on the CPUs of this process, those of them idle, and those that it used itself."""
    try:
        lines = [line.split() for line in STAT.read_text().splitlines()]
        usable = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # not Linux
        return None
    counts = [[int(count) for count in line[1 : COUNTED + 1]] for line in lines if line and line[0] in usable]
    passed, idle = (sum(map(sum, part)) / ticks for part in (counts, [cpu[IDLE] for cpu in counts]))
    own = os.times()
    return passed, idle, own.user + own.system
