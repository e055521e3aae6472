"""What fits where: the memory a run needs, what is free, and from where its images come to the step therefore."""

import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import torch

from vae_fast.config import Config
from vae_fast.errors import RunError

CONTROL_GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")

FeedWish = Literal["auto", "device", "host", "stream"]
FeedName = Literal["device", "host", "stream"]


def choose_feed(
    wish: FeedWish, images: int, device: torch.device, *, beside: int = 0, obstacle: str | None = None
) -> tuple[FeedName, str]:
    """Where the training images lie, and why: on the device, in the host's memory, or in their file ("stream").

    Args:
        wish: one of these works or raises; "auto" takes the first that fits. What is read from a file fits the host
            if it takes at most half of the memory that is free, so that the rest goes on as before.
        images: bytes of all images.
        device: where the steps run; on a CPU its memory is the host's.
        beside: bytes that the network needs on the device.
        obstacle: why the images cannot stay in their file; None if they can.

    Raises RunError for a wish that cannot be served.
    """
    if wish not in get_args(FeedWish):
        raise ValueError(f"feed: expected one of {', '.join(get_args(FeedWish))}, got {wish!r}")
    host = free_memory(torch.device("cpu"))
    there = host if device.type == "cpu" else free_memory(device)
    beside_on_host = beside if device.type == "cpu" else 0
    needed = f"{_gib(images)} of images" + (f" and {_gib(beside)} for the network" if beside else "")
    if wish == "stream":
        if obstacle is not None:
            raise RunError(f"--feed stream: the images cannot stay in their file: {obstacle}")
        return "stream", "--feed stream"
    if wish != "auto":
        if obstacle is None and images + beside_on_host > host:
            raise RunError(f"--feed {wish}: {needed}, but {_gib(host)} of memory are free; take --feed stream")
        if wish == "device" and device.type != "cpu" and images + beside > there:
            raise RunError(f"--feed device: {needed}, but {_gib(there)} are free on {device}; take --feed host")
        return wish, f"--feed {wish}"
    if obstacle is None and images > host // 2:
        return "stream", f"{_gib(images)} of images are more than half of the {_gib(host)} of memory that are free"
    if device.type == "cpu" or images + beside <= there:
        return "device", f"{needed}, {_gib(there)} free on {device}"
    return "host", f"{needed} do not fit into the {_gib(there)} that are free on {device}"


def network_memory(config: Config, pixels: int) -> int:
    """About how many bytes weights, gradients, moments and the activations of one batch take, all float32."""
    widths = (pixels, *config.hidden, config.latent)
    parameters = 2 * sum(n * m for n, m in pairwise(widths))
    activations = 4 * config.batch_size * sum(widths)  # values, gradients, encoder and decoder
    return 4 * (4 * parameters + activations)


def require_memory(images: int, config: Config, pixels: int, device: torch.device) -> None:
    """RunError if the network with its optimizer, one batch and `images` bytes of images do not fit on the device."""
    needed, free = images + network_memory(config, pixels), free_memory(device)
    if needed > free:
        raise RunError(
            f"memory: {device} has {free / 2**30:.1f} GiB free, the run needs about {needed / 2**30:.1f} GiB; "
            f"take fewer images, a smaller --hidden or a smaller --batch-size"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that could be had on a device; of the host also by the limits of a container."""
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
    """What each limit leaves of Linux's control groups that this process is in, of version 2 or 1.

    What a group uses counts the files that the machine has read, which it would give up: those not used lately do not.
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
            with suppress(OSError, ValueError):  # no such group in a container's own view, or no limit ("max")
                most, used = (int((folder / f"memory.{name}").read_text()) for name in (limit, usage))
                stat = dict(entry.split() for entry in (folder / "memory.stat").read_text().splitlines())
                yield max(0, most - used + int(stat.get(f"{prefix}inactive_file", 0)))


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.3g} GiB"
