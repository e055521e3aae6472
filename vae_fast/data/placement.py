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
    """Return where the training images live and why: on the device, in the host's memory, or in their file ("stream").

    Args:
        wish: one of these places, which is taken or raises, or "auto", which takes the first that fits. Images that
            can be streamed count as fitting in the host's memory only if they take at most half of what is free, so
            that other programs can continue as before.
        images: the number of bytes of all images.
        device: where the steps run; a CPU shares the host's memory.
        beside: the number of bytes that the network needs on the device.
        obstacle: why the images cannot stay in their file; None if they can.

    Raises RunError for a wish that cannot be fulfilled.
    """
    if wish not in get_args(FeedWish):
        raise ValueError(f"feed: expected one of {', '.join(get_args(FeedWish))}, got {wish!r}")
    host = free_memory(torch.device("cpu"))
    device_free = host if device.type == "cpu" else free_memory(device)
    beside_on_host = beside if device.type == "cpu" else 0
    needed = f"{_gib(images)} of images" + (f" and {_gib(beside)} for the network" if beside else "")
    if wish == "stream":
        if obstacle is not None:
            raise RunError(f"--feed stream: the images cannot stay in their file: {obstacle}")
        return "stream", "--feed stream"
    if wish != "auto":
        if obstacle is None and images + beside_on_host > host:
            raise RunError(f"--feed {wish}: {needed}, but {_gib(host)} of memory are free; take --feed stream")
        if wish == "device" and device.type != "cpu" and images + beside > device_free:
            raise RunError(f"--feed device: {needed}, but {_gib(device_free)} are free on {device}; take --feed host")
        return wish, f"--feed {wish}"
    if obstacle is None and images > host // 2:
        return "stream", f"{_gib(images)} of images are more than half of the {_gib(host)} of memory that are free"
    if device.type == "cpu" or images + beside <= device_free:
        return "device", f"{needed}, {_gib(device_free)} free on {device}"
    return "host", f"{needed} do not fit into the {_gib(device_free)} that are free on {device}"


def _gib(nbytes: int) -> str:
    return f"{nbytes / 2**30:.3g} GiB"
