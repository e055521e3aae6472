"""The VAE: an encoder and a decoder, joined by the reparameterization.

x -> encoder -> mu, logvar -> z = mu + exp(logvar / 2) eps -> decoder -> logits
"""

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_fast.kernels import reparameterize
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.mlp import ACTIVATIONS, Decoder, Encoder


class VAEOutput(NamedTuple):
    """The output of one pass through the VAE: logits [B, *input_shape]; mu, logvar and z [B, Z]."""

    logits: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


class VAE(nn.Module):
    """A Variational Autoencoder with a Gaussian posterior and MLPs of any depth; the decoder mirrors the encoder.

    Args:
        input_shape: the shape of one image, (C, H, W) or any other.
        hidden: widths of the encoder's hidden layers; () for a linear encoder and decoder.
        latent: the number Z of latent dimensions.
        activation: one of `ACTIVATIONS`.
        likelihood, scale: what the decoder's output means, and how wide its distribution is: see `Likelihood`.

    Raises ValueError for any other argument.

    Parameters are initialised as nn.Linear does (Kaiming uniform) from torch's global generator; the defaults
    (784-400-20-400-784) have 652,824 of them.
    """

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        hidden: Sequence[int] = (400,),
        latent: int = 20,
        activation: str = "relu",
        likelihood: str = "bernoulli",
        scale: float | str | None = None,
    ) -> None:
        super().__init__()
        for name, sizes in (("input_shape", input_shape), ("hidden", hidden), ("latent", (latent,))):
            if not isinstance(sizes, Sequence) or any(
                isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes
            ):
                raise ValueError(f"{name}: expected positive integers, got {sizes!r}")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.input_shape, self.hidden, self.latent, self.activation = (
            tuple(input_shape),
            tuple(hidden),
            latent,
            activation,
        )
        self.encoder = Encoder((self.pixels, *hidden), latent, activation)
        self.decoder = Decoder((latent, *reversed(hidden)), self.pixels, activation)
        self.likelihood = Likelihood(likelihood, scale, self.input_shape)

    @property
    def pixels(self) -> int:
        """Return the number D of values in one image."""
        return prod(self.input_shape)

    @property
    def widths(self) -> str:
        """Return the widths of all layers, such as 784-400-20-400-784."""
        return "-".join(map(str, (self.pixels, *self.hidden, self.latent, *reversed(self.hidden), self.pixels)))

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Return what `VAE(**hyperparameters)` needs to build the same network."""
        return {
            "input_shape": list(self.input_shape),
            "hidden": list(self.hidden),
            "latent": self.latent,
            "activation": self.activation,
            "likelihood": self.likelihood.name,
            "scale": self.likelihood.scale,
        }

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mu and logvar, [B, Z] each, of images [B, *input_shape] or [B, D].

        The images are uint8 (k is k/255) or float in [0, 1]. Raises ValueError for floats outside [0, 1] on a CPU; on a
        GPU the check would wait for the device.
        """
        if not torch.compiler.is_compiling() and x.device.type == "cpu" and x.is_floating_point():
            _require_unit_interval(x)
        mu, logvar = self.stats(x).chunk(2, dim=-1)
        return mu, logvar

    def stats(self, x: Tensor) -> Tensor:
        """Return mu and logvar of images as one tensor [B, 2 Z], without checking their range as `encode` does."""
        stats: Tensor = self.encoder(self._normalise(x))
        return stats

    def decode(self, z: Tensor) -> Tensor:
        """Return the logits [B, *input_shape] of latents [B, Z]."""
        if z.dim() != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z: expected [B, {self.latent}], got {list(z.shape)}")
        logits: Tensor = self.decoder(z)
        return logits.view(-1, *self.input_shape)

    def forward(
        self, x: Tensor, seed: int | Tensor, step: int | Tensor, *, row_offset: int = 0, stream: int = 0
    ) -> VAEOutput:
        """Encode, draw z with the noise of (seed, step, row_offset, stream), and decode; see `reparameterize`.

        Unlike `encode` it does not check that floats are in [0, 1], which would take as long as a training step.
        """
        mu, logvar = self.stats(x).chunk(2, dim=-1)
        z = reparameterize(mu, logvar, seed, step, row_offset=row_offset, stream=stream)
        return VAEOutput(self.decode(z), mu, logvar, z)

    def _normalise(self, x: Tensor) -> Tensor:
        if x.shape[1:] not in (self.input_shape, (self.pixels,)):
            raise ValueError(
                f"x: expected [B, {', '.join(map(str, self.input_shape))}] or [B, {self.pixels}], got {list(x.shape)}"
            )
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise TypeError(f"x: expected uint8 or a floating dtype, got {x.dtype}")
        pixels = x.flatten(1).to(self.encoder.stats.weight.dtype)
        return pixels / 255 if x.dtype == torch.uint8 else pixels


def _require_unit_interval(x: Tensor) -> None:
    if x.numel() == 0:
        return
    try:
        low, high = (value.item() for value in x.detach().aminmax())
    except RuntimeError:  # there are no values while tracing, or inside torch.func's transforms
        return
    if not (low >= 0 and high <= 1):  # also true of NaN
        advice = "; uint8 images are taken as they are, k as k/255" if high > 2 else ""
        raise ValueError(f"x: expected floats in [0, 1], got {low:g} to {high:g}{advice}")
