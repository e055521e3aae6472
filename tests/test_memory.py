"""From where the images come, by the memory that is free."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import vae_fast as vf
from vae_fast import memory
from vae_fast.errors import RunError
from vae_fast.memory import _left_by_control_groups, choose_feed, free_memory, network_memory, require_memory

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30
FREE = {"cpu": 16 * GIB, "cuda": 8 * GIB}
NOT_A_FILE = "images.npz: only a plain .npy"


@pytest.fixture(autouse=True)
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 GiB of memory and a GPU with 8."""
    monkeypatch.setattr(memory, "free_memory", lambda device: FREE[device.type])


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
def test_the_choice(
    wish: memory.FeedWish, gib: float, device: torch.device, obstacle: str | None, name: str, reason: str
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
def test_a_wish_is_served_or_refused(
    wish: memory.FeedWish, gib: float, device: torch.device, obstacle: str | None, message: str
) -> None:
    with pytest.raises(RunError, match=message):
        choose_feed(wish, int(gib * GIB), device, beside=GIB, obstacle=obstacle)


def test_an_unknown_wish() -> None:
    with pytest.raises(ValueError, match="feed: expected one of auto, device, host, stream, got 'disk'"):
        choose_feed("disk", 1, CPU)


def test_what_is_counted(small: Callable[..., vf.Config]) -> None:
    # 784-16-4-16-784 with one matrix for 4 means: 25,216 weights, four numbers each, and a batch's activations
    assert network_memory(small(batch_size=128), 784) == 4 * (4 * 25_216 + 4 * 128 * (784 + 16 + 4))
    assert 2**20 < free_memory(CPU) < 2**50


def group(folder: Path, limit: str, used: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("max", "current", "inactive_file") if version == 2 else (
        "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
    )  # fmt: skip
    for name, value in zip(names[:2], (limit, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} 100\n")


def test_control_groups_limit_what_is_free(tmp_path: Path) -> None:
    own, mounted = tmp_path / "own", tmp_path / "mounted"
    own.write_text("12:cpu,cpuacct:/x\n0::/pod/box\n")
    group(mounted / "pod" / "box", "max", 700)
    group(mounted / "pod", "1000", 700)
    assert list(_left_by_control_groups(mounted, own)) == [400]
    group(mounted / "pod" / "box", "800", 900)
    assert list(_left_by_control_groups(mounted, own)) == [0, 400]
    own.write_text("4:memory:/docker/0123\n0::/\n")  # a container sees its own group as the root
    group(mounted / "memory", "2000", 1500, version=1)
    assert list(_left_by_control_groups(mounted, own)) == [600]
    assert list(_left_by_control_groups(mounted, tmp_path / "none")) == []


@pytest.mark.parametrize("limits", [[], [2**40, 12345]])
def test_the_tightest_limit_counts(limits: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_left_by_control_groups", lambda: limits)
    monkeypatch.setattr(memory, "_free_on_machine", lambda: 2**30)
    assert free_memory(CPU) == min([2**30, *limits])


def test_memory_is_checked_before_it_is_taken() -> None:
    require_memory(15 * GIB, vf.Config(), 784, CPU)
    with pytest.raises(RunError, match=r"memory: cpu has 16\.0 GiB free, the run needs about 258\d\d\.\d GiB"):
        require_memory(0, vf.Config(hidden=(10**9,)), 784, CPU)
