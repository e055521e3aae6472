"""The PNG files, read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vae_fast as vf
from vae_fast.reporting.pictures import STRIP, drawn_as, save_grid, save_loss_curve, save_reconstructions, save_samples


def read(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture.copy()


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (2, "L"), (4, "L")])
def test_a_grid_shows_each_image_in_its_place(tmp_path: Path, channels: int, mode: str) -> None:
    torch.manual_seed(0)
    rows = [torch.rand(3, channels, 4, 60), torch.rand(2, channels, 4, 60)]
    save_grid(rows, tmp_path / "grid.png")
    picture = read(tmp_path / "grid.png")
    assert picture.mode == mode
    assert picture.size == (3 * 61 + 1, 2 * 5 + 1)
    pixels = np.asarray(picture).reshape(11, 184, -1)
    shown = rows[1][1] if mode == "RGB" else rows[1][1].mean(0, keepdim=True)
    assert drawn_as(channels) == ("" if channels in (1, 3) else f"drawn as the mean of {channels} channels")
    expected = (shown * 255).round().permute(1, 2, 0).numpy()
    assert np.array_equal(pixels[6:10, 62:122], expected)
    assert (pixels[6:10, 123:] == 255).all()  # the place without an image


def test_vectors_are_drawn_as_bars(tmp_path: Path) -> None:
    save_grid([torch.rand(2, 1, 1, 40)], tmp_path / "grid.png")
    assert read(tmp_path / "grid.png").size == (2 * (2 * 41 + 1), 2 * 12)


def test_small_images_are_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    save_grid([torch.zeros(1, 1, 28, 28)], tmp_path / "grid.png")
    assert read(tmp_path / "grid.png").size == (60, 60)


def test_reconstructions_are_below_their_images(tmp_path: Path) -> None:
    images, model = vf.load_images("digits").pixels[:14], vf.VAE(hidden=(8,))
    save_reconstructions(model, images, tmp_path / "r.png")
    pixels = np.asarray(read(tmp_path / "r.png"))[::2, ::2]
    assert pixels.shape == (4 * 29 + 1, 12 * 29 + 1)
    assert np.array_equal(pixels[1:29, 30:58], images[1, 0].numpy())
    assert np.array_equal(pixels[59:87, 30:58], images[13, 0].numpy())
    with torch.no_grad():
        decoded = model.decode(model.encode(images[1:2])[0]).sigmoid()[0, 0]
    assert abs(pixels[30:58, 30:58].astype(float) - 255 * decoded.numpy()).max() <= 0.51


def test_samples_depend_on_the_seed_alone(tmp_path: Path) -> None:
    model = vf.VAE((3, 4, 4), (5,), 2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        save_samples(model, seed, (3, 4, 4), tmp_path / f"{name}.png")
    one, same, other = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert one == same != other


@pytest.mark.parametrize("test_loss", [5.0, None])
def test_the_loss_curve_is_a_picture(tmp_path: Path, test_loss: float | None) -> None:
    records = [{"epoch": n, "train_loss": 9.0 / n, "test_loss": test_loss} for n in (1, 2)]
    save_loss_curve(records, "grey pixels", tmp_path / "loss.png")
    assert read(tmp_path / "loss.png").size == (768, 480)


def test_captions_are_above_their_rows_and_cover_nothing(tmp_path: Path) -> None:
    rows = [torch.full((3, 1, 28, 28), grey) for grey in (0.0, 0.5, 0.25)]
    save_grid(rows, tmp_path / "plain.png")
    save_grid(rows, tmp_path / "captions.png", [["first row"], [], ["a", "b", "c"]])
    with Image.open(tmp_path / "plain.png") as file:
        plain = np.asarray(file)
    with Image.open(tmp_path / "captions.png") as file:
        found = np.asarray(file)
    row, strip = 2 * 29, STRIP
    assert len(found) == len(plain) + 2 * strip
    assert (found[strip : strip + 2 * row] == plain[: 2 * row]).all()
    assert (found[2 * strip + 2 * row :] == plain[2 * row :]).all()
    for top in (0, strip + 2 * row):  # white, with something black on it
        assert np.median(found[top : top + strip]) == 255
        assert found[top : top + strip].min() < 100
