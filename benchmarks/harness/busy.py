"""How busy other processes keep the machine, which slows the measurements and the floors."""

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
SECONDS = 0.5
MUCH = 0.1  # share of the CPUs from which a warning is given
IDLE = slice(3, 5)  # idle, and idle while waiting for a disk
COUNTED = 8  # columns, up to the time that a virtual machine's host took; later ones are part of the first two


def busy_share(seconds: float = SECONDS) -> float | None:
    """Return the share of this process's CPUs that others use, 0 to 1, over `seconds`; None where it is unknown."""
    before = _times()
    time.sleep(seconds)
    after = _times()
    if before is None or after is None:
        return None
    passed, idle, own = (b - a for a, b in zip(before, after, strict=True))
    return min(1.0, max(0.0, (passed - idle - own) / passed)) if passed > 0 else None


def warning(share: float | None) -> str | None:
    """Return a warning in one line; None where the share is small or unknown."""
    if share is None or share < MUCH:
        return None
    return f"other processes use {share:.0%} of the CPUs: what is measured now is slower, and varies more"


def _times() -> tuple[float, float, float] | None:
    """Return the seconds passed on this process's CPUs, the idle ones among them, and those that it used itself."""
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
