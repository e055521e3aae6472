"""The network `resnet`: the levels of `conv` as residual blocks (He et al. 2016), for larger images."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from vae_fast.models.conv import Decoder, Encoder, Level, cropped, plan_levels
from vae_fast.models.layers import Norm, UpConv


class Block(nn.Module):
    """A residual block: short(x) + long(x)."""

    def __init__(self, short: Sequence[nn.Module], long: Sequence[nn.Module]) -> None:
        super().__init__()
        self.short, self.long = nn.Sequential(*short), nn.Sequential(*long)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = self.short(x) + self.long(x)
        return total


def make(
    shape: Sequence[int], latent: int, outputs: int, *, classes: int = 0, width: int = 32, activation: str = "silu"
) -> tuple[nn.Module, nn.Module]:
    """Return encoder and decoder, with two convolutions and a short cut in each level; arguments as for `conv.make`."""
    image, *levels = plan_levels(shape, width, activation)
    top = Level(width, *image[1:])
    down = [_down(above, level, activation) for above, level in zip([top, *levels], levels, strict=False)]
    down.append(Norm(levels[-1].channels, activation))
    encoder = Encoder(nn.Conv2d(image.channels, width, 3, padding=1), down, prod(levels[-1]), latent, classes)
    up = [_up(level, above, activation) for level, above in zip(levels[::-1], [*levels[-2::-1], top], strict=True)]
    up += [Norm(width, activation), nn.Conv2d(width, outputs, 3, padding=1)]
    return encoder, Decoder(latent, levels[-1], up, classes)


def _down(above: Level, level: Level, activation: str) -> nn.Module:
    short = [nn.AvgPool2d(2, ceil_mode=True), nn.Conv2d(above.channels, level.channels, 1)]
    halved = nn.Conv2d(above.channels, level.channels, 3, stride=2, padding=1)
    return Block(short, [Norm(above.channels, activation), halved, *_second(level.channels, activation)])


def _up(level: Level, above: Level, activation: str) -> nn.Module:
    short = [nn.Conv2d(level.channels, above.channels, 1), nn.Upsample(scale_factor=2), *cropped(level, above)]
    doubled = [UpConv(level.channels, above.channels), *cropped(level, above)]
    return Block(short, [Norm(level.channels, activation), *doubled, *_second(above.channels, activation)])


def _second(channels: int, activation: str) -> list[nn.Module]:
    return [Norm(channels, activation), nn.Conv2d(channels, channels, 3, padding=1)]
