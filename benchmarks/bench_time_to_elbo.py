"""Seconds of training to a test loss of 107.0 nats: the recipe of pytorch/examples on all of MNIST, grey pixels.

Adam 1e-3, batches of 128, one sample per image; `vae_fast.training.validation` gives the test loss after each epoch.
The time excludes evaluation and everything before the first step, which is `compile_seconds`. The eager baseline trains
along with each contender, epoch by epoch, on the same order of images.
"""

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

import vae_fast as vf
from benchmarks import cores
from benchmarks.contenders.registry import EPOCH, is_missing, labels
from benchmarks.harness.metadata import Case, describe
from benchmarks.harness.rounds import Pace, Rounds, quartiles, seconds
from benchmarks.harness.suites import Params, Suite
from benchmarks.reporting.results import BASELINE
from vae_fast.data.builtin import find_known
from vae_fast.data.sampler import BatchSampler
from vae_fast.training.validation import validate

TARGET = 107.0
MOST_EPOCHS = 12
BATCHES = [BATCH := 128]
NAMES = [name for name in EPOCH if name not in ("eager-resident", "ops")]
_trained = [0.0]  # seconds, as `watch` shows them


def watch() -> float:
    """Return the time of pytest-benchmark's clock here, which runs only while the contender trains."""
    return _trained[0]


class Training:
    """One contender on its way to the target."""

    def __init__(self, name: str, images: dict[str, Tensor], case: Case, sampler: BatchSampler) -> None:
        network = EPOCH[name].network
        assert network is not None
        self._images, self._case, self._sampler = images, case, sampler
        self.model = network().to(case.device)
        self.seconds: list[float] = []  # of each epoch
        self.test_loss = float("inf")
        train = images["train"]
        self._train = EPOCH[name].build(self.model, train, BATCH, case.precision, sampler.steps_per_epoch)

    @property
    def images(self) -> int:
        return len(self.seconds) * self._sampler.steps_per_epoch * BATCH

    @property
    def has_arrived(self) -> bool:
        return self.test_loss <= TARGET

    def epoch(self) -> None:
        if self.has_arrived:
            return
        order = self._sampler.order(len(self.seconds) + 1).cpu()
        self.seconds.append(seconds(lambda: self._train(order), self._case.device))
        model = cast(vf.VAE, self.model)  # `validate` needs `stats` and `decoder`, which all networks here have
        self.test_loss = validate(model, self._images["test"], seed=0)["loss"]


def left_out(params: Params, long: bool) -> bool:
    case: Case = params["case"]
    elsewhere = case.precision != "fp32" and case.device == "cpu"
    return not long or elsewhere or find_known("mnist") is None or is_missing(params)


@pytest.mark.suite(Suite("time_to_elbo", labels(EPOCH), seconds=40, left_out=left_out))
@pytest.mark.benchmark(timer=watch)
@pytest.mark.parametrize("name", NAMES)
def test_time_to_elbo(
    name: str,
    case: Case,
    mnist: dict[str, Tensor] | None,
    pace: Pace,
    long: bool,
    require: Callable[..., None],
    skip: Callable[..., None],
    benchmark: Any,
) -> None:
    names: dict[str, Any] = {"suite": "time_to_elbo", "what": None, "contender": name, "label": EPOCH[name].label}
    if case.precision != "fp32" and case.device == "cpu":
        pytest.skip("in float32 on a CPU")
    if mnist is None:
        skip(
            "all of MNIST is not on this machine: VAE_FAST_DATA names the folder that holds mnist",
            **names,
            **vars(case),
        )
    assert mnist is not None
    if not long:
        skip("--long", **names, **vars(case))
    require("time_to_elbo", name, EPOCH[name].label, case)
    sampler = BatchSampler(len(mnist["train"]), BATCH, seed=0)
    compile_seconds, contender = _timed(lambda: Training(name, mnist, case, sampler))
    baseline = Training(BASELINE, mnist, case, sampler)

    apart: list[float | None] = []

    def race() -> None:
        patience = pace.patience
        for _ in range(MOST_EPOCHS):
            if case.device == "cpu":
                patience = cores.wait(patience)
                apart.append(cores.apart())
            baseline.epoch()
            contender.epoch()
            _trained[0] = sum(contender.seconds)
            if baseline.has_arrived and contender.has_arrived:
                return

    _trained[0] = 0.0
    benchmark.pedantic(race)
    assert contender.has_arrived, f"{contender.test_loss:.2f} nats after {MOST_EPOCHS} epochs; {TARGET} is the target"
    assert baseline.has_arrived, f"the baseline is at {baseline.test_loss:.2f} nats after {MOST_EPOCHS} epochs"
    describe(
        benchmark,
        case,
        Rounds([sum(contender.seconds)], [sum(baseline.seconds)], apart=apart),
        unit="run",
        images=contender.images,
        ours=EPOCH[name].ours,
        **names,
        epochs=len(contender.seconds),
        seconds=sum(contender.seconds),
        test_loss=contender.test_loss,
        compile_seconds=compile_seconds if EPOCH[name].compiles else None,
    )
    # the spread is that of the epochs
    low, _, high = quartiles([b / c for b, c in zip(baseline.seconds, contender.seconds, strict=False)])
    middle = benchmark.extra_info["ratio"][1]
    benchmark.extra_info["ratio"] = [min(low, middle), middle, max(high, middle)]


def _timed(make: Callable[[], Training]) -> tuple[float, Training]:
    made: list[Training] = []
    took = seconds(lambda: made.append(make()), "cuda" if torch.cuda.is_available() else "cpu")
    return took, made[0]
