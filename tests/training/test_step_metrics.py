"""The metrics that steps leave on the device, and how the host reads them."""

import pytest
import torch

from vae_fast.kernels import enter_
from vae_fast.training.step_metrics import LATEST, HostCopy, StepMetrics

CPU = torch.device("cpu")
SKIPPED = torch.tensor([0.0, 0, 0, 0, 1], dtype=torch.float64)


def entered(steps: list[float | None]) -> StepMetrics:
    """Return the metrics of steps with two images each and the given loss per image; None is a skipped step."""
    step_metrics = StepMetrics(CPU)
    for loss in steps:
        terms = SKIPPED if loss is None else torch.tensor([2 * loss, loss, loss, 2, 0], dtype=torch.float64)
        enter_(step_metrics.record, terms)
    return step_metrics


def test_an_epochs_averages_are_over_the_images_that_were_learned_from() -> None:
    step_metrics = entered([3.0, None, 5.0])
    assert step_metrics.finish_epoch() == {"train_loss": 4.0, "train_nll": 2.0, "train_kl": 2.0, "skipped_steps": 1}
    assert step_metrics.finish_epoch()["train_loss"] is None  # the sums were reset


@pytest.mark.parametrize("before", [0, 3, LATEST - 1, LATEST + 2])
@pytest.mark.parametrize("skips", [0, 1, 30])
def test_skips_in_a_row_are_those_at_the_end(before: int, skips: int) -> None:
    steps: list[float | None] = [None, *[1.0] * before, *[None] * skips] if before else [None] * skips
    step_metrics = entered(steps)
    assert step_metrics.recent(len(steps)).skips_in_a_row == skips
    again = StepMetrics(CPU)
    again.load(len(steps), step_metrics.sums.tolist(), skips)
    assert again.recent(len(steps)).skips_in_a_row == skips
    assert torch.equal(again.sums, step_metrics.sums)
    assert again.step == step_metrics.step == len(steps)


def test_the_latest_steps_are_kept_individually_and_reported_on_request() -> None:
    steps: list[float | None] = [float(n) for n in range(LATEST + 10)]
    step_metrics = entered(steps)
    assert (step_metrics.latest(len(steps), 3)[:, 0] / 2).tolist() == steps[-3:]
    assert step_metrics.arrived() is None
    step_metrics.request(len(steps))
    recent = step_metrics.arrived()
    assert recent is not None
    assert recent.loss == pytest.approx(sum(range(10, LATEST + 10)) / LATEST)
    assert step_metrics.arrived() is None


def test_a_host_copy_holds_the_values_at_the_request_not_later_ones() -> None:
    source = torch.zeros(2)
    copy = HostCopy(source)
    assert copy.latest() is None
    assert copy.request()
    assert not copy.request()  # one at a time
    source += 1
    assert copy.latest().tolist() == [0, 0]
    assert copy.latest() is None
