"""`python -m vae_fast.evaluate`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vae_fast import evaluate as command
from vae_fast.estimates import Estimates
from vae_fast.trained import Trained


def test_a_table_and_a_file(trained_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "folder" / "result.json"
    assert command.main([str(trained_run), "--iw", "20", "--out", str(out), "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert f"loss          {found['loss']:.2f} nats per image" in text
    assert f"nll - H(x)    {found['nll_minus_entropy']:.2f}" in text
    assert "digits, 1,000 test images, grey pixels" in text
    assert "20 importance samples an image" in text
    assert f"active units  {found['active_units']} of 4" in text
    assert found["importance_weighted"]["nll"] < found["loss"]
    assert len(found["kl_per_dimension"]) == 4
    assert sum(found["kl_per_dimension"]) == pytest.approx(found["kl"], rel=1e-5)
    assert os.listdir(out.parent) == ["result.json"]  # the estimates under way are gone


def test_json_and_binarized_pixels(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(trained_run), "--json", "--binarize", "threshold", "--split", "train"]
    assert command.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["binarize"], found["nll_minus_entropy"]) == ("threshold", None)
    kept = trained_run / "evaluations" / "digits-train-threshold-seed0.json"
    assert json.loads(kept.read_text()) == found


def test_what_is_estimated_already_is_not_estimated_again(trained_run: Path, tmp_path: Path) -> None:
    trained = Trained.open(trained_run, "cpu")
    pixels, file = trained.images().pixels.flatten(1), tmp_path / "partial.npz"
    given = trained.model, pixels, 10, 0
    begun = Estimates(file, *given)
    begun.append(torch.full((400,), -7.0, dtype=torch.float64))
    begun.save()
    assert Estimates(file, *given).values.tolist() == [-7.0] * 400
    whole = command.importance_weighted(*given)["nll"]
    resumed = command.importance_weighted(*given, partial=file)["nll"]
    rest = command.importance_weighted(trained.model, pixels, 10, 0)["nll"]
    assert resumed != pytest.approx(whole)  # it has those 400 in it
    assert rest == whole
    assert not file.exists()
    begun.save()
    for other in ((trained.model, pixels, 11, 0), (trained.model, pixels, 10, 1), (trained.model, pixels[1:], 10, 0)):
        assert len(Estimates(file, *other)) == 0
    file.write_bytes(b"PK\x03\x04 damaged")
    assert len(Estimates(file, *given)) == 0


def test_a_killed_evaluation_goes_on(trained_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    line = [sys.executable, "-m", "vae_fast.evaluate", str(trained_run), "--out", str(out), "--device", "cpu", "--iw"]
    running = subprocess.Popen([*line, "50000"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not out.parent.joinpath("result.partial.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 143
    assert said == "SIGTERM: saved; the same command goes on\n"
    assert out.with_suffix(".partial.npz").exists()
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--split", "valid"], "split: digits has no valid images here"),
        (["--data", "digitz"], "did you mean 'digits'?"),
        (["--device", "cuda:99"], "device: cuda:99 is not there"),
    ],
)
def test_mistakes_are_one_line(
    trained_run: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(trained_run), *arguments]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_wrong_flag_is_refused(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([str(trained_run), "--iw", "-3"])
    assert "argument --iw: expected a whole number from 0, got '-3'" in capsys.readouterr().err
