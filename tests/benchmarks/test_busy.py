"""How busy other processes keep the machine."""

import os
from pathlib import Path

import pytest

from benchmarks.harness import busy

needs_linux = pytest.mark.skipif(not busy.STAT.is_file(), reason="the counts are those of Linux")


@pytest.mark.parametrize(
    ("used", "share"),
    [
        ((1.0, 1.0, 0.0), 0.0),  # of a second: all idle
        ((1.0, 0.25, 0.25), 0.5),
        ((1.0, 0.0, 1.0), 0.0),  # this process alone
        ((1.0, 0.0, 0.0), 1.0),
        ((1.0, 0.9, 0.2), 0.0),  # clocks of different precision
        ((0.0, 0.0, 0.0), None),
    ],
)
def test_the_share_is_what_is_neither_idle_nor_this_process(
    used: tuple[float, float, float], share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter([(5.0, 3.0, 1.0), (5.0 + used[0], 3.0 + used[1], 1.0 + used[2])])
    monkeypatch.setattr(busy, "_times", lambda: next(counts))
    assert busy.busy_share(0) == (None if share is None else pytest.approx(share))


@needs_linux
def test_only_the_cpus_of_this_process_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "stat"
    counts = "100 1 20 300 40 0 5 6 50 0"  # the last two are the guests', which the first two include already
    file.write_text(f"cpu  1 2 3 4 5 6 7 8 9 0\ncpu0 {counts}\ncpu1 9 9 9 9 9 9 9 9 9 9\nintr 1 2\n")
    monkeypatch.setattr(busy, "STAT", file)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    times = busy._times()
    assert times is not None
    ticks = os.sysconf("SC_CLK_TCK")
    assert times[:2] == pytest.approx((472 / ticks, 340 / ticks))


def test_the_share_is_none_where_it_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(busy, "STAT", tmp_path / "nothing")
    assert busy.busy_share(0) is None


@pytest.mark.parametrize(
    ("share", "said"), [(None, None), (0.02, None), (0.63, "other processes use 63% of the CPUs: ")]
)
def test_only_a_large_share_gives_a_warning(share: float | None, said: str | None) -> None:
    found = busy.warning(share)
    assert (found is None) if said is None else (found or "").startswith(said)
