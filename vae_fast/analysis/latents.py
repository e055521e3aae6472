"""The posteriors of a trained VAE's latents, how much each dimension carries, and which of them are in use."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_fast.data.images import Pixels
from vae_fast.kernels import kl_per_dimension
from vae_fast.models.sizes import rows_at_once
from vae_fast.models.vae import VAE

ACTIVE = 0.01  # the variance of the posterior's mean above which a dimension counts as active (Burda et al. 2016)


@dataclass(frozen=True)
class Latents:
    """Statistics of each of the Z dimensions over the images: float64 [Z] on the CPU.

    kl: the mean of KL(q(z_j | x) || N(0, 1)), in nats.
    variance: the variance of the posterior mean, Cov_x(E[z_j | x]), the activity of Burda et al. 2016, section 5.
    """

    kl: Tensor
    variance: Tensor

    def active(self, threshold: float = ACTIVE) -> int:
        """Return the number of active dimensions."""
        return int((self.variance > threshold).sum())

    def most_active(self) -> list[int]:
        """Return all dimensions, from the one that carries most to the one that carries least."""
        return self.kl.argsort(descending=True, stable=True).tolist()


@torch.inference_mode()
def survey(model: VAE, images: Pixels, labels: Tensor | None = None) -> Latents:
    """Measure the dimensions in one pass over `images` [N, D], on whatever device they are, with float64 sums.

    labels: int64 [N], if the VAE has classes.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(3, model.latent, dtype=torch.float64, device=device)  # of kl, mu, mu^2
    rows = rows_at_once(model)
    for start in range(0, len(images), rows):
        y = None if labels is None else labels[start : start + rows].to(device)
        mu, logvar = model.stats(images[start : start + rows].to(device), y).chunk(2, dim=-1)
        means = mu.double()
        sums += torch.stack([t.sum(0) for t in (kl_per_dimension(mu, logvar).double(), means, means.square())])
    kl, mean, square = (sums / len(images)).cpu()
    return Latents(kl, (square - mean.square()).clamp(min=0))


def posteriors(model: VAE, images: Pixels, labels: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mu and logvar, float32 [b, Z] on the CPU, of one batch of images after another, all that memory holds.

    images: [N, ...] as `VAE.encode` takes them, in memory, on a device or in a file; labels: int64 [N], if the VAE has
    classes.
    """
    device = next(model.parameters()).device
    rows = rows_at_once(model)
    for start in range(0, len(images), rows):
        with torch.inference_mode():  # here, because the caller's code runs between the batches
            y = None if labels is None else labels[start : start + rows].to(device)
            mu, logvar = model.encode(images[start : start + rows].flatten(1).to(device), y)
            batch = mu.float().cpu(), logvar.float().cpu()
        yield batch
