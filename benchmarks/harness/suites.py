"""What is known about a suite's benchmarks before any of them runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.contenders.registry import EPOCH
from benchmarks.harness.budget import Kind
from benchmarks.harness.metadata import Case

# The most valuable first, in case there is not enough time for all.
ORDER = ("train_step", "epoch", "time_to_elbo", "importance", "adam", "elbo", "objective", "reparameterize", "startup")
Params = Mapping[str, Any]


@dataclass(frozen=True)
class Suite:
    """The only argument of the mark `suite`, which every benchmark has.

    Args:
        labels: the label of each contender.
        seconds: the time that a benchmark takes, on two cores of an AMD EPYC; only the proportions count.
        compiling: the additional seconds where the contender has to be compiled.
        what: the benchmarks' `what`, where no parameter gives it.
        has_batch: whether the benchmarks differ by batch.
        left_out: tells from (parameters, whether --long was given) whether the benchmark will skip itself.
    """

    name: str
    labels: Mapping[str, str]
    seconds: float
    compiling: float = 0.0
    what: str | None = None
    has_batch: bool = True
    left_out: Callable[[Params, bool], bool] = lambda params, long: False


@dataclass(frozen=True)
class Planned:
    """A benchmark that will run if there is time."""

    suite: Suite
    function: str
    params: Params

    @classmethod
    def of(cls, item: pytest.Item) -> "Planned | None":
        """Return the benchmark of a pytest item; None where pytest runs something else."""
        mark, callspec = item.get_closest_marker("suite"), getattr(item, "callspec", None)
        function = str(getattr(item, "originalname", ""))
        return cls(mark.args[0], function, callspec.params) if mark and callspec else None

    @property
    def place(self) -> tuple[bool, bool, int]:
        """Return the sort key for a run with limited time: benchmarks that compile take longest and come last."""
        last, name = ORDER[-1], self.suite.name
        return name == last, self.kind.compiles, ORDER.index(name) if name in ORDER else len(ORDER)

    @property
    def kind(self) -> Kind:
        contender, what = EPOCH.get(self.params["name"]), self.params.get("what")
        return Kind(f"{self.function} {what}" if what else self.function, bool(contender and contender.compiles))

    @property
    def seconds(self) -> float:
        return self.suite.seconds + (self.suite.compiling if self.kind.compiles else 0.0)

    @property
    def names(self) -> dict[str, Any]:
        """Return the names used in the JSON's list of what was not measured."""
        case: Case = self.params["case"]
        return {
            **vars(case),
            "batch": case.batch if self.suite.has_batch else None,
            "suite": self.suite.name,
            "what": self.suite.what or self.params.get("what") or self.params.get("direction"),
            "contender": self.params["name"],
            "label": self.suite.labels[self.params["name"]],
        }
