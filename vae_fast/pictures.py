"""The pictures that a run leaves: reconstructions, samples and the loss curve, as PNG files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vae_fast.kernels import reparameterize, streams
from vae_fast.model import VAE

COLUMNS, SAMPLE_ROWS = 12, 8
MOST_RECONSTRUCTIONS = 4 * COLUMNS
SMALLEST_TILE = 56  # pixels: smaller images are enlarged by a whole factor


@torch.no_grad()
def save_reconstructions(model: VAE, images: Tensor, path: Path) -> None:
    """Rows of images [N, C, H, W] (uint8 or float in [0, 1]), each with a row of its reconstructions below.

    A reconstruction decodes the posterior's mean.
    """
    decoded = model.decode(model.encode(images.flatten(1))[0]).sigmoid().view_as(images)
    originals = images / 255 if images.dtype == torch.uint8 else images
    rows = [part for pair in zip(originals.split(COLUMNS), decoded.split(COLUMNS), strict=True) for part in pair]
    save_grid(rows, path)


@torch.no_grad()
def save_samples(model: VAE, seed: int, image_shape: Sequence[int], path: Path) -> None:
    """Images decoded from z ~ N(0, I); image_shape is (C, H, W)."""
    device = next(model.parameters()).device
    zeros = torch.zeros(COLUMNS * SAMPLE_ROWS, model.latent, device=device)
    z = reparameterize(zeros, zeros, seed, 0, stream=streams.SAMPLING)
    save_grid(list(model.decode(z).sigmoid().view(-1, *image_shape).split(COLUMNS)), path)


def save_grid(rows: Sequence[Tensor], path: Path) -> None:
    """Rows of images in [0, 1], each [n, C, H, W] with n up to that of the first; C of 3 is colour, else the first."""
    from PIL import Image

    n, channels, height, width = rows[0].shape
    channels = 3 if channels == 3 else 1
    sheet = torch.ones(channels, len(rows) * (height + 1) + 1, n * (width + 1) + 1)
    for i, row in enumerate(rows):
        for j, image in enumerate(row[:, :channels].float().cpu()):
            top, left = i * (height + 1) + 1, j * (width + 1) + 1
            sheet[:, top : top + height, left : left + width] = image
    array = (sheet.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()
    picture = Image.fromarray(array)
    factor = -(-SMALLEST_TILE // max(height, width))
    picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST).save(path)


def save_loss_curve(metrics: Sequence[dict[str, Any]], pixels: str, path: Path) -> None:
    """Train, validation and test loss over the epochs, from the records of metrics.jsonl."""
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
    figure.savefig(path, dpi=120)
