"""A trained model, and the images to examine it with."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vae_fast as vf
from vae_fast.analysis import generate
from vae_fast.analysis.trained import Trained
from vae_fast.artifacts import checkpoint
from vae_fast.errors import ConfigError, DataError, RunError
from vae_fast.evaluate import evaluate
from vae_fast.objectives.importance import log_likelihoods


def test_a_run_its_checkpoint_and_its_file_are_the_same_model(trained_run: Path) -> None:
    latest = trained_run / "checkpoints" / "latest"
    opened = [Trained.open(path) for path in (trained_run, latest, latest / "model.safetensors")]
    for one in opened:
        for name, tensor in one.model.state_dict().items():
            assert torch.equal(tensor.cpu(), vf.load(trained_run).state_dict()[name])
    assert [one.run and one.run.samefile(trained_run) for one in opened] == [True, True, None]


def test_images_are_the_runs_own(trained_run: Path) -> None:
    trained = Trained.open(trained_run)
    for part in ("test", "train"):
        selection, images = trained.images(part), vf.load_images("digits", part)
        assert torch.equal(selection.pixels, images.pixels)
        assert torch.equal(selection.labels, images.labels)
        assert selection.title == f"digits, 1,000 {part} images, grey pixels"
        assert torch.equal(selection.pick([3, 1]), images.pixels[[3, 1]])
        assert selection.label(3) == str(int(images.labels[3]))


def test_binarized_images_say_so_in_their_names(trained_run: Path) -> None:
    selection = Trained.open(trained_run).images(binarize="threshold")
    assert selection.pixels.unique().tolist() == [0, 255]
    assert selection.title.endswith("thresholded pixels")
    assert selection.slug == "digits-test-threshold"


def test_dynamically_binarized_images_are_shown_as_one_sample(small: Callable[..., vf.Config]) -> None:
    trained = Trained.open(vf.fit(small(binarize="dynamic", epochs=1)).directory)
    for part in ("train", "test"):
        selection = trained.images(part)
        assert selection.pixels.unique().tolist() == [0, 255]
        assert selection.title.endswith("one static Bernoulli sample of the pixels")


def test_labels_follow_the_held_out_images(small: Callable[..., vf.Config]) -> None:
    run = vf.fit(small(valid=100, epochs=1)).directory
    trained, labels = Trained.open(run), vf.load_images("digits").labels
    assert torch.equal(trained.images("valid").labels, labels[-100:])
    assert torch.equal(trained.images("train").labels, labels[:-100])
    assert len(trained.images(data="digits").pixels) == 1000


def test_a_checkpoint_finds_its_run_from_any_working_directory(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(trained_run / "checkpoints")
    inside = Trained.open("best")
    assert inside.run == trained_run
    assert inside.title == f"run, {inside.source.name}"
    assert inside.source.name.startswith("step-")
    monkeypatch.chdir(trained_run)  # its config.toml does not belong to what is next to it
    shutil.copytree("checkpoints/best/", tmp_path / "copy")
    stranger = trained_run / "stranger"
    stranger.symlink_to(tmp_path / "copy")
    try:
        assert Trained.open("stranger").run is None
    finally:
        stranger.unlink()


def test_an_older_checkpoint_has_the_records_of_its_own_epochs(small: Callable[..., vf.Config]) -> None:
    run = vf.fit(small(epochs=3)).directory
    epochs = [[r["epoch"] for r in Trained.open(path).records()] for path in sorted(run.glob("checkpoints/step-*"))]
    assert epochs == [[1], [1, 2], [1, 2, 3]]


def test_a_damaged_checkpoint_is_not_skipped_silently(
    small: Callable[..., vf.Config], capsys: pytest.CaptureFixture[str]
) -> None:
    run = vf.fit(small()).directory
    _, newest = sorted(run.glob("checkpoints/step-*"))
    (newest / "state.json").write_text("{}")
    capsys.readouterr()
    trained = Trained.open(run)
    assert trained.source < newest
    assert len(trained.records()) == 1
    assert "warning: skipped an invalid checkpoint: " in capsys.readouterr().err
    with pytest.warns(UserWarning, match="skipped an invalid checkpoint"):
        vf.load(run)
    (run / "config.toml").unlink()
    with pytest.raises(RunError, match=r"its config\.toml is missing"):
        Trained.open(run)


@pytest.mark.parametrize("binarize", ["none", "dynamic"])
def test_images_that_have_changed_are_not_the_runs_own(
    binarize: str, small: Callable[..., vf.Config], tmp_path: Path
) -> None:
    images = vf.load_images("digits").pixels[:200, 0].numpy()
    np.savez(tmp_path / "own.npz", train=images, test=images)
    run = vf.fit(small(data=str(tmp_path / "own.npz"), epochs=1, batch_size=20, binarize=binarize)).directory
    assert len(Trained.open(run).images().pixels) == 200
    np.savez(tmp_path / "own.npz", train=images, test=255 - images)
    with pytest.raises(RunError, match=r"data: these are not the images of .*own\.npz\): sha256 \w+... then, \w+"):
        Trained.open(run).images()
    assert len(Trained.open(run).images(data=str(tmp_path / "own.npz")).pixels) == 200


@pytest.mark.parametrize("binarize", ["none", "static"])
def test_other_images_are_used_whole_and_named_by_their_content(
    binarize: str, small: Callable[..., vf.Config], tmp_path: Path
) -> None:
    images = vf.load_images("digits").pixels[:200, 0].numpy()
    np.save(tmp_path / "own.npy", images)
    run = vf.fit(small(data=str(tmp_path / "own.npy"), epochs=1, batch_size=20, binarize=binarize)).directory
    trained = Trained.open(run)
    own = trained.images()
    assert len(own.pixels) == 20
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "own.npy").rename(tmp_path / "elsewhere" / "own.npy")
    moved = trained.images(data=str(tmp_path / "elsewhere" / "own.npy"))  # split as in the run
    assert torch.equal(moved.pixels, own.pixels)
    assert (moved.title, moved.slug, moved.sha256) == (own.title, own.slug, own.sha256)
    others = []
    for count in (1, 3):  # too few to hold out a tenth
        np.save(tmp_path / "holdout.npy", 255 - images[:count])
        others.append(trained.images(data=str(tmp_path / "holdout.npy")))
        assert len(others[-1].pixels) == count
        assert f"{count} images" in others[-1].title
    assert len({(one.slug, one.title, one.sha256, one.suffix) for one in others}) == 2
    assert own.suffix == moved.suffix == ""
    np.save(tmp_path / "holdout.npy", 255 - images)  # as many as the run's
    assert len(trained.images(data=str(tmp_path / "holdout.npy")).pixels) == len(images)
    assert others[0].slug == f"holdout-{others[0].sha256[:8]}-all-{binarize}"


def test_parameters_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    model = vf.VAE(input_shape=(4,), hidden=(), latent=1)
    torch.nn.init.constant_(model.decoder.logits.bias, float("nan"))
    (tmp_path / "model.safetensors").write_bytes(checkpoint.model_bytes(model, dict(model.state_dict())))
    with pytest.raises(RunError, match="not all parameters and buffers of the model are finite"):
        Trained.open(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda t, p: t.images("valid"),
            DataError,
            "split: digits has no valid images here; expected one of test, train",
        ),
        (lambda t, p: t.images(data=str(p / "small.npy")), DataError, "has images of 16 pixels .* takes 784"),
        (lambda t, p: t.images().pick([1000]), DataError, "index: expected less than the 1,000 test images, got 1000"),
        (lambda t, p: Trained.open(p / "nothing"), RunError, "nothing: expected a run .*; there is no such file"),
        (lambda t, p: Trained.open(p), RunError, "expected a run directory, .*; it holds no model.safetensors"),
        (lambda t, p: t.images("foo"), ValueError, "part: expected one of test, train, valid, got 'foo'"),
        (lambda t, p: Trained.open(t.run, "tpu"), ConfigError, "device: expected auto, cpu"),
        (lambda t, p: Trained.open(t.source / "model.safetensors").images(), ConfigError, "data: .* belongs to no run"),
    ],
)
def test_mistakes_are_named(
    trained_run: Path, tmp_path: Path, change: Callable[[Trained, Path], Any], error: type, message: str
) -> None:
    np.save(tmp_path / "small.npy", np.arange(20 * 16, dtype=np.uint8).reshape(20, 4, 4) % 200)
    with pytest.raises(error, match=message):
        change(Trained.open(trained_run), tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_gpu_gives_the_numbers_of_a_cpu(trained_run: Path) -> None:
    """Compare with tolerances: the noise is the same, but products and sums are in another order."""
    on_cpu, on_gpu = (Trained.open(trained_run, device) for device in ("cpu", "cuda"))
    pixels = on_cpu.images().pixels[:100].flatten(1)
    ours, theirs = (torch.cat(list(log_likelihoods(one.model, pixels, 70, 0))) for one in (on_gpu, on_cpu))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-2)
    ours, theirs = (evaluate(one, one.images())["kl_per_dimension"] for one in (on_gpu, on_cpu))
    assert ours == pytest.approx(theirs, rel=1e-4)
    shown = on_cpu.images().pick(range(8))
    ours, theirs = (generate.reconstruct(one.model, shown) for one in (on_gpu, on_cpu))
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_metrics_of_the_run_are_those_of_the_model(trained_run: Path) -> None:
    trained = Trained.open(trained_run)
    last = json.loads((trained_run / "metrics.jsonl").read_text().splitlines()[-1])
    found = evaluate(trained, trained.images(), seed=trained.seed)
    assert found["loss"] == pytest.approx(last["test_loss"], rel=1e-6)
    assert found["nll"] == pytest.approx(last["test_nll"], rel=1e-6)
