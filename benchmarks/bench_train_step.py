"""A training step on resident images: gather, forward, loss, backward, optimizer."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from benchmarks.contenders.registry import STEP, is_missing, labels
from benchmarks.harness.metadata import Case
from benchmarks.harness.rounds import Pace
from benchmarks.harness.suites import Suite
from benchmarks.harness.training_runs import Work, measure

IMAGES = {"cpu": 6_400, "cuda": 64_000}  # per round
FEWEST_STEPS = {"cpu": 5, "cuda": 100}  # enough to make a round's other costs a small part


@pytest.mark.suite(
    Suite("train_step", labels(STEP), seconds=4, compiling=8, left_out=lambda params, long: is_missing(params))
)
@pytest.mark.parametrize("name", STEP)
def test_train_step(
    name: str, case: Case, pixels: Tensor, pace: Pace, require: Callable[..., None], benchmark: Any
) -> None:
    require("train_step", name, STEP[name].label, case)
    steps = max(FEWEST_STEPS[case.device], IMAGES[case.device] // case.batch)
    measure(benchmark, Work("train_step", "step", case, pixels, steps, steps), name, STEP, pace)
