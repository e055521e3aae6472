"""Networks as users write them, and mistakes that users make, for the tests."""

import torch
from torch import Tensor, nn

Halves = tuple[nn.Module, nn.Module]


class Labelled(nn.Module):
    """A network that adds an embedding of the label to what another one gives."""

    def __init__(self, inner: nn.Module, classes: int, values: int) -> None:
        super().__init__()
        self.inner, self.label = inner, nn.Embedding(classes, values)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + self.label(labels)
        return out


def labelled(shape: tuple[int, int, int], latent: int, outputs: int, classes: int, width: int = 4) -> Halves:
    """Return convolutions with batch normalisation, dropout and labels, for images of an even height and width."""
    channels, height, wide = shape
    small = (width, height // 2, wide // 2)
    count = small[0] * small[1] * small[2]
    halve = [nn.Conv2d(channels, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten()]
    encoder = nn.Sequential(*halve, nn.Dropout(0.1), nn.Linear(count, 2 * latent))
    double = nn.ConvTranspose2d(width, outputs, 4, stride=2, padding=1)
    decoder = nn.Sequential(nn.Linear(latent, count), nn.ReLU(), nn.Unflatten(1, small), double, nn.Flatten())
    return Labelled(encoder, classes, 2 * latent), Labelled(decoder, classes, outputs * height * wide)


def linear(shape: tuple[int, ...], latent: int, outputs: int, bias: bool = True) -> Halves:
    values = torch.Size(shape).numel()
    return nn.Sequential(nn.Flatten(), nn.Linear(values, 2 * latent, bias)), nn.Linear(latent, values, bias)


def shared(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs, bias=False)
    decoder.extra = encoder[1].weight
    return encoder, decoder


def double(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs)
    return encoder.double(), decoder


def frozen(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs)
    return encoder, decoder.requires_grad_(False)


def swapped(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs)
    return nn.Sequential(encoder, nn.ReLU(), nn.Linear(2 * latent, latent)), decoder


def single(shape: tuple[int, ...], latent: int, outputs: int) -> nn.Module:
    return linear(shape, latent, outputs)[0]


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


def noisy(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs)
    return nn.Sequential(Noisy(), encoder), decoder


def broken(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    raise ZeroDivisionError("of the user's own")


def twice(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs)
    decoder.again = decoder.weight
    return encoder, decoder


def by_batch(shape: tuple[int, ...], latent: int, outputs: int) -> Halves:
    encoder, decoder = linear(shape, latent, outputs)
    return nn.Sequential(encoder, nn.BatchNorm1d(2 * latent, track_running_stats=False)), decoder
