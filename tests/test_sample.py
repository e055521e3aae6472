"""The commands that draw: sample, reconstruct, interpolate, traverse."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vae_fast as vf
from vae_fast import interpolate, reconstruct, sample, traverse
from vae_fast.analysis.trained import Trained


def run(command: Any, trained_run: Path, out: Path, *arguments: str) -> tuple[np.ndarray[Any, Any], int]:
    assert command.main([str(trained_run), "--out", str(out), "--device", "cpu", *arguments]) == 0
    with Image.open(out.with_suffix(".png")) as picture:
        return np.load(out.with_suffix(".npy")), picture.width


@pytest.mark.parametrize(
    ("command", "arguments", "shape"),
    [
        (sample, ["--count", "14", "--columns", "5"], (14, 1, 28, 28)),
        (reconstruct, ["--indices", "3", "5", "7"], (3, 1, 28, 28)),
        (interpolate, ["--indices", "0", "1", "2", "3", "--steps", "4"], (2, 4, 1, 28, 28)),
        (interpolate, ["--indices", "0", "1", "--steps", "4", "--path", "linear"], (1, 4, 1, 28, 28)),
        (traverse, ["--dimensions", "2", "0", "--steps", "5"], (2, 5, 1, 28, 28)),
        (traverse, ["--around", "9"], (4, 11, 1, 28, 28)),
    ],
)
def test_a_command_writes_a_grid_and_an_array(
    command: Any, arguments: list[str], shape: tuple[int, ...], trained_run: Path, tmp_path: Path
) -> None:
    array, width = run(command, trained_run, tmp_path / "one", *arguments)
    assert array.shape == shape
    assert array.dtype == np.float32
    assert 0 <= array.min() < array.max() <= 1
    again, _ = run(command, trained_run, tmp_path / "two", *arguments)
    assert (array == again).all()
    assert width > 28


def test_files_go_to_the_run_by_default(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample.main([str(trained_run), "--seed", "4"]) == 0
    folder = trained_run / "pictures" / "step-00000014"
    assert str(folder / "samples-seed4-96.png") in capsys.readouterr().out
    assert (folder / "samples-seed4-96.npy").exists()


@pytest.mark.parametrize(
    ("command", "ways"),
    [
        (sample, ([], ["--count", "4"], ["--seed", "1"])),
        (reconstruct, ([], ["--count", "4"], ["--indices", "4", "2"], ["--indices", *map(str, range(20, 0, -1))])),
        (interpolate, ([], ["--indices", "4", "2"], ["--steps", "3"], ["--path", "linear"])),
        (traverse, ([], ["--dimensions", "2", "1"], ["--steps", "3"], ["--around", "2"], ["--around", "3"])),
    ],
)
def test_other_choices_go_to_other_files(
    command: Any, ways: tuple[list[str], ...], trained_run: Path, tmp_path: Path
) -> None:
    run_directory = shutil.copytree(trained_run, tmp_path / "run", symlinks=True)
    shutil.rmtree(run_directory / "pictures")
    for number, way in enumerate(ways, start=1):
        for _ in range(2):  # the same choice gives the same file
            assert command.main([str(run_directory), *way]) == 0
            assert len(list((run_directory / "pictures").rglob("*.npy"))) == number


def test_a_name_with_a_dot_is_kept(trained_run: Path, tmp_path: Path) -> None:
    for name in ("grid.v2", "grid.png"):
        assert sample.main([str(trained_run), "--count", "2", "--out", str(tmp_path / name)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"grid.v2.png", "grid.v2.npy", "grid.png", "grid.npy"}


def test_samples_are_decoded_draws_of_the_prior(trained_run: Path) -> None:
    trained = Trained.open(trained_run, "cpu")
    few, many = sample.sample(trained, 3, seed=1), sample.sample(trained, 2000, seed=1)
    torch.testing.assert_close(few, many[:3])
    assert not torch.equal(few, sample.sample(trained, 3, seed=2))


def test_an_interpolation_joins_reconstructions(trained_run: Path) -> None:
    trained, images = Trained.open(trained_run, "cpu"), vf.load_images("digits", "test").pixels
    found = reconstruct.reconstruct(trained, images[:2])
    for path in ("linear", "spherical"):
        between = interpolate.interpolate(trained, images[:1], images[1:2], 5, path)[0]
        torch.testing.assert_close(between[[0, -1]], found, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="path: expected one of linear, spherical, got 'curved'"):
        interpolate.interpolate(trained, images[:1], images[1:2], 5, "curved")


@pytest.mark.parametrize(
    ("command", "arguments", "code", "message"),
    [
        (reconstruct, ["--indices", "1000"], 1, "index: expected less than the 1,000 test images, got 1000"),
        (interpolate, ["--indices", "1", "2", "3"], 2, "--indices: expected pairs, from and to, got 3 of them"),
        (traverse, ["--dimensions", "4"], 2, "--dimensions: expected less than the 4 of the model, got 4"),
        (sample, ["--out", "."], 1, "--out: expected a file, . is a directory"),
        (sample, ["--out", "/proc/x"], 1, "--out: nothing can be written in /proc (No such file or directory)"),
    ],
)
def test_mistakes_are_reported_in_one_line(
    command: Any, arguments: list[str], code: int, message: str, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main([str(trained_run), *arguments]) == code
    assert capsys.readouterr().err == f"error: {message}\n"
