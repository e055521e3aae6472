"""`python -m benchmarks.likelihoods`."""

import json
import tomllib
from pathlib import Path

import pytest

from benchmarks import likelihoods
from vae_fast.config import preset_names


def test_a_preset_is_trained_evaluated_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(likelihoods, "KEPT", tmp_path / "kept")
    for _ in range(2):  # the second time everything is there
        likelihoods.main(["digits", "--seed", "3", "--out", str(tmp_path / "run"), "--iw", "3"])
    folder = tmp_path / "kept" / "digits-seed3"
    result = json.loads((folder / "result.json").read_bytes())
    records = (folder / "metrics.jsonl").read_text().splitlines()
    assert result["epochs"] == len(records) == tomllib.loads((folder / "config.toml").read_text())["epochs"]
    assert result["evaluation"]["importance_weighted"]["samples"] == 3
    assert result["curve"][-1][1] == pytest.approx(json.loads(records[-1])["test_loss"], abs=0.01)
    row = capsys.readouterr().out.splitlines()[-1]
    assert f"**{result['evaluation']['importance_weighted']['nll']:.2f}**" in row


def test_what_is_kept_is_of_presets_and_names_no_folder() -> None:
    for file in likelihoods.KEPT.glob("*/result.json"):
        result = json.loads(file.read_bytes())
        assert result["preset"] in preset_names()
        assert file.parent.name == f"{result['preset']}-seed{result['seed']}"
        assert '"/' not in (file.parent / "config.toml").read_text()
