"""`python -m vae_fast.evaluate`."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from vae_fast import evaluate as command
from vae_fast.analysis.trained import Trained
from vae_fast.objectives import importance
from vae_fast.runtime.signals import Interrupted


def test_evaluate_prints_a_table_and_writes_a_file(
    trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "folder" / "result.json"
    assert command.main([str(trained_run), "--iw", "20", "--out", str(out), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert f"loss          {found['loss']:.2f} nats per image" in text
    assert f"nll - H(x)    {found['nll_minus_entropy']:.2f}" in text
    assert "digits, 1,000 test images, grey pixels" in text
    assert "20 samples an image" in text
    assert f"active units  {found['active_units']} of 4" in text
    assert found["importance_weighted"]["nll"] < found["loss"]
    assert len(found["kl_per_dimension"]) == 4
    assert sum(found["kl_per_dimension"]) == pytest.approx(found["kl"], rel=1e-5)
    assert os.listdir(out.parent) == ["result.json"]  # the partial estimates are removed


def test_json_output_for_binarized_pixels(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(trained_run), "--json", "--binarize", "threshold", "--split", "train", "--count", "100"]
    assert command.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["binarize"], found["nll_minus_entropy"]) == ("threshold", None)
    kept = trained_run / "evaluations" / "step-00000014-digits-train-threshold-first100-seed0.json"
    assert json.loads(kept.read_text()) == found
    assert found["images"].startswith("digits, 100 train images")


def test_an_interrupted_evaluation_is_continued(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, file = Trained.open(trained_run, "cpu"), tmp_path / "partial"
    given = trained.model, trained.images().pixels.flatten(1), 10, 0
    monkeypatch.setitem(importance.LAYER_BYTES, "cpu", 300 * 4 * 784)  # batches of 300
    whole = command.importance_weighted(*given)
    firsts = []

    def interrupted(*arguments: Any, first: int, labels: None) -> Iterator[torch.Tensor]:
        firsts.append(first)
        for i, batch in enumerate(importance.log_likelihoods(*arguments, first=first)):
            yield batch
            if first == 0 and i == 0:
                os.kill(os.getpid(), signal.SIGTERM)  # noticed after the next batch

    monkeypatch.setattr(command, "log_likelihoods", interrupted)
    with pytest.raises(Interrupted, match="SIGTERM: saved; run the same command to continue"):
        command.importance_weighted(*given, partial=file)
    resumed = command.importance_weighted(*given, partial=file)
    assert firsts == [0, 600]
    assert (resumed["nll"], resumed["standard_error"]) == (whole["nll"], whole["standard_error"])
    with pytest.raises(Interrupted, match="SIGTERM: nothing is saved"):
        command.importance_weighted(*given)


def test_a_terminated_evaluation_saves_its_estimates(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    line = [sys.executable, "-m", "vae_fast.evaluate", str(trained_run), "--out", str(out), "--device", "cpu", "--iw"]
    running = subprocess.Popen([*line, "50000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not out.parent.joinpath("result.json.partial").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 143
    assert stderr.splitlines()[-1] == "SIGTERM: saved; run the same command to continue"
    assert out.with_name("result.json.partial").exists()
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--split", "valid"], "split: digits has no valid images here"),
        (["--count", "1001"], "count: expected 1 to 1,000, the test images, got 1,001"),
        (["--data", "digitz"], "did you mean 'digits'?"),
        (["--device", "cuda:99"], "device: cuda:99 is not there"),
        (["--out", "."], "--out: expected a file, . is a directory"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    trained_run: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(trained_run), *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_wrong_flag_is_refused(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(trained_run), "--iw", "-3"]) == 2
    assert capsys.readouterr().err == "error: --iw: expected a whole number from 0, got '-3'\n"
