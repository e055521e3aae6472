"""Tests of the amount of free memory."""

from pathlib import Path

import pytest
import torch

from vae_fast.runtime import memory
from vae_fast.runtime.memory import _left_by_control_groups, free_memory

CPU = torch.device("cpu")


def group(folder: Path, limit: str, used: int, version: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = ("max", "current", "inactive_file") if version == 2 else (
        "limit_in_bytes", "usage_in_bytes", "total_inactive_file"
    )  # fmt: skip
    for name, value in zip(names[:2], (limit, used), strict=True):
        (folder / f"memory.{name}").write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} 100\n")


def test_control_groups_limit_the_free_memory(tmp_path: Path) -> None:
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
