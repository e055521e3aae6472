"""An epoch from images to the last loss; the baseline's images come from a DataLoader, as in ordinary scripts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

from benchmarks.contenders.registry import EPOCH, PEERS, is_missing, labels
from benchmarks.harness.metadata import Case
from benchmarks.harness.rounds import Pace
from benchmarks.harness.suites import Params, Suite
from benchmarks.harness.training_runs import Work, measure

EPOCH_IMAGES = 60_000  # the images that `ms` is for, however many a round trains on
ROUND_IMAGES = {"cpu": 12_800, "cuda": 60_000}
# On a CPU another library's threads and PyTorch's disturb each other after a switch, so rounds take a second or more.
LONG_ROUND_IMAGES = {"cpu": 76_800, "cuda": 60_000}
FEWEST_STEPS, USUAL_BATCH = 5, 128
TABLE = EPOCH | PEERS


def only_long(name: str, case: Case) -> bool:
    return name in PEERS or not (case.device == "cuda" or (case.batch, case.precision) == (USUAL_BATCH, "fp32"))


def left_out(params: Params, long: bool) -> bool:
    return (not long and only_long(params["name"], params["case"])) or is_missing(params)


@pytest.mark.suite(Suite("epoch", labels(TABLE), seconds=9, compiling=8, left_out=left_out))
@pytest.mark.parametrize("name", TABLE)
def test_epoch(
    name: str,
    case: Case,
    pixels: Tensor,
    pace: Pace,
    long: bool,
    require: Callable[..., None],
    skip: Callable[..., None],
    benchmark: Any,
) -> None:
    contender = TABLE[name]
    what = {"suite": "epoch", "contender": name, "label": contender.label, **vars(case)}
    if not long and only_long(name, case):
        skip("--long", **what)
    require("epoch", name, contender.label, case)
    images = (LONG_ROUND_IMAGES if contender.own_threads else ROUND_IMAGES)[case.device]
    steps = max(FEWEST_STEPS, images // case.batch)
    work = Work("epoch", "epoch", case, pixels, steps, steps * case.batch / EPOCH_IMAGES)
    measure(benchmark, work, name, TABLE, replace(pace, rounds=(pace.rounds + 1) // 2))
