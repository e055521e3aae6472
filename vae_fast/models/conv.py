"""The network `conv`: strided convolutions and their mirror. Its two halves are also the frame of `resnet`.

The encoder halves the image, level by level, until the smaller side is at most 4; the decoder doubles it as often and
cuts off at each level what the encoder had rounded up, so any height and width will do. The channels double from level
to level, up to four times the width.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

from torch import Tensor, nn

from vae_fast.models.layers import ACTIVATIONS, Norm, UpConv

SMALLEST = 4  # the smaller side of the last level, at most
WIDEST = 4  # channels of a level relative to those of the first, at most


class Level(NamedTuple):
    """The size of the feature maps of a level."""

    channels: int
    height: int
    width: int


class Encoder(nn.Module):
    """The encoder: images [B, C, H, W] -> stats [B, 2 Z], the posterior's mean, then its log variance.

    If there are classes, it is also given labels, int64 [B]; their embeddings are added to what `first` gives.
    """

    def __init__(self, first: nn.Conv2d, body: Sequence[nn.Module], values: int, latent: int, classes: int) -> None:
        super().__init__()
        self.first, self.body = first, nn.Sequential(*body)
        self.stats = nn.Linear(values, 2 * latent)
        self.label = nn.Embedding(classes, first.out_channels) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(images)
        if self.label is not None:
            x = x + self.label(labels)[:, :, None, None]
        stats: Tensor = self.stats(self.body(x).flatten(1))
        return stats


class Decoder(nn.Module):
    """The decoder: latents [B, Z] -> logits [B, outputs, H, W].

    If there are classes, it is also given labels, int64 [B]; their embeddings are added to what `first` gives.
    """

    def __init__(self, latent: int, smallest: Level, body: Sequence[nn.Module], classes: int) -> None:
        super().__init__()
        self.first, self.body = nn.Linear(latent, prod(smallest)), nn.Sequential(*body)
        self.label = nn.Embedding(classes, prod(smallest)) if classes else None
        self._smallest = smallest

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        x = self.first(z)
        if self.label is not None:
            x = x + self.label(labels)
        maps = x.unflatten(1, (self._smallest.height, self._smallest.width, -1)).permute(0, 3, 1, 2)  # channels last
        logits: Tensor = self.body(maps)
        return logits


class Crop(nn.Module):
    """Cuts off rows and columns at the end: [B, C, ...] -> [B, C, height, width]."""

    def __init__(self, level: Level) -> None:
        super().__init__()
        self._height, self._width = level.height, level.width

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, : self._height, : self._width]


def make(
    shape: Sequence[int], latent: int, outputs: int, *, classes: int = 0, width: int = 32, activation: str = "silu"
) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder. Every convolution is 3 x 3, with group normalisation and an activation after it.

    Args:
        shape: (C, H, W), of more than 4 x 4 pixels.
        latent: the number Z of latent dimensions.
        outputs: the number of channels of the logits.
        classes: the number of classes, if both halves are given labels.
        width: the channels of the first level.
        activation: one of `ACTIVATIONS`.
    """
    image, *levels = plan_levels(shape, width, activation)
    first = nn.Conv2d(image.channels, width, 3, stride=2, padding=1)
    down: list[nn.Module] = [Norm(width, activation)]
    for above, level in pairwise(levels):
        down += [nn.Conv2d(above.channels, level.channels, 3, stride=2, padding=1), Norm(level.channels, activation)]
    encoder = Encoder(first, down, prod(levels[-1]), latent, classes)
    up: list[nn.Module] = [ACTIVATIONS[activation]()]
    for level, above in zip(levels[:0:-1], levels[-2::-1], strict=True):
        up += [UpConv(level.channels, above.channels), *cropped(level, above), Norm(above.channels, activation)]
    up += [UpConv(width, outputs), *cropped(levels[0], image)]
    return encoder, Decoder(latent, levels[-1], up, classes)


def plan_levels(shape: Sequence[int], width: int, activation: str) -> list[Level]:
    """Return the image and the levels below it; raise ValueError for what cannot be halved and for wrong options."""
    if len(shape) != 3 or min(shape[1:]) <= SMALLEST:
        least = SMALLEST + 1
        raise ValueError(
            f"network: convolutions need images of at least {least} x {least} pixels, got {' x '.join(map(str, shape))}"
        )
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ValueError(f"width: expected a positive integer, got {width!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    levels = [Level(*shape)]
    while min(levels[-1][1:]) > SMALLEST:
        _, high, wide = levels[-1]
        channels = min(width << len(levels) - 1, WIDEST * width)
        levels.append(Level(channels, -(-high // 2), -(-wide // 2)))
    return levels


def cropped(level: Level, above: Level) -> list[nn.Module]:
    """Return what cuts twice the size of a level to that of the one above it; nothing if they are equal."""
    return [] if (2 * level.height, 2 * level.width) == above[1:] else [Crop(above)]
