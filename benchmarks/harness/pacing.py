"""The pytest plugin for the time budget: it starts and ends each benchmark's share, and prints a line as it ends."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from benchmarks.harness import busy, status_lines
from benchmarks.harness.budget import REASON, Budget, Spent
from benchmarks.harness.suites import Planned

Wrapped = Generator[None, Any, Any]


class Pacing:
    """A pytest plugin that calls `not_measured` for each benchmark that there was no time for."""

    def __init__(self, config: pytest.Config, budget: Budget, not_measured: Callable[[dict[str, Any]], None]) -> None:
        self.budget = budget
        self.busy: float | None = None
        self._config, self._not_measured = config, not_measured
        self._planned: dict[str, Planned] = {}
        self._silent: set[str] = set()
        self._lines: dict[str, str] = {}
        self._ended = 0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Put the most valuable benchmarks first if there may not be enough time for all."""
        if self.budget.seconds is not None:
            items.sort(key=lambda item: planned.place if (planned := Planned.of(item)) else ())

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Plan all benchmarks that will run, and measure how busy the machine is."""
        if self._config.option.collectonly:
            return
        long = self._config.getoption("--long")
        found = ((item.nodeid, Planned.of(item)) for item in session.items)
        ours = {test: planned for test, planned in found if planned is not None}
        self._planned = {
            test: planned for test, planned in ours.items() if not planned.suite.left_out(planned.params, long)
        }
        self._silent = set(ours)
        self.budget.plan({test: planned.seconds for test, planned in self._planned.items()})
        if self._planned:
            self.busy = busy.busy_share()
            self._introduce()

    def _introduce(self) -> None:
        count, seconds = len(self._planned), self.budget.seconds
        within = "" if seconds is None else f" within {seconds / 60:.1f} minutes (--budget)"
        self._print(f"{count} benchmark{'' if count == 1 else 's'}{within}, each in turns with an eager baseline")
        if said := busy.warning(self.busy):
            self._print(f"warning: {said}")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Wrapped:
        planned = self._planned.get(item.nodeid)
        if planned is None:
            return (yield)
        with self._given_up_if_spent(item, planned):
            self.budget.begin(item.nodeid, planned.kind)
            with self.budget.enforced():
                return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self, pyfuncitem: pytest.Function) -> Wrapped:
        planned = self._planned.get(pyfuncitem.nodeid)
        if planned is None:
            return (yield)
        with self._given_up_if_spent(pyfuncitem, planned), self.budget.enforced():
            return (yield)

    @contextmanager
    def _given_up_if_spent(self, item: pytest.Item, planned: Planned) -> Iterator[None]:
        try:
            yield
        except Spent:
            self._not_measured({**planned.names, "reason": REASON})
            if (benchmark := _benchmark(item)) is not None:
                benchmark.has_error = True  # keeps its rounds out of the JSON
            pytest.skip(REASON)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Wrapped:
        report: pytest.TestReport = yield
        planned = self._planned.get(item.nodeid)
        if planned is not None and (report.when == "call" or not report.passed):
            info = _benchmark(item).extra_info if report.passed else {}
            said = status_lines.measured(info) if info else _outcome(report)
            self._lines[item.nodeid] = f"{status_lines.heading(planned.names)}: {said}"
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> Wrapped:
        """Drop pytest's letter: a benchmark has its own line instead, and one that is left out has neither."""
        category, letter, word = yield
        return category, "" if report.nodeid in self._silent else letter, word

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.budget.end(nodeid)
        if nodeid in self._lines:
            self._ended += 1
            said = self._lines.pop(nodeid)
            self._print(status_lines.line(self._ended, len(self._planned), said, self.budget.expected))

    def _print(self, line: str) -> None:
        reporter: Any = self._config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(line)
            reporter.flush()  # at once, where the output is a file or a pipe


def _outcome(report: pytest.TestReport) -> str:
    if not report.skipped:
        return report.outcome
    reason: Sequence[Any] | Any = report.longrepr
    return f"not measured: {str(reason[2]).removeprefix('Skipped: ')}" if isinstance(reason, tuple) else "skipped"


def _benchmark(item: pytest.Item) -> Any:
    """Return pytest-benchmark's fixture of a test; None before it is set up."""
    return getattr(item, "funcargs", {}).get("benchmark")
