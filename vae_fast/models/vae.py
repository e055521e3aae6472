"""The VAE: an encoder and a decoder, joined by the reparameterization.

x -> encoder -> mu, logvar -> z = mu + exp(logvar / 2) eps -> decoder -> logits, each half given labels if there are any
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vae_fast.data.standardization import Standardization
from vae_fast.kernels import reparameterize
from vae_fast.models import networks
from vae_fast.models.likelihood import Likelihood
from vae_fast.models.prior import COMPONENTS, Mixture, Prior
from vae_fast.runtime import user_code


class VAEOutput(NamedTuple):
    """The output of one pass through the VAE: logits [B, *input_shape]; mu, logvar and z [B, Z]."""

    logits: Tensor
    mu: Tensor
    logvar: Tensor
    z: Tensor


class VAE(nn.Module):
    """A Variational Autoencoder with a Gaussian posterior; an MLP of any depth, convolutions, or a network of your own.

    Args:
        input_shape: the shape of one image, (C, H, W) or any other.
        hidden, activation: of the MLP, whose decoder mirrors the encoder: the widths of the encoder's hidden layers (()
            for a linear encoder and decoder), and one of `vae_fast.models.layers.ACTIVATIONS`.
        latent: the number Z of latent dimensions.
        likelihood, scale: what the decoder's output means, and how wide its distribution is: see `Likelihood`.
        network: "mlp", "conv", "resnet", FILE.py:function or package.module:function: see `networks`.
        options: keyword arguments for the function that makes a network other than the MLP.
        classes: the number of classes of a conditional VAE, p(x | z, label); 0 for none.
        standardized: whether images are rows of a table of any real values, which `encode` standardizes and `decode`
            restores, by the buffers `offset` and `spread`.
        prior, components: the distribution of z, "normal", "mixture" or "vamp", and of how many normals it consists:
            see `Prior`. New pseudo-inputs are random; `Prior.begin_from` sets them to images.

    Attributes:
        draws_random_numbers: whether training draws from torch's generators, as dropout does.
        has_moving_buffers: whether training changes buffers, as it does those of batch normalisation.

    Raises ValueError for any other argument, and RuntimeError for a network that cannot be found or does not fit.

    Parameters are initialised as PyTorch's layers do (Kaiming uniform) from torch's global generator; the defaults
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
        network: str = "mlp",
        options: Mapping[str, Any] = MappingProxyType({}),
        classes: int = 0,
        standardized: bool = False,
        prior: str = "normal",
        components: int = COMPONENTS,
    ) -> None:
        super().__init__()
        for name, sizes in (("input_shape", input_shape), ("hidden", hidden), ("latent", (latent,))):
            if not isinstance(sizes, Sequence) or any(
                isinstance(size, bool) or not isinstance(size, int) or size < 1 for size in sizes
            ):
                raise ValueError(f"{name}: expected positive integers, got {sizes!r}")
        self.input_shape, self.hidden, self.latent = tuple(input_shape), tuple(hidden), latent
        self.activation, self.network, self.options, self.classes = (
            activation,
            user_code.absolute(network),
            dict(options),
            classes,
        )
        if network == "mlp" and options:
            raise ValueError(f"options: expected none with the MLP, got {dict(options)}")
        own = {"hidden": self.hidden, "activation": activation} if network == "mlp" else {}
        channels = self.input_shape[0] if self.input_shape else 1
        made = networks.make(network, self.input_shape, latent, channels, classes, {**own, **options})
        self.encoder, self.decoder = made.encoder, made.decoder
        self.source, self.draws_random_numbers, self.has_moving_buffers = made.source, made.draws, made.moves
        self.likelihood = Likelihood(likelihood, scale, self.input_shape, first_scale=1.0 if standardized else None)
        if prior == "vamp" and classes:
            raise ValueError("prior: expected normal or mixture with classes, got 'vamp': pseudo-inputs have no labels")
        self.prior = Prior(prior, latent, self.pixels, components, is_bounded=not standardized)
        self.offset: Tensor | None
        self.spread: Tensor | None
        self.register_buffer("offset", torch.zeros(self.pixels) if standardized else None)
        self.register_buffer("spread", torch.ones(self.pixels) if standardized else None)

    @property
    def pixels(self) -> int:
        """Return the number D of values in one image."""
        return prod(self.input_shape)

    @property
    def title(self) -> str:
        """Return a short name: the widths of an MLP, such as 784-400-20-400-784, or "conv 3x32x32-20"."""
        if self.network == "mlp":
            return "-".join(map(str, (self.pixels, *self.hidden, self.latent, *reversed(self.hidden), self.pixels)))
        place, _, function = self.network.rpartition(":")
        name = f"{PurePath(place).name}:{function}" if place else function
        return f"{name} {'x'.join(map(str, self.input_shape))}-{self.latent}"

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Return what `VAE(**hyperparameters)` needs to build the same network."""
        is_mlp = self.network == "mlp"
        return {
            "input_shape": list(self.input_shape),
            **({"hidden": list(self.hidden)} if is_mlp else {"network": self.network, "options": self.options}),
            "latent": self.latent,
            **({"activation": self.activation} if is_mlp else {}),
            "likelihood": self.likelihood.name,
            "scale": self.likelihood.scale,
            **({"classes": self.classes} if self.classes else {}),
            **({"standardized": True} if self.is_standardized else {}),
            **({} if self.prior.is_normal else {"prior": self.prior.name, "components": self.prior.components}),
        }

    @property
    def is_standardized(self) -> bool:
        return self.offset is not None

    def standardize(self, x: Tensor) -> Tensor:
        """Return rows [B, ...] of a standardized VAE's table as its network sees them; anything else unchanged."""
        if self.offset is None or self.spread is None:
            return x
        return Standardization(self.offset, self.spread).apply(x)

    def restore(self, values: Tensor) -> Tensor:
        """Return what `standardize` returned as it was given."""
        if self.offset is None or self.spread is None:
            return values
        return Standardization(self.offset, self.spread).undo(values)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mu and logvar, [B, Z] each, of images [B, *input_shape] or [B, D].

        The images are uint8 (k is k/255) or float in [0, 1], or rows of any values if the VAE is standardized. labels:
        int64 [B], of a conditional VAE. Raises ValueError for floats outside [0, 1] on a CPU; on a GPU the check would
        wait for the device.
        """
        is_checked = not (torch.compiler.is_compiling() or self.is_standardized)
        if is_checked and x.device.type == "cpu" and x.is_floating_point():
            _require_unit_interval(x)
        mu, logvar = self.stats(self.standardize(x), labels).chunk(2, dim=-1)
        return mu, logvar

    def stats(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return mu and logvar of images as one tensor [B, 2 Z], neither checked nor standardized as `encode` does."""
        stats: Tensor = self.encoder(self._normalise(x), *self._condition(x, labels))
        return stats

    def mixture(self) -> Mixture | None:
        """Return the prior as a mixture of normals; None if it is N(0, I)."""
        inputs = self.prior.inputs()
        return self.prior.mixture(None if inputs is None else self.stats(inputs))

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits [B, *input_shape] of latents [B, Z], of a standardized VAE in the units of its table.

        labels: int64 [B], of a conditional VAE.
        """
        if z.dim() != 2 or z.shape[1] != self.latent:
            raise ValueError(f"z: expected [B, {self.latent}], got {list(z.shape)}")
        return self.restore(self.logits(z, labels)).view(-1, *self.input_shape)

    def logits(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the logits of latents [B, Z] as [B, D], without checking shapes as `decode` does."""
        logits: Tensor = self.decoder(z, *self._condition(z, labels))
        return logits.flatten(1)

    def forward(
        self,
        x: Tensor,
        seed: int | Tensor,
        step: int | Tensor,
        *,
        labels: Tensor | None = None,
        row_offset: int = 0,
        stream: int = 0,
    ) -> VAEOutput:
        """Encode, draw z with the noise of (seed, step, row_offset, stream), and decode; see `reparameterize`.

        Unlike `encode` it does not check that floats are in [0, 1], which would take as long as a training step.
        """
        mu, logvar = self.stats(self.standardize(x), labels).chunk(2, dim=-1)
        z = reparameterize(mu, logvar, seed, step, row_offset=row_offset, stream=stream)
        return VAEOutput(self.decode(z, labels), mu, logvar, z)

    def _normalise(self, x: Tensor) -> Tensor:
        """Return images as the encoder takes them: [B, *input_shape], float, with channels last in memory."""
        if x.shape[1:] not in (self.input_shape, (self.pixels,)):
            raise ValueError(
                f"x: expected [B, {', '.join(map(str, self.input_shape))}] or [B, {self.pixels}], got {list(x.shape)}"
            )
        if x.dtype != torch.uint8 and not x.is_floating_point():
            raise TypeError(f"x: expected uint8 or a floating dtype, got {x.dtype}")
        dtype = next((p.dtype for p in self.encoder.parameters()), torch.float32)
        is_flat = self.network == "mlp" or len(self.input_shape) != 3
        order = torch.preserve_format if is_flat else torch.channels_last
        pixels = x.reshape(-1, *self.input_shape).to(dtype, memory_format=order)
        return pixels / 255 if x.dtype == torch.uint8 else pixels

    def _condition(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        if (labels is None) == (self.classes > 0) or (labels is not None and labels.shape != x.shape[:1]):
            expected = f"[{len(x)}], since the VAE has {self.classes} classes" if self.classes else "none"
            raise ValueError(f"labels: expected {expected}, got {labels if labels is None else list(labels.shape)}")
        return () if labels is None else (labels,)


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
