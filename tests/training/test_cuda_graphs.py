"""Recorded programs: replays equal ordinary steps and passes, in launches of any size, and failures are reported."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.training.engine_cases import STEPS, engine, images, parameters, train
from vae_fast.errors import RunError
from vae_fast.training.cuda_graphs import Capture, Graph, Program
from vae_fast.training.validation import Validation, validate

RECORDED = [
    {"lr_schedule": "cosine", "lr_warmup": 0.5, "beta_schedule": "linear"},
    {"binarize": "dynamic", "clip": 1.0},
    {"step": "autograd", "binarize": "dynamic", "clip": 1.0},
    {"step": "autograd", "amp_dtype": "bf16", "optimizer": "adamw", "weight_decay": 0.1},
    {"amp_dtype": "bf16"},
    {"amp_dtype": "fp16"},
]


@pytest.mark.parametrize("together", [1, 3])
@pytest.mark.parametrize("settings", RECORDED)
def test_replays_are_ordinary_steps(settings: dict[str, Any], together: int, record: Capture) -> None:
    """Cross the end of an epoch: other images, fresh noise, the schedules' next values, the same bits."""
    config = {"epochs": 4, **settings}
    plan = replace(engine(**config).plan, cuda_graphs=True, steps_per_graph=together)
    ordinary, recorded = engine(**config), engine(**config, plan=plan, capture=record)
    recorded.warm_up()
    orders = torch.stack([torch.randperm(64)[:32] for _ in range(20)]).view(2, 10, 32)
    for order in orders:
        for e in (ordinary, recorded):
            e.begin_epoch(order)
            launches = e.launches(10)
            assert sum(launches) == 10
            assert max(launches) == (together if e is recorded else 1)
            for count in launches:
                e.advance(count)
    assert torch.equal(parameters(recorded), parameters(ordinary))
    assert recorded.state()[2] == ordinary.state()[2]
    assert torch.equal(recorded.step_metrics.ring, ordinary.step_metrics.ring)
    losses = ordinary.step_metrics.latest(20, 20)[:, 0]
    assert len(losses.unique()) >= 18  # under fp16 the first ones are skipped


@pytest.mark.parametrize("step", STEPS)
def test_steps_on_given_batches_equal_steps_that_gather(step: str, record: Capture) -> None:
    """Compare launches of three steps, and of one at the end of the epoch, with steps that gather their images."""
    plan = replace(engine(step=step).plan, cuda_graphs=True, steps_per_graph=3)
    gathered, handed = (engine(plan=replace(plan, feed=feed), capture=record, step=step) for feed in ("device", "host"))
    order = torch.stack([torch.randperm(64)[:32] for _ in range(10)])
    for e in (gathered, handed):
        e.warm_up()
        e.begin_epoch(order)
        for done, count in zip((0, 3, 6, 9), e.launches(10), strict=True):
            e.advance(count, images()[order[done : done + count]] if e is handed else None)
    assert torch.equal(parameters(gathered), parameters(handed))
    assert torch.equal(gathered.step_metrics.ring, handed.step_metrics.ring)


def test_a_failed_recording_raises_if_it_was_requested_and_otherwise_gives_the_reason() -> None:
    def fail(program: Program) -> Graph:
        program()
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    plan = replace(engine().plan, cuda_graphs=True)
    e, fresh = engine(plan=plan, capture=fail), engine()
    e.warm_up()
    assert (e.plan.cuda_graphs, e.graphs_failed) == (False, "operation not permitted when stream is capturing")
    assert torch.equal(parameters(e), parameters(fresh))
    train(e)
    assert e.step_number == 1
    with pytest.raises(RunError, match="--cuda-graphs on: recording a step failed: operation not permitted"):
        engine(plan=plan, capture=fail, cuda_graphs="on").warm_up()


def test_a_launch_takes_no_more_steps_than_fit_in_memory(record: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Limit the launches only if the images are passed in."""
    monkeypatch.setattr("vae_fast.training.engine.SLOT_BYTES", 2 * 32 * 784 + 1)
    plan = replace(engine().plan, cuda_graphs=True, steps_per_graph=3)
    for feed, launches in (("host", [2, 2, 1]), ("device", [3, 1, 1])):
        e = engine(plan=replace(plan, feed=feed), capture=record)
        e.warm_up()
        assert e.launches(5) == launches


def test_a_recorded_evaluation_equals_the_ordinary_one(record: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate batch by batch, with a smaller last one, and always with the current weights."""
    monkeypatch.setattr("vae_fast.training.validation.rows_at_once", lambda model: 25)
    e = engine()
    recorded = Validation(e.model, images(), 0, record)
    before = recorded()
    assert before == pytest.approx(validate(e.model, images(), 0), rel=1e-6)
    train(e, steps=3)
    assert recorded() == pytest.approx(validate(e.model, images(), 0), rel=1e-6)
    assert recorded()["loss"] < before["loss"]
