"""`python -m vae_fast.latents`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast import latents as command
from vae_fast.analysis import latents as analysis
from vae_fast.analysis import trained
from vae_fast.analysis.trained import Trained
from vae_fast.export import export


def written(out: Path, *arguments: str | Path) -> dict[str, Any]:
    """Run the command and return what it wrote."""
    assert command.main([*map(str, arguments), "--out", str(out), "--device", "cpu"]) == 0
    with np.load(out) as found:
        return dict(found)


def expected(model: vf.VAE, *given: torch.Tensor) -> list[Any]:
    with torch.no_grad():
        return [half.numpy() for half in model.encode(*given)]


def test_the_file_holds_the_posterior_the_label_and_the_index_of_each_image(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(analysis, "rows_at_once", lambda model: 300)  # 1,000 images in four batches
    found = written(tmp_path / "new" / "file.npz", trained_run)
    images = vf.load_images("digits", "test")
    mu, logvar = expected(vf.load(trained_run), images.pixels)
    np.testing.assert_allclose(found["mu"], mu, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["logvar"], logvar, rtol=1e-5, atol=1e-6)
    assert (found["labels"] == images.labels.numpy()).all()
    assert (found["index"] == np.arange(1000)).all()
    types = {name: (str(array.dtype), array.shape) for name, array in found.items()}
    assert types == {
        **dict.fromkeys(("mu", "logvar"), ("float32", (1000, 4))),
        **dict.fromkeys(("index", "labels"), ("int64", (1000,))),
    }
    assert f"latents  {tmp_path}/new/file.npz  mu and logvar [1000, 4], index, labels" in capsys.readouterr().out


def test_some_images_go_to_files_of_their_own_in_the_run(trained_run: Path) -> None:
    whole = written(trained_run / "whole.npz", trained_run, "--split", "train")
    for way, name, rows in (
        (["--count", "5"], "first5", [0, 1, 2, 3, 4]),
        (["--indices", "7", "3"], "7-3", [7, 3]),
    ):
        assert command.main([str(trained_run), "--split", "train", *way]) == 0
        with np.load(trained_run / "latents" / f"step-00000014-digits-train-none-{name}.npz") as found:
            assert found["index"].tolist() == rows
            for array in ("mu", "logvar", "labels"):
                np.testing.assert_allclose(found[array], whole[array][rows], rtol=1e-5, atol=1e-6)


def test_a_conditional_model_sees_the_labels_and_their_names_are_kept(tmp_path: Path) -> None:
    digits = vf.load_images("digits")
    names = np.array(["even", "odd"])
    images, labels = digits.pixels[:200, 0].numpy(), (digits.labels[:200] % 2).numpy()
    np.savez(tmp_path / "two.npz", train=images, train_labels=names[labels], test=images, test_labels=names[labels])
    settings = {"conditional": True, "hidden": (8,), "latent": 3, "epochs": 1, "batch_size": 50}
    run = vf.fit(vf.Config(data=str(tmp_path / "two.npz"), out=str(tmp_path / "run"), **settings)).directory
    assert command.main([str(run), "--indices", "9", "4"]) == 0
    found = written(tmp_path / "all.npz", run)
    assert found["label_names"].tolist() == ["even", "odd"]
    assert (found["labels"] == labels).all()
    model, given = vf.load(run), torch.from_numpy(labels)
    np.testing.assert_allclose(found["mu"], expected(model, digits.pixels[:200], given)[0], rtol=1e-5, atol=1e-6)
    assert abs(found["mu"] - expected(model, digits.pixels[:200], 1 - given)[0]).max() > 1e-3
    with np.load(next((run / "latents").iterdir())) as few:
        np.testing.assert_allclose(few["mu"], found["mu"][[9, 4]], rtol=1e-5, atol=1e-6)


def test_rows_of_a_table_are_standardized_as_in_the_run_and_by_an_export(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal([100, -3, 0], [10, 0.1, 2], (300, 3)).astype(np.float32)
    np.save(tmp_path / "table.npy", rows)
    table = {"data": str(tmp_path / "table.npy"), "standardize": True, "likelihood": "gaussian"}
    run = vf.fit(vf.Config(**table, hidden=(8,), latent=2, epochs=1, out=str(tmp_path / "run"))).directory
    export(Trained.open(run, "cpu"), tmp_path / "export", ("safetensors",))
    found = written(tmp_path / "test.npz", run)
    mu, _ = expected(vf.load(run), torch.from_numpy(rows))
    np.testing.assert_allclose(found["mu"], mu[270:], rtol=1e-5, atol=1e-6)
    assert "labels" not in found
    of_export = written(tmp_path / "all.npz", tmp_path / "export", "--data", tmp_path / "table.npy")
    np.testing.assert_allclose(of_export["mu"], mu, rtol=1e-5, atol=1e-6)


def test_images_that_stay_in_their_file_are_encoded_from_there(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "own.npy", vf.load_images("digits").pixels[:100, 0].numpy())
    in_memory = written(tmp_path / "memory.npz", trained_run, "--data", tmp_path / "own.npy")
    monkeypatch.setattr(trained, "choose_feed", lambda *_, **__: ("stream", ""))
    monkeypatch.setattr(analysis, "rows_at_once", lambda model: 30)
    streamed = written(tmp_path / "stream.npz", trained_run, "--data", tmp_path / "own.npy")
    np.testing.assert_allclose(streamed["mu"], in_memory["mu"], rtol=1e-5, atol=1e-6)
    assert len(streamed["index"]) == 100


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "{there}"], 1, "--out: {there} exists; remove it or name another"),
        (["--out", "."], 1, "--out: expected a file, . is a directory"),
        (["--count", "1001"], 1, "count: expected 1 to 1,000, the test images, got 1,001"),
        (["--indices", "1", "1000"], 1, "index: expected less than the 1,000 test images, got 1000"),
        (["--indices", "-1"], 2, "--indices: expected a whole number from 0, got '-1'"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    arguments: list[str],
    code: int,
    message: str,
    trained_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    there = tmp_path / "there.npz"
    there.write_text("kept")
    given = [argument.format(there=there) for argument in arguments]
    assert command.main([str(trained_run), *given]) == code
    assert capsys.readouterr().err == f"error: {message.format(there=there)}\n"
    assert there.read_text() == "kept"
