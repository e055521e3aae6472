"""The budget of time: its division, the rounds that it gives up, and that no run is longer."""

import signal
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.harness.budget import FEWEST, Budget, Kind, Spent, seconds_of

needs_alarms = pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="there are no alarms")
PLAIN, COMPILED = Kind("test_epoch"), Kind("test_epoch", compiles=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rounds(budget: Budget, clock: Clock, each: float, wanted: int = 9) -> int:
    """As many as `wanted`, or as there is time for, after one that warms up; Spent if for none."""
    for taken in range(-1, wanted):
        if not budget.allows(taken):
            if taken <= 0:
                raise Spent
            return taken
        clock.now += each
    return wanted


def test_shares_are_in_proportion_and_what_one_leaves_goes_to_the_others() -> None:
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
        (20, 0, 2, 4),  # its share is ten seconds, of which the warm-up has two
        (20, 9, 2, FEWEST),  # no more than these may take from the other's share
        (20, 17, 1.2, 1),  # but not if nothing would be left of it
        (20, 17, 2, None),  # the first would end too late
        (20, 20, 1, None),
        (None, 1e6, 1e3, 9),
    ],
)
def test_rounds_are_given_up(seconds: float | None, before: float, each: float, taken: int | None) -> None:
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
def test_what_is_expected_to_need_more_than_is_left_is_not_begun(kind: Kind) -> None:
    """By what the last one of its kind needed, or of one that compiles as well."""
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


def test_what_was_not_begun_is_tried_again_later() -> None:
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
    assert begun == [False, True, True]  # 52 seconds are more than the 48 that are left, nine tenths of them are not


def test_no_benchmark_takes_all_from_the_others() -> None:
    clock = Clock()
    budget = Budget(300, clock)
    budget.plan(dict.fromkeys(map(str, range(50)), 1))
    budget.begin("0", PLAIN)
    assert budget.most_left == pytest.approx(100)
    clock.now += 100
    assert not budget.allows(-1)
    budget.end("0")
    with pytest.raises(Spent):  # as long as that, so it is believed
        budget.begin("1", PLAIN)
    budget.plan({"2": 1})
    budget.begin("2", Kind("another", compiles=True))
    assert budget.most_left == pytest.approx(200)


@needs_alarms
def test_what_runs_when_nothing_is_left_is_ended() -> None:
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
def test_an_import_comes_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_who_asks_for_more_is_not_held_to_the_usual_budget(
    chosen: float | None, more: bool, seconds: float | None
) -> None:
    assert seconds_of(chosen, more) == seconds


def test_without_a_budget_nothing_is_ended() -> None:
    with Budget().enforced():
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


durations = st.floats(0.01, 60)


@given(st.lists(st.tuples(durations, durations, st.booleans(), st.floats(0.1, 10)), min_size=1, max_size=40))
def test_no_run_is_longer_than_its_budget_by_more_than_its_longest_step(
    benchmarks: list[tuple[float, float, bool, float]],
) -> None:
    """Of any benchmarks: seconds before the rounds and of a round, whether it compiles, what it takes usually."""
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
