"""The amount of free memory, on a device and on this machine, including the limits of a container."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory(device: torch.device) -> int:
    """Return the number of bytes available on a device; on the host within the limits of a container."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([_free_on_machine(), *_left_by_control_groups()])


def _free_on_machine() -> int:
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_by_control_groups(mounted: Path = CONTROL_GROUPS, own: Path = OWN_GROUPS) -> Iterator[int]:
    """Yield the bytes left under each memory limit of the Linux control groups (version 1 or 2) of this process.

    A group's usage includes cached files, which the kernel would drop under pressure; those not used lately are
    therefore counted as free.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        base, prefix = (mounted / "memory", "total_") if controllers else (mounted, "")
        limit, usage = ("limit_in_bytes", "usage_in_bytes") if controllers else ("max", "current")
        group = Path(path).relative_to("/")
        for folder in (base / group, *(base / parent for parent in group.parents)):
            with suppress(OSError, ValueError):  # the group is not visible inside a container, or has no limit ("max")
                most, used = (int((folder / f"memory.{name}").read_text()) for name in (limit, usage))
                stat = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                yield max(0, most - used + int(stat.get(f"{prefix}inactive_file", 0)))
