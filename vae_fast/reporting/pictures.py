"""The pictures of a run: reconstructions, samples and the loss curve, as PNG files."""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from vae_fast.analysis import generate
from vae_fast.artifacts import atomic
from vae_fast.data.images import Pixels
from vae_fast.data.transforms import floats
from vae_fast.models.vae import VAE

COLUMNS, SAMPLE_ROWS = 12, 8
MOST_CLASS_ROWS = 20  # of samples of a conditional model
MOST_RECONSTRUCTIONS = 4 * COLUMNS
STRIP = 16  # pixels: the height of a line of text
SMALLEST_TILE = 56  # pixels: smaller images are enlarged by a whole factor
DEVIATIONS = 3  # from the mean of a table's column to black and to white
FLATTEST = 4  # width over height in the drawing of a vector


def save_all(
    model: VAE,
    images: Pixels,
    seed: int,
    metrics: Sequence[dict[str, Any]],
    treatment: str,
    folder: Path,
    labels: Tensor | None = None,
) -> list[Path]:
    """Write the three pictures of a run into `folder` and return their paths.

    images: [N, C, H, W]; the first of them are reconstructed. labels: int64 [N], if the model has classes.
    """
    folder.mkdir(exist_ok=True)
    shown = images[:MOST_RECONSTRUCTIONS].to("cpu")
    given = None if labels is None else labels[:MOST_RECONSTRUCTIONS]
    drawn: dict[str, Callable[[IO[bytes]], None]] = {
        "reconstructions": lambda file: save_reconstructions(model, shown, file, given),
        "samples": lambda file: save_samples(model, seed, shown.shape[1:], file),
        "loss": lambda file: save_loss_curve(metrics, treatment, file),
    }
    files = []
    for name, draw in drawn.items():
        content = io.BytesIO()
        draw(content)
        files.append(folder / f"{name}.png")
        atomic.replace(files[-1], content.getvalue())
    return files


def save_reconstructions(model: VAE, images: Tensor, path: Path | IO[bytes], labels: Tensor | None = None) -> None:
    """Save rows of images [N, C, H, W] (uint8 or float in [0, 1]), each with its reconstructions in a row below."""
    save_grid(below_each_other(images, generate.reconstruct(model, images, labels), COLUMNS), path, model=model)


def below_each_other(images: Tensor, reconstructions: Tensor, columns: int) -> list[Tensor]:
    """Return rows for `save_grid`: `columns` images, their reconstructions, the next images, ..."""
    originals = floats(images).cpu()
    parts = zip(originals.split(columns), reconstructions.view_as(originals).split(columns), strict=True)
    return [row for pair in parts for row in pair]


def save_samples(model: VAE, seed: int, image_shape: Sequence[int], path: Path | IO[bytes]) -> None:
    """Save images decoded from draws of the prior, a row for each class if there are any; image_shape is (C, H, W)."""
    labels = sampled_labels(model)
    images = generate.sample(model, COLUMNS * SAMPLE_ROWS if labels is None else len(labels), seed, labels)
    save_grid(list(images.view(-1, *image_shape).split(COLUMNS)), path, model=model)


def sampled_labels(model: VAE) -> Tensor | None:
    """Return the labels of samples to draw, a row for each of the first classes; None if the model has none."""
    rows = min(model.classes, MOST_CLASS_ROWS)
    return torch.arange(rows).repeat_interleave(COLUMNS) if rows else None


def save_grid(
    rows: Sequence[Tensor],
    path: Path | IO[bytes],
    captions: Sequence[Sequence[str]] | None = None,
    model: VAE | None = None,
) -> None:
    """Save rows of images in [0, 1], each [n, C, H, W] with n up to that of the first, as `visible` shows them.

    model: if it is standardized, they are rows of its table, of which 3 standard deviations below the mean are black
        and 3 above it white.
    captions: for each row, one caption for the whole row, one per image, or none.
    """
    from PIL import Image

    if model is not None and model.is_standardized:
        device = next(model.parameters()).device
        rows = [model.standardize(row.to(device)).cpu() / (2 * DEVIATIONS) + 0.5 for row in rows]
    if rows[0].shape[2] == 1:  # vectors: their values are drawn as bars
        rows = [row.repeat_interleave(max(1, row.shape[3] // FLATTEST), 2) for row in rows]
    rows = [visible(row.float().cpu()) for row in rows]
    n, channels, height, width = rows[0].shape
    sheet = torch.ones(channels, len(rows) * (height + 1) + 1, n * (width + 1) + 1)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + 1) + 1, j * (width + 1) + 1
            sheet[:, top : top + height, left : left + width] = image
    picture = Image.fromarray(_bytes(sheet))
    factor = -(-SMALLEST_TILE // max(height, width))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    if captions is not None:
        picture = _captioned(picture, captions, factor * (height + 1), factor * (width + 1))
    picture.save(path, format="PNG")


def visible(images: Tensor) -> Tensor:
    """Return images [..., C, H, W] that can be drawn: unchanged if C is 1 or 3, else their mean, [..., 1, H, W]."""
    return images if images.shape[-3] in (1, 3) else images.mean(-3, keepdim=True)


def drawn_as(channels: int) -> str:
    """Return a remark for pictures of images with this many channels; empty if they show the images unchanged."""
    return "" if channels in (1, 3) else f"drawn as the mean of {channels} channels"


def _bytes(sheet: Tensor) -> Any:
    return (sheet.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()


def _captioned(picture: Any, captions: Sequence[Sequence[str]], row: int, column: int) -> Any:
    """Return the picture, with `row` and `column` pixels per image, plus a strip of text above rows with captions."""
    from PIL import Image, ImageDraw, ImageFont

    strips = [STRIP * bool(texts) for texts in captions]
    sheet = Image.new(picture.mode, (picture.width, picture.height + sum(strips)), "white")
    draw, font, top = ImageDraw.Draw(sheet), ImageFont.load_default(size=STRIP - 4), 0
    for i, (texts, strip) in enumerate(zip(captions, strips, strict=True)):
        for j, text in enumerate(texts):
            draw.text((j * column + 3, top + 1), text, fill="black", font=font)
        bottom = (i + 1) * row if i + 1 < len(captions) else picture.height
        sheet.paste(picture.crop((0, i * row, picture.width, bottom)), (0, top + strip))
        top += row + strip
    return sheet


def save_loss_curve(metrics: Sequence[dict[str, Any]], pixels: str, path: Path | IO[bytes]) -> None:
    """Plot train, validation and test loss over the epochs, from the records of metrics.jsonl."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for key, label in (("train_loss", "train (objective)"), ("valid_loss", "validation"), ("test_loss", "test")):
        points = [(m["epoch"], m[key]) for m in metrics if m.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=f"{label}: {points[-1][1]:.2f}")
    axes.set(xlabel="epoch", ylabel=f"nats per image, {pixels}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, format="png")
