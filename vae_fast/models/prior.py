"""The prior p(z) of a VAE: a standard normal, or a mixture of normals that is learned with the network.

normal   N(z; 0, I)
mixture  sum_n w_n N(z; m_n, diag(s_n^2)), whose weights, means and deviations are parameters
vamp     1/N sum_n q(z | u_n): the mean posterior of N learned pseudo-inputs u_n, which begin as training images
         (Tomczak and Welling: VAE with a VampPrior, AISTATS 2018, equation 9)
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vae_fast.kernels import mixture_log_density

PRIORS = ("normal", "mixture", "vamp")
COMPONENTS = 500  # the published VampPrior's number for MNIST


class Mixture(NamedTuple):
    """A mixture of N normals: their means and log variances in the halves of stats [N, 2 Z], log weights [N]."""

    stats: Tensor
    log_weights: Tensor

    @property
    def means(self) -> Tensor:
        return self.stats.chunk(2, dim=-1)[0]

    @property
    def deviations(self) -> Tensor:
        return (0.5 * self.stats.chunk(2, dim=-1)[1]).exp()


class Prior(nn.Module):
    """The prior of a VAE.

    Args:
        name: one of `PRIORS`.
        latent: the number Z of latent dimensions.
        pixels: the number D of values in an image, for pseudo-inputs.
        components: the number N of normals, unless the prior is one normal.
        is_bounded: whether images are in [0, 1], and so pseudo-inputs.

    Attributes (None where another prior has them):
        stats, weights: parameters of a mixture, [N, 2 Z] and [N]; softmax(weights) are its weights.
        pseudo_inputs: parameters of a VampPrior, [N, D].

    Raises ValueError for any other name or number.
    """

    stats: nn.Parameter | None
    weights: nn.Parameter | None
    pseudo_inputs: nn.Parameter | None

    def __init__(self, name: str, latent: int, pixels: int, components: int, is_bounded: bool) -> None:
        super().__init__()
        if name not in PRIORS:
            raise ValueError(f"prior: expected one of {', '.join(PRIORS)}, got {name!r}")
        if isinstance(components, bool) or not isinstance(components, int) or components < 1:
            raise ValueError(f"components: expected a positive integer, got {components!r}")
        self.name, self.components, self._is_bounded = name, 1 if name == "normal" else components, is_bounded
        for parameter in ("stats", "weights", "pseudo_inputs"):
            self.register_parameter(parameter, None)
        if name == "mixture":  # together about N(0, I), and apart from each other
            means = math.sqrt(0.5) * torch.randn(components, latent)
            self.stats = nn.Parameter(torch.cat((means, torch.full_like(means, math.log(0.5))), dim=-1))
            self.weights = nn.Parameter(torch.zeros(components))
        elif name == "vamp":
            self.pseudo_inputs = nn.Parameter(torch.rand(components, pixels))

    @property
    def is_normal(self) -> bool:
        return self.name == "normal"

    @property
    def title(self) -> str:
        """Return what the prior is called in a sentence."""
        named = {"mixture": "normals", "vamp": "posteriors of pseudo-inputs"}
        return "N(0, I)" if self.is_normal else f"a mixture of {self.components} {named[self.name]}"

    @torch.no_grad()
    def begin_from(self, images: Tensor) -> None:
        """Set the pseudo-inputs to images [N, D], uint8 or as the network sees them."""
        assert self.pseudo_inputs is not None
        self.pseudo_inputs.copy_(images / 255 if images.dtype == torch.uint8 else images)

    def inputs(self) -> Tensor | None:
        """Return what the encoder has to be given for `mixture`: the pseudo-inputs [N, D], or None."""
        if self.pseudo_inputs is None or not self._is_bounded:
            return self.pseudo_inputs
        return self.pseudo_inputs.clamp(0, 1)

    def mixture(self, of_inputs: Tensor | None = None) -> Mixture | None:
        """Return the mixture, in float32 or more, None for the normal; of_inputs: the encoder's stats of `inputs`."""
        if self.stats is not None and self.weights is not None:
            return Mixture(self.stats, self.weights.log_softmax(0))
        if self.pseudo_inputs is None:
            return None
        assert of_inputs is not None, "the stats of the pseudo-inputs"
        stats = of_inputs.to(torch.promote_types(of_inputs.dtype, torch.float32))
        return Mixture(stats, stats.new_full((len(stats),), -math.log(len(stats))))

    def density_parameters(self) -> list[nn.Parameter]:
        """Return the parameters on which the density depends directly."""
        return [p for p in (self.stats, self.weights) if p is not None]

    def encoded_parameters(self) -> list[nn.Parameter]:
        """Return the parameters on which it depends through the encoder, after the others in the module's order."""
        return [p for p in (self.pseudo_inputs,) if p is not None]


def log_density(z: Tensor, mixture: Mixture | None) -> Tensor:
    """Return log p(z), in nats, [...], of latents [..., Z], under a mixture, or N(0, I) if there is none."""
    if mixture is None:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
    return mixture_log_density(z.flatten(0, -2), *mixture).view(z.shape[:-1])
