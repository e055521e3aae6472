"""The average of a run's weights: its formula, and what a run does with it."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf
from vae_fast.artifacts import checkpoint
from vae_fast.training.averaging import EVERY, SUFFIX, Average

SETTINGS: dict[str, Any] = {"hidden": (16,), "latent": 4, "batch_size": 20, "epochs": 3, "ema": 0.9}


def test_the_average_is_that_of_the_formula() -> None:
    model = torch.nn.Linear(2, 1)
    average, expected = Average(model, 0.99), model.weight.detach().double()
    for step in range(1, 200):
        with torch.no_grad():
            model.weight.normal_()
        average.after(step)
        if step % EVERY == 0:
            decay = min(0.99, (1 + step) / (10 + step)) ** EVERY if step > EVERY else 0
            expected = decay * expected + (1 - decay) * model.weight.detach().double()
    torch.testing.assert_close(average.tensors()["weight"], expected.float())


def test_before_it_first_moves_it_is_the_weights_themselves(tmp_path: Path) -> None:
    few = {**SETTINGS, "batch_size": 500, "epochs": 2}  # 4 steps in all
    runs = [vf.fit(vf.Config(**{**few, "ema": ema}, out=str(tmp_path / str(ema)))) for ema in (0.0, 0.9)]
    pairs = zip(*(run.model.state_dict().values() for run in runs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert runs[0].metrics[-1]["test_loss"] == runs[1].metrics[-1]["test_loss"]


def test_an_average_that_begins_from_parameters_keeps_no_history() -> None:
    model = torch.nn.Linear(2, 1)
    average = Average(model, 0.99)
    average.load(dict(model.named_parameters()))
    average.after(EVERY)
    assert not any(t.requires_grad for t in average.tensors().values())


def test_weights_come_back_after_an_exchange() -> None:
    model = torch.nn.Linear(2, 1)
    average = Average(model, 0.99)
    before, place = model.weight.detach().clone(), model.weight.data_ptr()
    with torch.no_grad():
        model.weight.add_(1)
    with suppress(KeyError), average.in_place():
        assert torch.equal(model.weight, before)
        raise KeyError
    assert torch.equal(model.weight, before + 1)
    assert model.weight.data_ptr() == place


@pytest.mark.parametrize("step", ["auto", "autograd"])
def test_a_run_saves_and_returns_the_average_and_goes_on_with_the_weights(step: str, tmp_path: Path) -> None:
    run = vf.fit(vf.Config(**SETTINGS, step=step, out=str(tmp_path / "run")))
    saved = checkpoint.latest(tmp_path / "run" / "checkpoints", print)
    assert saved is not None
    state = run.model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.parameters.items())
    trained = {name: saved.optimizer[f"{name}{SUFFIX}"] for name in state}
    assert not torch.equal(trained["encoder.stats.weight"], state["encoder.stats.weight"])

    plain = vf.fit(vf.Config(**{**SETTINGS, "ema": 0.0}, step=step, out=str(tmp_path / "plain")))
    assert all(torch.equal(plain.model.state_dict()[name], tensor) for name, tensor in trained.items())
    assert [r["train_loss"] for r in plain.metrics] == [r["train_loss"] for r in run.metrics]
    assert run.metrics[-1]["test_loss"] != plain.metrics[-1]["test_loss"]

    once = vf.fit(vf.Config(**{**SETTINGS, "epochs": 1}, step=step, out=str(tmp_path / "once")))
    again = vf.Config.from_toml(once.directory / "config.toml", resume=str(once.directory), epochs=3)
    resumed = vf.fit(again)
    assert all(torch.equal(resumed.model.state_dict()[name], tensor) for name, tensor in state.items())
    assert resumed.metrics[-1]["test_loss"] == run.metrics[-1]["test_loss"]


def test_the_average_does_not_depend_on_where_launches_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    for steps in (1, 8):
        monkeypatch.setattr("vae_fast.training.engine.Engine._steps_worth_a_call", lambda engine, n=steps: n)
        runs.append(vf.fit(vf.Config(**SETTINGS, out=str(tmp_path / str(steps)))))
    pairs = zip(*(run.model.state_dict().values() for run in runs), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
