"""The weights that a run begins with, if they are another's, and the end of a run that has lost patience."""

from pathlib import Path
from typing import Any

import pytest
import torch

import vae_fast as vf
from vae_fast.errors import ConfigError, RunError
from vae_fast.train import Run

SETTINGS: dict[str, Any] = {"hidden": (16,), "latent": 4, "batch_size": 100}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return vf.fit(vf.Config(**SETTINGS, epochs=4, out=str(tmp_path_factory.mktemp("first") / "run")))


@pytest.mark.parametrize("more", [{}, {"ema": 0.9}, {"step": "autograd", "amp_dtype": "bf16"}])
def test_a_run_begins_with_the_weights_of_another(first: Run, tmp_path: Path, more: dict[str, Any]) -> None:
    config = vf.Config(**SETTINGS, **more, epochs=1, lr=1e-12, init_from=str(first.directory), out=str(tmp_path / "b"))
    run = vf.fit(config)
    for name, tensor in first.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], tensor, atol=1e-6, rtol=1e-4)
    assert run.metrics[0]["test_loss"] == pytest.approx(first.metrics[-1]["test_loss"], rel=1e-4)


def test_another_prior_begins_anew(first: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"prior": "mixture", "components": 8, "init_from": str(first.directory)}
    run = vf.fit(vf.Config(**SETTINGS, **more, epochs=1, out=str(tmp_path / "b")))
    latest, said = (first.directory / "checkpoints" / "latest").resolve(), capsys.readouterr().out
    assert f"weights: those of {first.directory}/checkpoints/{latest.name}; the prior, a mixture of 8 normals" in said
    assert run.metrics[0]["train_loss"] < first.metrics[0]["train_loss"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (
            {"hidden": (17,)},
            r"has encoder.hidden.0.weight \[16, 784\], this model has .* \[17, 784",
        ),
        ({"hidden": ()}, "this model has encoder.stats.weight"),
        ({"init_from": "/nowhere"}, "/nowhere: expected a run directory, a checkpoint, an export or a model"),
    ],
)
def test_a_model_of_another_structure_is_refused(
    first: Run, tmp_path: Path, more: dict[str, Any], message: str
) -> None:
    settings = {**SETTINGS, "init_from": str(first.directory), **more}
    with pytest.raises(RunError, match=message):
        vf.fit(vf.Config(**settings, out=str(tmp_path / "b")))


def test_a_resume_needs_the_other_run_no_longer(tmp_path: Path) -> None:
    first = vf.fit(vf.Config(**SETTINGS, epochs=1, out=str(tmp_path / "first")))
    run = vf.fit(vf.Config(**SETTINGS, epochs=1, init_from=str(first.directory), out=str(tmp_path / "b")))
    first.directory.rename(tmp_path / "gone")
    again = vf.fit(vf.Config.from_toml(run.directory / "config.toml", resume=str(run.directory), epochs=2))
    assert again.metrics[1]["train_loss"] < run.metrics[0]["train_loss"]


def test_a_run_ends_when_the_validation_loss_no_longer_falls(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = {"valid": 300, "patience": 2, "lr": 0.3, "epochs": 60}
    run = vf.fit(vf.Config(**SETTINGS, **more, out=str(tmp_path / "run")))
    losses = [record["valid_loss"] for record in run.metrics]
    assert len(losses) < 60
    assert min(losses) == losses[-3]
    assert "stopped: the validation loss has not fallen for 2 epochs" in capsys.readouterr().out
    again = vf.fit(vf.Config.from_toml(run.directory / "config.toml", resume=str(run.directory)))
    assert len(again.metrics) == len(losses)
    with pytest.raises(ConfigError, match="patience: expected --valid with it, the images to judge by, got 2 alone"):
        vf.Config(patience=2)


def test_evaluations_can_be_rarer(tmp_path: Path) -> None:
    run = vf.fit(vf.Config(**SETTINGS, valid=100, evaluate_every=2, epochs=5, out=str(tmp_path / "run")))
    assert [record["valid_loss"] is not None for record in run.metrics] == [False, True, False, True, True]
    assert [record["test_loss"] is not None for record in run.metrics] == [False, True, False, True, True]
