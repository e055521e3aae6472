"""Tests of the choice of where the training images live, which depends on the free memory."""

import pytest
import torch

from vae_fast.data import placement
from vae_fast.data.placement import FeedWish, choose_feed
from vae_fast.errors import RunError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30
FREE = {"cpu": 16 * GIB, "cuda": 8 * GIB}
NOT_A_FILE = "images.npz: only a plain .npy"


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a machine with 16 GiB of free memory and a GPU with 8."""
    monkeypatch.setattr(placement, "free_memory", lambda device: FREE[device.type])


@pytest.mark.parametrize(
    ("wish", "gib", "device", "obstacle", "name", "reason"),
    [
        ("auto", 8, CPU, None, "device", "8 GiB of images and 1 GiB for the network, 16 GiB free on cpu"),
        ("auto", 9, CPU, None, "stream", "9 GiB of images are more than half of the 16 GiB of memory that are free"),
        ("auto", 9, CPU, NOT_A_FILE, "device", "9 GiB of images"),
        ("auto", 7, GPU, None, "device", "7 GiB of images and 1 GiB for the network, 8 GiB free on cuda:0"),
        ("auto", 7.5, GPU, None, "host", "7.5 GiB of images and 1 GiB for the network do not fit into the 8 GiB"),
        ("auto", 9, GPU, None, "stream", "more than half"),
        ("auto", 9, GPU, NOT_A_FILE, "host", "do not fit into the 8 GiB that are free on cuda:0"),
        ("device", 7, GPU, None, "device", "--feed device"),
        ("host", 15, GPU, None, "host", "--feed host"),
        ("host", 14, CPU, None, "host", "--feed host"),
        ("stream", 0.1, CPU, None, "stream", "--feed stream"),
    ],
)
def test_the_choice_follows_the_wish_and_the_free_memory(
    wish: FeedWish, gib: float, device: torch.device, obstacle: str | None, name: str, reason: str
) -> None:
    chosen, why = choose_feed(wish, int(gib * GIB), device, beside=GIB, obstacle=obstacle)
    assert chosen == name
    assert reason in why


@pytest.mark.parametrize(
    ("wish", "gib", "device", "obstacle", "message"),
    [
        ("stream", 1, CPU, NOT_A_FILE, "--feed stream: the images cannot stay in their file: images.npz: only a plain"),
        ("device", 7.5, GPU, None, "--feed device: 7.5 GiB .* but 8 GiB are free on cuda:0; take --feed host"),
        ("device", 15.5, CPU, None, "--feed device: 15.5 GiB .* but 16 GiB of memory are free; take --feed stream"),
        ("host", 17, GPU, None, "--feed host: 17 GiB .* but 16 GiB of memory are free; take --feed stream"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_refused(
    wish: FeedWish, gib: float, device: torch.device, obstacle: str | None, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        choose_feed(wish, int(gib * GIB), device, beside=GIB, obstacle=obstacle)


def test_an_unknown_wish_is_an_error() -> None:
    with pytest.raises(ValueError, match="feed: expected one of auto, device, host, stream, got 'disk'"):
        choose_feed("disk", 1, CPU)
