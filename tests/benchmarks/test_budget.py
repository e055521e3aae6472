"""The time budget: how it is divided, which rounds it drops, and that no run exceeds it."""

import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.budget import FEWEST, Budget, Kind, Spent, seconds_of

needs_alarms = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="this platform has no alarms")
PLAIN, COMPILED = Kind("test_epoch"), Kind("test_epoch", compiles=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rounds(budget: Budget, clock: Clock, each: float, wanted: int = 9) -> int:
    """Return the rounds taken: `wanted`, or those that there is time for after a warm-up; raise Spent if none."""
    for taken in range(-1, wanted):
        if not budget.allows(taken):
            if taken <= 0:
                raise Spent
            return taken
        clock.now += each
    return wanted


def test_shares_are_in_proportion_and_unused_time_goes_to_the_others() -> None:
    clock = Clock()
    budget = Budget(100, clock)
    budget.plan({"a": 1, "b": 3, "c": 1})
    budget.begin("a", PLAIN)
    assert budget.share_left == pytest.approx(20)
    clock.now += 4
    budget.end("a")
    assert budget.expected == pytest.approx(16)
    budget.begin("b", PLAIN)
    assert budget.share_left == pytest.approx(96 * 3 / 4)
    budget.end("b")
    budget.begin("c", PLAIN)
    assert budget.share_left == pytest.approx(96)


@pytest.mark.parametrize(
    ("seconds", "before", "each", "taken"),
    [
        (200, 0, 2, 9),  # all
        (20, 0, 2, 4),  # its share is ten seconds, and the warm-up takes two
        (20, 9, 2, FEWEST),  # only these may borrow from the other's share
        (20, 17, 1.2, 1),  # but not if that would use it up
        (20, 17, 2, None),  # the first would end too late
        (20, 20, 1, None),
        (None, 1e6, 1e3, 9),
    ],
)
def test_rounds_without_time_are_dropped(seconds: float | None, before: float, each: float, taken: int | None) -> None:
    clock = Clock()
    budget = Budget(seconds, clock)
    budget.plan({"a": 1, "b": 1})
    budget.begin("a", PLAIN)
    clock.now += before
    if taken is None:
        with pytest.raises(Spent):
            rounds(budget, clock, each)
    else:
        assert rounds(budget, clock, each) == taken


@pytest.mark.parametrize("kind", [COMPILED, Kind("test_train_step", compiles=True)])
def test_a_benchmark_expected_to_exceed_the_time_left_is_not_started(kind: Kind) -> None:
    """Expect what the last benchmark of the same kind needed, or of another kind that compiles as well."""
    clock = Clock()
    budget = Budget(100, clock)
    budget.plan(dict.fromkeys("abcd", 1))
    budget.begin("a", COMPILED)
    clock.now += 45
    rounds(budget, clock, 1, wanted=1)
    budget.allows(1)
    budget.end("a")
    with pytest.raises(Spent):
        budget.begin("b", kind)
    budget.end("b")
    budget.begin("c", PLAIN)
    assert budget.share_left == pytest.approx(53 / 2)


def test_a_kind_that_was_not_started_is_tried_again_later() -> None:
    clock = Clock()
    budget = Budget(100, clock)
    budget.begin("a", PLAIN)
    clock.now += 52
    budget.allows(1)
    begun = []
    for _ in range(3):
        try:
            budget.begin("b", PLAIN)
            begun.append(True)
        except Spent:
            begun.append(False)
    assert begun == [False, True, True]  # 52 seconds exceed the 48 that are left, nine tenths of them do not


def test_no_benchmark_takes_all_the_time_from_the_others() -> None:
    clock = Clock()
    budget = Budget(300, clock)
    budget.plan(dict.fromkeys(map(str, range(50)), 1))
    budget.begin("0", PLAIN)
    assert budget.most_left == pytest.approx(100)
    clock.now += 100
    assert not budget.allows(-1)
    budget.end("0")
    with pytest.raises(Spent):  # it is expected to take as long as the last one
        budget.begin("1", PLAIN)
    budget.plan({"2": 1})
    budget.begin("2", Kind("another", compiles=True))
    assert budget.most_left == pytest.approx(200)


@needs_alarms
def test_a_benchmark_is_stopped_when_no_time_is_left() -> None:
    before = signal.getsignal(signal.SIGALRM)
    began = time.monotonic()
    budget = Budget(0.2)

    def stubborn() -> None:
        try:
            time.sleep(30)
        except Exception:  # as libraries do
            time.sleep(30)

    with budget.enforced(), pytest.raises(Spent):
        stubborn()
    assert time.monotonic() - began < 10
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


@needs_alarms
def test_an_import_is_finished_before_a_benchmark_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1)\nwhole = True\n")
    monkeypatch.syspath_prepend(tmp_path)

    def importing() -> None:
        import_module("slow_to_import")
        time.sleep(30)

    began = time.monotonic()
    with Budget(0.2).enforced(), pytest.raises(Spent):
        importing()
    assert time.monotonic() - began < 20
    assert sys.modules["slow_to_import"].whole


@pytest.mark.parametrize(
    ("chosen", "more", "seconds"), [(None, False, 450), (None, True, None), (0, False, None), (60, True, 60)]
)
def test_a_run_of_more_than_usual_has_no_limit_by_default(
    chosen: float | None, more: bool, seconds: float | None
) -> None:
    assert seconds_of(chosen, more) == seconds


def test_without_a_budget_nothing_is_stopped() -> None:
    with Budget().enforced():
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


durations = st.floats(0.01, 60)


@given(st.lists(st.tuples(durations, durations, st.booleans(), st.floats(0.1, 10)), min_size=1, max_size=40))
def test_no_run_exceeds_its_budget_by_more_than_its_longest_step(
    benchmarks: list[tuple[float, float, bool, float]],
) -> None:
    """Try any benchmarks: seconds before the rounds, seconds of a round, whether it compiles, its usual time."""
    clock = Clock()
    budget = Budget(300, clock)
    budget.plan({str(i): usual for i, (*_, usual) in enumerate(benchmarks)})
    longest = 0.0
    for i, (before, each, compiles, _) in enumerate(benchmarks):
        try:
            budget.begin(str(i), COMPILED if compiles else PLAIN)
            longest = max(longest, before + each)  # with the warm-up
            clock.now += before
            rounds(budget, clock, each)
        except Spent:
            pass
        budget.end(str(i))
    assert clock.now <= 1000 + 300 + longest
