"""The weights that a run begins with, if they are another's, and the end of a run that has lost patience."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from tests.compared_runs import rows
from vae_fast import compare
from vae_fast.analysis.trained import Trained
from vae_fast.errors import ConfigError, RunError
from vae_fast.evaluate import evaluate
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


def test_a_table_keeps_the_scales_of_its_own_rows(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    np.save(tmp_path / "b.npy", 50 + 7 * rows)
    table = {"standardize": True, "likelihood": "gaussian", "hidden": (8,), "latent": 2, "batch_size": 50, "epochs": 1}
    a = vf.fit(vf.Config(**table, data=str(tmp_path / "a.npy"), out=str(tmp_path / "a")))
    more = {"data": str(tmp_path / "b.npy"), "init_from": str(a.directory), "out": str(tmp_path / "b")}
    b = vf.fit(vf.Config(**table, **more))
    trained = Trained.open(b.directory, "cpu")
    assert evaluate(trained, trained.images("test"), seed=0)["loss"] == pytest.approx(b.metrics[-1]["test_loss"])
    assert float(b.model.offset.min()) > 40


def test_other_settings_of_the_network_are_said(first: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"activation": "tanh", "init_from": str(first.directory), "epochs": 1}
    vf.fit(vf.Config(**SETTINGS, **more, out=str(tmp_path / "b")))
    said = "warning: those weights were trained with activation relu, this model has tanh"
    assert said in capsys.readouterr().out


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
    assert f"stopped: the validation loss has not fallen since epoch {len(losses) - 2}" in capsys.readouterr().out
    again = vf.fit(vf.Config.from_toml(run.directory / "config.toml", resume=str(run.directory)))
    assert len(again.metrics) == len(losses)
    with pytest.raises(ConfigError, match="patience: expected --valid with it, the images to judge by, got 2 alone"):
        vf.Config(patience=2)


def test_evaluations_can_be_rarer(tmp_path: Path) -> None:
    run = vf.fit(vf.Config(**SETTINGS, valid=100, evaluate_every=2, epochs=5, out=str(tmp_path / "run")))
    assert [record["valid_loss"] is not None for record in run.metrics] == [False, True, False, True, True]
    assert [record["test_loss"] is not None for record in run.metrics] == [False, True, False, True, True]
    assert list(run.metrics[0]) == list(run.metrics[1])
    file = run.directory / "metrics.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:3]))  # as if it were at epoch 3
    assert compare.main([str(run.directory), "--csv", str(tmp_path / "a.csv")]) == 0
    (row,) = rows((tmp_path / "a.csv").read_text())
    assert float(row["valid_loss"]) == float(row["held_out_loss"]) == run.metrics[1]["valid_loss"]
    assert float(row["train_loss"]) == run.metrics[2]["train_loss"]
