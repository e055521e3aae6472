"""The posteriors of a trained VAE's latents, how much each dimension carries, and which of them are in use."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vae_fast.data.images import Pixels
from vae_fast.kernels import kl_per_dimension, mixture_log_density, streams
from vae_fast.models.prior import Mixture, log_density
from vae_fast.models.sizes import rows_at_once
from vae_fast.models.vae import VAE
from vae_fast.objectives.noise import log_posterior, standard_normal

MOST_IMAGES, MOST_SAMPLES = 10_000, 2_000  # in an estimate of information
PAIR_VALUES = 1 << 24  # values for all pairs of samples and posteriors that are compared at once: 64 MiB
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


def posteriors(
    model: VAE, images: Pixels, labels: Tensor | None = None, *, is_seen: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield mu and logvar, float32 [b, Z] on the CPU, of one batch of images after another, all that memory holds.

    images: [N, ...] as `VAE.encode` takes them, or as its network sees them if `is_seen`, in memory, on a device or in
    a file. labels: int64 [N], if the VAE has classes.
    """
    device = next(model.parameters()).device
    rows = rows_at_once(model)
    for start in range(0, len(images), rows):
        with torch.inference_mode():  # here, because the caller's code runs between the batches
            y = None if labels is None else labels[start : start + rows].to(device)
            x = images[start : start + rows].flatten(1).to(device)
            mu, logvar = model.stats(x, y).chunk(2, dim=-1) if is_seen else model.encode(x, y)
            batch = mu.float().cpu(), logvar.float().cpu()
        yield batch


@dataclass(frozen=True)
class Information:
    """How much the latents tell about the images, and how far all posteriors together are from the prior, in nats.

    With the aggregate posterior q(z) = 1/N sum_n q(z | x_n), the mean KL of an ELBO is mutual + gap (Hoffman and
    Johnson: ELBO surgery, 2016).

    mutual: I(n; z) = E log q(z | x_n) / q(z), at most log N.
    gap: KL(q(z) || p(z)).
    mutual_error, gap_error: their standard errors over the samples, None for a single sample.
    images, samples: N, and how many of them have a sample of z in the means.
    """

    mutual: float
    mutual_error: float | None
    gap: float
    gap_error: float | None
    images: int
    samples: int


@torch.inference_mode()
def information(model: VAE, images: Pixels, seed: int, labels: Tensor | None = None) -> Information:
    """Estimate both with the posteriors of up to MOST_IMAGES images [N, D] and the samples of z of MOST_SAMPLES.

    seed: of the noise, that of the test loss. labels: int64 [N], if the model has classes.
    """
    images = images[:MOST_IMAGES]
    stats = torch.cat([torch.cat(each, dim=-1) for each in posteriors(model, images, labels, is_seen=True)])
    mu, logvar = stats[:MOST_SAMPLES].chunk(2, dim=-1)
    eps = standard_normal(len(mu), model.latent, seed, 0, stream=streams.EVALUATION)
    z, mixture = mu + (0.5 * logvar).exp() * eps, model.mixture()
    uniform = torch.full((len(stats),), -math.log(len(stats)))
    rows = max(1, PAIR_VALUES // stats.numel())
    aggregate = torch.cat([mixture_log_density(part, stats, uniform) for part in z.split(rows)])
    prior = log_density(z, None if mixture is None else Mixture(*(t.cpu() for t in mixture)))
    terms = log_posterior(eps, logvar) - aggregate, aggregate - prior
    (mutual, mutual_error), (gap, gap_error) = [_mean_and_error(term.double()) for term in terms]
    return Information(mutual, mutual_error, gap, gap_error, len(stats), len(z))


def _mean_and_error(values: Tensor) -> tuple[float, float | None]:
    error = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else None
    return float(values.mean()), error
