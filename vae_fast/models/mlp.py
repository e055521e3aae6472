"""The network `mlp`: fully connected layers in both halves."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from vae_fast.kernels import linear
from vae_fast.models.layers import ACTIVATIONS


class Linear(nn.Linear):
    """An nn.Linear that computes with `vae_fast.kernels.linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    def plain(self) -> nn.Linear:
        """Return a copy that uses PyTorch's own product."""
        plain = nn.Linear(self.in_features, self.out_features)
        plain.load_state_dict(self.state_dict())
        return plain


class Encoder(nn.Module):
    """The encoder: images [B, *shape] -> stats [B, 2 Z], the posterior's mean, then its log variance.

    If there are classes, it is also given labels, int64 [B]; their embeddings are added to what the first layer gives.
    """

    def __init__(self, widths: Sequence[int], latent: int, activation: str, classes: int = 0) -> None:
        super().__init__()
        self.hidden = _mlp(widths, activation)
        self.stats = Linear(widths[-1], 2 * latent)  # one product for both halves
        self.label = nn.Embedding(classes, (*widths, 2 * latent)[1]) if classes else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        return _forward(images.flatten(1), [*self.hidden, self.stats], self.label, labels)


class Decoder(nn.Module):
    """The decoder: latents [B, Z] -> logits [B, D].

    If there are classes, it is also given labels, int64 [B]; their embeddings are added to what the first layer gives.
    """

    def __init__(self, widths: Sequence[int], pixels: int, activation: str, classes: int = 0) -> None:
        super().__init__()
        self.hidden = _mlp(widths, activation)
        self.logits = Linear(widths[-1], pixels)
        self.label = nn.Embedding(classes, (*widths, pixels)[1]) if classes else None

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return _forward(z, [*self.hidden, self.logits], self.label, labels)

    def layers(self) -> list[nn.Linear]:
        """Return the affine layers in order; an activation follows each but the last."""
        return [module for module in self.modules() if isinstance(module, nn.Linear)]


def make(
    shape: Sequence[int],
    latent: int,
    outputs: int,
    *,
    classes: int = 0,
    hidden: Sequence[int] = (400,),
    activation: str = "relu",
) -> tuple[Encoder, Decoder]:
    """Return encoder and decoder.

    Args:
        shape: that of an image, (C, H, W) or any other.
        latent: the number Z of latent dimensions.
        outputs: the number of channels of the logits.
        classes: the number of classes, if both halves are given labels.
        hidden: widths of the encoder's hidden layers, mirrored by the decoder; () for linear halves.
        activation: one of `ACTIVATIONS`.
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    values = prod(shape) // (shape[0] if shape else 1) * outputs
    encoder = Encoder((prod(shape), *hidden), latent, activation, classes)
    return encoder, Decoder((latent, *reversed(hidden)), values, activation, classes)


def _mlp(widths: Sequence[int], activation: str) -> nn.Sequential:
    layers = [(Linear(n, m), ACTIVATIONS[activation]()) for n, m in pairwise(widths)]
    return nn.Sequential(*(module for pair in layers for module in pair))


def _forward(x: Tensor, layers: Sequence[nn.Module], label: nn.Embedding | None, labels: Tensor | None) -> Tensor:
    first, *others = layers
    x = first(x)
    if label is not None:
        x = x + label(labels)
    for layer in others:
        x = layer(x)
    return x
