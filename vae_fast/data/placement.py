"""Where the training images live: on the device, in the host's memory, or in their file."""

from typing import Literal, get_args

import torch

from vae_fast.errors import RunError
from vae_fast.runtime.memory import free_memory

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


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.3g} GiB"
